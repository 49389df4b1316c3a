"""Pack the images of any place: every one decoded and resized once, into one file.

`python scripts/pack_images.py --data-dir FOLDER --out x.array_record --image-size 64`

Then `--data-dir x.array_record` gives a program the same images at that size. The same
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
from collections.abc import Callable, Iterator
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
    """What holds the images: a folder, a zip, a table."""
    out: str
    """The file to write; it ends in .array_record."""
    image_size: int = 64
    """Side in pixels to which images are resized."""
    color: Literal["rgb", "grey"] = "grey"
    """Channels."""
    fit: Literal["squash", "pad"] = "squash"
    """squash: to a square whatever the shape; pad: keep the shape, fill up."""
    background: int | Literal["auto"] = "auto"
    """Grey around what is shown, 0 to 255; auto: the median of the images' borders."""
    crop_bottom: int | Literal["auto"] = 0
    """Rows to take off under every picture; auto finds a scale bar or caption they share."""
    labels_from: str = "auto"
    """auto (a table beside the images, else folders), folders, none, or a table."""
    follow_links: bool = False
    """Follow links to folders."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """fail: stop and list the unreadable images; skip: leave them out, and say so in the file."""
    classes: tuple[str, ...] = ()
    """Class folders to pack; all where none is named."""


def main(config: Pack) -> None:
    """List, decode part by part, write."""
    from jaxssl.data import Reading
    from jaxssl.data.assemble import find_crop, readable
    from jaxssl.data.look import Look, look_of
    from jaxssl.data.opening import list_images
    from jaxssl.data.packed import table_of
    from jaxssl.data.reading import PACKED

    out = Path(config.out).expanduser().absolute()
    if out.suffix != PACKED or out.exists():
        raise InputError(
            f"--out {config.out}: "
            + ("is there already; remove it" if out.exists() else f"must end in {PACKED}")
        )
    if config.image_size < 1:
        raise InputError(f"--image-size is {config.image_size}: it must be at least 1")
    begin = time.perf_counter()
    reading = Reading(
        size=config.image_size,
        channels=1 if config.color == "grey" else 3,
        fit=config.fit,
        background=config.background,
        crop_bottom=config.crop_bottom,
        on_bad_image=config.on_bad_image,
        classes=config.classes or None,
        labels_from=config.labels_from,
        follow_links=config.follow_links,
    )
    found = list_images(config.data_dir, reading)
    crop = find_crop(found, reading.crop_bottom)
    first = Look(crop_bottom=crop)
    parts = out.with_name(f".{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        names = _decode(found.files, reading.settings() | first.settings(), parts)
        verdicts = [verdict for name in names for verdict in _verdicts(parts / name)]
        look = look_of(verdicts, background=reading.background, crop_bottom=crop)
        table = table_of(found, verdicts, look, reading)
        again = [i for i, verdict in enumerate(verdicts) if look.changes(verdict, first)]
        good = readable(found, verdicts, reading)
        settings = reading.settings() | look.settings()
        _write(out, parts, names, table, lambda: _redone(found.files, again, settings))
        shutil.rmtree(parts)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    took = time.perf_counter() - begin
    left_out = f", {len(found.unreadable)} left out" if found.unreadable else ""
    print(
        f"{out}: {len(good):,} images of {len(found.classes)} classes{left_out}, "
        f"{out.stat().st_size / 1e6:,.0f} MB in {took:.0f} s"
    )


def _redone(files: list[Any], again: list[int], settings: dict[str, Any]) -> Iterator[Any]:
    """Yield (position, pixels) of images whose pixels follow from what the whole set shares."""
    from jaxssl.data.scan import examine

    for i, (_, image) in examine(files, again, settings, None):
        yield i, image


def _decode(files: list[Any], settings: dict[str, Any], parts: Path) -> list[str]:
    """Decode the images part by part, each part into a file that is whole or absent.

    A part's name is a hash of its files and settings, so it is made again when they change.
    """
    from jaxssl.data.scan import DECODER, examine, hash_of, key_of
    from jaxssl.files import atomic

    names, begin, decoded = [], time.perf_counter(), 0
    with tqdm(total=len(files), unit="image", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(files), PART):
            part = files[start : start + PART]
            name = f"{hash_of([DECODER, settings, [[f.id, key_of(f)] for f in part]])[:32]}.npz"
            if not (parts / name).exists():
                verdicts: list[list[Any]] = []
                pixels, lasting = [], True
                for _, (verdict, image) in examine(part, range(len(part)), settings, None):
                    lasting &= verdict.lasting
                    verdicts.append([*dataclasses.astuple(verdict)])
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


def _verdicts(part: Path) -> list[Any]:
    from jaxssl.data.look import Verdict

    with np.load(part) as arrays:
        return [Verdict(*verdict) for verdict in json.loads(arrays["verdicts"].tobytes())]


def _write(
    out: Path,
    parts: Path,
    names: list[str],
    table: dict[str, Any],
    redone: Callable[[], Iterator[Any]],
) -> None:
    """Write one record an image, compressed a little and alone, so that each is read by itself."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = parts / "whole.tmp"  # what a kill leaves of it goes with the parts
    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1,zstd:1")
        replaced = redone()
        at, pixels = next(replaced, (-1, None))
        for number, image in _good(parts, names):
            if number == at:
                image = pixels
                at, pixels = next(replaced, (-1, None))
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


def _good(parts: Path, names: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (position among all files, pixels) of the images that can be read."""
    number = 0
    for name in names:
        verdicts = _verdicts(parts / name)
        with np.load(parts / name) as arrays:
            pixels = iter(arrays["pixels"])
            for verdict in verdicts:
                if not verdict.reason:
                    yield number, next(pixels)
                number += 1


if __name__ == "__main__":
    cli.run(main, {"pack": Pack(data_dir=tyro.MISSING, out=tyro.MISSING)})
