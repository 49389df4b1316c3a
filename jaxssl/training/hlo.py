"""What a compiled program's text says: what devices tell one another, what moves, is multiplied."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

OPERATIONS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def communication(text: str, *, strict: bool = False) -> dict[str, tuple[int, int]]:
    """Count what the devices tell one another in one run of a compiled program.

    Args:
      text: The optimised HLO, `compiled.as_text()`.
      strict: Refuse a loop of which the program says nowhere how often it runs.

    Returns:
      Operation -> (how many, bytes of their results on one device). A loop's count as often as it
      runs, once where that is not known.

    Raises:
      ValueError: As `strict` says.
    """
    computations, entry = _computations(text)
    known: dict[str, dict[str, tuple[int, int]]] = {}
    counted: set[tuple[str, str, int]] = set()

    def count(name: str) -> dict[str, tuple[int, int]]:
        if name in known:
            return known[name]
        found: dict[str, tuple[int, int]] = {}

        def add(operation: str, number: int, size: int) -> None:
            before = found.get(operation, (0, 0))
            found[operation] = (before[0] + number, before[1] + size)

        for line in computations.get(name, ()):
            said = re.match(r"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z-]*)\(", line)
            if said is None:
                continue
            result, operation = said.groups()
            plain = operation.removesuffix("-start")
            if plain in OPERATIONS:
                # One that runs beside others stands in each of the parts that it is cut into. Its
                # channel alone does not tell: on a CPU all those of a `shard_map` have the same.
                which = _which(line)
                if which in counted:
                    continue
                if which is not None:
                    counted.add(which)
                # A start's result holds what goes in too, but that of an all-reduce.
                both = operation != plain and plain != "all-reduce"
                add(plain, 1, _largest(result) if both else _bytes(result))
                continue
            turns = _turns(computations, line) if operation == "while" else 1
            called = re.findall(r"(?:body|to_apply|calls)=%?([\w.-]+)", line)
            for names in re.findall(r"branch_computations=\{(.*?)\}", line):
                called += re.findall(r"%?([\w.-]+)", names)
            for inner in called:
                for what, (number, size) in count(inner).items():
                    if strict and turns is None:
                        raise ValueError(
                            f"{what} in a loop of unknown length: {line.strip()[:200]}"
                        )
                    add(what, (turns or 1) * number, (turns or 1) * size)
        known[name] = found
        return found

    return count(entry)


def _which(line: str) -> tuple[str, str, int] | None:
    """Tell an operation between devices from others: its name, its channel, its largest array."""
    said = re.match(r"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z-]*)\(.*channel_id=(\d+)", line)
    return (said[2].removesuffix("-start"), said[3], _largest(said[1])) if said else None


def sent(found: Mapping[str, tuple[int, int]], devices: int) -> float:
    """Bytes that one device sends, every operation going round a ring of all."""
    share = (devices - 1) / devices
    times = {
        "all-reduce": 2 * share,
        "all-gather": share,
        "all-to-all": share,
        "reduce-scatter": devices - 1.0,
        "collective-permute": 1.0,
    }
    return sum(times[operation] * size for operation, (_, size) in found.items())


# What is no work of its own, or is counted where it begins.
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all")
_PARTS = ("slice", "dynamic-slice", "gather")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z-]*)\((.*?)\)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")


class _Array(NamedTuple):
    size: int
    near: bool  # in a memory of the core's own, as TPU programs say by S(1)


def moved(text: str) -> float:
    """Count the bytes that a program reads from a device's main memory and writes to it, once run.

    Every operation reads its operands and writes its results, what it fuses stays inside. What lies
    in the core's own memory (VMEM, a TPU's memory space 1) is not counted, what is padded to whole
    tiles is counted as padded; loops as often as they run, once where the program does not say how
    often that is. Where an operation takes a part of an operand, the part.

    Args:
      text: The optimised HLO, `compiled.as_text()`.
    """
    computations, entry = _computations(text)
    known: dict[str, float] = {}

    def count(name: str) -> float:
        if name not in known:
            known[name] = 0.0  # a program does not call itself; its text may be cut
            known[name] = sum(of_line(line, found) for line, found in _lines(computations, name))
        return known[name]

    def of_line(line: str, found: dict[str, list[_Array]]) -> float:
        said = _LINE.match(line)
        assert said is not None
        name, _, operation, listed = said.groups()
        operands = [found.get(one, []) for one in re.findall(r"%([\w.-]+)", listed)]
        called = re.findall(r"(?:body|to_apply|calls|branch_computations)=\{?(%[^},]*)", line)
        inner = [one for names in called for one in re.findall(r"%([\w.-]+)", names)]
        if operation == "while":
            return (_turns(computations, line) or 1) * sum(map(count, inner))
        if operation in ("call", "conditional", "async-start"):
            return sum(map(count, inner))
        if operation in _FREE or operation.endswith("-done") or "ConcatBitcast" in line:
            return 0.0
        result = found[name]
        if operation in ("copy-start", "slice-start"):
            # What goes out and what comes in stand in the result, besides numbers for waiting.
            size = min((one.size for one in result if one.size > 16), default=0)
            away = [one for one in result if one.size > 16 and not one.near]
            return float(size * len(away[:2]))
        if operation == "fusion" and inner:
            reads, result = _of_fusion(computations, inner[0], operands, result)
        elif operation in _PARTS:
            reads = [_as_far(result, operands[0]), *operands[1:]]
        elif operation == "dynamic-update-slice":
            reads, result = operands[1:], _as_far(operands[1], result)
        else:
            reads = operands
        return float(sum(one.size for each in (*reads, result) for one in each if not one.near))

    return count(entry)


def multiplied(text: str) -> float:
    """Count the FLOP of a program's products of matrices and convolutions, once run.

    A multiplication and an addition are two. Loops count as often as they run, once where the
    program does not say how often that is (the compiler's own count has every loop once); where a
    convolution's window meets padding, or what is between dilated numbers, nothing is multiplied.

    Args:
      text: HLO, as of `compiled.as_text()`.
    """
    computations, entry = _computations(text)
    known: dict[str, float] = {}

    def count(name: str) -> float:
        if name in known:
            return known[name]
        known[name], total = 0.0, 0.0
        shapes: dict[str, list[int]] = {}
        for line in computations.get(name, ()):
            said = _LINE.match(line)
            if said is None:
                continue
            name_of_it, result, operation, listed = said.groups()
            shapes[name_of_it] = _dims(result)
            if operation in ("dot", "convolution"):
                operands = [shapes.get(one, []) for one in re.findall(r"%?([\w.-]+)", listed)]
                of_one = _of_dot if operation == "dot" else _of_convolution
                total += 2.0 * of_one(line, shapes[name_of_it], *operands[:2])
            called = re.findall(
                r"(?:body|to_apply|calls|branch_computations)=\{?(%?[^},\s]*)", line
            )
            turns = (_turns(computations, line) or 1) if operation == "while" else 1
            total += turns * sum(count(one.lstrip("%")) for one in called)
        known[name] = total
        return total

    return count(entry)


def _dims(result: str) -> list[int]:
    found = re.match(r"\w+\[([\d,]*)\]", result)
    return [int(side) for side in found[1].split(",") if side] if found else []


def _of_dot(line: str, result: list[int], left: list[int], _: list[int]) -> int:
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
    axes = [int(axis) for axis in summed[1].split(",") if axis] if summed else []
    return math.prod(result) * math.prod(left[axis] for axis in axes)


def _of_convolution(line: str, result: list[int], x: list[int], kernel: list[int]) -> int:
    """Multiplications: of a batch's images, channels that meet, and places that are there."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line)
    assert labels is not None
    of_x, of_kernel, of_result = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", line)
    said = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    places = 1
    for axis in range(sum(label.isdigit() for label in of_x)):
        one = {name: value.split("x")[axis] for name, value in said.items()}
        places *= _pairs(
            x[of_x.index(str(axis))],
            kernel[of_kernel.index(str(axis))],
            result[of_result.index(str(axis))],
            int(one.get("stride", 1)),
            int(re.match(r"-?\d+", one.get("pad", "0"))[0]),  # type: ignore[index]
            int(one.get("lhs_dilate", 1)),
            int(one.get("rhs_dilate", 1)),
        )
    groups = [
        int(found[1]) if (found := re.search(rf"{of}_group_count=(\d+)", line)) else 1
        for of in ("feature", "batch")
    ]
    images, channels = x[of_x.index("b")] // groups[1], x[of_x.index("f")] // groups[0]
    return images * channels * result[of_result.index("f")] * places


@functools.cache
def _pairs(size: int, kernel: int, out: int, stride: int, pad: int, base: int, apart: int) -> int:
    """Count (place of the kernel, place of the result) that meet a number along one axis."""
    # Of the kernel's every place: result o meets o stride + before, from `first` to `last`, where
    # that is a multiple of `base`, which every m-th o from o0 on makes it.
    before = np.arange(kernel) * apart - pad
    first = np.maximum(0, -(before // stride))
    last = np.minimum(out - 1, ((size - 1) * base - before) // stride)
    common = math.gcd(stride, base)
    m = base // common
    o0 = -before // common * pow(stride // common, -1, m) % m
    met = (last - o0) // m - (first - 1 - o0) // m
    return int(met[(before % common == 0) & (last >= first)].sum())


def _turns(computations: Mapping[str, list[str]], line: str) -> int | None:
    """How often a loop runs; None where nothing says.

    A TPU's programs leave the number out: it is what the loop's condition compares a counter with,
    which JAX's loops begin at 0.
    """
    if said := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
        return int(said[1])
    condition = re.search(r"condition=%?([\w.-]+)", line)
    inside = "\n".join(computations.get(condition[1], ())) if condition else ""
    limits = re.findall(r"%([\w.-]+) = s32\[\]\S* constant\((\d+)\)", inside)
    least = re.search(r"ROOT .* compare\(%[\w.-]+, %([\w.-]+)\), direction=LT", inside)
    return next((int(n) for name, n in limits if least and name == least[1]), None)


def _of_fusion(
    computations: Mapping[str, list[str]],
    name: str,
    operands: list[list[_Array]],
    result: list[_Array],
) -> tuple[list[list[_Array]], list[_Array]]:
    """Read and written by a fusion: of an operand that it cuts parts from, the parts."""
    lines = list(_lines(computations, name))
    places, uses = {}, dict[str, list[str]]()
    for line, _ in lines:
        said = _LINE.match(line)
        assert said is not None
        if said[3] == "parameter":
            places[said[1]] = int(said[4])
        for used in re.findall(r"%([\w.-]+)", said[4]):
            uses.setdefault(used, []).append(line)
    reads = list(operands)
    for parameter, place in places.items():
        parts = [_LINE.match(line) for line in uses.get(parameter, ())]
        if place >= len(reads) or not parts:
            continue
        cut = [said for said in parts if said and said[4].startswith("%" + parameter)]
        if len(cut) == len(parts) and all(said[3] in _PARTS for said in cut):
            reads[place] = [
                one for said in cut for one in _as_far(_sizes(said[2]), operands[place])
            ]
        elif len(cut) == len(parts) == 1 and cut[0][3] == "dynamic-update-slice":
            update = re.findall(r"%([\w.-]+)", cut[0][4])[1]
            written = next((f[update] for _, f in lines if update in f), [])
            reads[place] = []
            if len(result) == 1:
                result = _as_far(written, result)
    return reads, result


def _as_far(sizes: list[_Array], where: list[_Array]) -> list[_Array]:
    """Arrays of these sizes that lie where those others do."""
    near = bool(where) and all(one.near for one in where)
    return [one._replace(near=near) for one in sizes]


def _lines(
    computations: Mapping[str, list[str]], name: str
) -> Iterator[tuple[str, dict[str, list[_Array]]]]:
    """Each operation of a computation, and what all before and of it give."""
    found: dict[str, list[_Array]] = {}
    for line in computations.get(name, ()):
        if said := _LINE.match(line):
            found[said[1]] = _sizes(said[2])
            yield line, found


def _sizes(result: str) -> list[_Array]:
    """The arrays of a result, padded to whole tiles.

    Example:
      >>> _sizes("(bf16[4,3,200]{2,0,1:T(8,128)(2,1)}, f32[64]{0:T(128)S(1)}, f32[2,3])")
      [_Array(size=12288, near=False), _Array(size=512, near=True), _Array(size=24, near=False)]
    """
    found = []
    for kind, sides, layout in _ARRAY.findall(result):
        dims = [int(side) for side in sides.split(",") if side]
        order, _, about = layout.partition(":")
        fastest = [int(axis) for axis in order.split(",") if axis]
        if tile := re.match(r"T\(([\d,]+)\)", about):
            for axis, side in zip(fastest, reversed(tile[1].split(",")), strict=False):
                dims[axis] = -(-dims[axis] // int(side)) * int(side)
        found.append(_Array(_BYTES.get(kind, 0) * math.prod(dims), "S(1)" in about))
    return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Split a program into its computations, name -> lines; and name the one that is run."""
    computations: dict[str, list[str]] = {}
    entry = ""
    for block in re.split(r"\n(?=\S)", text):
        if head := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", block.split("\n")[0]):
            computations[head[2]] = block.split("\n")[1:]
            entry = head[2] if head[1] else entry
    return computations, entry


def _arrays(result: str) -> list[int]:
    return [
        _BYTES.get(kind, 0) * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result)
    ]


def _bytes(result: str) -> int:
    return sum(_arrays(result))


def _largest(result: str) -> int:
    return max(_arrays(result), default=0)
