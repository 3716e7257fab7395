"""Kinds of genes that tell of a cell's handling rather than of its type, by their names.

Names are symbols of human or mouse genes, in any case: a table of genes under other
identifiers has none of these kinds.

References
----------
Stress: van den Brink et al. (2017), Nature Methods 14, 935, doi:10.1038/nmeth.4437: the
immediate early genes and heat shock proteins that dissociation turns on.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

NO_KIND, MITOCHONDRIAL, RIBOSOMAL, STRESS = range(4)

COUNTED = 2
"""Kinds, the first of them, whose share of the counts is kept of every cell."""

NAMES = {MITOCHONDRIAL: "mitochondrial", RIBOSOMAL: "ribosomal", STRESS: "stress"}

# Proteins of the ribosome and their pseudogenes, not the S6 kinases (RPS6K...) nor a
# protein that binds S19 (RPS19BP1).
_RIBOSOMAL = re.compile(r"RP[SL](?:A|P?[0-9]+)(?![0-9]*(?:K|BP))")

_STRESS = """
ATF3 BTG1 BTG2 CEBPB CEBPD DNAJA1 DNAJB1 DNAJB4 DUSP1 EGR1 EGR2 FOS FOSB FOSL2 GADD45A
GADD45B GADD45G HSP90AA1 HSP90AB1 HSPA1A HSPA1B HSPA1L HSPA5 HSPA6 HSPA8 HSPB1 HSPD1 HSPE1
HSPH1 IER2 IER3 IER5 JUN JUNB JUND KLF4 KLF6 MCL1 NFKBIA NFKBIZ NR4A1 PPP1R15A RHOB SOCS3
UBC ZFP36 ZFP36L1
"""
_STRESS_GENES = frozenset(_STRESS.split())


def kinds_of(gene_names: Iterable[str]) -> NDArray[np.uint8]:
    """Kind of each gene, uint8, shape (n_genes,): one of the numbers above.

    Mitochondrial genes are those named ``MT-`` or ``mt-``.
    """
    return np.fromiter((_kind(str(name).upper()) for name in gene_names), np.uint8)


def checksum_of(kinds: NDArray[np.uint8]) -> int:
    """Of which gene is of which kind, as far as its counts are summed."""
    return zlib.crc32(np.where(kinds <= COUNTED, kinds, 0).astype(np.uint8).tobytes())


def _kind(name: str) -> int:
    if name.startswith("MT-"):
        return MITOCHONDRIAL
    if _RIBOSOMAL.match(name):
        return RIBOSOMAL
    return STRESS if name in _STRESS_GENES else NO_KIND
