"""Starting iNMF from singular vectors."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse

import tigon


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


def test_the_start_finds_planted_programmes_in_one_epoch() -> None:
    """What random numbers do not."""
    adata = planted()
    found = {}
    for init in ("random", "nndsvd"):
        model = tigon.OnlineINMF(4, init=init, n_epochs=1, **OPTIONS).fit(adata, batch_key="batch")
        blocks = model.W_.reshape(4, 4, 15).sum(axis=2)
        share = (blocks / blocks.sum(axis=1, keepdims=True)).max(axis=1)
        found[init] = share.min(), model.objective_
    assert found["nndsvd"][0] > 0.7 > found["random"][0]
    assert found["nndsvd"][1] <= found["random"][1]


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
