"""What the page says of a run's own classifier, against counts by hand."""

import dataclasses
import json
import math

import pytest

from jaxssl.analysis.page import FigureFiles
from jaxssl.analysis.results import Classification
from jaxssl.analysis.sections.classifier import described
from jaxssl.files import plain

FOUND = Classification(
    accuracy=12 / 18,
    top={},
    per_class={"a": 0.8, "b": 0.5, "none": None},
    confusion=((8, 1, 1), (4, 4, 0), (0, 0, 0)),
    classes=("a", "b", "none"),
)


def wilson(right, n, z=1.959963984540054):
    p = right / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@pytest.fixture
def found(tmp_path):
    return described(FOUND, FigureFiles(tmp_path))


def test_the_total_has_its_interval_after_wilson(found):
    total = found["total"]
    assert (total["right"], total["images"]) == (12, 18)
    assert total["mean"] == pytest.approx(FOUND.accuracy)
    assert (total["low"], total["high"]) == pytest.approx(wilson(12, 18))


def test_the_worst_class_is_first_and_says_what_it_is_taken_for(found):
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["b", "a", "none"]
    assert (rows["b"]["mean"], rows["b"]["taken_for"]) == (0.5, ("a", 4))
    assert (rows["b"]["low"], rows["b"]["high"]) == pytest.approx(wilson(4, 8))
    assert (rows["a"]["mean"], rows["a"]["taken_for"]) == (0.8, ("b", 1))
    assert (rows["none"]["mean"], rows["none"]["taken_for"]) == (None, None)


def test_the_matrix_has_counts_in_shades_of_their_rows(found):
    cells = [[cell["text"] for cell in row["cells"]] for row in found["matrix"]["rows"]]
    assert cells == [["8", "1", "1"], ["4", "4", ""], ["", "", ""]]
    shades = [[cell["shade"] for cell in row["cells"]] for row in found["matrix"]["rows"]]
    assert shades == [["b25", "b3", "b3"], ["b16", "b16", ""], ["", "", ""]]
    assert [row["count"] for row in found["matrix"]["rows"]] == [10, 8, 0]


def test_picture_and_numbers_stand_beside_the_page(found, tmp_path):
    assert json.loads((tmp_path / "confusion.json").read_text()) == plain(FOUND)
    assert (tmp_path / "confusion.png").stat().st_size > 0


def test_top_shares_stand_where_they_were_measured(found, tmp_path):
    assert found["top"] == {}
    more = dataclasses.replace(FOUND, top={"1": 0.66, "3": 0.9, "5": 1.0})
    assert described(more, FigureFiles(tmp_path))["top"] == {"3": 0.9, "5": 1.0}
