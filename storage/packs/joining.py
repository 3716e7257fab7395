"""CRC-32 of bytes one behind the other, from the CRC-32 of each.

A CRC is a polynomial over GF(2), reduced by another one. Bytes that follow multiply what was
there before by x to the power of their bits, and add their own:

    crc(a + b) = crc(a) x^(8 |b|) + crc(b)

The power is put together from squares, as zlib's own ``crc32_combine`` does, which Python
does not offer. Polynomials are reflected: the highest bit is the coefficient of x^0.
"""

from __future__ import annotations

_POLYNOMIAL = 0xEDB88320
_ONE, _EIGHTH = 1 << 31, 1 << 23


def joined_sum(first: int, second: int, n_bytes: int) -> int:
    """CRC-32 of two pieces, the second of ``n_bytes``, from the CRC-32 of both."""
    return _product(first, _power_of_bytes(n_bytes)) ^ second


def _power_of_bytes(n_bytes: int) -> int:
    """x^(8 n_bytes)."""
    power, square = _ONE, _EIGHTH
    while n_bytes:
        if n_bytes & 1:
            power = _product(power, square)
        square = _product(square, square)
        n_bytes >>= 1
    return power


def _product(a: int, b: int) -> int:
    """The product of two, reduced."""
    total = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            total ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)  # times x
    return total
