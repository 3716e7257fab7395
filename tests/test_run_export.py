"""A run as one file: what anndata finds in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest
from run_builder import build_contents
from scipy import sparse

from tigon.storage.block import Block
from tigon.storage.errors import InputError, OutputExistsError
from tigon.storage.runs.export import export_h5ad
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

N_CELLS, N_GENES, N_ATLAS_GENES = 20_000, 60, 100


@dataclass(frozen=True)
class Counts:
    """Counts in memory, read in blocks as an atlas is."""

    matrix: sparse.csr_array
    fails_from: int = N_CELLS

    def read(self, start: int, stop: int) -> Block:
        if stop > self.fails_from:
            raise OSError("the atlas is gone")
        rows = self.matrix[start:stop]
        return Block(
            start=start,
            indptr=rows.indptr.astype(np.int64),
            indices=rows.indices.astype(np.uint16),
            values=rows.data.astype(np.uint16),
            n_genes=rows.shape[1],
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    contents = build_contents(n_cells=N_CELLS, n_genes=N_GENES, dataset_names=["a/b", "c"])
    return Run.open(write_run(tmp_path_factory.mktemp("run") / "run.zarr", contents))


@pytest.fixture(scope="module")
def counts() -> Counts:
    rng = np.random.default_rng(1)
    dense = rng.poisson(0.3, (N_CELLS, N_ATLAS_GENES)) * rng.integers(1, 60_000, N_ATLAS_GENES)
    dense[::7] = 0
    return Counts(sparse.csr_array(np.minimum(dense, 65_535)))


@pytest.fixture(scope="module")
def positions() -> np.ndarray:
    """Genes of the run in the atlas, not in the atlas's order."""
    return np.random.default_rng(2).permutation(N_ATLAS_GENES)[:N_GENES]


def test_counts_are_float32_and_equal(
    run: Run, counts: Counts, positions: np.ndarray, tmp_path: Path
) -> None:
    path = export_h5ad(run, tmp_path / "run.h5ad", counts=counts, gene_positions=positions)
    adata = anndata.read_h5ad(path)
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    expected = counts.matrix.toarray()[:, positions]
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    # The product that 16-bit counts would have got wrong.
    product = (adata.X.T @ adata.X).toarray()
    np.testing.assert_allclose(product, expected.T.astype(float) @ expected, rtol=1e-4)


def test_everything_else_is_the_run(run: Run, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(export_h5ad(run, tmp_path / "run.h5ad"))
    whole = run.to_anndata()
    assert adata.X is None
    assert adata.obs.equals(whole.obs)
    assert adata.var.equals(whole.var)
    assert set(adata.obsm) == set(whole.obsm)
    for name in whole.obsm:
        np.testing.assert_array_equal(adata.obsm[name], whole.obsm[name])
    assert set(adata.varm) == {"W", "V_a%2Fb", "V_c"}
    np.testing.assert_array_equal(adata.varm["V_c"], run.V["c"].T)
    np.testing.assert_array_equal(adata.uns["tigon"]["statistics"]["B"], run.B)
    assert adata.uns["tigon"]["objective"] == run.objective


def test_backed_reading_works(
    run: Run, counts: Counts, positions: np.ndarray, tmp_path: Path
) -> None:
    path = export_h5ad(run, tmp_path / "run.h5ad", counts=counts, gene_positions=positions)
    backed = anndata.read_h5ad(path, backed="r")
    rows = backed.X[8190:8200].toarray()
    backed.file.close()
    np.testing.assert_array_equal(rows, counts.matrix.toarray()[8190:8200, positions])


def test_existing_file_is_kept(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.h5ad"
    path.write_text("mine")
    with pytest.raises(OutputExistsError):
        export_h5ad(run, path)
    assert path.read_text() == "mine"
    export_h5ad(run, path, overwrite=True)
    assert anndata.read_h5ad(path).n_obs == N_CELLS


def test_a_run_may_be_named_and_the_file_is_of_its_kind(run: Run, tmp_path: Path) -> None:
    path = export_h5ad(run.path, tmp_path / "run.h5ad")
    assert anndata.read_h5ad(path).n_obs == N_CELLS
    for name in ("run.loom", "again.zarr"):
        with pytest.raises(InputError, match=r"is not named \.h5ad"):
            export_h5ad(run, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_failure_leaves_nothing(
    run: Run, counts: Counts, positions: np.ndarray, tmp_path: Path
) -> None:
    failing = Counts(counts.matrix, fails_from=10_000)
    with pytest.raises(OSError, match="the atlas is gone"):
        export_h5ad(run, tmp_path / "run.h5ad", counts=failing, gene_positions=positions)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_cells", "chosen", "message"),
    [
        (N_CELLS - 5, np.arange(N_GENES), r"gave 3611 cells where 3616 were asked for"),
        (N_CELLS, None, r"do not have the 60 genes of the run \(they have 100\)"),
        (N_CELLS, np.arange(N_GENES) + 50, r"do not have the 60 genes"),
    ],
)
def test_other_counts_are_refused(
    run: Run,
    counts: Counts,
    tmp_path: Path,
    n_cells: int,
    chosen: np.ndarray | None,
    message: str,
) -> None:
    other = Counts(counts.matrix[:n_cells])
    with pytest.raises(InputError, match=message):
        export_h5ad(run, tmp_path / "run.h5ad", counts=other, gene_positions=chosen)
    assert list(tmp_path.iterdir()) == []
