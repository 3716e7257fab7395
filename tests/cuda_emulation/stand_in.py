"""A module that stands in for CuPy: NumPy arrays, and kernels run by emulation.

Kernels are compiled with g++ from the same source that NVRTC takes, behind
``cuda_emulation.h``. Only what :mod:`tigon.kernels.gpu` asks of CuPy is here.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("cuda_emulation.h")
_KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([\w, ]+\)\s+)?(\w+)\(')
_FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-ffp-contract=off"]

_LAUNCHERS = """
alignas(16) unsigned char shared_memory[emulation::SHARED_BYTES + emulation::CANARY_BYTES];
extern "C" const char* emulated_problem() { return emulation::problem.c_str(); }
"""
_LAUNCHER = """
extern "C" int emulated_%s(void** arguments, const unsigned* dims, unsigned bytes, unsigned seed) {
  emulation::shared_start = shared_memory;
  return emulation::launch(%s, arguments, dims, bytes, seed);
}
"""


class EmulationError(RuntimeError):
    """What a kernel did that CUDA forbids."""


def build(code: str, options: Sequence[str], folder: Path) -> ctypes.CDLL:
    """Compile CUDA source for the processor; once per source and options."""
    launchers = "".join(_LAUNCHER % (name, name) for name in _KERNEL.findall(code))
    text = '#include "cuda_emulation.h"\n' + code + _LAUNCHERS + launchers
    key = hashlib.sha256("\0".join([text, HEADER.read_text(), *options]).encode()).hexdigest()[:20]
    library = folder / f"{key}.so"
    if not library.exists():
        source = folder / f"{key}.cpp"
        source.write_text(text)
        defines = [option for option in options if option.startswith("-D")]
        _precompile_header(folder)
        includes = [f"-I{folder}", f"-I{HEADER.parent}"]
        _compile(*defines, *includes, str(source), "-o", str(library))
    return ctypes.CDLL(str(library))


def _precompile_header(folder: Path) -> None:
    """Once, as reading it takes longer than most kernels."""
    found = folder / f"{HEADER.name}.gch"
    if not found.exists():
        _compile("-x", "c++-header", str(HEADER), "-o", str(found))


def _compile(*arguments: str) -> None:
    done = subprocess.run(["g++", *_FLAGS, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ refuses the kernels:\n{done.stderr[:4000]}")


class Kernel:
    """One emulated kernel; called as a ``cupy.RawKernel`` is."""

    def __init__(self, library: ctypes.CDLL, name: str, cupy: StandIn) -> None:
        self.library = library
        self.name = name
        self.cupy = cupy
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self.attributes: dict[str, int] = {}

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
    ) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise EmulationError(f"{self.name}: {shared_mem} shared bytes were not asked for")
        if self.cupy.graph is not None:
            self.cupy.graph.append((self, grid, block, list(args), shared_mem))
            return
        self.run(grid, block, args, shared_mem)

    def run(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared: int
    ) -> None:
        values = [_by_value(arg) for arg in args]
        pointers = (ctypes.c_void_p * len(values))(
            *[value.ctypes.data_as(ctypes.c_void_p) for value in values]
        )
        dims = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        self.cupy.n_launches += 1
        seed = self.cupy.seed + self.cupy.n_launches
        if getattr(self.library, f"emulated_{self.name}")(pointers, dims, shared, seed):
            problem = self.library.emulated_problem
            problem.restype = ctypes.c_char_p
            raise EmulationError(f"{self.name}: {problem().decode()}")


def _by_value(arg: Any) -> np.ndarray:
    """What CUDA would pass: the address of an array, or a scalar's own bytes."""
    if isinstance(arg, np.ndarray):
        assert arg.flags.c_contiguous, "kernels take contiguous arrays"
        return np.array([arg.ctypes.data], np.uint64)
    assert isinstance(arg, np.generic), f"a scalar of no declared type: {arg!r}"
    return np.array([arg])


