"""Reading back from a run what cells that come later need: the fit, its options, its cells."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.cells import CellFilter
from tigon.scaling.datasets import batch_columns
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.known import Known, own_squares
from tigon.scaling.recording import SHARED
from tigon.storage.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from tigon.storage.runs.run import Run

Config = TypeVar("Config")

UPDATES = "updates"
"""Part of a run's configuration: what each update was given, by its number."""

DROPPED = "drop_factors"
"""Part of a run's configuration: factors that alignment and what follows leave out."""

LAYOUTS, CLUSTERINGS = "layouts", "clusterings"
"""Parts of a run's configuration: what layouts and columns of clusters were added, by name."""

VERSION = "tigon_version"
"""Column of ``obs``: the update whose metagenes a cell's loadings are of; 0 for the first."""


def shared_genes(run: Run) -> NDArray[np.bool_] | None:
    """Genes at which W may differ from zero, bool, shape (m,); None where all are such."""
    return run.var[SHARED].to_numpy().astype(bool) if SHARED in run.var else None


def recall_fit(run: Run) -> Known:
    """The metagenes and statistics of a run.

    Raises
    ------
    InputError
        The run does not hold what is needed.

    Notes
    -----
    Reads V, A and B of every dataset: 12 k m bytes each.
    """
    run.need_factors("a model")
    names, B = run.datasets, run.B
    try:
        measured = dict(zip(names, run.per_gene("measured"), strict=True))
        scale = dict(zip(names, run.per_gene("scale"), strict=True))
    except KeyError as error:
        raise InputError(
            f"the run {run.path} does not say how its genes were scaled: a run of `tigon "
            "integrate` or `tigon update` does; make one"
        ) from error
    n_cells = dict(zip(names, run.n_cells.tolist(), strict=True))
    squares = {name: own_squares(scale[name], n_cells[name]) for name in names}
    if "squares" in run.per_gene_names:
        squares = dict(zip(names, run.per_gene("squares"), strict=True))
    return Known(
        genes=run.genes,
        W=run.W,
        V=run.V,
        A=dict(zip(names, run.A, strict=True)),
        B={name: np.ascontiguousarray(B[i].T) for i, name in enumerate(names)},
        measured={name: mask.astype(bool) for name, mask in measured.items()},
        scale=scale,
        squares=squares,
        n_cells=n_cells,
        lam=_lambdas(run),
        merged=_merged(run),
        shared=shared_genes(run),
    )


def inmf_config(run: Run) -> INMFConfig:
    """Options of the factorisation."""
    return _options(INMFConfig, run.config["inmf"])


def align_config(run: Run) -> AlignConfig:
    """Options of the alignment; runs that do not name a method are of quantile maps."""
    return _options(AlignConfig, {"align": "quantile", **run.config["align"]})


def embed_config(run: Run) -> EmbedConfig:
    """Options of clusters and layout."""
    return _options(EmbedConfig, run.config["embed"])


def cell_filter(run: Run) -> CellFilter:
    """Limits that the cells of the run met."""
    return _options(CellFilter, run.config["prepare"]["cell_filter"])


def batch_key(run: Run) -> str | list[str] | None:
    """Columns that named the datasets."""
    key: str | list[str] | None = run.config["prepare"]["batch_key"]
    return key


def dropped_factors(run: Run) -> tuple[int, ...]:
    """Factors that alignment, clusters and layout leave out, ascending."""
    return tuple(int(number) for number in run.config.get(DROPPED, ()))


def added(run: Run, part: str, *, of: Container[str] | None = None) -> tuple[str, ...]:
    """Names of the layouts or clusters (``part``) that were added, of some matrices or of any."""
    found = run.config.get(part, {})
    return tuple(name for name, made in found.items() if of is None or made["use"] in of)


def without_added(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without what was added to it, for a run that has none of that."""
    return {name: value for name, value in config.items() if name not in (LAYOUTS, CLUSTERINGS)}


def n_updates(run: Run) -> int:
    """How often the run was updated."""
    return len(run.config.get(UPDATES, {}))


def _options(kind: type[Config], stored: Mapping[str, Any]) -> Config:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in stored.items() if name in names})


def _lambdas(run: Run) -> dict[str, float]:
    """Lambda of each dataset; runs of before they could differ have the one of all."""
    lam = run.lam
    if lam is None:
        lam = np.full(len(run.datasets), inmf_config(run).lam)
    return dict(zip(run.datasets, lam.tolist(), strict=True))


def _merged(run: Run) -> dict[str, str]:
    """Pooled dataset of each small one, as the table of cells tells."""
    key = batch_key(run)
    if key is None:
        return {}
    alone = isinstance(key, str) and key in run.obs.columns
    columns = [str(key)] if alone else batch_columns(key)
    if not set(columns) <= set(run.obs.columns):
        return {}
    named = _joined(run.obs[columns])
    pairs = named.to_frame("was").assign(now=run.obs["tigon_dataset"].astype(str))
    pairs = pairs[~pairs["was"].isin(run.datasets)].drop_duplicates()
    return dict(zip(pairs["was"], pairs["now"], strict=True))


def _joined(table: pd.DataFrame) -> pd.Series[str]:
    names = table[table.columns[0]].astype(str)
    for column in table.columns[1:]:
        names = names + "|" + table[column].astype(str)
    return names
