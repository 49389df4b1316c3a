"""Mutated files through every reader of foreign bytes, each reader in a child with limits.

A reader may return anything or raise `InputError` with one line of at most 300 characters beside
the path. Another exception, a longer line, more memory or time than the bounds of docs/SECURITY.md,
or a child that dies is a fault; the number of the mutation makes it again:

`python scripts/_fuzz.py READER FIRST SECONDS MOST`; all the readers in one child: `all`.
`python scripts/_fuzz.py corpus FOLDER` writes the valid files that the mutations begin with.

With `properties` before the reader, hypothesis draws the files instead (scripts/_drawn.py): MOST of
each, the same each time, or others for SECONDS of the processor where MOST is 0.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from _damages import limited  # noqa: E402

from jaxssl.errors import InputError, visible  # noqa: E402

MEMORY = 1536 * 2**20  # bytes beside what the imports take
SECONDS = 20  # of a file of some kB, on a busy machine
LONGEST = 300

Read = Callable[[Path], Any]


# ------------------------------------------------------------------------------------- small files


def _pickle(tensors: int = 2) -> bytes:
    """Write what torch.save pickles of a state dict, without torch."""
    body = b"\x80\x02ccollections\nOrderedDict\n)R("
    for i in range(tensors):
        name, key = f"layer{i}.weight".encode(), str(i).encode()
        body += b"X" + len(name).to_bytes(4, "little") + name
        body += (
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        )
        body += b"X" + len(key).to_bytes(4, "little") + key + b"X\x03\x00\x00\x00cpuK\x06tQ"
        body += b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
    return body + b"u."


def _zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


def _pth(pickled: bytes | None = None) -> bytes:
    data = np.arange(6, dtype="<f4").tobytes()
    return _zipped({"a/data.pkl": pickled or _pickle(), "a/data/0": data, "a/data/1": data})


def _legacy() -> bytes:
    from jaxssl.models.torch_files import LEGACY_START

    system = b"\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u."
    keys = b"\x80\x02](X\x01\x00\x00\x000X\x01\x00\x00\x001e."
    storage = (6).to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes()
    return LEGACY_START + system + _pickle() + keys + 2 * storage


def _safetensors(header: bytes | None = None) -> bytes:
    entries = {
        name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [24 * i, 24 * i + 24]}
        for i, name in enumerate("ab")
    }
    header = header or json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(48)


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("train/cat/0.png", "test/" + "long" * 40 + "/1.png"):
            info = tarfile.TarInfo(name)
            info.size = 300
            tar.addfile(info, io.BytesIO(bytes(300)))
    return out.getvalue()


def _zip() -> bytes:
    return _zipped({"a/0.png": _image("PNG")(), "b/": b""}, zipfile.ZIP_DEFLATED)


def _batch() -> bytes:
    """Write a batch of two images as Python 2 pickled it."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNK\x00K\x00K\x00tb"
    content = b"T" + (6144).to_bytes(4, "little") + bytes(6144)
    data = array + b"(K\x01K\x02M\x00\x0c\x86" + kind + b"\x89" + content + b"tb"
    return b"\x80\x02}(U\x04data" + data + b"U\x06labels](K\x01K\x02eu."


def _image(kind: str, mode: str = "RGB") -> Callable[[], bytes]:
    def make() -> bytes:
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, kind)
        return out.getvalue()

    return make


def _labels() -> bytes:
    return "".join(f"img_{i}.png\tclass {i % 3}\t0.{i}\n" for i in range(40)).encode()


def _csv() -> bytes:
    return b'path,label,note\n"a, b.png",cat,"x\ny"\nc.png,dog,\xe9\n' * 20


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    columns = {"path": [f"{i}.png" for i in range(30)], "label": ["a", None, "b"] * 10}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "x": list(range(30))}), out)
    return out.getvalue()


def _embeddings() -> bytes:
    from jaxssl.analysis.embeddings import Embeddings, save

    names = tuple(f"{i}.png" for i in range(20))
    table = Embeddings(np.eye(20), names, names, ("a",) * 20, np.zeros(20, int), ("test",) * 20)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "x.parquet"), table)
        return Path(folder, "x.parquet").read_bytes()


def _record() -> bytes:
    from jaxssl.files import write_record

    with tempfile.TemporaryDirectory() as folder:
        config = {"seed": 0, "classes": ["a", "b"], "rate": 0.1, "nested": {"x": [1, 2, None]}}
        record = {"format": 2, "study": "s", "dataset": "d", "config": config, "recipe": {}}
        write_record(Path(folder, "config.json"), record)
        return Path(folder, "config.json").read_bytes()


