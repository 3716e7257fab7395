"""Starting iNMF from singular vectors."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.nndsvd import nndsvd_state
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare


def planted(seed: int = 0) -> anndata.AnnData:
    """Three datasets with four programmes of their own genes each."""
    rng = np.random.default_rng(seed)
    W = np.kron(np.eye(4), np.ones((1, 15))) + 0.02
    H = rng.gamma(0.3, 1.0, (600, 4)) + 0.01
    counts = rng.poisson(400 * H / H.sum(axis=1, keepdims=True) @ (W / W.sum(axis=1)[:, None]))
    adata = anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.obs["batch"] = np.repeat(["a", "b", "c"], 200)
    return adata


OPTIONS = {"n_genes": "all", "minibatch_size": 50, "lam": 1.0}


def test_the_start_is_that_of_scikit_learn(tmp_path: Path) -> None:
    """But for what zeros are filled with, and for lengths."""
    from sklearn.decomposition._nmf import _initialize_nmf

    with tigon.open(planted()) as atlas, ThreadEngine(1) as engine:
        prepared = prepare(atlas, PrepareConfig(batch_key="batch", n_genes="all"), 4, engine)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        seed = np.random.SeedSequence(0)
        problem = prepared.problem(1.0)
        with closing(build_pack(atlas, *parts, tmp_path / "pack", engine, seed)) as pack:
            state = nndsvd_state(pack, problem, 4, seed)
        counts = atlas.read(0, 600).to_scipy().toarray()
    X = counts / counts.sum(axis=1, keepdims=True) * problem.scale[prepared.datasets.codes]
    _, theirs = _initialize_nmf(X, 4, init="nndsvd", random_state=0)
    cosines = (state.W * theirs).sum(axis=1)
    cosines /= np.linalg.norm(state.W, axis=1) * np.linalg.norm(theirs, axis=1)
    assert (cosines > 0.995).all()
    assert (state.W > 0).all()
    np.testing.assert_allclose(state.W.mean(axis=1), 1.0, atol=0.1)


def test_same_bytes_for_any_threads() -> None:
    one, two = (
        tigon.OnlineINMF(4, init="nndsvd", n_threads=n, n_epochs=2, **OPTIONS).fit(
            planted(), batch_key="batch"
        )
        for n in (1, 2)
    )
    assert one.W_.tobytes() == two.W_.tobytes()


def test_genes_that_a_dataset_lacks_do_not_pull_the_start_down() -> None:
    """A gene that one of three datasets does not measure starts as high as its programme."""
    whole = planted()
    parts = [whole[whole.obs["batch"] == name].copy() for name in "abc"]
    parts[2] = parts[2][:, 5:].copy()
    with tigon.open(parts, join="outer") as atlas:
        model = tigon.INMF(4, init="nndsvd", n_epochs=1, lam=1.0, n_genes="all").fit(atlas)
    names = list(model.genes_)
    of_first = model.W_[:, [names.index(str(g)) for g in range(15)]]
    row = of_first[of_first.sum(axis=1).argmax()]
    assert row[:5].mean() > 0.7 * row[5:].mean()


def test_starts_that_would_be_alike_are_refused() -> None:
    with pytest.raises(tigon.InputError, match="the same metagenes"):
        tigon.OnlineINMF(4, init="nndsvd", n_starts=3).fit(planted(), batch_key="batch")
    with pytest.raises(tigon.InputError, match="random and nndsvd"):
        tigon.OnlineINMF(4, init="svd").fit(planted(), batch_key="batch")
