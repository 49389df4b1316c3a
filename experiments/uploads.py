"""Files that were uploaded in a page, made one zip of images: the notebook's `IMAGES = "upload"`.

`python -m experiments.uploads FOLDER ZIP` takes all that lies in FOLDER: zips, as if all of them
were unpacked into one folder, images, tables of labels. ZIP is written only where every image in it
can be read (with `--on-bad-image skip`: any), so that a bad upload leaves nothing behind. Further
flags of a study may stand beside it, and are not looked at.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from experiments import cli
from jaxssl import files
from jaxssl.errors import InputError, visible

_CLOSED = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


def join(folder: Path, into: Path, *, on_bad_image: Literal["fail", "skip"] = "fail") -> str:
    """Make one zip of what was uploaded, once its images have been read.

    Args:
      folder: What was uploaded, each file under its own name.
      into: The zip. One that is uploaded alone is copied as it is.
      on_bad_image: fail: every image must be readable; skip: any.

    Returns:
      What it holds, in one line.

    Raises:
      InputError: Nothing was uploaded, a file is damaged or an archive that is not opened, two
        files of one name differ, or no image is there that can be read. `into` is as it was.
    """
    from jaxssl.data import Reading, open_images

    folder = folder.resolve()
    uploaded = sorted(path.name for path in folder.iterdir())
    if not uploaded:
        raise InputError("nothing was uploaded: choose a zip of images, or images")
    with tempfile.TemporaryDirectory() as temporary:
        beside = Path(temporary).resolve()
        try:
            made = folder / uploaded[0]
            if len(uploaded) > 1 or not _is_zip(uploaded[0]):
                made = beside / into.name
                _write(folder, made)
            # As small as can be: here is asked only whether they can be read.
            reading = Reading(8, labels_from="none", on_bad_image=on_bad_image, cache_dir=beside)
            images, _ = open_images(made, reading)
        except InputError as error:
            # The folders are this process's own: whoever uploaded knows the names alone.
            names = str(error).replace(f"{folder}/", "").replace(f"{beside}/", "")
            raise InputError(names) from error
        into.parent.mkdir(parents=True, exist_ok=True)
        with open(made, "rb") as whole, files.atomic(into) as out:
            shutil.copyfileobj(whole, out, 2**20)
    return f"{into}: {len(images):,} images of {', '.join(uploaded[:5])}" + (
        f" and {len(uploaded) - 5:,} more files" if len(uploaded) > 5 else ""
    )


def _write(folder: Path, made: Path) -> None:
    """Write the files of a folder into a zip, of zips what they hold; of equal files one."""
    there: dict[str, tuple[int, str]] = {}  # name -> checksum, and where it came from
    with zipfile.ZipFile(made, "w") as out:
        for name, origin, content in _contents(folder):
            checksum = zlib.crc32(content)
            before, first = there.setdefault(name, (checksum, origin))
            if before != checksum:
                raise InputError(
                    f"{first} and {origin} both hold {name!r:.100}, and the two differ: rename "
                    "one, or put each into a folder of its own"
                )
            if first == origin:
                out.writestr(name, content)


def _contents(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Give name, uploaded file and content of everything, one file in memory at a time."""
    from jaxssl.data import tables
    from jaxssl.data.layout import base_of
    from jaxssl.data.reading import PACKED
    from jaxssl.data.walk import read_bytes, walk

    for path in sorted(folder.iterdir()):
        name = path.name
        if _is_zip(name):
            inside = walk(str(path), follow_links=False)
            for id_, reason in inside.unreadable.items():
                raise InputError(f"{name}: {id_!r:.100} cannot be read: {reason}")
            said = [f"{id_!r:.100} is left out: {why}" for id_, why in inside.left_out.items()]
            for line in [*said, *inside.warnings]:
                print(f"{name}: {visible(line)}")
            # A folder that holds all others is passed through, as in a zip that comes alone.
            base = base_of(inside, set())
            for member in [*inside.files, *inside.other.values()]:
                yield member.id.removeprefix(base), name, read_bytes(member)
        elif name.lower().endswith(_CLOSED) and not tables.is_table(name):
            raise InputError(f"{name} is an archive that is not opened: make a zip of it")
        elif name.endswith(PACKED):
            raise InputError(f"{name} holds packed images: upload the images, or name its place")
        else:
            yield name, name, path.read_bytes()


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def main(arguments: list[str]) -> None:
    """Read the two paths and the one flag; say what was made."""
    parser = argparse.ArgumentParser(prog="uploads", add_help=False, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("zip", type=Path)
    parser.add_argument("--on-bad-image", "--on_bad_image", default="fail")
    given, _ = parser.parse_known_args(arguments)
    skip = given.on_bad_image == "skip"
    print(join(given.folder, given.zip, on_bad_image="skip" if skip else "fail"))


if __name__ == "__main__":
    cli.start(main, lambda arguments: (arguments,))
