"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

# The same examples every time where a red run must mean a change; new ones elsewhere.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

LONGEST = (
    "test_cluster_jobs",
    "test_budget",
    "test_update",
    "test_scaling_benchmark",
    "test_resume",
    "test_cluster_faults",
    "test_update_memory",
    "test_partial_fit",
    "test_pack_kill",
)
"""Files of tests that take a minute or more, begun first: processes take whole files."""

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets; tests that ask for it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data: the folder {SHARED_DATA} is absent")
    return SHARED_DATA


@pytest.fixture(scope="module")
def one_blas_thread() -> Iterator[None]:
    """Small matrices, one thread: on a loaded machine those of BLAS wait for each other."""
    with threadpool_limits(1, "blas"):
        yield
