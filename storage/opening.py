"""Opening sources as one atlas."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tigon.storage.atlas import Atlas
from tigon.storage.counts import CountType
from tigon.storage.errors import InputError
from tigon.storage.join import Join, join_genes, join_labels, join_obs
from tigon.storage.part import Part
from tigon.storage.sources.detect import is_anndata, open_source, source_name
from tigon.storage.sources.source import Choice, Source

if TYPE_CHECKING:
    from anndata import AnnData

Counts: TypeAlias = "Atlas | AnnData | str | os.PathLike[str] | Sequence[Any]"
"""What may be opened: an atlas, an AnnData, a path, a URL, or a list of these."""


def open_atlas(
    target: Any,
    *,
    layer: str | None = None,
    raw: bool = False,
    join: Join = "inner",
    gene_id_column: str | None = None,
    allow_non_integer: bool = False,
    scratch: str | Path | None = None,
) -> Atlas:
    """Open one or more sources as an atlas, in place.

    Parameters
    ----------
    target
        A path (AnnData ``.h5ad`` or ``.zarr``, 10x ``.h5``, a 10x directory), the
        URL of a ``.zarr``, an AnnData in memory, or a list of these.
    layer
        Read this layer rather than ``X``.
    raw
        Read ``.raw`` rather than ``X``.
    join
        "inner" keeps the genes that all sources have, "outer" those of any and
        remembers which source measured which.
    gene_id_column
        Column of ``var`` that identifies genes across sources; None for their names.
    allow_non_integer
        Take non-negative values that are not whole numbers, as float32.
    scratch
        Folder for the intermediate files that 10x directories and compressed
        columns need; None for the system's temporary folder.

    Returns
    -------
    Atlas
        Close it when done, or use it as a context manager.

    Raises
    ------
    InputError
        A source cannot be read or is given twice, or the sources do not go together.

    Notes
    -----
    Rows and dense matrices are read when asked for. 10x directories and
    compressed columns are read once now and kept as rows in ``scratch``.
    Entries that repeat a cell and gene are summed, explicit zeros dropped.
    """
    if join not in ("inner", "outer"):
        raise InputError(f"join={join!r} is not known: it is 'inner' or 'outer'")
    targets = list(target) if isinstance(target, list | tuple) else [target]
    if not targets:
        raise InputError("no sources were given: at least one is needed")
    _check_distinct(targets)
    choice = Choice(layer=layer, raw=raw, scratch=None if scratch is None else Path(scratch))
    sources = _open_all(targets, choice)
    try:
        path = None if len(targets) > 1 or is_anndata(targets[0]) else str(targets[0])
        return _joined(sources, join, gene_id_column, path, allow_non_integer=allow_non_integer)
    except BaseException:
        _close_all(sources)
        raise


def _check_distinct(targets: Sequence[Any]) -> None:
    """Refuse a file that is given twice, perhaps under two names: its cells would count double."""
    seen: dict[object, str] = {}
    for target in targets:
        if not isinstance(target, str | os.PathLike):
            continue
        name = os.fspath(target)
        place = _place(name)
        if place in seen:
            known = "" if seen[place] == name else f" (as {seen[place]} too)"
            raise InputError(
                f"the source {name} is given twice{known}: its cells would count double; give it "
                "once"
            )
        seen[place] = name


def _place(name: str) -> object:
    """What tells a source from others: its number on the disk where it has one."""
    with suppress(OSError):
        found = Path(name).expanduser().stat()
        return found.st_dev, found.st_ino
    return name.rstrip("/")


def _open_all(targets: Sequence[Any], choice: Choice) -> list[Source]:
    sources: list[Source] = []
    try:
        for target, name in zip(targets, _names(targets), strict=True):
            sources.append(open_source(target, name, choice))
    except BaseException:
        _close_all(sources)
        raise
    return sources


def _close_all(sources: Sequence[Source]) -> None:
    for source in sources:
        source.close()


def _names(targets: Sequence[Any]) -> list[str]:
    """Names of the files; those of the same name are told apart by their folders."""
    names = [source_name(target, number) for number, target in enumerate(targets)]
    return [
        name
        if names.count(name) == 1 or not isinstance(target, str | Path)
        else f"{source_name(Path(str(target)).parent, number)}-{name}"
        for number, (target, name) in enumerate(zip(targets, names, strict=True))
    ]


def _joined(
    sources: Sequence[Source],
    join: Join,
    gene_id_column: str | None,
    path: str | None,
    *,
    allow_non_integer: bool,
) -> Atlas:
    values = _values_dtype(sources, allow_non_integer=allow_non_integer)
    if len(sources) == 1 and sources[0].n_nonzeros is not None:
        # Tigon's own atlas is joined already: its tables need not be read.
        own = sources[0]
        parts = _parts(sources, [None], own.n_genes, values)
        return Atlas(parts, own.labels, own.load_obs, own.load_var, values, path)
    genes = join_genes(sources, join, gene_id_column)
    _tell_what_is_left_out(sources, len(genes.var))
    labels = join_labels(sources, genes.maps, len(genes.var))
    obs = join_obs(sources, labels)
    parts = _parts(sources, genes.maps, len(genes.var), values)
    return Atlas(parts, labels, lambda: obs, lambda: genes.var, values, path)


def _parts(
    sources: Sequence[Source],
    maps: Sequence[NDArray[np.int32] | None],
    n_genes: int,
    values: np.dtype[Any],
) -> list[Part]:
    parts, first = [], 0
    for source, gene_map in zip(sources, maps, strict=True):
        kind = CountType(source.matrix.shape[1], n_genes, values, gene_map)
        parts.append(Part(source, first, kind))
        first += source.n_cells
    return parts


def _values_dtype(sources: Sequence[Source], *, allow_non_integer: bool) -> np.dtype[Any]:
    """The narrowest type that is sure to hold the counts of all sources."""
    dtypes = [source.matrix.dtype for source in sources]
    for source in sources:
        # Tigon's own atlas has floats only where they were allowed.
        allowed = allow_non_integer or source.n_nonzeros is not None
        if source.matrix.dtype.kind == "f" and allowed:
            return np.dtype(np.float32)
    narrow = all(dtype.kind in "bu" and dtype.itemsize <= 2 for dtype in dtypes)
    return np.dtype(np.uint16 if narrow else np.uint32)


def _tell_what_is_left_out(sources: Sequence[Source], n_genes: int) -> None:
    for source in sources:
        if source.n_genes > n_genes:
            logging.getLogger("tigon").warning(
                "%s: %s of its %s genes are in all sources; keep the others with --join outer",
                source.where,
                f"{n_genes:,}",
                f"{source.n_genes:,}",
            )
