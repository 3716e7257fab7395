"""The page of a choice of k and lambda: what is recommended, curves, the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.report.drawing import INK, as_svg, drawing
from tigon.report.grouping import printable
from tigon.report.palette import COLOURS, OTHER
from tigon.report.template import fill_in
from tigon.scaling.choosing.config import ChooseConfig
from tigon.scaling.choosing.table import Choice, Comparison, Setting, above
from tigon.wording import tell_settings

if TYPE_CHECKING:
    from markupsafe import Markup

MARKERS = "osD^vP*X<>"
_MOST_TICKS = 20

_Point = Callable[[Setting], tuple[float, float]]
"""Value of a setting, and half the length of its bar."""


def render_choice(
    choice: Choice, compared: Comparison, config: ChooseConfig, title: str, command: str
) -> str:
    """The page as text."""
    best = choice.settings[choice.best]
    mixed = any(np.isfinite(setting.mixing).any() for setting in choice.settings)
    return fill_in(
        "choice.html",
        title=printable(title),
        command=printable(command),
        choice=choice,
        chosen=choice.settings[choice.recommended],
        compared=compared,
        config=config,
        rows=[_row(choice, i) for i in range(len(choice.settings))],
        error_figure=_draw(
            choice, "error on hidden entries", lambda s: (s.error, above(s, best)[1]), "error"
        ),
        stability_figure=_draw(
            choice, "stability", lambda s: _mean_sd(s.stability), "stability", choice.min_stability
        ),
        mixing_figure=_draw(choice, "mixing", lambda s: _mean_sd(s.mixing), "mixing", 1.0)
        if mixed
        else None,
        settings=[(printable(a), printable(b)) for a, b in tell_settings(asdict(config))],
    )


def _mean_sd(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1))


def _row(choice: Choice, i: int) -> dict[str, float | str | bool]:
    setting = choice.settings[i]
    mean, standard_error = above(setting, choice.settings[choice.best])
    stability, mixing = _mean_sd(setting.stability), _mean_sd(setting.mixing)
    return {
        "k": setting.k,
        "lam": f"{setting.lam:g}",
        "error": f"{setting.error:.4f}",
        "above": "least" if i == choice.best else f"{mean:+.4f} ± {standard_error:.4f}",
        "stability": f"{stability[0]:.3f} ± {stability[1]:.3f}",
        "mixing": "–" if np.isnan(mixing[0]) else f"{mixing[0]:.3f} ± {mixing[1]:.3f}",
        "recommended": i == choice.recommended,
    }


def _draw(
    choice: Choice, label: str, point: _Point, name: str, level: float | None = None
) -> Markup:
    """A curve over k for each lambda, with bars; the recommended setting is ringed."""
    from matplotlib.figure import Figure

    lams = sorted({setting.lam for setting in choice.settings})
    with drawing():
        figure = Figure(figsize=(8.4, 3.4))
        axes = figure.add_subplot()
        if level is not None:
            axes.axhline(level, color=OTHER, lw=1, ls="--", zorder=0)
        for i, lam in enumerate(lams):
            of_lam = [setting for setting in choice.settings if setting.lam == lam]
            values, bars = zip(*map(point, of_lam), strict=True)
            axes.errorbar(
                _beside(of_lam, i, len(lams)),
                values,
                yerr=bars,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                ms=5,
                lw=1.5,
                elinewidth=1,
                capsize=2,
                label=f"lambda {lam:g}",
            )
        chosen = choice.settings[choice.recommended]
        at = _beside([chosen], lams.index(chosen.lam), len(lams))
        axes.plot(at, point(chosen)[0], "o", ms=15, mfc="none", mec=INK, mew=1.6)
        axes.set(xlabel="factors k", ylabel=label)
        compared = sorted({setting.k for setting in choice.settings})
        axes.set_xticks(compared[:: -(-len(compared) // _MOST_TICKS)])
        if len(lams) > 1:
            axes.legend(frameon=False, fontsize=9)
        return as_svg(figure, name)


def _beside(settings: Sequence[Setting], i: int, n: int) -> list[float]:
    """Places on the axis: bars of several lambdas side by side."""
    return [setting.k * (1 + 0.008 * (i - (n - 1) / 2)) for setting in settings]
