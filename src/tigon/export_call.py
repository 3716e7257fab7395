"""A run as one .h5ad file, as a call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.main_job import told_to
from tigon.storage.runs import export

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tigon.storage.progress import Progress
    from tigon.storage.runs.run import Run


def export_h5ad(
    run: Run | str | Path,
    out: str | Path,
    *,
    counts: export.BlockReader | None = None,
    gene_positions: NDArray[np.integer[Any]] | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
) -> Path:
    """Write a run as one .h5ad file.

    Parameters
    ----------
    run
        A run, or where it is.
    out
        The file to make, ``*.h5ad``.
    counts
        Where the raw counts of the run's cells are, such as the atlas that it was made from;
        without it the file has no X.
    gene_positions
        Position among the genes of ``counts`` of every gene of the run, (m,).
        None: the genes of ``counts`` are those of the run.
    overwrite
        Replace a file that is already there, once the new one is complete.
    progress
        As for :func:`tigon.integrate`; told of the cells whose counts are written.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    TigonError
        The run, the counts or the output cannot be used. Nothing is left behind.

    Notes
    -----
    One pass over the counts; X is float32 CSR.
    """
    with told_to(progress=progress) as tell:
        return export.export_h5ad(
            run,
            out,
            counts=counts,
            gene_positions=gene_positions,
            overwrite=overwrite,
            progress=tell,
        )
