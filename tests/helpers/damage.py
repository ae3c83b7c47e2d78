"""Files as damage, hands and other programs leave them."""

import json
import random

# What a field may hold that nobody expects there.
VALUES = [None, True, -1, 0, 3.5, 1e300, 10**30, "", "x", "é" * 300, "\0", [], [[]], {}, {"a": 1}]


def mutated(data: bytes, generator: random.Random) -> bytes:
    """Change, cut, repeat or insert some bytes."""
    data = bytearray(data)
    for _ in range(generator.randint(0, 8)):
        at = generator.randint(0, len(data))
        piece = generator.randbytes(generator.randint(0, 9))
        end = at + generator.choice([0, 1, len(piece), generator.randint(0, 99)])
        data[at:end] = generator.choice([piece, data[at:end] * 2, b"\0" * 9, b"__eou__", b"\n"])
    return bytes(data)


def odd(value, generator: random.Random):
    """Replace a value somewhere within what JSON holds, or take it out."""
    if not isinstance(value, dict | list) or not value or generator.random() < 0.1:
        return generator.choice(VALUES)
    value = value.copy()
    key = generator.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if generator.random() < 0.2:
        del value[key]
    else:
        value[key] = odd(value[key], generator)
    return value


def damaged(data: bytes, generator: random.Random) -> bytes:
    """Damage a file: its bytes, its length or, where it is JSON, whole or by lines, its values."""
    kind = generator.random()
    if kind < 0.1:
        return data[: generator.randint(0, len(data))]
    if kind < 0.4:
        return mutated(data, generator)
    lines = data.split(b"\n")
    place = generator.randrange(len(lines))
    try:
        return json.dumps(odd(json.loads(data), generator)).encode()
    except ValueError:
        try:
            lines[place] = json.dumps(odd(json.loads(lines[place]), generator)).encode()
        except ValueError:
            return mutated(data, generator)
    return b"\n".join(lines)
