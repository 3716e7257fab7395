"""The contract of where chunks lie: named objects, of which ranges of bytes are read."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError


class Identity(NamedTuple):
    """What tells that an object is still the one that was read before.

    Attributes
    ----------
    tag
        ETag, or the time of the last change; "" where neither is known.
    size
        Its bytes.
    """

    tag: str
    size: int


class Body(NamedTuple):
    """Bytes of an object and of which object they are.

    Attributes
    ----------
    data
        uint8, shape (n_bytes,).
    identity
        Of the whole object.
    """

    data: NDArray[np.uint8]
    identity: Identity


@dataclass(frozen=True, slots=True)
class Coalescing:
    """Which ranges are worth one request.

    Attributes
    ----------
    gap_bytes
        Ranges this near one another are read as one.
    request_bytes
        Most bytes of a request that several chunks share.
    """

    gap_bytes: int
    request_bytes: int


class Objects(Protocol):
    """Named objects of one store; every method may be called by several threads.

    ``read`` and ``read_end`` raise FileNotFoundError where there is no such
    object, and InputError, which names it, where it cannot be read.
    """

    @property
    def where(self) -> str:
        """The store, for messages."""
        ...

    @property
    def coalescing(self) -> Coalescing:
        """Which ranges are worth one request."""
        ...

    @property
    def fetchers(self) -> Executor | None:
        """Threads that wait for answers; None where reading is as quick as asking."""
        ...

    def read(self, key: str, start: int, stop: int | None, known: Identity | None) -> Body:
        """Bytes ``start`` to ``stop`` (None: the end) of an object, ``known`` from before."""
        ...

    def read_end(self, key: str, n_bytes: int) -> Body:
        """The last ``n_bytes`` of an object."""
        ...

    def close(self) -> None:
        """End connections and threads; a second time does nothing."""
        ...


def changed(where: str, key: str) -> InputError:
    """The error of an object that another has replaced."""
    return InputError(
        f"{where}: {key} changed while it was being read: an atlas is read as one version; "
        "wait until whoever writes it is done and run again"
    )
