"""Pack a folder of class folders: every image decoded and resized once, into one file.

`python scripts/pack_images.py --data-dir FOLDER --out x.array_record --image-size 64`

Then `--data-dir x.array_record` gives a program the images of the folder at that size. The same
command after a kill goes on with the parts that are whole; the file appears when all of it is
written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from experiments import cli
from jaxssl.errors import InputError

PART = 1024  # images; a kill costs those of one part


@dataclasses.dataclass(frozen=True)
class Pack:
    """Where from, where to, and what images are made into."""

    data_dir: str
    """A folder of class folders."""
    out: str
    """The file to write; it ends in .array_record."""
    image_size: int = 64
    """Side in pixels to which images are resized."""
    color: Literal["rgb", "grey"] = "grey"
    """Channels."""
    fit: Literal["squash", "pad"] = "squash"
    """squash: to a square whatever the shape; pad: keep the shape, fill up."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """fail: stop and list the unreadable images; skip: leave them out, and say so in the file."""
    classes: tuple[str, ...] = ()
    """Class folders to pack; all where none is named."""


def main(config: Pack) -> None:
    """List, decode part by part, write."""
    from jaxssl.data.folder import list_folder, readable
    from jaxssl.data.packed import EXTENSION, FORMAT

    out = Path(config.out).expanduser().absolute()
    if out.suffix != EXTENSION or out.exists():
        raise InputError(
            f"--out {config.out}: "
            + ("is there already; remove it" if out.exists() else f"must end in {EXTENSION}")
        )
    if config.image_size < 1:
        raise InputError(f"--image-size is {config.image_size}: it must be at least 1")
    begin = time.perf_counter()
    top, classes, found = list_folder(config.data_dir, config.classes or None)
    settings = {
        "size": config.image_size,
        "channels": 1 if config.color == "grey" else 3,
        "fill": 255,
        "fit": config.fit,
    }
    parts = out.with_name(f".{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        names = _decode(found.files, settings, parts)
        verdicts = [verdict for name in names for verdict in _verdicts(parts / name)]
        reasons = [reason for _, reason in verdicts]
        listed = dict(found.unreadable)  # names and folders that could not even be opened
        good = readable(top, classes, found, reasons, config.on_bad_image)
        table = {
            "format": FORMAT,
            "settings": settings,
            "classes": classes,
            "ids": [file.id for file in found.files],
            "paths": [file.path for file in found.files],
            "sha256": [sha256 for sha256, _ in verdicts],
            "reasons": reasons,
            "unreadable": listed,
            "other_files": found.other_files,
            "warnings": found.warnings,
        }
        _write(out, parts, names, table)
        shutil.rmtree(parts)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    took = time.perf_counter() - begin
    left_out = f", {len(found.unreadable)} left out" if found.unreadable else ""
    print(
        f"{out}: {len(good):,} images of {len(classes)} classes{left_out}, "
        f"{out.stat().st_size / 1e6:,.0f} MB in {took:.0f} s"
    )


def _decode(files: list[Any], settings: dict[str, Any], parts: Path) -> list[str]:
    """Every part as a file that is whole; its name says what is in it, so that a part of files
    that changed since, or of other settings, is made again."""
    from jaxssl.data.scan import DECODER, examine, hash_of
    from jaxssl.files import atomic

    names, begin, decoded = [], time.perf_counter(), 0
    with tqdm(total=len(files), unit="image", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(files), PART):
            part = files[start : start + PART]
            name = f"{hash_of([DECODER, settings, [[f.id, *f.stamp] for f in part]])[:32]}.npz"
            if not (parts / name).exists():
                verdicts: list[list[str]] = []
                pixels, lasting = [], True
                for _, (verdict, image) in examine(part, range(len(part)), settings, None):
                    lasting &= verdict.lasting
                    verdicts.append([verdict.sha256, verdict.reason])
                    pixels += [] if verdict.reason else [image]
                    bar.update()
                if not lasting:
                    name = f"again-{name}"  # for this once: the next command asks again
                with atomic(parts / name) as file:
                    shape = (0, settings["size"], settings["size"], settings["channels"])
                    np.savez(
                        file,
                        verdicts=np.frombuffer(json.dumps(verdicts).encode(), np.uint8),
                        pixels=np.stack(pixels) if pixels else np.empty(shape, np.uint8),
                    )
                decoded += len(part)
            else:
                bar.update(len(part))
            names.append(name)
            if bar.disable and decoded:
                done, rate = start + len(part), decoded / (time.perf_counter() - begin)
                left = (len(files) - done) / rate
                print(
                    f"{done:,} of {len(files):,} images, {rate:,.0f} images/s, {left:,.0f} s left",
                    flush=True,
                )
    return names


def _verdicts(part: Path) -> list[list[str]]:
    with np.load(part) as arrays:
        return json.loads(arrays["verdicts"].tobytes())


def _write(out: Path, parts: Path, names: list[str], table: dict[str, Any]) -> None:
    """One record an image, compressed a little and alone, so that any of them is read by itself."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = parts / "whole.tmp"  # what a kill leaves of it goes with the parts
    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1,zstd:1")
        for name in names:
            with np.load(parts / name) as arrays:
                for image in arrays["pixels"]:
                    writer.write(image.tobytes())
        writer.write(json.dumps(table).encode())
        writer.close()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except RuntimeError as error:  # a full disk, in the writer's words
        raise InputError(f"cannot write {out}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main, {"pack": Pack(data_dir=tyro.MISSING, out=tyro.MISSING)})
