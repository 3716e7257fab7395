"""The arrays of one store that Tigon reads itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.reading.ahead import Expected
from tigon.storage.reading.executing import bounds, execute
from tigon.storage.reading.indexes import ShardIndexes
from tigon.storage.reading.layout import ArrayLayout, parse_layout
from tigon.storage.reading.objects import Objects
from tigon.storage.reading.planning import Plan, cut, make_plan, needed_shards
from tigon.storage.reading.sharing import DECODERS, available_cpus
from tigon.storage.recycling import Empty

if TYPE_CHECKING:
    import zarr


class ChunkStore:
    """Plans and carries out readings of the arrays of one store.

    Parameters
    ----------
    objects
        Where the chunks lie; closed together with this.

    Notes
    -----
    May be used by several threads at once: they share what indexes are known, the
    connections, and the limit of requests under way.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._indexes = ShardIndexes(objects)
        self._n_helpers = available_cpus() - 1
        self._lock = threading.Lock()
        self._is_closed = False
        self._expected = None if objects.fetchers is None else Expected(objects, objects.fetchers)
        self._helpers = DECODERS.acquire(self._n_helpers) if self._n_helpers else None

    def plan(self, arrays: Sequence[ChunkedArray], ranges: NDArray[np.int64]) -> Plan:
        """The requests for some ranges of several arrays of this store.

        Parameters
        ----------
        arrays
            Of this store.
        ranges
            First value of each range and the one after its last, int64, shape
            (n_ranges, 2), in any order.

        Notes
        -----
        Reads the indexes of shards that no plan has needed before, all at once.
        """
        with self._while_open():
            if self._expected is not None:
                self._expected.begin(ranges.tobytes())
            self._indexes.fetch(
                (array.layout, shard)
                for array in arrays
                if array.layout.shard_chunks > 1
                for shard in needed_shards(cut(ranges, array.layout.chunk), array.layout)
            )
            return self._make_plan(arrays, ranges)

    def _make_plan(self, arrays: Sequence[ChunkedArray], ranges: NDArray[np.int64]) -> Plan:
        layouts = [array.layout for array in arrays]
        pieces = [cut(ranges, layout.chunk) for layout in layouts]
        return make_plan(
            pieces,
            layouts,
            lambda array, shard: self._indexes.get(layouts[array], shard),
            self.objects.coalescing,
            int((ranges[:, 1] - ranges[:, 0]).sum()),
        )

    def execute(
        self, plan: Plan, arrays: Sequence[ChunkedArray], empty: Empty = np.empty
    ) -> list[NDArray[Any]]:
        """The values of a plan made for these arrays, here or by another process."""
        layouts = [array.layout for array in arrays]
        with self._while_open():
            return execute(
                plan, layouts, self.objects, self._helpers, self._n_helpers, self._expected, empty
            )

    def expect(
        self, arrays: Sequence[ChunkedArray], ranges: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Ask now for what readings of ranges to come will ask for.

        Parameters
        ----------
        arrays
            Of this store.
        ranges
            Of each reading, as for :meth:`plan`; None when what was expected before will
            not be read.

        Notes
        -----
        Of files nothing is expected: they are there.
        """
        if self._expected is None or self.objects.fetchers is None:
            return
        if ranges is None:
            self._expected.forget()
        else:
            for of_reading in ranges:
                self._expected.announce(of_reading.tobytes())
                self.objects.fetchers.submit(self._expect, arrays, of_reading)

    def _expect(self, arrays: Sequence[ChunkedArray], ranges: NDArray[np.int64]) -> None:
        assert self._expected is not None
        # In a thread that fetches, and must not wait for another to be free: indexes are
        # read here, one after the other. What fails will fail again for who needs it.
        with suppress(Exception):
            plan = self._make_plan(arrays, ranges)
            layouts = [array.layout for array in arrays]
            self._expected.expect(ranges.tobytes(), plan.requests, bounds(plan, layouts))

    @contextmanager
    def _while_open(self) -> Iterator[None]:
        """Refuse to read what is closed, or was by another thread in the midst of it."""
        try:
            if self._is_closed:
                raise CancelledError
            yield
        except (CancelledError, RuntimeError) as error:  # of threads that have ended
            if not self._is_closed:
                raise
            raise InputError(
                f"{self.objects.where} was closed: open it again to read on"
            ) from error

    def close(self) -> None:
        """End threads and connections that nobody else uses."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if self._expected is not None:
            self._expected.forget()
        if self._helpers is not None:
            DECODERS.release(self._n_helpers)
        self.objects.close()


@dataclass(frozen=True)
class ChunkedArray:
    """A one-dimensional array of a store, read by slices, or with others by ranges.

    Attributes
    ----------
    store
        The store.
    layout
        Where its values are.
    """

    store: ChunkStore
    layout: ArrayLayout

    @property
    def shape(self) -> tuple[int]:
        return (self.layout.length,)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layout.dtype

    @property
    def chunks(self) -> tuple[int]:
        """Values per chunk."""
        return (self.layout.chunk,)

    def __getitem__(self, selection: slice) -> NDArray[Any]:
        start, stop, step = selection.indices(self.layout.length)
        if step != 1:
            raise IndexError(f"step {step}: arrays are read by runs of values")
        return read_ranges([self], np.array([[start, max(start, stop)]]))[0]


def open_array(store: ChunkStore, array: zarr.Array[Any]) -> ChunkedArray | None:
    """An array of Zarr as one that is read by plans; None where it is left to Zarr."""
    layout = parse_layout(array)
    return None if layout is None else ChunkedArray(store, layout)


def read_ranges(
    arrays: Sequence[Any], ranges: NDArray[np.int64], empty: Empty = np.empty
) -> list[NDArray[Any]]:
    """Ranges of several arrays of the same length, one range after another.

    Parameters
    ----------
    arrays
        Read by one plan where they are of one :class:`ChunkStore`, else by slices.
    ranges
        First value of each range and the one after its last, int64, shape
        (n_ranges, 2), in any order.
    empty
        Makes the arrays that are returned, where a plan reads them.

    Returns
    -------
    list of arrays
        Of each array all its ranges, in its own type; fewer values where a slice of
        an array gave fewer.
    """
    store = _common_store(arrays)
    if store is not None:
        return store.execute(store.plan(arrays, ranges), arrays, empty)
    return [_slices(array, ranges) for array in arrays]


def expect_ranges(arrays: Sequence[Any], ranges: Sequence[NDArray[np.int64]] | None) -> None:
    """Say what :func:`read_ranges` will be asked for next; None when order broke."""
    store = _common_store(arrays)
    if store is not None:
        store.expect(arrays, ranges)


def _common_store(arrays: Sequence[Any]) -> ChunkStore | None:
    stores = [array.store for array in arrays if isinstance(array, ChunkedArray)]
    is_common = len(stores) == len(arrays) and all(store is stores[0] for store in stores)
    return stores[0] if is_common else None


def _slices(array: Any, ranges: NDArray[np.int64]) -> NDArray[Any]:
    slices = [np.asarray(array[start:stop]) for start, stop in ranges.tolist()]
    return slices[0] if len(slices) == 1 else np.concatenate(slices)
