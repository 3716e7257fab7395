"""Which dataset every cell belongs to, and which genes each dataset measures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.join import unique_names

if TYPE_CHECKING:
    from tigon.storage import Atlas
    from tigon.storage.views.columns import Columns

log = logging.getLogger("tigon")

MERGED_NAME = "merged small datasets"

MAX_KEY_BYTES = 240
"""File systems take names of up to 255 bytes."""

_MOST_BATCHES, _LEAST_CELLS, _MOST_TOLD = 1000, 20, 8
"""A column may tell datasets apart that has no more values, and so many cells of each on average;
so many are named."""

_STRETCH_CELLS = 1 << 16
"""Cells whose pairs of numbers are held at once."""


@dataclass(frozen=True)  # without slots, as sizes are kept
class Datasets:
    """The datasets of an atlas.

    Attributes
    ----------
    names
        Their names, in the order of their numbers.
    codes
        Dataset of each cell, int32, shape (n_cells,); -1 for a cell left out.
    measured
        Which genes each measures, bool, shape (n_datasets, n_genes).
    """

    names: tuple[str, ...]
    codes: NDArray[np.int32]
    measured: NDArray[np.bool_]

    def now_in(self, new: Datasets) -> dict[str, str]:
        """Name in ``new`` of each dataset whose cells are under another name there."""
        moves = distinct_pairs(self.codes, new.codes)
        named = {self.names[was]: new.names[now] for was, now in moves}
        return {was: now for was, now in named.items() if was != now}

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Cells per dataset, shape (n_datasets,)."""
        sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        sizes.flags.writeable = False  # all who ask share it
        return sizes

    def keep(self, kept: NDArray[np.bool_]) -> Datasets:
        """The same datasets with cells outside ``kept`` (n_cells,) left out."""
        if kept.all():
            return self
        return Datasets(self.names, np.where(kept, self.codes, np.int32(-1)), self.measured)


def datasets_of(
    atlas: Atlas,
    batch_key: str | Sequence[str] | None,
    chosen: NDArray[np.bool_] | None = None,
) -> Datasets:
    """Assign cells to datasets by columns of ``obs``, or by their source.

    Parameters
    ----------
    atlas
        The cells.
    batch_key
        A column of ``atlas.obs``, several (a list, or names joined by commas)
        whose combinations are the datasets, or None for the source.
    chosen
        Cells that take part, shape (n_cells,); all by default.

    Raises
    ------
    InputError
        A column is absent or has missing values.

    Notes
    -----
    A dataset that pools cells of several sources measures the genes that all of
    them measure.
    """
    cells = slice(None) if chosen is None else np.flatnonzero(chosen)
    names, codes = _labels(atlas.obs_columns, cells, batch_key or "tigon_dataset")
    _check_names(names)
    everyone = codes
    if chosen is not None:
        everyone = np.full(atlas.n_cells, -1, np.int32)
        everyone[cells] = codes
    measured = np.ones((len(names), atlas.n_genes), bool)
    for dataset, source in distinct_pairs(everyone, atlas.source_codes):
        measured[dataset] &= atlas.measured[source]
    return Datasets(tuple(names), everyone, measured)


