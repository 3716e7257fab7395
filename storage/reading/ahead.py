"""Asking for what comes next before it is asked for, when rows are read in turn.

An answer takes its time however little it brings, so a reader that asks for one run of rows
after another would wait for each. The requests of the next runs are those that a plan for
them makes; whoever reads such a run finds the answers there or on their way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future

from tigon.storage.reading.fetching import read_body
from tigon.storage.reading.objects import Body, Objects
from tigon.storage.reading.planning import Request

LIMIT_BYTES = 32 << 20
"""Encoded bytes that a store may have fetched, or under way, for readings to come."""

_DEPTH = 2  # runs ahead of the present one
_N_REMEMBERED = 32  # ends of readings, by which the next is known; more than threads that read
_N_BEGUN = 8  # readings that may have overtaken the one that tells of them


Reading = bytes
"""The ranges of a reading, as they lie in memory."""


class Expected:
    """Requests made for readings to come, each to be claimed once.

    Parameters
    ----------
    objects
        Where they lie.
    fetchers
        Threads that fetch.
    """

    def __init__(self, objects: Objects, fetchers: Executor) -> None:
        self._objects, self._fetchers = objects, fetchers
        self._lock = threading.Lock()
        self._held: OrderedDict[Request, tuple[Future[Body | None], int]] = OrderedDict()
        self._n_bytes = 0
        self._announced: set[Reading] = set()
        self._begun: deque[Reading] = deque(maxlen=_N_BEGUN)

    def announce(self, reading: Reading) -> None:
        """Say that :meth:`expect` will be called for a reading, unless it began before."""
        with self._lock:
            if reading not in self._begun:
                self._announced.add(reading)

    def begin(self, reading: Reading) -> None:
        """A reading begins: what was not asked for yet it asks for itself."""
        with self._lock:
            self._announced.discard(reading)
            self._begun.append(reading)

    def expect(self, reading: Reading, requests: Sequence[Request], sizes: Sequence[int]) -> None:
        """Make the requests of a reading, as many as there is room for."""
        with self._lock:
            if reading not in self._announced:
                return
            self._announced.discard(reading)
            for request, size in zip(requests, sizes, strict=True):
                if request in self._held:
                    continue
                if self._n_bytes + size > LIMIT_BYTES:
                    return
                future = self._fetchers.submit(read_body, self._objects, request)
                self._held[request] = future, size
                self._n_bytes += size

    def claim(self, request: Request) -> Future[Body | None] | None:
        """The answer of a request that was expected; None where it was not."""
        with self._lock:
            future, size = self._held.pop(request, (None, 0))
            self._n_bytes -= size
            return future

    def forget(self) -> None:
        """Give up what nobody claimed."""
        with self._lock:
            for future, _ in self._held.values():
                future.cancel()
            self._held.clear()
            self._announced.clear()
            self._n_bytes = 0


class Order:
    """Notices readings in turn, by any number of threads, and tells what follows them.

    Parameters
    ----------
    n_rows
        Rows there are.
    """

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self._lock = threading.Lock()
        self._ends: deque[int] = deque(maxlen=_N_REMEMBERED)
        self._told_to = 0

    def next_after(self, start: int, stop: int) -> list[tuple[int, int]] | None:
        """Runs to expect now that ``start`` to ``stop`` is read; None where order broke."""
        with self._lock:
            in_turn = start in self._ends
            if not in_turn:
                self._ends.clear()
                self._told_to = 0
            self._ends.append(stop)
            if not in_turn:
                return None if start else []  # the beginning breaks no order
            length = stop - start
            first = max(self._told_to, stop)
            last = min(stop + _DEPTH * length, self._n_rows)
            runs = [(at, min(at + length, self._n_rows)) for at in range(first, last, length)]
            if runs:
                self._told_to = runs[-1][1]
                self._ends.extend(end for _, end in runs)  # threads may overtake one another
            return runs
