"""Make damaged and hostile inputs from valid ones. Everything is drawn from a `random.Random`, so a seed repeats it."""

import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "../x",
        "/etc/passwd",
        "C:\\x",
        "a:b",
        "\x1b[2J\x1b]0;x\7",
        "\ud800",
        "\u202e",
        "é" * 300,
        "x" * 5000,
    ),
    *(
        "None",
        "none",
        "true",
        "NaN",
        "-1",
        "9" * 4400,
        "1e999",
        "٣",
        "²",
        "<image>",
        "%s%n",
        "{question}",
        "\r\n",
        "😀",
    ),
)
_NUMBERS = (
    *(0, -1, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 1e-320, 0.5, -0.0, 1e308),
    *(float("inf"), float("-inf"), float("nan")),
)
_WORDS = (
    *(
        "AU",
        "AUs",
        "AU4",
        "AU 12",
        "action unit",
        "Action Unit 06",
        "4, 9 and 15",
        "not",
        "no",
        "isn't",
        "isn’t",
        "never",
    ),
    *("happiness", "Sad", "angry", "absent", "present", ":", ";", ".", "?", "!", "\n", "\n\n", "- ", "**", "1) ", "# "),
    *(
        "but",
        "while",
        "The",
        "mr. X",
        "e.g.",
        "0",
        "00",
        "99",
        "100",
        "²",
        "٣",
        "\u2028",
        "\x85",
        "\0",
        "😀",
        "́",
        "ß",
        "İ",
    ),
)


def damaged_bytes(content: bytes, draw: Random) -> bytes:
    """One to eight changes: flipped bits, other integers, parts removed, repeated, inserted or cut off."""
    data = bytearray(content)
    for _ in range(_few(draw)):
        draw.choice(_CHANGES)(data, draw)
    return bytes(data)


def _flip(data: bytearray, draw: Random) -> None:
    if data:
        data[_place(data, draw)] ^= 1 << draw.randrange(8)


def _integer(data: bytearray, draw: Random) -> None:
    size, order = draw.choice((1, 2, 4)), draw.choice("<>")
    at = _place(data, draw)
    code = {1: "B", 2: "H", 4: "I"}[size]
    data[at : at + size] = struct.pack(order + code, draw.choice(_INTERESTING) & ((1 << 8 * size) - 1))


