"""What mini-batches are proportional over: datasets, or another grouping of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.layout import DATASET_COLUMN

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas


def choose_strata(atlas: Atlas, stratify: str | NDArray[Any] | None) -> NDArray[np.int32]:
    """Stratum of each cell, int32, shape (n_cells,).

    Parameters
    ----------
    atlas
        Whose cells they are.
    stratify
        Column of ``obs``, whose values are numbered in ascending order; missing ones,
        -1, are a stratum of their own. Or numbers, shape (n_cells,). None for the
        sources of the atlas.

    Raises
    ------
    InputError
        There is no such column, there are not as many numbers as cells, or one is no int32.
    """
    if stratify is None or (isinstance(stratify, str) and stratify == DATASET_COLUMN):
        return atlas.source_codes
    if isinstance(stratify, str):
        return _codes(atlas, stratify)
    strata = np.asarray(stratify)
    if strata.shape != (atlas.n_cells,) or strata.dtype.kind not in "iu":
        raise InputError(
            f"stratify has shape {strata.shape} and type {strata.dtype}: it is a column of obs or "
            f"one whole number for each of the {atlas.n_cells:,} cells"
        )
    numbers = strata.astype(np.int32)
    if (numbers != strata).any():
        raise InputError(
            f"stratify holds {strata[numbers != strata][0]}: numbers of strata are int32, up to "
            f"{np.iinfo(np.int32).max:,}; number the groups from 0 on"
        )
    return numbers


def _codes(atlas: Atlas, column: str) -> NDArray[np.int32]:
    import pandas as pd

    if column not in atlas.obs.columns:
        names = ", ".join(map(str, atlas.obs.columns))
        raise InputError(f"stratify={column!r} is not a column of obs: there are {names}")
    return np.asarray(pd.Categorical(atlas.obs[column]).codes, np.int32)
