"""What happened on the way: seconds by stage, and notices."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Journal:
    """Collected while a run is made.

    Attributes
    ----------
    timings_s
        Seconds by stage, in order.
    notices
        Warnings of the "tigon" logger, each once.
    """

    timings_s: dict[str, float] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        yield
        self.timings_s[name] = time.perf_counter() - started

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Collect notices while the context is open."""
        log = logging.getLogger("tigon")
        handler = _Collector(self.notices)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


class _Collector(logging.Handler):
    def __init__(self, notices: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._notices:
            self._notices.append(message)
