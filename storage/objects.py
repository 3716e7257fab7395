"""Objects of a store by their names, in a folder or behind a URL.

Buckets are found as obstore finds them: credentials, region and another server
than the provider's come from the environment (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL`` with ``AWS_ALLOW_HTTP=true`` for one without TLS, and the like for
Google and Azure).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.storage.reading.client import explain, open_client
from tigon.storage.reading.policy import RequestPolicy

if TYPE_CHECKING:
    from obstore.store import ObjectStore

BUCKETS = ("s3://", "s3a://", "gs://", "az://", "abfs://")
"""Schemes of stores that list and are written to."""


def is_bucket(where: str | Path) -> bool:
    """Whether ``where`` is in an object store."""
    return str(where).startswith(BUCKETS)


def open_objects(url: str) -> ObjectStore:
    """The store whose root is at ``url``."""
    return open_client(url, RequestPolicy())


def read_object(where: str, key: str) -> bytes:
    """One small object of a store, or file of a folder."""
    if "://" not in where:
        return Path(where, key).read_bytes()
    bucket = open_objects(where)
    try:
        return bytes(bucket.get(key).bytes())
    except FileNotFoundError:
        raise
    except Exception as error:
        raise explain(error, where, key) from error


def list_versions(url: str) -> list[list[Any]] | None:
    """Name, size and ETag of every object under ``url``, by name.

    None where they cannot be had: plain web servers list nothing, not everybody who may
    read a bucket may list it, and an object without an ETag has no version.

    Raises
    ------
    InputError
        The bucket does not answer.
    """
    if not is_bucket(url):
        return None
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    bucket = open_objects(url)
    try:
        listed = [
            [entry["path"], entry["size"], entry["e_tag"]]
            for batch in bucket.list()
            for entry in batch
        ]
    except (PermissionDeniedError, UnauthenticatedError):
        return None
    except Exception as error:
        raise explain(error, url, "the list of its objects") from error
    known = bool(listed) and all(e_tag is not None for _, _, e_tag in listed)
    return sorted(listed) if known else None
