"""The figures' artists hold the numbers that went in."""

import math

import numpy as np
import pytest

from jaxssl.analysis import figures
from jaxssl.analysis.drawing import class_style

NAN = float("nan")


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_training_curves_draw_every_number_and_the_chance_line():
    records = [
        {"step": 1, "split": "train", "loss": 5.0, "chance": 6.0, "speed": 3},
        {"step": 2, "split": "train", "loss": NAN, "chance": 6.0, "note": "text"},
        {"step": 2, "split": "val", "loss": 4.0, "chance": 6.0, "z_std": None},
    ]
    figure = figures.training_curves(records)
    assert [ax.get_title("left") for ax in figure.axes] == ["loss", "speed"]
    lines = lines_of(figure.axes[0])
    assert list(lines) == ["train", "val", "chance"]
    np.testing.assert_array_equal(lines["train"].get_xydata(), [[1, 5], [2, NAN]])
    np.testing.assert_array_equal(lines["val"].get_xydata(), [[2, 4]])
    assert lines["chance"].get_ydata()[0] == 6


def test_splits_with_their_own_chance_have_their_own_line():
    records = [
        {"step": 1, "split": "train", "loss": 5.0, "chance": math.log(511)},
        {"step": 1, "split": "val", "loss": 3.0, "chance": math.log(63)},
    ]
    lines = lines_of(figures.training_curves(records).axes[0])
    assert lines["chance, val"].get_ydata()[0] == pytest.approx(math.log(63), abs=1e-4)
    assert "chance, train" in lines


def test_training_curves_need_a_number():
    with pytest.raises(ValueError, match="1 records"):
        figures.training_curves([{"step": 1, "split": "train"}])


def rows(classifier, shift):
    return [
        {"classifier": classifier, "labels": n, "mean": 0.5 + shift, "low": 0.4, "high": 0.9}
        for n in (300, 30, 90)
    ]


def test_label_efficiency_has_a_panel_a_classifier_and_sorts_labels():
    curves = {"h $1": rows("svc", 0.1) + rows("knn", 0.2), "raw": rows("svc", 0.0)}
    figure = figures.label_efficiency(curves, chance=0.25)
    assert [ax.get_title("left") for ax in figure.axes] == ["SVC", "kNN"]
    svc, knn = map(lines_of, figure.axes)
    np.testing.assert_array_equal(svc[r"h \$1"].get_xydata(), [[30, 0.6], [90, 0.6], [300, 0.6]])
    assert knn["chance"].get_ydata()[0] == 0.25
    assert knn["raw"].get_xydata().size == 0
    assert all(ax.get_xscale() == "log" for ax in figure.axes)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() == (0.2, 1.02)
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {0.4, 0.9} == set(band[:, 1])


def test_label_efficiency_needs_rows():
    with pytest.raises(ValueError, match="no rows"):
        figures.label_efficiency({"h": []}, chance=0.5)


def test_umap_panels_share_axes_and_a_class_keeps_its_look():
    panels = {
        "train": ([[0, 0], [1, 1], [2, 0]], ["a", "b", "a"]),
        "test": ([[-5, 9]], ["b"]),
    }
    figure = figures.umap_panels(panels, ["a", "b"])
    train, test = [ax for ax in figure.axes if ax.collections]
    assert train.get_xlim() == test.get_xlim()
    assert train.get_ylim() == test.get_ylim()
    assert train.get_xlim()[0] < -5
    assert train.get_xlim()[1] > 2
    assert train.get_ylim()[1] > 9
    np.testing.assert_array_equal(train.collections[0].get_offsets(), [[0, 0], [2, 0]])
    np.testing.assert_array_equal(test.collections[0].get_facecolor()[0][:3], _rgb(1))
    legends = [
        [text.get_text() for text in ax.get_legend().get_texts()]
        for ax in figure.axes
        if ax.get_legend()
    ]
    assert legends == [["a (2)", "b (1)"], ["b (1)"]]


def _rgb(index):
    from matplotlib.colors import to_rgb

    return to_rgb(class_style(index)[0])


def test_umap_panels_refuse_names_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 2\), wanted \(1, 2\)"):
        figures.umap_panels({"train": ([[0, 0], [1, 1]], ["a"])}, ["a"])


def test_matrix_has_its_number_in_every_cell_and_a_framed_diagonal():
    matrix = np.array([[0.5, 80.0], [12.34, NAN]])
    ax = figures.distance_matrix(matrix, ["a", "b"], unit="degrees").axes[0]
    cells = {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in ax.texts}
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
        figures.distance_matrix([[1, 2]], ["a", "b"], unit="degrees")
    figures.save_png(figures.distance_matrix([[NAN]], ["a"], unit="degrees"), tmp_path / "m.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_view_sheet_shows_every_pixel_in_its_place(channels):
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (3, 4, 24, 16, channels), np.uint8)
    ax = figures.view_sheet(*views).axes[0]
    sheet = np.asarray(ax.get_images()[0].get_array())
    assert sheet.shape == (3 * 26 - 2, 4 * 18 - 2, 3)  # a gap of two pixels between
    for i in range(3):
        for j in range(4):
            tile = sheet[26 * i : 26 * i + 24, 18 * j : 18 * j + 16]
            np.testing.assert_array_equal(tile, np.broadcast_to(views[i, j], (24, 16, 3)))
    assert (sheet[24:26] == 255).all()


def test_sheets_refuse_what_they_cannot_show():
    good = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match="differ"):
        figures.view_sheet(good, good, good[:1])
    with pytest.raises(ValueError, match="float64"):
        figures.view_sheet(*np.zeros((3, 2, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"\(3, 2, 8, 8, 2\)"):
        figures.view_sheet(*np.zeros((3, 2, 8, 8, 2), np.uint8))
