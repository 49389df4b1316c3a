"""Weight files without torch and without running their code: PyTorch's `.pth` and `.safetensors`.

A file's kind is told by its first bytes, not by its name. Offsets, sizes and shapes are checked
against the bytes.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import math
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxssl.errors import InputError
from jaxssl.models.torch_files import (
    LARGEST_HEADER,
    LEGACY_START,
    MOST_AXES,
    read_legacy,
    read_zip,
)

DIGEST = "jaxssl_sha256"  # in the metadata of a safetensors file that jaxssl wrote: `digest_of`
LARGEST_FILE = 4 * 2**30  # bytes; a ViT-B has 0.35 GB
_SAFETENSORS = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
}
# What a pickle or a JSON that was not written by torch or safetensors raises in their readers.
_DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, EOFError),
    *(OverflowError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile),
)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Read a file of named tensors; never run code from it.

    Memory is that of the file and some MB; the largest file is of 4 GiB.

    Args:
      path: a state dict that torch saved (`.pth`, `.pt`, `.bin`; also the form from before torch
        1.6), or a `.safetensors`.

    Returns:
      Name to array (read-only), in the file's own types (float32, float64, float16, bfloat16,
      int64).

    Raises:
      InputError: where the file is missing, of another kind, damaged, or holds more than tensors.
    """
    return tensors_of(read_file(path), path)


def read_file(path: str | Path) -> bytes:
    """Read a weights file's bytes.

    Args:
      path: a regular file of at most 4 GiB; nothing else is opened (a pipe would never end).

    Returns:
      Its bytes.

    Raises:
      InputError: where there is no such file.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_FILE:
            return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = getattr(error, "strerror", None) or error
        raise InputError(f"weights {_shown(path)}: {why}: check the path") from error
    if stat.S_ISREG(status.st_mode):
        raise InputError(
            f"weights {_shown(path)}: {status.st_size} bytes, more than the {LARGEST_FILE} that "
            "are read: is this a weights file?"
        )
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a file"
    raise InputError(f"weights {_shown(path)}: {kind}: give the path of the file itself")


def tensors_of(data: bytes, path: str | Path) -> dict[str, np.ndarray]:
    """Take a weights file's bytes apart.

    Args:
      data: the file.
      path: its name, for messages.

    Returns:
      As `read_weights`.

    Raises:
      InputError: as `read_weights`.
    """
    try:
        return _reader(data)(data)
    except InputError as error:
        raise InputError(f"weights {_shown(path)}: {_shown(error)}") from error
    except _DAMAGE as error:
        text = _shown(f"damaged: {type(error).__name__}: {error}: download it again")
        raise InputError(f"weights {_shown(path)}: {text}") from error


def _reader(data: bytes) -> Callable[[bytes], dict[str, np.ndarray]]:
    """Choose the reader by a file's first bytes."""
    start = data[:512].removeprefix(codecs.BOM_UTF8).lstrip()
    if data.startswith(b"version https://git-lfs"):
        raise InputError("a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
    if start.startswith(b"<"):
        raise InputError("a web page, not weights: download the file behind the page's link")
    if start.startswith((b'{"', b"[{")):
        raise InputError("JSON, not weights, perhaps a server's error message: look into it")
    if data.startswith(b"PK\3\4"):
        if not zipfile.is_zipfile(io.BytesIO(data)):
            raise InputError("cut short: the archive has no end: download it again")
        return read_zip
    if data.startswith(LEGACY_START):
        return read_legacy
    if data[8:9] == b"{":
        return _read_safetensors
    raise InputError(
        f"neither a file of torch.save nor safetensors, or cut short ({len(data)} bytes): "
        "download it again"
    )


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Read eight bytes of length, a JSON header, then the numbers without gap or overlap."""
    size = int.from_bytes(data[:8], "little")
    if size > min(LARGEST_HEADER, len(data) - 8):
        raise InputError("not a safetensors file, or cut short: download it again")
    body = memoryview(data)[8 + size :]
    header = json.loads(data[8 : 8 + size])
    about = header.pop("__metadata__", None)
    entries = [(name, *_entry(name, entry)) for name, entry in header.items()]
    tensors = {}
    position = 0
    for name, begin, end, dtype, shape in sorted(entries, key=lambda entry: entry[1:3]):
        if begin != position or end - begin != math.prod(shape) * dtype.itemsize:
            raise InputError(f"tensor {name} of shape {shape} does not fit bytes {begin} to {end}")
        if end > len(body):
            raise InputError(
                f"cut short: tensor {name} ends at byte {end} of {len(body)}: download it again"
            )
        tensors[name] = np.frombuffer(body[begin:end], dtype).reshape(shape)
        position = end
    if position != len(body):
        raise InputError(f"{len(body) - position} bytes at its end belong to no tensor")
    told = about.get(DIGEST) if isinstance(about, dict) else None
    if told is not None and told != digest_of(tensors):
        raise InputError("changed since jaxssl wrote it, by its sha256: export it again")
    return tensors


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of names, types, shapes and numbers, in hex digits.

    Safetensors has no checksum: a flipped bit would be another number.

    Example:
      >>> digest_of({"a": np.zeros(2, np.float32)})[:8]
      'cfb45dee'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        about = repr((name, tensor.dtype.str, tensor.shape))
        digest.update(about.encode("utf-8", "surrogatepass") + tensor.tobytes())
    return digest.hexdigest()


def _entry(name: str, entry: dict) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)) or len(shape) > MOST_AXES:
        raise InputError(f"tensor {name} of shape {shape} does not fit bytes {begin} to {end}")
    return begin, end, _SAFETENSORS[entry["dtype"]], shape


def _shown(text: object, most: int = 140) -> str:
    """Show a file's own text in a message: one line, no control characters, not too long."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[-(10**6) :])
    return line if len(line) <= most else f"{line[: most // 2]}...{line[-most // 2 + 3 :]}"
