"""Simulated atlases of any size, with known cell types and donor effects.

    python benchmarks/simulate.py --cells 20000 --genes 5000 --donors 3 --out DIR

writes ``DIR/donor1.h5ad``, ``DIR/donor2.h5ad``, ... a tile of cells at a time.

The model. Cell c of type t and donor d has N_c molecules, log-normal around the
donor's depth, each of which comes from gene g with probability

    p_cg = (1 - a_c - m_c) softmax_g(b + u_t + e_d + f_dt) + a_c q_g + m_c r_g

b    log expression of every gene, normal with sd ``BASE_SD``
u_t  the type's markers: ``MARKER_SHARE`` of all genes, raised by a normal log fold;
     half of them are shared with the sister type (types 2i and 2i + 1)
e_d  the donor's effect on every gene, normal with sd ``donor_sd``
f_dt what the donor does to this type alone, normal with sd ``donor_type_sd``
q    a programme that cells of all types run more or less (a_c, beta-distributed)
r    the mitochondrial genes, whose share of a cell is m_c (beta-distributed)

N_c is Poisson given the cell, so the counts are independent Poisson given the cell
and over-dispersed between cells. Types come in unequal proportions that differ from
donor to donor (Dirichlet); the last type is found in the first donor only.

Invariant: a cell depends on ``Atlas`` and on its place in its donor, never on the
block in which it is asked for. Every tile of ``TILE`` cells draws from a seed of its
own, so any stretch can be made alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

TILE = 1000  # cells that share a seed
BASE_SD = 1.6
MARKER_SHARE = 0.06
MARKER_FOLD = (1.3, 0.6)  # mean and sd of the log fold
DEPTH_SD = 0.35  # of the log of molecules per cell, within a donor
TYPE_NAMES = (
    "CD4 T",
    "CD8 T",
    "B",
    "Plasma",
    "Monocyte",
    "Dendritic",
    "NK",
    "Platelet",
    "Erythroid",
    "Progenitor",
)
MITO = [f"MT-{name}" for name in ("ND1", "ND2", "CO1", "CO2", "ATP8", "ATP6", "CO3")] + [
    f"MT-{name}" for name in ("ND3", "ND4L", "ND4", "ND5", "ND6", "CYB")
]


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """What is simulated; the same fields give the same cells, bit for bit.

    Attributes
    ----------
    n_cells, n_genes, n_donors, n_types
        Sizes. Donors get unequal shares of the cells.
    n_molecules
        Median molecules per cell of a donor of average depth.
    donor_sd, donor_type_sd
        Standard deviations of e_d and f_dt, in natural logs.
    random_state
        Root of every seed.
    """

    n_cells: int = 20_000
    n_genes: int = 5_000
    n_donors: int = 3
    n_types: int = 8
    n_molecules: float = 1500.0
    donor_sd: float = 0.4
    donor_type_sd: float = 0.15
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.n_genes < 10 * len(MITO):
            raise ValueError(f"too few genes ({self.n_genes}): at least {10 * len(MITO)}")
        if not 2 <= self.n_types <= len(TYPE_NAMES):
            raise ValueError(f"types out of range ({self.n_types}): 2 to {len(TYPE_NAMES)}")
        if not 1 <= self.n_donors <= self.n_cells:
            raise ValueError(f"donors out of range ({self.n_donors}): 1 to {self.n_cells} cells")

    @property
    def genes(self) -> list[str]:
        """Names of the genes, the mitochondrial ones last."""
        n_nuclear = self.n_genes - len(MITO)
        return [f"GENE{i:05d}" for i in range(1, n_nuclear + 1)] + MITO

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the cell types; the last is private to the first donor."""
        return TYPE_NAMES[: self.n_types]

    @cached_property
    def donor_sizes(self) -> list[int]:
        """Cells of each donor, in proportion 1.5 : 1.25 : 1 : 1 : ..., summing to n_cells."""
        weights = np.maximum(1.5 - 0.25 * np.arange(self.n_donors), 1.0)
        ends = np.round(np.cumsum(weights) / weights.sum() * self.n_cells).astype(int)
        return [int(size) for size in np.diff(ends, prepend=0)]

    @cached_property
    def _programmes(self) -> Programmes:
        return draw_programmes(self)

    def cells(self, donor: int, start: int, stop: int) -> tuple[sparse.csr_array, pd.DataFrame]:
        """Counts (cells x genes, int32) and obs of cells start to stop of a donor."""
        tiles = range(start // TILE, -(-stop // TILE))
        drawn = [draw_tile(self, self._programmes, donor, tile) for tile in tiles]
        here = slice(start - tiles.start * TILE, stop - tiles.start * TILE)
        counts = sparse.csr_array(sparse.vstack([counts for counts, _ in drawn], format="csr"))
        return counts[here], pd.concat([obs for _, obs in drawn]).iloc[here]

    def blocks(
        self, donor: int, n_rows: int = 10 * TILE
    ) -> Iterator[tuple[sparse.csr_array, pd.DataFrame]]:
        """All cells of a donor, ``n_rows`` at a time (quickest at multiples of TILE)."""
        size = self.donor_sizes[donor]
        for start in range(0, size, n_rows):
            yield self.cells(donor, start, min(start + n_rows, size))


@dataclass(frozen=True)
class Programmes:
    """What all tiles share: probabilities sum to 1 over the genes.

    Attributes
    ----------
    by_type
        float64, shape (n_donors, n_types, n_genes).
    activity, mito
        The programmes q and r, float64, shape (n_genes,).
    proportions
        Of the types in each donor, float64, shape (n_donors, n_types).
    depth
        Median molecules per cell, float64, shape (n_donors,).
    """

    by_type: NDArray[np.float64]
    activity: NDArray[np.float64]
    mito: NDArray[np.float64]
    proportions: NDArray[np.float64]
    depth: NDArray[np.float64]


def draw_programmes(atlas: Atlas) -> Programmes:
    """Everything random that is not a cell."""
    rng = np.random.default_rng(np.random.SeedSequence(atlas.random_state, spawn_key=(0,)))
    n_donors, n_types, n_genes = atlas.n_donors, atlas.n_types, atlas.n_genes
    n_nuclear = n_genes - len(MITO)
    base = rng.normal(0.0, BASE_SD, n_genes)
    log_p = base + _markers(rng, n_types, n_genes)  # (n_types, n_genes)
    donor = rng.normal(0.0, atlas.donor_sd, (n_donors, 1, n_genes))
    donor_type = rng.normal(0.0, atlas.donor_type_sd, (n_donors, n_types, n_genes))
    activity = base + _markers(rng, 1, n_genes)[0]
    return Programmes(
        by_type=_softmax(log_p + donor + donor_type, n_nuclear),
        activity=_softmax(activity, n_nuclear),
        mito=np.concatenate([np.zeros(n_nuclear), rng.dirichlet(np.full(len(MITO), 5.0))]),
        proportions=_proportions(rng, n_donors, n_types),
        depth=atlas.n_molecules * np.exp(rng.normal(0.0, 0.25, n_donors)),
    )


def _markers(rng: np.random.Generator, n_types: int, n_genes: int) -> NDArray[np.float64]:
    """Log folds u, shape (n_types, n_genes): zero but for each type's markers."""
    n_markers = max(2, round(MARKER_SHARE * n_genes))
    folds = np.zeros((n_types, n_genes))
    for t in range(n_types):
        own = rng.choice(n_genes, n_markers, replace=False)
        folds[t, own] = rng.normal(*MARKER_FOLD, n_markers)
        if t % 2:  # half of the sister's markers
            sister = np.flatnonzero(folds[t - 1])[::2]
            folds[t, sister] = folds[t - 1, sister]
    return folds


def _softmax(log_p: NDArray[np.float64], n_nuclear: int) -> NDArray[np.float64]:
    """Probabilities over the nuclear genes; the mitochondrial ones have their own programme."""
    p = np.exp(log_p)
    p[..., n_nuclear:] = 0.0
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


def _proportions(rng: np.random.Generator, n_donors: int, n_types: int) -> NDArray[np.float64]:
    """Shares of the types, from 0.06 to about 0.25 overall and uneven between donors."""
    overall = np.linspace(1.0, 3.0, n_types)[::-1]
    shares = rng.dirichlet(8.0 * overall / overall.mean(), n_donors)
    shares = np.maximum(shares, 0.02)
    shares[0, -1] = 0.08
    shares[1:, -1] = 0.0
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def draw_tile(
    atlas: Atlas, programmes: Programmes, donor: int, tile: int
) -> tuple[sparse.csr_array, pd.DataFrame]:
    """TILE cells (the donor's last tile is drawn whole as well), from a seed of their own."""
    seed = np.random.SeedSequence(atlas.random_state, spawn_key=(1, donor, tile))
    rng = np.random.default_rng(seed)
    types = rng.choice(atlas.n_types, TILE, p=programmes.proportions[donor])
    rates = programmes.depth[donor] * np.exp(rng.normal(0.0, DEPTH_SD, TILE))
    activity, mito = rng.beta(1.5, 10.0, TILE), rng.beta(3.0, 60.0, TILE)
    keys = [
        _molecules(rng, programmes.activity, np.arange(TILE), rates * activity),
        _molecules(rng, programmes.mito, np.arange(TILE), rates * mito),
    ]
    own = rates * (1.0 - activity - mito).clip(0.0)
    for t in range(atlas.n_types):
        rows = np.flatnonzero(types == t)
        keys.append(_molecules(rng, programmes.by_type[donor, t], rows, own[rows]))
    counts = _count(np.concatenate(keys), atlas.n_genes)
    return counts, _obs(atlas, donor, tile, types)


def _molecules(
    rng: np.random.Generator,
    p: NDArray[np.float64],
    rows: NDArray[np.int64],
    rates: NDArray[np.float64],
) -> NDArray[np.int64]:
    """One key (row * n_genes + gene) per molecule, Poisson(rate) molecules in every row.

    Independent draws from p are a multinomial count of genes in random order, which
    costs a shuffle instead of a search per molecule.
    """
    n = rng.poisson(rates)
    genes = np.repeat(np.arange(len(p)), rng.multinomial(n.sum(), p))
    rng.shuffle(genes)
    return np.asarray(np.repeat(rows, n) * len(p) + genes)


def _count(keys: NDArray[np.int64], n_genes: int) -> sparse.csr_array:
    """Molecules counted by cell and gene: sorted CSR, int32."""
    entries, counts = np.unique(keys, return_counts=True)
    indptr = np.searchsorted(entries, np.arange(TILE + 1) * n_genes)
    shape = (TILE, n_genes)
    return sparse.csr_array((counts.astype(np.int32), entries % n_genes, indptr), shape=shape)


def _obs(atlas: Atlas, donor: int, tile: int, types: NDArray[np.int64]) -> pd.DataFrame:
    names = [f"donor{donor + 1}-cell{tile * TILE + i:08d}" for i in range(TILE)]
    label = pd.Categorical.from_codes(types, list(atlas.types))
    donors = pd.Categorical.from_codes(
        np.full(TILE, donor), [f"donor{i + 1}" for i in range(atlas.n_donors)]
    )
    return pd.DataFrame({"cell_type": label, "donor": donors}, index=names)


def write_donor(atlas: Atlas, donor: int, path: Path) -> None:
    """Write a donor as an AnnData file, one block of counts in memory at a time."""
    with h5py.File(path, "w") as file:
        _encode(file, "anndata", "0.1.0")
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            _encode(file.create_group(name), "dict", "0.1.0")
        _write_frame(file, "var", atlas.genes)
        indptr, obs = [np.zeros(1, np.int64)], []
        X = _create_matrix(file)
        for counts, block_obs in atlas.blocks(donor):
            indptr.append(indptr[-1][-1] + counts.indptr[1:])
            _append(X["data"], counts.data.astype(np.float32))
            _append(X["indices"], counts.indices.astype(np.int32))
            obs.append(block_obs)
        X["indptr"] = np.concatenate(indptr)
        X.attrs["shape"] = np.array([atlas.donor_sizes[donor], atlas.n_genes])
        table = pd.concat(obs)
        frame = _write_frame(file, "obs", list(table.index), ["cell_type", "donor"])
        for column in ("cell_type", "donor"):
            _write_categories(frame, column, table[column])


def _encode(item: h5py.Group | h5py.Dataset, encoding: str, version: str) -> None:
    item.attrs["encoding-type"] = encoding
    item.attrs["encoding-version"] = version


def _create_matrix(file: h5py.File) -> h5py.Group:
    X = file.create_group("X")
    _encode(X, "csr_matrix", "0.1.0")
    settings = dict(shape=(0,), maxshape=(None,), chunks=(1 << 17,), compression=1, shuffle=True)
    X.create_dataset("data", dtype=np.float32, **settings)
    X.create_dataset("indices", dtype=np.int32, **settings)
    return X


def _append(dataset: h5py.Dataset, values: NDArray[np.generic]) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _write_frame(
    file: h5py.File, name: str, index: list[str], columns: list[str] | None = None
) -> h5py.Group:
    frame = file.create_group(name)
    _encode(frame, "dataframe", "0.2.0")
    frame.attrs["_index"] = "_index"
    frame.attrs.create("column-order", columns or [], dtype=h5py.string_dtype())
    _write_strings(frame, "_index", index)
    return frame


def _write_strings(group: h5py.Group, name: str, strings: list[str]) -> None:
    _encode(
        group.create_dataset(name, data=strings, dtype=h5py.string_dtype()), "string-array", "0.2.0"
    )


def _write_categories(frame: h5py.Group, name: str, column: pd.Series[str]) -> None:
    group = frame.create_group(name)
    _encode(group, "categorical", "0.2.0")
    group.attrs["ordered"] = False
    _write_strings(group, "categories", list(column.cat.categories))
    _encode(group.create_dataset("codes", data=column.cat.codes.to_numpy()), "array", "0.2.0")


def write_atlas(atlas: Atlas, out: Path) -> list[Path]:
    """Write every donor into the folder ``out``; the paths, in the donors' order."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"donor{donor + 1}.h5ad" for donor in range(atlas.n_donors)]
    for donor, path in enumerate(paths):
        write_donor(atlas, donor, path)
    return paths


def main() -> None:
    """Write the atlas that the command line asks for."""
    parser = argparse.ArgumentParser(description="Simulate an atlas: one .h5ad per donor.")
    parser.add_argument("--cells", type=int, default=Atlas.n_cells)
    parser.add_argument("--genes", type=int, default=Atlas.n_genes)
    parser.add_argument("--donors", type=int, default=Atlas.n_donors)
    parser.add_argument("--types", type=int, default=Atlas.n_types)
    parser.add_argument("--random-state", type=int, default=Atlas.random_state)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    atlas = Atlas(
        n_cells=given.cells,
        n_genes=given.genes,
        n_donors=given.donors,
        n_types=given.types,
        random_state=given.random_state,
    )
    for path in write_atlas(atlas, given.out):
        print(path)


if __name__ == "__main__":
    main()
