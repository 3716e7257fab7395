"""One source's place in an atlas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tigon.storage import counts
from tigon.storage.counts import BadEntry, CountType, clean_rows
from tigon.storage.errors import InputError
from tigon.storage.recycling import Empty
from tigon.storage.sources.matrices.matrix import Runs, SparseRows, joined
from tigon.storage.sources.source import Source

_MASK_BYTES = 6  # of the gene maps and masks that cleaning an entry takes


@dataclass(frozen=True, slots=True)
class Part:
    """The cells of one source within an atlas.

    Attributes
    ----------
    source
        Where the cells are.
    first
        Position of its first cell in the atlas.
    kind
        What its rows become.
    """

    source: Source
    first: int
    kind: CountType

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any of the atlas's cells ``start`` to ``stop`` are here."""
        return start < self.first + self.source.n_cells and self.first < stop

    def clip(self, start: int, stop: int) -> tuple[int, int]:
        """Those of the atlas's cells ``start`` to ``stop`` that are here, counted from here."""
        return max(0, start - self.first), min(stop - self.first, self.source.n_cells)

    def read(self, start: int, stop: int) -> SparseRows:
        """Those of the atlas's cells ``start`` to ``stop`` that are here, as counts."""
        first, last = self.clip(start, stop)
        return self._counts(self.source.matrix.read(first, last), [(first, last)])

    def read_runs(self, runs: Runs, empty: Empty = np.empty) -> SparseRows:
        """Cells of runs that :meth:`clip` gave, none empty, as counts in the order given."""
        return self._counts(self.source.matrix.read_runs(runs, empty), runs)

    def _counts(self, stored: SparseRows, runs: Runs) -> SparseRows:
        try:
            rows = clean_rows(stored, self.kind)
        except BadEntry as entry:
            cells = np.concatenate([np.arange(start, stop) for start, stop in runs])
            raise self._refusal(entry, int(cells[entry.row])) from entry
        self._check_complete(stored, rows, runs)
        return rows

    def estimate_bytes(self, n_cells: int) -> int:
        """Bytes of ``n_cells`` cells as stored and as counts together."""
        clean = self.kind.indices.itemsize + self.kind.values.itemsize
        n_entries = self.source.matrix.most_entries(n_cells)
        if self.source.n_nonzeros is not None and self.kind.gene_map is None:
            # Tigon's own counts are handed on as they are decoded, beside what is encoded.
            return 3 * 8 * (n_cells + 1) + n_entries * 2 * clean
        stored = self.source.matrix.entry_bytes
        return 3 * 8 * (n_cells + 1) + n_entries * (stored + clean + _MASK_BYTES)

    def _check_complete(self, stored: SparseRows, rows: SparseRows, runs: Runs) -> None:
        """Refuse zeros in Tigon's own atlas: Zarr reads a lost chunk as zeros."""
        if self.source.n_nonzeros is None:
            return
        if self.kind.gene_map is None:
            is_complete = len(rows.indices) == len(stored.indices)
        else:
            is_complete = bool(stored.values.all())  # entries may be left out with their genes
        if not is_complete:
            first, last = min(start for start, _ in runs), max(stop for _, stop in runs)
            raise InputError(
                f"{self.source.where}: counts of cells {first:,} to {last:,} are lost: a file of "
                "the atlas is missing; copy it again or ingest it again"
            )

    def _refusal(self, entry: BadEntry, position: int) -> InputError:
        where = self.source.where
        cell = str(self.source.load_obs().index[position])
        if entry.problem == counts.OUT_OF_RANGE:
            return InputError(
                f"{where}: cell {cell!r} has {entry.problem} ({entry.column:,}): there are "
                f"{self.kind.n_columns:,}; the file is damaged, write it again"
            )
        return InputError(
            f"{where}: {entry.problem} ({entry.value:.6g}) for cell {cell!r}, gene "
            f"{self._gene(entry.column)!r}: {self._limit(entry)}; {self._way_out(entry)}"
        )

    def _gene(self, column: int) -> str:
        if self.source.columns is None:
            return str(self.source.load_var().index[column])
        rows = (self.source.columns == column).nonzero()[0]
        return str(self.source.load_var().index[rows[0]]) if len(rows) else f"feature {column + 1}"

    def _limit(self, entry: BadEntry) -> str:
        if entry.problem == counts.TOO_LARGE:
            return f"counts are stored as {self.kind.values.name}"
        return "counts are whole numbers of at least 0"

    def _way_out(self, entry: BadEntry) -> str:
        hint = self.source.hint
        if entry.problem != counts.FRACTION:
            return hint or "correct it or leave the cell out"
        allow = "take such values as they are with --allow-non-integer"
        return f"{hint}, or {allow}" if hint else allow


def read_of_parts(parts: Sequence[Part], runs: Runs, empty: Empty = np.empty) -> SparseRows:
    """Cells of non-empty runs of the atlas, each part asked once, in the order given."""
    if len(parts) == 1:
        return parts[0].read_runs(runs, empty)
    pieces: list[tuple[int, SparseRows]] = []
    for part in parts:
        mine = [number for number, run in enumerate(runs) if part.overlaps(*run)]
        if mine:
            clipped = [part.clip(*runs[number]) for number in mine]
            rows = part.read_runs(clipped, empty)
            pieces.extend(zip(mine, _split(rows, clipped), strict=True))
    # Stable: of one run, the parts stay in their order.
    return joined([rows for _, rows in sorted(pieces, key=lambda piece: piece[0])])


def _split(rows: SparseRows, runs: Runs) -> Iterator[SparseRows]:
    """The rows of each run, without copying entries."""
    first = 0
    for start, stop in runs:
        indptr = rows.indptr[first : first + stop - start + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        yield SparseRows(indptr - indptr[0], rows.indices[entries], rows.values[entries])
        first += stop - start


def most_entries_of_parts(parts: Sequence[Part], n_cells: int) -> int:
    """No run of ``n_cells`` cells, of one part or of several after each other, has more entries."""
    sizes = np.array([part.source.n_cells for part in parts])
    fullest = [
        part.source.matrix.most_entries(min(n_cells, int(n)))
        for part, n in zip(parts, sizes, strict=True)
    ]
    ends, sums = np.cumsum(sizes), np.concatenate([[0], np.cumsum(fullest)])
    # The run that begins with the last cell of a part reaches the farthest of those from there.
    after = np.searchsorted(ends - sizes, ends + n_cells - 2, side="right")
    return int((sums[after] - sums[:-1]).max(initial=0))
