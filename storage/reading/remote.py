"""Objects behind a URL: a web server's files, or those of an object store."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from tigon.storage.errors import InputError
from tigon.storage.reading.client import explain, open_client
from tigon.storage.reading.objects import Body, Coalescing, Identity, changed
from tigon.storage.reading.policy import RequestPolicy
from tigon.storage.reading.sharing import FETCHERS

if TYPE_CHECKING:
    from obstore import GetOptions

_SHORT = "UnexpectedRange"  # in the client's error about an answer of another range
SCHEMES = ("http://", "https://", "s3://", "s3a://", "gs://", "az://", "abfs://")


class RemoteObjects:
    """The objects under a URL, by HTTP requests of ranges.

    Parameters
    ----------
    url
        Where the store is; :func:`open_client` says how it is reached.
    policy
        Limits of the requests.

    Raises
    ------
    InputError
        The URL is of no known kind.

    Notes
    -----
    Each has one client with its connections, whichever threads read. All that a process
    has open on one host share the threads that fetch, and with them the limit of
    requests under way. The client makes requests again after
    time-outs, resets, 429, 5xx and bodies that break off; here are added bodies of a
    wrong length and the check that an object stays the same.
    """

    def __init__(self, url: str, policy: RequestPolicy) -> None:
        if not url.startswith(SCHEMES):
            known = ", ".join((*SCHEMES, "file://"))
            raise InputError(f"{url}: URLs begin with {known}")
        self.where = url
        self.coalescing = Coalescing(policy.gap_bytes, policy.request_bytes)
        self._policy = policy
        self.client = open_client(url, policy)
        # A forked process has neither the threads nor the client's.
        self._process = os.getpid()
        self._pool_key = (_host(url), policy.in_flight)
        self._pool = FETCHERS.acquire(self._pool_key)
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def fetchers(self) -> Executor | None:
        if os.getpid() != self._process:
            raise InputError(
                f"{self.where} was opened before this process was forked: connections do not "
                "survive that; open it in each process"
            )
        return self._pool

    def read(self, key: str, start: int, stop: int | None, known: Identity | None) -> Body:
        options: GetOptions = {} if stop is None else {"range": (start, stop)}
        if known is not None and known.tag.startswith('"'):
            options["if_match"] = known.tag  # weak tags never match
        body = self._get(key, options, None if stop is None else stop - start)
        if known is not None and body.identity != known:
            raise changed(self.where, key)
        return body

    def read_end(self, key: str, n_bytes: int) -> Body:
        from obstore.exceptions import NotSupportedError

        try:
            return self._get(key, {"range": {"suffix": n_bytes}}, n_bytes)
        except InputError as error:
            if not isinstance(error.__cause__, NotSupportedError):
                raise
        size = self._size(key)  # Azure knows ranges, but none from the end
        return self.read(key, size - n_bytes, size, None)

    def check_ranges(self, key: str) -> None:
        """Refuse a server that gives whole files only.

        Raises
        ------
        InputError
            It does, or ``key`` cannot be read.
        """
        with suppress(FileNotFoundError):
            self.read(key, 0, 1, None)

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        FETCHERS.release(self._pool_key)

    def _size(self, key: str) -> int:
        import obstore

        try:
            return obstore.head(self.client, key)["size"]
        except Exception as error:
            raise explain(error, self.where, key) from error

    def _get(self, key: str, options: GetOptions, n_bytes: int | None) -> Body:
        """One body of the right length, asked for again while it has another."""
        deadline = time.monotonic() + self._policy.retry_s
        for n_tried in range(self._policy.n_retries + 1):
            body = self._attempt(key, options)
            if body is not None and n_bytes in (None, len(body.data)):
                return body
            pause = min(self._policy.backoff_s * 2**n_tried, self._policy.longest_backoff_s)
            if time.monotonic() + pause > deadline:
                break
            time.sleep(pause * random.uniform(0.5, 1.0))
        raise InputError(
            f"{self.where}: {key} comes cut short, however often it is asked for: the atlas is "
            "damaged there; copy it there again"
        )

    def _attempt(self, key: str, options: GetOptions) -> Body | None:
        """A body; None where the server gave less than it was asked for."""
        import obstore

        try:
            result = obstore.get(self.client, key, options=options)
            meta, data = result.meta, result.bytes()
        except FileNotFoundError:
            raise
        except Exception as error:
            if _SHORT in str(error):
                return None
            raise explain(error, self.where, key) from error
        tag = meta["e_tag"] or str(meta["last_modified"])
        return Body(np.frombuffer(memoryview(data), np.uint8), Identity(tag, meta["size"]))


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
