"""Damaged copies of a file, as disks, editors, downloads and people produce them. Each has a name, for the test's id.

for name, damaged in mutations(data, seed=0, count=50):
    path.write_bytes(damaged)
    ...  # the right result, or a TrineError that names the file; never another exception, never silently less
"""

import codecs
import gzip
import json
import random
from collections.abc import Callable, Iterator

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 548118077\n"

Mutation = Callable[[bytes, random.Random], bytes]


def _truncated(data: bytes, random_: random.Random) -> bytes:
    return data[: random_.randrange(len(data))] if data else data


def _flipped_bit(data: bytes, random_: random.Random) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[random_.randrange(len(changed))] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _zeroed_block(data: bytes, random_: random.Random) -> bytes:
    """What a power cut leaves: a block of zeros where bytes were promised."""
    start = random_.randrange(max(len(data), 1))
    length = min(random_.randrange(1, 64), len(data) - start)
    return data[:start] + b"\0" * length + data[start + length :]


def _line_removed(data: bytes, random_: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        del lines[random_.randrange(len(lines))]
    return b"".join(lines)


def _line_doubled(data: bytes, random_: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        place = random_.randrange(len(lines))
        lines.insert(place, lines[place])
    return b"".join(lines)


def _garbage_line(data: bytes, random_: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(random_.randrange(len(lines) + 1), random_.randbytes(20).replace(b"\n", b"x") + b"\n")
    return b"".join(lines)


def _byte_inserted(data: bytes, random_: random.Random) -> bytes:
    place = random_.randrange(len(data) + 1)
    return data[:place] + bytes([random_.randrange(256)]) + data[place:]


def _appended(data: bytes, random_: random.Random) -> bytes:
    return data + random_.randbytes(random_.randrange(1, 40))


def _first_key_doubled(data: bytes, random_: random.Random) -> bytes:
    """A JSON object whose first key stands twice, with two values."""
    start = data.find(b"{")
    key = data[start + 1 :].lstrip().split(b":", 1)[0] if start >= 0 else b""
    return data[: start + 1] + key + b": null, " + data[start + 1 :] if key.startswith(b'"') else data


def _as_utf16(data: bytes, random_: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode("utf-16")


def _as_latin1(data: bytes, random_: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode("latin-1", "replace") + "é\n".encode("latin-1")


def _json_at_its_edges(data: bytes, random_: random.Random) -> bytes:
    """A line that is JSON, and that many readers cannot take."""
    line = random_.choice(
        [b"[" * 100_000, b'{"a": ' * 100_000, b'{"n": ' + b"9" * 5000 + b"}", b'{"text": "\\ud800"}', b"NaN", b"null"]
    )
    return data + (b"" if data.endswith(b"\n") else b"\n") + line + b"\n"


MUTATIONS: dict[str, Mutation] = {
    "truncated": _truncated,
    "flipped_bit": _flipped_bit,
    "zeroed_block": _zeroed_block,
    "line_removed": _line_removed,
    "line_doubled": _line_doubled,
    "garbage_line": _garbage_line,
    "byte_inserted": _byte_inserted,
    "appended": _appended,
    "first_key_doubled": _first_key_doubled,
    "json_at_its_edges": _json_at_its_edges,
    "empty": lambda data, _: b"",
    "bom": lambda data, _: codecs.BOM_UTF8 + data,
    "crlf": lambda data, _: data.replace(b"\n", b"\r\n"),
    "utf16": _as_utf16,
    "latin1": _as_latin1,
    "gzipped": lambda data, _: gzip.compress(data, mtime=0),
    "lfs_pointer": lambda data, _: LFS_POINTER,
    "html": lambda data, _: b"<!DOCTYPE html><html><body>404: Not Found</body></html>\n",
    "json_null": lambda data, _: json.dumps(None).encode(),
    "json_list": lambda data, _: b"[" + data + b"]",
}


def mutations(data: bytes, *, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged copies of `data`: every kind in turn, places drawn from `seed`."""
    kinds = list(MUTATIONS.items())
    for index in range(count):
        name, mutate = kinds[index % len(kinds)]
        yield f"{name}-{index}", mutate(data, random.Random(f"{seed}-{index}"))
