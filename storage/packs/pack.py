"""The pack: selected genes only, cells shuffled, counts raw; streamed every epoch.

A folder of flat little-endian files, derived and disposable:

- ``cells.bin``: one record a cell, in pack order (``CELL``);
- ``indptr.bin``: int64, n_cells + 1;
- ``genes.bin``, ``counts.bin``: entries in the dtypes that ``pack.json`` names, as
  a rule one of 2 bytes for a non-zero (:mod:`tigon.storage.packs.coding`);
- ``pack.json``: a line of shapes, dtypes and checksums by stretch, and a line with
  its own checksum; written last.

Flat files rather than Zarr: a mini-batch is contiguous in each, and is read at the
speed of the page cache; its entries are put together tile by tile
(:mod:`tigon.storage.packs.blocks`).
"""

from __future__ import annotations

import json
import os
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.packs.blocks import PackBlock, StoredBlock, damaged
from tigon.storage.packs.stretches import STRETCH_BYTES, open_to_read, sum_of_stretch
from tigon.storage.raw import read_at

FORMAT = 3
"""Number of the format; packs of another are not read."""

CELL = np.dtype([("position", "<i8"), ("dataset", "<i4"), ("weight", "<f4")])
"""Atlas position, dataset number and weight (one over the total count) of a cell."""

FILES = ("cells.bin", "indptr.bin", "genes.bin", "counts.bin")


