"""The path of mini-batches to a CUDA device, with NumPy and SciPy standing in for CuPy."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from builders import make_adata
from scipy import sparse

from tigon.storage import open_atlas
from tigon.storage.errors import InputError


class OnDevice(np.ndarray):
    """An array that counts as being on the device."""


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put the stand-ins in place; the devices that were used."""
    used: list[int] = []

    @contextmanager
    def device(number: int) -> Any:
        used.append(number)
        yield

    cupy: Any = ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)
    cupy.asarray = lambda array: np.asarray(array).view(OnDevice)
    cupy.float32, cupy.int32 = np.float32, np.int32
    cupy.cuda = ModuleType("cuda")
    cupy.cuda.Device = device
    cupyx: Any = ModuleType("cupyx")
    cupyx.scipy = ModuleType("cupyx.scipy")
    cupyx.scipy.sparse = sparse
    for name, module in (("cupy", cupy), ("cupyx", cupyx), ("cupyx.scipy", cupyx.scipy)):
        monkeypatch.setitem(sys.modules, name, module)
    return used


def test_counts_cross_narrow_and_are_widened_there(devices: list[int]) -> None:
    with open_atlas(make_adata()) as atlas:
        here = list(atlas.minibatches(16).epoch(0))
        there = list(atlas.minibatches(16, device="cuda:1").epoch(0))
        assert devices == [1] * len(there)
        for a, b in zip(here, there, strict=True):
            for name in ("indptr", "indices", "values"):
                array = getattr(b, name)
                assert isinstance(array, OnDevice)
                assert array.dtype == getattr(a, name).dtype
            X = b.to_cupy()
            assert X.dtype == np.float32
            np.testing.assert_array_equal(X.toarray(), a.to_scipy().toarray())
            np.testing.assert_array_equal(a.to_cupy().toarray(), X.toarray())


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_a_device_is_refused() -> None:
    with (
        open_atlas(make_adata()) as atlas,
        pytest.raises(InputError, match="needs CuPy, which is not installed"),
    ):
        atlas.minibatches(device="cuda")


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_its_extra_is_named() -> None:
    with open_atlas(make_adata()) as atlas:
        batch = next(iter(atlas.minibatches()))
        with pytest.raises(InputError, match=r"to_cupy\(\) needs CuPy.*install tigon\[gpu\]"):
            batch.to_cupy()
