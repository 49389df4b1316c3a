"""A packed file gives what its folder gives, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from jaxssl.data import Reading, UnreadableImage, scan
from jaxssl.data import open_images as open_place
from jaxssl.errors import InputError

CLASSES = ("b<living", "ä", "c")


@pytest.fixture(scope="module")
def packing(load_script):
    return load_script("pack_images.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of 4, 3 and 2 images; one copy across classes, two bad files, a text."""
    rng = np.random.default_rng(0)
    for name, count in zip(CLASSES, (4, 3, 2), strict=True):
        (tmp_path / "root" / name / "deep").mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (5 + i, 9, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "root" / name / "deep" / f"{i}.png")
    copy = (tmp_path / "root" / "c" / "deep" / "0.png").read_bytes()
    (tmp_path / "root" / "ä" / "copy.png").write_bytes(copy)
    (tmp_path / "root" / "ä" / "notes.txt").touch()
    frames = [Image.new("L", (9, 5), level) for level in (9, 99, 199)]
    moving = tmp_path / "root" / "c" / "moving.gif"
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    return tmp_path / "root"


def pack(packing, root: Path, name: str = "x", **options) -> Path:
    out = root.parent / f"{name}.array_record"
    packing.main(packing.Pack(str(root), str(out), **({"image_size": 6} | options)))
    return out


def same(packed, folder) -> None:
    (images, report), (expected, said) = packed, folder
    for name in ("ids", "paths", "class_names", "shape"):
        assert getattr(images, name) == getattr(expected, name)
    np.testing.assert_array_equal(images.labels, expected.labels)
    np.testing.assert_array_equal(images.groups, expected.groups)
    np.testing.assert_array_equal(images.images(), expected.images())
    assert images.fingerprint() == expected.fingerprint()
    assert images.split == expected.split
    for name in dataclasses.asdict(report).keys() - {"place"}:
        assert getattr(report, name) == getattr(said, name), name


def open_images(path: Path, **options):
    return open_place(path, Reading(**options))


def read(root: Path, **options):
    return open_images(root, cache_dir=root.parent / "cache", **({"size": 6} | options))


@pytest.mark.parametrize("classes", [None, ("c", "a\u0308")])  # as macOS writes ä
@pytest.mark.parametrize("how", [{"color": "rgb", "fit": "pad"}, {"on_bad_image": "skip"}])
def test_the_images_are_those_of_the_folder(packing, root, monkeypatch, how, classes):
    monkeypatch.setattr(packing, "PART", 4)
    if "on_bad_image" in how:  # between good ones: rows and records are then not the same
        (root / "b<living" / "deep" / "1x.png").touch()
        (root / "c" / "bad.png").write_text("no image")
    # Of some classes the borders are others than of all, and the file knows those of all.
    background = 255 if classes else "auto"
    path = pack(packing, root, **how, background=background)
    options = {"background": background} | {
        "on_bad_image": how.get("on_bad_image", "fail"),
        "classes": classes,
    }
    options |= {"fit": how.get("fit", "squash"), "channels": 3 if "color" in how else 1}
    same(open_images(path, size=6, **options), read(root, **options))
    assert [file.name for file in root.parent.iterdir() if "x.array_record" in file.name] == [
        "x.array_record"
    ]


def test_a_zip_with_a_table_and_deep_pixels_is_packed_as_it_is_read(packing, tmp_path):
    """Labels, splits, objects and groups of the table; pixels scaled by the range of the set."""
    rng = np.random.default_rng(0)
    rows = ["img_file_name,object_id,label,split"]
    with zipfile.ZipFile(tmp_path / "root.zip", "w") as file:
        for i in range(9):
            pixels = Image.fromarray(rng.integers(0, 3 + 500 * i, (8, 5), np.uint16))
            pixels.save(tmp_path / "x.tif")
            file.write(tmp_path / "x.tif", f"in/{i}.tif")
            label = "" if i == 4 else "ab"[i % 2]
            rows.append(f"in/{i}.tif,o{i // 2},{label},{'test' if i > 6 else ''}")
        file.writestr("labels.csv", "\n".join(rows))
    path = pack(packing, tmp_path / "root.zip", fit="pad")
    packed, expected = open_images(path, size=6, fit="pad"), read(tmp_path / "root.zip", fit="pad")
    same(packed, expected)
    assert expected[0].labels.tolist() == [0] * 4 + [1] * 4 + [-1]
    assert "hold 12" in str(packed[1])
    (tmp_path / "other.csv").write_text("id,class\n" + "\n".join(f"{i},c{i % 3}" for i in range(9)))
    other = open_images(path, size=6, fit="pad", labels_from=str(tmp_path / "other.csv"))[0]
    assert other.class_names == ("c0", "c1", "c2")
    assert other.ids[:3] == ("in/0.tif", "in/3.tif", "in/6.tif")
    place = expected[0].ids.index("in/6.tif")
    np.testing.assert_array_equal(other.load(2), expected[0].load(place))


def test_what_was_left_out_is_not_passed_over_in_silence(packing, root):
    (root / "c" / "bad.png").touch()
    with pytest.raises(InputError, match=r"1 files of .* cannot be read"):
        pack(packing, root)
    path = pack(packing, root, on_bad_image="skip")
    with pytest.raises(InputError, match=r"cannot be read(.|\n)*c/bad.png: an empty file"):
        open_images(path, size=6, channels=1)
    assert len(open_images(path, size=6, channels=1, classes=CLASSES[:2])[0]) == 8


