"""Batches of P classes x K images, and balanced ones."""

from __future__ import annotations

import numpy as np
import pytest

from jaxssl.data import load_digits, train_stream
from jaxssl.data.sampling import class_balanced, classes_by_images
from jaxssl.errors import InputError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [90, 40, 10, 8, 4, 2]))


def test_p_distinct_classes_k_distinct_images():
    batch_at = classes_by_images(LABELS, batch_size=12, images_per_class=4, seed=0)
    for step in range(50):
        rows = batch_at(step).reshape(3, 4)
        classes = LABELS[rows]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == 3
        for row in rows[classes[:, 0] != 5]:  # class 5 has but two images: they repeat
            assert len(set(row.tolist())) == 4


def test_classes_are_equally_likely_whatever_their_size():
    batch_at = classes_by_images(LABELS, batch_size=8, images_per_class=4, seed=1)
    drawn = np.bincount(np.concatenate([LABELS[batch_at(step)][::4] for step in range(3000)]))
    # binomial(3000, 1/3): standard deviation 26
    assert np.abs(drawn - 1000).max() < 5 * 26


def test_every_image_gets_its_turn():
    for batch_at in (
        classes_by_images(LABELS, batch_size=12, images_per_class=4, seed=0),
        class_balanced(LABELS, batch_size=12, seed=0),
    ):
        assert set(np.concatenate([batch_at(step) for step in range(400)])) == set(range(154))


def test_balanced_within_one_image():
    batch_at = class_balanced(LABELS, batch_size=20, seed=0)
    left_over = np.zeros(6)
    for step in range(300):
        counts = np.bincount(LABELS[batch_at(step)], minlength=6)
        assert set(counts.tolist()) == {3, 4}
        left_over += counts - 3
    assert np.abs(left_over - 100).max() < 5 * 8.2  # binomial(300, 1/3)


@pytest.mark.parametrize("make", [classes_by_images, class_balanced])
def test_a_pure_function_of_seed_and_step(make):
    options = {"images_per_class": 4} if make is classes_by_images else {}
    one, same, other = (make(LABELS, batch_size=12, seed=seed, **options) for seed in (0, 0, 1))
    assert [one(s).tolist() for s in (5, 3, 5)] == [same(s).tolist() for s in (5, 3, 5)]
    assert one(3).tolist() != one(4).tolist()
    assert one(3).tolist() != other(3).tolist()


def test_labels_need_not_be_consecutive():
    labels = np.array([7, 7, 7, 2, 2, 2])
    rows = classes_by_images(labels, batch_size=6, images_per_class=3, seed=0)(0)
    assert sorted(rows.tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("batch_size", "images_per_class", "message"),
    [
        (10, 4, "the batch of 10 is no multiple of the 4 images per class"),
        (28, 4, "needs 7 classes, there are 6"),
        (10, 0, "the batch of 10 is no multiple of the 0"),
    ],
)
def test_batches_that_cannot_be(batch_size, images_per_class, message):
    with pytest.raises(InputError, match=message):
        classes_by_images(LABELS, batch_size=batch_size, images_per_class=images_per_class, seed=0)


@pytest.mark.parametrize("options", [{"images_per_class": 5}, {"balanced": True}])
def test_in_the_stream_resume_and_processes(options):
    digits = load_digits(size=8)

    def take(n: int, **more) -> list[list[int]]:
        stream = iter(train_stream(digits, batch_size=20, seed=4, **options, **more))
        return [next(stream)["index"].tolist() for _ in range(n)]

    whole = take(100)
    assert take(5, start_step=95) == whole[95:]
    halves = [take(5, process_index=i, process_count=2) for i in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole[:5]
    counts = np.bincount(digits.labels[whole[0]], minlength=10)
    assert set(counts.tolist()) == ({2} if "balanced" in options else {0, 5})


def test_two_ways_at_once_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        train_stream(load_digits(size=8), batch_size=4, seed=0, images_per_class=2, balanced=True)
