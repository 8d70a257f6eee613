"""Small random damage: to bytes, and to trees of lists and dictionaries."""

import copy
import json
import math

HOSTILE_VALUES = (
    *(None, True, False, -1, 0, 1, 2, 5, 0.5, -0.0, 255, 2**31, -(2**31), 2**53, 2**63, -(2**63) - 1, 2**64, 10**400),
    *(1e-320, 1e38, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *("", "x", "1", "-7", "1e9", "nan", "\x00", "\x1b[31mred", "\ud800", "a" * 5000, "../../etc/passwd", "/etc/passwd"),
    *("ssd_graph", "__class__", "%(prog)s", "{0}", ".", "NaN"),
    *([], {}, [[]], [None], [1], [1, 2, 3], ["a"], [1e308] * 4, [math.nan] * 4),
    *({"id": 1}, {"": None}, {"a": {"b": []}}),
)

_NUMBER = 9_999_999_777
"""Stands for what no object of Python can be written as; no sound file has it."""
_LITERALS = (
    *("1e400", "-1e999", "1" + "0" * 5000, "[" * 200_000, "[" * 900 + "]" * 900, '{"a":' * 3000, "01", "1.", "tru"),
)


def damaged_bytes(rng, content: bytes) -> bytes:
    """A few bytes flipped, a run overwritten, cut out, repeated or moved, or the end missing."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        if not data:
            break
        at = rng.randrange(len(data))
        length = min(len(data) - at, rng.choice((1, 2, 4, 16, 200)))
        match rng.randrange(8):
            case 0 | 1 | 2:
                data[at] ^= 1 << rng.randrange(8)
            case 3:
                data[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b" ")) * length
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
            case 6:
                place = rng.randrange(len(data))
                data[place : place + length] = data[at : at + length]
            case 7:
                if rng.random() < 0.3:
                    del data[at:]
    return bytes(data)


def damaged_tree(rng, tree, values=HOSTILE_VALUES):
    """A copy of nested dictionaries and lists with one to four entries changed, removed, added or exchanged."""
    holder = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        parent, key = _place(rng, holder)
        match rng.randrange(7):
            case 0 | 1 | 2:
                parent[key] = copy.deepcopy(rng.choice(values))
            case 3:
                if parent is not holder:
                    del parent[key]
            case 4:
                other, place = _place(rng, holder)
                parent[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(parent[key])
            case 5:
                _add(rng, parent, key, values)
            case 6:
                parent[key] = rng.choice((lambda v: [v], lambda v: {"id": v}, lambda v: [v] * 3, str))(parent[key])
    return holder[0]


def _add(rng, parent, key, values):
    if isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    else:
        parent[rng.choice(("x", "", 7, str(key).upper(), f"{key}.0"))] = copy.deepcopy(rng.choice(values))


def _place(rng, tree):
    """(container, key) of an entry, found by going down at random, so that a large branch is not all that is met."""
    while True:
        key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        if not (isinstance(tree[key], (dict, list)) and len(tree[key]) and rng.random() < 0.92):
            return tree, key
        tree = tree[key]


def damaged_json(rng, content) -> bytes:
    """JSON text of a damaged tree, sometimes with literals that Python would not write, strangely encoded, or cut."""
    literal = rng.random() < 0.15
    tree = damaged_tree(rng, content, (_NUMBER,) if literal else HOSTILE_VALUES)
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    except (TypeError, ValueError):  # a key that JSON has not
        text = json.dumps(str(tree))
    text = text.replace(str(_NUMBER), rng.choice(_LITERALS))
    data = text.encode(rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "latin-1")), errors="replace")
    return damaged_bytes(rng, data) if rng.random() < 0.2 else data
