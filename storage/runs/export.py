"""A run as one .h5ad file, with the raw counts of its genes as X."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.storage.block import Block
from tigon.storage.encoding import ANNDATA, ARRAY, CSR, DICT, quiet_writers
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import published
from tigon.storage.rows import RowReader
from tigon.storage.runs.run import Run

if TYPE_CHECKING:
    import h5py

_ROWS = 8192
_H5_CHUNK = 1 << 17
_MAX_INT32 = np.iinfo(np.int32).max


class BlockReader(Protocol):
    """Counts of cells, in the order of the run."""

    def read(self, start: int, stop: int) -> Block:
        """Counts of cells ``start`` to ``stop``."""
        ...


def export_h5ad(
    run: Run | str | Path,
    out: str | Path,
    *,
    counts: BlockReader | None = None,
    gene_positions: NDArray[np.integer[Any]] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write a run as one .h5ad file.

    Parameters
    ----------
    run
        A run, or where it is.
    out
        The file to make, ``*.h5ad``.
    counts
        Where the raw counts of the run's cells are; without it the file has no X.
    gene_positions
        Position among the genes of ``counts`` of every gene of the run, (m,).
        None: the genes of ``counts`` are those of the run.
    overwrite
        Replace a file that is already there, once the new one is complete.
    progress
        Told of the cells written.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    OutputExistsError
        ``out`` exists and ``overwrite`` is False.
    InputError
        There is no run, ``out`` is named as another kind of file, or the counts do not have
        the cells or the genes of the run.

    Notes
    -----
    X is float32 CSR: products of the narrow integers of an atlas would overflow.
    One pass over the counts, holding 8192 cells of them at a time; ``obs`` and
    the statistics are held whole.
    """
    import h5py

    if Path(out).suffix.lower() != ".h5ad":
        raise InputError(
            f"the output {out} is not named .h5ad, which is what is written; name it "
            f"{Path(out).stem or 'run'}.h5ad"
        )
    run = run if isinstance(run, Run) else Run.open(run)
    with (
        published(out, overwrite=overwrite) as aside,
        quiet_writers(),
        h5py.File(aside, "w") as file,
    ):
        file.attrs.update(ANNDATA)
        _write_small_parts(file, run)
        _write_obsm(file, run)
        if counts is not None:
            _CountsWriter(file, run).write(counts, gene_positions, progress)
    return Path(out)


def _write_small_parts(file: h5py.File, run: Run) -> None:
    from anndata.io import read_elem, write_elem

    for name in ("obs", "var", "varm", "uns"):
        write_elem(file, name, read_elem(run.group[name]))
    for name in ("layers", "obsp", "varp"):
        file.create_group(name).attrs.update(DICT)


def _write_obsm(file: h5py.File, run: Run) -> None:
    group = file.create_group("obsm")
    group.attrs.update(DICT)
    for name in run.obsm_names:
        _stream_rows(group, name, run.obsm(name))


def _stream_rows(group: h5py.Group, name: str, rows: RowReader) -> None:
    chunks = (min(_ROWS, rows.shape[0]), *rows.shape[1:])
    array = group.create_dataset(name, shape=rows.shape, dtype=rows.dtype, chunks=chunks)
    array.attrs.update(ARRAY)
    for start in range(0, rows.shape[0], _ROWS):
        stop = min(start + _ROWS, rows.shape[0])
        array[start:stop] = rows.read(start, stop)


class _CountsWriter:
    """Appends blocks of counts to the X of an open file."""

    def __init__(self, file: h5py.File, run: Run) -> None:
        self._n_cells, self._n_genes = len(run.obs), len(run.genes)
        self._group = file.create_group("X")
        self._group.attrs.update(CSR, shape=(self._n_cells, self._n_genes))
        for name, dtype in (("data", np.float32), ("indices", np.int32)):
            self._group.create_dataset(
                name, (0,), dtype, maxshape=(None,), chunks=(_H5_CHUNK,), compression="lzf"
            )

    def write(
        self,
        counts: BlockReader,
        gene_positions: NDArray[np.integer[Any]] | None,
        progress: Progress,
    ) -> None:
        """Write every cell, then the row offsets."""
        indptr = np.zeros(self._n_cells + 1, dtype=np.int64)
        for start in range(0, self._n_cells, _ROWS):
            stop = min(start + _ROWS, self._n_cells)
            block = self._selected(counts.read(start, stop), stop - start, gene_positions)
            indptr[start + 1 : stop + 1] = indptr[start] + block.indptr[1:]
            self._append(block, int(indptr[start]))
            progress("writing counts", stop, self._n_cells)
        # SciPy wants offsets and positions of one type: narrow offsets where they fit.
        fits = indptr[-1] <= _MAX_INT32
        self._group["indptr"] = indptr.astype(np.int32) if fits else indptr

    def _selected(self, block: Block, n_cells: int, positions: NDArray[Any] | None) -> Any:
        if block.n_cells != n_cells:
            raise InputError(
                f"the counts gave {block.n_cells} cells where {n_cells} were asked for: "
                "they must have the cells of the run; open the atlas that the run was made from"
            )
        n_genes = block.n_genes if positions is None else len(positions)
        if n_genes != self._n_genes or (positions is not None and positions.max() >= block.n_genes):
            raise InputError(
                f"the counts do not have the {self._n_genes} genes of the run (they have "
                f"{block.n_genes}): open the atlas that the run was made from"
            )
        selected = block.to_scipy() if positions is None else block.to_scipy()[:, positions]
        selected.sort_indices()
        return selected

    def _append(self, block: Any, offset: int) -> None:
        for name, values in (("data", block.data), ("indices", block.indices)):
            array = self._group[name]
            array.resize((offset + len(values),))
            array[offset:] = values