def _metrics() -> bytes:
    from jaxssl.files import line_of

    rows = [{"step": i, "split": "train", "loss": 1 / (1 + i)} for i in range(20)]
    return "".join(map(line_of, rows)).encode()


def _manifest() -> bytes:
    from jaxssl.training.checkpoint import MANIFEST, write_manifest

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.bin").write_bytes(bytes(100))
        write_manifest(Path(folder), {"score": 0.5, "lines": 12})
        return Path(folder, MANIFEST).read_bytes()


def _pages() -> bytes:
    """Write a TIFF of three pages."""
    from PIL import Image

    pages = [Image.fromarray(np.full((9, 12), 60 * i, np.uint8)) for i in range(3)]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    return out.getvalue()


def _adc() -> bytes:
    """Write what an IFCB says of the images in a .roi, in its newer form."""
    row = [str(i) for i in range(15)]
    rows = [[*row, str(8 + i), "6", str(i * 60)] for i in range(5)]
    return "\n".join(",".join(row) for row in [*rows, [*row, "0", "0", "0"]]).encode()


def _lst() -> bytes:
    """Write what a FlowCam says of the images in a collage."""
    columns = ["id|int", "collage_file|str", "image_x|int", "image_y|int", "image_w|int"]
    rows = [f"{i}|run_000001.png|{4 * i}|2|4|5" for i in range(5)]
    return "\n".join(["015", *columns, "image_h|int", *rows]).encode()


def _own_labels() -> bytes:
    return b"path,label\n" + b"".join(b"a/%d.png,class %d\n" % (i, i % 3) for i in range(30))


def _results() -> bytes:
    from jaxssl.analysis.results import Embedded, ImageCounts, LabelRow, Results

    sets = {"test": ImageCounts(9, {"a": 4, "b": 5})}
    curve = (LabelRow("test", "h", "svc", 10, 0.5, 0.4, 0.6, 2),)
    found = Results(Embedded("h", "angular", 64), sets, label_efficiency=curve)
    with tempfile.TemporaryDirectory() as folder:
        found.write(Path(folder, "results.json"))
        return Path(folder, "results.json").read_bytes()


def _linear() -> bytes:
    rows = [{"embedding": name, "linear": {"top": {"1": 0.5}}} for name in ("h", "untrained")]
    return json.dumps({"rows": rows}).encode()


def _run() -> bytes:
    """Write the config.json of a run as its program does, but for what it notes besides."""
    import dataclasses

    from experiments import simclr

    config = dataclasses.asdict(simclr.PRESETS["digits"])
    outline = {"classes": ["0"], "shape": [16, 16, 1], "steps_per_epoch": 9, "total_steps": 90}
    record = {"format": 2, "study": "SimCLR", "program": "simclr", "dataset": "digits"}
    return json.dumps({**record, "config": config, "recipe": {}, "outline": outline}).encode()


def _cached_pixels() -> bytes:
    from jaxssl.files import add_checksum

    out = io.BytesIO()
    np.lib.format.write_array(out, np.zeros((4, 8, 8, 1), np.uint8))
    add_checksum(out)
    return out.getvalue()


def _resealed(content: bytes) -> bytes:
    """Give changed pixels a checksum that fits, as who made them would."""
    from jaxssl.files import add_checksum

    out = io.BytesIO(content[:-8])
    out.seek(0, io.SEEK_END)
    add_checksum(out)
    return out.getvalue()


def _resealed_json(content: bytes) -> bytes:
    """Give a changed record a checksum that fits, as who made it would."""
    from jaxssl.files import SEAL, _seal_of

    try:
        value = json.loads(content)
        value.pop(SEAL, None)
        return json.dumps(value | {SEAL: _seal_of(value)}).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return content


# ----------------------------------------------------------------------------------------- readers


def _weights(path: Path) -> Any:
    from jaxssl.models.weight_files import read_weights

    return {name: array.sum() for name, array in read_weights(path).items()}


def _archive(path: Path) -> Any:
    from jaxssl.data.cifar_archive import read_files

    return read_files(path)


def _cifar_batch(path: Path) -> Any:
    from jaxssl.data.cifar_kinds import KINDS
    from jaxssl.data.cifar_source import _python_batch

    return _python_batch(KINDS["cifar10"], str(path), path.read_bytes())


