"""Ways in which a file can be wrong: each function takes the bytes of a valid one and a random number generator.

``BYTES`` fit every format, ``TEXT`` formats with lines and cells or with names and values.
"""

import gzip
import random
import re
from collections.abc import Callable, Sequence

Mutation = Callable[[bytes, random.Random], bytes]

# Found instead of a number or an ID.
CELLS = (
    *(b"", b" ", b"-1", b"0", b"007", b"1.0", b" 1", b"1e3", b"NaN", b"nan", b"inf", b"-inf", b"1e999", b"-1e-999"),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"18446744073709551616", b"9" * 400),
    *(b"9" * 5000, b"x" * 100_000, b"null", b"None", b"true", b"[1]", b"{}", b'"', b'"a', b"'", b"\\", b"\x00"),
    *(b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[31mred", "\u202e\u2028\u0661".encode(), b"2024-99-99", b"2024-05-31"),
    *(b"../../etc/passwd", b"!!python/name:os.system", b"&a [*a]", b"0x" + b"f" * 300, b"1_000", b"1:30:00"),
)
_INTEGERS = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def _place(content: bytes, rng: random.Random) -> int:
    """Return any position, but mostly one in the header or footer."""
    reach = rng.choice((len(content), 130, 1000))
    offset = rng.randrange(max(1, min(reach, len(content))))
    return offset if rng.random() < 0.6 else max(0, len(content) - 1 - offset)


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(content, rng)
    return start, min(len(content), start + rng.choice((1, 2, 4, 8, 30, 200, len(content))))


def nothing(content: bytes, rng: random.Random) -> bytes:
    return content


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def drop(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:end] + content[start:end] * rng.choice((1, 2, 50)) + content[end:]


def swap(content: bytes, rng: random.Random) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(content) + 1) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def shuffle(content: bytes, rng: random.Random) -> bytes:
    size = rng.choice((1, 16, 512))
    blocks = [content[start : start + size] for start in range(0, len(content), size)]
    rng.shuffle(blocks)
    return b"".join(blocks)


def flip(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if found:
            found[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(found)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + rng.randbytes(end - start) + content[end:]


def insert(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + rng.randbytes(rng.choice((1, 3, 40))) + content[start:]


def noise(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 300, 5000)))


def zeros(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + bytes(end - start) + content[end:]


def huge_integer(content: bytes, rng: random.Random) -> bytes:
    """Write an integer as headers do, or as a varint."""
    value, size = rng.choice(_INTEGERS), rng.choice((1, 2, 4, 8))
    text = (value % 256**size).to_bytes(size, rng.choice(("little", "big")))
    if rng.random() < 0.3:
        text = b"\xff" * rng.choice((3, 4, 8, 9)) + b"\x01"
    start = _place(content, rng)
    end = start + (len(text) if rng.random() < 0.8 else 1)
    return content[:start] + text + content[end:]


def doubled(content: bytes, rng: random.Random) -> bytes:
    return content * 2


def gzipped(content: bytes, rng: random.Random) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def number(content: bytes, rng: random.Random) -> bytes:
    """Replace a number that is written in digits."""
    found = list(re.finditer(rb"-?[0-9]+", content))
    if not found:
        return content
    match = rng.choice(found[:8] if rng.random() < 0.5 else found)
    if rng.random() < 0.3:
        length = match.end() - match.start()  # the rest keeps its position
        return content[: match.start()] + rng.choice((b"9", b"0", b"-")) * length + content[match.end() :]
    return content[: match.start()] + rng.choice(CELLS) + content[match.end() :]


def byte_order_mark(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) + content


def carriage_returns(content: bytes, rng: random.Random) -> bytes:
    return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\r", b"\n\n")))


def utf_16(content: bytes, rng: random.Random) -> bytes:
    return content.decode("latin1").encode(rng.choice(("utf-16", "utf-16-be", "utf-32")))


def separators(content: bytes, rng: random.Random) -> bytes:
    own = next((s for s in (b"\t", b";", b",", b": ") if s in content), b"\n")
    return content.replace(own, rng.choice((b",", b";", b"\t", b" ", b"|", b"\x01", b"")), rng.choice((1, 5, -1)))


def cell(content: bytes, rng: random.Random) -> bytes:
    """Replace a word or number in the first line or below."""
    found = list(re.finditer(rb"[^\s,;:]+", content))
    if not found:
        return content
    match = rng.choice(found[:4] if rng.random() < 0.3 else found)
    return content[: match.start()] + rng.choice(CELLS) + content[match.end() :]


def lines(content: bytes, rng: random.Random) -> bytes:
    """Shuffle, remove, add or cut lines."""
    found = content.split(b"\n")
    at = rng.randrange(len(found))
    match rng.randrange(6):
        case 0:
            rng.shuffle(found)
        case 1:
            found[at] += b"\t1,2;3" * rng.choice((1, 3, 1000))
        case 2:
            found[at] = found[at][: len(found[at]) // 2]
        case 3:
            found.insert(at, rng.choice((b"", b"#", b" ", b"\t", b",", b"- a")))
        case 4:
            found.insert(at, found[0])
        case _:
            del found[0]
    return b"\n".join(found)


def nested(content: bytes, rng: random.Random) -> bytes:
    """Nest brackets deeper than a recursive parser can follow."""
    return content[: _place(content, rng)] + rng.choice((b"[", b'{"a":', b"(", b"- ")) * rng.choice((50, 3000, 50_000))


BYTES: Sequence[Mutation] = (
    *(nothing, empty, cut, drop, repeat, swap, shuffle, flip, flip, flip, overwrite, insert, noise, zeros),
    *(huge_integer, huge_integer, huge_integer, doubled, gzipped, number, number, byte_order_mark, carriage_returns),
)
TEXT: Sequence[Mutation] = (
    *BYTES,
    *(utf_16, separators, separators, nested, number, number, number),
    *(cell, cell, cell, cell, cell, lines, lines, lines),
)


def mutate(content: bytes, mutations: Sequence[Mutation], seed: int) -> bytes:
    """Apply ``mutations`` one after the other; the result depends only on ``seed``."""
    rng = random.Random(seed)
    for mutation in mutations:
        content = mutation(content, rng)
    return content
