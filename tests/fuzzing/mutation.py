"""Damage that formats are sensitive to: numbers, words, spans, bits, the end cut off."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_NUMBERS = (
    b"0", b"-1", b"1", b"2", b"255", b"65536", b"2147483648", b"4294967295", b"99999999999",
    b"9223372036854775807", b"18446744073709551616", b"1e999", b"-1e999", b"NaN", b"Infinity",
    b"1.5", b"null", b"true", b'"x"', b"[]", b"{}", b"[[1]]", b"1" + b"0" * 400,
    b"9" * 5000, b"0x" + b"f" * 5000,
)  # fmt: skip
_WORDS = (
    b"../", b"../outside/secret", b"/dev/zero", b"\0", b"\n", b"\xff\xfe", b"{", b"}", b"[", b"]",
    b'"', b"'", b",", b":", b"=", b"[" * 3000, b'{"a":' * 2000, b"|O", b"|O8", b"<f8", b"|V9",
)  # fmt: skip
_WHOLE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def mutate(
    rng: random.Random, data: bytes, words: Sequence[bytes] = (), others: Sequence[bytes] = ()
) -> bytes:
    """Return `data` with one to four damages.

    Args:
        rng: What chooses them.
        data: Bytes to damage.
        words: What the format is made of.
        others: Further inputs, to take spans from.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(_DAMAGES)(rng, data, (*_WORDS, *words), others)
    return data[: 2**18]


def _bits(rng: random.Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _each in range(min(len(data), rng.choice((1, 1, 2, 8)))):
        at = _at(rng, len(changed))
        changed[at] = rng.choice((changed[at] ^ 1 << rng.randrange(8), rng.randrange(256)))
    return bytes(changed)


def _number(rng: random.Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return _bits(rng, data)
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(_NUMBERS) + data[one.end() :]


def _whole(rng: random.Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    kind = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    value = rng.choice(_WHOLE) if kind[1] != "H" else rng.choice(_WHOLE) & 0xFFFF
    at = _at(rng, len(data))
    return data[:at] + struct.pack(kind, value) + data[at + struct.calcsize(kind) :]


def _word(rng: random.Random, data: bytes, words: Sequence[bytes], *_: Sequence[bytes]) -> bytes:
    at = _at(rng, len(data) + 1)
    return data[:at] + rng.choice(words) + data[at + rng.choice((0, 0, 1, 4)) :]


def _cut(rng: random.Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    return data[: _at(rng, len(data) + 1)]


def _without(rng: random.Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    at = _at(rng, len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 4, 16, 64)) :]


def _twice(rng: random.Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    at, n = _at(rng, len(data) + 1), rng.choice((1, 4, 16, 256))
    return data[:at] + data[at : at + n] * rng.choice((2, 3, 100)) + data[at + n :]


def _spliced(
    rng: random.Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]
) -> bytes:
    other = rng.choice(others) if others else data
    return data[: _at(rng, len(data) + 1)] + other[_at(rng, len(other) + 1) :]


_DAMAGES = (_bits, _number, _number, _whole, _word, _word, _cut, _without, _twice, _spliced)


def _at(rng: random.Random, n: int) -> int:
    """Choose a place; half the time near the beginning, where headers are."""
    return 0 if n < 1 else rng.randrange(n if rng.random() < 0.5 else min(n, 300))
