"""The GPU kernels with the stand-in for CuPy under them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cuda_emulation.stand_in import CupyX, StandIn
from tigon.kernels.gpu import modules


def require_compiler() -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++: CUDA kernels are emulated with it")


def forget_kernels() -> None:
    """Compile anew what is asked for next."""
    modules._function.cache_clear()
    modules._module.cache_clear()
    modules._attribute.cache_clear()


@contextmanager
def stand_in_for_cupy(folder: Path, seed: int = 0) -> Iterator[StandIn]:
    """``import cupy`` gives the stand-in meanwhile; nothing compiled is kept afterwards."""
    cupy = StandIn(folder, seed)
    given = {"cupy": cupy, "cupyx": CupyX()}
    before = {name: sys.modules.get(name) for name in given}
    sys.modules.update(given)
    forget_kernels()
    try:
        yield cupy
    finally:
        forget_kernels()
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
