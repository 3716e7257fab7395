"""One mini-batch: loadings of its cells and what they add to the statistics."""

from __future__ import annotations

from importlib import import_module

from tigon.kernels.cells import as_tile, check_metagenes
from tigon.kernels.checking import Array, check_matrix, check_not_negative, check_same_library
from tigon.kernels.tile import CellTile, Metagenes, TileStatistics


def minibatch_step(
    tile: CellTile,
    metagenes: Metagenes,
    tol: float = 1e-3,
    H0: Array | None = None,
    n_threads: int | None = None,
) -> tuple[Array, TileStatistics]:
    """Loadings of cells of one dataset, and what they add to A, B and F.

    With X the scaled counts and L the metagenes: products R = X L^T, loadings
    H = argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T, sums A = H^T H and B = X^T H.

    Parameters
    ----------
    tile
        The cells. NumPy or CuPy arrays.
    metagenes
        What they are solved against, of the same library.
    tol
        Largest KKT residual of a cell, 1e-5 to less than 1.
    H0
        Where to start, non-negative, shape (n, k); zero by default.
    n_threads
        Threads on the CPU; all available ones by default. Results do not depend on it.

    Returns
    -------
    H
        Loadings, float32, shape (n, k).
    statistics
        A, B, |X|^2 and the cells' share of F; how many cells did not reach ``tol``.

    Raises
    ------
    TypeError
        Arrays of two libraries, or of types that the kernels do not read.
    ValueError
        Shapes that do not fit, rows or genes out of range, entries that are not finite, a
        Gram matrix that is none, a negative start, a tolerance out of range; on a GPU more
        than 128 factors.

    Notes
    -----
    The CPU reads X once from memory, in tiles of at most 1280 cells that stay in the cache
    from products to sums; it holds up to 16 sums of 8 m k bytes, and 24 k bytes for each cell
    of a tile. The loadings of a cell have the same bits whatever cells stand beside it.

    References
    ----------
    Gao et al. (2021), doi:10.1038/s41587-021-00867-x; Hsieh and Dhillon (2011),
    doi:10.1145/2020408.2020577.
    """
    given: tuple[tuple[object, type], ...] = ((tile, CellTile), (metagenes, Metagenes))
    for argument, wanted in given:
        if not isinstance(argument, wanted):
            raise TypeError(
                f"a {type(argument).__name__} was given where a {wanted.__name__} is needed: "
                "tigon.kernels has both CellTile and Metagenes"
            )
    if not 1e-5 <= tol < 1:
        raise ValueError(f"tol is {tol}: float32 takes 1e-05 or more, and less than 1")
    library = check_same_library(
        counts=tile.counts,
        scaled=metagenes.scaled,
        gram=metagenes.gram,
        scale=metagenes.scale,
        H0=H0,
    )
    check_metagenes(metagenes, import_module(library))
    as_tile(tile, len(metagenes.scaled))
    if H0 is not None:
        lowest, _ = check_matrix("H0", H0, (len(tile.rows), len(metagenes.gram)))
        check_not_negative("H0", lowest, "clip it")
    twin = import_module(f"tigon.kernels.{'gpu' if library == 'cupy' else 'cpu'}.whole")
    H, statistics = twin.minibatch_step(tile, metagenes, tol, H0, n_threads)
    return H, statistics
