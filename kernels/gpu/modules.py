"""CUDA sources, compiled for a number of factors when it is first needed.

Kernels are compiled by NVRTC for their number of factors, so that what a lane
holds stays in registers; CuPy keeps the binaries on disk between processes.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)

_DEFAULT_SHARED_BYTES = 48 * 1024
"""More shared memory than this must be asked for, kernel by kernel."""


def source(name: str) -> str:
    """One self-contained CUDA source: its own headers put in, no others needed."""
    seen: set[str] = set()

    def put_in(match: re.Match[str]) -> str:
        header = match[1]
        if header in seen:
            return ""
        seen.add(header)
        text = (_FOLDER / header).read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(put_in, text)

    return _INCLUDE.sub(put_in, (_FOLDER / name).read_text())


def options(**defines: int | str) -> tuple[str, ...]:
    """Options of the compiler: the standard, and a macro for each keyword."""
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in sorted(defines.items())))


@cache
def _attribute(device: int, name: str) -> int:
    import cupy

    return int(cupy.cuda.Device(device).attributes[name])


@cache
def _module(device: int, name: str, /, **defines: int | str) -> Any:
    import cupy

    return cupy.RawModule(code=source(name), options=options(**defines))


@cache
def _function(device: int, file: str, name: str, shared_bytes: int, /, **defines: int | str) -> Any:
    limit = _attribute(device, "MaxSharedMemoryPerBlockOptin")
    if shared_bytes > limit:
        raise ValueError(
            f"{name} needs {shared_bytes} bytes of shared memory for this many factors or genes: "
            f"a block of this GPU has {limit}; use fewer, or pass NumPy arrays"
        )
    function = _module(device, file, **defines).get_function(name)
    if shared_bytes > _DEFAULT_SHARED_BYTES:
        function.max_dynamic_shared_size_bytes = shared_bytes
    return function


class Kernel:
    """A kernel that is ready to be launched on the current device.

    Parameters
    ----------
    file, name
        CUDA source, and the kernel in it.
    shared_bytes
        Dynamic shared memory of a block.
    **defines
        Macros of the source.

    Raises
    ------
    ValueError
        The device has less shared memory.
    """

    def __init__(
        self, file: str, name: str, shared_bytes: int = 0, /, **defines: int | str
    ) -> None:
        import cupy

        device = cupy.cuda.runtime.getDevice()
        self._function = _function(device, file, name, shared_bytes, **defines)
        self._shared_bytes = shared_bytes

    def __call__(self, blocks: int, threads: int, *args: Any) -> None:
        """Launch on the current stream: arrays by address, NumPy scalars by value."""
        if blocks:
            self._function((blocks,), (threads,), args, shared_mem=self._shared_bytes)


def n_multiprocessors(device: int) -> int:
    """Multiprocessors of a device: how many blocks are worth launching."""
    return _attribute(device, "MultiProcessorCount")


def contiguous(array: Any, dtype: Any) -> Any:
    """The array in row-major order and of a type, copied only where it is not."""
    import cupy

    return cupy.ascontiguousarray(array, dtype)
