"""The embedded default data set, against scikit-learn itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import datasets

from jaxssl.data import load_digits


def test_at_8_pixels_they_are_scikit_learns():
    digits, source = load_digits(size=8), datasets.load_digits()
    np.testing.assert_array_equal(digits.images()[..., 0], np.rint(source.images * 255 / 16))
    np.testing.assert_array_equal(digits.labels, source.target)
    assert digits.class_names == tuple("0123456789")
    assert (digits.ids[0], digits.ids[-1]) == ("digits/0000", "digits/1796")
    assert digits.labels.dtype == np.int32


def test_enlarged_in_grey_and_rgb():
    grey, rgb = load_digits(size=32), load_digits(size=32, channels=3)
    assert grey.shape == (32, 32, 1)
    np.testing.assert_array_equal(np.repeat(grey.images(), 3, axis=-1), rgb.images())


def test_enlarging_is_bilinear_between_pixel_centres():
    small, large = (load_digits(size=size).images()[:50, ..., 0] for size in (8, 32))
    centre = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    low = np.minimum(centre.astype(int), 6)
    weights = np.zeros((32, 8))
    weights[np.arange(32), low] = 1 - (centre - low)
    weights[np.arange(32), low + 1] = centre - low
    want = np.einsum("ip,npq,jq->nij", weights, small.astype(float), weights)
    assert np.abs(large - want).max() <= 1


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 8, "channels": 2}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="got size="):
        load_digits(**options)
