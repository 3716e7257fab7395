"""Mini-batches: every cell once, the same whatever reads them, and resumable anywhere."""

from __future__ import annotations

import gc
import pickle
import threading
import tracemalloc
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_counts, write_h5ad
from scipy import sparse

from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.minibatches import stream
from tigon.storage.minibatches.batch import MiniBatch
from tigon.storage.minibatches.minibatches import MiniBatches

N_CELLS, N_GENES = 1003, 40
SIZES = {"batch_size": 32, "block_cells": 8, "window_cells": 256}


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    rng = np.random.default_rng(1)
    counts = sparse.csr_matrix(rng.poisson(0.5, (N_CELLS, N_GENES)).astype(np.float32))
    made = make_adata(counts)
    made.obs["donor"] = pd.Categorical(np.repeat(["a", "b", "c"], [500, 403, 100]))
    return made


@pytest.fixture(scope="module")
def atlas(adata: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atlas]:
    path = tmp_path_factory.mktemp("atlas") / "a.zarr"
    with write_atlas(open_atlas(adata), path, chunk_nonzeros=300, shard_chunks=4) as opened:
        yield opened


def bytes_of(batches: Any) -> list[tuple[Any, ...]]:
    """Everything in the mini-batches, to compare."""
    return [
        (batch.step, *(getattr(batch, name).tobytes() for name in _ARRAYS)) for batch in batches
    ]


_ARRAYS = ("cells", "datasets", "indptr", "indices", "values")


