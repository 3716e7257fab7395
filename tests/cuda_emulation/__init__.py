"""CUDA kernels run on the processor, for tests of their logic without a GPU."""
