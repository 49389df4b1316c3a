"""Files that are damaged, or written to do harm."""

import collections
import io
import json
import os
import pickle
import struct
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


def test_torchs_own_file_is_read_as_torch_reads_it(tmp_path):
    torch = pytest.importorskip("torch", reason="its own file format")
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).half()
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    arrays = read_weights(path)
    expected = torch.load(path, weights_only=True)
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name].numpy())
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"not a zip archive as torch >= 1\.6 writes; convert"):
        read_weights(path)


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
        (tensor((2,), (1,), offset=-2), "reaches outside its storage"),
        (tensor((2,), (-1,), offset=1), "reaches outside its storage"),
        (tensor((10**6, 10**6), (0, 0)), "reaches outside its storage"),
        (tensor((2,), (1, 1)), "damaged: ValueError"),
        (tensor((1.0,), (1,)), "damaged: TypeError"),
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
    with pytest.raises(InputError, match="not a zip archive"):
        read_weights(path)
    content = {"a": tensor((6,), (1,))}
    with pytest.raises(InputError, match="compressed or far too large"):
        read_weights(pth(path, content, [SIX], compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="big-endian"):
        read_weights(pth(path, content, [SIX], extra={"byteorder": b"big"}))
    with pytest.raises(InputError, match=r"damaged: KeyError"):
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
        ({"a": entry(dtype="O")}, "header is damaged: KeyError"),
        ({"a": entry("6")}, "header is damaged|does not fit"),
        ({"a": 3}, "header is damaged"),
        ([], "header is damaged"),
        (b'{"a": ', "header is damaged"),
        (b"\xff\xfe", "header is damaged"),
        (b"[" * 100_000, "header is damaged"),
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
    path.write_bytes(b"\1")
    with pytest.raises(InputError, match="not a safetensors file, or cut short"):
        read_weights(path)
