"""Maps side by side: the same axes, a class the same look, one legend where one is enough."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxssl.analysis.drawing import class_style
from jaxssl.analysis.umap_figure import umap_panels


def legends_of(figure):
    return [
        [text.get_text() for text in ax.get_legend().get_texts()]
        for ax in figure.axes
        if ax.get_legend()
    ]


def test_umap_panels_share_axes_and_a_class_keeps_its_look():
    panels = {
        "train": ([[0, 0], [1, 1], [2, 0]], ["a", "b", "a"]),
        "test": ([[-5, 9]], ["b"]),
    }
    figure = umap_panels(panels, ["a", "b"])
    train, test = [ax for ax in figure.axes if ax.collections]
    assert train.get_xlim() == test.get_xlim()
    assert train.get_ylim() == test.get_ylim()
    assert train.get_xlim()[0] < -5
    assert train.get_xlim()[1] > 2
    assert train.get_ylim()[1] > 9
    np.testing.assert_array_equal(train.collections[0].get_offsets(), [[0, 0], [2, 0]])
    np.testing.assert_array_equal(
        test.collections[0].get_facecolor()[0][:3], to_rgb(class_style(1)[0])
    )
    assert legends_of(figure) == [["a (2)", "b (1)"], ["b (1)"]]


def test_umap_panels_refuse_names_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 2\), wanted \(1, 2\)"):
        umap_panels({"train": ([[0, 0], [1, 1]], ["a"])}, ["a"])


def test_maps_of_the_same_images_share_one_legend_over_the_columns():
    panel = (np.arange(10.0).reshape(5, 2), ["a", "b", "c", "a", "b"])
    figure = umap_panels({"one": panel, "two": panel, "three": panel}, ["a", "b", "c"], columns=2)
    assert legends_of(figure) == [["a (2)", "b (2)"], ["c (1)"]]
    assert [ax.get_title("left") for ax in figure.axes if ax.collections] == [
        "one (5)",
        "two (5)",
        "three (5)",
    ]
    figure = umap_panels({"one": panel, "two": panel}, ["a", "b", "c"], columns=1)
    assert legends_of(figure) == [["a (2)", "b (2)", "c (1)"]]


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_no_legend_of_many_classes_leaves_the_figure_or_meets_a_map(columns):
    names = [f"a_rather_long_class_name_number_{i}" for i in range(21)]
    train = (np.random.default_rng(0).normal(size=(42, 2)), names * 2)
    test = (np.random.default_rng(1).normal(size=(21, 2)), names)
    for panels in ({"train": train, "test": test}, {"one": train, "two": train, "three": train}):
        figure = umap_panels(panels, names, columns=columns)
        figure.draw_without_rendering()
        maps = [ax.get_window_extent() for ax in figure.axes if ax.collections]
        legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
        boxes = [legend.get_window_extent() for legend in legends]
        for box in boxes:
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert not any(box.overlaps(other) for other in [*maps, *boxes] if other is not box)
