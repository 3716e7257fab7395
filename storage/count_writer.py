"""The counts of an atlas on their way into its arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tigon.storage import layout, sums
from tigon.storage.atlas import Atlas
from tigon.storage.counts import index_dtype
from tigon.storage.digest import ContentDigest
from tigon.storage.encoding import CSR
from tigon.storage.gene_kinds import checksum_of, kinds_of
from tigon.storage.layout import Profile
from tigon.storage.sharded import ShardedArray
from tigon.storage.sources.matrices.offsets import OffsetsBuilder
from tigon.storage.sums import Cells, GeneSumsWriter, TileSums, checksum_of_sources

if TYPE_CHECKING:
    import zarr

_BY_CELL = (1 << 16, 1)
"""Chunks of arrays with a number a cell."""
_UINT16 = np.dtype(np.uint16)


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of cells from ``start`` on, and the sums of its tiles where it has whole ones."""

    start: int
    reads: list[Cells]
    tiles: list[TileSums] | None

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return sum(len(cells.totals) for cells in self.reads)


class CountWriter:
    """Appends blocks to the arrays of ``X``."""

    def __init__(
        self, X: zarr.Group, atlas: Atlas, profile: Profile, chunks: tuple[int, int], pool: Executor
    ) -> None:
        is_float = atlas.values_dtype.kind == "f"
        values = atlas.values_dtype if is_float else _UINT16
        self._X, self._atlas, self._profile = X, atlas, profile
        self._values = ShardedArray(X, "data", values, chunks, profile.values, pool)
        positions = index_dtype(atlas.n_genes)
        nowhere = int(np.iinfo(positions).max)
        self._indices = ShardedArray(
            X, "indices", positions, chunks, profile.rising, pool, lost=nowhere
        )
        self._indptr = ShardedArray(
            X, "indptr", np.dtype(np.int64), _BY_CELL, profile.rising, pool, lost=-1
        )
        self._indptr.append(np.zeros(1, np.int64))
        self._totals = ShardedArray(
            X, layout.TOTALS, np.dtype(np.float64), _BY_CELL, profile.values, pool, lost=-1
        )
        self._of_kinds = [
            ShardedArray(X, name, np.dtype(np.float64), _BY_CELL, profile.values, pool, lost=-1)
            for name in layout.KIND_SUMS.values()
        ]
        self._offsets = OffsetsBuilder()
        self._digest = ContentDigest(atlas.n_genes)
        shape = (len(atlas.source_names), atlas.n_genes)
        self._sums = GeneSumsWriter(X.create_group(layout.GENE_SUMS), atlas.source_codes, shape)
        self._tile: TileSums | None = None
        self._n_nonzeros, self._largest = 0, 0.0

    def add(self, piece: Piece) -> None:
        """Take the next cells."""
        for cells in piece.reads:
            self._add(cells)
        for tile in self._tiles(piece) if piece.tiles is None else piece.tiles:
            self._sums.add(tile)

    def _add(self, cells: Cells) -> None:
        rows = cells.rows
        if self._values.dtype == _UINT16 and rows.values.dtype != _UINT16:
            logging.getLogger("tigon").info("a count above 65,535: counts are stored as uint32")
            self._values.widen(np.dtype(np.uint32))
        self._values.append(rows.values)
        self._indices.append(rows.indices)
        self._indptr.append(rows.indptr[1:] + self._n_nonzeros)
        self._totals.append(cells.totals)
        for array, sums_of_kind in zip(self._of_kinds, cells.of_kinds.T, strict=True):
            array.append(sums_of_kind)
        self._largest = max(self._largest, float(rows.values.max(initial=0)))
        self._offsets.add(np.diff(rows.indptr))
        self._digest.add(rows)
        self._n_nonzeros += len(rows.values)

    def finish(self) -> str:
        """Write what is left; returns the digest."""
        for array in (self._values, self._indices, self._indptr, self._totals, *self._of_kinds):
            array.finish()
        if self._tile is not None:
            self._sums.add(self._tile)
        self._sums.finish()
        offsets = self._offsets.build()
        self._X.create_array(layout.OFFSETS, data=offsets.values)
        atlas = self._atlas
        digest = self._digest.finish(
            atlas.obs.index, atlas.var.index, atlas.source_codes, atlas.measured
        )
        mark: dict[str, Any] = {
            "format_version": layout.FORMAT_VERSION,
            "largest_row": offsets.largest_row,
            "profile": self._profile.name,
            "digest": digest,
            "largest": self._largest,
            "kinds": checksum_of(kinds_of(atlas.var.index)),
            "sources": checksum_of_sources(atlas.source_codes),
        }
        self._X.attrs.update({**CSR, "shape": list(atlas.shape), layout.MARK: mark})
        return digest

    def _tiles(self, piece: Piece) -> Iterator[TileSums]:
        """Tiles that small blocks complete; the last may go on in the next block."""
        tiles = sums.sum_tiles(piece.start, piece.reads, self._atlas.n_genes, self._tile)
        *complete, self._tile = tiles
        yield from complete
