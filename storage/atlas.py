"""An atlas: the counts of one or more sources as one matrix of cells x genes.

Cells are read in runs, from wherever they are, as checked counts over the
genes of the atlas; any split into runs gives the same cells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tigon.storage.block import Block
from tigon.storage.counts import index_dtype
from tigon.storage.part import Part, most_entries_of_parts, read_of_parts
from tigon.storage.progress import Progress, silent
from tigon.storage.recycling import Empty
from tigon.storage.sources.matrices.matrix import SparseRows, joined
from tigon.storage.sources.source import Labels, Source

if TYPE_CHECKING:
    import dask.array
    import pandas as pd
    from anndata import AnnData

    from tigon.storage.known_sums import KnownSums
    from tigon.storage.minibatches.minibatches import MiniBatches
    from tigon.storage.views.columns import Columns


class Atlas:
    """Counts of cells x genes, read in runs of cells; made by ``open_atlas``.

    Parameters
    ----------
    parts
        The sources, in the order of their cells.
    labels
        Which source each cell is from and what each source measured.
    load_obs, load_var
        Give the tables when they are first asked for.
    values_dtype
        Type of the counts in every block.
    path
        Where the atlas is, if it is in one place.

    Notes
    -----
    ``read`` may be called from several threads at once.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        labels: Labels,
        load_obs: Callable[[], pd.DataFrame],
        load_var: Callable[[], pd.DataFrame],
        values_dtype: np.dtype[Any],
        path: str | None,
    ) -> None:
        self._parts = tuple(parts)
        self._labels = labels
        self._obs = _Once(load_obs)
        self._var = _Once(load_var)
        self._values_dtype = values_dtype
        self._path = path

    @property
    def obs(self) -> pd.DataFrame:
        """Table of the cells, with the column ``tigon_dataset``; treat it as read-only."""
        return self._obs.get()

    @property
    def var(self) -> pd.DataFrame:
        """Table of the genes, by name; treat it as read-only."""
        return self._var.get()

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self._labels.codes)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self._labels.measured.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.n_cells, self.n_genes

    @property
    def source_names(self) -> list[str]:
        """Names of the sources."""
        return list(self._labels.names)

    @property
    def source_codes(self) -> NDArray[np.int32]:
        """Source of each cell, shape (n_cells,)."""
        return self._labels.codes

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which genes each source measured, shape (n_sources, n_genes)."""
        return self._labels.measured

    @property
    def values_dtype(self) -> np.dtype[Any]:
        """Type of the counts in every block: uint16, uint32 or float32."""
        return self._values_dtype

    @property
    def path(self) -> str | None:
        """Path or URL of an atlas in one place; None for lists and AnnData in memory."""
        return self._path

    @property
    def n_nonzeros(self) -> int | None:
        """Number of counts above zero; None where it takes a pass to know."""
        whole = self._whole
        return None if whole is None else whole.n_nonzeros

    @property
    def sums(self) -> KnownSums | None:
        """Sums over cells and genes that were stored with them; None where they were not."""
        whole = self._whole
        return None if whole is None else whole.sums

    @property
    def digest(self) -> str | None:
        """Name of the counts and of their cells and genes; None where only reading would tell.

        The same for the same counts in any chunks and profile that Tigon wrote; of other
        files, a name for their present version (see ``tigon.storage.digest``).
        """
        from tigon.storage.digest import digest_of_parts

        return digest_of_parts(self._parts)

    def read(self, start: int, stop: int) -> Block:
        """Cells ``start`` to ``stop``.

        Raises
        ------
        InputError
            An entry is not a count, or a file is damaged.
        """
        if not 0 <= start <= stop <= self.n_cells:
            raise ValueError(f"cells {start} to {stop} asked for: there are {self.n_cells}")
        pieces = [part.read(start, stop) for part in self._parts if part.overlaps(start, stop)]
        rows = joined(pieces) if pieces else self._no_rows()
        return Block(
            start=start,
            indptr=rows.indptr,
            indices=rows.indices,  # type: ignore[arg-type]
            values=rows.values,  # type: ignore[arg-type]
            n_genes=self.n_genes,
        )

    def read_runs(
        self, runs: ArrayLike | Sequence[tuple[int, int]], empty: Empty = np.empty
    ) -> SparseRows:
        """Cells of several runs, one run after another in the order given.

        Parameters
        ----------
        runs
            First cell of each run and the one after its last, shape (n_runs, 2);
            in any order, and cells may be in several runs.
        empty
            Makes the arrays that genes and counts are read into.

        Returns
        -------
        SparseRows
            indptr int64; genes ascending, of the type that blocks have; counts of
            type ``values_dtype``.

        Raises
        ------
        InputError
            An entry is not a count, or a file is damaged.

        Notes
        -----
        What the runs need is asked for together: far fewer requests than a call of
        :meth:`read` for each, and chunks that runs share are read once.
        """
        asked = np.asarray(runs, np.int64).reshape(-1, 2)
        wrong = (asked[:, 0] < 0) | (asked[:, 1] > self.n_cells) | (asked[:, 0] > asked[:, 1])
        if wrong.any():
            start, stop = asked[int(wrong.argmax())]
            raise ValueError(f"cells {start} to {stop} asked for: there are {self.n_cells}")
        kept = [(start, stop) for start, stop in asked.tolist() if start < stop]
        return read_of_parts(self._parts, kept, empty) if kept else self._no_rows()

    def estimate_block_bytes(self, n_cells: int) -> int:
        """Bytes that reading ``n_cells`` cells may take, for planning.

        What is read from the file is counted beside the block made from it. No
        run of cells of one source takes more.
        """
        n_cells = min(n_cells, self.n_cells)
        return max(part.estimate_bytes(n_cells) for part in self._parts)

    def most_entries(self, n_cells: int) -> int:
        """Counts above zero in the fullest run of ``n_cells`` cells, or a few more."""
        return most_entries_of_parts(self._parts, n_cells)

    def minibatches(self, batch_size: int = 4096, **options: Any) -> MiniBatches:
        """Cells in random order, a mini-batch at a time, read ahead.

        Parameters
        ----------
        batch_size
            Cells of a mini-batch.
        **options
            As for :class:`tigon.storage.minibatches.minibatches.MiniBatches`: ``shuffle``,
            ``seed``, ``genes``, ``memory_limit``, ``device``, ``stratify`` and more.

        Raises
        ------
        InputError
            An option is out of range, or names genes or a column that are not there.
        MemoryLimitError
            A window of cells does not fit in ``memory_limit``.
        """
        from tigon.storage.minibatches.minibatches import MiniBatches

        return MiniBatches(self, batch_size, **options)

    @cached_property
    def obs_columns(self) -> Columns:
        """Columns of ``obs`` by name; one of an atlas of Tigon's is read without the others."""
        from tigon.storage.views.columns import columns_of

        return columns_of(self, "obs")

    @cached_property
    def var_columns(self) -> Columns:
        """Columns of ``var`` by name, as :attr:`obs_columns`."""
        from tigon.storage.views.columns import columns_of

        return columns_of(self, "var")

    @property
    def shard_ends(self) -> list[int]:
        """Cells after which the shards of one store end, to 1,024 cells; [] without shards."""
        from tigon.storage.views.blocks import shard_ends

        return shard_ends(self._parts)

    def to_dask(
        self,
        block_cells: int | None = None,
        *,
        cells: Any = None,
        genes: Any = None,
        dtype: DTypeLike | None = np.float32,
    ) -> dask.array.Array:
        """Counts as a Dask array of SciPy CSR matrices, cells x genes, read when computed.

        Parameters
        ----------
        block_cells
            Cells of a block; None for as many as a shard of the store holds.
        cells, genes
            Names, positions, a mask or a slice, in the order wanted; None for all.
        dtype
            float32, float64, or None for counts as they are stored: narrow unsigned
            integers, whose sums and products overflow without a word.

        Raises
        ------
        InputError
            A cell or gene is not there or named twice, or Dask is not installed.

        Notes
        -----
        One pass over the chosen cells for each computation; a worker holds a block of
        all genes for each of its threads. Tasks hold the place of the atlas and the range
        of cells; positions that were chosen are in the graph once. Blocks of an atlas
        that Tigon wrote are read on any worker that sees its path or URL; those of
        other sources in this process only.
        """
        from tigon.storage.views.lazy_array import to_dask

        return to_dask(self, block_cells, cells=cells, genes=genes, dtype=dtype)

    def to_anndata(
        self,
        cells: Any = None,
        genes: Any = None,
        *,
        backed: bool = False,
        dtype: DTypeLike | None = np.float32,
        memory_limit: int | None = None,
        progress: Progress = silent,
    ) -> AnnData:
        """Chosen cells and genes as an AnnData.

        Parameters
        ----------
        cells, genes
            Names, positions, a mask or a slice, in the order wanted; None for all.
        backed
            Leave the counts where they are: ``X`` is the Dask array of :meth:`to_dask`.
        dtype
            Of the counts: float32, float64, or None for counts as they are stored.
        memory_limit
            Most bytes that reading may take; None for what is free.
        progress
            Called after every piece that is read.

        Returns
        -------
        AnnData
            ``X`` is a CSR matrix. ``uns["tigon"]`` tells which source measured which
            gene: where one did not, zeros say nothing.

        Raises
        ------
        InputError
            A cell or gene is not there or named twice.
        MemoryLimitError
            The counts do not fit; the message has the sizes.

        Notes
        -----
        One pass over the chosen cells, with about as few requests as they need; genes
        that were not chosen are dropped as they come. Memory: 8 bytes a count above
        zero (float32), up to an eighth more, a piece of about 64 MiB, and the table of
        the chosen cells.
        """
        from tigon.storage.views.in_memory import to_anndata

        return to_anndata(
            self,
            cells,
            genes,
            backed=backed,
            dtype=dtype,
            memory_limit=memory_limit,
            progress=progress,
        )

    def close(self) -> None:
        """Close files and remove intermediate ones."""
        for part in self._parts:
            part.source.close()

    def __enter__(self) -> Atlas:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Atlas {self.path or 'of ' + ', '.join(self.source_names)}: {self.n_cells:,} cells x "
            f"{self.n_genes:,} genes, {len(self.source_names)} sources"
        )

    @property
    def _whole(self) -> Source | None:
        """The source that this is as it stands; None for several, or for some of its genes."""
        if len(self._parts) > 1 or self._parts[0].kind.gene_map is not None:
            return None
        return self._parts[0].source

    def _no_rows(self) -> SparseRows:
        return SparseRows(
            indptr=np.zeros(1, np.int64),
            indices=np.empty(0, index_dtype(self.n_genes)),
            values=np.empty(0, self.values_dtype),
        )


class _Once:
    """A table that is loaded when first asked for, by whichever thread asks."""

    def __init__(self, load: Callable[[], pd.DataFrame]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._table: pd.DataFrame | None = None

    def get(self) -> pd.DataFrame:
        with self._lock:
            if self._table is None:
                self._table = self._load()
            return self._table
