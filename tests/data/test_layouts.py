"""Folders, tables and instruments' files as people of this field have them, and what is understood.

Each layout is a function of its own name below; drawn images, or with JAXSSL_DATA real plankton.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, ImageDraw, ImageOps

from jaxssl.data import Reading, open_images, scan, split_protocol, tables
from jaxssl.data.source import Source
from jaxssl.data.walk import ImageFile
from jaxssl.errors import InputError

ARCHIVE = Path(os.environ.get("JAXSSL_DATA", "")) / "planktonset1.tar.gz"
CLASSES = ("acantharia_protist", "chaetognath_other", "copepod_calanoid")
TAXA = ("Acantharia__27642", "Chaetognatha__11758", "part_Crustacea__85061")
N = 6  # images a class


@cache
def pictures() -> dict[str, list[Image.Image]]:
    """N grey images a class: dark on white, all of them different."""
    if ARCHIVE.is_file():
        found: dict[str, list[Image.Image]] = {name: [] for name in CLASSES}
        with tarfile.open(ARCHIVE) as archive:
            for member in archive:
                name = ("", *member.name.split("/"))[-2]
                if name in found and len(found[name]) < N and member.isfile():
                    content = archive.extractfile(member).read()
                    found[name].append(Image.open(io.BytesIO(content)).convert("L"))
                if all(len(images) == N for images in found.values()):
                    return found
    rng = np.random.default_rng(0)
    drawn = {}
    for name in CLASSES:
        drawn[name] = []
        for _ in range(N):
            image = Image.new("L", tuple(rng.integers(16, 30, 2).tolist()), 255)
            corners = sorted(rng.integers(3, 13, 2)), sorted(rng.integers(3, 13, 2))
            box = [corners[0][0], corners[1][0], corners[0][1] + 1, corners[1][1] + 1]
            ImageDraw.Draw(image).ellipse(box, fill=int(rng.integers(0, 180)))
            drawn[name].append(image)
    return drawn


def every() -> list[tuple[str, int, Image.Image]]:
    return [(name, i, image) for name in CLASSES for i, image in enumerate(pictures()[name])]


def put(path: Path, image: Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write(path: Path, *lines: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode(encoding))


# ------------------------------------------------------------------------------------------ layouts


def classes(top: Path) -> Path:
    for name, i, image in every():
        put(top / name / f"{i}.png", image)
    return top


def nested_classes(top: Path) -> Path:
    for name, i, image in every():
        put(top / name / f"cast{i % 2}" / "deep" / f"{i}.png", image)
    return top


def one_level_too_high(top: Path) -> Path:
    classes(top / "PlanktonSet" / "images")
    (top / "logs").mkdir()
    return top


def flat(top: Path) -> Path:
    for name, i, image in every():
        put(top / f"{name}_{i}.png", image)
    return top


def flat_in_one_folder(top: Path) -> Path:
    flat(top / "unsorted")
    return top


def mixed(top: Path) -> Path:
    classes(top)
    flat(top / "unlabelled")
    put(top / "beside.png", every()[0][2].rotate(180))
    return top


def links(top: Path) -> Path:
    classes(top.parent / "elsewhere")
    top.mkdir(parents=True)
    for name in CLASSES:
        (top / name).symlink_to(top.parent / "elsewhere" / name)
    (top / CLASSES[0] / "circle").symlink_to(top)
    return top


def presplit(top: Path) -> Path:
    for name, i, image in every():
        put(
            top / ("Train", "Train", "Train", "Train", "valid", "testing")[i] / name / f"{i}.png",
            image,
        )
    return top


def presplit_without_test_labels(top: Path) -> Path:
    for name, i, image in every():
        put(top / "train" / name / f"{i}.png" if i < 5 else top / "test" / f"{name}.png", image)
    return top


def rare_and_empty(top: Path) -> Path:
    for name, i, image in every():
        if name != CLASSES[1] or i < 2:
            put(top / name / f"{i}.png", image)
    (top / "empty" / "deep").mkdir(parents=True)
    return top


def table_csv(top: Path) -> Path:
    rows = []
    for name, i, image in every():
        put(top / "images" / f"{name[:3]}{i}.png", image)
        rows.append(f"{i},images/{name[:3]}{i}.png,{name}")
    write(top / "labels.csv", "id,img_path,label", *rows)
    return top


def table_as_place(top: Path) -> Path:
    return table_csv(top) / "labels.csv"


def table_gzipped_windows(top: Path) -> Path:
    rows = []
    for name, i, image in every():
        put(top / "images" / f"{name[:3]}{i}.png", image)
        rows.append(f'"C:\\data\\images\\{name[:3]}{i}.png";"{name}"')
    (top / "labels.csv.gz").write_bytes(
        gzip.compress("\r\n".join(["File name;Class", *rows]).encode("utf-8-sig"))
    )
    return top


def table_parquet_with_splits(top: Path) -> Path:
    rows = [(f"{name[:3]}{i}", name, "test" if i == 5 else "train") for name, i, _ in every()]
    for name, i, image in every():
        put(top / f"{name[:3]}{i}.png", image)
    columns = zip(*rows, strict=True)
    table = pyarrow.table(dict(zip(("image_id", "species", "split"), columns, strict=True)))
    pyarrow.parquet.write_table(table, top / "labels.parquet")
    return top


def table_of_a_part(top: Path) -> Path:
    table_csv(top)
    lines = (top / "labels.csv").read_text().splitlines()
    write(top / "labels.csv", *lines[:-4], "99,images/gone.png,copepod_calanoid", "98,,")
    return top


def ecotaxa_export(top: Path) -> Path:
    rows = ['\ufeff"object_id"\t"object_lat"\t"object_annotation_category"\t"img_file_name"']
    for name, i, image in every():
        taxon, k = TAXA[CLASSES.index(name)], 100 * CLASSES.index(name) + i
        for rank in (0, 1):
            file = f"images/{taxon}/{k}_{rank}.png"
            put(top / file, image.resize((image.width * (rank + 1), image.height)))
            rows.append(f'"net_{k}"\t"43.1"\t"{taxon.split("__")[0]}"\t"{file}"')
    write(top / "export_1234_20240305_1016.tsv", *rows)
    write(top / "job_55.log", "done")
    return top


def ecotaxa_backup(top: Path) -> Path:
    """A folder a sample, equal file names in each; some labels are only predicted."""
    head = (
        "img_file_name\timg_rank\tobject_id\tobject_annotation_category\tobject_annotation_status"
    )
    for sample in ("net_1", "net_2"):
        rows = [head, "[t]\t[f]\t[t]\t[t]\t[t]"]
        for k, (name, i, image) in enumerate(every()):
            if i % 2 == (sample == "net_2"):
                status = "predicted" if i == 5 else "validated"
                put(top / sample / f"{k // 2}.png", image)
                rows.append(f"{k // 2}.png\t0\t{sample}_{k}\t{name}\t{status}")
        write(top / sample / f"ecotaxa_{sample}.tsv", *rows)
    return top


def zip_of_classes(top: Path) -> Path:
    classes(top / "in")
    with zipfile.ZipFile(top / "x.zip", "w") as file:
        file.mkdir("plankton")
        file.mkdir("plankton/empty")
        for path in sorted((top / "in").rglob("*.png")):
            file.write(path, f"plankton/{path.relative_to(top / 'in')}")
        file.writestr("__MACOSX/plankton/._0.png", b"")
    return top / "x.zip"


def zip_of_windows(top: Path) -> Path:
    classes(top / "in")
    with zipfile.ZipFile(top / "x.zip", "w") as file:
        for path in sorted((top / "in").rglob("*.png")):
            inside = str(path.relative_to(top / "in")).replace("/", "\\")
            file.writestr(inside, path.read_bytes())
    return top / "x.zip"


def zip_of_ecotaxa(top: Path) -> Path:
    ecotaxa_backup(top / "in")
    with zipfile.ZipFile(top / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted((top / "in").rglob("*.*")):
            file.write(path, path.relative_to(top / "in"))
    return top / "x.zip"


def _deep(top: Path, scale: int) -> Path:
    for name, i, image in every():
        pixels = np.asarray(image).astype(np.uint16) * scale
        put(top / name / f"{i}.tif", Image.fromarray(pixels))
    return top


def tiff_12_in_16(top: Path) -> Path:
    return _deep(top, 16)


def tiff_8_in_16(top: Path) -> Path:
    return _deep(top, 1)


def dark_field(top: Path) -> Path:
    for name, i, image in every():
        put(top / name / f"{i}.png", ImageOps.invert(image))
    return top


def scale_bar(top: Path) -> Path:
    for name, i, image in every():
        canvas = Image.new("RGB", (max(image.width, 90), image.height + 31), "white")
        canvas.paste(image, ((canvas.width - image.width) // 2, 0))
        draw = ImageDraw.Draw(canvas)
        draw.line([5 + 3 * i, image.height - 1, 60, image.height - 1], fill="gray")
        draw.rectangle([10, image.height + 12, 70, image.height + 14], fill="black")
        draw.text((10, image.height + 16), "1 mm", fill="black")
        put(top / name / f"{i}.png", canvas)
    return top


def pages(top: Path) -> Path:
    small = [image.resize((16, 16)) for _, _, image in every()]
    put(top / "stack.tif", small[0], save_all=True, append_images=small[1:])
    return top


def pages_as_place(top: Path) -> Path:
    return pages(top) / "stack.tif"


def flowcam(top: Path) -> Path:
    """Collages with their .lst, a run that has only its .ctx, and a calibration image."""
    rows = ["017", "num-fields|6", "id|int", "collage_file|string"]
    rows += [f"image_{name}|int" for name in "xywh"]
    sheet, x = Image.new("L", (900, 120), 255), 0
    for k, (_, _, image) in enumerate(every()):
        sheet.paste(image.resize((20, 18)), (x, 7))
        rows.append(f"{k + 1}|run1_000001.tif|{x}|7|20|18")
        x += 25
    put(top / "run1" / "run1_000001.tif", sheet)
    write(top / "run1" / "run1.lst", *rows)
    put(top / "run1" / "cal_image_000001.tif", sheet)
    put(top / "run2" / "run2_000001.tif", sheet)
    write(top / "run2" / "run2.ctx", "[Fluid]")
    return top


def ifcb(top: Path) -> Path:
    """A bin of the instrument as it is now; the second trigger has no image."""
    content, rows = b"", []
    for k, (_, _, image) in enumerate(every()):
        width, height = (0, 0) if k == 1 else image.size
        cells = [0] * 24
        cells[15:18] = width, height, len(content)
        rows.append(",".join(map(str, cells)))
        content += image.tobytes() if width else b""
    write(top / "D20130526T095207_IFCB013.adc", *rows)
    write(top / "D20130526T095207_IFCB013.hdr", "runTime: 1")
    (top / "D20130526T095207_IFCB013.roi").write_bytes(content)
    return top


ALL = N * len(CLASSES)
# layout: what is understood, and what the first lines say of it
UNDERSTOOD = [
    (classes, {}, (ALL, CLASSES, ""), ["labels from the names of folders", "white (255)"]),
    (nested_classes, {}, (ALL, CLASSES, ""), ["labels from the names of folders"]),
    (one_level_too_high, {}, (ALL, CLASSES, ""), ["folders below PlanktonSet/images"]),
    (flat, {}, (0, (), ""), [f"{ALL} images of", "no labels"]),
    (flat_in_one_folder, {}, (0, (), ""), ["no labels"]),
    (mixed, {}, (ALL, CLASSES, ""), [f"{2 * ALL + 1} images of", f"{ALL + 1} without a label"]),
    (links, {"follow_links": True}, (ALL, CLASSES, ""), ["read already: "]),
    (presplit, {}, (ALL, CLASSES, "test train val"), ["Train, testing, valid give it"]),
    (presplit_without_test_labels, {}, (15, CLASSES, "test train"), ["3 without a label"]),
    (rare_and_empty, {}, (14, CLASSES, ""), ["1 empty class folders left out: empty"]),
    (table_csv, {}, (ALL, CLASSES, ""), ["labels from labels.csv, column 'label': 18 of 18"]),
    (table_as_place, {}, (ALL, CLASSES, ""), ["labels from labels.csv"]),
    (table_gzipped_windows, {}, (ALL, CLASSES, ""), ["from labels.csv.gz, column 'Class'"]),
    (table_parquet_with_splits, {}, (ALL, CLASSES, "test train"), ["split as the table gives"]),
    (table_of_a_part, {}, (14, CLASSES, ""), ["4 images have no row", "2 rows of labels.csv have"]),
    (ecotaxa_export, {}, (2 * ALL, ("Acantharia", "Chaetognatha", "part_Crustacea"), ""),
     ["18 objects with up to 2 images each", ".log 1"]),
    (ecotaxa_backup, {}, (15, CLASSES, ""), ["3 labels of the table are predicted", "2 tables"]),
    (ecotaxa_backup, {"validated_only": False}, (ALL, CLASSES, ""), ["used as they are"]),
    (zip_of_classes, {}, (ALL, CLASSES, ""), ["folders below plankton", "left out: empty"]),
    (zip_of_windows, {}, (ALL, CLASSES, ""), ["18 names in the zip have backslashes"]),
    (zip_of_ecotaxa, {}, (15, CLASSES, ""), ["3 labels of the table are predicted"]),
    (tiff_12_in_16, {}, (ALL, CLASSES, ""), ["hold 12: scaled by 0 to 4095"]),
    (tiff_8_in_16, {}, (ALL, CLASSES, ""), ["hold 8: scaled by 0 to 255"]),
    (dark_field, {}, (ALL, CLASSES, ""), ["background: black (0)"]),
    (scale_bar, {"crop_bottom": "auto"}, (ALL, CLASSES, ""), ["31 pixels under every picture"]),
    (pages, {}, (0, (), ""), ["18 images of", "1 TIFFs of several pages"]),
    (pages, {"pages": "first"}, (0, (), ""), ["1 images of", "17 pages beyond the first"]),
    (pages_as_place, {}, (0, (), ""), ["18 images of"]),
    (flowcam, {}, (0, (), ""), ["18 images of", "18 images cut from 1 FlowCam collages",
     "a FlowCam's calibration image: run1/cal_image_000001.tif", "no .lst beside it"]),
    (ifcb, {}, (0, (), ""), ["17 images of", "17 images in 1 IFCB bins"]),
]  # fmt: skip


def read(place: Path, **options):
    home = next(path for path in place.parents if path.name == "home")
    return open_images(place, Reading(**({"size": 16, "cache_dir": home / "cache"} | options)))


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("layout", "options", "want", "said"),
    UNDERSTOOD,
    ids=["-".join([case[0].__name__, *case[1]]) for case in UNDERSTOOD],
)
def test_understood(layout: Callable[[Path], Path], options, want, said, home):
    place = layout(home / "data")
    images, report = read(place, **options)
    labelled, names, splits = want
    assert (images.labels >= 0).sum() == labelled
    assert images.class_names == names
    assert " ".join(sorted({*images.split} - {""})) == splits
    for words in said:
        assert words in str(report)
    assert len(images) == sum(report.counts.values()) + report.unlabelled
    again, _ = read(place, **options)  # from the cache
    assert again.fingerprint() == images.fingerprint()
    np.testing.assert_array_equal(again.images(), images.images())
    parts = split_protocol(images, seed=0)
    assert len(parts.train) > 0
    held = {*parts.val.ids, *parts.test.ids, *parts.unseen.ids}
    assert not held & {*parts.train.ids}
    assert not {*parts.train.groups.tolist()} & {*parts.test.groups.tolist()}


# ---------------------------------------------------------------- pixels and labels, image by image


@pytest.mark.parametrize("limit", [2**31, 0])
@pytest.mark.parametrize(
    "layout",
    [classes, table_csv, zip_of_classes, zip_of_windows, tiff_8_in_16, pages, flowcam, ifcb],
)
def test_pixels_are_those_of_the_picture(layout, limit, home, monkeypatch):
    monkeypatch.setattr(scan, "MAX_CACHED_BYTES", limit)
    images, _ = read(layout(home / "data"), labels_from="none")
    want = [image for _, _, image in every()]
    if layout is ifcb:
        del want[1]
    if layout is pages:
        want = [image.resize((16, 16)) for image in want]
    if layout is flowcam:
        want = [image.resize((20, 18)) for image in want]
    square = [np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) for image in want]
    np.testing.assert_array_equal(images.images()[..., 0], np.stack(square))


@pytest.mark.parametrize(
    "layout",
    [table_csv, table_gzipped_windows, table_parquet_with_splits, ecotaxa_backup, zip_of_ecotaxa],
)
def test_every_image_has_the_label_of_its_row(layout, home):
    images, _ = read(layout(home / "data"), validated_only=False)
    square = {
        image.resize((16, 16), Image.Resampling.BILINEAR).tobytes(): name
        for name, _, image in every()
    }
    for pixels, label in zip(images.images(), images.labels, strict=True):
        assert square[pixels.tobytes()] == images.class_names[label]


def test_images_of_an_ecotaxa_object_share_a_group_and_keep_its_name(home):
    images, report = read(ecotaxa_export(home / "data"))
    objects = [report.object_ids[id_] for id_ in images.ids]
    assert objects[0].startswith("net_")
    for i, a in enumerate(objects):
        same = images.groups == images.groups[i]
        assert same.tolist() == [a == b for b in objects]


def test_a_copy_joins_the_groups_of_two_objects(home):
    top = ecotaxa_export(home / "data") / "images"
    copy = (top / TAXA[0] / "0_1.png").read_bytes()
    (top / TAXA[2] / "203_0.png").write_bytes(copy)
    images, _ = read(home / "data")
    group = dict(zip(images.ids, images.groups.tolist(), strict=True))
    joined = [f"images/{TAXA[0]}/0_{i}.png" for i in (0, 1)]
    joined += [f"images/{TAXA[2]}/203_{i}.png" for i in (0, 1)]
    assert len({group[id_] for id_ in joined}) == 1
    assert len({*group.values()}) == ALL - 1


@pytest.mark.parametrize("scale", [1, 4, 16, 64, 257])
def test_deep_pixels_are_scaled_by_the_range_of_the_set(scale, home):
    """Not of the picture: what is dim beside the others stays dim."""
    top = _deep(home / "data", scale)
    white = {1: 255, 4: 1023, 16: 4095, 64: 16383, 257: 65535}[scale]
    images, _ = read(top)
    for pixels, (_, _, image) in zip(images.images(), every(), strict=True):
        eight = np.rint(np.asarray(image).astype(np.float64) * scale * 255 / white)
        small = Image.fromarray(eight.astype(np.uint8)).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.abs(pixels[..., 0].astype(int) - np.asarray(small)).max() <= 1


def test_padding_has_the_background_of_the_set(home):
    images, report = read(dark_field(home / "data"), fit="pad")
    assert report.background == 0
    for pixels in images.images():
        assert pixels[0, 0, 0] <= 2
    white, _ = read(home / "data", fit="pad", background=255)
    assert {pixels[0, 0, 0] for pixels in white.images()} == {255, 0}  # some fill the square
    assert read(home / "data", fit="pad")[0].images()[:, 0, 0].max() <= 2  # from the cache


def test_without_the_bar_the_picture_is_whole(home):
    images, report = read(scale_bar(home / "data"), crop_bottom="auto")
    assert report.crop_bottom == 31
    left, said = read(home / "data")
    assert "caption of 31 pixels lies under every picture" in said.warnings[0]
    assert said.crop_bottom == 0
    assert not np.array_equal(left.images(), images.images())
    named, told = read(home / "data", crop_bottom=31)
    np.testing.assert_array_equal(told.crop_example, report.crop_example)
    np.testing.assert_array_equal(images.images(), named.images())
    first = Image.open(images.paths[0]).convert("L")
    cut = first.crop((0, 0, first.width, first.height - 31))
    both = report.crop_example[..., 0]
    np.testing.assert_array_equal(both[:, : first.width], np.asarray(first))
    np.testing.assert_array_equal(both[:-31, first.width + 8 :], np.asarray(cut))
    want = np.asarray(cut.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[0]["image"][..., 0], want)
    plain = read(classes(home / "plain"), crop_bottom="auto")[1]
    assert (plain.crop_bottom, plain.crop_example) == (0, None)
    assert read(home / "plain")[1].warnings == ()


@pytest.mark.parametrize("group_by", [r"cast\d", "cast(.)"])
def test_groups_by_a_regular_expression(group_by, home):
    images, report = read(nested_classes(home / "data"), group_by=group_by)
    cast = [id_.split("/")[1] for id_ in images.ids]
    assert len(set(zip(cast, images.groups.tolist(), strict=True))) == 2
    assert "2 groups by" in str(report)


def test_groups_by_a_regular_expression_join_objects_and_take_pages_apart(home):
    images, _ = read(ecotaxa_export(home / "export"), group_by=r"_(\d)\.png")
    assert len(set(images.groups.tolist())) == 1  # objects have an image in either group
    images, _ = read(pages(home / "pages"), group_by=r"#(.)")
    assert len(set(images.groups.tolist())) == 2  # 01 to 09 and 10 to 18


def test_groups_by_a_column(home):
    table_csv(home / "data")
    table = home / "data" / "labels.csv"
    head, *rows = table.read_text().splitlines()
    write(table, f"{head},cruise", *(f"{row},leg{k % 3}" for k, row in enumerate(rows)))
    images, _ = read(home / "data", group_by="Cruise")
    assert len(set(images.groups.tolist())) == 3


def test_old_ifcb_bins_have_other_columns(home):
    cells = [0] * 15
    cells[11:14] = 4, 3, 2
    top = home / "data"
    write(top / "IFCB1_2009_158_210055.adc", ",".join(map(str, cells)))
    (top / "IFCB1_2009_158_210055.roi").write_bytes(struct.pack("14B", *range(14)))
    images, _ = read(top, size=4, fit="pad", background=99)
    assert images.ids == ("IFCB1_2009_158_210055_00001",)
    assert images[0]["image"][:, :, 0].tolist()[:3] == [[*range(i, i + 4)] for i in (2, 6, 10)]


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"channels": 2}, {"background": 256}, {"crop_bottom": -1}, {"pixel_size": 0.0}],
)
def test_readings_out_of_range(options):
    with pytest.raises(ValueError, match="a reading needs size >= 1"):
        Reading(**{"size": 8} | options)


def test_pipes_are_not_waited_for(home):
    classes(home / "data")
    for name in ("labels.csv", "run.lst", "stack.tif", "D1.adc"):
        os.mkfifo(home / "data" / name)
    (home / "data" / "D1.roi").touch()
    with pytest.raises(InputError, match=r"run\.lst is no regular file"):
        read(home / "data")
    (home / "data" / "run.lst").unlink()
    with pytest.raises(InputError, match=r"D1\.adc is no regular file"):
        read(home / "data")
    (home / "data" / "D1.roi").unlink()
    images, report = read(home / "data", on_bad_image="skip", crop_bottom="auto")
    assert len(images) == ALL
    assert report.unreadable == {"stack.tif": "not a regular file"}


def refusal(place: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(place, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_links_to_folders_alone(home):
    text = refusal(links(home / "data"))
    assert "3 links to folders that are not followed ('acantharia_protist'): follow links" in text


def test_a_table_whose_images_are_elsewhere(home):
    table_csv(home / "data")
    (home / "data" / "images").rename(home / "moved")
    for place in (home / "data", home / "data" / "labels.csv"):
        text = refusal(place)
        assert "names 18 images and 0 of them are among the 0 images" in text
        assert "missing, for one: 'images/aca0.png'; set the image root" in text
    (home / "other").mkdir()
    (home / "moved").rename(home / "other" / "images")
    images, _ = read(home / "data" / "labels.csv", image_root=str(home / "other"))
    assert images.class_names == CLASSES
    images, _ = read(home / "other", labels_from=str(home / "data" / "labels.csv"))
    assert images.class_names == CLASSES
    flat(home / "flat")
    text = refusal(home / "flat", labels_from=str(home / "data" / "labels.csv"))
    assert "0 of them are among the 18 images" in text
    assert "no table" in refusal(home / "flat", labels_from="nowhere.csv")


@pytest.mark.parametrize(
    ("header", "row", "options", "said"),
    [
        ("path,label,class", "{},a,b", {}, "2 columns that could be the label: 'label', 'class'"),
        ("where,label", "{},a", {"labels_from": "t"}, "no column that names images"),
        ("path,label", "{},a", {"label_column": "taxum"}, "no column 'taxum'; its columns: path"),
        ("path,label,label", "{},a,b", {"labels_from": "t"}, "'label' names two columns"),
        ("path,label", "{0},a\n{0},b", {}, "gives 'x/0.png' two labels, 'a' and 'b'"),
        ("path,label", "{},a", {"group_by": "("}, "no regular expression"),
        ("path,label", "{},a", {"group_by": "haul"}, "no image's path matches it"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit(header, row, options, said, home):
    put(home / "data" / "x" / "0.png", every()[0][2])
    write(home / "data" / "t.csv", header, row.format("x/0.png"))
    if options.get("labels_from"):
        options = {"labels_from": str(home / "data" / "t.csv")}
    assert said in refusal(home / "data", **options)


def test_two_columns_are_told_apart_by_name_and_folders_can_be_taken_instead(home):
    for name in ("x", "y"):
        put(home / "data" / name / "0.png", every()[0][2])
    write(home / "data" / "t.csv", "path,label,class", "x/0.png,a,b", "y/0.png,c,b")
    assert read(home / "data", label_column="label")[0].class_names == ("a", "c")
    images, report = read(home / "data")  # nobody named the table, and the folders tell
    assert images.class_names == ("x", "y")
    assert "a table beside the images is not used" in report.warnings[0]
    assert read(home / "data", labels_from="folders")[1].other_files == ("t.csv",)


@pytest.mark.parametrize("damage", ["cut", "not gzip", "text"])
def test_damaged_tables(damage, home):
    name = {"cut": "l.csv.gz", "not gzip": "m.csv.gz", "text": "n.parquet"}[damage]
    content = gzip.compress(b"path,label\n" * 99)[:-9] if damage == "cut" else b"path,label\n"
    home.mkdir()
    (home / name).write_bytes(content)
    assert str(home / name) in refusal(home / name)


def test_labels_in_two_spellings(home):
    table_csv(home / "data")
    text = (home / "data" / "labels.csv").read_text()
    write(home / "data" / "labels.csv", text.replace("acantharia_protist", "Acantharia protist", 1))
    assert "one class in two spellings, 'Acantharia protist' (1 images)" in refusal(home / "data")


def zip_file(path: Path, members: dict[str, bytes], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "name", ["../0.png", "/etc/0.png", "a/../../0.png", "C:\\0.png", "..\\0.png"]
)
def test_a_zip_with_a_name_that_leads_outside(name, home):
    text = refusal(zip_file(home / "x.zip", {name: b""}))
    assert "leads outside of it; do not use this zip" in text


def test_a_zip_that_is_damaged_or_encrypted(home):
    path = zip_of_classes(home / "data")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is no zip, or it is cut short or damaged" in refusal(path)
    locked = bytearray(whole)
    place = locked.index(b"PK\x01\x02", locked.index(b"PK\x01\x02") + 4)
    for at in range(len(locked)):
        if locked[at : at + 4] == b"PK\x01\x02":
            locked[at + 8] |= 1
    assert place > 0
    path.write_bytes(locked)
    assert "is encrypted ('plankton/" in refusal(path)
    broken = bytearray(whole)
    broken[whole.index(b"IDAT") + 8] ^= 255
    path.write_bytes(broken)
    with pytest.raises(
        InputError, match=r"1 files of .*\n  plankton/.*0\.png: damaged inside the zip"
    ):
        read(path)


def test_a_bomb_is_refused_before_it_unrolls(home, monkeypatch):
    path = zip_file(home / "x.zip", {"a/0.png": bytes(4_000_000)}, compression=8)
    with pytest.raises(InputError, match="1 files of"):  # small, but no image
        read(path)
    monkeypatch.setattr("jaxssl.data.zips._BOMB_BYTES", 1_000_000)
    assert "times its size: more than images do" in refusal(path)


def test_links_in_a_zip_are_not_followed(home):
    put(home / "0.png", every()[0][2])
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(home / "x.zip", "w") as file:
        file.write(home / "0.png", "a/0.png")
        file.writestr(link, "/etc/passwd")
    images, report = read(home / "x.zip")
    assert images.ids == ("a/0.png",)
    assert report.warnings == ("a link in the zip is not followed: a/link.png",)


def test_a_small_table_that_stands_for_gigabytes_is_refused(tmp_path):
    """A text of 16 kB, once on the disk and 20,000 times in the table."""
    column = pyarrow.array(["x" * 2**14] * 20_000)
    path = tmp_path / "labels.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"path": column}), path, compression="zstd")
    assert path.stat().st_size < 10**6
    file = ImageFile(path.name, Source(str(path)), (0, 0))
    with pytest.raises(InputError, match="larger unpacked than the 256 MiB of a table"):
        tables.read_table(file)


def test_a_gzipped_table_sets_nothing_aside(tmp_path):
    path = tmp_path / "labels.csv.gz"
    path.write_bytes(gzip.compress(b"path,label\na.png,cat\n"))
    tracemalloc.start()
    table = tables.read_table(ImageFile(path.name, Source(str(path)), (0, 0)))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert table.column("label") == ["cat"]
