"""A folder as people have them: what is read, what is left out, what is said about it."""

from __future__ import annotations

import io
import os
import shutil
import unicodedata
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxssl.data import ImageSet, Reading, Report, UnreadableImage, open_images, opening, scan
from jaxssl.errors import InputError
from jaxssl.files import atomic, mark_folder, read_json, write_record, write_text


def save(path: Path, level: int, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), level if mode == "L" else (level,) * 3).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, 1 + 2 + 2 images, each of its own grey level."""
    names = ["b/0.png", "a/1.png", "a/10.JPG", "c/x/y/0.png", "c/z.png"]
    for level, name in enumerate(names):
        save(tmp_path / "root" / name, 40 * level)
    return tmp_path / "root"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The paths decoded, by the scan and on demand."""
    calls: list[str] = []
    for module, name in ((scan, "inspect"), (opening, "decode")):
        monkeypatch.setattr(module, name, recording(getattr(module, name), calls))
    return calls


def recording(decode, calls: list[str]):
    def recorded(source, **options):
        calls.append(Path(source.path).name)
        return decode(source, **options)

    return recorded


def read(root: Path, progress=None, **options) -> tuple[ImageSet, Report]:
    options = {"size": 4, "cache_dir": root.parent / "cache"} | options
    return open_images(root, Reading(**options), progress=progress)


def refusal(root: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(root, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("station 1", "station 2"), True),
        (("2021-05-03", "20210504"), True),
        (("cast A", "Cast_B"), True),
        (("copepod 1", "copepod 2"), False),
        (("0", "1"), False),
        (("station 1", "salp"), False),
    ],
)
def test_folders_that_look_like_stations_are_questioned_as_classes(tmp_path, names, said):
    for level, name in enumerate(names):
        save(tmp_path / "images" / name / "0.png", 100 + level)
    assert ("(labels_from='none')" in str(read(tmp_path / "images")[1])) == said
    assert "labels_from" not in str(read(tmp_path / "images", classes=names)[1])


def test_one_image_is_told_by_its_own_name_not_that_of_its_folder(root):
    file = next(root.rglob("*.png"))
    images, report = read(file)
    assert len(images) == 1
    assert str(report).startswith(f"1 images of {file}")


# ------------------------------------------------------------------------------------ what is read


def test_order_is_by_code_point_and_pixels_belong_to_their_ids(root):
    images, report = read(root)
    assert images.ids == ("a/1.png", "a/10.JPG", "b/0.png", "c/x/y/0.png", "c/z.png")
    assert images.class_names == ("a", "b", "c")
    assert images.labels.tolist() == [0, 0, 1, 2, 2]
    assert images.images()[:, 0, 0, 0].tolist() == [40, 80, 0, 120, 160]
    assert [Path(path).relative_to(root).as_posix() for path in images.paths] == list(images.ids)
    assert report.counts == {"a": 2, "b": 1, "c": 2}
    assert len(set(images.groups.tolist())) == 5


def test_named_classes_in_their_order_and_nothing_else(root):
    (root / "b" / "bad.png").touch()  # a class not named is not even looked at
    images, report = read(root, classes=["c", "a"])
    assert images.class_names == ("c", "a")
    assert images.ids[0] == "c/x/y/0.png"
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert set(report.counts) == {"a", "c"}


def test_decode_options_reach_the_pixels(root):
    Image.new("L", (4, 2), 9).save(root / "b" / "0.png")
    images, _ = read(root, classes=["b"], channels=3, size=2, fit="pad", background=3)
    assert images.images()[0, ..., 0].tolist() == [[9, 9], [3, 3]]
    assert images.shape == (2, 2, 3)


def test_names_that_are_hard_to_say(root):
    names = [
        "part<Crustacea",
        "other<living",
        "dead leaves",
        "Ünï",
        "=cmd",
        "$\\frac$",
        "a[b]",
        "'",
    ]
    for level, name in enumerate(names):
        save(root / name / "<script>\n.png", level)
    (root / names[0] / "a\nb.txt").touch()
    images, report = read(root, classes=names)
    assert images.class_names == tuple(names)
    assert images.ids[0] == "part<Crustacea/<script>\n.png"
    assert len(str(report).splitlines()) == 5  # a line break in a name breaks no line
    assert str(report).splitlines()[4] == r"  part<Crustacea/a\nb.txt"


