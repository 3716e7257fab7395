"""Counts with planted factors, in memory as a pack holds them: for the kernel benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import DatasetTile, cut_tiles
from tigon.storage.packs.blocks import PackBlock


@dataclass(frozen=True)
class Resident:
    """Packed counts of consecutive mini-batches.

    Attributes
    ----------
    indptr, genes, counts
        CSR: int64 (n + 1,), uint16 (nnz,), uint16 (nnz,).
    n_genes, batch_cells
        Sizes.
    """

    indptr: NDArray[np.int64]
    genes: NDArray[np.uint16]
    counts: NDArray[np.uint16]
    n_genes: int
    batch_cells: int

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.indptr) - 1

    @property
    def density(self) -> float:
        """Share of the counts that are not zero."""
        return len(self.genes) / self.n_cells / self.n_genes

    @property
    def weights(self) -> NDArray[np.float32]:
        """One over each cell's total count."""
        sums = np.concatenate([np.zeros(1), np.cumsum(self.counts, dtype=np.float64)])
        totals = sums[self.indptr[1:]] - sums[self.indptr[:-1]]
        return (1 / np.maximum(totals, 1)).astype(np.float32)

    def scaled(self, scale: NDArray[np.float64], cells: slice) -> sparse.csr_array:
        """Some cells as the solver sees them, float64."""
        shape = (self.n_cells, self.n_genes)
        X = sparse.csr_array((self.counts.astype(float), self.genes, self.indptr), shape)[cells]
        return sparse.csr_array(X.multiply(self.weights[cells, None]).multiply(scale[None, :]))

    def repeated(self, times: int) -> Resident:
        """The same cells over and over, as arrays of their own."""
        lengths = np.tile(np.diff(self.indptr), times)
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        genes, counts = np.tile(self.genes, times), np.tile(self.counts, times)
        return Resident(indptr, genes, counts, self.n_genes, self.batch_cells)

    def problem(self, n_datasets: int, lam: float) -> Problem:
        """Cells belong to the datasets in turn; genes are scaled to root mean square 1."""
        X = self.scaled(np.ones(self.n_genes), slice(0, min(self.n_cells, 20_000)))
        rms = np.sqrt(np.asarray(X.power(2).mean(axis=0)).ravel())
        scale = np.divide(1, rms, out=np.zeros_like(rms), where=rms > 0)
        n = np.bincount(np.arange(self.n_cells) % n_datasets, minlength=n_datasets)
        measured = np.ones((n_datasets, self.n_genes), bool)
        return Problem(n, measured, np.tile(scale, (n_datasets, 1)), lam)

    def batches(self, n_datasets: int) -> list[list[DatasetTile]]:
        """Mini-batches, cut into tiles."""
        weights = self.weights
        datasets = (np.arange(self.batch_cells) % n_datasets).astype(np.int32)
        found = []
        for start in range(0, self.n_cells - self.batch_cells + 1, self.batch_cells):
            stop = start + self.batch_cells
            first, last = self.indptr[start], self.indptr[stop]
            block = PackBlock(
                np.arange(start, stop),
                datasets,
                weights[start:stop],
                self.indptr[start : stop + 1] - first,
                self.genes[first:last],
                self.counts[first:last],
            )
            found.append(list(cut_tiles(block)))
        return found


def draw(n_cells: int, n_genes: int, density: float, k: int, batch_cells: int) -> Resident:
    """Poisson counts of k planted factors and about the given share of non-zeros.

    Genes differ in how much they are expressed, as real ones do: in the data sets that
    the project is tested on the 500 most expressed of 2,000 variable genes hold two
    thirds of all non-zeros.
    """
    rng = np.random.default_rng(0)
    W = rng.gamma(0.4, 1.0, (k, n_genes)) * rng.lognormal(0.0, 1.0, n_genes)
    H = rng.gamma(0.3, 1.0, (n_cells, k))
    rate = _rate(H[:500] @ W, density)
    lengths, genes, counts = [], [], []
    for start in range(0, n_cells, 2000):
        X = rng.poisson(rate * H[start : start + 2000] @ W).astype(np.uint16)
        cell, gene = np.nonzero(X)
        lengths.append(np.bincount(cell, minlength=len(X)))
        genes.append(gene.astype(np.uint16))
        counts.append(X[cell, gene])
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
    return Resident(indptr, np.concatenate(genes), np.concatenate(counts), n_genes, batch_cells)


def _rate(mean: NDArray[np.float64], density: float) -> float:
    """What to multiply Poisson means by so that the given share of counts is not zero."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        too_dense = (1 - np.exp(-middle * mean)).mean() > density
        low, high = (low, middle) if too_dense else (middle, high)
    return high
