"""What counts are called by what they are, so that derived files know when they still hold.

The digest of an atlas that Tigon wrote is SHA-256 over its counts in order, the
names of its cells and genes, and what was measured: how they are stored, in
which chunks and compressed how, does not show in it. Where Tigon did not write
the files their content is not read: the digest is then of what names a version
of a file (its place, size and time on a disk, its ETag in an object store), and
changes with the file or its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage import layout
from tigon.storage.counts import index_dtype
from tigon.storage.errors import InputError
from tigon.storage.objects import list_versions, read_object
from tigon.storage.sources.matrices.matrix import SparseRows

if TYPE_CHECKING:
    from tigon.storage.part import Part
    from tigon.storage.sources.source import Source

_METADATA = "zarr.json"
_LOW = np.uint16
_SLICE = 1 << 18
"""Entries hashed at a time: what they are copied to stays in cache."""


class ContentDigest:
    """The digest of counts that come in order, in any pieces.

    Parameters
    ----------
    n_genes
        Genes of the atlas.

    Notes
    -----
    Hashes 4 bytes for a non-zero: lengths of cells, positions and counts each in
    an order of their own, so that pieces do not show. Counts above 65,535 are
    hashed by their low halves and, apart, by their places and high halves, so
    that the type they are stored in does not show either.
    """

    def __init__(self, n_genes: int) -> None:
        self._indices = index_dtype(n_genes)
        names = ("lengths", "indices", "values", "large")
        self._hashes = {name: hashlib.sha256() for name in names}
        self._n_entries = 0

    def add(self, rows: SparseRows) -> None:
        """Take the next cells, as clean counts."""
        self._update("lengths", np.diff(rows.indptr), np.dtype("<i8"))
        self._update("indices", rows.indices, self._indices)
        if rows.values.dtype.kind == "f":
            self._update("values", rows.values, np.dtype("<f4"))
        else:
            self._update("values", rows.values, np.dtype(_LOW))
            if rows.values.dtype != _LOW:
                self._add_large(rows.values)
        self._n_entries += len(rows.values)

    def finish(
        self,
        cells: Iterable[str],
        genes: Iterable[str],
        codes: NDArray[np.int32],
        measured: NDArray[np.bool_],
    ) -> str:
        """The digest as 64 hexadecimal digits.

        Parameters
        ----------
        cells, genes
            Their names, in order.
        codes, measured
            Source of each cell, int32, shape (n_cells,), and which genes each source
            measured, bool, shape (n_sources, n_genes).
        """
        parts = [each.hexdigest() for each in self._hashes.values()]
        parts += [_digest_of_names(cells), _digest_of_names(genes)]
        if not measured.all():
            of_cells = hashlib.sha256(codes.astype("<i4").data)
            of_cells.update(np.packbits(measured).tobytes())
            parts.append(of_cells.hexdigest())
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def _update(self, name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
        for start in range(0, len(array), _SLICE):
            self._hashes[name].update(array[start : start + _SLICE].astype(dtype, copy=False).data)

    def _add_large(self, values: NDArray[Any]) -> None:
        places = np.flatnonzero(values > np.iinfo(_LOW).max)
        for array in (places + self._n_entries, values[places]):
            self._hashes["large"].update(array.astype("<i8").data)


def _digest_of_names(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        # Lengths keep "ab", "c" apart from "a", "bc".
        encoded = str(name).encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def digest_of_parts(parts: Sequence[Part]) -> str | None:
    """The digest of an atlas put together from sources; None where it takes reading them.

    Notes
    -----
    Reads no counts: one small file of an atlas of Tigon's own. Of others the sizes and
    times are looked at on a disk, and the listing is asked for in an object store.
    """
    digests = [_digest_of_source(part.source) for part in parts]
    if len(parts) == 1 and _is_whole_atlas(parts[0]):
        return digests[0]
    told: list[Any] = []
    for digest, part in zip(digests, parts, strict=True):
        if digest is None:
            return None
        genes = None if part.kind.gene_map is None else part.kind.gene_map.tolist()
        told.append([digest, part.kind.n_genes, part.kind.values.str, genes])
    return _digest_of(told)


def _is_whole_atlas(part: Part) -> bool:
    return part.source.n_nonzeros is not None and part.kind.gene_map is None


def _digest_of_source(source: Source) -> str | None:
    if source.selection is None:
        return None
    if source.n_nonzeros is not None:
        noted = noted_digest(source.where)
        if noted is not None:
            return noted
    version = version_of(source.where)
    return None if version is None else f"{source.selection} of {version}"


def noted_digest(where: str) -> str | None:
    """What was noted when Tigon wrote the atlas; None in the first format.

    Raises
    ------
    InputError
        The metadata of the counts are lost or damaged, or cannot be fetched.
    """
    try:
        metadata = json.loads(read_object(where, f"X/{_METADATA}"))
        digest: str | None = metadata["attributes"][layout.MARK].get("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where}: X/{_METADATA} cannot be read ({type(error).__name__} {error}): the atlas is "
            "damaged; copy it again or ingest it again"
        ) from error
    return digest


def version_of(where: str) -> str | None:
    """Names the present version of a file, folder or object store; None where nothing does.

    Of a file of a directory with several, such as ``matrix.mtx``, all are looked at.
    """
    if "://" in where:
        listed = list_versions(where)
        return None if listed is None else _digest_of([where, listed])
    path = Path(where)
    if not path.exists():
        return None
    root = path.parent if ".mtx" in path.name else path
    files = sorted(root.rglob("*")) if path.is_dir() else sorted(root.glob("*"))
    stamps = [_stamp(file) for file in (files or [path]) if file.is_file()]
    return _digest_of([str(path.resolve()), stamps])


def _stamp(file: Path) -> list[Any]:
    found = file.stat()
    return [str(file), found.st_size, found.st_mtime_ns, found.st_ino]


def _digest_of(told: list[Any]) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
