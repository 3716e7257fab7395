"""Carrying out a plan: bodies are fetched, verified, decoded, and their values put in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.reading.ahead import Expected
from tigon.storage.reading.codecs import BadChunk
from tigon.storage.reading.fetching import (
    Bodies,
    FetchedAhead,
    ReadWhenTaken,
    read_body,
    undamaged,
)
from tigon.storage.reading.layout import ArrayLayout
from tigon.storage.reading.objects import Body, Objects, changed
from tigon.storage.reading.planning import Pieces, Plan, Request, StoredChunk
from tigon.storage.recycling import Empty

BUDGET_BYTES = 64 << 20
"""Encoded bytes that one reading may have under way or fetched and not decoded."""


def execute(
    plan: Plan,
    layouts: Sequence[ArrayLayout],
    objects: Objects,
    helpers: Executor | None,
    n_helpers: int,
    expected: Expected | None = None,
    empty: Empty = np.empty,
) -> list[NDArray[Any]]:
    """The values of a plan's ranges.

    Parameters
    ----------
    plan
        Made for these layouts.
    layouts
        Of the arrays.
    objects
        The store.
    helpers, n_helpers
        Threads that decode beside the one that calls, and how many to ask.
    expected
        Requests that were made already, of objects that take time to answer.
    empty
        Makes the arrays that are returned.

    Returns
    -------
    list of arrays
        For each array the values of all ranges, shape (plan.n_values,), in its own
        type.

    Raises
    ------
    BadChunk
        A chunk is corrupt, also when it is fetched again; the message names it.
    InputError
        An object cannot be fetched, or is another than before; the message names it.
    """
    outputs = [empty(plan.n_values, layout.dtype) for layout in layouts]
    parts = [_Part.of(*each) for each in zip(layouts, plan.pieces, outputs, strict=True)]
    for array, number in plan.unstored:
        parts[array].fill(number)
    bodies = _bodies(plan, layouts, objects, expected)

    def work() -> None:
        try:
            while (taken := bodies.take()) is not None:
                request, body = taken
                _place(parts[request.array], request, body, objects)
                bodies.done(request)
        except BaseException:
            bodies.stop()
            raise

    _run_with_helpers(work, helpers, min(n_helpers, len(plan.requests) - 1))
    return outputs


def _bodies(
    plan: Plan, layouts: Sequence[ArrayLayout], objects: Objects, expected: Expected | None
) -> Bodies:
    fetchers = objects.fetchers
    if fetchers is None:
        return ReadWhenTaken(objects, plan.requests)

    def ask(request: Request) -> Future[Body | None]:
        claimed = None if expected is None else expected.claim(request)
        return claimed or fetchers.submit(read_body, objects, request)

    return FetchedAhead(plan.requests, bounds(plan, layouts), ask, BUDGET_BYTES)


def bounds(plan: Plan, layouts: Sequence[ArrayLayout]) -> list[int]:
    """Bytes of each request of a plan, or more."""
    return [_bound(request, layouts[request.array]) for request in plan.requests]


def _bound(request: Request, layout: ArrayLayout) -> int:
    if request.stop is None:
        return layout.chunk * layout.dtype.itemsize + layout.index_bytes
    return request.stop - request.start


def _run_with_helpers(work: Callable[[], None], helpers: Executor | None, n_helpers: int) -> None:
    """Do ``work`` in this thread and in helpers that are free."""
    futures: list[Future[None]] = []
    if helpers is not None:
        futures = [helpers.submit(work) for _ in range(n_helpers)]
    try:
        work()
    finally:
        # Those that have not begun are not needed; none may write once this returns.
        begun = [future for future in futures if not future.cancel()]
        errors = [future.exception() for future in begun]
    for error in errors:
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class _Part:
    """An array's share of a plan, and where its values go."""

    layout: ArrayLayout
    output: NDArray[Any]
    of_chunk: dict[int, list[tuple[int, int, int]]]
    """First value, number of values and place of each piece of a chunk."""

    @classmethod
    def of(cls, layout: ArrayLayout, pieces: Pieces, output: NDArray[Any]) -> _Part:
        columns = (pieces.starts, pieces.lengths, pieces.places)
        each = list(zip(*(column.tolist() for column in columns), strict=True))
        numbers, first = np.unique(pieces.chunks, return_index=True)
        edges = [*first.tolist(), len(each)]
        spans = zip(numbers.tolist(), edges[:-1], edges[1:], strict=True)
        return cls(layout, output, {number: each[a:b] for number, a, b in spans})

    def fill(self, number: int) -> None:
        for _, length, place in self.of_chunk[number]:
            self.output[place : place + length] = self.layout.fill

    def decode(self, number: int, encoded: NDArray[np.uint8]) -> None:
        pieces = self.of_chunk[number]
        chunk = self.layout.chunk
        if len(pieces) == 1 and pieces[0][1] == chunk:
            place = pieces[0][2]
            self.layout.chain.decode(encoded, self.output[place : place + chunk])
            return
        values = np.empty(chunk, self.layout.dtype)
        self.layout.chain.decode(encoded, values)
        for start, length, place in pieces:
            self.output[place : place + length] = values[start : start + length]


def _place(part: _Part, request: Request, body: Body | None, objects: Objects) -> None:
    """Decode the chunks of a request."""
    if body is None and request.known is not None:
        raise changed(objects.where, request.key)  # it was there when its index was read
    for chunk in request.chunks:
        if body is None:
            part.fill(chunk.number)
            continue
        try:
            _decode(part, chunk, body, request.start)
        except BadChunk:
            _decode_again(part, request, chunk, objects)


def _decode(part: _Part, chunk: StoredChunk, body: Body, start: int) -> None:
    if chunk.stop is not None:
        part.decode(chunk.number, body.data[chunk.start - start : chunk.stop - start])
        return
    encoded = part.layout.unpack(body.data)
    if encoded is None:
        part.fill(chunk.number)
    else:
        part.decode(chunk.number, encoded)


def _decode_again(part: _Part, request: Request, chunk: StoredChunk, objects: Objects) -> None:
    """Fetch a damaged chunk anew."""
    alone = Request(request.array, request.key, chunk.start, chunk.stop, (chunk,), request.known)

    def attempt() -> None:
        body = read_body(objects, alone)
        if body is None:
            raise BadChunk("its object is gone")
        _decode(part, chunk, body, chunk.start)

    try:
        undamaged(attempt)
    except BadChunk as error:
        raise BadChunk(
            f"chunk {chunk.number:,} of {part.layout.name}, in {request.key}, is corrupt: {error}"
        ) from error