def _table(path: Path) -> Any:
    from jaxssl.data.source import Source
    from jaxssl.data.tables import read_table
    from jaxssl.data.walk import ImageFile

    return read_table(ImageFile(path.name, Source(str(path)), (0, 0)))


def _folder_of_zip(path: Path) -> Any:
    from jaxssl.data.walk import walk

    return _decoded(walk(str(path), follow_links=False).files, path)


def _pixels(path: Path) -> Any:
    from jaxssl.data.decode import decode

    return decode(path, size=16, channels=3)


def _table_of_embeddings(path: Path) -> Any:
    from jaxssl.analysis.embeddings import load

    return load(path)


def _run_record(path: Path) -> Any:
    from jaxssl.files import read_record

    return read_record(path.parent)


def _run_metrics(path: Path) -> Any:
    from jaxssl.files import read_lines

    return read_lines(path)


def _checkpoint_manifest(path: Path) -> Any:
    from jaxssl.training.checkpoint import damage, read_manifest

    damage(path.parent)
    return read_manifest(path.parent)


def _stack(path: Path) -> Any:
    from jaxssl.data.source import Source
    from jaxssl.data.stacks import read_pages
    from jaxssl.data.walk import Found, ImageFile

    found = Found(str(path.parent))
    found.files = [ImageFile(path.name, Source(str(path)), (0, 0))]
    read_pages(found, path.parent / "cache", pages="all")
    return _decoded(found.files[:20], path)


def _ifcb(path: Path) -> Any:
    from jaxssl.data.ifcb import read_rois
    from jaxssl.data.source import Source
    from jaxssl.data.walk import Found, ImageFile

    roi = path.with_suffix(".roi")
    roi.write_bytes(bytes(400))
    found = Found(str(path.parent))
    for file in (path, roi):
        found.other[file.name] = ImageFile(file.name, Source(str(file)), (0, 0))
    read_rois(found)
    return _decoded(found.files, path)


def _flowcam(path: Path) -> Any:
    from jaxssl.data.flowcam import read_collages
    from jaxssl.data.source import Source
    from jaxssl.data.walk import Found, ImageFile

    sheet = path.with_name("run_000001.png")
    sheet.write_bytes(_image("PNG")())
    found = Found(str(path.parent))
    found.files = [ImageFile(sheet.name, Source(str(sheet)), (0, 0))]
    found.other[path.name] = ImageFile(path.name, Source(str(path)), (0, 0))
    read_collages(found)
    return _decoded(found.files, sheet)


def _decoded(files: list[Any], path: Path) -> list[Any]:
    from jaxssl.data.decode import UnreadableImage, decode

    for file in files:
        try:
            decode(file.source, size=16, channels=1)
        except UnreadableImage as error:
            roi = path.with_suffix(".roi")
            if fault := _fault_of(str(error).replace(str(roi), ""), path):
                raise AssertionError(fault) from error
    return files


def _label_table(path: Path) -> Any:
    from jaxssl.analysis.label_table import LabelTable

    return LabelTable(path, ["a/0.png"])


def _run_results(path: Path) -> Any:
    from jaxssl.analysis.results import Results

    return Results.read(path)


def _linear_results(path: Path) -> Any:
    from jaxssl.analysis.run import linear_evaluation

    (path.parent / "linear_eval").mkdir(exist_ok=True)
    path.replace(path.parent / "linear_eval" / path.name)
    return linear_evaluation(path.parent)


def _pixel_cache(path: Path) -> Any:
    from jaxssl.data.scan import _read_pixels

    found = _read_pixels(path, (4, 8, 8, 1))
    return None if found is None else found.sum()


def _open_run(path: Path) -> Any:
    from experiments import finished

    return finished.open(str(path.parent))


def _as_is(content: bytes) -> bytes:
    return content


