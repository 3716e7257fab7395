"""Cells sorted into named, coloured groups: the datasets, the clusters, the labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.report.palette import GREY_NAMES, OTHER, colours_of


@dataclass(frozen=True)
class Grouping:
    """A partition of the cells.

    Attributes
    ----------
    title
        What the groups are ("cluster"); "" of one that is all cells.
    codes
        Group of every cell, int32, (n,).
    names
        Names of the groups, printable.
    sizes
        Cells of every group, int64, (n_groups,).
    colours
        A colour ("#RRGGBB") for every group.
    """

    title: str
    codes: NDArray[np.int32]
    names: list[str]
    sizes: NDArray[np.int64]
    colours: list[str]

    @property
    def caption(self) -> str:
        """What to write above a picture that is coloured by it."""
        return f"by {self.title}" if self.title else "all cells"

    @property
    def n_known(self) -> int:
        """Groups that stand for something known."""
        return sum(name not in GREY_NAMES for name in self.names)

    @property
    def legend(self) -> list[tuple[str, str, int]]:
        """(name, colour, cells) by group, the groups in grey as one at the end."""
        rows = list(zip(self.names, self.colours, self.sizes.tolist(), strict=True))
        shown = [row for row in rows if row[1] != OTHER]
        known = [row for row in rows if row[1] == OTHER and row[0] not in GREY_NAMES]
        unknown = [row for row in rows if row[0] in GREY_NAMES]
        if known:
            name = f"{len(known):,} others" if len(known) > 1 else known[0][0]
            shown.append((name, OTHER, sum(row[2] for row in known)))
        return shown + unknown


def group_cells(title: str, column: pd.Series, order: Sequence[str] | None = None) -> Grouping:
    """Group cells by a column of ``obs``; empty groups are left out.

    Parameters
    ----------
    title
        What the groups are.
    column
        The column; missing values become the group "missing".
    order
        Names in the order wanted. None: natural order, "unassigned" last.
    """
    values = pd.Categorical(column)
    # Missing values have code -1: the last of these names.
    texts = [*map(str, values.categories), "missing"]
    present = {texts[code] for code in np.unique(values.codes).tolist()}
    kept = [name for name in order or () if name in present]
    names = kept + sorted(present.difference(kept), key=_natural)
    position = {name: i for i, name in enumerate(names)}
    codes = np.array([position.get(text, -1) for text in texts], dtype=np.int32)[values.codes]
    sizes = np.bincount(codes, minlength=len(names)).astype(np.int64)
    shown = [printable(name) for name in names]
    return Grouping(title, codes, shown, sizes, colours_of(shown, sizes))


def printable(name: str) -> str:
    """``name`` without the control characters that a page must not hold."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)


def _natural(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Key that puts "2" before "10", and "unassigned" after all."""
    parts = re.findall(r"\d+|\D+", name)
    numbers = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return name in GREY_NAMES, numbers
