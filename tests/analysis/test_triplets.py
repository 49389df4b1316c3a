"""Triplets as they are drawn: which image stands where, and how far it is from its anchor."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxssl.analysis.drawing import save_png
from jaxssl.analysis.triplets import draw_triplets

from .conftest import UNSEEN, table, unlabelled


def test_a_row_is_anchor_positive_negative_with_its_distances(tmp_path):
    rng = np.random.default_rng(0)
    one = unlabelled(table(rng, (*UNSEEN[:1], "b"), "train", 4), [7])
    one.thumbnails[1] = b""
    triplets = np.array([[0, 1, 5], [4, 6, 7]])
    figure = draw_triplets(one, triplets)
    axes = np.array(figure.axes).reshape(2, 3)
    cosine = cdist(one.vectors.astype(float), one.vectors.astype(float), "cosine")
    degrees = np.degrees(np.arccos(1 - cosine))
    for line, (anchor, positive, negative) in zip(axes, triplets, strict=True):
        assert f"{degrees[anchor, positive]:.2f}°" in line[1].get_xlabel()
        assert f"{degrees[anchor, negative]:.2f}°" in line[2].get_xlabel()
        for ax, row in zip(line, (anchor, positive, negative), strict=True):
            (shade,) = {int(v) for image in ax.images for v in np.unique(image.get_array())} or {-1}
            assert shade == (-1 if row == 1 else 40 + 60 * (row >= 4))
    assert axes[1, 2].get_xlabel().startswith("no label")
    assert [ax.get_title(loc="left") for ax in axes[0]] == ["anchor", "positive", "negative"]
    assert len(draw_triplets(one, triplets, limit=1).axes) == 3
    save_png(figure, tmp_path / "triplets.png")
    assert (tmp_path / "triplets.png").stat().st_size > 0


@pytest.mark.parametrize("bad", [[[0, 1]], [[0.0, 1.0, 2.0]], [[0, 1, 8]], [[-1, 0, 1]], []])
def test_what_is_no_triplet_is_refused(bad):
    one = table(np.random.default_rng(0), ("a", "b"), "train", 4)
    with pytest.raises(ValueError, match="triplets are"):
        draw_triplets(one, bad)