def test_every_cell_comes_once_with_its_counts(atlas: Atlas, adata: anndata.AnnData) -> None:
    batches = list(atlas.minibatches(**SIZES).epoch(0))
    assert [batch.step for batch in batches] == list(range(32))
    assert [batch.n_cells for batch in batches] == [32] * 31 + [11]
    cells = np.concatenate([batch.cells for batch in batches])
    np.testing.assert_array_equal(np.sort(cells), np.arange(N_CELLS))
    assert (np.diff(cells) == 1).mean() < 0.1
    for batch in batches:
        assert (batch.indices.dtype, batch.values.dtype) == (np.uint16, np.uint16)
        X = batch.to_scipy()
        assert (X.dtype, X.indices.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(X.toarray(), adata.X[batch.cells].toarray())


def test_mini_batches_that_are_kept_keep_their_counts(atlas: Atlas, adata: anndata.AnnData) -> None:
    kept, parts = [], []
    for batch in atlas.minibatches(**SIZES).epoch(0):
        if batch.step % 3 == 0:
            kept.append(batch)
        elif batch.step % 3 == 1:
            parts.append((batch.values[5:], batch.indices[5:], batch.cells))
        del batch  # the memory of the others is used again
    for batch in kept:
        expected = adata.X[batch.cells].toarray()
        np.testing.assert_array_equal(batch.to_scipy().toarray(), expected)
    for values, indices, cells in parts:
        expected = adata.X[cells].sorted_indices()
        np.testing.assert_array_equal(values, expected.data[5:])
        np.testing.assert_array_equal(indices, expected.indices[5:])


def test_epochs_differ_and_repeat_by_seed(atlas: Atlas) -> None:
    def cells(seed: int, epoch: int) -> bytes:
        made = atlas.minibatches(seed=seed, **SIZES)
        return b"".join(batch.cells.tobytes() for batch in made.epoch(epoch))

    assert cells(0, 0) == cells(0, 0)
    assert len({cells(0, 0), cells(0, 1), cells(1, 0), cells(1, 1)}) == 4


def test_without_shuffling_cells_are_in_order(atlas: Atlas, adata: anndata.AnnData) -> None:
    made = atlas.minibatches(shuffle=False, drop_last=True, **SIZES)
    batches = list(made)
    assert len(batches) == len(made) == 31
    cells = np.concatenate([batch.cells for batch in batches])
    np.testing.assert_array_equal(cells, np.arange(31 * 32))
    np.testing.assert_array_equal(
        sparse.vstack([batch.to_scipy() for batch in batches]).toarray(),
        adata.X[: 31 * 32].toarray(),
    )


def test_dropping_the_last_leaves_the_others_as_they_are(atlas: Atlas) -> None:
    whole = bytes_of(atlas.minibatches(**SIZES).epoch(2))
    assert bytes_of(atlas.minibatches(drop_last=True, **SIZES).epoch(2)) == whole[:-1]


def test_storage_pieces_and_memory_change_no_byte(
    atlas: Atlas, adata: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bytes_of(atlas.minibatches(**SIZES).epoch(1))
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    with write_atlas(open_atlas(adata), tmp_path / "b.zarr", chunk_nonzeros=77) as other:
        assert bytes_of(other.minibatches(**SIZES).epoch(1)) == expected
    with open_atlas(path) as other:
        # Values of h5ad may be wider; the cells are the same.
        cells = [batch.cells.tobytes() for batch in other.minibatches(**SIZES).epoch(1)]
        assert cells == [batch[1] for batch in expected]
    monkeypatch.setattr(stream, "PIECE_CELLS", 50)
    monkeypatch.setattr(stream, "READERS", 4)
    assert bytes_of(atlas.minibatches(**SIZES).epoch(1)) == expected
    least = _least(atlas)
    assert bytes_of(atlas.minibatches(memory_limit=least, **SIZES).epoch(1)) == expected


@pytest.mark.parametrize(
    ("limit", "said"), [("1GiB", "here it is a number of bytes"), (0, "it is at least 1")]
)
def test_a_limit_that_is_none_is_refused(atlas: Atlas, limit: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        atlas.minibatches(memory_limit=limit, **SIZES)


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_torch_its_extra_is_named(atlas: Atlas) -> None:
    made = atlas.minibatches(**SIZES)
    with pytest.raises(InputError, match=r"install tigon\[torch\]"):
        made.torch_dataset()
    with pytest.raises(InputError, match=r"install tigon\[torch\]"):
        next(iter(made)).to_torch()


def _least(atlas: Atlas) -> int:
    """The smallest limit that does, taken from the refusal of a smaller one."""
    with pytest.raises(MemoryLimitError, match=r"need [\d,]+ bytes and memory_limit is 1:") as no:
        atlas.minibatches(memory_limit=1, **SIZES)
    return int(str(no.value).split()[2].replace(",", ""))


def test_the_smallest_limit_is_what_the_refusal_says(atlas: Atlas) -> None:
    least = _least(atlas)
    with pytest.raises(MemoryLimitError):
        atlas.minibatches(memory_limit=least - 1, **SIZES)


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9, 31, 32])
def test_an_epoch_may_begin_at_any_step(atlas: Atlas, start: int) -> None:
    made = atlas.minibatches(**SIZES)
    assert bytes_of(made.epoch(3, start)) == bytes_of(made.epoch(3))[start:]


def test_beginning_later_reads_no_cell_of_earlier_steps(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, read = atlas.minibatches(**SIZES), []
    plain = Atlas.read_runs

    def noted(self: Atlas, runs: Any, *options: Any) -> Any:
        read.extend(np.concatenate([np.arange(*run) for run in runs]).tolist())
        return plain(self, runs, *options)

    monkeypatch.setattr(Atlas, "read_runs", noted)
    cells = np.concatenate([batch.cells for batch in made.epoch(0, 13)])
    assert sorted(read) == sorted(cells)


def test_the_state_goes_on_where_it_was_saved(atlas: Atlas) -> None:
    whole = atlas.minibatches(**SIZES)
    expected = bytes_of([*whole, *whole])
    first = atlas.minibatches(**SIZES)
    iterator = iter(first)
    taken = bytes_of(next(iterator) for _ in range(11))
    state = pickle.loads(pickle.dumps(first.state_dict()))
    later = atlas.minibatches(**SIZES)
    later.load_state_dict(state)
    assert taken + bytes_of([*later, *later]) == expected


def test_a_state_of_other_mini_batches_is_refused(atlas: Atlas) -> None:
    state = atlas.minibatches(**SIZES).state_dict()
    for changed in ({"seed": 1}, {"batch_size": 64}, {"block_cells": 16}):
        with pytest.raises(InputError, match="of other mini-batches: it needs the same"):
            atlas.minibatches(**{**SIZES, **changed}).load_state_dict(state)


def test_parts_hold_every_mini_batch_once(atlas: Atlas) -> None:
    made = atlas.minibatches(**SIZES)
    whole = bytes_of(made.epoch(0))
    parts = [bytes_of(made.epoch(0, part=(i, 3))) for i in range(3)]
    assert sorted(batch for part in parts for batch in part) == sorted(whole)
    assert all(parts)


def test_genes_are_chosen_in_the_order_asked_for(atlas: Atlas, adata: anndata.AnnData) -> None:
    for genes in (np.array([3, 4, 30]), np.array([30, 3, 39, 0])):
        names = list(adata.var_names[genes])
        for asked in (genes, names):
            made = atlas.minibatches(genes=asked, **SIZES)
            assert made.n_genes == len(genes)
            for batch in made.epoch(0):
                expected = adata.X[batch.cells][:, genes].toarray()
                np.testing.assert_array_equal(batch.to_scipy().toarray(), expected)
                ends_of_cells = np.isin(np.arange(1, len(batch.indices)), batch.indptr)
                assert (np.diff(batch.indices.astype(int)) > 0)[~ends_of_cells].all()
    mask = np.arange(N_GENES) % 2 == 0
    batch = next(atlas.minibatches(genes=mask, **SIZES).epoch(0))
    np.testing.assert_array_equal(
        batch.to_scipy().toarray(), adata.X[batch.cells][:, mask].toarray()
    )


def test_strata_are_datasets_columns_or_numbers(atlas: Atlas, adata: anndata.AnnData) -> None:
    codes = adata.obs["donor"].cat.codes.to_numpy()
    expected = None
    for stratify in ("donor", codes):
        batches = list(atlas.minibatches(stratify=stratify, **SIZES).epoch(0))
        for batch in batches:
            np.testing.assert_array_equal(batch.datasets, codes[batch.cells])
        assert expected in (None, bytes_of(batches))
        expected = bytes_of(batches)
    plain = next(atlas.minibatches(**SIZES).epoch(0))
    np.testing.assert_array_equal(plain.datasets, atlas.source_codes[plain.cells])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"batch_size=0: it is a whole number of at least 1"),
        ({"batch_size": "many"}, r"batch_size='many': it is a whole number"),
        ({"batch_size": 9, "window_cells": 8}, r"window_cells=8: it is .* of at least 9"),
        ({"seed": -1}, r"seed=-1"),
        ({"block_cells": 0}, r"block_cells=0"),
        ({"batch_size": 4, "window_cells": 10}, r"window_cells=10: it is a multiple of batch_size"),
        ({"genes": []}, r"genes is empty"),
        ({"genes": np.zeros(40, bool)}, r"genes is empty"),
        ({"genes": "gene1"}, r"genes='gene1': it is a list of names"),
        ({"genes": ["gene1", "nope"]}, r"1 of 2 genes are not in the atlas \(first: 'nope'\)"),
        ({"genes": [1, 40]}, r"gene 40 is asked for: there are 40"),
        ({"genes": ["gene1", "gene1"]}, r"gene 'gene1' is asked for 2 times"),
        ({"genes": np.ones(3, bool)}, r"the mask has 3 genes: there are 40"),
        ({"stratify": "nope"}, r"stratify='nope' is not a column of obs: there are batch"),
        ({"stratify": np.zeros(3, int)}, r"stratify has shape \(3,\)"),
        ({"stratify": np.full(1003, 2**32 + 1)}, r"stratify holds 4294967297"),
        ({"device": "tpu"}, r"device='tpu' is not known"),
    ],
)
def test_options_out_of_range_are_refused(
    atlas: Atlas, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        atlas.minibatches(**options)


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 33)])
def test_steps_outside_the_epoch_are_refused(atlas: Atlas, epoch: int, start: int) -> None:
    with pytest.raises(InputError, match="an epoch has 32 steps"):
        atlas.minibatches(**SIZES).epoch(epoch, start)


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "minibatches" in thread.name}


