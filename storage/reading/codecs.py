"""From the encoded bytes of a chunk to its values, by the codecs that its array names.

The codecs are those of numcodecs, called in the thread at hand: they let other
threads run meanwhile. A chain that is not known here is left to Zarr.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_BLOSC_SIZE = struct.Struct("<4xI")  # of the header of Blosc: bytes of the values
_CHECKSUM = struct.Struct("<I")
_IN_ZARR = {"blosc", "gzip", "zstd"}
_IN_NUMCODECS = {"blosc", "bz2", "gzip", "lz4", "lzma", "shuffle", "zlib", "zstd"}
_PCODEC = "numcodecs.pcodec"


class BadChunk(Exception):
    """Bytes that do not decode to what they should; says why."""


@dataclass(frozen=True)
class Chain:
    """The codecs of an array.

    Attributes
    ----------
    stored
        Type of the values with their byte order.
    codecs
        Codecs from bytes to bytes, in the order of decoding.
    values
        Codec from bytes to values, where these are not stored as they are.
    """

    stored: np.dtype[Any]
    codecs: tuple[Any, ...]
    values: Any = None

    def decode(self, encoded: NDArray[np.uint8], out: NDArray[Any]) -> None:
        """Decode one chunk into ``out``, contiguous and as long as the chunk.

        Raises
        ------
        BadChunk
            A checksum does not hold, or a codec gives up.
        """
        try:
            self._decode(encoded, out)
        except (BadChunk, MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pcodec panics, and a panic is no Exception
            raise BadChunk(str(error).partition(". ")[0] or "it does not decode") from error

    def _decode(self, encoded: Any, out: NDArray[Any]) -> None:
        for codec in self.codecs:
            if codec is self.codecs[-1] and self._fits(codec, encoded, out):
                codec.decode(encoded, out)
                return
            encoded = codec.decode(encoded)
        if self.values is not None:
            decoded = np.asarray(self.values.decode(encoded))
        else:
            decoded = np.frombuffer(encoded, np.uint8).view(self.stored)
        if decoded.shape != out.shape or decoded.dtype.newbyteorder("=") != out.dtype:
            raise BadChunk(f"it holds {decoded.size:,} values of {out.size:,}")
        out[:] = decoded

    def _fits(self, codec: Any, encoded: Any, out: NDArray[Any]) -> bool:
        """Whether a codec may write into ``out`` itself, which spares a copy."""
        direct = self.values is None and self.stored == out.dtype and codec.codec_id == "blosc"
        # Blosc would leave the end of ``out`` as it is where it has fewer bytes.
        return bool(direct) and _BLOSC_SIZE.unpack_from(encoded)[0] == out.nbytes


class _Crc32c:
    """The checksum behind the bytes it is of; takes it off without copying them."""

    codec_id = "crc32c"

    def decode(self, encoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        content = encoded[: -_CHECKSUM.size]
        (stored,) = _CHECKSUM.unpack(bytes(encoded[-_CHECKSUM.size :]))
        if google_crc32c.value(content) != stored:
            raise BadChunk("its checksum does not hold")
        return content


class _Blosc:
    """Blosc without the checks of numcodecs, which would be a twentieth of a reading."""

    codec_id = "blosc"

    def __init__(self) -> None:
        from numcodecs.blosc import decompress  # type: ignore[import-untyped]

        self.decode = decompress


def parse_chain(codecs: Sequence[Mapping[str, Any]], dtype: np.dtype[Any]) -> Chain | None:
    """The chain that an array's metadata names; None where a codec is not known here.

    Parameters
    ----------
    codecs
        As in ``zarr.json``: name and configuration of each, in the order of encoding.
    dtype
        Type of the values.
    """
    if not codecs:
        return None
    first, *others = codecs
    steps = [_bytes_codec(codec) for codec in reversed(others)]
    values = _codec("pcodec", {}) if first["name"] == _PCODEC else None
    if None in steps or (values is None and first["name"] != "bytes"):
        return None
    is_big = first.get("configuration", {}).get("endian") == "big"
    return Chain(dtype.newbyteorder(">" if is_big else "="), tuple(steps), values)


def _bytes_codec(codec: Mapping[str, Any]) -> Any:
    name, configuration = codec["name"], codec.get("configuration", {})
    if name == "crc32c":
        return _Crc32c()
    if name in _IN_ZARR:
        return _codec(name, {})  # Zarr's names of settings matter to encoding alone
    short = name.removeprefix("numcodecs.")
    return _codec(short, configuration) if short != name and short in _IN_NUMCODECS else None


def _codec(name: str, configuration: Mapping[str, Any]) -> Any:
    """A codec of numcodecs; None where what it needs is not installed."""
    import numcodecs  # type: ignore[import-untyped]

    try:
        if name == "blosc":
            return _Blosc()
        return numcodecs.get_codec({"id": name, **configuration})
    except (ImportError, ValueError):
        return None
