"""What the page says of principal components: pictures of cells, shares, residuals and genes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.report.drawing import as_svg, drawing
from tigon.report.facts import Groups
from tigon.report.grouping import printable
from tigon.report.palette import OTHER
from tigon.report.scatter import draw_cells, scatter
from tigon.scaling.factors.dropping import KeptColumns
from tigon.storage.runs.components import SCORES, Components
from tigon.storage.runs.run import Run
from tigon.wording import tell_certificate

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

N_GENES = 8
"""Genes of either sign."""

_BLUE, _ORANGE = "#0072B2", "#E69F00"

_LEAST = 1e-16
"""Residuals below this are drawn there: zero has no place on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class GeneRow:
    """The genes of a component.

    Attributes
    ----------
    number
        Of the component, from 1 as its axis is called.
    share
        Of the variance.
    positive, negative
        Names of its genes, the largest loadings first.
    """

    number: int
    share: float
    positive: str
    negative: str


def describe_components(run: Run, groups: Groups, seed: int) -> dict[str, Any]:
    """What the page shows beside what it shows of every run."""
    found = run.components
    return {
        "n_components": found.n_components,
        "found": found,
        "share": float(found.variance_ratio.sum()),
        "certificate": tell_exactness(found),
        "scree": draw_scree(found.variance_ratio),
        "residuals": draw_residuals(found.own_residuals, found.tol),
        "genes": gene_rows(found, run.genes),
        **_draw_scores(run, groups, seed),
    }


def tell_exactness(found: Components) -> str:
    """What is proven of the components, in a sentence."""
    told = tell_certificate(found)
    verdict = "As exact as asked for" if found.converged else "Less exact than asked for"
    # The Gram matrix has all components; a probe is random.
    certain = found.solver == "gram" or math.isinf(found.completeness)
    doubt = "" if certain else ", but with a probability of one in a million"
    return f"{verdict}: {told}{doubt}."


def _draw_scores(run: Run, groups: Groups, seed: int) -> dict[str, Any]:
    scores = run.obsm(SCORES)
    if scores.shape[1] < 2:
        return {"n_points": 0, "panels": []}
    points = draw_cells(KeptColumns(scores, np.arange(2)), seed)
    return {
        "n_points": len(points.cells),
        "panels": [
            (grouping, scatter(points, grouping, layout="PC")) for grouping in groups.coloured_by
        ],
    }


def gene_rows(found: Components, genes: tuple[str, ...]) -> list[GeneRow]:
    """The genes with the largest loadings of either sign, a row for each component."""
    names = [printable(gene) for gene in genes]

    def largest(loadings: NDArray[np.float64]) -> str:
        order = np.argsort(-loadings, kind="stable")[:N_GENES]
        return ", ".join(names[gene] for gene in order if loadings[gene] > 0)

    pairs = zip(found.vectors, found.variance_ratio.tolist(), strict=True)
    return [
        GeneRow(number, share, largest(vector), largest(-vector))
        for number, (vector, share) in enumerate(pairs, 1)
    ]


def draw_scree(ratio: NDArray[np.float64]) -> Markup:
    """Share of the variance of each component, and the sum of those up to it."""
    from matplotlib.figure import Figure

    number = np.arange(1, len(ratio) + 1)
    with drawing():
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        each, together = figure.subplots(1, 2)
        each.plot(number, 100 * ratio, "o-", color=_BLUE, ms=3.5, lw=1)
        each.set(xlabel="component", ylabel="% of the variance", ylim=(0, None))
        together.plot(number, 100 * np.cumsum(ratio), "o-", color=_ORANGE, ms=3.5, lw=1)
        together.set(xlabel="components", ylabel="% of the variance, together", ylim=(0, None))
        for axes in (each, together):
            number_components(axes, len(ratio))
        return as_svg(figure, "scree")


def draw_residuals(residuals: NDArray[np.float64], tol: float) -> Markup:
    """Residual of each component, relative to its singular value, beside what was asked for."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    number = np.arange(1, len(residuals) + 1)
    with drawing():
        figure = Figure(figsize=(8.4, 2.6), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(tol, color=OTHER, lw=1.2, ls="--")
        axes.annotate(
            f"asked for: {tol:g}", (1.0, tol), xycoords=("axes fraction", "data"),
            xytext=(0, 3), textcoords="offset points", ha="right", fontsize=9,
        )  # fmt: skip
        axes.plot(number, np.maximum(residuals, _LEAST), "o", color=_BLUE, ms=4)
        axes.set(xlabel="component", ylabel="residual / singular value", yscale="log")
        # Powers of ten as mathematics would be shown as their source.
        axes.yaxis.set_major_formatter("{x:.0e}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        number_components(axes, len(residuals))
        return as_svg(figure, "residuals")


def number_components(axes: Axes, n: int) -> None:
    """Whole numbers below the axis, from 1 to at most ``n``."""
    from matplotlib.ticker import MaxNLocator

    ticks = np.asarray(MaxNLocator(integer=True).tick_values(1, n))
    axes.set_xticks(np.unique(np.clip(ticks[ticks <= n], 1, n)))
    axes.set_xlim(0.5, n + 0.5)
