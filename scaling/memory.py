"""How much memory the process tree really takes.

Proportional set size (a page shared by n processes counts 1/n in each, mapped
files included), summed over the process and its children, sampled.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 0.05


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
    """Let blocks and mini-batches take memory that earlier ones gave back, as by default.

    Dask starts workers in such a way that all that is freed goes back to the system at once:
    the pages of every array are then asked for anew, which takes longer than the work on them.
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


def tree_bytes() -> int:
    """Proportional set size of this process and its children, in bytes."""
    process = psutil.Process()
    return sum(_process_bytes(p) for p in (process, *process.children(recursive=True)))


def _process_bytes(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux, or the process has ended
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class MemoryWatch:
    """Samples the process tree every 50 ms while the context is open.

    Attributes
    ----------
    peak_bytes
        Largest sample so far.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tigon-memory", daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes, tree_bytes())

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
        self.peak_bytes = max(self.peak_bytes, tree_bytes())
