"""Ways to damage valid input so that it still resembles what it was."""

from __future__ import annotations

import copy
import json
import re
from random import Random
from typing import Any

_BLOCK = 512
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, -(10**9)),
    *("", "x", "..", "/", "\0", "\ud800", "\u0663", "9" * 30, "a" * 300, "1.5", "nan", "\n", "é" * 9),
    *(
        [],
        {},
        [[]],
        [{}],
        {"": {}},
        [None],
        [1, 2],
        [1, 2, 3, 4],
        [1e9, 1e9, 1e9, 1e9],
        {"size": [1, 1], "counts": "0"},
    ),
)
_NAMES = (
    *("../x.jpg", "/etc/passwd", "a.jpg", "a.b.jpg", "./a.jpg", "x/../a.jpg", "a", ".a", "__a__.jpg", "", "a//b.jpg"),
    *("a\n.jpg", "\xff.jpg", "a.JPG", "x" * 99, "x/", "a.depth.png", " .jpg", "a.jpg\0b"),
)


def mutated_bytes(rng: Random, data: bytes) -> bytes:
    """Flip, cut, duplicate, insert and overwrite bytes, up to four times."""
    content = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        at = rng.randrange(len(content) + 1)
        action = rng.randrange(6)
        if action == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            del content[at:]
        elif action == 2:
            del content[at : at + rng.randint(1, 64)]
        elif action == 3:
            content[at:at] = content[at : at + rng.randint(1, 64)] * rng.randint(1, 4)
        elif action == 4:
            content[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            filling = rng.choice([b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"9"]) * rng.randint(1, 4)
            content[at : at + len(filling)] = filling
    return bytes(content)


def mutated_text(rng: Random, text: str) -> bytes:
    """Replace words and numbers of a text; sometimes damage its bytes, too."""
    pieces = re.split(r"([\s,<>=]+)", text)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        at = rng.randrange(len(pieces))
        pieces[at] = rng.choice(
            [str(rng.choice(_ODD)), rng.choice(pieces), "", "1e999", "-inf", "0x10", "1_0", "'", '"', "[", "\n", "#"]
        )
    data = "".join(pieces).encode("utf-8", "surrogatepass")
    return mutated_bytes(rng, data) if rng.random() < 0.3 else data


def mutated_json(rng: Random, value: Any) -> bytes:
    """Replace, delete, duplicate and nest parts of a JSON value; sometimes damage its text, too."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        places: list[tuple[Any, Any]] = []
        _places(changed, places)
        if not places:
            break
        holder, key = rng.choice(places)
        action = rng.randrange(7)
        if action == 0:
            del holder[key]
        elif action == 1:
            other, place = rng.choice(places)
            holder[key] = copy.deepcopy(other[place])
        elif action == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif action == 3 and isinstance(holder[key], str):
            holder[key] = mutated_bytes(rng, holder[key].encode("utf-8", "surrogatepass")).decode("latin-1")
        elif action == 4 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = rng.choice([holder[key] + 1, -holder[key], holder[key] * 1000, float(holder[key])])
        elif action == 5:
            holder[key] = [holder[key]]
        else:
            holder[key] = copy.deepcopy(rng.choice(_ODD))
    data = json.dumps(changed).encode()
    if rng.random() < 0.02:
        data = b"[" * 100_000
    return mutated_bytes(rng, data) if rng.random() < 0.2 else data


def mutated_tar(rng: Random, data: bytes) -> bytes:
    """Change headers of a tar, with valid checksums, and move its blocks; sometimes damage its bytes, too."""
    blocks = [bytearray(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK)]
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        headers = [at for at, block in enumerate(blocks) if block[257:262] == b"ustar"]
        if not headers:
            break
        block = blocks[rng.choice(headers)]
        action = rng.randrange(6)
        if action == 0:
            name = rng.choice(_NAMES).encode("utf-8", "replace")[:100]
            block[0:100] = name.ljust(100, b"\0")
        elif action == 1:
            size = rng.choice([0, 1, 511, 512, 513, 10 << 30, 8**11 - 1, rng.randrange(2000)])
            block[124:136] = b"%011o\0" % size
        elif action == 2:
            block[124:136] = rng.choice([b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000000001\0", b" " * 12, b"x" * 12])
        elif action == 3:
            block[156:157] = rng.choice([b"0", b"1", b"2", b"3", b"5", b"7", b"L", b"K", b"S", b"x", b"g", b"\0", b"Z"])
        elif action == 4:
            at, to = rng.randrange(len(blocks)), rng.randrange(len(blocks))
            blocks[at], blocks[to] = blocks[to], blocks[at]
            continue
        else:
            at = rng.randrange(len(blocks))
            blocks[at:at] = [bytearray(item) for item in blocks[at : at + rng.randint(1, 4)]]
            continue
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    joined = b"".join(blocks)
    return mutated_bytes(rng, joined) if rng.random() < 0.3 else joined


def odd_spec(rng: Random) -> str:
    """Make an argument of --shards: pieces of patterns, in any order."""
    pieces = (
        *(
            "a-",
            "000",
            "<000..001>",
            "{000..001}",
            "{000,001}",
            "*",
            "?",
            "[ab]",
            "[",
            "]",
            "<",
            ">",
            "{",
            "}",
            "..",
            ",",
        ),
        *(".tar", ".depth", ".txt", ".json", "/", "**", "~", "$HOME", "pipe:", "s3://", "<0..9999999999999999999>"),
        *("<5..2>", "<0..999999><0..999999>", "{a,}", "{}", "<>", " ", "\0", "\n", "é", "\ud800", "#", "-", "x" * 300),
    )
    if rng.random() < 0.4:  # whole patterns, most of which match shards
        whole = ("a-<000..001>.tar", "a-{000,001}.tar", "a-*.tar", ".", "[x]-000.tar", "b{1}.tar", "a-000.tar", "**/*")
        spec = rng.choice(whole)
        at = rng.randrange(len(spec) + 1)
        return spec if rng.random() < 0.7 else spec[:at] + rng.choice(pieces) + spec[at:]
    text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 6)))
    return text.lstrip("/~") if rng.random() < 0.5 else f"a-{text}.tar"


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    """Collect all places in a JSON value: container, and key or index."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        found.append((value, key))
        _places(value[key], found)
