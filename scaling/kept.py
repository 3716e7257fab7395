"""What stages found, as arrays that a job keeps, and back to the last bit."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.inmf.solving import Solution
from tigon.scaling.preparing import Prepared
from tigon.scaling.statistics import Statistics
from tigon.storage.rows import RowReader

_ROWS = 1 << 16


def prepared_arrays(prepared: Prepared) -> dict[str, NDArray[Any]]:
    """All of what the first pass left, by name."""
    told = {"names": prepared.datasets.names, "merged": prepared.merged}
    found = {f"statistics.{name}": value for name, value in _of_fields(prepared.statistics).items()}
    return found | {
        "told": np.frombuffer(json.dumps(told).encode(), np.uint8),
        "codes": prepared.datasets.codes,
        "measured": prepared.datasets.measured,
        "genes": prepared.genes,
        **({} if prepared.shared is None else {"shared": prepared.shared}),
    }


def prepared_of(arrays: Mapping[str, NDArray[Any]]) -> Prepared:
    """What :func:`prepared_arrays` was given."""
    told = json.loads(arrays["told"].tobytes())
    datasets = Datasets(tuple(told["names"]), arrays["codes"], arrays["measured"])
    statistics = {f.name: _plain(arrays[f"statistics.{f.name}"]) for f in fields(Statistics)}
    genes, shared = arrays["genes"], arrays.get("shared")
    return Prepared(datasets, Statistics(**statistics), genes, told["merged"], shared)


def solution_arrays(solution: Solution, loadings: RowReader) -> dict[str, NDArray[Any]]:
    """A solution, by name, and the checksum of the loadings that it is of."""
    return {**_of_fields(solution), "loadings": np.asarray(_checksum(loadings))}


def solution_of(arrays: Mapping[str, NDArray[Any]], loadings: RowReader) -> Solution | None:
    """What :func:`solution_arrays` was given; None where the loadings are others."""
    if int(arrays["loadings"]) != _checksum(loadings):
        return None
    return Solution(**{f.name: _plain(arrays[f.name]) for f in fields(Solution)})


def _of_fields(value: Any) -> dict[str, NDArray[Any]]:
    return {f.name: np.asarray(getattr(value, f.name)) for f in fields(value)}


def _plain(array: NDArray[Any]) -> Any:
    return array.item() if array.ndim == 0 else array


def _checksum(rows: RowReader) -> int:
    found = 0
    for start in range(0, rows.shape[0], _ROWS):
        found = zlib.crc32(rows.read(start, min(start + _ROWS, rows.shape[0])).tobytes(), found)
    return found