def tell_of_one_source(atlas: Atlas, batch_key: object, label_key: str | None) -> None:
    """Give notice where all cells become one dataset, and of columns that may tell several apart.

    Notes
    -----
    Columns of categories alone are looked at, which are not read for that.
    """
    if batch_key or len(atlas.source_names) > 1:
        return
    most = min(_MOST_BATCHES, atlas.n_cells // _LEAST_CELLS)
    n_values = {name: atlas.obs_columns.n_categories(name) or 0 for name in atlas.obs_columns}
    found = [
        f"{name} ({n} values)"
        for name, n in n_values.items()
        if 1 < n <= most and name != label_key
    ]
    log.warning(
        "all cells are fitted as one dataset, as they come from one source: where there are "
        "several, name the column of obs that tells them apart with --batch-key%s",
        f"; columns with few values are {', '.join(found[:_MOST_TOLD])}" if found else "",
    )


def distinct_pairs(first: NDArray[np.int32], second: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Pairs of two numbers that cells have, each once, ascending; none with a negative one."""
    n_second = int(second.max(initial=0)) + 1
    found: set[int] = set()
    for start in range(0, len(first), _STRETCH_CELLS):
        a, b = (column[start : start + _STRETCH_CELLS] for column in (first, second))
        both = (a >= 0) & (b >= 0)
        pairs = a[both].astype(np.int64) * n_second + b[both]
        # Neighbours mostly have the same pair: only where it changes is it looked at.
        found.update(np.unique(pairs[np.diff(pairs, prepend=-1) != 0]).tolist())
    return [divmod(pair, n_second) for pair in sorted(found)]


def batch_columns(batch_key: str | Sequence[str]) -> list[str]:
    """Column names of a batch key given as ``"a,b"`` or as a list."""
    parts = batch_key.split(",") if isinstance(batch_key, str) else list(batch_key)
    return [part.strip() for part in parts]


_Cells = NDArray[np.int64] | slice
"""Positions, or the slice of all: which makes no copy of what it is taken from."""


def _labels(
    obs: Columns, cells: _Cells, batch_key: str | Sequence[str]
) -> tuple[list[str], NDArray[np.int32]]:
    """Names of the datasets, sorted, and the number of each cell's."""
    alone = isinstance(batch_key, str) and batch_key in obs
    columns = [str(batch_key)] if alone else batch_columns(batch_key)
    names, codes = _column(obs, cells, columns[0])
    for column in columns[1:]:
        more, its = _column(obs, cells, column)
        combined = codes.astype(np.int64) * len(more) + its
        pairs, codes = np.unique(combined, return_inverse=True)
        joined = [f"{names[p // len(more)]}|{more[p % len(more)]}" for p in pairs.tolist()]
        names = unique_names(joined)  # "x|y" of "z" is not "x" of "y|z"
    order = np.argsort(np.array(names, dtype=object), kind="stable")
    return [names[i] for i in order], np.argsort(order).astype(np.int32)[codes]


def _check_names(names: Sequence[str]) -> None:
    """Refuse names that a run could not store, before anything is read."""
    keys: dict[str, str] = {}
    for name in names:
        key = "V_" + name.replace("/", "%2F")
        if len(key.encode()) > MAX_KEY_BYTES:
            raise InputError(
                f"the dataset name {name[:40]!r}... has {len(name.encode())} bytes: a run stores "
                f"names of up to {MAX_KEY_BYTES - 2}; choose a batch key with shorter values"
            )
        if key in keys:
            raise InputError(
                f"the datasets {keys[key]!r} and {name!r} would have one name in a run ({key!r}), "
                "where '/' is written %2F: rename one of them"
            )
        keys[key] = name


def _column(obs: Columns, cells: _Cells, name: str) -> tuple[list[str], NDArray[np.int32]]:
    """Distinct values of a column as text, and the number of each cell's."""
    import pandas as pd

    if name not in obs:
        known = ", ".join(obs) or "none"
        raise InputError(
            f"the batch key {name!r} is not a column of obs: there are {known}; "
            "choose one of these, or leave the batch key out to use the source files"
        )
    column = pd.Series(obs.values(name)).iloc[cells]
    missing = column.isna().to_numpy()
    if missing.any():
        first = obs.index[int(column.index[int(missing.argmax())])]
        raise InputError(
            f"the batch key {name!r} has {missing.sum()} missing values of {len(column)} "
            f"(first at cell {first!r}): every cell needs a dataset; "
            f"fill them in, or leave these cells out with --cells '{name} == {name}'"
        )
    codes, values = pd.factorize(column)
    names, same = np.unique([str(value) for value in values], return_inverse=True)
    return names.tolist(), same.astype(np.int32)[codes]


def resolve_small(datasets: Datasets, n_components: int, policy: str) -> Datasets:
    """Deal with datasets of fewer cells than components.

    Parameters
    ----------
    datasets
        After the cell filters.
    n_components
        k; a dataset needs at least as many cells.
    policy
        "error", "drop" (leave their cells out) or "merge" (pool them into one).

    Returns
    -------
    Datasets
        Without empty datasets.

    Raises
    ------
    InputError
        Under "error", naming them; or if nothing sufficient is left.
    """
    sizes = datasets.sizes
    small = np.flatnonzero((sizes > 0) & (sizes < n_components))
    if not len(small):
        return _compact(datasets)
    listed = ", ".join(f"{datasets.names[d]!r} ({sizes[d]})" for d in small[:5])
    if len(small) > 5:
        listed += f" and {len(small) - 5} more"
    if policy == "error":
        raise InputError(
            f"{len(small)} datasets have fewer cells than components: {listed}; at least "
            f"{n_components} are needed; use --small-datasets merge or drop, or fewer components"
        )
    if policy == "drop":
        return _require_cells(_compact(datasets.keep(~np.isin(datasets.codes, small))))
    if sizes[small].sum() < n_components:
        raise InputError(
            f"the small datasets have {sizes[small].sum()} cells together ({listed}): fewer than "
            f"{n_components} components; use --small-datasets drop, or fewer components"
        )
    return _compact(_merge(datasets, small))


def _merge(datasets: Datasets, small: NDArray[np.int64]) -> Datasets:
    codes = np.where(np.isin(datasets.codes, small), np.int32(len(datasets.names)), datasets.codes)
    measured = np.logical_and.reduce(datasets.measured[small], axis=0, keepdims=True)
    names = unique_names([*datasets.names, MERGED_NAME])
    return Datasets(tuple(names), codes, np.vstack([datasets.measured, measured]))


def _compact(datasets: Datasets) -> Datasets:
    used = np.flatnonzero(datasets.sizes)
    if len(used) == len(datasets.names):
        return datasets
    renumber = np.full(len(datasets.names) + 1, -1, np.int32)
    renumber[used] = np.arange(len(used))
    names = tuple(datasets.names[d] for d in used)
    return Datasets(names, renumber[datasets.codes], datasets.measured[used])


def _require_cells(datasets: Datasets) -> Datasets:
    if not datasets.names:
        raise InputError(
            "no dataset has as many cells as there are components: none is left; "
            "use fewer components, or --small-datasets merge"
        )
    return datasets
