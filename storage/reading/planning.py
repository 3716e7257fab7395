"""Which bytes hold the values that are asked for, and where each value goes.

Nothing here reads: a plan follows from the ranges, the layouts of the arrays and
the indexes of their shards, and is the same for the same of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tigon.storage.reading.layout import ArrayLayout
from tigon.storage.reading.objects import Coalescing, Identity


@dataclass(frozen=True)
class Pieces:
    """Ranges of an array cut at its chunks, in the order of the chunks.

    Attributes
    ----------
    chunks
        Chunk of each piece, int64, shape (n_pieces,); does not fall.
    starts
        First value within the chunk, int64, shape (n_pieces,).
    lengths
        Number of values, int64, shape (n_pieces,).
    places
        Where the piece begins in the output, int64, shape (n_pieces,).
    """

    chunks: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    places: NDArray[np.int64]


class StoredChunk(NamedTuple):
    """A chunk and its bytes in an object: from ``start`` to ``stop`` (None: to the end)."""

    number: int
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """One range of one object.

    Attributes
    ----------
    array
        Which of the plan's arrays it belongs to.
    key
        Name of the object.
    start, stop
        Its bytes; ``stop`` is None for the end of the object.
    chunks
        What is needed of them, by place.
    known
        Which object it must be; None where any will do.
    """

    array: int
    key: str
    start: int
    stop: int | None
    chunks: tuple[StoredChunk, ...]
    known: Identity | None


@dataclass(frozen=True)
class Plan:
    """All requests for some ranges of one or more arrays; pickles.

    Attributes
    ----------
    n_values
        Values of all ranges together.
    pieces
        Of each array, where its values go.
    requests
        In the order of the values they hold, the arrays side by side.
    unstored
        Array and number of chunks that hold nothing but the fill value.
    """

    n_values: int
    pieces: tuple[Pieces, ...]
    requests: tuple[Request, ...]
    unstored: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ShardIndex:
    """Where the chunks of a shard are.

    Attributes
    ----------
    spans
        First byte and the one after the last, -1 for chunks not stored; int64,
        shape (n_chunks, 2).
    known
        Which object the index was read from.
    """

    spans: NDArray[np.int64]
    known: Identity


IndexOf = Callable[[int, int], ShardIndex | None]
"""Index of an array's shard by their numbers; None where there is no such object."""


def cut(ranges: NDArray[np.int64], chunk: int) -> Pieces:
    """Cut ranges at the chunks.

    Parameters
    ----------
    ranges
        First value of each and the one after its last, int64, shape (n, 2); in
        any order. Outputs follow one another in this order.
    chunk
        Values per chunk.
    """
    lengths = ranges[:, 1] - ranges[:, 0]
    before = np.cumsum(lengths) - lengths
    full = lengths > 0
    starts, stops, before = ranges[full, 0], ranges[full, 1], before[full]
    first = starts // chunk
    n_pieces = (stops - 1) // chunk + 1 - first
    of = np.repeat(np.arange(len(starts)), n_pieces)
    nth = np.arange(len(of)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    chunks = first[of] + nth
    begins = np.maximum(starts[of], chunks * chunk)
    ends = np.minimum(stops[of], (chunks + 1) * chunk)
    order = np.argsort(chunks, kind="stable")
    return Pieces(
        chunks=chunks[order],
        starts=(begins - chunks * chunk)[order],
        lengths=(ends - begins)[order],
        places=(before[of] + begins - starts[of])[order],
    )


def needed_shards(pieces: Pieces, layout: ArrayLayout) -> list[int]:
    """Shards that hold the pieces, in order."""
    return [int(shard) for shard in np.unique(pieces.chunks // layout.shard_chunks)]


def coalesce(
    chunks: Sequence[tuple[int, int, int]], how: Coalescing
) -> list[list[tuple[int, int, int]]]:
    """Group chunks (number, start, stop) of an object that one request fetches."""
    groups: list[list[tuple[int, int, int]]] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk[1]):
        _, start, stop = chunk
        if groups:
            last = groups[-1]
            near = start - last[-1][2] <= how.gap_bytes
            if near and stop - last[0][1] <= how.request_bytes:
                last.append(chunk)
                continue
        groups.append([chunk])
    return groups


def make_plan(
    pieces: Sequence[Pieces],
    layouts: Sequence[ArrayLayout],
    index_of: IndexOf,
    how: Coalescing,
    n_values: int,
) -> Plan:
    """Plan the requests for the pieces of one or more arrays."""
    requests: list[tuple[float, Request]] = []
    unstored: list[tuple[int, int]] = []
    for array, (part, layout) in enumerate(zip(pieces, layouts, strict=True)):
        numbers = np.unique(part.chunks)
        shards = numbers // layout.shard_chunks
        for shard in np.unique(shards).tolist():
            wanted = numbers[shards == shard].tolist()
            found, lost = _requests(array, layout, shard, wanted, index_of, how)
            unstored.extend((array, number) for number in lost)
            requests.extend(
                (request.chunks[0].number * layout.chunk / layout.length, request)
                for request in found
            )
    requests.sort(key=lambda placed: (placed[0], placed[1].array))
    ordered = tuple(request for _, request in requests)
    return Plan(n_values, tuple(pieces), ordered, tuple(unstored))


def _requests(
    array: int,
    layout: ArrayLayout,
    shard: int,
    wanted: list[int],
    index_of: IndexOf,
    how: Coalescing,
) -> tuple[list[Request], list[int]]:
    """Requests for chunks of one shard, and the chunks that are not stored."""
    key = layout.key(shard)
    if layout.shard_chunks == 1:
        whole = StoredChunk(wanted[0], 0, None)
        return [Request(array, key, 0, None, (whole,), None)], []
    index = index_of(array, shard)
    if index is None:
        return [], wanted
    chunks, lost = [], []
    for number in wanted:
        start, stop = index.spans[number - shard * layout.shard_chunks].tolist()
        if start < 0:
            lost.append(number)
        else:
            chunks.append((number, start, stop))
    requests = [
        Request(
            array=array,
            key=key,
            start=group[0][1],
            stop=max(stop for _, _, stop in group),
            chunks=tuple(StoredChunk(*chunk) for chunk in group),
            known=index.known,
        )
        for group in coalesce(chunks, how)
    ]
    return requests, lost
