"""Colours that stay apart for colour-blind eyes.

The first seven are those of Okabe and Ito; the others were chosen one by one,
each as far as possible from all before it, the least of three distances in the
OKLab space counting: as seen, with protanopia and with deuteranopia [1]_.

References
----------
.. [1] Machado, Oliveira and Fernandes, 2009. doi:10.1109/TVCG.2009.113
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OTHER = "#B9BCC2"
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#5A0F00"),
    *("#000096", "#5A00FF", "#A50F5A", "#8778FF", "#4B005A", "#1E5A00", "#87F0C3", "#5A3CA5"),
    *("#69C378", "#F0C3FF", "#E11ED2", "#1E5A69", "#0F1ED2", "#876987", "#78003C", "#965A3C"),
    *("#00F087", "#A50F00", "#0F3C78", "#F05A69", "#5A5AFF", "#003C2D", "#B4D23C", "#FF78E1"),
    *("#00961E", "#873C87", "#2DE1E1", "#5A78D2", "#FF9669", "#4B2D5A", "#B43CB4", "#C39696"),
)
GREY_NAMES = frozenset({"unassigned", "missing"})


def colours_of(names: Sequence[str], sizes: NDArray[np.int64]) -> list[str]:
    """A colour for every group.

    Groups beyond the palette, the smallest ones, and groups that stand for "not
    known" share one grey.
    """
    wanting = [i for i, name in enumerate(names) if name not in GREY_NAMES]
    largest = sorted(wanting, key=lambda i: -int(sizes[i]))[: len(COLOURS)]
    colours = [OTHER] * len(names)
    for colour, i in zip(COLOURS, sorted(largest), strict=False):
        colours[i] = colour
    return colours
