"""Files that are damaged, or written to do harm."""

import collections
import contextlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.errors import InputError
from jaxssl.models.weight_files import read_weights


class Global:
    """Pickles as the global `module.name` called with `arguments`, or alone."""

    def __init__(self, module: str, name: str, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Storage(tuple):
    """Pickles as a persistent id, as torch's storages do."""


class Pickler(pickle._Pickler):
    """Writes any global by name, which pickle refuses for what is not importable."""

    def persistent_id(self, obj):
        return tuple(obj) if type(obj) is Storage else None

    def save(self, obj, *args, **kwargs):
        if type(obj) is not Global:
            return super().save(obj, *args, **kwargs)
        self.write(f"c{obj.module}\n{obj.name}\n".encode())
        if obj.arguments:
            super().save(obj.arguments)
            self.write(pickle.REDUCE)


def pth(path: Path, content, storages=(), *, compression=zipfile.ZIP_STORED, extra=None) -> Path:
    """A file as torch.save writes it."""
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", buffer.getvalue())
        for key, data in enumerate(storages):
            archive.writestr(f"net/data/{key}", data)
        for name, data in (extra or {}).items():
            archive.writestr(f"net/{name}", data)
    return path


def tensor(shape, strides, offset=0, size=6, kind="FloatStorage"):
    storage = Storage(("storage", Global("torch", kind), "0", "cpu", size))
    hooks = Global("collections", "OrderedDict", ())
    return Global(
        "torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, hooks
    )


SIX = np.arange(6, dtype=np.float32).tobytes()


def test_a_pth_gives_its_arrays(tmp_path):
    content = collections.OrderedDict(
        a=tensor((2, 3), (3, 1)),
        b=tensor((3, 2), (1, 3)),
        c=Global("torch._utils", "_rebuild_parameter", tensor((), (), 4), True, {}),
        d=tensor((0, 2), (2, 1)),
    )
    arrays = read_weights(pth(tmp_path / "net.pth", content, [SIX], extra={"byteorder": b"little"}))
    np.testing.assert_array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["b"], [[0, 3], [1, 4], [2, 5]])
    assert arrays["c"] == 4
    assert arrays["d"].shape == (0, 2)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", jnp.bfloat16),
        ("LongStorage", np.int64),
    ],
)
def test_other_types_of_numbers(kind, dtype, tmp_path):
    data = np.array([1.5, -2, 300]).astype(dtype)
    content = {"a": tensor((3,), (1,), size=3, kind=kind)}
    array = read_weights(pth(tmp_path / "net.pth", content, [data.tobytes()]))["a"]
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, data)


@pytest.mark.parametrize("zipped", [True, False])
def test_torchs_own_file_is_read_as_torch_reads_it(zipped, tmp_path):
    torch = pytest.importorskip("torch", reason="its own file format")
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).half()
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
    arrays = read_weights(path)
    expected = torch.load(path, weights_only=True)
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name].numpy())


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("os", "system", ("touch {}",)),
        ("posix", "system", ("touch {}",)),
        ("builtins", "eval", ("open({!r}, 'w')",)),
        ("builtins", "getattr", ("", "format")),
        ("torch", "load", ("{}",)),
        ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
        ("numpy", "dtype", ("f4",)),
        ("jaxssl.models.weight_files", "read_weights", ("{}",)),
    ],
)
def test_code_in_a_pickle_is_refused_and_not_run(module, name, arguments, tmp_path):
    victim = tmp_path / "touched"
    arguments = tuple(a.format(str(victim)) for a in arguments)
    path = pth(tmp_path / "net.pth", {"a": Global(module, name, *arguments)}, [SIX])
    with pytest.raises(InputError, match=rf"asks for {module}\.{name}, .*do not trust this file"):
        read_weights(path)
    assert os.listdir(tmp_path) == ["net.pth"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor((2, 4), (4, 1)), "reaches outside its storage"),
        (tensor((2, 3), (3, 1), offset=1), "reaches outside its storage"),
        (tensor((2,), (1,), offset=-2), "a size or an offset is none"),
        (tensor((2,), (-1,), offset=1), "a size or an offset is none"),
        (tensor((10**6, 10**6), (0, 0)), "reaches outside its storage"),
        (tensor((2,), (1, 1)), "shape and strides do not fit"),
        (tensor((1,) * 9, (1,) * 9), "shape and strides do not fit"),
        (tensor((1.0,), (1,)), "a size or an offset is none"),
        (tensor((2, 3), (3, 1), size=7), "storage 0 has 24 bytes, not 7 of float32"),
        (tensor((2, 3), (3, 1), kind="BoolStorage"), r"asks for torch\.BoolStorage"),
        (3, "holds other things than named tensors"),
        ({"epoch": 3}, "holds other things than named tensors"),
        ({3: tensor((1,), (1,))}, "holds other things than named tensors"),
        ({"model": {"a": tensor((1,), (1,))}}, r"save model\.state_dict\(\) alone"),
    ],
)
def test_a_pth_that_lies_is_refused(content, message, tmp_path):
    content = {"a": content} if type(content) is Global else content
    with pytest.raises(InputError, match=message):
        read_weights(pth(tmp_path / "net.pth", content, [SIX]))


