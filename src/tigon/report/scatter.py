"""Cells as points in a plane, coloured by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.report.drawing import as_png, drawing
from tigon.report.grouping import Grouping
from tigon.report.palette import GREY_NAMES
from tigon.scaling.embedding.rows import gather
from tigon.storage.rows import RowReader

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 100_000


@dataclass(frozen=True)
class Points:
    """Cells to draw, in the order to draw them.

    Attributes
    ----------
    cells
        Positions of the cells in the run, int64, (n_points,).
    xy
        Where they are, float32, (n_points, 2).
    """

    cells: NDArray[np.int64]
    xy: NDArray[np.float32]


def draw_cells(rows: RowReader, seed: int = 0) -> Points:
    """Cells in a shuffled order, so that no group hides another; at most ``MAX_POINTS``."""
    n = rows.shape[0]
    cells = np.random.default_rng(seed).choice(n, min(n, MAX_POINTS), replace=False)
    order = np.argsort(cells)
    xy = np.empty((len(cells), 2), dtype=np.float32)
    xy[order] = gather(rows, cells[order])
    return Points(cells, xy)


def scatter(
    points: Points, groups: Grouping, *, layout: str = "UMAP", names_inside: bool = False
) -> str:
    """Draw the points coloured by group.

    Parameters
    ----------
    points
        The cells.
    groups
        Their groups.
    layout
        What the layout is called.
    names_inside
        Write the name of every group at the middle of its points.

    Returns
    -------
    str
        The address of a PNG.
    """
    from matplotlib.figure import Figure

    codes = groups.codes[points.cells]
    with drawing():
        figure = Figure(figsize=(5.6, 5.6), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        colours = np.array(groups.colours)[codes]
        size = float(np.clip(20_000 / len(codes), 0.4, 14))
        axes.scatter(points.xy[:, 0], points.xy[:, 1], s=size, c=colours.tolist(), linewidths=0)
        _bare(axes, layout)
        if names_inside:
            _write_names(axes, points.xy, codes, groups)
        return as_png(figure)


def _bare(axes: Axes, layout: str) -> None:
    """Take the ticks away: distances have no unit in this picture."""
    axes.set(xticks=[], yticks=[], xlabel=f"{layout} 1", ylabel=f"{layout} 2")
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["left", "bottom"]].set_color("#B9BCC2")


def _write_names(
    axes: Axes, xy: NDArray[np.float32], codes: NDArray[np.int32], groups: Grouping
) -> None:
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for code in np.unique(codes).tolist():
        if groups.names[code] in GREY_NAMES:
            continue
        x, y = np.median(xy[codes == code], axis=0).tolist()
        axes.text(
            x,
            y,
            groups.names[code][:24],
            ha="center",
            va="center",
            fontweight="bold",
            path_effects=halo,
        )