class Pack:
    """A finished pack, opened for reading.

    Parameters
    ----------
    folder
        Where :class:`tigon.storage.packs.writer.PackWriter` put it.

    Raises
    ------
    InputError
        The folder holds no finished pack, or one whose files are not as long as they
        were.

    Notes
    -----
    The files stay open, so that removing or renaming the folder does not disturb a
    reader. Several threads may read at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            told = read_description(folder / "pack.json")
            if told["format"] != FORMAT:
                raise ValueError(f"its format is {told['format']}, this version reads {FORMAT}")
            self.n_cells, self.n_genes = int(told["n_cells"]), int(told["n_genes"])
            self.atlas = str(told["atlas"])
            gaps, counts = np.dtype(told["gaps"]), np.dtype(told["counts"])
            n = int(told["n_nonzeros"])
            sums = {name: list(map(int, told["crc32"][name])) for name in FILES}
            numbers = _open_files(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no finished pack ({error}): build it anew") from error
        self.close = weakref.finalize(self, _close_files, numbers)
        lengths = (self.n_cells, self.n_cells + 1, n, n)
        types = (CELL, np.dtype("<i8"), gaps, counts)
        self._files = {
            name: _File(folder / name, numbers[name], dtype, length, sums[name])
            for name, dtype, length in zip(FILES, types, lengths, strict=True)
        }
        for file in self._files.values():
            file.check_length()
        self._held: dict[str, NDArray[Any]] | None = None

    def __reduce__(self) -> tuple[type[Pack], tuple[Path]]:
        """Another process opens the files itself."""
        return Pack, (self.folder.absolute(),)

    @property
    def n_bytes(self) -> int:
        """Bytes of the four files."""
        return sum(file.n_bytes for file in self._files.values())

    def stretches(self) -> list[tuple[str, int]]:
        """What :meth:`check` takes, for all of the pack."""
        return [(name, i) for name, file in self._files.items() for i in range(len(file.sums))]

    def check(self, stretch: tuple[str, int]) -> int:
        """Read one of the :meth:`stretches`; returns its bytes.

        Raises
        ------
        InputError
            Its bytes are not those that were written.
        """
        name, i = stretch
        return self._files[name].check_stretch(i)

    def hold(self) -> None:
        """Read all of the pack, :attr:`n_bytes`, into memory, and from there from now on."""
        self._held = {name: file.read(0, file.length) for name, file in self._files.items()}

    def datasets(self, start: int, stop: int) -> NDArray[np.int32]:
        """Datasets of the cells ``start`` to ``stop``, shape (stop - start,)."""
        datasets: NDArray[np.int32] = self._part("cells.bin", start, stop)["dataset"].copy()
        return datasets

    def read(self, start: int, stop: int) -> PackBlock:
        """Cells ``start`` to ``stop`` of the pack; not to be written to."""
        return self.stored(start, stop).whole()

    def stored(self, start: int, stop: int) -> StoredBlock:
        """The same as they are written, to be put together tile by tile."""
        cells = self._part("cells.bin", start, stop)
        indptr = self._part("indptr.bin", start, stop + 1)
        first, last = int(indptr[0]), int(indptr[-1])
        length = self._files["genes.bin"].length
        told = f"cells {start} to {stop}"
        if not 0 <= first <= last <= length or (indptr[1:] < indptr[:-1]).any():
            raise damaged(self.folder, told, "some end before they begin, or after the last entry")
        gaps, counts = (self._part(name, first, last) for name in FILES[2:])
        return StoredBlock(
            cells["position"].copy(),
            cells["dataset"].copy(),
            cells["weight"].copy(),
            indptr - first,
            gaps,
            counts,
            self.n_genes,
            (self.folder, told),
        )

    def _part(self, name: str, start: int, stop: int) -> NDArray[Any]:
        if self._held is not None:
            return self._held[name][start:stop]
        return self._files[name].read(start, stop)


def write_description(path: Path, told: dict[str, Any]) -> None:
    """Write what a pack is, and on a second line the checksum of that."""
    line = json.dumps(told)
    path.write_text(f"{line}\n{zlib.crc32(line.encode())}\n")


def read_description(path: Path) -> dict[str, Any]:
    """What :func:`write_description` wrote.

    Raises
    ------
    OSError, ValueError
        It is not there, or not what was written.
    """
    line, told_sum, end = path.read_text().split("\n")
    if end or told_sum != str(zlib.crc32(line.encode())):
        raise ValueError("pack.json does not have the checksum that was noted")
    told: dict[str, Any] = json.loads(line)
    return told


@dataclass(frozen=True, slots=True)
class _File:
    """One array of a pack: an open file."""

    path: Path
    number: int
    dtype: np.dtype[Any]
    length: int
    sums: list[int]

    @property
    def n_bytes(self) -> int:
        return self.length * self.dtype.itemsize

    def check_length(self) -> None:
        n_bytes = os.fstat(self.number).st_size
        if n_bytes != self.n_bytes or len(self.sums) != -(-n_bytes // STRETCH_BYTES):
            raise InputError(
                f"{self.path} has {n_bytes:,} bytes where {self.n_bytes:,} were written: the pack "
                "is damaged; run again to rebuild it"
            )

    def check_stretch(self, i: int) -> int:
        start = i * STRETCH_BYTES
        n_bytes = min(STRETCH_BYTES, self.n_bytes - start)
        if sum_of_stretch(self.number, i) != self.sums[i]:
            raise InputError(
                f"{self.path} is damaged (bytes {start:,} to {start + n_bytes:,} do not have the "
                "checksum that was noted): run again to rebuild the pack"
            )
        return n_bytes

    def read(self, start: int, stop: int) -> NDArray[Any]:
        array = np.empty(stop - start, self.dtype)
        size = self.dtype.itemsize
        n_read = read_at(self.number, array.view(np.uint8), start * size)
        if n_read != array.nbytes:
            raise InputError(
                f"{self.path} ends early (entry {start + n_read // size} of {stop}): "
                "the pack was cut short; run again to rebuild it"
            )
        return array


def _open_files(folder: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    try:
        for name in FILES:
            numbers[name] = open_to_read(folder / name)
    except OSError:
        _close_files(numbers)
        raise
    return numbers


def _close_files(numbers: dict[str, int]) -> None:
    for number in numbers.values():
        os.close(number)
