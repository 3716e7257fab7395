"""Ctrl-C while a lock of the compiler changes hands."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
from llvmlite.binding import ffi
from numba.core.compiler_lock import global_compiler_lock

from tigon.kernels.interrupts import careful_interrupts


def is_free(lock: Any) -> bool:
    """Whether another thread could take it."""

    def look() -> None:
        taken.append(lock.acquire(blocking=False))
        if taken[0]:
            lock.release()

    taken: list[bool] = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return taken[0]


def interrupted_beside(lock: Any) -> None:
    """An interrupt that was put off arrives a little after the lock was given back."""
    with careful_interrupts():
        with lock:
            pass
        time.sleep(10)


def interrupted_within(lock: Any) -> None:
    with careful_interrupts(), lock:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it was put off")


@pytest.mark.parametrize("moment", ["taken", "about to be given back"])
def test_the_lock_is_given_back(moment: str) -> None:
    lock = ffi._LLVMLock()
    acts = [lambda: None, lambda: None]
    acts[moment != "taken"] = lambda: signal.raise_signal(signal.SIGINT)
    lock.register(*acts)
    with pytest.raises(KeyboardInterrupt):
        interrupted_beside(lock)
    assert is_free(lock._lock)


def test_without_care_the_lock_is_lost() -> None:
    lock = ffi._LLVMLock()
    lock.register(lambda: signal.raise_signal(signal.SIGINT), lambda: None)
    with pytest.raises(KeyboardInterrupt), lock:
        pass
    assert not is_free(lock._lock)


def test_elsewhere_an_interrupt_is_not_put_off() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_within(global_compiler_lock)
    assert is_free(global_compiler_lock._lock)


def test_a_handler_of_somebody_else_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with careful_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_usual_handler_comes_back() -> None:
    with careful_interrupts():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
