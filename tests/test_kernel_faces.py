"""The specification where it is its own oracle, and the room of kernels as others see it."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import numpy as np
import pytest
from counts import draw_counts
from numba.core.dispatcher import Dispatcher
from scipy import sparse

import tigon.kernels
from tigon.kernels import reference
from tigon.kernels.moments import cell_sums, gene_sums

EPS64 = np.finfo(np.float64).eps


def test_a_factor_that_explains_nothing_is_left_out_of_the_residual() -> None:
    G, R = np.diag([1.0, 0.0]), np.array([[2.0, 5.0], [-1.0, 0.0]])
    H = np.array([[1.9, 7.0], [0.0, 0.0]])
    np.testing.assert_allclose(reference.kkt_residual(G, R, H), [0.1 / 5, 0.0])
    np.testing.assert_array_equal(reference.kkt_residual(np.zeros((1, 1)), R[:, :1], H[:, :1]), 0)


def test_the_specification_of_moments_is_the_definition() -> None:
    X = sparse.csr_array(np.array([[1, 0, 3], [0, 0, 0], [2, 2, 0]]))
    kinds = np.array([0, 1, 2], np.uint8)
    totals, n_genes, of_kinds = reference.cell_sums(X, kinds, 2)
    np.testing.assert_array_equal([totals, n_genes], [[4, 0, 4], [2, 0, 2]])
    np.testing.assert_array_equal(of_kinds, [[0, 3], [0, 0], [2, 0]])
    codes, weights = np.array([1, 0, 1]), np.array([1.0, 1.0, 0.5])
    first, second, n = reference.gene_sums(X, weights, codes, 2)
    np.testing.assert_array_equal(first, [[0, 0, 0], [2, 1, 3]])
    np.testing.assert_array_equal(second, [[0, 0, 0], [2, 1, 9]])
    np.testing.assert_array_equal(n, [[0, 0, 0], [2, 1, 1]])


def test_what_was_compiled_is_kept_for_the_next_process() -> None:
    modules = walk_packages(tigon.kernels.__path__, "tigon.kernels.")
    names = [name for _, name, _ in modules if not name.startswith("tigon.kernels.gpu")]
    kernels = {
        value
        for name in names
        for value in vars(import_module(name)).values()
        if isinstance(value, Dispatcher)
    }
    assert len(kernels) > 60
    assert [kernel for kernel in kernels if kernel.stats.cache_path is None] == []


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.float32])
def test_moments_agree_with_the_specification(kind: type) -> None:
    X, rng = draw_counts(1, 120, 40), np.random.default_rng(1)
    arrays = X.indptr.astype(np.int64), X.indices.astype(np.uint16), X.data.astype(kind)
    kinds = rng.integers(0, 4, 40).astype(np.uint8)
    codes, weights = rng.integers(-1, 3, 120), rng.random(120)
    cells = cell_sums(*arrays, kinds, 2)
    totals, n_genes, of_kinds = reference.cell_sums(X, kinds, 2)
    np.testing.assert_array_equal(cells.totals, totals)
    np.testing.assert_array_equal(cells.n_genes, n_genes)
    np.testing.assert_array_equal(cells.of_kinds, of_kinds)
    genes = gene_sums(*arrays, weights, codes, (3, 40))
    first, second, n_nonzeros = reference.gene_sums(X, weights, codes, 3)
    # Float64 sums of up to 120 positive terms, in either order.
    np.testing.assert_allclose(genes.first, first, rtol=240 * EPS64)
    np.testing.assert_allclose(genes.second, second, rtol=240 * EPS64)
    np.testing.assert_array_equal(genes.n_nonzeros, n_nonzeros)


def test_every_public_name_is_there_and_documented() -> None:
    for name in tigon.kernels.__all__:
        assert getattr(tigon.kernels, name).__doc__
        assert name in dir(tigon.kernels)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tigon.kernels.nothing


def test_the_room_loads_neither_numba_nor_cupy() -> None:
    code = "import sys, tigon.kernels; print({'numba', 'cupy', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("module", ["factors", "least_squares", "products", "sketches"])
def test_examples_of_docstrings_hold(module: str) -> None:
    found = doctest.testmod(import_module(f"tigon.kernels.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_examples_of_the_page_hold() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    functions = {name for name in tigon.kernels.__all__ if name.islower()}
    assert functions <= set(re.findall(r"\w+", " ".join(blocks)))
    names: dict[str, Any] = {}
    for block in blocks:  # each goes on from the ones before, as a reader does
        exec(compile(block, str(page), "exec"), names)
