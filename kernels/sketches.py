"""Gene-side products for principal components: Y^T (Y Q) and Y^T Y in one read of X.

Y = f(row_scale * X) * column_scale, entry by entry, with f(x) = log(1 + x) or x: zero
where X is, and not centred. With n cells of column means u,

    (Y - 1 u)^T (Y - 1 u) Q = Y^T (Y Q) - n u^T (u Q),

so that the column sums, which come from the same read, are all that centring needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from tigon.kernels.cells import as_tile, entries_of, library_of
from tigon.kernels.checking import (
    Array,
    check_finite,
    check_matrix,
    check_not_negative,
    extent,
    module_of,
)
from tigon.kernels.tile import CellTile


@dataclass(frozen=True, slots=True)
class GeneProducts:
    """Sums over cells, all float64; those of two sets of cells add up.

    Attributes
    ----------
    product
        Y^T (Y Q), shape (m, l), or Y^T Y, shape (m, m).
    sums, squares
        Sums of Y and of Y^2 over the cells, shape (m,).
    n_cells
        Cells.
    """

    product: Array
    sums: Array
    squares: Array
    n_cells: int

    def __add__(self, other: GeneProducts) -> GeneProducts:
        """The sums over the cells of both.

        Raises
        ------
        ValueError
            They are of different shapes.
        """
        if self.product.shape != other.product.shape:
            raise ValueError(
                f"products of shapes {self.product.shape} and {other.product.shape} do not add "
                "up: both must be over the same genes, with the same Q"
            )
        return GeneProducts(
            self.product + other.product,
            self.sums + other.sums,
            self.squares + other.squares,
            self.n_cells + other.n_cells,
        )


def sketch(
    X: Any,
    Q: Array,
    row_scale: Array | float | None = None,
    column_scale: Array | None = None,
    *,
    log1p: bool = False,
    n_threads: int | None = None,
) -> GeneProducts:
    """Y^T (Y Q), the step of a subspace iteration, in one read of X.

    Parameters
    ----------
    X
        Cells by genes, n x m, as in :func:`tigon.kernels.spmm`, zero or above with
        ``log1p``. Entries of one gene in a cell are added up before f; in a tile they must
        follow each other.
    Q
        Real, shape (m, l), l at least 1. NumPy or CuPy, as X.
    row_scale
        A number, or one for each cell, shape (n,), zero or above with ``log1p``; 1 by
        default. Of a tile, it multiplies the weights.
    column_scale
        One number for each gene, shape (m,); 1 by default.
    log1p
        Whether f(x) is log(1 + x).
    n_threads
        Threads on the CPU; all available ones by default. Results do not depend on it.

    Returns
    -------
    GeneProducts
        With ``product`` of shape (m, l).

    Raises
    ------
    TypeError
        X is not as above, arrays of two libraries, or entries that are not real numbers.
    ValueError
        Shapes that do not fit, rows or genes out of range, entries that are not finite, or
        are negative with ``log1p``; on a GPU more than 256 columns or 100,000 genes.

    Notes
    -----
    The CPU computes and sums in float64, and holds up to 16 sums of 8 m l bytes, a copy of Q,
    and for each thread 24 bytes for up to a million entries. A GPU reads X and Q and holds
    Y Q in float32, and sums in float64. 4 l floating-point operations an entry.

    References
    ----------
    Halko, Martinsson and Tropp (2011), doi:10.1137/090771806.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> from tigon.kernels import sketch
    >>> found = sketch(csr_array(np.array([[3, 0], [1, 2]])), np.array([[1.0], [1.0]]))
    >>> found.product
    array([[12.],
           [ 6.]])
    >>> found.sums
    array([4., 2.])
    """
    library = _check_libraries(X, Q=Q, row_scale=row_scale, column_scale=column_scale)
    check_matrix("Q", Q, (None, None))
    if Q.shape[1] == 0:
        raise ValueError(f"Q has shape {Q.shape}: at least one column is needed")
    tile, m = as_tile(X, len(Q), merged=log1p and not isinstance(X, CellTile))
    twin = _twin(library, "sketches")
    transform = twin.Transform(*_scales(tile, m, row_scale, column_scale, log1p=log1p), log1p)
    product, sums, squares = twin.sketch(tile, Q, transform, n_threads)
    return GeneProducts(product, sums, squares, len(tile.rows))


def sparse_gram(
    X: Any,
    row_scale: Array | float | None = None,
    column_scale: Array | None = None,
    *,
    log1p: bool = False,
    n_threads: int | None = None,
    n_genes: int | None = None,
) -> GeneProducts:
    """Y^T Y, whose eigenvectors are the principal axes, in one read of X.

    Parameters
    ----------
    X
        As in :func:`sketch`; the genes of a tile must ascend within each cell.
    row_scale, column_scale, log1p, n_threads
        As in :func:`sketch`.
    n_genes
        Genes m of a tile, which does not say it; needed where ``column_scale`` is not
        given.

    Returns
    -------
    GeneProducts
        With ``product`` of shape (m, m), symmetric to the bit on the CPU.

    Raises
    ------
    TypeError, ValueError
        As :func:`sketch`, with at most 28,000 genes on a GPU; genes of a tile that do not
        ascend.

    Notes
    -----
    A cell with z entries takes z^2 floating-point operations, whatever m is. The CPU computes
    and sums in float64. Its tasks are parts of the result, so that it holds these 8 m^2 bytes
    once (twice at the end), and 32 bytes for each entry of 4096 cells. Pairs with genes that
    more than 15 % of the cells have are summed in registers.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> from tigon.kernels import sparse_gram
    >>> sparse_gram(csr_array(np.array([[3, 0], [1, 2]]))).product
    array([[10.,  2.],
           [ 2.,  4.]])
    """
    library = _check_libraries(X, row_scale=row_scale, column_scale=column_scale)
    if n_genes is None and column_scale is not None:
        n_genes = int(column_scale.size)
    tile, m = as_tile(X, n_genes, merged=True)
    twin = _twin(library, "pair_sums")
    transform = twin.Transform(*_scales(tile, m, row_scale, column_scale, log1p=log1p), log1p)
    product, sums, squares = twin.sparse_gram(tile, transform, n_threads)
    return GeneProducts(product, sums, squares, len(tile.rows))


def _twin(library: str, on_cpu: str) -> Any:
    return import_module(
        "tigon.kernels.gpu.whole" if library == "cupy" else f"tigon.kernels.cpu.{on_cpu}"
    )


def _check_libraries(X: Any, **arrays: Any) -> str:
    library = library_of(X)
    for name, array in arrays.items():
        one_number = name == "row_scale" and np.isscalar(array)
        if array is not None and not one_number and module_of(array) != library:
            raise TypeError(
                f"X lies in {library} and {name} in {module_of(array)}: move both to one of them"
            )
    return library


def _scales(
    tile: CellTile,
    m: int,
    row_scale: Array | float | None,
    column_scale: Array | None,
    *,
    log1p: bool,
) -> tuple[Array, Array]:
    """Scales of the tile's rows, its weights taken in, and of the genes, both float64."""
    rows = tile.weights[tile.rows].astype(np.float64)
    if row_scale is not None:
        array: Array = np.asarray(row_scale) if np.isscalar(row_scale) else row_scale
        _check_scale("row_scale", array, array.shape and (len(rows),))
        with np.errstate(over="ignore"):  # refused where it matters
            rows = rows * array
    if log1p:
        check_finite("row_scale", rows)  # times weights
        check_not_negative("row_scale", extent(rows)[0], "leave out log1p")
        check_not_negative("X", extent(tile.counts[entries_of(tile)])[0], "leave out log1p")
    if column_scale is None:
        return rows, import_module(library_of(tile)).ones(m)
    _check_scale("column_scale", column_scale, (m,))
    return rows, column_scale.astype(np.float64)


def _check_scale(name: str, scale: Array, shape: tuple[int, ...]) -> None:
    if scale.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {scale.dtype}: real numbers are needed")
    if scale.shape != shape:
        raise ValueError(f"{name} has shape {scale.shape}: {shape} is needed")
    check_finite(name, scale)
