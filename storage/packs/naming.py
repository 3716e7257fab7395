"""Names of packs: the same name, the same bytes.

A name is a digest of everything that a pack is made of, so that one found under its name
can be used again without a look at the atlas.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.packs.pack import FORMAT

PREFIX = "pack-"
_DIGEST_BYTES = 16


def pack_name(atlas_digest: str, **parts: NDArray[Any]) -> str:
    """Name of a pack.

    Parameters
    ----------
    atlas_digest
        Name of the content of the atlas: counts, and names of cells and genes.
    **parts
        What else decides the bytes, under names: genes, datasets and weights of cells,
        their places. Any arrays.

    Returns
    -------
    str
        ``pack-`` and 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(f"{FORMAT} {atlas_digest}".encode(), digest_size=_DIGEST_BYTES)
    for name, part in sorted(parts.items()):
        digest.update(f"\n{name} {part.dtype.str} {part.shape} ".encode())
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return PREFIX + digest.hexdigest()
