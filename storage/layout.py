"""How Tigon lays out an atlas, beyond AnnData's own encoding.

``X`` is ``csr_matrix`` in AnnData's encoding. Its attribute ``tigon`` marks
counts that Tigon has checked; anndata drops it, and the arrays below, when it
writes a changed copy, which is then read like any other file.

==========================  =====================================================
``X/tigon_offsets``         entries before every 1024th cell, int64
``X/tigon_totals``          sum of the counts of each cell, float64, exact for
                            counts (from format 2)
``X/tigon_genes``           per-gene sums (from format 2), see
                            ``tigon.storage.sums``
``X/tigon_mitochondrial``,  sums of the counts of each cell in these kinds of genes
``X/tigon_ribosomal``       (:mod:`tigon.storage.gene_kinds`), float64; not in all
                            atlases of format 2
``uns/tigon``               format version, source names, and the dataset-by-gene
                            mask ``measured``, where anndata.read_zarr shows them
==========================  =====================================================

Both arrays of counts have the same chunks, gathered in shards; each chunk and
each shard's index ends with its CRC-32C. A profile says how a chunk is
compressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tigon.storage.gene_kinds import MITOCHONDRIAL, RIBOSOMAL

FORMAT_VERSION = 2
"""1 had neither profiles nor totals, sums of genes and a digest; it is still read."""

MARK = "tigon"
"""Attribute of X: {"format_version": int, "largest_row": int, "profile": str, "digest": str}.

Where there are sums over kinds of genes, also {"largest": float, "kinds": int, "sources": int}: the
largest count, and checksums of which gene is of which kind and which cell of which source.
"""

OFFSETS = "tigon_offsets"
TOTALS = "tigon_totals"
GENE_SUMS = "tigon_genes"
KIND_SUMS = {MITOCHONDRIAL: "tigon_mitochondrial", RIBOSOMAL: "tigon_ribosomal"}

UNS = "tigon"
"""Key in uns."""

SOURCE_NAMES = "source_names"
MEASURED = "measured"

DATASET_COLUMN = "tigon_dataset"
"""Column of obs that names the source of each cell."""

CHUNK_NONZEROS = 1 << 17
SHARD_CHUNKS = 128
"""About 11,000 cells of 1,500 non-zeros: what is written, published and replaced at once."""

Codec = Mapping[str, Any]
"""A compressor, as numcodecs configures it."""

_LZ4: Codec = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}
_PCODEC: Codec = {"id": "pcodec", "level": 8}


@dataclass(frozen=True, slots=True)
class Profile:
    """How chunks are compressed.

    Attributes
    ----------
    name
        What users call it.
    rising
        For numbers that mostly rise: gene positions within a cell, ``indptr``.
    values
        For counts and other numbers in no order.
    """

    name: str
    rising: Codec
    values: Codec


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("local", rising=_LZ4, values=_LZ4),
        # Gene positions shrink when their differences are coded, counts grow: neither is
        # left to be found out for every chunk.
        Profile(
            "network",
            rising={**_PCODEC, "delta_spec": "try_consecutive", "delta_encoding_order": 1},
            values={**_PCODEC, "delta_spec": "none"},
        ),
    )
}
