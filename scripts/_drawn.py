"""What hypothesis draws for the readers of foreign bytes: files near the valid ones, and of forms.

Mutations (scripts/_fuzz.py) change bytes anywhere; here are files that are well formed and say what
no program would write, each with a smallest example where a reader fails.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Bytes = st.SearchStrategy[bytes]
_NUMBERS = st.one_of(st.integers(-3, 300), st.integers(), st.floats(), st.just(2**63), st.just(-1))
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=30))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
_NAMES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["../x", "/x", "a/b.png", "a\\b", "\x1b[2J", "con", "a" * 300, "\u202ex", ""]),
)


def edited(content: bytes) -> Bytes:
    """Draw the content with a few pieces replaced, doubled or taken out."""
    places = st.integers(0, max(0, len(content) - 1))
    pieces = st.one_of(
        st.binary(max_size=9), st.sampled_from([b"", b"\0" * 40, b"\xff" * 8, b"9" * 20])
    )
    changes = st.lists(st.tuples(places, st.integers(0, 40), pieces), min_size=1, max_size=4)

    def change(drawn: list[tuple[int, int, bytes]]) -> bytes:
        found = bytearray(content)
        for at, length, piece in drawn:
            found[at : at + length] = piece
        return bytes(found)

    return changes.map(change)


def of_json(content: bytes) -> Bytes:
    """Draw the JSON with a few of its values, at any depth, replaced by others."""
    value = json.loads(content)
    count = sum(1 for _ in _places(value))
    changes = st.lists(st.tuples(st.integers(0, max(0, count - 1)), _VALUES), max_size=3)

    def change(drawn: list[tuple[int, Any]]) -> bytes:
        found = json.loads(content)
        for number, new in drawn:
            for i, (holder, key) in enumerate(_places(found)):
                if i == number:
                    holder[key] = new
                    break
        return json.dumps(found).encode("utf-8", "surrogatepass")

    return changes.map(change) | _VALUES.map(lambda value: json.dumps(value).encode())


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def of_lines(content: bytes) -> Bytes:
    """Draw lines of JSON."""
    rows = st.fixed_dictionaries(
        {},
        optional={"step": _VALUES, "split": _VALUES, "loss": _VALUES, "crc": _VALUES},
    )
    lines = st.lists(rows.map(json.dumps) | st.text(max_size=20), max_size=6)
    return lines.map(lambda found: "\n".join(found).encode("utf-8", "surrogatepass"))


def of_cells(delimiter: str) -> Callable[[bytes], Bytes]:
    """Draw a table of text: names of columns that mean something, and any cells."""
    known = ["path", "label", "split", "group", "object_id", "file", "class", "x", "y", "width"]
    names = st.lists(st.sampled_from(known) | _NAMES, min_size=1, max_size=5)
    cells = st.lists(st.lists(_NAMES | _NUMBERS.map(str), max_size=5), max_size=6)

    def draw(found: tuple[list[str], list[list[str]], str]) -> bytes:
        head, rows, end = found
        text = end.join(delimiter.join(row) for row in [head, *rows])
        return text.encode("utf-8", "surrogatepass")

    table = st.tuples(names, cells, st.sampled_from(["\n", "\r\n", "\r", "\0"]))
    return lambda content: table.map(draw)


def of_pickle(content: bytes) -> Bytes:
    """Draw instructions of a pickle, many of which fit together."""
    pieces = [b"(", b")", b"]", b"}", b"t", b"R", b"u", b"a", b"e", b"0", b"2", b"s", b"b", b"Q"]
    pieces += [b"K\x02", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"N", b"\x88", b"\x85", b"\x86", b"1"]
    pieces += [b"X\x01\0\0\0a", b"q\x01", b"h\x01", b"r\xff\xff\xff\x7f", b"cos\nsystem\n", b"."]
    pieces += [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"\x8c\x02ab"]
    pieces += [b"cnumpy\nndarray\n", b"ccollections\nOrderedDict\n", b"\x95" + b"\xff" * 8]
    middle = st.lists(st.sampled_from(pieces), max_size=24).map(b"".join)
    return st.tuples(st.integers(0, len(content)), middle).map(
        lambda drawn: content[: drawn[0]] + drawn[1] + content[drawn[0] :]
    ) | middle.map(lambda found: b"\x80\x02" + found + b".")


def of_zip(content: bytes) -> Bytes:
    """Draw archives of a few members of any name."""
    member = st.tuples(_NAMES, st.binary(max_size=60) | st.just(content), st.sampled_from([0, 8]))

    def write(members: list[tuple[str, bytes, int]]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, body, how in members:
                try:
                    file.writestr(zipfile.ZipInfo(name or "_"), body, compress_type=how)
                except (ValueError, OSError, UserWarning):
                    continue
        return out.getvalue()

    return st.lists(member, max_size=5, unique_by=lambda one: one[0]).map(write)


def of_tar(content: bytes) -> Bytes:
    """Draw archives of entries of any name, kind and claimed size."""
    kinds = [bytes([kind]) for kind in b"01234567xgLKVSM"]
    sizes = st.integers(0, 700) | st.sampled_from([2**20, 2**30, 8**11 - 1])
    entry = st.tuples(_NAMES, st.sampled_from(kinds), sizes, st.binary(max_size=60))

    def write(entries: list[tuple[str, bytes, int, bytes]]) -> bytes:
        out = b""
        for name, kind, size, body in entries:
            info = tarfile.TarInfo(name.replace("\0", "_")[:90])
            info.type, info.size, info.linkname = kind, size, "../../etc/passwd"
            try:
                out += info.tobuf(tarfile.GNU_FORMAT, "utf-8", "replace") + body.ljust(512, b"\0")
            except ValueError:
                continue
        return out + bytes(1024)

    return st.lists(entry, max_size=5).map(write)


def of_parquet(content: bytes) -> Bytes:
    """Draw tables of columns of any type."""
    import pyarrow
    import pyarrow.parquet

    types = [pyarrow.string(), pyarrow.large_binary(), pyarrow.int64(), pyarrow.float16()]
    types += [pyarrow.bool_(), pyarrow.date32(), pyarrow.list_(pyarrow.string()), pyarrow.null()]
    types += [pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])]
    types += [pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.float32()]
    known = ["id", "path", "label", "class_name", "class_index", "split", "embedding", "image"]
    column = st.tuples(st.sampled_from(known) | _NAMES, st.sampled_from(types))

    def write(drawn: tuple[list[tuple[str, Any]], int]) -> bytes:
        columns, rows = drawn
        table = pyarrow.table(
            {name: pyarrow.nulls(rows, kind) for name, kind in columns} or {"x": [1]}
        )
        out = io.BytesIO()
        pyarrow.parquet.write_table(table, out)
        return out.getvalue()

    return st.tuples(st.lists(column, max_size=5), st.integers(0, 5)).map(write)


def of_header(content: bytes) -> Bytes:
    """Draw a header of safetensors: shapes, types and offsets that do not fit."""
    axes = st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**63]), max_size=10)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "x"]),
            "shape": axes,
            "data_offsets": st.lists(st.integers(-9, 99), max_size=3),
        }
    )
    header = st.dictionaries(_NAMES, entry | _VALUES, max_size=4)
    return header.map(lambda found: json.dumps(found).encode()) | of_json(content)


def of_rois(content: bytes) -> Bytes:
    """Draw an IFCB's rows of numbers."""
    cell = st.one_of(st.integers(-5, 50).map(str), _NUMBERS.map(str), st.just("1e999"), _NAMES)
    row = st.tuples(st.just(["0"] * 15), st.lists(cell, max_size=4)).map(
        lambda both: ",".join(both[0] + both[1])
    )
    return st.lists(row, max_size=5).map(lambda rows: "\n".join(rows).encode("utf-8", "replace"))


FORMS: dict[str, Callable[[bytes], Bytes]] = {
    "pth, pickle": of_pickle,
    "pth, legacy": of_pickle,
    "CIFAR batch": of_pickle,
    "safetensors, header": of_header,
    "tar": of_tar,
    "tar.gz": lambda content: of_tar(content).map(gzip.compress),
    "tar.gz, tar": of_tar,
    "Parquet": of_parquet,
    "embeddings": of_parquet,
    "TSV": of_cells("\t"),
    "CSV": of_cells(","),
    "CSV.gz": lambda content: of_cells(",")(content).map(gzip.compress),
    "labels.csv": of_cells(","),
    "zip": of_zip,
    "IFCB": of_rois,
    "FlowCam": of_cells("|"),
    "metrics.jsonl": of_lines,
    "config.json": of_json,
    "config.json, sealed": of_json,
    "a run, sealed": of_json,
    "MANIFEST.json, sealed": of_json,
    "results.json": of_json,
    "linear evaluation": of_json,
}


def files(target: str, content: bytes) -> Bytes:
    """Draw files of one kind: of its form where it has one here, or edited."""
    form = FORMS.get(target)
    return edited(content) if form is None else form(content) | edited(content)
