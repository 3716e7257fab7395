"""The picture of the README: cells of a run by dataset, cluster and label.

python benchmarks/picture.py kang.zarr docs/images/kang.png --label-key label
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

import tigon

# Okabe and Ito's colours, told apart by colour-blind readers, then others.
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"),
    *("#8C6BB1", "#7F7F7F", "#B15928", "#B2DF8A"),
)


def panel(axes: Axes, layout: NDArray[np.float32], column: pd.Series, title: str) -> None:
    """Cells coloured by one column, drawn in a shuffled order."""
    names = [str(name) for name in column.astype("category").cat.categories]
    codes = column.astype("category").cat.codes.to_numpy()
    order = np.random.default_rng(0).permutation(len(codes))
    colours = np.array([COLOURS[code % len(COLOURS)] for code in codes])
    axes.scatter(*layout[order].T, s=3, c=colours[order], linewidths=0, rasterized=True)
    handles = [
        plt.Line2D([], [], marker="o", ls="", ms=5, color=COLOURS[i % len(COLOURS)], label=name)
        for i, name in enumerate(names)
    ]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=2, frameon=False
    )
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--label-key", required=True)
    options = parser.parse_args()
    mpl.rcParams.update({"font.size": 8, "axes.titlesize": 10})
    adata = tigon.Run.open(options.run).to_anndata()
    figure, axes = plt.subplots(1, 3, figsize=(10, 4.6), layout="constrained")
    labels = adata.obs[options.label_key]
    for ax, (column, title) in zip(
        axes,
        (
            (adata.obs["tigon_dataset"], "dataset"),
            (adata.obs["tigon_cluster"], "Tigon's clusters"),
            (labels, "published cell types"),
        ),
        strict=True,
    ):
        panel(ax, adata.obsm["X_umap"], column, title)
    figure.savefig(options.out, dpi=140)


if __name__ == "__main__":
    main()