def test_damaged_archives_are_refused(tmp_path):
    good = pth(tmp_path / "net.pth", {"a": tensor((6,), (1,))}, [SIX]).read_bytes()
    path = tmp_path / "bad.pth"
    for position in (good.index(SIX) + 5, good.index(b"_rebuild") + 3, len(good) - 60):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(InputError, match=r"bad\.pth: damaged"):
            read_weights(path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match="cut short: the archive has no end"):
        read_weights(path)
    content = {"a": tensor((6,), (1,))}
    with pytest.raises(InputError, match="compressed or too large"):
        read_weights(pth(path, content, [SIX], compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="big-endian"):
        read_weights(pth(path, content, [SIX], extra={"byteorder": b"big"}))
    with pytest.raises(InputError, match="data/0 is missing: download it again"):
        read_weights(pth(path, content))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.txt", b"")
    with pytest.raises(InputError, match=r"not a file of torch\.save"):
        read_weights(path)


@pytest.mark.parametrize("name", ["no.pth", "no.safetensors"])
def test_a_missing_file_is_said(name, tmp_path):
    with pytest.raises(InputError, match=f"{name}: No such file or directory"):
        read_weights(tmp_path / name)


def safetensors(path: Path, header, body: bytes = SIX) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(shape=(2, 3), begin=0, end=24, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_safetensors_give_their_arrays(tmp_path):
    header = {
        "b": entry((2,), 8, 12, "BF16"),
        "a": entry((2,), 0, 8),
        "__metadata__": {"format": "pt"},
        "c": entry((), 12, 20, "I64"),
        "d": entry((0, 3), 20, 20),
    }
    numbers = np.array([0.5, -2]), np.array([1, 3]), np.array(-7)
    types = np.float32, jnp.bfloat16, np.int64
    body = b"".join(n.astype(t).tobytes() for n, t in zip(numbers, types, strict=True))
    arrays = read_weights(safetensors(tmp_path / "net.safetensors", header, body))
    assert set(arrays) == {"a", "b", "c", "d"}
    for name, number, dtype in zip("abc", numbers, types, strict=True):
        assert arrays[name].dtype == dtype
        np.testing.assert_array_equal(arrays[name], number)
    assert arrays["d"].shape == (0, 3)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry((2, 4))}, "does not fit"),
        ({"a": entry((2, -3), 0, -24)}, "does not fit"),
        ({"a": entry(begin=4, end=28)}, "does not fit"),
        ({"a": entry((True, 6))}, "does not fit"),
        ({"a": entry((2,), 0, 8), "b": entry((5,), 4, 24)}, "does not fit"),
        ({"a": entry((7,), 0, 28)}, "cut short: tensor a ends at byte 28 of 24"),
        ({"a": entry((5,), 0, 20)}, "4 bytes at its end belong to no tensor"),
        ({"a": entry(dtype="O")}, "damaged: KeyError"),
        ({"a": entry("6")}, "does not fit"),
        ({"a": entry((6, *(1,) * 69))}, "does not fit"),
        ({"a": entry() | {"data_offsets": [0]}}, "damaged: ValueError"),
        ({"a": 3}, "damaged: TypeError"),
        ([], "neither a file of torch.save nor safetensors"),
        (b'{"a": ', "damaged: JSONDecodeError"),
        (b"{\xff\xfe", "damaged: "),
        (b'{"a":' + b"[" * 100_000, "damaged: RecursionError"),
    ],
)
def test_tampered_safetensors_are_refused(header, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_weights(safetensors(tmp_path / "net.safetensors", header))


@pytest.mark.parametrize("length", [100, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(length, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(InputError, match="not a safetensors file, or cut short"):
        read_weights(path)


def legacy(content, keys=("0",), storages=((6, SIX),)) -> bytes:
    """A file as torch.save wrote it before 1.6."""
    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content, list(keys)):
        Pickler(buffer, protocol=2).dump(part)
    for size, data in storages:
        buffer.write(struct.pack("<q", size) + data)
    return buffer.getvalue()


def test_the_form_before_torch_1_6_gives_its_arrays(tmp_path):
    content = {"a": tensor((2, 3), (3, 1)), "b": tensor((3, 2), (1, 3))}
    path = tmp_path / "net.pth"
    path.write_bytes(legacy(content))
    arrays = read_weights(path)
    np.testing.assert_array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["b"], [[0, 3], [1, 4], [2, 5]])
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0, 0] = 1


ONE = {"a": tensor((6,), (1,))}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (legacy(ONE)[:-1], "cut short: 250 bytes, not 251"),
        (legacy(ONE) + b"!", "longer than its tensors"),
        (legacy(ONE, storages=[(7, SIX)]), "storage 0 has another size"),
        (legacy(ONE, keys=("1",)), "storages are not those of its tensors"),
        (legacy(ONE, keys=("0", "0")), "storages are not those of its tensors"),
        (legacy(ONE, keys=(0,)), "list of storages is none"),
        (legacy({"a": Global("os", "system", "true")}), r"asks for os\.system"),
        (legacy(ONE).replace(b"little_endian", b"tittle_endian"), "big-endian"),
        (legacy({"a": tensor((6,), (1,)), "b": tensor((7,), (1,), size=7)}), "has two sizes"),
        (legacy(ONE)[:60], "damaged: ValueError"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer, .* `git lfs pull`"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "a web page, not weights"),
        (b'{"error": "Repository not found"}', "JSON, not weights"),
        (b"\n<!DOCTYPE html><html>", "a web page, not weights"),
        (b"", r"neither a file of torch\.save nor safetensors, or cut short \(0 bytes\)"),
        (b"hello", r"neither a file of torch\.save nor safetensors"),
    ],
)
def test_what_is_no_file_of_weights_is_one_line(data, message, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_only_files_of_a_bearable_size_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(InputError, match=r"pipe\.pth: not a file"):
        read_weights(tmp_path / "pipe.pth")
    with (tmp_path / "sparse.pth").open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(
        InputError, match="5368709120 bytes, more than the 4294967296 that are read"
    ):
        read_weights(tmp_path / "sparse.pth")


def bombs() -> dict[str, bytes]:
    """Small files that a reader could spend gigabytes or hours on, and what they cost pickle."""
    memo = b"\x80\x02}r\xff\xff\xff\x0f."  # C pickle makes room for 268 million entries
    nested = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"q\x00}h\x00h\x00s."  # hashed: 2^60 steps
    text = b"\x80\x02}X\xff\xff\xff\xff."
    marks = b"\x80\x02" + b"(" * 50_000 + b"."
    header = b"\x80\x02" + b"N0" * 2**20 + b"}."
    return {"memo": memo, "nested": nested, "text": text, "marks": marks, "header": header}


@pytest.mark.parametrize("name", list(bombs()))
def test_memory_and_time_are_bounded_by_the_files_size(name, tmp_path):
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", bombs()[name])
    tracemalloc.start()
    with contextlib.suppress(InputError):
        assert read_weights(path) == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 + 200 * path.stat().st_size


@pytest.mark.filterwarnings("ignore:Overlapped entries")  # newer Pythons warn before
def test_storages_that_overlap_do_not_multiply(tmp_path):
    """One member's bytes under a thousand names, as a zip archive's directory can say."""
    storage = Global("torch", "FloatStorage")
    hooks = Global("collections", "OrderedDict")
    content = {
        str(i): Global(
            *("torch._utils", "_rebuild_tensor_v2"),
            Storage(("storage", storage, str(i), "cpu", 2500)),
            *(0, (2500,), (1,), False, hooks),
        )
        for i in range(40)
    }
    path = pth(tmp_path / "net.pth", content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/0", bytes(10_000))
        for i in range(1, 40):
            info = archive.getinfo("net/data/0")
            twin = zipfile.ZipInfo(f"net/data/{i}")
            for slot in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(twin, slot, getattr(info, slot))
            twin.orig_filename = "net/data/0"
            archive.filelist.append(twin)
    with pytest.raises(InputError, match="compressed or too large"):
        read_weights(path)


def test_mutations_are_read_or_refused_in_one_short_line(tmp_path):
    random = np.random.default_rng(0)
    content = {"a" * 40: tensor((2, 3), (3, 1)), "b": tensor((6,), (1,))}
    goods = [
        pth(tmp_path / "zip", content, [SIX], extra={"byteorder": b"little"}).read_bytes(),
        legacy(content),
        safetensors(
            tmp_path / "st", {"a": entry((2,), 0, 8), "b": entry((4,), 8, 24)}
        ).read_bytes(),
    ]
    path = tmp_path / f"{'x' * 200}.pth"
    refused = []
    for _ in range(900):
        data = bytearray(goods[random.integers(3)])
        for _ in range(random.integers(1, 4)):
            position = random.integers(len(data))
            match random.integers(3):
                case 0:
                    data[position] = random.integers(256)
                case 1:
                    del data[position : position + random.integers(1, 9)]
                case 2:
                    data[position:position] = random.bytes(random.integers(1, 9))
        path.write_bytes(data)
        try:
            read_weights(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 600
    assert max(map(len, refused)) <= 300
    assert all(map(str.isprintable, refused))
