"""Where passes over whatever a user has run: on threads, on a GPU, on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tigon.scaling.engine import Cluster, ThreadEngine
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.passes import Normalisation, Passes
from tigon.scaling.pca.resident import ResidentPasses, is_resident
from tigon.scaling.pca.rows import AtlasRows, DaskRows, PackRows, Rows
from tigon.scaling.pca.size import block_bytes, sums_bytes
from tigon.scaling.pca.sources import rows_of
from tigon.scaling.running import Tasks, check_reachable, files_of, on_workers
from tigon.storage.errors import InputError
from tigon.storage.packs.pack import Pack
from tigon.storage.progress import Progress
from tigon.storage.scratch import Scratch

OF_COMPONENTS = ("scaling.pca.passes", "scaling.pca.job.first")
"""Modules that tasks of a decomposition need on workers."""


@contextmanager
def passes_over(
    source: Any,
    config: PCAConfig,
    n_threads: int,
    cluster: Cluster,
    scratch: Path | None,
    progress: Progress,
) -> Iterator[Passes | ResidentPasses]:
    """Passes over an open source, for the length of a block.

    Parameters
    ----------
    source
        As :func:`tigon.scaling.pca.sources.borrowed_source` gives it.
    config
        What will be summed, and of which entries.
    n_threads
        Threads of this process.
    cluster, scratch
        Where tasks run if not here, and a folder that is seen there and here.
    progress
        Who is told.

    Raises
    ------
    InputError
        The source cannot be decomposed, or not be read by workers.
    MemoryLimitError
        A worker is too small for its tasks.
    """
    normalisation = Normalisation(config.target_sum, config.log1p)
    if is_resident(source):
        if cluster.is_used:
            raise _out_of_reach("a matrix on the GPU of this process")
        yield ResidentPasses(source, normalisation, progress)
        return
    rows = rows_of(source)
    if not cluster.is_used:
        with ThreadEngine(n_threads) as threads:
            yield Passes(rows, normalisation, threads, progress)
        return
    tasks = Tasks(_task_bytes(rows, config), OF_COMPONENTS, _places(rows, cluster))
    with (
        closing(Scratch(scratch)) as aside,
        on_workers(cluster, tasks, n_threads, aside.folder, progress=progress) as workers,
    ):
        yield Passes(rows, normalisation, workers, progress)


def _task_bytes(rows: Rows, config: PCAConfig) -> int:
    """What a task takes at most; what a chunk of Dask's holds is known when it is computed."""
    sums = 3 * sums_bytes(config, rows.shape[1])
    return sums + (block_bytes(rows.atlas.get()) if isinstance(rows, AtlasRows) else 0)


def _places(rows: Rows, cluster: Cluster) -> list[Path]:
    """Files that workers must see.

    Raises
    ------
    InputError
        They could not read the rows: these are in the memory of this process, or in a format
        other than Tigon's own.
    """
    if isinstance(rows, AtlasRows):
        atlas = rows.atlas.get()
        check_reachable(atlas, cluster)
        return files_of(atlas)
    if isinstance(rows, PackRows) and isinstance(rows.pack, Pack):
        return [rows.pack.folder.absolute()]
    if isinstance(rows, DaskRows):
        return []
    raise _out_of_reach("a matrix in the memory of this process")


def _out_of_reach(what: str) -> InputError:
    return InputError(
        f"{what} is out of reach of workers: write an atlas of it with tigon.write_atlas, pass a "
        "Dask array, or leave out client"
    )
