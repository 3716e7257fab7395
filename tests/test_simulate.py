"""The simulated atlas: the same cells however it is read, and the structure it promises."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import anndata
import numpy as np
import pytest
from scipy import sparse


def _load(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulate = _load("simulate")
SMALL = simulate.Atlas(n_cells=4200, n_genes=400, n_molecules=200, random_state=3)


@pytest.mark.parametrize("n_rows", [700, 1000, 10_000])
def test_blocks_are_the_same_cells_whatever_their_size(n_rows: int) -> None:
    whole, obs = SMALL.cells(1, 0, SMALL.donor_sizes[1])
    blocks = list(SMALL.blocks(1, n_rows))
    joined = sparse.vstack([counts for counts, _ in blocks], format="csr")
    assert np.array_equal(joined.toarray(), whole.toarray())
    assert [name for _, block in blocks for name in block.index] == list(obs.index)


def test_a_tile_deep_inside_is_made_alone() -> None:
    huge = simulate.Atlas(n_cells=3_000_000, n_genes=400, n_molecules=50)
    counts, obs = huge.cells(0, 1_000_500, 1_000_520)
    wide, _ = huge.cells(0, 1_000_000, 1_001_000)
    assert np.array_equal(counts.toarray(), wide[500:520].toarray())
    assert obs.index[0] == "donor1-cell01000500"


def test_seed_decides_the_counts() -> None:
    other = simulate.Atlas(n_cells=4200, n_genes=400, n_molecules=200, random_state=4)
    first, _ = SMALL.cells(0, 0, 100)
    assert np.array_equal(first.toarray(), SMALL.cells(0, 0, 100)[0].toarray())
    assert not np.array_equal(first.toarray(), other.cells(0, 0, 100)[0].toarray())


def test_counts_are_sorted_csr_of_whole_numbers() -> None:
    counts, _ = SMALL.cells(2, 0, 500)
    assert counts.dtype == np.int32
    assert counts.has_canonical_format
    assert counts.data.min() >= 1


def test_last_type_is_private_and_the_others_are_shared() -> None:
    seen = [set(SMALL.cells(d, 0, SMALL.donor_sizes[d])[1].cell_type) for d in range(3)]
    assert seen[0] == set(SMALL.types)
    assert seen[1] == seen[2] == set(SMALL.types[:-1])


def test_library_sizes_spread_as_stated() -> None:
    counts, _ = SMALL.cells(0, 0, SMALL.donor_sizes[0])
    log_totals = np.log(counts.sum(axis=1))
    depth = SMALL._programmes.depth[0]
    # 1,680 cells: the median within 5 standard errors; Poisson noise adds 1/depth.
    error = 5 * 1.25 * simulate.DEPTH_SD / np.sqrt(len(log_totals))
    assert np.median(log_totals) == pytest.approx(np.log(depth), abs=error)
    sd = np.sqrt(simulate.DEPTH_SD**2 + 1 / depth)
    assert log_totals.std() == pytest.approx(sd, rel=5 / np.sqrt(2 * len(log_totals)))


def test_counts_have_the_expectation_of_the_model() -> None:
    programmes = simulate.draw_programmes(SMALL)
    counts, obs = SMALL.cells(0, 0, SMALL.donor_sizes[0])
    of_type = counts[np.flatnonzero(obs.cell_type == SMALL.types[0])]
    drawn = of_type.sum(axis=0) / of_type.sum()
    a, m = 1.5 / 11.5, 3.0 / 63.0  # means of the beta distributions
    p = (1 - a - m) * programmes.by_type[0, 0] + a * programmes.activity + m * programmes.mito
    # A molecule falls on a gene with p; the programmes' shares vary between cells, which
    # widens the spread beyond the binomial: allow 8 binomial standard errors.
    assert np.all(np.abs(drawn - p) <= 8 * np.sqrt(p / of_type.sum()))


def test_files_are_anndata(tmp_path: Path) -> None:
    paths = simulate.write_atlas(SMALL, tmp_path)
    assert [path.name for path in paths] == ["donor1.h5ad", "donor2.h5ad", "donor3.h5ad"]
    for donor, path in enumerate(paths):
        adata = anndata.read_h5ad(path)
        counts, obs = SMALL.cells(donor, 0, SMALL.donor_sizes[donor])
        assert np.array_equal(adata.X.toarray(), counts.toarray())
        assert list(adata.obs["cell_type"]) == list(obs["cell_type"])
        assert list(adata.obs_names) == list(obs.index)
        assert list(adata.var_names) == SMALL.genes
        assert adata.var_names[-1] == "MT-CYB"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(dict(n_genes=50), "genes"), (dict(n_types=1), "types"), (dict(n_donors=0), "donors")],
)
def test_impossible_sizes_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate.Atlas(**wrong)


def test_donors_hide_the_types_from_leiden_and_harmony_recovers_them() -> None:
    pytest.importorskip("harmonypy", reason="harmonypy is not installed")
    baseline = _load("baseline")
    atlas = simulate.Atlas(n_cells=3000, n_genes=3000)
    drawn = [atlas.cells(d, 0, atlas.donor_sizes[d]) for d in range(3)]
    counts = sparse.vstack([counts for counts, _ in drawn], format="csr")
    labels = np.concatenate([obs.cell_type for _, obs in drawn])
    donors = np.concatenate([obs.donor for _, obs in drawn])
    components = baseline.principal_components(counts)
    assert max(baseline.leiden_ari(components, labels).values()) <= 0.60
    harmonised = baseline.harmonise(components, donors)
    assert max(baseline.leiden_ari(harmonised, labels).values()) >= 0.95
