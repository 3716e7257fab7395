"""The bodies of a plan's requests, ahead of those who decode them and within a budget."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from tigon.storage.reading.codecs import BadChunk
from tigon.storage.reading.objects import Body, Objects
from tigon.storage.reading.planning import Request

Result = TypeVar("Result")


class Bodies(Protocol):
    """Gives each request with its body, to any number of threads, until there are no more."""

    def take(self) -> tuple[Request, Body | None] | None:
        """A request and its body (None: no such object), or None after the last."""
        ...

    def done(self, request: Request) -> None:
        """What was taken is used and its memory free."""
        ...

    def stop(self) -> None:
        """Give no more."""
        ...


def read_body(objects: Objects, request: Request) -> Body | None:
    """The body of a request; None where there is no such object."""
    try:
        return objects.read(request.key, request.start, request.stop, request.known)
    except FileNotFoundError:
        return None


def undamaged(attempt: Callable[[], Result]) -> Result:
    """What ``attempt`` gives; it is repeated twice, since bytes may suffer on their way.

    Raises
    ------
    BadChunk
        They are damaged every time, so where they come from.
    """
    for _ in range(2):
        try:
            return attempt()
        except BadChunk:
            continue
    return attempt()


class ReadWhenTaken:
    """Bodies read by the thread that takes them, as from files."""

    def __init__(self, objects: Objects, requests: Sequence[Request]) -> None:
        self._objects = objects
        self._left = deque(requests)

    def take(self) -> tuple[Request, Body | None] | None:
        try:
            request = self._left.popleft()
        except IndexError:
            return None
        return request, read_body(self._objects, request)

    def done(self, request: Request) -> None:
        """Nothing is ahead."""

    def stop(self) -> None:
        self._left.clear()


class FetchedAhead:
    """Bodies that other threads fetch, given in the order in which they come.

    Parameters
    ----------
    requests
        In the order of asking.
    sizes
        Bytes of each, or a bound.
    ask
        Makes a request; the future is of its body.
    budget_bytes
        Bytes that may be under way or fetched and not done; one request may go
        beyond.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        sizes: Sequence[int],
        ask: Callable[[Request], Future[Body | None]],
        budget_bytes: int,
    ) -> None:
        self._request = ask
        self._sizes = dict(zip(map(id, requests), sizes, strict=True))
        self._left = deque(requests)
        self._arrived: deque[tuple[Request, Future[Body | None]]] = deque()
        self._flying: set[Future[Body | None]] = set()
        self._held = 0
        self._budget = budget_bytes
        self._is_stopped = False
        self._changed = threading.Condition()
        with self._changed:
            self._ask()

    def take(self) -> tuple[Request, Body | None] | None:
        with self._changed:
            while not self._arrived:
                if self._is_stopped or (not self._flying and not self._left):
                    return None
                self._changed.wait()
            request, future = self._arrived.popleft()
        return request, future.result()

    def done(self, request: Request) -> None:
        with self._changed:
            self._held -= self._sizes[id(request)]
            self._ask()
            if not self._left:
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._left.clear()
            flying = list(self._flying)
            self._changed.notify_all()
        for future in flying:
            future.cancel()

    def _ask(self) -> None:
        """Ask for as much as the budget allows; the lock is held."""
        while self._left:
            size = self._sizes[id(self._left[0])]
            if self._held and self._held + size > self._budget:
                return
            request = self._left.popleft()
            self._held += size
            future = self._request(request)
            self._flying.add(future)
            future.add_done_callback(partial(self._arrive, request))

    def _arrive(self, request: Request, future: Future[Body | None]) -> None:
        with self._changed:
            self._flying.discard(future)
            # Cancelled by others, because a pool ends, it is an error for whoever takes it:
            # its values are missing.
            if not (self._is_stopped and future.cancelled()):
                self._arrived.append((request, future))
            self._changed.notify_all()
