"""The figures of matrices hold the numbers that went in."""

import numpy as np
import pytest

from jaxssl.analysis.drawing import save_png
from jaxssl.analysis.matrices import confusion_matrix, distance_matrix

NAN = float("nan")


def cells_of(ax):
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in ax.texts}


def test_matrix_has_its_number_in_every_cell_and_a_framed_diagonal():
    matrix = np.array([[0.5, 80.0], [12.34, NAN]])
    ax = distance_matrix(matrix, ["a", "b"], unit="degrees").axes[0]
    cells = cells_of(ax)
    assert {at: t.get_text() for at, t in cells.items()} == {
        (0, 0): "0.50",
        (0, 1): "80",
        (1, 0): "12.3",
        (1, 1): "–",
    }
    assert cells[0, 1].get_color() == "black"  # on yellow
    assert cells[0, 0].get_color() == "white"  # on dark blue
    frames = [patch.get_xy() for patch in ax.patches]
    assert [(round(x + 0.46), round(y + 0.46)) for x, y in frames] == [(0, 0), (1, 1)]


def test_matrix_refuses_another_shape_and_survives_no_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"\(1, 2\), wanted \(2, 2\)"):
        distance_matrix([[1, 2]], ["a", "b"], unit="degrees")
    save_png(distance_matrix([[NAN]], ["a"], unit="degrees"), tmp_path / "m.png")


def test_confusion_shows_counts_and_colours_shares_of_a_row():
    ax, bar = confusion_matrix([[1500, 500], [0, 3]], ["a", "b"]).axes
    cells = {at: text.get_text() for at, text in cells_of(ax).items()}
    assert cells == {(0, 0): "1,500", (0, 1): "500", (1, 0): "", (1, 1): "3"}
    colours = ax.get_images()[0]
    np.testing.assert_array_equal(np.ma.filled(colours.get_array(), -1), [[0.75, 0.25], [-1, 1]])
    assert colours.get_clim() == (0, 1)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("class", "taken for")
    assert bar.get_ylabel() == "share of the class's images"


def test_confusion_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\(1, 2\), wanted \(2, 2\)"):
        confusion_matrix([[1, 2]], ["a", "b"])
