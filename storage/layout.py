"""How Tigon lays out an atlas, beyond AnnData's own encoding.

``X`` is ``csr_matrix`` in AnnData's encoding. Its attribute ``tigon`` marks
counts that Tigon has checked; anndata drops it, and the arrays below, when it
writes a changed copy, which is then read like any other file.

==========================  =====================================================
``X/tigon_offsets``         entries before every 1024th cell, int64
``uns/tigon``               format version, source names, and the dataset-by-gene
                            mask ``measured``, where anndata.read_zarr shows them
==========================  =====================================================
"""

from __future__ import annotations

FORMAT_VERSION = 1

MARK = "tigon"
"""Attribute of X: {"format_version": int, "largest_row": int}."""

OFFSETS = "tigon_offsets"

UNS = "tigon"
"""Key in uns."""

SOURCE_NAMES = "source_names"
MEASURED = "measured"

DATASET_COLUMN = "tigon_dataset"
"""Column of obs that names the source of each cell."""
