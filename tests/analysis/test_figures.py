"""The figures' artists hold the numbers that went in."""

import math

import numpy as np
import pytest

from jaxssl.analysis import figures
from jaxssl.analysis.results import LabelRow

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


def test_triplet_stats_share_a_panel_by_pairs_and_the_margin_is_a_level_of_the_loss():
    stats = {"anchors": 1.0, "active": 0.5, "d_ap": 0.25, "d_an": 0.75, "margin": 0.5}
    records = [
        {"step": step, "split": split, "loss": 0.1, **stats, "grad_norm": 3.0}
        for step in (1, 2)
        for split in ("train", "val")
    ]
    loss, anchors, distances, gradient = figures.training_curves(records).axes
    assert lines_of(loss)["margin"].get_ydata()[0] == 0.5
    assert [ax.get_title("left") for ax in (anchors, distances, gradient)] == [
        "anchors in a triplet (dashed: with loss)",
        "distance² to positive (dashed: negative)",
        "gradient norm",
    ]
    for ax, solid, dashed in ((anchors, 1.0, 0.5), (distances, 0.25, 0.75)):
        drawn = [(line.get_linestyle(), line.get_ydata()[1]) for line in ax.get_lines()]
        assert drawn == [("-", solid)] * 2 + [("--", dashed)] * 2
        assert ax.get_lines()[0].get_color() == ax.get_lines()[2].get_color()
    assert all(ax.get_xlim()[0] == 0 for ax in (loss, anchors, distances, gradient))


def test_half_a_pair_has_its_own_panel():
    figure = figures.training_curves([{"step": 1, "split": "train", "d_an": 0.5}])
    assert [ax.get_title("left") for ax in figure.axes] == ["mean distance² to the negative"]


def test_training_curves_need_a_number():
    with pytest.raises(ValueError, match="1 records"):
        figures.training_curves([{"step": 1, "split": "train"}])


def rows(classifier, shift):
    return [
        LabelRow("unseen", "h", classifier, n, mean=0.5 + shift, low=0.4, high=0.9, draws=5)
        for n in (300, 30, 90)
    ]


def test_label_efficiency_has_a_panel_a_classifier_and_sorts_labels():
    curves = {"h $1": rows("svc", 0.1) + rows("knn", 0.2), "raw": rows("svc", 0.0)}
    figure = figures.label_efficiency(curves, chance=0.375)
    assert [ax.get_title("left") for ax in figure.axes] == ["SVC", "kNN"]
    svc, knn = map(lines_of, figure.axes)
    np.testing.assert_array_equal(svc[r"h \$1"].get_xydata(), [[30, 0.6], [90, 0.6], [300, 0.6]])
    assert knn["chance"].get_ydata()[0] == 0.375
    assert knn["raw"].get_xydata().size == 0
    assert all(ax.get_xscale() == "log" for ax in figure.axes)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() == pytest.approx((0.35, 1.02))
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {0.4, 0.9} == set(band[:, 1])


def test_chance_far_below_the_curves_takes_no_room():
    (ax,) = figures.label_efficiency({"h": rows("svc", 0.1)}, chance=0.25).axes
    assert ax.get_ylim()[0] == pytest.approx(0.35)
    assert "chance" not in lines_of(ax)


def test_label_efficiency_needs_rows():
    with pytest.raises(ValueError, match="no rows"):
        figures.label_efficiency({"h": []}, chance=0.5)


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
