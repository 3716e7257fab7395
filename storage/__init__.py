"""Bytes in, bytes out: atlases, packs and runs.

The public names are imported when first used, so that ``import tigon.storage``
costs nothing and workers load only what they need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas
    from tigon.storage.ingest import write_atlas
    from tigon.storage.opening import open_atlas
    from tigon.storage.publish import published

__all__ = ["Atlas", "open_atlas", "published", "write_atlas"]

_HOMES = {
    "Atlas": "tigon.storage.atlas",
    "open_atlas": "tigon.storage.opening",
    "published": "tigon.storage.publish",
    "write_atlas": "tigon.storage.ingest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