class RawModule:
    """``cupy.RawModule``, compiled for the processor."""

    cupy: StandIn

    def __init__(self, *, code: str, options: Sequence[str] = (), **_: Any) -> None:
        self.library = build(code, options, self.cupy.folder)

    def get_function(self, name: str) -> Kernel:
        return Kernel(self.library, name, self.cupy)


class StandIn(ModuleType):
    """The module itself: NumPy's functions, and CuPy's own beside them."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        super().__init__("cupy")
        self.folder = folder
        self.seed = seed
        self.n_launches = 0
        self.graph: list[Any] | None = None
        self.RawModule = type("RawModule", (RawModule,), {"cupy": self})
        self.cuda = _Cuda(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def asnumpy(array: np.ndarray) -> np.ndarray:
        return np.array(array)

    @staticmethod
    def empty(shape: Any, dtype: Any = float) -> DeviceArray:
        """Not zeros, as on a device: NaN, or the largest integer."""
        dtype = np.dtype(dtype)
        unwritten = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
        return np.full(shape, unwritten, dtype).view(DeviceArray)


class DeviceArray(np.ndarray):
    """An array that is copied to on a stream, as ``cupy.ndarray.set`` does."""

    def set(self, host: np.ndarray, stream: Stream) -> None:
        assert self.shape == host.shape
        assert self.dtype == host.dtype
        stream.queue.append(lambda: np.copyto(self, host))


class Event:
    """A place in a stream's queue; what stands before it is done once it is waited for."""

    def __init__(self, **_: Any) -> None:
        self.stream: Stream | None = None
        self.place = 0

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.run_to(self.place)


class Stream:
    """Copies wait in a queue until somebody waits for them; kernels run at once.

    So a copy that is not waited for is seen to be missing, and memory that is
    written before its copy was done is seen to be wrong.
    """

    def __init__(self, cupy: StandIn) -> None:
        self.cupy = cupy
        self.queue: list[Any] = []
        self.n_done = 0

    def run_to(self, place: int) -> None:
        while self.n_done < place:
            self.queue[self.n_done]()
            self.n_done += 1

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.stream, event.place = self, len(self.queue)
        return event

    def wait_event(self, event: Event) -> None:
        if event.stream is not self:
            self.queue.append(event.synchronize)
            if self is self.cupy.cuda.null:
                self.synchronize()

    def synchronize(self) -> None:
        self.run_to(len(self.queue))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin_capture(self) -> None:
        self.cupy.graph = []

    def end_capture(self) -> Graph:
        launches, self.cupy.graph = self.cupy.graph, None
        assert launches is not None
        return Graph(launches)


class Graph:
    """Launches that were captured and not run; run at every ``launch``."""

    def __init__(self, launches: list[Any]) -> None:
        self.launches = launches

    def launch(self, stream: Stream) -> None:
        assert stream.cupy.graph is None
        for kernel, *how in self.launches:
            kernel.run(*how)


class _Cuda:
    """``cupy.cuda``: one device of three multiprocessors."""

    Event = Event
    attributes = MappingProxyType(
        {"MultiProcessorCount": 3, "MaxSharedMemoryPerBlockOptin": 232_448}
    )

    def __init__(self, cupy: StandIn) -> None:
        self.runtime = self
        self.null = Stream(cupy)
        self.cupy = cupy

    def Stream(self, *, non_blocking: bool) -> Stream:
        return Stream(self.cupy)

    def Device(self, device: int = 0) -> Any:
        return type("Device", (), {"id": device, "attributes": self.attributes})()

    def getDevice(self) -> int:
        return 0

    def get_current_stream(self) -> Stream:
        return self.null

    def memGetInfo(self) -> tuple[int, int]:
        return 10_000, 20_000


class CupyX(ModuleType):
    """``cupyx``, as much of it as is asked for."""

    def __init__(self) -> None:
        super().__init__("cupyx")

    @staticmethod
    def empty_pinned(shape: Any, dtype: Any) -> np.ndarray:
        return np.asarray(StandIn.empty(shape, dtype))
