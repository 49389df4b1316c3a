import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from jaxssl.analysis.whitening import fit_whitening


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=(1, 12))


@pytest.mark.parametrize("components", [None, 5])
def test_without_shrinkage_it_is_scikit_learns_whitening(cloud, components):
    expected = PCA(components, whiten=True).fit(cloud[:150]).transform(cloud[150:])
    found = fit_whitening(cloud[:150], components=components)(cloud[150:])
    # An axis may point either way.
    signs = np.sign((found * expected).sum(axis=0, keepdims=True))
    np.testing.assert_allclose(found * signs, expected, atol=1e-9)


def test_the_shrunk_covariance_is_ledoit_and_wolfs(cloud):
    oracle = LedoitWolf().fit(cloud)
    n = len(cloud)
    s = oracle.shrinkage_
    found = fit_whitening(cloud, shrinkage=s)
    # Distances after it are Mahalanobis distances of that covariance, which scikit-learn divides
    # by n where this divides by n - 1.
    x = found(cloud)
    expected = oracle.mahalanobis(cloud) * (n - 1) / n
    np.testing.assert_allclose((x**2).sum(axis=1), expected, rtol=1e-9)


def test_full_shrinkage_only_turns_and_scales(cloud):
    x = fit_whitening(cloud, shrinkage=1.0)(cloud)
    ratio = np.linalg.norm(x[1:] - x[:-1], axis=1) / np.linalg.norm(cloud[1:] - cloud[:-1], axis=1)
    np.testing.assert_allclose(ratio, ratio[0])


def test_a_flat_direction_stays_flat_and_fewer_vectors_than_directions_do():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 6)) * [1, 1, 1, 1, 1, 0]
    white = fit_whitening(x)(x)
    assert np.isfinite(white).all()
    np.testing.assert_allclose(white.std(axis=0, ddof=1), [1, 1, 1, 0, 0, 0], atol=1e-7)


def test_what_does_not_fit_is_refused():
    for options in ({"shrinkage": 1.1}, {"components": 0}, {"components": 3}):
        with pytest.raises(ValueError, match="0 to 1, and 1 to 2"):
            fit_whitening(np.zeros((3, 2)), **options)
    with pytest.raises(ValueError, match=r"not \[n, d\] of 2 or more"):
        fit_whitening(np.zeros((1, 2)))
