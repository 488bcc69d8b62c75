"""Ways to damage a file: blindly, by bytes, and with a knowledge of its form."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

INTEGERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31)
INTEGERS += (2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -32768, -(2**31))
INTEGERS += (-(2**63),)
MOST = 4 << 20  # bytes of an input
HEADER = 600  # bytes at the beginning, where most of what matters stands
TEXTS = (
    "", " ", "0", "-1", "1e308", "1e400", "-1e-400", "nan", "inf", "-inf", "NULL", "true", "[]",
    "99999999999999999999999999", "9" * 5000, "0x10", "1,5", "../../../../etc/passwd",
    "/etc/passwd", "..", ".", "a/b", "a\\b", "C:\\x", "a\0b", "\0", "x" * 300, "x" * 200_000,
    "\N{BYTE ORDER MARK}", "\ud800", "é\N{COMBINING ACUTE ACCENT}", "<script>", "=1+1", '"', "'",
    "%s%n", "${HOME}", "~", "-", "\r\n", "\n", "1 1 1", "(1,0,0) (0,1,0) (0,0,0)", "con", "LIST",
)  # fmt: skip
HUGE = "@@huge integer@@"  # stands for digits that json.dumps would refuse to write
DEEP = "@@deep nesting@@"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31 - 1, 2**32, 2**63, 2**64, -(2**63), 0.5, -0.5, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), [], {}, [[]], [{}], [1, 2], {"a": 1}, HUGE, DEEP,
)  # fmt: skip


def mutate(form: str, seed: bytes, other: bytes, random: Random) -> bytes:
    """Return a damaged file.

    Args:
        form: A key of FORMS.
        seed: The sound file.
        other: Another one of its kind, to be spliced in.
        random: Everything drawn comes from it.
    """
    knowing = FORMS[form]
    content = seed
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if knowing is not None and random.random() < 0.6:
            try:
                content = knowing(content, random)
                continue
            except Exception:  # it has lost its form already
                pass
        content = blind(content, other, random)[:MOST]
    return content[:MOST]


def blind(content: bytes, other: bytes, random: Random) -> bytes:
    """Return the bytes with one change made without knowing what they mean."""
    if not content:
        return random.randbytes(random.randint(1, 64))
    end = min(len(content), HEADER) if random.random() < 0.6 else len(content)
    at = random.randrange(end)
    damaged = bytearray(content)
    change = random.randrange(9)
    if change == 0:
        for _ in range(random.choice((1, 1, 2, 8, 32))):
            damaged[random.randrange(end)] ^= 1 << random.randrange(8)
    elif change == 1:
        length = random.choice((1, 2, 4, 8, 16, 64, 256))
        run = random.choice((b"\0" * length, b"\xff" * length, random.randbytes(length)))
        damaged[at : at + length] = run
    elif change == 2:
        del damaged[random.choice((at, len(damaged) - 1 - at % 64)) :]
    elif change == 3:
        damaged += random.choice((b"\0", b"\xff", b" ", content[:64])) * random.choice(
            (1, 100, 5000)
        )
    elif change == 4:
        damaged[at:at] = random.randbytes(random.choice((1, 2, 4, 100)))
    elif change == 5:
        del damaged[at : at + random.choice((1, 2, 4, 8, 100))]
    elif change == 6:
        width, code = random.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
        place = at - at % random.choice((1, width))
        value = random.choice(INTEGERS) % 2 ** (8 * width)
        damaged[place : place + width] = struct.pack(random.choice("<>") + code, value)
    elif change == 7:
        cut = random.randrange(len(other) + 1)
        damaged[at:] = other[random.choice((at, cut)) :]
    else:
        here, there = sorted((at, random.randrange(len(damaged))))
        size = random.choice((1, 4, 16, 64))
        damaged[here : here + size], damaged[there : there + size] = (
            damaged[there : there + size], damaged[here : here + size],
        )  # fmt: skip
    return bytes(damaged)


def in_json(content: bytes, random: Random) -> bytes:
    """Change one value of a JSON file, or its text."""
    return _dumped(_change(json.loads(content), random), random)


def _change(value: Any, random: Random) -> Any:
    """Return JSON values of which one, at any depth, is another."""
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        key = (
            random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        )
        if random.random() < 0.15:
            del value[key]
        elif random.random() < 0.05 and isinstance(value, list):
            value *= random.choice((2, 1000))
        elif random.random() < 0.08 and isinstance(value, dict):
            value[random.choice(TEXTS)] = value[key]
        else:
            value[key] = _change(value[key], random)
        return value
    if isinstance(value, str) or random.random() < 0.3:
        text = random.choice(TEXTS)
        return random.choice((text, f"{value}{text}", f"{text}{value}", random.choice(VALUES)))
    if isinstance(value, int | float) and random.random() < 0.4:
        return random.choice((-value, value * 2, value + 1, value * 10**6, random.choice(INTEGERS)))
    return random.choice(VALUES)


def _dumped(value: Any, random: Random) -> bytes:
    text = json.dumps(value)
    depth = random.choice((100, 2000, 200_000))
    text = text.replace(f'"{HUGE}"', "9" * random.choice((30, 400, 10_000)))
    text = text.replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    return text.encode()


def in_toml(content: bytes, random: Random) -> bytes:
    """Change one line of a TOML file."""
    lines = content.decode().splitlines()
    at = random.randrange(len(lines))
    name, equals, _ = lines[at].partition("=")
    written = [json.dumps(value) for value in VALUES] + [json.dumps(text) for text in TEXTS]
    depth = random.choice((50, 5000, 100_000))
    written += ["9" * 6000, "[" * depth + "]" * depth, "{a=" * depth + "1" + "}" * depth]
    written += ["1979-05-27T07:32:00Z", "0x" + "f" * 5000, "1e99999", "'''", "+nan", "00:00:00"]
    change = random.randrange(5)
    if change == 0:
        del lines[at]
    elif change == 1 or not equals:
        lines.insert(
            at, random.choice(("[a]", "[[data]]", ".".join("a" * depth) + "=1", lines[at]))
        )
    elif change == 2:
        lines[at] = f"{json.dumps(random.choice(TEXTS))}={random.choice(written)}"
    else:
        lines[at] = f"{name}={random.choice(written)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def in_table(content: bytes, random: Random) -> bytes:
    """Change one cell of a CSV or TSV file, its row or its encoding."""
    text = content.decode()
    separator = "\t" if "\t" in text else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=separator))
    row = random.choice(rows)
    change = random.randrange(6)
    if change == 0:
        row.insert(random.randrange(len(row) + 1), random.choice(TEXTS))
    elif change == 1:
        del row[random.randrange(len(row))]
    elif change == 2:
        row += [random.choice(TEXTS[:20])] * random.choice((1, 50, 20_000))
    elif change == 3:
        rows += rows * random.choice((1, 100))
    else:
        row[random.randrange(len(row))] = random.choice(TEXTS)
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(rows)
    encoding = random.choice(("utf-8",) * 6 + ("utf-16", "utf-8-sig", "utf-32"))
    return out.getvalue().encode(encoding, "surrogatepass")


def in_zip(content: bytes, random: Random) -> bytes:
    """Change one member of a zip file (XLSX)."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    text = members[name]
    values = [
        found.span(1) for found in re.finditer(rb'(?:="|>)([^"<>]+)["<]', text)
    ]  # attributes and texts
    if values and random.random() < 0.7:
        start, end = random.choice(values)
        new = random.choice((*TEXTS, *map(str, INTEGERS)))
        members[name] = text[:start] + new.encode("utf-8", "replace") + text[end:]
    else:
        members[name] = blind(text, random.choice(list(members.values())), random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in members.items():
            archive.writestr(zipfile.ZipInfo(key), value, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def in_gzip(content: bytes, random: Random) -> bytes:
    """Change what is packed."""
    plain = gzip.decompress(content)
    return gzip.compress(blind(plain, plain, random), 1, mtime=0)


def in_png(content: bytes, random: Random) -> bytes:
    """Change a chunk of a PNG and give it its right checksum."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    which = random.randrange(len(chunks)) if random.random() < 0.5 else 0
    kind, body = chunks[which]
    if kind == b"IDAT" and random.random() < 0.5:
        plain = zlib.decompress(body)
        body = zlib.compress(blind(plain, plain, random))
    else:
        body = blind(body, body, random)
    if kind == b"IHDR" and random.random() < 0.5:
        sides = [random.choice((0, 1, 8, 32, 5000, 9999, 32768, 2**31 - 1)) for _ in "wh"]
        depth, colour = random.choice(((1, 0), (8, 0), (16, 0), (8, 2), (8, 3), (16, 2), (8, 6)))
        body = struct.pack(">IIBBBBB", *sides, depth, colour, 0, 0, random.choice((0, 1)))
    chunks[which] = (kind, body)
    if random.random() < 0.1:
        text = b"a\0\0" + zlib.compress(bytes(random.choice((10, 1 << 27))))
        chunks.insert(1, (random.choice((b"zTXt", b"iCCP", b"eXIf")), text))
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def in_text_header(content: bytes, random: Random) -> bytes:
    """Change one line of the text with which NRRD and MetaImage files begin."""
    lines = content.split(b"\n", 40)
    texts = [at for at, line in enumerate(lines[:-1]) if line.isascii() and b"\0" not in line]
    at = random.choice(texts)
    name, sign, value = lines[at].replace(b":", b"=", 1).partition(b"=")
    if not sign or random.random() < 0.2:
        lines[at:at] = random.choice(([lines[at]], [], [b"#" + random.randbytes(30)], [b""]))
        return b"\n".join(lines)
    sign = b":" if content.startswith(b"NRRD") else b"="
    words = value.split()
    if words and random.random() < 0.6:
        new = random.choice((*TEXTS, *map(str, INTEGERS)))
        words[random.randrange(len(words))] = new.encode("utf-8", "replace")
        value = b" ".join(words)
    else:
        value = random.choice(TEXTS).encode("utf-8", "replace")
    lines[at] = name + sign + b" " + value
    return b"\n".join(lines)


def in_safetensors(content: bytes, random: Random) -> bytes:
    """Change the JSON header of a safetensors file and keep its length right."""
    (length,) = struct.unpack_from("<Q", content)
    header = _dumped(_change(json.loads(content[8 : 8 + length]), random), random)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def in_dicom(content: bytes, random: Random) -> bytes:
    """Change one element of a DICOM file in explicit VR little endian: value, length, or all."""
    elements, at = [], 132
    while at + 8 <= len(content):
        long = content[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC", b"UR")
        head = 12 if long else 8
        (length,) = struct.unpack_from(
            "<I" if long else "<H", content, at + head - (4 if long else 2)
        )
        if not content[at + 4 : at + 6].isalpha() or at + head + length > len(content):
            break
        elements.append((at, head, length))
        at += head + length
    at, head, length = random.choice(elements)
    before, after = content[:at], content[at + head + length :]
    start, value = content[at : at + head], content[at + head : at + head + length]
    change = random.randrange(6)
    if change == 0:
        return before + after
    if change == 1:  # another length than it has
        code = "<I" if head == 12 else "<H"
        wrong = random.choice(INTEGERS) % 2 ** (32 if head == 12 else 16)
        return (
            before
            + start[: head - struct.calcsize(code)]
            + struct.pack(code, wrong)
            + value
            + after
        )
    if change == 2:
        depth = random.choice((3, 200, 5000))
        opened = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
        return before + opened * depth + after
    if change == 3:
        vr = random.choice(
            (b"US", b"SS", b"DS", b"IS", b"UI", b"LO", b"PN", b"SQ", b"FD", b"UN", b"??")
        )
        return before + start[:4] + vr + start[6:] + value + after
    if change == 4 and head == 8 and length in (2, 4):
        value = struct.pack("<Q", random.choice(INTEGERS) % 2**64)[:length]
    else:
        value = random.choice((*TEXTS, *map(str, INTEGERS))).encode("utf-8", "replace")[:60_000]
        value += b" " * (len(value) % 2)
    size = struct.pack("<I" if head == 12 else "<H", len(value))
    return before + start[: head - len(size)] + size + value + after


FORMS: dict[str, Callable[[bytes, Random], bytes] | None] = {
    "bytes": None,
    "json": in_json,
    "toml": in_toml,
    "table": in_table,
    "zip": in_zip,
    "gzip": in_gzip,
    "png": in_png,
    "text header": in_text_header,
    "safetensors": in_safetensors,
    "dicom": in_dicom,
}


def drawn(
    kind: str, form: str, number: int, seed: int, content: bytes, others: Sequence[bytes]
) -> bytes:
    """Return input ``number`` of a kind, made of ``content``; the same for the same arguments."""
    random = Random(f"{seed}/{kind}/{number}")
    return mutate(form, content, random.choice(others), random)
