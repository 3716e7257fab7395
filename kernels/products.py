"""Products of sparse counts with dense matrices."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tigon.kernels.cells import as_tile, library_of
from tigon.kernels.checking import Array, check_matrix, check_result, module_of


def spmm(
    X: Any,
    D: Array,
    *,
    transpose: bool = False,
    n_threads: int | None = None,
    n_genes: int | None = None,
) -> Array:
    """X D, or X^T D, of sparse cells by genes.

    Parameters
    ----------
    X
        Cells by genes, n x m: CSR matrix or array of scipy.sparse or cupyx.scipy.sparse,
        of integers or floats; or a :class:`~tigon.kernels.CellTile`, X being its counts
        times the weights. Genes may stand in any order in a cell, and more than once.
    D
        Real, shape (m, l), or (n, l) with ``transpose``; l at least 1. NumPy or CuPy, as X.
    transpose
        Whether X^T D is meant.
    n_threads
        Threads on the CPU; all available ones by default. Results do not depend on it.
    n_genes
        Genes m of a tile, which does not say it; needed with ``transpose`` only.

    Returns
    -------
    Array
        X D, float32, shape (n, l), or X^T D, float64, shape (m, l).

    Raises
    ------
    TypeError
        X is neither of the above, D is of another library, or entries are not real numbers.
    ValueError
        Shapes that do not fit, rows or genes out of range, entries that are not finite;
        results beyond their type; on a GPU more than 256 columns, or with ``transpose``
        100,000 genes.

    Notes
    -----
    X D reads D in float32 and sums a cell's products in float32: relative to
    sum_g |x_g d_g| the error is about 6e-8 times half the cell's entries at the worst. X^T D
    sums in float64 in the order of the cells; a GPU reads both X and D in float32. The CPU holds
    4 m l bytes beside input and output, with ``transpose`` up to 16 sums of 8 m l bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> from tigon.kernels import spmm
    >>> X = csr_array(np.array([[3, 0, 1], [0, 2, 0]]))
    >>> spmm(X, np.array([[1.0], [2.0], [4.0]]))
    array([[7.],
           [4.]], dtype=float32)
    >>> spmm(X, np.array([[1.0], [2.0]]), transpose=True)
    array([[3.],
           [4.],
           [1.]])
    """
    library = library_of(X)
    if module_of(D) != library:
        raise TypeError(f"X lies in {library} and D in {module_of(D)}: move both to one of them")
    check_matrix("D", D, (None, None))
    tile, m = as_tile(X, n_genes if transpose else len(D))
    n, n_columns = len(tile.rows), D.shape[1]
    check_matrix("D", D, (n if transpose else m, None))
    if n_columns == 0:
        raise ValueError(f"D has shape {D.shape}: at least one column is needed")
    twin = import_module(f"tigon.kernels.{'gpu' if library == 'cupy' else 'cpu'}.whole")
    if transpose:
        return check_result("X^T D", twin.spmm_transposed(tile, D, m, n_threads))
    return check_result("X D", twin.spmm(tile, D, n_threads))
