"""Mini-batches for torch: tensors, and a dataset that a DataLoader's workers share."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tigon.storage.errors import InputError
from tigon.storage.minibatches.portable import PortableMiniBatches
from tigon.storage.minibatches.stream import Memory

if TYPE_CHECKING:
    from tigon.storage.minibatches.batch import MiniBatch
    from tigon.storage.minibatches.minibatches import MiniBatches

Layout: TypeAlias = Literal["csr", "dense"]


def check_torch() -> None:
    """Refuse to go on without PyTorch.

    Raises
    ------
    InputError
        It is not installed.
    """
    if find_spec("torch") is None:
        raise InputError("this needs PyTorch, which is not installed: install tigon[torch]")


def to_torch(batch: MiniBatch, layout: Layout, device: Any = None) -> Any:
    """The counts as a float32 tensor (cells x genes), sparse or dense."""
    check_torch()
    import torch

    narrow = [torch.as_tensor(array) for array in (batch.indptr, batch.indices, batch.values)]
    # Narrow until they are where they are needed: half of what would cross to a device.
    crow, col, values = (array.to(device or array.device) for array in narrow)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        counts = torch.sparse_csr_tensor(
            crow,
            col.to(torch.int64),
            values.to(torch.float32),
            size=batch.shape,
            # They hold: the counts were checked as they were read.
            check_invariants=False,
        )
    return counts if layout == "csr" else counts.to_dense()


def shared(
    local: MiniBatches | None,
    portable: PortableMiniBatches,
    layout: Layout,
    epoch: Any = None,
) -> SharedMiniBatches:
    """A ``torch.utils.data.IterableDataset`` of mini-batches.

    Parameters
    ----------
    local
        Read from where no workers are; None in a worker.
    portable
        What workers read from.
    layout
        Of the tensors.
    epoch
        Which epoch comes next: a tensor in shared memory, int64, shape (1,); a new one
        of 0 by default.
    """
    check_torch()
    import torch

    if epoch is None:
        epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
    dataset: SharedMiniBatches = _dataset_class()(local, portable, layout, epoch)
    return dataset


class SharedMiniBatches:
    """What the dataset does; ``shared`` makes it one of torch's classes.

    Every item is a dict: ``X`` (float32 tensor, cells x genes), ``cells`` (int64
    positions in the atlas), ``datasets`` (int64) and ``step``. Give it to a DataLoader
    with ``batch_size=None``. Each of n workers reads every n-th window of the epoch, so
    that together they give every cell once, in the same mini-batches as without
    workers; their order depends on the number of workers.
    """

    def __init__(
        self,
        local: MiniBatches | None,
        portable: PortableMiniBatches,
        layout: Layout,
        epoch: Any,
    ) -> None:
        self._local, self._portable = local, portable
        self._layout: Layout = layout
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; it stays until chosen again."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._portable.plan.n_steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import torch

        for batch in self._batches():
            yield {
                "X": batch.to_torch(self._layout),
                "cells": torch.from_numpy(batch.cells),
                "datasets": torch.from_numpy(batch.datasets.astype(np.int64)),
                "step": batch.step,
            }

    def __reduce__(self) -> tuple[Any, ...]:
        return shared, (None, self._portable, self._layout, self._epoch)

    def _batches(self) -> Iterator[MiniBatch]:
        from torch.utils.data import get_worker_info

        epoch, worker = int(self._epoch[0]), get_worker_info()
        if worker is None and self._local is not None:
            return self._local.epoch(epoch)
        if worker is not None:
            # What cannot be sent must not be used by a fork either: this refuses it.
            pickle.dumps(self._portable.atlas)
        part = (0, 1) if worker is None else (worker.id, worker.num_workers)
        windows = self._portable.plan.windows(epoch, 0, part)
        return self._portable.reader().stream(windows, 0, Memory())


@lru_cache(maxsize=1)
def _dataset_class() -> type[Any]:
    from torch.utils.data import IterableDataset

    return type("MiniBatchDataset", (SharedMiniBatches, IterableDataset), {})
