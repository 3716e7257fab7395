"""Choosing the genes among 10x features."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage.errors import InputError

GENES = "Gene Expression"


def choose_genes(var: pd.DataFrame, where: str) -> tuple[pd.DataFrame, NDArray[np.int64] | None]:
    """The genes of a 10x table of features, and their rows in it (None for all).

    Features of other types (antibodies, guides, peaks) are left out where there
    are genes; a table of one other type is taken as it is.
    """
    if "feature_types" not in var.columns:
        return var, None
    types = var["feature_types"].astype(str)
    kinds = list(dict.fromkeys(types))
    if len(kinds) <= 1:
        return var, None
    if GENES not in kinds:
        raise InputError(
            f"{where} holds features of several types ({', '.join(kinds)}) and none is {GENES!r}: "
            "one type can be read; split the file"
        )
    columns = np.flatnonzero((types == GENES).to_numpy())
    others = ", ".join(kind for kind in kinds if kind != GENES)
    logging.getLogger("tigon").warning(
        "%s: %s of %s features are genes; those of type %s are left out",
        where,
        f"{len(columns):,}",
        f"{len(var):,}",
        others,
    )
    return var.iloc[columns], columns