def test_what_computers_leave_behind_is_passed_over(root):
    for name in [
        ".git/0.png",
        "__MACOSX/0.png",
        ".ipynb_checkpoints/0.png",
        "a/.hidden.png",
        "a/._1.png",
        "a/__MACOSX/0.png",
        "a/.thumbs/0.png",
    ]:
        save(root / name, 1)
    for name in ["Thumbs.db", "desktop.ini", ".DS_Store"]:
        (root / "a" / name).touch()
        (root / name).touch()
    images, report = read(root)
    assert len(images) == 5
    assert images.class_names == ("a", "b", "c")
    assert report.other_files == ()
    assert report.warnings == ()


def test_other_files_are_counted_and_listed(root):
    for name in ["a/notes.txt", "a/photo.HEIC", "c/x/table.csv", "c/README"]:
        (root / name).touch()
    _, report = read(root)
    assert report.other_files == ("a/notes.txt", "a/photo.HEIC", "c/README", "c/x/table.csv")
    assert "4 files of other kinds passed over (.csv 1, .heic 1, .txt 1, none 1)" in str(report)
    assert "  a/photo.HEIC" in str(report)


def test_images_beside_the_class_folders_have_no_label_and_come_last(root):
    save(root / "0lost.png", 1)
    save(root / "Unlabelled" / "0.png", 1)
    images, report = read(root)
    assert images.class_names == ("a", "b", "c")
    assert images.ids[5:] == ("0lost.png", "Unlabelled/0.png")
    assert images.labels.tolist() == [0, 0, 1, 2, 2, -1, -1]
    assert str(report).startswith(f"7 images of {root}: 5 in 3 classes, 2 without a label\n")


# -------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("target", ["root", "root/a", "outside"])
def test_links_to_folders_are_not_followed(root, target):
    save(root.parent / "outside" / "0.png", 1)
    (root / "a" / "link").symlink_to(root.parent / target)
    (root / "classlink").symlink_to(root.parent / target)
    images, report = read(root)
    assert len(images) == 5
    assert [w for w in report.warnings if w.endswith(("a/link", ": classlink"))] == list(
        report.warnings
    )
    assert len(report.warnings) == 2
    assert report.other_files == ()
    assert "links to folders are not followed" in refusal(root, classes=["classlink"])


def test_the_root_may_be_a_link_and_files_may_be_links(root):
    (root / "a" / "again.png").symlink_to(root / "b" / "0.png")
    (root.parent / "shortcut").symlink_to(root)
    images, report = read(root.parent / "shortcut")
    assert len(images) == 6
    assert report.duplicates == (("a/again.png", "b/0.png"),)


def test_links_to_files_outside_are_followed_only_where_asked(root):
    outside = save(root.parent / "outside.png", 7)
    (root / "a" / "z.png").symlink_to(outside)
    images, report = read(root)
    assert "a/z.png" not in images.ids
    said = "1 left out, links that lead outside; follow links to read them (follow_links=True)"
    assert f"{said}: a/z.png" in str(report)
    images, report = read(root, follow_links=True)
    assert images.load(images.ids.index("a/z.png")).max() == 7
    (root.parent / "linked").mkdir()
    (root.parent / "linked" / "z.png").symlink_to(outside)
    assert "1 left out, links that lead outside; follow" in refusal(root.parent / "linked")


# --------------------------------------------------------------------------------------- bad images