def test_a_kill_costs_one_part_and_leaves_no_file(packing, root, monkeypatch):
    """Killed while it decodes, then while it writes; a file that changed is decoded again."""
    monkeypatch.setattr(packing, "PART", 3)
    inspect, decoded = scan.inspect, []

    def killed(source, **options):
        decoded.append(Path(source.path).name)
        if "ä" in source.path:
            raise KeyboardInterrupt
        return inspect(source, **options)

    monkeypatch.setattr(scan, "inspect", killed)
    with pytest.raises(KeyboardInterrupt):
        pack(packing, root)
    assert not (root.parent / "x.array_record").exists()
    parts = list((root.parent / ".x.array_record.parts").iterdir())
    assert {part.suffix for part in parts} == {".npz"}
    assert len(parts) == 2  # of 4 + 2 of 10 files

    def counting(source, **options):
        decoded.append(source)
        return inspect(source, **options)

    monkeypatch.setattr(scan, "inspect", counting)
    decoded.clear()
    monkeypatch.setattr(packing.os, "replace", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        pack(packing, root)
    monkeypatch.undo()
    monkeypatch.setattr(packing, "PART", 3)
    assert not (root.parent / "x.array_record").exists()

    monkeypatch.setattr(scan, "inspect", counting)
    decoded.clear()
    Image.new("L", (4, 4), 77).save(root / "b<living" / "deep" / "3.png")  # in the last part
    same(open_images(pack(packing, root), size=6, channels=1), read(root))


def test_a_file_that_may_not_be_read_is_left_out_and_asked_for_again(packing, root, monkeypatch):
    """By hand: root may read everything."""
    inspect = scan.inspect

    def refused(source, **options):
        if source.path.endswith("c/deep/1.png"):
            raise UnreadableImage(f"{source}: no", "no permission") from PermissionError(13, "no")
        return inspect(source, **options)

    monkeypatch.setattr(scan, "inspect", refused)
    with pytest.raises(InputError, match=r"c/deep/1\.png: no permission"):
        pack(packing, root)
    path = pack(packing, root, "y", on_bad_image="skip")
    same(
        open_images(path, size=6, channels=1, on_bad_image="skip"),
        read(root, on_bad_image="skip"),
    )
    monkeypatch.undo()
    assert (root.parent / ".x.array_record.parts").exists()
    same(open_images(pack(packing, root), size=6, channels=1), read(root))


def test_a_kill_while_the_file_is_written_leaves_nothing_beside_the_parts(
    packing, root, monkeypatch
):
    replace = os.replace

    def killed(source, target):
        if str(target).endswith(".array_record"):
            raise SystemExit
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # a kill tidies nothing
    with pytest.raises(SystemExit):
        pack(packing, root)
    parts = ".x.array_record.parts"
    assert {path.name for path in root.parent.iterdir()} == {"root", parts}
    monkeypatch.undo()
    pack(packing, root)
    assert {path.name for path in root.parent.iterdir()} == {"root", "x.array_record"}


def test_a_full_disk_is_a_line(packing, root, monkeypatch):
    real = array_record_module.ArrayRecordWriter
    full = lambda path, options: real("/dev/full", options)  # noqa: E731
    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", full)
    line = r"cannot write .*x\.array_record: .*No space left on device"
    with pytest.raises(InputError, match=line) as caught:
        pack(packing, root)
    assert "\n" not in str(caught.value)
    assert not (root.parent / "x.array_record").exists()


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_of_nothing_is_a_line(packing, root, size):
    with pytest.raises(InputError, match=f"--image-size is {size}: it must be at least 1"):
        pack(packing, root, image_size=size)


@pytest.mark.parametrize(
    ("asked", "word"),
    [({"size": 7}, "not of 7 px grey"), ({"channels": 3}, "rgb"), ({"fit": "pad"}, "pad")],
)
def test_another_size_colour_or_fit_is_refused_in_a_line(packing, root, asked, word):
    path = pack(packing, root)
    with pytest.raises(InputError, match="holds images of 6 px grey, squash") as caught:
        open_images(path, **({"size": 6, "channels": 1} | asked))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_packed_images_are_refused_in_a_line(packing, root, capfd):
    path = pack(packing, root)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-70_000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is no packed file of images") as caught:
            open_images(path, size=6, channels=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no packed file"):
        open_images(path.with_name("y.array_record"), size=6, channels=1)
    with pytest.raises(InputError, match="no class 'd'"):
        open_images(pack(packing, root, "z"), size=6, channels=1, classes=["d"])


def test_a_record_that_cannot_be_read_is_named(packing, root):
    images, _ = open_images(pack(packing, root), size=6, channels=1)
    broken = type("Broken", (), {"__getitem__": lambda self, i: b"short"})()
    load = images.load.func  # a partial, whose first argument is the source
    with pytest.raises(UnreadableImage, match="record 4 cannot be read"):
        load(broken, *images.load.args[1:], 4)


def test_the_target_is_not_overwritten_and_has_its_name(packing, root):
    path = pack(packing, root)
    with pytest.raises(InputError, match="is there already"):
        pack(packing, root)
    with pytest.raises(InputError, match=r"must end in \.array_record"):
        packing.main(packing.Pack(str(root), str(path.with_suffix(".npz"))))
