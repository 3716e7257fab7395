"""Packs that are kept: found by name and used again, or written for the next job.

A pack is checked to its last byte before it is used again: training cannot tell a flipped
bit from a count, and one more pass over the pack is little beside those of the epochs. A
damaged one is written anew, with a warning: everything it was made of is at hand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.packing import build_pack, pack_order, write_pack
from tigon.scaling.statistics import Statistics
from tigon.storage.errors import InputError
from tigon.storage.packs.cache import PackCache
from tigon.storage.packs.naming import pack_name
from tigon.storage.packs.pack import Pack
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import remove

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

log = logging.getLogger("tigon")

WAIT_S = 0.5
"""Between two looks at whether another process has finished the pack."""

_CHECKED_AT_ONCE = 4


def obtain_pack(
    atlas: Atlas,
    datasets: Datasets,
    statistics: Statistics,
    genes: NDArray[np.int64],
    scratch: Path,
    cache: PackCache | None,
    engine: ThreadEngine,
    seed: np.random.SeedSequence,
    progress: Progress = silent,
) -> Pack:
    """The pack of the kept cells and the selected genes, from ``cache`` or written now.

    Parameters
    ----------
    atlas, datasets, statistics, genes, engine, seed, progress
        As for :func:`tigon.scaling.packing.build_pack`.
    scratch
        Folder to make for a pack that is not kept.
    cache
        Where packs are kept; None to keep none. One whose atlas has no digest, or that
        cannot be added to a read-only folder, is not kept either, with a warning.

    Returns
    -------
    Pack
        The same bytes whichever way.

    Notes
    -----
    One pass over the pack where it is found, one over the atlas where it is not. Of
    several processes that want the same pack one writes and the others wait.
    """
    digest = None if cache is None else _digest(atlas)
    if cache is None or digest is None:
        return build_pack(atlas, datasets, statistics, genes, scratch, engine, seed, progress)
    places = pack_order(datasets.codes, seed)
    kept = places >= 0
    # Where each cell goes says both the seed and how it was used.
    name = pack_name(
        digest,
        genes=genes,
        datasets=datasets.codes[kept],
        totals=statistics.totals[kept],
        places=places,
    )

    def write(folder: Path) -> Pack:
        return write_pack(atlas, datasets, statistics, genes, places, folder, engine, progress)

    waiting = False
    while True:
        pack = _usable(cache, name, engine, progress)
        if pack is not None:
            return pack
        if not cache.is_writable:
            log.warning("%s cannot be written to: the pack is not kept", cache.folder)
            return write(scratch)
        with cache.sole_writer(name) as alone:
            if alone:
                return _usable(cache, name, engine, progress) or _written(cache, name, write)
        if not waiting:
            log.warning("another process is writing %s in %s: waiting for it", name, cache.folder)
            waiting = True
        time.sleep(WAIT_S)


def kept_pack(folder: Path, engine: ThreadEngine, progress: Progress) -> Pack | None:
    """The pack that an interrupted job finished, checked; None where there is none."""
    if not folder.exists():
        return None
    try:
        pack = Pack(folder)
        check_pack(pack, engine, progress)
        return pack
    except InputError as error:
        log.info("the pack is written anew: %s", error)
        remove(folder)
        return None


def _digest(atlas: Atlas) -> str | None:
    digest = atlas.digest
    if digest is None:
        log.warning(
            "the pack is not kept: whether %s has changed since cannot be told; "
            "`tigon ingest` makes an atlas that knows its content",
            atlas.path or "what was opened",
        )
    return digest


def _usable(cache: PackCache, name: str, engine: ThreadEngine, progress: Progress) -> Pack | None:
    """The pack of that name, checked; None where there is none, or a damaged one."""
    try:
        pack = cache.find(name)
        if pack is not None:
            check_pack(pack, engine, progress)
        return pack
    except InputError as error:
        log.warning("the pack that was kept is of no use, it is written anew: %s", error)
        return None


def check_pack(pack: Pack, engine: ThreadEngine, progress: Progress) -> None:
    """Read a pack through.

    Raises
    ------
    InputError
        Its bytes are not those that were written.
    """
    done = 0
    stretches = iter(pack.stretches())
    for n_bytes in engine.ordered_map(pack.check, stretches, window=_CHECKED_AT_ONCE):
        done += n_bytes
        progress("checking the pack (bytes)", done, pack.n_bytes)


def _written(cache: PackCache, name: str, write: Callable[[Path], Pack]) -> Pack:
    """A new pack under that name; its lock must be held."""
    with cache.writing(name) as aside:
        write(aside).close()
    pack = cache.find(name)
    assert pack is not None, "nobody else removes it while the lock is held"
    return pack