# Name: (file name, small valid content, what is put around a mutated one, reader).
TARGETS: dict[str, tuple[str, Callable[[], bytes], Callable[[bytes], bytes], Read]] = {
    "pth": ("x.pth", _pth, _as_is, _weights),
    "pth, pickle": ("x.pth", _pickle, _pth, _weights),
    "pth, legacy": ("x.pth", _legacy, _as_is, _weights),
    "safetensors": ("x.safetensors", _safetensors, _as_is, _weights),
    "safetensors, header": ("x.st", lambda: _safetensors()[8:-48], _safetensors, _weights),
    "tar": ("x.tar", _tar, _as_is, _archive),
    "tar.gz": ("x.tar.gz", lambda: gzip.compress(_tar()), _as_is, _archive),
    "tar.gz, tar": ("x.tar.gz", _tar, gzip.compress, _archive),
    "Parquet": ("x.parquet", _parquet, _as_is, _table),
    "TSV": ("x.tsv", _labels, _as_is, _table),
    "CSV": ("x.csv", _csv, _as_is, _table),
    "CSV.gz": ("x.csv.gz", lambda: gzip.compress(_csv()), _as_is, _table),
    "zip": ("x.zip", _zip, _as_is, _folder_of_zip),
    "CIFAR batch": ("x", _batch, _as_is, _cifar_batch),
    "PNG": ("x.png", _image("PNG"), _as_is, _pixels),
    "JPEG": ("x.jpg", _image("JPEG"), _as_is, _pixels),
    "TIFF": ("x.tif", _image("TIFF"), _as_is, _pixels),
    "GIF": ("x.gif", _image("GIF"), _as_is, _pixels),
    "WEBP": ("x.webp", _image("WEBP"), _as_is, _pixels),
    "BMP": ("x.bmp", _image("BMP"), _as_is, _pixels),
    "embeddings": ("x.parquet", _embeddings, _as_is, _table_of_embeddings),
    "config.json": ("config.json", _record, _as_is, _run_record),
    "metrics.jsonl": ("metrics.jsonl", _metrics, _as_is, _run_metrics),
    "MANIFEST.json": ("MANIFEST.json", _manifest, _as_is, _checkpoint_manifest),
    "MANIFEST.json, sealed": ("MANIFEST.json", _manifest, _resealed_json, _checkpoint_manifest),
    "config.json, sealed": ("config.json", _record, _resealed_json, _run_record),
    "a run, sealed": ("config.json", _run, _resealed_json, _open_run),
    "results.json": ("results.json", _results, _resealed_json, _run_results),
    "linear evaluation": ("results.json", _linear, _resealed_json, _linear_results),
    "cached pixels": ("x.npy", _cached_pixels, _as_is, _pixel_cache),
    "cached pixels, sealed": ("x.npy", _cached_pixels, _resealed, _pixel_cache),
    "TIFF of pages": ("x.tif", _pages, _as_is, _stack),
    "IFCB": ("D20130526T095207_IFCB013.adc", _adc, _as_is, _ifcb),
    "FlowCam": ("run.lst", _lst, _as_is, _flowcam),
    "labels.csv": ("labels.csv", _own_labels, _as_is, _label_table),
}  # fmt: skip


def mutated(content: bytes, number: int) -> bytes:
    """Change a few places of a file; the same number gives the same change."""
    rng = np.random.default_rng(number)
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(changed) + 1))
        if rng.random() < 0.4:  # headers and ends say the most
            at = int(rng.choice([min(at, 64), max(0, len(changed) - 64)]))
        length = int(rng.choice([1, 2, 4, 8, 40]))
        match int(rng.integers(6)):
            case 0:
                changed[at : at + 1] = bytes([rng.integers(256)])
            case 1:
                if changed:
                    changed[at % len(changed)] ^= 1 << int(rng.integers(8))
            case 2:
                values = [b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"[", b"("]
                changed[at : at + length] = values[int(rng.integers(len(values)))] * length
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * int(rng.choice([1, 2, 50]))
            case 5:
                if rng.random() < 0.3:
                    del changed[at:]
    return bytes(changed)


def _fault_of(line: str, path: Path) -> str:
    short = line.replace(str(path), "").replace(str(path.parent), "")
    wrong = len(short) > LONGEST or visible(line) != line
    return f"no single short line: {line[:400]!r}" if wrong else ""


def main(targets: list[str], first: int, seconds: float, most: int, *, drawn: bool) -> None:
    """Change each kind of file for so long; print JSON: where it is, faults, the end."""
    with tempfile.TemporaryDirectory(prefix="jaxssl-fuzz-") as folder:
        for target in targets:
            name, make, wrap, read = TARGETS[target]
            path = Path(folder, name)
            path.write_bytes(wrap(make()))
            read(path)  # the file as it is can be read; all is imported
        if drawn:
            _wake()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        warnings.simplefilter("ignore")  # Pillow's, of damaged images
        for target in targets:
            if drawn:
                _draw(target, Path(folder), seconds / len(targets), most)
            else:
                _mutate(target, Path(folder), range(first, first + most), seconds / len(targets))


