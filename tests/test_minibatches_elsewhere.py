"""Mini-batches in other processes: as a travelling plan, as Dask tasks, in torch's workers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_adata, write_zarr
from scipy import sparse

from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.errors import InputError
from tigon.storage.minibatches.batch import MiniBatch

SIZES: dict[str, Any] = {"batch_size": 16, "block_cells": 4, "window_cells": 64}
N_CELLS = 333


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atlas]:
    rng = np.random.default_rng(0)
    adata = make_adata(sparse.csr_matrix(rng.poisson(0.7, (N_CELLS, 30)).astype(np.float32)))
    path = tmp_path_factory.mktemp("atlas") / "a.zarr"
    with write_atlas(open_atlas(adata), path) as opened:
        yield opened


def bytes_of(batch: MiniBatch) -> tuple[Any, ...]:
    arrays = (batch.cells, batch.datasets, batch.indptr, batch.indices, batch.values)
    return (batch.step, *(array.tobytes() for array in arrays))


ELSEWHERE = """
import pickle, sys
portable = pickle.load(sys.stdin.buffer)
pickle.dump([portable.read(step, epoch=2) for step in (20, 3)], sys.stdout.buffer)
"""


def test_a_plan_reads_in_another_process(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert atlas.path is not None
    monkeypatch.chdir(Path(atlas.path).parent)
    with open_atlas(Path(atlas.path).name) as relative:
        made = relative.minibatches(genes=[5, 2, 9], **SIZES)
        sent = pickle.dumps(made.portable())
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE], input=sent, capture_output=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr.decode()
        here = list(made.epoch(2))
    found = pickle.loads(done.stdout)
    assert [bytes_of(batch) for batch in found] == [bytes_of(here[20]), bytes_of(here[3])]


def test_an_atlas_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with write_atlas(open_atlas(make_adata()), path) as atlas:
        portable = atlas.minibatches().portable()
    write_atlas(open_atlas(make_adata(seed=1)), path, overwrite=True).close()
    with pytest.raises(InputError, match="is another atlas than when the work was planned"):
        portable.read(0)


def test_an_atlas_that_tigon_did_not_write_cannot_travel(tmp_path: Path) -> None:
    with open_atlas(write_zarr(make_adata(), tmp_path / "a.zarr")) as atlas:
        portable = atlas.minibatches().portable()
        assert portable.read(0).n_cells == atlas.n_cells
        with pytest.raises(InputError, match="cannot be sent to another process"):
            pickle.dumps(portable)


def test_dask_computes_the_same_mini_batches(atlas: Atlas) -> None:
    dask = pytest.importorskip("dask")
    made = atlas.minibatches(**SIZES)
    tasks = made.delayed(1)
    assert len(tasks) == len(made)
    expected = [bytes_of(batch) for batch in made.epoch(1)]
    found = dask.compute(*tasks, scheduler="threads")
    assert [bytes_of(batch) for batch in found] == expected
    one = dask.compute(tasks[7], scheduler="sync")[0]
    assert bytes_of(one) == expected[7]


def test_dask_workers_open_the_atlas_themselves(atlas: Atlas) -> None:
    distributed = pytest.importorskip("distributed")
    made = atlas.minibatches(**SIZES)
    expected = [bytes_of(batch) for batch in made.epoch(0)]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = client.gather(client.compute(made.delayed(0)))
    assert [bytes_of(batch) for batch in found] == expected


def _loader(dataset: Any, **options: Any) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(dataset, batch_size=None, **options)


def test_tensors_hold_the_counts(atlas: Atlas) -> None:
    torch = pytest.importorskip("torch")
    batch = next(atlas.minibatches(**SIZES).epoch(0))
    for layout in ("csr", "dense"):
        X = batch.to_torch(layout)
        assert X.dtype == torch.float32
        assert X.is_sparse_csr == (layout == "csr")
        dense = X.to_dense() if layout == "csr" else X
        np.testing.assert_array_equal(dense.numpy(), batch.to_scipy().toarray())


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_torch_workers_share_the_epoch(atlas: Atlas, n_workers: int) -> None:
    pytest.importorskip("torch")
    made = atlas.minibatches(**SIZES)
    dataset = made.torch_dataset("dense")
    assert len(dataset) == len(made)
    # Forked from a process that has the atlas open, whose threads do not come along.
    workers = {"multiprocessing_context": "fork"} if n_workers else {}
    loader = _loader(dataset, num_workers=n_workers, **workers)
    seen = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found = {item["step"]: item for item in loader}
        expected = list(made.epoch(epoch))
        assert sorted(found) == list(range(len(made)))
        for batch in expected:
            item = found[batch.step]
            np.testing.assert_array_equal(item["cells"].numpy(), batch.cells)
            np.testing.assert_array_equal(item["datasets"].numpy(), batch.datasets)
            np.testing.assert_array_equal(item["X"].numpy(), batch.to_scipy().toarray())
        seen.append(np.concatenate([item["cells"].numpy() for item in found.values()]))
    np.testing.assert_array_equal(np.sort(seen[0]), np.arange(N_CELLS))
    assert not np.array_equal(seen[0], seen[1])


def test_forked_workers_refuse_an_atlas_that_cannot_travel() -> None:
    pytest.importorskip("torch")
    with open_atlas(make_adata()) as atlas:
        dataset = atlas.minibatches().torch_dataset()
        assert [item["step"] for item in _loader(dataset)] == [0]
        loader = _loader(dataset, num_workers=1, multiprocessing_context="fork")
        with pytest.raises(InputError, match="cannot be sent to another process"):
            list(loader)


def test_persistent_workers_see_the_epoch_chosen(atlas: Atlas) -> None:
    pytest.importorskip("torch")
    made = atlas.minibatches(**SIZES)
    dataset = made.torch_dataset("dense")
    loader = _loader(
        dataset, num_workers=1, persistent_workers=True, multiprocessing_context="spawn"
    )
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        found = [item["cells"].numpy().tobytes() for item in loader]
        assert found == [batch.cells.tobytes() for batch in made.epoch(epoch)]
