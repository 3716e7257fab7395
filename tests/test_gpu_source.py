"""The CUDA sources as compilers take them: nvcc for two architectures, and NVRTC."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tigon.kernels.gpu.least_squares import descent_defines
from tigon.kernels.gpu.modules import options, source

FOLDER = Path(__file__).resolve().parents[1] / "kernels" / "gpu"
NVCC = shutil.which("nvcc")
ARCHITECTURES = ("sm_80", "sm_90")

TYPES: dict[str, int | str] = {"Gene": "unsigned short", "Count": "unsigned short"}

# One or two ways of compiling each source: the extremes of what a lane holds.
BUILDS = [
    ("descent.cu", descent_defines(20, "fast")),
    ("descent.cu", descent_defines(128, "fast")),
    ("descent.cu", descent_defines(128, "tight")),
    ("pivoting.cu", {"FACTORS": 128}),
    ("hals.cu", descent_defines(128, "tight")),
    ("sparse.cu", {"FACTORS": 128, **TYPES}),
    ("transpose.cu", TYPES),
    ("pairs.cu", TYPES),
    ("dense.cu", {"FACTORS": 128}),
    ("online.cu", {}),
]
NAMES = ["-".join([file, *map(str, defines.values())]) for file, defines in BUILDS]

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the path")


def test_every_source_is_compiled_here() -> None:
    assert {path.name for path in FOLDER.glob("*.cu")} == {file for file, _ in BUILDS}


def test_sources_need_no_header_of_the_host() -> None:
    for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")]:
        included = re.findall(r"#\s*include\s*(\S+)", path.read_text())
        assert all((FOLDER / name.strip('"')).exists() for name in included), path.name


def test_headers_are_put_in_once() -> None:
    for file, _ in BUILDS:
        text = source(file)
        assert "#include" not in text
        assert text.count("constexpr unsigned ALL_LANES") <= 1


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("file", "defines"), BUILDS, ids=NAMES)
def test_nvcc_takes_the_source_without_warning_or_spill(
    file: str, defines: dict[str, int | str], architecture: str, tmp_path: Path
) -> None:
    at = tmp_path / file
    at.write_text(source(file))
    command = [
        str(NVCC), f"-arch={architecture}", "-cubin", "-o", str(tmp_path / "out.cubin"),
        "-Werror", "all-warnings", "-Xptxas", "-v", *options(**defines), str(at),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Registers that spill go to memory: none do in any kernel.
    stores = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", done.stderr)
    assert stores
    assert set(stores) == {("0", "0")}, done.stderr


def _nvrtc() -> ctypes.CDLL:
    for name in ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"):
        with suppress(OSError):
            return ctypes.CDLL(name)
    pytest.skip("no NVRTC among the libraries")


@pytest.mark.parametrize(("file", "defines"), BUILDS, ids=NAMES)
def test_nvrtc_takes_the_source(file: str, defines: dict[str, int | str]) -> None:
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    code = source(file).encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, file.encode(), 0, None, None) == 0
    given = [option.encode() for option in (*options(**defines), "--gpu-architecture=sm_90")]
    failed = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed, log.value.decode()
