"""Mini-batches on a CUDA device, as CuPy arrays."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tigon.storage.errors import InputError

if TYPE_CHECKING:
    from tigon.storage.minibatches.batch import MiniBatch


def cuda_number(device: str) -> int | None:
    """Number of a CUDA device, or None for the CPU.

    Raises
    ------
    InputError
        There is no such kind of device, or CuPy is not installed.
    """
    name, _, number = device.partition(":")
    if device == "cpu":
        return None
    if name != "cuda" or not (number or "0").isdecimal():
        raise InputError(f"device={device!r} is not known: it is 'cpu', 'cuda' or 'cuda:1'")
    _check_cupy(f"device={device!r}", "device='cpu'")
    return int(number or 0)


def _check_cupy(what: str, instead: str) -> None:
    if find_spec("cupy") is None:
        raise InputError(
            f"{what} needs CuPy, which is not installed: install tigon[gpu], or use {instead}"
        )


def upload(batch: MiniBatch, number: int) -> MiniBatch:
    """The mini-batch with its counts on a CUDA device, as narrow as they were."""
    import cupy

    with cupy.cuda.Device(number):
        return replace(
            batch,
            indptr=cupy.asarray(batch.indptr),
            indices=cupy.asarray(batch.indices),
            values=cupy.asarray(batch.values),
        )


def to_cupy(batch: MiniBatch) -> Any:
    """The counts as a float32 CuPy CSR matrix.

    Raises
    ------
    InputError
        CuPy is not installed.
    """
    _check_cupy("to_cupy()", "to_scipy()")
    import cupy
    from cupyx.scipy import sparse

    values = cupy.asarray(batch.values).astype(cupy.float32)
    indices = cupy.asarray(batch.indices).astype(cupy.int32)
    indptr = cupy.asarray(batch.indptr).astype(cupy.int32)
    return sparse.csr_matrix((values, indices, indptr), shape=batch.shape)
