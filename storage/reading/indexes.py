"""Indexes of shards, each read once, verified, and kept as long as there is room."""

from __future__ import annotations

from collections.abc import Iterable

from tigon.storage.reading.caching import BoundedCache
from tigon.storage.reading.codecs import BadChunk
from tigon.storage.reading.fetching import undamaged
from tigon.storage.reading.layout import ArrayLayout
from tigon.storage.reading.objects import Body, Objects
from tigon.storage.reading.planning import ShardIndex


class ShardIndexes:
    """The indexes of the shards of a store.

    Parameters
    ----------
    objects
        The store.
    limit_bytes
        What the indexes may take in memory; one takes 16 bytes a chunk and about
        500 more.
    """

    def __init__(self, objects: Objects, limit_bytes: int = 32 << 20) -> None:
        self._objects = objects
        self._cache = BoundedCache[ShardIndex | None](limit_bytes, _size)

    def get(self, layout: ArrayLayout, shard: int) -> ShardIndex | None:
        """The index of one shard; None where there is no such object."""
        key = layout.key(shard)
        return self._cache.get(key, lambda: _read_index(self._objects, layout, key))

    def fetch(self, shards: Iterable[tuple[ArrayLayout, int]]) -> None:
        """Get those of several shards that are not there, all at once."""
        missing = [each for each in shards if each[0].key(each[1]) not in self._cache]
        fetchers = self._objects.fetchers
        if fetchers is None or len(missing) < 2:
            return  # whoever plans will get them one by one
        futures = [fetchers.submit(self.get, *each) for each in missing]
        for future in futures:
            future.result()


def _size(index: ShardIndex | None) -> int:
    return 500 + (0 if index is None else index.spans.nbytes)


def _read_index(objects: Objects, layout: ArrayLayout, key: str) -> ShardIndex | None:
    try:
        return undamaged(lambda: _decoded(layout, _fetch(objects, layout, key)))
    except FileNotFoundError:
        return None
    except BadChunk as error:
        raise BadChunk(f"the index of the shard {key} is corrupt: {error}") from error


def _decoded(layout: ArrayLayout, body: Body) -> ShardIndex:
    spans = layout.decode_index(body.data)
    if spans.max() > body.identity.size:
        raise BadChunk("it names places beyond the end of the shard")
    return ShardIndex(spans, body.identity)


def _fetch(objects: Objects, layout: ArrayLayout, key: str) -> Body:
    if layout.index_first:
        return objects.read(key, 0, layout.index_bytes, None)
    return objects.read_end(key, layout.index_bytes)
