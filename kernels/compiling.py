"""Getting ready to run kernels, and telling when they are compiled.

To compile takes seconds where no cache is. Numba announces compilations, and only these:
loading from the cache is silent.

A kernel is compiled for every combination of types that it is called with, and within every
kernel that calls it: a literal is a type of its own (hence ``np.int64(0)``), and so is each
order of an array. Whole arrays in expressions and assignments take many times as long to
compile as loops do; layers that have one caller are put into it (``inline="always"``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from numba.core import event
from numba.core.registry import cpu_target


def load_compiler() -> None:
    """Load what Numba asks for before its first kernel, also one that is compiled already.

    Takes a third of a second, once in a process.
    """
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def compilations(
    began: Callable[[], None], ended: Callable[[], None]
) -> AbstractContextManager[Any]:
    """Tell when compiling a kernel begins and ends.

    Parameters
    ----------
    began, ended
        Called within the returned context, from whichever thread compiles. A
        kernel that needs another one is one compilation.
    """
    context: AbstractContextManager[Any] = event.install_listener(
        "numba:compile", _Listener(began, ended)
    )
    return context


class _Listener(event.Listener):  # type: ignore[misc]
    """Listens to our kernels only: other libraries compile some at every run."""

    def __init__(self, began: Callable[[], None], ended: Callable[[], None]) -> None:
        self._began, self._ended = began, ended
        self._depth = 0  # Numba compiles under one lock, so that this needs none.

    def on_start(self, event: Any) -> None:
        if _is_ours(event):
            self._depth += 1
            if self._depth == 1:
                self._began()

    def on_end(self, event: Any) -> None:
        if _is_ours(event):
            self._depth -= 1
            if self._depth == 0:
                self._ended()


def _is_ours(event: Any) -> bool:
    return str(event.data["dispatcher"].py_func.__module__).startswith("tigon.")
