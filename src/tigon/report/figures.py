"""The vector figures of the page: the objective, the composition, the heatmap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tigon.report.drawing import as_svg, drawing
from tigon.report.grouping import Grouping
from tigon.report.palette import OTHER

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_MAX_STEPS = 1000
_BLUE, _ORANGE = "#0072B2", "#E69F00"


def short(name: str, limit: int = 28) -> str:
    """``name``, cut in the middle where it is too long for an axis."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9]}…{name[-8:]}"


def draw_history(history: Mapping[str, NDArray[Any]]) -> Markup | None:
    """Loss by step, with its means by epoch.

    The axis spans the 1st to the 99th percentile, so that a first step far off
    does not flatten the rest; what is beyond is drawn as triangles at the edge.
    """
    from matplotlib.figure import Figure

    loss = np.asarray(history.get("loss", ()), dtype=float)
    if not np.isfinite(loss).any():
        return None
    step = np.asarray(history.get("step", np.arange(1, len(loss) + 1)), dtype=float)
    with drawing():
        figure = Figure(figsize=(8.4, 3.2))
        axes = figure.add_subplot()
        axes.set(xlabel="step", ylabel="mean loss per cell")
        _draw_steps(axes, step, loss)
        if kind_of_steps(history) == "iterations":
            axes.plot(step, loss, color=_ORANGE, lw=2, marker="o", ms=4)
            axes.set(xlabel="iteration", ylabel="mean loss per cell")
        elif "epoch" in history:
            epoch = np.asarray(history["epoch"])
            _mark_epochs(axes, step, epoch)
            axes.plot(*epoch_means(step, loss, epoch), color=_ORANGE, lw=2, marker="o", ms=4)
        axes.margins(x=0.01)
        return as_svg(figure, "objective")


def kind_of_steps(history: Mapping[str, NDArray[Any]]) -> Literal["steps", "iterations", "both"]:
    """Steps over mini-batches, iterations over all cells (which have a residual), or both."""
    iterations = np.isfinite(np.asarray(history.get("residual", ()), dtype=float))
    if not iterations.any():
        return "steps"
    return "iterations" if iterations.all() else "both"


def _draw_steps(axes: Axes, step: NDArray[np.float64], loss: NDArray[np.float64]) -> None:
    every = -(-len(loss) // _MAX_STEPS)
    marker = "o" if len(loss) == 1 else None
    axes.plot(step[::every], loss[::every], marker=marker, color=_BLUE, alpha=0.45, lw=0.9)
    low, high = loss_range(loss)
    if low == high:
        return
    margin = 0.04 * (high - low)
    axes.set_ylim(low - margin, high + margin)
    for beyond, edge, triangle in ((loss > high, high, "^"), (loss < low, low, "v")):
        at = step[beyond]
        axes.plot(at, np.full(len(at), edge), triangle, color=_BLUE, ms=5, clip_on=False)


def loss_range(loss: NDArray[np.float64]) -> tuple[float, float]:
    """The 1st and 99th percentile of the losses that are finite, shape (n_steps,)."""
    low, high = np.percentile(loss[np.isfinite(loss)], [1, 99])
    return float(low), float(high)


def epoch_means(
    step: NDArray[np.float64], loss: NDArray[np.float64], epoch: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle step and mean loss of every epoch, each shape (n_epochs,)."""
    _, number = np.unique(epoch, return_inverse=True)
    n_steps = np.bincount(number)
    return np.bincount(number, step) / n_steps, np.bincount(number, loss) / n_steps


def _mark_epochs(axes: Axes, step: NDArray[np.float64], epoch: NDArray[Any]) -> None:
    begins = step[np.flatnonzero(np.diff(epoch, prepend=epoch[0] - 1))].tolist()
    for begin in begins:
        axes.axvline(begin, color=OTHER, lw=0.6, alpha=0.6, zorder=0)
    apart = -(-len(begins) // 12)
    for number, begin in list(enumerate(begins, 1))[::apart]:
        axes.annotate(
            f"epoch {number}" if number == 1 else f"{number}",
            (begin, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=8,
        )


def draw_composition(clusters: Grouping, datasets: Grouping) -> Markup:
    """Share of every dataset in every cluster, below the shares in all cells."""
    from matplotlib.figure import Figure

    table = cross_table(clusters, datasets)
    shares = (
        np.vstack([table.sum(axis=0), table])
        / np.append(len(clusters.codes), clusters.sizes)[:, None]
    )
    names = ["all cells", *(short(name) for name in clusters.names)]
    with drawing():
        figure = Figure(figsize=(8.4, 0.7 + 0.27 * len(names)))
        axes = figure.add_subplot()
        left = np.zeros(len(names))
        for part, colour in _parts(shares, datasets.colours):
            axes.barh(range(len(names)), part, left=left, color=colour, height=0.8)
            left += part
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share of the cells")
        axes.set_yticks(range(len(names)), names)
        axes.axhline(0.5, color=OTHER, lw=0.8)
        for row, size in enumerate([len(clusters.codes), *clusters.sizes.tolist()]):
            axes.annotate(f"{size:,}", (1.01, row), va="center", annotation_clip=False, fontsize=9)
        axes.annotate("cells", (1.01, -0.75), va="bottom", annotation_clip=False, fontsize=9)
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
        return as_svg(figure, "composition")


def cross_table(clusters: Grouping, datasets: Grouping) -> NDArray[np.int64]:
    """Cells by cluster and dataset, int64, (n_clusters, n_datasets)."""
    width = len(datasets.names)
    pairs = clusters.codes.astype(np.int64) * width + datasets.codes
    return np.bincount(pairs, minlength=len(clusters.names) * width).reshape(-1, width)


def _parts(
    shares: NDArray[np.float64], colours: list[str]
) -> list[tuple[NDArray[np.float64], str]]:
    """Columns with their colour, those in grey as one at the end."""
    grey = np.array([colour == OTHER for colour in colours])
    parts = [(shares[:, i], colours[i]) for i in np.flatnonzero(~grey).tolist()]
    if grey.any():
        parts.append((shares[:, grey].sum(axis=1), OTHER))
    return parts


def draw_heatmap(
    means: NDArray[np.float64], clusters: Grouping, numbers: NDArray[np.int64]
) -> Markup:
    """Mean share of each factor by cluster, (n_clusters, k); like factors side by side.

    ``numbers`` are those of the factors, shape (k,).
    """
    from matplotlib.figure import Figure

    order = np.lexsort((-means.max(axis=0), means.argmax(axis=0)))
    k, n_rows = len(order), len(clusters.names)
    with drawing():
        figure = Figure(figsize=(max(3.2, 2.2 + 0.29 * k), max(2.0, 1.0 + 0.27 * n_rows)))
        axes = figure.add_subplot()
        image = axes.imshow(
            means[:, order], cmap="viridis", vmin=0, aspect="auto", interpolation="none"
        )
        axes.set_yticks(range(n_rows), [short(name) for name in clusters.names])
        axes.set_xticks(range(k), [str(factor) for factor in numbers[order]], fontsize=9)
        axes.set(xlabel="factor", ylabel="cluster")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=12)
        bar.set_label("mean share of the factor")
        bar.outline.set_visible(False)
        return as_svg(figure, "heatmap")
