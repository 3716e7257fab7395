"""CuPy twins of the kernels: the same names, arguments and results, for arrays on a GPU."""