def _mutate(target: str, folder: Path, numbers: range, seconds: float) -> None:
    content, begin = TARGETS[target][1](), time.monotonic()
    done = refused = 0
    for number in numbers:
        if time.monotonic() - begin > seconds:
            break
        if number % 50 == 0:
            print(json.dumps({"at": number}), flush=True)
        fault, was_refused = _read(target, folder, mutated(content, number))
        refused += was_refused
        if fault:
            print(json.dumps({"fault": f"{target} {number}: {fault}"}), flush=True)
        done += 1
    print(json.dumps({"target": target, "done": done, "refused": refused}), flush=True)


def _wake() -> None:
    """Let hypothesis look for constants in every module, as it does at its first number.

    It wakes those that are imported when they are needed: 2 s of the processor, no reader's.
    """
    import hypothesis

    few = hypothesis.settings(max_examples=5, database=None)
    few(hypothesis.given(hypothesis.strategies.integers())(lambda number: None))()


def _draw(target: str, folder: Path, seconds: float, most: int) -> None:
    import _drawn
    import hypothesis

    begin, done, refused = time.process_time(), 0, 0
    limits = hypothesis.settings(
        max_examples=most or 10**6,
        derandomize=most > 0,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @limits
    @hypothesis.given(_drawn.files(target, TARGETS[target][1]()))
    def check(content: bytes) -> None:
        nonlocal done, refused
        if not most and time.process_time() - begin > seconds:
            raise _Enough
        fault, was_refused = _read(target, folder, content)
        done += 1
        refused += was_refused
        assert not fault, f"{fault} of {content[:300]!r}"

    try:
        check()
    except _Enough:
        pass
    except BaseException as error:  # the smallest file that hypothesis found
        print(json.dumps({"fault": f"{target}: {str(error)[:2000]}"}), flush=True)
    print(json.dumps({"target": target, "done": done, "refused": refused}), flush=True)


class _Enough(BaseException):
    """The seconds are over; hypothesis passes it on."""


def _read(target: str, folder: Path, content: bytes) -> tuple[str, bool]:
    """Let the reader read a file; return what is wrong with what it did, and whether it refused."""
    name, _, wrap, read = TARGETS[target]
    path = folder / name
    path.write_bytes(wrap(content))
    try:
        with limited(SECONDS):
            read(path)
    except InputError as error:
        return _fault_of(str(error), path), True
    except BaseException as error:
        return "".join(traceback.format_exception(error)[-3:]), False
    return "", False


def corpus(folder: Path) -> None:
    """Write the valid file of each kind, each in a folder of its own."""
    for target, (name, make, wrap, _) in TARGETS.items():
        place = folder / target.replace(", ", "-").replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(wrap(make()))
        (place / "target.txt").write_text(target)


def fuzz(
    seconds: float, *, first: int = 0, most: int = 10**9, drawn: bool = False
) -> dict[str, Any]:
    """Change every kind of file, each in a child process, `seconds` in all."""
    each = seconds / len(TARGETS)
    how = ["properties"] if drawn else []
    found: dict[str, Any] = {"mutations": {}, "refused": {}, "faults": []}
    for target in TARGETS:
        numbers = [str(first), str(each), str(0 if drawn else most)]
        command = [sys.executable, __file__, *how, target, *numbers]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=each + 1200, check=False
            )
            out, err, code = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as late:
            out, err, code = str(late.stdout or b"", "utf-8"), "never ends", -1
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        faults = [line["fault"] for line in lines if "fault" in line]
        found["faults"] += [*faults[:3], *([f"{target}: {len(faults)} faults"] if faults else ())]
        ends = [line for line in lines if "done" in line]
        if ends:
            found["mutations"][target] = ends[0]["done"]
            found["refused"][target] = ends[0]["refused"]
        if code or not ends:
            at = [line["at"] for line in lines if "at" in line][-1:]
            found["faults"].append(f"{target}: the child died ({code}) after {at}: {err[-600:]}")
    found["total"] = sum(found["mutations"].values())
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "corpus":
        corpus(Path(arguments[1]))
    else:
        properties = arguments[0] == "properties"
        who, start, long, many = arguments[properties:]
        asked = list(TARGETS) if who == "all" else [who]
        main(asked, int(start), float(long), int(many), drawn=properties)