@pytest.mark.parametrize("end", ["close", "drop", "finish"])
def test_threads_end_with_the_iteration(atlas: Atlas, end: str) -> None:
    found: Any = atlas.minibatches(**SIZES).epoch(0)
    next(found)
    assert _threads()
    if end == "close":
        found.close()
    elif end == "finish":
        list(found)
    del found
    gc.collect()
    assert not _threads()


def test_errors_of_reading_reach_the_consumer(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = atlas.minibatches(**SIZES), Atlas.read_runs
    monkeypatch.setattr(stream, "PIECE_CELLS", 64)
    bad = made.plan.window(0, 1).cells[100]

    def failing(self: Atlas, runs: Any, *options: Any) -> Any:
        if any(start <= bad < stop for start, stop in runs):
            raise InputError(f"cell {bad} is damaged")
        return plain(self, runs, *options)

    monkeypatch.setattr(Atlas, "read_runs", failing)
    batches: list[MiniBatch] = []
    with pytest.raises(InputError, match=f"cell {bad} is damaged"):
        batches.extend(made.epoch(0))
    assert len(batches) == 8  # the window before the damage
    gc.collect()
    assert not _threads()


def test_cells_of_an_atlas_smaller_than_a_batch(tmp_path: Path) -> None:
    with open_atlas(make_adata()) as small:
        made = small.minibatches()
        assert len(made) == 1
        (batch,) = made
        np.testing.assert_array_equal(np.sort(batch.cells), np.arange(60))
        assert len(small.minibatches(drop_last=True)) == 0
        assert list(small.minibatches(drop_last=True)) == []


def test_counts_that_float32_would_round_are_refused() -> None:
    counts = make_counts()
    counts[3, 3] = 2**24
    with open_atlas(make_adata(counts.astype(np.float64))) as large:
        (batch,) = large.minibatches()
        assert batch.to_scipy().max() == 2**24
    counts = counts.astype(np.uint32)
    counts[3, 3] = 2**24 + 1
    with open_atlas(make_adata(counts)) as larger:
        (batch,) = larger.minibatches()
        assert batch.values.max() == 2**24 + 1
        with pytest.raises(InputError, match=r"a count is 16,777,217: float32 is exact up to"):
            batch.to_scipy()


def test_blocks_of_counts_that_float32_would_round_are_refused() -> None:
    counts = make_counts().astype(np.uint32)
    counts[3, 3] = 2**24
    with open_atlas(make_adata(counts)) as large:
        assert large.read(0, 10).to_scipy().max() == 2**24
    counts[3, 3] = 2**24 + 1
    with open_atlas(make_adata(counts)) as larger:
        block = larger.read(0, 10)
        assert block.values.max() == 2**24 + 1
        with pytest.raises(InputError, match=r"a count is 16,777,217: float32 is exact up to"):
            block.to_scipy()
        assert larger.read(5, 10).to_scipy().shape == (5, larger.n_genes)


def test_mini_batches_say_what_they_are(atlas: Atlas) -> None:
    made = atlas.minibatches(seed=7, **SIZES)
    assert repr(made) == (
        "MiniBatches of 1,003 cells x 40 genes: 32 an epoch, of 32 cells, shuffled with seed 7; "
        "next is epoch 0, step 0"
    )
    next(iter(made))
    assert repr(made).endswith("next is epoch 0, step 1")
    plain = atlas.minibatches(shuffle=False, genes=[3], **SIZES)
    assert "x 1 genes" in repr(plain)
    assert "in the atlas's order" in repr(plain)


def test_mini_batches_are_made_by_the_atlas(atlas: Atlas) -> None:
    assert isinstance(atlas.minibatches(), MiniBatches)


@pytest.mark.parametrize("is_least", [False, True])
def test_memory_stays_within_what_was_foreseen(tmp_path: Path, is_least: bool) -> None:
    rng = np.random.default_rng(0)
    counts = sparse.random_array((20_000, 400), density=0.25, rng=rng, dtype=np.float32)
    counts.data = np.ceil(3 * counts.data)
    sizes = {"batch_size": 512, "block_cells": 32, "window_cells": 4096}
    made_here = open_atlas(make_adata(sparse.csr_matrix(counts)))
    with write_atlas(made_here, tmp_path / "a.zarr", chunk_nonzeros=1 << 14) as large:
        with pytest.raises(MemoryLimitError) as no:
            large.minibatches(memory_limit=1, **sizes)
        least = int(str(no.value).split()[2].replace(",", ""))
        limit = least if is_least else 2 * least
        made = large.minibatches(memory_limit=limit, **sizes)
        for _ in made.epoch(0):
            pass  # indexes and libraries are loaded now
        tracemalloc.start()
        try:
            for _ in made.epoch(1):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # A window of 4,096 cells is 1.6 MB here, and the plan of an epoch is beside it.
    assert 1.6e6 < peak < limit + 24 * large.n_cells
