"""The table of a comparison, and what is recommended on its grounds.

The rule, after the one of Breiman et al. (1984) for trees:

1. The best setting is the one of least mean error over the folds.
2. Settings are as good as it whose error in the same folds is above its by no more than one
   standard error of the difference: folds differ in cells and genes, and what they have in
   common is no uncertainty of the comparison.
3. Of these, settings of a mean stability of ``min_stability`` or more are kept; where there
   are none, all of them.
4. Of the fewest factors among these, the lambda of the best mixing is recommended; where
   there is one dataset, of the least error.

References
----------
Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees,
doi:10.1201/9781315139470 (one standard error).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Setting:
    """A number of factors and a lambda, scored in every fold.

    Attributes
    ----------
    k, lam
        The setting.
    errors
        Errors on hidden entries, as a share of their squares, float64, shape (n_folds,).
    stability
        Mean cosine of the fold's factors with those of other folds, same shape.
    mixing
        Mixing of the datasets, same shape; NaN where there is one.
    """

    k: int
    lam: float
    errors: NDArray[np.float64]
    stability: NDArray[np.float64]
    mixing: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Mean error."""
        return float(self.errors.mean())


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and on what.

    Attributes
    ----------
    settings
        By lambda, then by k.
    n_cells, n_genes
        Of the sample.
    datasets
        Their names.
    """

    settings: Sequence[Setting]
    n_cells: int
    n_genes: int
    datasets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings that were compared and the one that is recommended.

    Attributes
    ----------
    settings
        By lambda, then by k.
    best, recommended
        Of the least error, and by the rule; positions in ``settings``.
    min_stability
        What was asked for.
    reason
        Why, in a sentence or two.
    """

    settings: Sequence[Setting]
    best: int
    recommended: int
    min_stability: float
    reason: str

    @property
    def k(self) -> int:
        """The number of factors that is recommended."""
        return self.settings[self.recommended].k

    @property
    def lam(self) -> float:
        """The lambda that is recommended."""
        return self.settings[self.recommended].lam


def choose(settings: Sequence[Setting], min_stability: float) -> Choice:
    """Apply the rule."""
    best = min(range(len(settings)), key=lambda i: settings[i].error)
    near = [i for i, setting in enumerate(settings) if _as_good(setting, settings[best])]
    stable = [i for i in near if settings[i].stability.mean() >= min_stability]
    fewest = min(settings[i].k for i in stable or near)
    candidates = [i for i in stable or near if settings[i].k == fewest]
    chosen = max(candidates, key=lambda i: _preference(settings[i]))
    reason = _reason(
        settings[chosen], settings[best], len(near), bool(stable), len(candidates), min_stability
    ) + _ends(settings[chosen], settings)
    return Choice(settings, best, chosen, min_stability, reason)


def above(setting: Setting, best: Setting) -> tuple[float, float]:
    """How far the error of a setting is above that of another, and the standard error of this."""
    difference = setting.errors - best.errors
    return float(difference.mean()), _standard_error(difference)


def _as_good(setting: Setting, best: Setting) -> bool:
    mean, standard_error = above(setting, best)
    return mean <= standard_error


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _preference(setting: Setting) -> tuple[float, float]:
    mixed = float(setting.mixing.mean())
    return (0.0 if np.isnan(mixed) else mixed), -setting.error


def _reason(
    chosen: Setting,
    best: Setting,
    n_near: int,
    is_stable: bool,  # noqa: FBT001
    n_candidates: int,
    min_stability: float,
) -> str:
    mean, standard_error = above(chosen, best)
    as_good = (
        "has the least error on hidden entries"
        if chosen is best
        else f"has an error on hidden entries that is {mean:.2g} above the least, of "
        f"k = {best.k} and lambda = {best.lam:g}, which is within the standard error of the "
        f"difference ({standard_error:.2g})"
    )
    stable = f"a stability of {chosen.stability.mean():.2f}, " + (
        f"where at least {min_stability:g} was asked for"
        if is_stable
        else f"none that is as good having the {min_stability:g} that was asked for"
    )
    text = (
        f"k = {chosen.k} and lambda = {chosen.lam:g}: "
        + (
            f"the fewest factors of {n_near} settings that are as good as the best"
            if n_near > 1
            else "no other setting is as good"
        )
        + f". It {as_good}, and {stable}."
    )
    if n_candidates > 1 and not np.isnan(chosen.mixing.mean()):
        text += (
            f" Of {n_candidates} values of lambda that are as good with so many factors, it mixes "
            f"the datasets best ({chosen.mixing.mean():.2f})."
        )
    return text


def _ends(chosen: Setting, settings: Sequence[Setting]) -> str:
    """A sentence for each value that is at an end of those compared: beyond it nobody looked."""
    text = ""
    for name, value, values in (
        ("k", chosen.k, {setting.k for setting in settings}),
        ("lambda", chosen.lam, {setting.lam for setting in settings}),
    ):
        if len(values) > 1 and value in (min(values), max(values)):
            end, beyond = ("least", "smaller") if value == min(values) else ("largest", "larger")
            text += f" {value:g} is the {end} {name} compared: {beyond} ones may be better."
    return text


def as_table(choice: Choice) -> pd.DataFrame:
    """A row for each setting.

    Returns
    -------
    DataFrame
        ``k``, ``lam``; ``error`` and its standard error ``error_se``; how far it is
        ``above_best`` and the standard error of that, ``above_best_se``; ``stability`` and
        ``mixing`` with their standard deviations over folds, ``_sd``; whether it is
        ``recommended``; and by fold ``error_1``, ``stability_1``, ``mixing_1``, ...
    """
    import pandas as pd

    best = choice.settings[choice.best]
    rows = []
    for i, setting in enumerate(choice.settings):
        mean, standard_error = above(setting, best)
        row: dict[str, float | bool] = {
            "k": setting.k,
            "lam": setting.lam,
            "error": setting.error,
            "error_se": _standard_error(setting.errors),
            "above_best": mean,
            "above_best_se": standard_error,
            "stability": float(setting.stability.mean()),
            "stability_sd": float(setting.stability.std(ddof=1)),
            "mixing": float(setting.mixing.mean()),
            "mixing_sd": float(setting.mixing.std(ddof=1)),
            "recommended": i == choice.recommended,
        }
        for name in ("errors", "stability", "mixing"):
            for fold, value in enumerate(getattr(setting, name).tolist(), 1):
                row[f"{name.removesuffix('s')}_{fold}"] = value
        rows.append(row)
    return pd.DataFrame(rows)
