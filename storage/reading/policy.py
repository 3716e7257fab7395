"""How requests are made, cut and given up on."""

from __future__ import annotations

from dataclasses import dataclass

from tigon.storage.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RequestPolicy:
    """Limits of requests to one host.

    Attributes
    ----------
    in_flight
        Requests under way at once, over all atlases of the host that are open.
    connect_s
        Time to make a connection.
    stall_s
        Time without a byte after which a request is given up and made again.
    request_s
        Time for the whole of one request.
    retry_s
        After this time no request is made again: an error comes at most
        ``retry_s + request_s`` after the first request.
    n_retries
        How often a request is made again: after a time-out, a reset, an answer of
        the server that says "later" (429, 5xx), or a body that is short or damaged.
    backoff_s, longest_backoff_s
        Wait before the second request, doubled each time, with jitter; and its limit.
    gap_bytes
        Ranges this near one another are fetched as one.
    request_bytes
        Most bytes of one request that several chunks share.
    """

    in_flight: int = 32
    connect_s: float = 10.0
    stall_s: float = 15.0
    request_s: float = 60.0
    retry_s: float = 120.0
    n_retries: int = 16
    backoff_s: float = 0.1
    longest_backoff_s: float = 10.0
    gap_bytes: int = 256 << 10
    request_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        for name in ("in_flight", "connect_s", "stall_s", "request_s", "retry_s", "request_bytes"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)}: it must be above 0")
        for name in ("n_retries", "backoff_s", "longest_backoff_s", "gap_bytes"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: it must be at least 0")
