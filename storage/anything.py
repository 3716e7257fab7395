"""What may be opened as an atlas."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from anndata import AnnData

    from tigon.storage.atlas import Atlas

Counts: TypeAlias = "Atlas | AnnData | str | os.PathLike[str] | Sequence[Any]"
"""An atlas, an AnnData, a path, a URL, or a list of these."""
