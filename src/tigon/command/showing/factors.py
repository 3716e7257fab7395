"""The factors of a run, as plain facts and as text for people."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tigon.scaling.factors.listing import FactorListing
    from tigon.storage.runs.run import Run

Facts = dict[str, Any]

_WIDE = 100
"""Columns of a terminal from which on a factor has one line in a table."""

_FIGURES = {"depth": "depth", "genes": "genes", "mito": "mito", "ribo": "ribo"}

_ABSENT = {
    "depth": "The run does not keep how many counts its cells have.",
    "genes": "The run does not keep how many genes are detected in its cells.",
    "mito": "The run keeps no mitochondrial share of its cells: its counts have no gene named "
    "MT-..., or it is a projection.",
    "ribo": "The run keeps no ribosomal share of its cells: its counts have no gene named RPS... "
    "or RPL..., an earlier version of Tigon made it, or it is a projection.",
}
"""Why there is no correlation with a figure."""


def describe_factors(listing: FactorListing, run: Run, path: str) -> Facts:
    """The listing of a run, which is at a path, as plain facts."""
    from tigon.scaling.projecting import PROJECTED
    from tigon.scaling.recalling import shared_genes

    shared = shared_genes(run)
    use, unevenness = listing.evened_use, listing.unevenness
    factors = [
        {
            "number": f,
            "loadings": float(listing.loadings[f]),
            "n_cells": int(listing.n_strongest[f]),
            "cells": float(listing.n_strongest[f] / max(1, listing.n_loaded)),
            "genes": listing.genes[f],
            "unevenness": float(unevenness[f]),
            "datasets": {
                name: {"use": float(use[i, f]), "own": float(listing.own[i, f])}
                for i, name in enumerate(listing.datasets)
            },
            "correlations": {
                name: {"within": float(found.within[f]), "overall": float(found.overall[f])}
                for name, found in listing.correlations.items()
            },
            "technical": listing.reasons[f],
            "dropped": f in listing.dropped,
        }
        for f in range(len(listing.genes))
    ]
    return {
        "kind": "factors",
        "path": path,
        "n_cells": listing.n_cells,
        "n_loaded": listing.n_loaded,
        "n_genes": len(run.genes),
        "n_shared_genes": len(run.genes) if shared is None else int(shared.sum()),
        "laid_on": run.config.get(PROJECTED, {}).get("run"),
        "missing": listing.missing,
        "technical": listing.technical,
        "dropped": list(listing.dropped),
        "factors": factors,
    }


def tell_factors(facts: Facts, width: int | None = None) -> str:
    """Facts of :func:`describe_factors` as text for a terminal of some width."""
    width = width or shutil.get_terminal_size((_WIDE, 24)).columns
    told = _tell_table(facts, width) if width >= _WIDE else _tell_blocks(facts, width)
    return "\n".join([told, "", *_wrapped(_notes(facts), width)])


def _tell_table(facts: Facts, width: int) -> str:
    """One line a factor, top genes wrapped."""
    from rich.table import Table

    several = _several(facts)
    figures = [name for name in _FIGURES if name not in facts["missing"]]
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("factor", "loadings", "cells"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("top genes", ratio=1)
    if several:
        table.add_column("used most by", max_width=24)
    for name in figures:
        table.add_column(_FIGURES[name], justify="right", no_wrap=True)
    table.add_column("looks", no_wrap=True)
    for factor in facts["factors"]:
        r = [_tell_r(factor["correlations"][name]["within"]) for name in figures]
        table.add_row(
            str(factor["number"]),
            f"{factor['loadings']:.1%}",
            f"{factor['cells']:.1%}",
            " ".join(factor["genes"]),
            *([_tell_use(factor)] if several else []),
            *r,
            _tell_look(factor),
        )
    return _rendered(table, width)


def _tell_blocks(facts: Facts, width: int) -> str:
    """Some lines a factor."""
    lines: list[str] = []
    for factor in facts["factors"]:
        look = _tell_look(factor)
        lines.append(f"factor {factor['number']}" + (f"  {look}" if look else ""))
        parts = [
            f"{factor['loadings']:.1%} of loadings, strongest in {factor['cells']:.1%} of cells",
            " ".join(factor["genes"]),
        ]
        if _several(facts):
            parts.append(f"used most by {_tell_use(factor)}")
        r = [
            f"{_FIGURES[name]} {_tell_r(found['within'])}"
            for name, found in factor["correlations"].items()
        ]
        lines += _wrapped([*parts, ", ".join(r)], width, "  ")
    return "\n".join(lines)


def _notes(facts: Facts) -> Iterator[str]:
    yield (
        "Correlations are of a factor's share with what the column names, within clusters and "
        "datasets; used most: the dataset's part if all had as many cells."
    )
    n_others = facts["n_genes"] - facts["n_shared_genes"]
    if n_others:
        yield (
            f"Top genes are of the {facts['n_shared_genes']:,} that all datasets measure; the "
            f"{n_others:,} others have weights in V alone, and are in the report."
        )
    for factor in facts["factors"]:
        if factor["technical"]:
            yield f"factor {factor['number']} looks technical: {'; '.join(factor['technical'])}"
    for name in facts["missing"]:
        yield _ABSENT[name]
    if facts["dropped"]:
        numbers = ", ".join(map(str, facts["dropped"]))
        yield f"Alignment, clusters and layout leave out: {numbers}."
    chosen = sorted({*facts["technical"], *facts["dropped"]})
    if set(chosen) - set(facts["dropped"]) and len(chosen) < len(facts["factors"]):
        numbers = ",".join(map(str, chosen))
        laid_on = facts["laid_on"]
        yield (
            f"To leave them out: tigon factors {laid_on or facts['path']} --drop-factors {numbers} "
            "--out ..." + (", and project again" if laid_on else "")
        )


def _several(facts: Facts) -> bool:
    """Whether it is known which of several datasets uses a factor most."""
    of_first = facts["factors"][0]["datasets"].values()
    return len(of_first) > 1 and not any(math.isnan(found["use"]) for found in of_first)


def _tell_use(factor: Facts) -> str:
    name, found = max(factor["datasets"].items(), key=lambda item: item[1]["use"])
    return f"{name} {found['use']:.0%}"


def _tell_r(r: float) -> str:
    return "–" if math.isnan(r) else f"{r:+.2f}"


def _tell_look(factor: Facts) -> str:
    words = ["technical"] * bool(factor["technical"]) + ["dropped"] * factor["dropped"]
    return ", ".join(words)


def _wrapped(texts: Any, width: int, indent: str = "") -> list[str]:
    from textwrap import wrap

    return [
        line
        for text in texts
        for line in wrap(
            text,
            max(20, width),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _rendered(table: Any, width: int) -> str:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=width, color_system=None, markup=False)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())
