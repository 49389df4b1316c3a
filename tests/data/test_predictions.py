"""Predictions as others read them: csv, pyarrow, and EcoTaxa's own columns."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet
import pytest

from jaxssl.data import Prediction, Reading, open_images, write_predictions
from jaxssl.errors import InputError

HOSTILE = ("=cmd|'/c calc'!A1", "+1", "-1", "@x", "a,b", 'q"', "é\n", "<script>", "\tx")
ROWS = [
    *(Prediction(f"{name}/0.png", name, 0.25 + k / 20) for k, name in enumerate(HOSTILE)),
    Prediction("a/1.png", "a", 1.0, "/data/a/1.png", "net_1", {"a": 1.0, "=b": 0.0}),
    Prediction("a/1_1.png", "c", 0.5, "", "net_1", {"a": 0.5}),
]


def test_csv_keeps_names_and_no_formula(tmp_path):
    assert write_predictions(tmp_path / "x.csv", ROWS, min_score=0.5) == 6
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["id", "path", "predicted", "score", "object_id", "score a", "score =b"]
    assert len(lines) == len(ROWS)
    for row, line in zip(ROWS, lines, strict=True):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in line)
        assert line[0].removeprefix("'") == row.id
        assert line[2].removeprefix("'") == (row.label if row.score >= 0.5 else "")
        assert float(line[3]) == pytest.approx(row.score)


def test_parquet_keeps_all_as_it_is(tmp_path):
    write_predictions(tmp_path / "x.PARQUET", ROWS)
    table = pyarrow.parquet.read_table(tmp_path / "x.PARQUET").to_pydict()
    assert table["id"] == [row.id for row in ROWS]
    assert table["predicted"] == [row.label for row in ROWS]
    assert table["score"] == pytest.approx([row.score for row in ROWS])
    assert table["score a"][-2:] == [1.0, 0.5]


def test_an_ecotaxa_file_goes_back_with_its_ids_and_can_be_read_here(tmp_path):
    rows = [*ROWS[:-3:-1], Prediction("s 1/b  2.png", "c", 0.7), Prediction("d\t.png", "a\nb", 0.2)]
    assert write_predictions(tmp_path / "x.tsv", rows, min_score=0.6) == 3
    names, kinds, *lines = [
        line.split("\t") for line in (tmp_path / "x.tsv").read_text().splitlines()
    ]
    assert kinds == ["[t]", "[f]", "[t]", "[t]", "[t]", "[f]"]
    table = [dict(zip(names, line, strict=True)) for line in lines]
    assert [row["img_file_name"] for row in table] == [
        "a/1_1.png",
        "a/1.png",
        "s 1/b  2.png",
        "d .png",
    ]
    assert [row["img_rank"] for row in table] == ["0", "1", "0", "0"]
    assert [row["object_id"] for row in table] == ["net_1", "net_1", "b  2", "d "]
    # An object has one class: its most certain image's.
    assert [row["object_annotation_category"] for row in table] == ["a", "a", "c", ""]
    assert [row["object_annotation_status"] for row in table] == ["predicted"] * 3 + [""]
    assert [float(row["object_prediction_score"]) for row in table] == [1.0, 1.0, 0.7, 0.2]


def test_the_file_is_a_table_of_labels_to_the_reader(tmp_path, monkeypatch):
    from PIL import Image

    for name in ("x/0.png", "x/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (5, 5), int(name[2]) * 50).save(tmp_path / name)
    rows = [Prediction("x/0.png", "a", 0.9, "", "o0"), Prediction("x/1.png", "b", 0.8, "", "o1")]
    write_predictions(tmp_path / "ecotaxa_x.tsv", rows)
    reading = Reading(4, validated_only=False, cache_dir=tmp_path / "cache")
    images, report = open_images(tmp_path, reading)
    assert [images.class_names[label] for label in images.labels] == ["a", "b"]
    assert report.object_ids == {"x/0.png": "o0", "x/1.png": "o1"}


@pytest.mark.parametrize("name", ["x.txt", "x", "x.csv.gz"])
def test_other_endings(name, tmp_path):
    with pytest.raises(InputError, match=r"written as \.csv, \.parquet, \.tsv"):
        write_predictions(tmp_path / name, ROWS)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".tsv"])
def test_a_folder_that_is_not_there(ending, tmp_path):
    path = tmp_path / "nowhere" / f"x{ending}"
    with pytest.raises(InputError, match=f"cannot write {path}: No such file"):
        write_predictions(path, ROWS)


@pytest.mark.parametrize("score", [1.1, -0.1, float("nan")])
def test_scores_are_probabilities(score, tmp_path):
    with pytest.raises(ValueError, match="outside 0 to 1"):
        write_predictions(Path(tmp_path, "x.csv"), [Prediction("a", "b", score)])
