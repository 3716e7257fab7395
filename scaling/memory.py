"""How much memory the process tree really takes.

Proportional set size (a page shared by n processes counts 1/n in each, mapped
files included), summed over the process and its children, sampled.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 0.05

_TREE_EVERY, _SHARES_EVERY = 4, 100
"""Samples after which processes are looked for again, and shares counted again."""

_MORE_OF_FILES = 4 * 2**20
"""Bytes by which the files that a process has mapped may change until shares are counted."""

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
"""Options of GNU's ``mallopt``."""

_KEPT_BYTES = 64 * 2**20
"""What is kept at the end of a heap; and twice the largest piece that comes from a heap."""


def use_one_heap() -> None:
    """Let all threads of this process allocate from one heap, as far as they have none yet.

    A heap of its own for each thread keeps up to 64 MiB that were freed, which
    :func:`give_back` cannot reach. For the programs of this package, which take few and
    large pieces. Does nothing where the C library is not GNU's.
    """
    _set_options({_ARENA_MAX: 1})


def reuse_freed() -> None:
    """Let blocks, mini-batches and tiles take memory that earlier ones gave back.

    Otherwise much of what is freed goes back to the system, in workers that Dask starts all of
    it, and the pages of the next array are asked for anew: a tenth of the time of an epoch.
    """
    _set_options({_MMAP_THRESHOLD: _KEPT_BYTES // 2, _TRIM_THRESHOLD: _KEPT_BYTES})


def _set_options(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)


def give_back() -> None:
    """Return what was freed to the system: the C library keeps it for itself otherwise.

    For the ends of stages. Does nothing where the library is not GNU's.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _shares(pids: list[int]) -> int:
    """Proportional set size of some processes, in bytes."""
    return sum(map(_process_bytes, pids))


def _tree() -> list[int]:
    """Numbers of this process and its children, theirs included."""
    process = psutil.Process()
    try:
        found = [process.pid]
        # Without Path, which takes twice as long: there are hundreds of threads.
        for pid in found:  # which grows meanwhile
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
                with open(f"/proc/{pid}/task/{thread}/children") as told:  # noqa: PTH123
                    found += map(int, told.read().split())
        return found
    except OSError:  # not Linux, or a process has ended
        return [process.pid, *(child.pid for child in process.children(recursive=True))]


def _process_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux, or the process has ended
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _resident(pids: list[int]) -> dict[int, tuple[int, int]] | None:
    """Bytes of each of some processes, its own and those of files; None where not told."""
    found = {}
    try:
        for pid in pids:
            # Neither with Path nor with a buffer, which take most of the time.
            with open(f"/proc/{pid}/statm", "rb", buffering=0) as told:  # noqa: PTH123
                _, resident, of_files, *_ = map(int, told.read().split())
            found[pid] = (resident - of_files) * mmap.PAGESIZE, of_files * mmap.PAGESIZE
    except OSError:
        return None
    return found


def _growth(
    before: dict[int, tuple[int, int]] | None, now: dict[int, tuple[int, int]] | None
) -> int | None:
    """By how much processes' own memory has grown; None if shares have to be counted."""
    if before is None or now is None or before.keys() != now.keys():
        return None
    if any(abs(now[pid][1] - before[pid][1]) > _MORE_OF_FILES for pid in now):
        return None
    return sum(now[pid][0] - before[pid][0] for pid in now)


class MemoryWatch:
    """Samples the process tree every 50 ms while the context is open.

    Attributes
    ----------
    peak_bytes
        Largest sample so far.

    Notes
    -----
    The proportional set size takes milliseconds for each process, half a processor for a few
    large ones; what is resident is told at once. So the former is asked for every five seconds, and
    whenever processes come or go or what they have of files changes; in between it is what it was
    and by how much the processes' own memory has grown or shrunk since. That is exact to some MiB,
    but for memory which forked processes share and part from within that time. Processes are
    looked for five times a second, which asks each of their threads.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._sample = 0
        self._pids: list[int] = []
        self._resident: dict[int, tuple[int, int]] | None = None
        self._n_told = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tigon-memory", daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        if self._n_told % _TREE_EVERY == 0:
            self._pids = _tree()
        now, grown = _resident(self._pids), None
        if self._n_told < _SHARES_EVERY:
            grown = _growth(self._resident, now)
        if grown is None:
            self._pids = _tree()
            self._sample, grown = _shares(self._pids), 0
            self._resident, self._n_told = _resident(self._pids), 0
            # What came or went while shares were counted is counted already, or is not.
            if abs(_growth(now, self._resident) or 0) > _MORE_OF_FILES:
                self._resident = None
        self._n_told += 1
        self.peak_bytes = max(self.peak_bytes, self._sample + grown)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
