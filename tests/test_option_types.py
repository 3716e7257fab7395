"""Options of the wrong type are refused in one line, before anything is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from atlases import planted

import tigon
from tigon.scaling.datasets import datasets_of
from tigon.scaling.preparing import PrepareConfig


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_components": 2.5}, "n_components is 2.5: it is a whole number; set an integer"),
        ({"n_components": "20"}, "n_components is '20'"),
        ({"n_components": True}, "n_components is True"),
        ({"minibatch_size": 1e3}, "minibatch_size is 1000.0"),
        ({"n_sweeps": None}, "n_sweeps is None"),
        ({"n_epochs": "Auto"}, "n_epochs is 'Auto': .* set an integer or 'auto'"),
        ({"n_epochs": 3.0}, "n_epochs is 3.0"),
        ({"random_state": None}, "random_state is None: .* set an integer"),
        ({"random_state": np.random.default_rng(0)}, "random_state is Generator"),
        ({"lam": "5"}, "lam is '5': it is a number; set one without quotes"),
        ({"tol": None}, "tol is None"),
        ({"n_genes": "many"}, "n_genes is 'many': .* set an integer or 'all'"),
        ({"n_genes": 2.5}, "n_genes is 2.5"),
        ({"n_genes": None}, "n_genes is None"),
        ({"batch_key": 5}, "batch_key is 5: it names columns of obs"),
        ({"batch_key": ["a", 5]}, r"batch_key is \['a', 5\]"),
        ({"min_genes": "200"}, "min_genes is '200'"),
        ({"min_counts": float("nan")}, "--min-counts is nan: the least is 0"),
        ({"max_mito": None}, "max_mito is None"),
        ({"resolution": "high"}, "resolution is 'high'"),
        ({"resolution": float("inf")}, r"resolution is not positive and finite \(inf\)"),
        ({"n_neighbors": 20.0}, "n_neighbors is 20.0"),
        ({"n_layout_epochs": "200"}, "n_layout_epochs is '200'"),
        ({"n_threads": "2"}, "n_threads is '2'"),
    ],
    # Without addresses of objects, so that tests have the same names in every process.
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_type_is_named(options: dict[str, Any], said: str) -> None:
    # The source is not there: the options are looked at first.
    with pytest.raises(tigon.InputError, match=said):
        tigon.plan("no.h5ad", **options)


@pytest.mark.parametrize("batch_key", ["batch,kind", ["batch", "kind"], ("batch", "kind")], ids=str)
def test_columns_may_be_named_in_any_form(batch_key: Any) -> None:
    adata = planted(n=200, m=30, k=3).adata
    with tigon.open(adata) as atlas:
        assert datasets_of(atlas, batch_key).names[0] == "b0|t0"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.int64(500), 500),
        ("all", "all"),
        (["a", "b"], ("a", "b")),
        (np.array(["a", "b"]), ("a", "b")),
        (pd.Index(["a", "b"]), ("a", "b")),
    ],
    ids=str,
)
def test_genes_may_be_counted_or_listed_in_any_type(given: Any, kept: Any) -> None:
    config = PrepareConfig(n_genes=given)
    assert config.n_genes == kept
    assert config.at_most_genes(1000) == {500: 500, "all": 1000}.get(kept, 2)