def _insert(data: bytearray, draw: Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.randbytes(draw.randrange(1, 64))


def _remove(data: bytearray, draw: Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.randrange(1, 64)]


def _repeat(data: bytearray, draw: Random) -> None:
    at = _place(data, draw)
    data[at:at] = data[at : at + draw.randrange(1, 256)] * draw.randrange(1, 8)


def _cut(data: bytearray, draw: Random) -> None:
    del data[_place(data, draw) :]


def _place(data: bytearray, draw: Random) -> int:
    """A position; half of them are in the first 200 bytes, where headers are."""
    return draw.randrange(min(len(data), 200) if draw.random() < 0.5 else len(data)) if data else 0


_NODES = 20_000
_CHANGES: Sequence[Callable[[bytearray, Random], None]] = (
    _flip,
    _flip,
    _integer,
    _integer,
    _insert,
    _remove,
    _repeat,
    _cut,
)


def damaged_json(content: Any, draw: Random) -> bytes:
    """JSON text of a value in which one to eight nodes are changed; rarely the text itself is damaged, too."""
    return json_bytes(changed(content, draw, _few(draw)), draw)


def json_bytes(content: Any, draw: Random) -> bytes:
    """Text of a value, as most programs write it; in one of twenty cases damaged or with deeply nested brackets."""
    kind = draw.random()
    data = json.dumps(content, ensure_ascii=kind < 0.5).encode("utf-8", "surrogatepass")
    if kind < 0.95:
        return data
    if kind < 0.98:
        return damaged_bytes(data, draw)
    depth = draw.choice((10, 1000, 100_000))
    bracket = draw.choice((b"[", b'{"a":'))
    return data.replace(draw.choice((b'"', b"1", b"[")), bracket * depth, 1)


def changed(value: Any, draw: Random, count: int) -> Any:
    """A copy of a value, changed `count` times. A change to more than 20,000 nodes is left out: repeats multiply."""
    for _ in range(count):
        candidate = _changed(value, draw)
        if _is_small(candidate):
            value = candidate
    return value


def _is_small(value: Any) -> bool:
    left = [value]
    for _ in range(_NODES):
        if not left:
            return True
        node = left.pop()
        if isinstance(node, (dict, list)):
            left.extend(node.values() if isinstance(node, dict) else node)
    return False


def _changed(value: Any, draw: Random) -> Any:
    """A copy of a value of which one node is replaced, removed, repeated, renamed or nested."""
    if isinstance(value, dict) and value:
        return _changed_object(dict(value), draw)
    if isinstance(value, list) and value:
        return _changed_list(list(value), draw)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and draw.random() < 0.3:
        return draw.choice((value + 1, value - 1, -value, value * 1000, float(value)))
    if isinstance(value, str) and draw.random() < 0.3:
        at = draw.randrange(len(value) + 1)
        return value[:at] + draw.choice(_TEXTS) + value[at + draw.randrange(2) :]
    return hostile_value(draw)


def _changed_object(value: dict[str, Any], draw: Random) -> dict[str, Any]:
    key, kind = draw.choice(list(value)), draw.random()
    if kind < 0.8:
        value[key] = _changed(value[key], draw)
    elif kind < 0.85:
        del value[key]
    elif kind < 0.9:
        value[draw.choice(_TEXTS)] = value.pop(key)
    elif kind < 0.95:
        value[key] = value[draw.choice(list(value))]
    else:
        value[key] = hostile_value(draw)
    return value


def _changed_list(value: list[Any], draw: Random) -> list[Any]:
    at, kind = draw.randrange(len(value)), draw.random()
    if kind < 0.8:
        value[at] = _changed(value[at], draw)
    elif kind < 0.85:
        del value[at]
    elif kind < 0.9:
        value[at:at] = value[at : at + 3] * draw.choice((1, 2, 300))
    elif kind < 0.95:
        value[at] = value[draw.randrange(len(value))]
    else:
        value[at] = hostile_value(draw)
    return value


def hostile_value(draw: Random) -> Any:
    """A value that a reader may not expect."""
    match draw.randrange(8):
        case 0 | 1 | 2:
            return draw.choice(_NUMBERS)
        case 3 | 4:
            return draw.choice(_TEXTS)
        case 5:
            return draw.choice((None, True, False))
        case 6:
            return draw.choice(([], {}, [[]], {"": {}}, [None] * 3, [draw.choice(_NUMBERS)] * 1000))
        case _:
            nested: Any = 1
            for _ in range(draw.choice((3, 30, 900))):
                nested = [nested]
            return nested


def damaged_text(content: bytes, draw: Random) -> bytes:
    """A text with words inserted, removed, repeated or glued; in one of a hundred cases 100 KB of one piece."""
    words = content.decode("utf-8", "replace").split(" ")
    for _ in range(_few(draw)):
        at = draw.randrange(len(words) + 1)
        match draw.randrange(5):
            case 0 | 1:
                words.insert(at, draw.choice(_WORDS))
            case 2:
                del words[at : at + draw.randrange(1, 6)]
            case 3:
                words[at:at] = words[at : at + 4] * draw.choice((1, 2, 20))
            case 4:
                words.insert(at, draw.choice(_TEXTS))
    if draw.random() < 0.01:
        piece = draw.choice((*_WORDS, " ".join(draw.choices(_WORDS, k=4)))) + draw.choice(("", " ", ","))
        words.append(piece * (100_000 // len(piece)))
    return draw.choice((" ", " ", " ", "", "\n")).join(words).encode("utf-8", "surrogatepass")


def damaged_table(content: bytes, draw: Random) -> bytes:
    """A table of text lines with cells changed, lines removed or repeated; sometimes damaged as bytes."""
    lines = [line.split(b",") for line in content.split(b"\n")]
    for _ in range(_few(draw)):
        line = draw.choice(lines) if lines else []
        at = draw.randrange(len(line) + 1)
        match draw.randrange(4):
            case 0 | 1 if line:
                number = str(draw.choice(_NUMBERS))
                line[at - 1] = draw.choice((number, draw.choice(_TEXTS))).encode("utf-8", "surrogatepass")
            case 2:
                line[at:at] = line[:2]
            case _:
                lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines)[:] if lines else [])
    data = b"\n".join(b",".join(line) for line in lines)
    return damaged_bytes(data, draw) if draw.random() < 0.3 else data


def _few(draw: Random) -> int:
    """1 to 8, small numbers most often."""
    return min(8, 1 + int(draw.expovariate(0.7)))
