"""Weight files without torch and without running their code: PyTorch's `.pth` and `.safetensors`.

A `.pth` is a zip archive: a pickle that says how to rebuild the tensors, and a file of raw numbers
for each. A pickle can call any function, so this reader's pickle machine knows the few names that
weights are made of and refuses all others. Offsets, sizes and shapes are checked against the bytes.
"""

from __future__ import annotations

import collections
import io
import json
import math
import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxssl.errors import InputError

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
}
_SAFETENSORS = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
}
_LARGEST_HEADER = 16 * 2**20  # bytes; that of a network with 800 tensors has 0.1 MB


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a file of named tensors; never runs code from it.

    Args:
      path: a `.pth` (or `.pt`, `.bin`) as torch >= 1.6 saves a state dict, or a `.safetensors`.

    Returns:
      Name to array, in the file's own types (float32, float64, float16, bfloat16, int64).

    Raises:
      InputError: where the file is missing, of another kind, damaged, or holds more than tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path.read_bytes())
        return _read_pth(path)
    except OSError as error:
        raise InputError(f"weights {path}: {error.strerror or error}: check the path") from error
    except InputError as error:
        raise InputError(f"weights {path}: {error}") from error


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise InputError(
                "not a zip archive as torch >= 1.6 writes; convert an older file where torch is: "
                "torch.save(torch.load(old, weights_only=True), new)"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                loaded = _TensorUnpickler(archive).load()
        except InputError:
            raise
        except Exception as error:  # a damaged pickle may raise anything
            raise InputError(f"damaged: {type(error).__name__}: {error}") from error
    # dict.items, because a pickle may give its OrderedDict an attribute `items`.
    if not isinstance(loaded, dict) or not all(
        type(name) is str and type(tensor) is np.ndarray for name, tensor in dict.items(loaded)
    ):
        raise InputError("holds other things than named tensors: save model.state_dict() alone")
    return dict(dict.items(loaded))


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors as arrays.

    All that a pickle gets hold of is a C type, two methods of this object, and strings.
    """

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError("no data.pkl in the archive: not a file of torch.save")
        self.folder = pickles[0].removesuffix("data.pkl")
        if (
            self.folder + "byteorder" in archive.namelist()
            and self.member("byteorder") != b"little"
        ):
            raise InputError("saved by a big-endian machine: save it again on a little-endian one")
        super().__init__(io.BytesIO(self.member("data.pkl")))

    def member(self, name: str) -> bytes:
        info = self.archive.getinfo(self.folder + name)
        if info.compress_type != zipfile.ZIP_STORED or (
            name == "data.pkl" and info.file_size > _LARGEST_HEADER
        ):
            raise InputError(f"{name} is compressed or far too large: not a file of torch.save")
        return self.archive.read(info)

    def find_class(self, module: str, name: str) -> object:
        match module, name:
            case "collections", "OrderedDict":
                return collections.OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return self.rebuild_tensor
            case "torch._utils", "_rebuild_parameter":
                return self.rebuild_parameter
            case "torch", storage if storage in _STORAGES:
                return storage
        raise InputError(f"asks for {module}.{name}, which no weights need: do not trust this file")

    def persistent_load(self, pid: tuple) -> np.ndarray:
        kind, storage, key, _, size = pid
        dtype = _STORAGES[storage]
        data = self.member(f"data/{key}")
        if kind != "storage" or len(data) != size * dtype.itemsize:
            raise InputError(f"storage {key} has {len(data)} bytes, not {size} of {dtype}")
        return np.frombuffer(data, dtype)

    def rebuild_tensor(
        self,
        storage: np.ndarray,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: object,
    ) -> np.ndarray:
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if min(offset, *shape, *strides, 0) < 0 or not last < len(storage) >= math.prod(shape):
            raise InputError(f"a tensor of shape {shape} reaches outside its storage")
        strides = tuple(s * storage.itemsize for s in strides)
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()

    def rebuild_parameter(self, data: np.ndarray, *_: object) -> np.ndarray:
        return data


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Eight bytes of length, a JSON header, then the numbers without gap or overlap."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_LARGEST_HEADER, len(data) - 8):
        raise InputError("not a safetensors file, or cut short")
    body = memoryview(data)[8 + size :]
    try:
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        entries = sorted(
            (*entry["data_offsets"], name, _SAFETENSORS[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"its header is damaged: {type(error).__name__}: {error}") from error
    tensors = {}
    position = 0
    for begin, end, name, dtype, shape in entries:
        whole = all(type(n) is int and n >= 0 for n in (begin, end, *shape))
        if not whole or begin != position or end - begin != math.prod(shape) * dtype.itemsize:
            raise InputError(f"tensor {name} of shape {shape} does not fit bytes {begin} to {end}")
        if end > len(body):
            raise InputError(f"cut short: tensor {name} ends at byte {end} of {len(body)}")
        tensors[name] = np.frombuffer(body[begin:end], dtype).reshape(shape)
        position = end
    if position != len(body):
        raise InputError(f"{len(body) - position} bytes at its end belong to no tensor")
    return tensors
