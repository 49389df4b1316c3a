"""Habits beside those of test_layouts: tables as spreadsheets and scripts write them, splits."""

from __future__ import annotations

import gzip
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxssl.data import Reading, open_images, split_protocol
from jaxssl.errors import InputError

DECOMPOSED = unicodedata.normalize("NFD", "é")


def put(path, value=0):
    """A picture that no other equals or resembles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shades = np.random.default_rng([value, *path.as_posix()[-12:].encode()]).integers(
        0, 256, (9, 9)
    )
    Image.fromarray(shades.astype(np.uint8)).save(path)


def pictures(top, name="images/{label}{i}.png", labels="ab", count=4):
    for label in labels:
        for i in range(count):
            put(top / name.format(label=label, i=i))


def rows(form="images/{label}{i}.png", labels="ab", count=4):
    return [(form.format(label=label, i=i), label) for label in labels for i in range(count)]


def text(header, lines, sep=","):
    return "\r\n".join([header, *(sep.join(map(str, line)) for line in lines)]) + "\r\n"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def read(place, **options):
    return open_images(place, Reading(8, cache_dir=place.parent / "cache", **options))


def labels_of(images):
    return [images.class_names[c] if c >= 0 else None for c in images.labels]


# What is written in labels.csv beside the pictures of two classes: all of them are understood.
TABLES = {
    "semicolons and an upper header": text("IMAGE;CLASS", rows(), ";"),
    "Excel's first line": "sep=;\n" + text("path;label", rows(), ";"),
    "a comment first": "# exported by X\n" + text("path,label", rows()),
    "pipes": text("path|label", rows(), "|"),
    "UTF-16": text("path\tlabel", rows(), "\t").encode("utf-16"),
    "UTF-16 without its mark": text("path,label", rows()).encode("utf-16-le"),
    "old line ends": text("path,label", rows()).replace("\r\n", "\r"),
    "no header": text("images/a0.png,a", rows()[1:]),
    "spaces": text(" path , label ", [(f" {p} ", f" {c} ") for p, c in rows()]),
    "another machine's Windows": text("path,label", rows(r"C:\x\images\{label}{i}.png")),
    "another ending": text("path,label", rows("raw/{label}{i}.TIF")),
    "another case": text("path,label", rows("IMAGES/{label}{i}.PNG")),
    "addresses": text("url,label", rows("https://x.org/images/{label}{i}.png")),
    "a folder apart": text(
        "folder,file,label", [("images", p.partition("/")[2], c) for p, c in rows()]
    ),
    "a column twice": text("path,label,label", [(p, c, c) for p, c in rows()]),
    "EcoTaxa in capitals": text(
        "OBJECT_ID\tIMG_FILE_NAME\tOBJECT_ANNOTATION_CATEGORY\tclass",
        [("[t]",) * 4, *((p, p, c, i) for i, (p, c) in enumerate(rows()))],
        "\t",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_as_others_write_them(kind, home):
    pictures(home)
    content = TABLES[kind]
    (home / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert labels_of(read(home)[0]) == ["a"] * 4 + ["b"] * 4


def test_two_gzipped_tables_named_as_a_split_are_one(home):
    pictures(home)
    for name, part in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        table = text("path,label", rows()[part]).encode()
        (home / f"{name}.csv.gz").write_bytes(gzip.compress(table))
    images, report = read(home)
    assert images.split == ("train", "test") * 4
    assert "split as the tables test, train give it" in report.said


@pytest.mark.parametrize("written", ["{i}", "{i}.0", "{i:02d}"])
def test_numbers_that_a_spreadsheet_rewrote(written, home):
    for i in range(6):
        put(home / "images" / f"{i:05d}.png")
    lines = [(written.format(i=i), "ab"[i % 2]) for i in range(6)]
    (home / "labels.csv").write_text(text("id,label", lines))
    images = read(home)[0]
    assert dict(zip(images.ids, labels_of(images), strict=True)) == {
        f"images/{i:05d}.png": "ab"[i % 2] for i in range(6)
    }


def test_names_and_labels_in_another_unicode_form(home):
    pictures(home, labels=(DECOMPOSED, "b"))
    found = [
        (p, DECOMPOSED if i % 2 and c == "é" else c) for i, (p, c) in enumerate(rows(labels="éb"))
    ]
    (home / "labels.csv").write_text(text("path,label", found))
    assert labels_of(read(home)[0]) == ["b"] * 4 + ["é"] * 4


@pytest.mark.parametrize("gap", ["", "nan", "NaN", "NA", "None", "null", "unlabelled", "<NA>"])
def test_gaps_are_no_class_and_numbers_are_whole(gap, home):
    pictures(home)
    lines = [(p, gap if p.endswith("3.png") else f"{'ab'.index(c)}.0") for p, c in rows()]
    (home / "labels.csv").write_text(text("path,label", lines))
    images = read(home)[0]
    assert images.class_names == ("0", "1")
    assert labels_of(images).count(None) == 2


def test_a_table_that_names_images_and_no_label_is_mentioned(home):
    pictures(home)
    (home / "labels.csv").write_text(text("path,kind", rows()))
    assert "labels.csv names images, and none of its columns is one of" in read(home)[1].warnings[0]
    assert labels_of(read(home, label_column="kind")[0]) == ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_images", "test_images"),
        ("Train", "TEST"),
        ("01_training", "02_testing"),
        ("trainset", "testset"),
    ],
)
def test_splits_by_other_names(train, test, home):
    pictures(home / train, "{label}/{i}.png")
    pictures(home / test, "{label}/9{i}.png")
    images, report = read(home)
    assert images.class_names == ("a", "b")
    assert set(images.split) == {"train", "test"}
    assert f"split as the folders {', '.join(sorted((train, test)))} give it" in report.said


def test_a_split_inside_the_classes(home):
    for part, count in (("train", 4), ("val", 2)):
        pictures(home, "{label}/" + part + "/{i}" + part + ".png", count=count)
    images = read(home)[0]
    assert images.class_names == ("a", "b")
    assert sorted(images.split) == ["train"] * 8 + ["val"] * 4
    parts = split_protocol(images, seed=0)
    assert set(parts.test.split) == {"val"}


def test_folders_of_unlabelled_images_under_other_names(home):
    pictures(home, "{label}/{i}.png", labels=("a", "b", "_Unsorted", "No label"))
    assert labels_of(read(home)[0]) == ["a"] * 4 + ["b"] * 4 + [None] * 8


@pytest.mark.parametrize("seen", [None, ["a", "b"]])
def test_a_test_folder_of_copies_leaves_nothing_to_learn_classes_from(seen, home):
    pictures(home / "train", "{label}/{i}.png")
    (home / "test").mkdir()
    for label in "ab":
        (home / "train" / label).rename(home / "test" / label)
        (home / "train" / label).mkdir()
        for path in (home / "test" / label).iterdir():
            (home / "train" / label / path.name).write_bytes(path.read_bytes())
    images = read(home)[0]
    if seen:
        with pytest.raises(InputError, match="class 'a' has no training image"):
            split_protocol(images, seen=seen, seed=0)
        return
    parts = split_protocol(images, seed=0)
    assert "no class has an image held out by the given split, and two in training" in parts.note[0]
    assert (parts.train.class_names, len(parts.val), len(parts.test)) == ((), 0, 8)


def test_classes_too_small_to_judge_are_learnt_from_without_labels(home):
    pictures(home, "{label}/{i}.png", labels="abcdef", count=2)
    parts = split_protocol(read(home)[0], seed=0)
    assert "labels are not used" in parts.note[0]
    assert len(parts.train) == 12
    assert (parts.train.labels < 0).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("labels.xlsx", "is no table read here: save it as CSV, TSV or Parquet"),
        ("labels.json", "is no table read here"),
    ],
)
def test_tables_of_other_programs(name, said, home):
    pictures(home)
    (home / name).write_bytes(b"PK")
    with pytest.raises(InputError, match=said):
        read(home, labels_from=str(home / name))


def test_two_columns_of_one_name_that_differ(home):
    pictures(home)
    (home / "labels.csv").write_text(text("path,label,label", [(p, c, "x") for p, c in rows()]))
    with pytest.raises(InputError, match="'label' names two columns, which differ"):
        read(home, labels_from=str(home / "labels.csv"))


def test_archives_inside_are_named(home):
    (home / "a.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"unpack 'a.zip': archives inside are not opened"):
        read(home)


def test_a_class_in_the_two_forms_of_unicode_is_told_apart_in_the_line(home):
    for k, name in enumerate((DECOMPOSED, "é", "b")):
        put(home / name / f"{k}.png")
    with pytest.raises(InputError, match=r"'e\\u0301' \(1 images\) and '\\xe9' \(1\)"):
        read(home)