@cache
def vast() -> bytes:
    """An image that Pillow warns of as a bomb."""
    file = io.BytesIO()
    Image.new("1", (9_500, 9_500)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bad_root(root: Path) -> Path:
    (root / "a" / "zero.png").touch()
    (root / "a" / "text.png").write_text("text")
    os.mkfifo(root / "b" / "pipe.png")
    (root / "b" / "vast.png").write_bytes(vast())
    (root / "c" / "dangling.jpg").symlink_to(root / "nowhere")
    whole = save(root / "c" / "cut.png", 5).read_bytes()
    (root / "c" / "cut.png").write_bytes(whole[:-20])
    with open(os.fsencode(root / "c") + b"/latin\xe9.png", "wb") as file:
        file.write(whole)
    return root


BAD = {
    "a/zero.png": "an empty file",
    "a/text.png": "not an image of a format read here",
    "b/pipe.png": "not a regular file",
    "b/vast.png": "more than 89 megapixels",
    "c/dangling.jpg": "no such file, or a link to none",
    "c/cut.png": "cut short",
    "c/latin\\udce9.png": "not valid UTF-8",
}


def test_fail_lists_every_bad_file_and_the_other_way(bad_root):
    text = refusal(bad_root)
    head, *lines = text.splitlines()
    assert head.startswith(f"7 files of {bad_root} cannot be read")
    assert "have bad images skipped" in head
    assert len(lines) == 7
    for path, why in BAD.items():
        assert sum(f"{path}: " in line and why in line for line in lines) == 1
    assert refusal(bad_root) == text  # from the cache


@pytest.mark.parametrize("limit", [None, 0])
def test_skip_leaves_them_out_and_keeps_the_list(bad_root, monkeypatch, limit):
    if limit is not None:
        monkeypatch.setattr(scan, "MAX_CACHED_BYTES", limit)
    for _ in range(2):
        images, report = read(bad_root, on_bad_image="skip")
        assert images.ids == ("a/1.png", "a/10.JPG", "b/0.png", "c/x/y/0.png", "c/z.png")
        assert images.images()[:, 0, 0, 0].tolist() == [40, 80, 0, 120, 160]
        assert set(report.unreadable) == set(BAD)
        assert all(why in report.unreadable[path] for path, why in BAD.items())
        assert "7 that cannot be read, left out:" in str(report)


def test_a_long_list_is_cut_at_twenty_lines(root):
    for i in range(30):
        (root / "a" / f"bad{i:02d}.png").touch()
    lines = refusal(root).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "  and 10 more"


def test_a_class_of_bad_images_only(root):
    (root / "d").mkdir()
    (root / "d" / "0.png").touch()
    assert "1 files of" in refusal(root)
    images, report = read(root, on_bad_image="skip")
    assert (images.class_names, report.empty) == (("a", "b", "c"), ("d",))
    assert "class 'd' of" in refusal(root, on_bad_image="skip", classes=("a", "d"))
    assert "none of the 1 images" in refusal(root / "d", on_bad_image="skip")


# ------------------------------------------------------------------------------ clear refusals


def test_no_such_folder(root):
    text = refusal(root / "nowhere")
    assert text == f"cannot open the image folder {root / 'nowhere'}: No such file or directory"
    (root / "x.tar").touch()
    assert "x.tar is no folder, zip, table" in refusal(root / "x.tar")
    assert "unpack it" in refusal(root / "x.tar")


def test_no_images(root):
    (root / "none" / "deep").mkdir(parents=True)
    (root / "none" / "deep" / "readme.txt").touch()
    text = refusal(root / "none")
    assert text.startswith(f"{root / 'none'} holds no image (")
    assert text.endswith("it holds .txt 1")


def test_a_class_named_twice_or_none(root):
    assert refusal(root, classes=["a", "b", "a"]) == "class 'a' is named 2 times; name it once"
    assert "no class of" in refusal(root, classes=[])


def test_an_unknown_class_names_what_is_close(root):
    save(root / "chaetognath_other" / "0.png", 1)
    text = refusal(root, classes=["chaetognat_other", "zzz"])
    assert text.startswith("no class 'chaetognat_other', 'zzz' in ")
    assert "its 4 classes, the nearest first: 'chaetognath_other', " in text
    for i in range(9):
        save(root / f"more{i}" / "0.png", 0)
    assert refusal(root, classes=["MORE-3"]).count("'more") == 8
    assert "'more3', " in refusal(root, classes=["MORE-3"]).split(":")[1][:10]
    assert refusal(root, classes=["zzz"]).endswith(" and 5 more")


def test_a_root_some_levels_too_high_is_passed_through(root):
    (root.parent / "logs").mkdir()
    images, report = read(root.parent, classes=("c", "a"), cache_dir=root.parent.parent / "cache")
    assert images.class_names == ("c", "a")
    assert images.ids[0] == "root/c/x/y/0.png"
    assert report.said[0] == "labels from the names of folders below root"


def test_an_empty_class_is_left_out_or_refused_before_anything_is_decoded(root, decoded):
    (root / "empty").mkdir()
    (root / "empty" / "x.heic").touch()
    text = refusal(root, classes=["a", "empty"])
    assert text.startswith(f"class 'empty' of {root} holds no image; leave the class out")
    assert decoded == []
    assert read(root, classes=["a"])[1].empty == ()
    images, report = read(root)
    assert (images.class_names, report.empty) == (("a", "b", "c"), ("empty",))
    assert "1 empty class folders left out: empty" in str(report)


def test_a_class_folder_that_is_not_utf8(root):
    os.mkdir(os.fsencode(root) + b"/\xff")
    assert "\\udcff: the name is not valid UTF-8; rename it" in refusal(root)
    assert len(read(root, classes=["a"])[0]) == 2
    inside = Path(os.fsdecode(os.fsencode(root) + b"/\xff"))
    assert "is no UTF-8 path" in refusal(inside, cache_dir=root.parent / "cache")


def test_a_class_typed_in_the_other_unicode_form(root):
    decomposed = unicodedata.normalize("NFD", "é")
    save(root / decomposed / "0.png", 1)
    images, _ = read(root, classes=["é"])
    assert images.class_names == ("é",)
    assert images.ids == (f"{decomposed}/0.png",)


def test_files_whose_names_differ_by_case_only_are_mentioned(root):
    save(root / "c" / "Z.png", 2)
    _, report = read(root)
    assert sum("differ only by case or Unicode form" in w for w in report.warnings) == 1


@pytest.mark.parametrize("other", ["Copepod_calanoid", "copepod calanoid", "copepod-calanoid_"])
def test_one_class_in_two_spellings_is_refused(root, other):
    save(root / "copepod_calanoid" / "0.png", 1)
    save(root / other / "0.png", 1)
    text = refusal(root)
    assert "one class in two spellings" in text
    assert f"{other!r} (1" in text
    assert "\n" not in text
    assert read(root, classes=("a", other))[0].class_names == ("a", other)


# --------------------------------------------------------------------------------------- duplicates


def test_identical_files_share_a_group_and_two_classes_warn(root):
    same = (root / "b" / "0.png").read_bytes()
    (root / "c" / "copy.png").write_bytes(same)
    (root / "b" / "copy.png").write_bytes(same)
    (root / "a" / "1copy.png").write_bytes((root / "a" / "1.png").read_bytes())
    images, report = read(root)
    group = dict(zip(images.ids, images.groups.tolist(), strict=True))
    assert group["b/0.png"] == group["b/copy.png"] == group["c/copy.png"]
    assert group["a/1.png"] == group["a/1copy.png"] != group["b/0.png"]
    assert len(set(group.values())) == 5
    assert report.duplicates == (
        ("a/1.png", "a/1copy.png"),
        ("b/0.png", "b/copy.png", "c/copy.png"),
    )
    conflict = "the same image in more than one class: b/0.png = b/copy.png = c/copy.png"
    assert report.warnings == (conflict,)
    assert "3 byte-identical copies" in str(report)


# -------------------------------------------------------------------------------------------- cache


def test_the_second_opening_and_every_epoch_decode_nothing(root, decoded):
    first, _ = read(root)
    assert len(decoded) == 5
    second, _ = read(root)
    np.testing.assert_array_equal(first.images(), second.images())
    assert first.fingerprint() == second.fingerprint()
    assert len(decoded) == 5


@pytest.mark.parametrize("change", ["pixels", "new", "gone", "setting", "classes"])
def test_any_change_makes_the_pixels_anew(root, decoded, change):
    read(root)
    options, want = {}, [40, 80, 0, 120, 160]
    if change == "pixels":
        save(root / "a" / "1.png", 99)
        os.utime(root / "a" / "1.png", ns=(1, 1))  # PNGs of one grey level are of equal size
        want[0] = 99
    elif change == "new":
        save(root / "a" / "11.png", 99)
        want.insert(2, 99)
    elif change == "gone":
        (root / "b" / "extra.png").unlink(missing_ok=True)
        (root / "a" / "1.png").unlink()
        del want[0]
    elif change == "setting":
        options = {"size": 5}
    else:
        options, want = {"classes": ["c"]}, [120, 160]
    images, _ = read(root, **options)
    assert images.images()[:, 0, 0, 0].tolist() == want
    assert len(decoded) == 5 + len(want)
    packs = list((root.parent / "cache").glob("*/*.npy"))
    assert len(packs) == (2 if change in ("setting", "classes") else 1)  # the stale one is gone


def test_a_change_seen_at_one_size_is_seen_at_every_size(root):
    for size in (4, 5):
        read(root, size=size)
    save(root / "a" / "1.png", 99)
    os.utime(root / "a" / "1.png", ns=(1, 1))
    for size in (4, 5):
        assert read(root, size=size)[0].load(0).max() == 99


def test_over_the_limit_images_are_decoded_on_demand(root, decoded, monkeypatch):
    packed, _ = read(root, cache_dir=root.parent / "other")
    monkeypatch.setattr(scan, "MAX_CACHED_BYTES", 0)
    decoded.clear()
    images, _ = read(root)
    assert len(decoded) == 5
    np.testing.assert_array_equal(images.images(), packed.images())
    assert len(decoded) == 10
    assert not list((root.parent / "cache").glob("*/*.npy"))
    decoded.clear()
    save(root / "a" / "11.png", 99)
    read(root)
    assert decoded == ["11.png"]  # the verdicts of the others are known
    (root / "a" / "11.png").write_bytes(b"no image")
    assert "a/11.png: not an image" in refusal(root)


@pytest.mark.parametrize("limit", [2**31, 0])
@pytest.mark.parametrize("bad", [True, False])
def test_a_file_changed_at_the_same_size_is_looked_at_again(root, monkeypatch, limit, bad):
    monkeypatch.setattr(scan, "MAX_CACHED_BYTES", limit)
    path, other = root / "a" / "1.png", save(root / "b" / "1.png", 41)
    size = path.stat().st_size
    read(root)
    path.write_bytes(b"no image".ljust(size) if bad else other.read_bytes())
    assert path.stat().st_size == size
    os.utime(path, ns=(1, 1))
    _, report = read(root, on_bad_image="skip")
    assert ("a/1.png" in report.unreadable) == bad
    assert report.duplicates == (() if bad else (("a/1.png", "b/1.png"),))


@pytest.mark.parametrize("limit", [2**31, 0])
def test_pixels_and_verdicts_of_another_decoder_are_not_used(root, monkeypatch, limit):
    monkeypatch.setattr(scan, "MAX_CACHED_BYTES", limit)
    for size in (4, 5):
        read(root, size=size)
    inspect = scan.inspect

    def other(source, **options):
        seen = inspect(source, **options)
        return seen._replace(pixels=seen.pixels + 1, border=0)

    monkeypatch.setattr(scan, "inspect", other)
    assert read(root)[0].load(0).max() == 40
    monkeypatch.setattr(scan, "DECODER", "another")
    read(root, size=5)  # now the verdicts are new, and pixels of size 4 are not
    images, report = read(root)
    assert images.load(0).max() == (41 if limit else 40)  # without a cache, `decode` as it is
    assert report.background == 0


@pytest.mark.parametrize("how", ["pixels", "truncated", "deleted"])
def test_a_file_that_changes_after_the_scan_is_named(root, monkeypatch, how):
    monkeypatch.setattr(scan, "MAX_CACHED_BYTES", 0)
    images, _ = read(root)
    path = root / "a" / "1.png"
    if how == "pixels":
        save(path, 99)
        os.utime(path, ns=(1, 1))
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    with pytest.raises(UnreadableImage, match=f"^{path}: "):
        images.load(0)


@pytest.mark.parametrize("damage", ["emptied", "wrong shape", "object", "header"])
def test_a_damaged_cache_is_made_again(root, decoded, damage):
    want = read(root)[0].images()
    (pack,) = (root.parent / "cache").glob("*/*.npy")
    (verdicts,) = (root.parent / "cache").glob("*/verdicts.json")
    if damage == "emptied":
        pack.write_bytes(b"")
        verdicts.write_text("{")
    elif damage == "wrong shape":
        np.save(pack, np.zeros((1, 4, 4, 1), np.uint8))
    elif damage == "header":  # with a checksum that fits: NumPy raises a TokenError
        content = b"\x93NUMPY\x01\x00\x06\x00{'a'(\n"
        pack.write_bytes(content + b"%08x" % zlib.crc32(content))
    else:
        np.save(pack, np.array([{}]), allow_pickle=True)
        verdicts.write_text("[]")
    np.testing.assert_array_equal(read(root)[0].images(), want)
    assert len(decoded) == 10


def test_one_flipped_bit_of_the_pixels_is_never_used(root, decoded):
    want = read(root)[0].images()
    (pack,) = (root.parent / "cache").glob("*/*.npy")
    whole = bytearray(pack.read_bytes())
    whole[-20] ^= 4  # a pixel of the last image, before the checksum
    pack.write_bytes(whole)
    np.testing.assert_array_equal(read(root)[0].images(), want)
    assert len(decoded) == 10


@pytest.mark.parametrize("limit", [2**31, 0])
def test_a_picture_replaced_under_its_name_size_and_time_is_seen(root, monkeypatch, limit):
    """As `cp -p` and `rsync -t` replace one: only the inode's own time tells."""
    monkeypatch.setattr(scan, "MAX_CACHED_BYTES", limit)
    monkeypatch.setattr(
        scan, "_SAMPLE", 10**9
    )  # none by chance: `//` gives every 0th, so every 1st
    monkeypatch.setattr(scan, "_SAMPLE", 1)  # the first file alone
    read(root)
    path = root / "c" / "z.png"
    before, old = path.read_bytes(), os.stat(path)
    save(path, 99)
    path.write_bytes(path.read_bytes().ljust(len(before), b"\0"))  # after a PNG's end, no harm
    assert len(path.read_bytes()) == len(before)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    images, _ = read(root)
    assert images.load(images.ids.index("c/z.png")).max() == 99


def test_files_that_were_touched_but_not_changed_are_hashed_once(root, decoded, monkeypatch):
    monkeypatch.setattr(scan, "_SAMPLE", 1)
    read(root)
    for path in root.rglob("*.*"):
        path.chmod(0o640)
    hashed = []
    digest_of = scan.digest_of
    monkeypatch.setattr(
        scan, "digest_of", lambda source, pixels: hashed.append(source) or digest_of(source, pixels)
    )
    read(root)
    assert len(hashed) == 5
    read(root)
    assert len(hashed) == 6
    read(root, hash_all=True)
    assert len(hashed) == 11
    assert len(decoded) == 5


def test_verdicts_of_another_version_are_not_trusted(root, decoded):
    read(root)
    (verdicts,) = (root.parent / "cache").glob("*/verdicts.json")
    write_record(verdicts, read_json(verdicts) | {"version": "0"})
    read(root)
    assert len(decoded) == 10


def test_a_failure_of_the_system_is_asked_again(root, monkeypatch):
    inspect = scan.inspect

    def flaky(source, **options):
        if source.path.endswith("z.png"):
            error = OSError(5, "Input/output error")
            raise UnreadableImage(f"{source}: {error.strerror}", error.strerror) from error
        return inspect(source, **options)

    monkeypatch.setattr(scan, "inspect", flaky)
    assert len(read(root, on_bad_image="skip")[0]) == 4
    monkeypatch.setattr(scan, "inspect", inspect)
    images, report = read(root)
    assert images.load(4).max() == 160
    assert not report.unreadable


def test_a_scan_that_is_stopped_leaves_no_file_behind(root, monkeypatch):
    def interrupted(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(scan, "inspect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(root)
    assert [path.name for path in (root.parent / "cache").glob("*/*")] == []


def test_what_a_killed_scan_of_another_machine_left_is_removed_after_ten_minutes(root):
    read(root)
    (pack,) = (root.parent / "cache").glob("*/*.npy")
    nobody = 2**22 + 1  # above the largest number of a process
    old = pack.with_name(f".{pack.name}.00000000-{nobody}-0123ab.tmp")
    young = pack.with_name(f".{pack.name}.00000000-{nobody}-0123ac.tmp")
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    save(root / "a" / "new.png", 3)
    read(root)
    assert not old.exists()
    assert young.exists()


def test_a_cache_that_cannot_be_written_says_so(root):
    (root.parent / "cache").touch()
    text = refusal(root)
    assert text.startswith(f"cannot write the image cache in {root.parent / 'cache'}")
    assert "XDG_CACHE_HOME" in text


def test_the_default_place_of_the_cache(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "xdg"))
    read(root, cache_dir=None)
    assert len(list((root.parent / "xdg" / "jaxssl").glob("*/*.npy"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert scan.default_cache_dir() == Path.home() / ".cache" / "jaxssl"


def test_progress_reaches_the_end(root):
    seen: list[tuple[int, int]] = []
    read(root, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


def make_run(folder: Path) -> Path:
    """A run's folder with its figure and a table of labels."""
    save(folder / "report" / "umap.png", 200)
    write_record(
        folder / "config.json",
        {"format": 2, "study": "SimCLR", "dataset": "folder", "config": {}, "recipe": {}},
    )
    (folder / "labels.csv").write_text("path,label\na/1.png,x\nb/0.png,y\n")
    return folder


def test_a_run_below_its_images_is_not_read(root):
    before, _ = read(root)
    make_run(root / "runs" / "first")
    make_run(root / "a" / "deep" / "second")
    save(root / "c" / "other" / "config.json.png", 9).unlink()
    (root / "c" / "other" / "config.json").write_text('{"model_type": "vit"}')  # no run
    images, report = read(root)
    assert images.ids == before.ids
    assert images.fingerprint() == before.fingerprint()
    assert report.empty == ()
    line = "2 left out, folders of runs or exports: a/deep/second, runs/first"
    assert line in str(report)
    assert "labels from the names of folders" in str(report)


def test_a_run_in_a_zip_or_behind_a_link_is_not_read_either(root, tmp_path):
    names = read(root)[0].ids
    make_run(root / "runs" / "first")
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", root)
    assert read(Path(archive))[0].ids == names
    (root / "link").symlink_to(make_run(tmp_path / "elsewhere"), target_is_directory=True)
    assert read(root, follow_links=True)[0].ids == names


def test_a_run_is_no_folder_of_images(root, tmp_path):
    line = refusal(make_run(root))
    assert "is the folder of a run" in line
    assert "is the folder of a run" in refusal(
        Path(shutil.make_archive(str(tmp_path / "images"), "zip", root))
    )


def test_what_was_written_here_is_no_image_and_no_table_until_a_person_changes_it(root):
    names = read(root)[0].ids
    table = root / "label-next.csv"
    write_text(table, "path,label\na/1.png,\n", note="")
    with atomic(root / "umap.png", note="") as out:
        out.write((root / "b" / "0.png").read_bytes())
    images, report = read(root)
    assert images.ids == names
    assert "2 left out, written by jaxssl" in str(report)
    assert "labels from the names of folders" in str(report)
    rows = "".join(f"{name},{'xy'[i % 2]}\n" for i, name in enumerate(names))
    table.write_text(f"path,label\n{rows}")
    assert "labels from label-next.csv, column 'label': 5 of 5" in str(read(root)[1])
    # A page's folder holds the page alone: what is noted of its figures lies above.
    (root / "page").mkdir()
    with atomic(root / "page" / "umap.png", note="", above=True) as out:
        out.write((root / "b" / "0.png").read_bytes())
    assert [path.name for path in (root / "page").iterdir()] == ["umap.png"]
    assert {*read(root)[0].ids} == {*names}
    mark_folder(save(root / "data" / "0.png", 77).parent)  # not empty: somebody's
    assert "data/0.png" in read(root, labels_from="none")[0].ids
    (root / "export").mkdir()
    mark_folder(root / "export")
    save(root / "export" / "1.png", 78)
    assert "export/1.png" not in read(root, labels_from="none")[0].ids
