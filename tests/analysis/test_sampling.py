import numpy as np
import pytest

from jaxssl.analysis.sampling import stratified_sample


def test_shares_are_proportional_for_any_sizes_and_counts():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 40, rng.integers(1, 7))
        labels = rng.permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
        count = int(rng.integers(0, len(labels) + 1))
        rows = stratified_sample(labels, count, rng)
        assert len(rows) == len(set(rows.tolist())) == count
        assert (np.diff(rows) > 0).all()
        taken = np.array([(labels[rows] == 3 * c).sum() for c in range(len(sizes))])
        share = count * sizes / sizes.sum()
        if count >= len(sizes):
            assert taken.min() >= 1
        # Off by under one from the exact share, but for what the smallest classes are given.
        given = np.maximum(1 - share, 0).sum() if count >= len(sizes) else 0
        assert (np.abs(taken - share) < 1 + given).all()


def test_exact_shares_are_kept_exactly():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    rows = stratified_sample(labels, 10, np.random.default_rng(1))
    np.testing.assert_array_equal(np.bincount(labels[rows]), [5, 3, 2])


def test_every_row_is_drawn_equally_often():
    labels = np.repeat([0, 1], [6, 4])
    rng = np.random.default_rng(2)
    drawn = np.concatenate([stratified_sample(labels, 5, rng) for _ in range(2000)])
    # 1,000 expected each, standard deviation 22.
    np.testing.assert_allclose(np.bincount(drawn), 1000, atol=110)


def test_a_seed_fixes_the_rows():
    labels = np.repeat([0, 1], 50)
    a, b, c = (stratified_sample(labels, 20, np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("count", [-1, 4])
def test_more_rows_than_there_are_raise(count):
    with pytest.raises(ValueError, match=f"count is {count}, outside 0 to the 3 rows"):
        stratified_sample(np.zeros(3), count, np.random.default_rng(0))
