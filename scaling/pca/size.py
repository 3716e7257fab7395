"""What tasks of a decomposition take in memory, known before any count is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.cpu.panels import MOST_PARTS_ALONE, row_width
from tigon.scaling.pca.certificate import PROBES
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.krylov import improved
from tigon.scaling.pca.rows import BLOCK_CELLS
from tigon.scaling.pca.starting import RANDOM

if TYPE_CHECKING:
    from tigon.storage import Atlas

_ENTRY_BYTES = 40
"""Of an entry of a block that is worked on: selected, as a tile, and transformed."""


def block_bytes(atlas: Atlas) -> int:
    """A block of cells of an atlas while it is worked on."""
    n = min(BLOCK_CELLS, atlas.n_cells)
    return atlas.estimate_block_bytes(n) + _ENTRY_BYTES * atlas.most_entries(n)


def sums_bytes(config: PCAConfig, n_genes: int) -> int:
    """Sums over cells that come back from a task: of pairs of genes, or for a basis."""
    if config.solver_for(n_genes)[0] == "gram":
        return 8 * n_genes**2
    return 8 * n_genes * padded(improved(improved(config.n_components)) + PROBES + RANDOM)


def padded(n_columns: int) -> int:
    """Columns as kernels hold them."""
    return row_width(n_columns, np.float64, MOST_PARTS_ALONE)
