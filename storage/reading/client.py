"""The HTTP client of a URL: how it is made, and what its errors mean."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from tigon.storage.errors import InputError
from tigon.storage.reading.objects import changed
from tigon.storage.reading.policy import RequestPolicy

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig


def open_client(url: str, policy: RequestPolicy) -> ObjectStore:
    """A client for ``url``, with connections of its own.

    Raises
    ------
    InputError
        The URL, or what the environment says of how to reach it, makes no sense.

    Notes
    -----
    Credentials, regions and endpoints come from the environment, by the names that the
    programs of the clouds use: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
    ``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` (with
    ``AWS_ALLOW_HTTP=true`` for one without TLS) and ``AWS_SKIP_SIGNATURE=true`` for public
    buckets; ``GOOGLE_APPLICATION_CREDENTIALS``; ``AZURE_STORAGE_ACCOUNT_NAME`` with
    ``AZURE_STORAGE_ACCOUNT_KEY`` or ``AZURE_STORAGE_SAS_TOKEN``.
    """
    from obstore.store import from_url

    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=policy.connect_s),
        "read_timeout": timedelta(seconds=policy.stall_s),
        "timeout": timedelta(seconds=policy.request_s),
        "allow_http": _is_without_tls(url),
    }
    retries: RetryConfig = {
        "max_retries": policy.n_retries,
        "retry_timeout": timedelta(seconds=policy.retry_s),
        "backoff": {
            "init_backoff": timedelta(seconds=policy.backoff_s),
            "max_backoff": timedelta(seconds=policy.longest_backoff_s),
            "base": 2,
        },
    }
    try:
        return from_url(url, client_options=options, retry_config=retries)
    except Exception as error:
        raise InputError(
            f"{url}: there is no client for it ({reason(error)}): check the address, and the "
            "environment variables that say how to reach it"
        ) from error


def _is_without_tls(url: str) -> bool:
    """Whether a user asked for it: the client's own look at the environment ends with options."""
    return url.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"


def explain(error: Exception, where: str, key: str) -> InputError:
    """What a failed request means for whoever asked for an atlas."""
    from obstore import exceptions

    if isinstance(error, exceptions.PreconditionError):
        return changed(where, key)
    if isinstance(error, exceptions.NotSupportedError):
        return InputError(
            f"{where}: the server gives whole files only (asked for a range of {key}): an atlas "
            "is read in ranges; serve it with `tigon serve`, nginx or an object store, or copy it"
        )
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return InputError(
            f"{where}: {key} may not be read ({reason(error)}): credentials are missing or have "
            "expired; renew them and run again"
        )
    return InputError(
        f"{where}: {key} cannot be fetched ({reason(error)}): the request was repeated in vain; "
        "check the address, the network and the server, and run again"
    )


def reason(error: Exception) -> str:
    """The end of the client's message: what the server or the network said."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.rpartition(" - ")[2].strip(" :")
