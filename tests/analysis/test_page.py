"""Pieces of a page: order of classes, shaded tables, files beside the page."""

import json
import re
from pathlib import Path

import jinja2
import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxssl.analysis import page


def test_seriation_finds_the_order_of_points_on_a_line():
    rng = np.random.default_rng(0)
    positions = rng.permutation(12).astype(float)
    distances = abs(positions[:, None] - positions[None, :])
    np.fill_diagonal(distances, 20 * rng.random(12))  # a class's own spread must not matter
    distances[3, 3] = np.nan  # nor a class of one image
    order = positions[page.seriation(distances)]
    assert (np.diff(order) > 0).all() or (np.diff(order) < 0).all()


def test_seriation_of_one_class():
    assert page.seriation([[None]]) == [0]


def test_matrix_table_shades_from_smallest_to_largest():
    rows = page.matrix_table([[1.0, 2.0], [None, 3.0]], ["a", "b"], {"a": 7})
    assert [row["name"] for row in rows] == ["a", "b"]
    assert [row["count"] for row in rows] == [7, 0]
    cells = [cell for row in rows for cell in row["cells"]]
    assert [cell["text"] for cell in cells] == ["1.00", "2.00", "–", "3.00"]
    assert [cell["shade"] for cell in cells] == ["s0", "s16", "", "s31"]
    assert page.matrix_table([[2.0]], ["a"], {})[0]["cells"][0]["shade"] == "s0"


def test_matrix_table_with_limits_and_texts_of_its_own():
    (row,) = page.matrix_table([[1.0]], ["a"], {}, texts=[["7"]], limits=(0.0, 2.0))
    assert row["cells"] == [{"text": "7", "shade": "s16"}]


def test_shades_are_readable():
    rules = page.shades_css().split("}")[:-1]
    assert len(rules) == 2 * 32
    for rule in rules:
        background, text = (part.split(":")[1] for part in rule.split("{")[1].split(";"))
        channels = np.array([int(background[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        bright = linear @ [0.2126, 0.7152, 0.0722]
        contrast = (bright + 0.05) / 0.05 if text == "#000" else 1.05 / (bright + 0.05)
        assert contrast >= 4.5  # WCAG AA


def test_figure_files_lie_beside_the_page_under_any_name(tmp_path):
    files = page.FigureFiles(tmp_path)
    made = files.add("unseen-a b#1%", {"x": np.array([np.nan, 2.0])}, alt="x", wide=Figure())
    assert made == {
        "png": "unseen-a%20b%231%25.png",
        "json": "unseen-a%20b%231%25.json",
        "alt": "x",
        "csv": None,
    }
    assert json.loads((tmp_path / "unseen-a b#1%.json").read_text()) == {"x": [None, 2.0]}
    assert (tmp_path / "unseen-a b#1%.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_needs_all_its_values():
    with pytest.raises(jinja2.UndefinedError):
        page.render("report.html.j2")


def test_nothing_from_outside_is_left_unescaped():
    """Only what this room makes itself goes in as it is: style, script, SVG."""
    made_here = {
        "css",
        "script",
        "linked_script",
        "figure.wide",
        "figure.narrow",
        """' class="visually-hidden"'""",
    }
    found = set()
    for template in Path(page.__file__).parent.rglob("*.j2"):
        text = template.read_text(encoding="utf-8")
        assert "autoescape" not in text, template
        found |= set(re.findall(r"{{\s*([^{}]+?)\s*\|\s*safe\b", text))
    assert found == made_here
