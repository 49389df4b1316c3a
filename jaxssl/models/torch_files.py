"""torch.save's two forms of a state dict, read without torch and without running their code.

Both are a pickle that says how to rebuild the tensors, and the raw numbers: since torch 1.6 in a
zip archive, a file for each storage; before that one after another behind the pickle. A pickle is a
program that can call any function. Here `pickletools` takes it apart, which runs nothing, and a
machine of this file's own carries out the few instructions that weights are made of, on strings,
numbers, tuples and dicts alone. All others are refused.

Every instruction takes constant time and memory for its bytes, and every array is a view of the
bytes read: memory and time grow with the file's size and by nothing that it says.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxssl.errors import InputError

LARGEST_HEADER = 2 * 2**20  # bytes; a network of 800 tensors has 0.1 MB
MOST_AXES = 8
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."  # 1.0's magic, 1001

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
}
_FUNCTIONS = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2")
_PARAMETER = "torch._utils _rebuild_parameter"
_PUSHED = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Global(NamedTuple):
    """A name that the pickle asked for; nothing is looked up."""

    name: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_zip(data: bytes) -> dict[str, np.ndarray]:
    """Read the form since torch 1.6.

    Args:
      data: the file.

    Returns:
      Name to array, views of the archive's members.

    Raises:
      InputError: for all that is not named tensors in such an archive.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError("no data.pkl in the archive: not a file of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        left = len(data)

        def member(name: str) -> bytes:
            nonlocal left
            if folder + name not in members:
                raise InputError(f"damaged: {name} is missing: download it again")
            info = members[folder + name]
            left -= info.file_size  # members that overlap would give more than the file has
            if info.compress_type != zipfile.ZIP_STORED or left < 0:
                raise InputError(f"{name} is compressed or too large: not a file of torch.save")
            return archive.read(info)

        if folder + "byteorder" in members and member("byteorder") != b"little":
            raise InputError("saved by a big-endian machine: save it again on a little-endian one")
        tensors = _named_tensors(_run(io.BytesIO(member("data.pkl"))))
        storages = {storage.key: storage for storage in _storages(tensors)}
        return _arrays(tensors, {key: member(f"data/{key}") for key in storages})


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Read the form from before torch 1.6: `data` begins with `LEGACY_START`.

    Args:
      data: the file.

    Returns:
      Name to array, views of `data`.

    Raises:
      InputError: for all that is not named tensors in this form.
    """
    stream = io.BytesIO(data)
    stream.seek(len(LEGACY_START))
    system = _run(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("saved by a big-endian machine: save it again on a little-endian one")
    tensors = _named_tensors(_run(stream))
    keys = _run(stream)
    storages = {storage.key: storage for storage in _storages(tensors)}
    sizes = {key: storage.size * storage.dtype.itemsize for key, storage in storages.items()}
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise InputError("damaged: its list of storages is none: download it again")
    if set(keys) != set(sizes) or len(keys) != len(sizes):
        raise InputError("its storages are not those of its tensors: not a file of torch.save")
    position, parts = stream.tell(), {}
    for key in keys:  # for each, 8 bytes for how many numbers, then the numbers
        begin = position + 8
        position = begin + sizes[key]
        if int.from_bytes(data[begin - 8 : begin], "little") != storages[key].size:
            raise InputError(
                f"damaged or cut short: storage {key} has another size: download it again"
            )
        parts[key] = memoryview(data)[begin:position]
    if position != len(data):
        kind = "cut short" if position > len(data) else "longer than its tensors"
        raise InputError(f"{kind}: {len(data)} bytes, not {position}: download it again")
    return _arrays(tensors, parts)


def _named_tensors(loaded: Any) -> dict[str, _Tensor]:
    if not isinstance(loaded, dict) or not all(type(t) is _Tensor for t in loaded.values()):
        raise InputError("holds other things than named tensors: save model.state_dict() alone")
    return loaded


def _storages(tensors: dict[str, _Tensor]) -> list[_Storage]:
    """List every storage once; a key must always mean the same storage."""
    found: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if found.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise InputError("a storage has two sizes or types: not a file of torch.save")
    return list(found.values())


def _arrays(tensors: dict[str, _Tensor], parts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Make the arrays as views of the storages' bytes."""
    arrays = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        data = parts[storage.key]
        if len(data) != storage.size * storage.dtype.itemsize:
            raise InputError(
                f"storage {storage.key} has {len(data)} bytes, not {storage.size} of "
                f"{storage.dtype}: cut short? Download it again"
            )
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if not last < storage.size >= math.prod(shape):
            raise InputError(f"tensor {name} of shape {shape} reaches outside its storage")
        numbers = np.frombuffer(data, storage.dtype)[offset:]
        strides = tuple(s * storage.dtype.itemsize for s in strides)
        arrays[name] = np.lib.stride_tricks.as_strided(numbers, shape, strides)
    return arrays


def _run(stream: IO[bytes]) -> Any:
    """Run the pickle at the stream's position, return its value and leave the stream behind it."""
    machine = _Machine()
    start = stream.tell()
    for opcode, argument, position in pickletools.genops(stream):
        if (position or 0) - start > LARGEST_HEADER:
            raise InputError(f"its header is over {LARGEST_HEADER} bytes: not one of weights")
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """Carries out a pickle's instructions on strings, numbers, tuples, lists and dicts."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple([stack.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name == "STACK_GLOBAL":
            function = stack.pop()
            stack.append(_known(f"{_typed(str, stack.pop())} {_typed(str, function)}"))
        elif name not in ("PROTO", "FRAME"):
            self.combine(name)

    def combine(self, name: str) -> None:
        """Run an instruction that takes several values."""
        stack = self.stack
        match name:
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE":
                self.lower().append(tuple(stack))
            case "APPEND":
                value = stack.pop()
                _typed(list, stack[-1]).append(value)
            case "APPENDS":
                _typed(list, self.lower()[-1]).extend(stack)
            case "SETITEM":
                value = stack.pop()
                _set(stack[-2], [stack.pop(), value])
            case "SETITEMS":
                _set(self.lower()[-1], stack)
            case "BUILD":  # what an OrderedDict has beside its items: versions of layers
                stack.pop()
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = _typed(tuple, stack.pop())
                stack.append(_call(_typed(_Global, stack.pop()).name, arguments))
            case _:
                raise InputError(f"has the instruction {name}, which no weights need")

    def lower(self) -> list[Any]:
        """Return to the stack under the last mark."""
        self.stack = self.below.pop()
        return self.stack


def _known(name: str) -> _Global:
    kind = name.removeprefix("torch ")
    if name not in (*_FUNCTIONS, _PARAMETER) and not (kind != name and kind in _STORAGES):
        dotted = name.replace(" ", ".")
        raise InputError(f"asks for {dotted}, which no weights need: do not trust this file")
    return _Global(name)


def _typed(kind: type, value: Any) -> Any:
    # Exactly: a _Tensor is a tuple too.
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _set(target: Any, items: list[Any]) -> None:
    _typed(dict, target)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str:  # a tuple of tuples of ... would take for ever to hash
            raise InputError("holds other things than named tensors: save model.state_dict() alone")
        target[key] = value


def _storage(pid: Any) -> _Storage:
    kind, storage, key, _, size, *view = _typed(tuple, pid)
    if kind != "storage" or any(part is not None for part in view):
        raise InputError("has a storage inside another: save it again with torch >= 1.6")
    dtype = _STORAGES[_typed(_Global, storage).name.removeprefix("torch ")]
    return _Storage(_typed(str, key), dtype, _count(size))


def _call(function: str, arguments: tuple) -> Any:
    match function:
        case "collections OrderedDict":
            made: dict[str, Any] = {}
            for pair in arguments[0] if arguments else ():  # Python 2 wrote pairs here
                _set(made, list(_typed(list, pair)))
            return made
        case "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            _typed(_Storage, storage)
            lengths = [tuple(map(_count, _typed(tuple, part))) for part in (shape, strides)]
            if len(lengths[0]) != len(lengths[1]) or len(lengths[0]) > MOST_AXES:
                raise ValueError("a tensor's shape and strides do not fit")
            return _Tensor(storage, _count(offset), *lengths)
        case "torch._utils _rebuild_parameter":
            return _typed(_Tensor, arguments[0])
    raise TypeError("a storage is called")


def _count(n: Any) -> int:
    if type(n) is not int or not 0 <= n < 2**48:
        raise ValueError("a size or an offset is none")
    return n
