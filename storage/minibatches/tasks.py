"""Mini-batches as Dask tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from tigon.storage.minibatches.portable import PortableMiniBatches


def delayed_batches(portable: PortableMiniBatches, epoch: int) -> list[Delayed]:
    """One delayed mini-batch for every step of an epoch.

    Parameters
    ----------
    portable
        Goes to each worker once.
    epoch
        Its number.

    Notes
    -----
    A task reads a window; its mini-batches are items of the result. Dask may let go
    of a window as soon as the last of them is computed.
    """
    from dask.delayed import delayed

    plan = portable.plan
    name = uuid4().hex
    source = delayed(portable, name=f"minibatches-{name}", traverse=False)
    read = delayed(type(portable).read_window, pure=False)
    found = []
    for number in range(plan.n_windows):
        n_steps = min(plan.window_steps, plan.n_steps - number * plan.window_steps)
        window = read(source, epoch, number, dask_key_name=f"window-{name}-{number}")
        found += [window[place] for place in range(n_steps)]
    return found
