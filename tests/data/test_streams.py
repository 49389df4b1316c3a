"""Streams: pure functions of seed and step, for every number of processes and threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from itertools import chain

import numpy as np
import pytest

from jaxssl.data import (
    ImageSet,
    UnreadableImage,
    eval_batches,
    steps_per_epoch,
    train_stream,
)
from jaxssl.errors import InputError


def image_set(n: int, load=None) -> ImageSet:
    """Image i has pixel value i."""
    return ImageSet(
        ids=tuple(map(str, range(n))),
        paths=("",) * n,
        labels=np.arange(n, dtype=np.int32) % 3,
        class_names=("a", "b", "c"),
        load=load or (lambda i: np.full((2, 2, 1), i, np.uint8)),
        groups=np.arange(n),
        shape=(2, 2, 1),
    )


def take(images: ImageSet, n: int, **options) -> list[dict[str, np.ndarray]]:
    stream = iter(train_stream(images, **({"batch_size": 8, "seed": 0} | options)))
    return [next(stream) for _ in range(n)]


def order(images: ImageSet, n: int, **options) -> list[list[int]]:
    return [batch["index"].tolist() for batch in take(images, n, **options)]


def joined(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def test_shapes_types_and_that_columns_belong_together():
    for batch in take(image_set(50), 13):
        assert batch["image"].shape == (8, 2, 2, 1)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["label"], batch["index"] % 3)


@pytest.mark.parametrize("n", [48, 50, 55, 8])
def test_an_epoch_is_floor_n_over_b_steps_without_repeats(n):
    steps = steps_per_epoch(image_set(n), batch_size=8)
    assert steps == n // 8
    batches = order(image_set(n), 30 * steps)
    epochs = [joined(batches[e * steps : (e + 1) * steps]) for e in range(30)]
    assert all(len(set(epoch)) == len(epoch) == steps * 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 30  # every epoch has a shuffle of its own
    assert set().union(*map(set, epochs)) == set(range(n))  # what is left over changes


def test_the_shuffle_is_even():
    # Each position of the epoch sees each image equally often: binomial(600, 1/8).
    epochs = np.array(order(image_set(8), 600))
    seen = np.array([np.bincount(column, minlength=8) for column in epochs.T])
    assert np.abs(seen - 75).max() < 5 * np.sqrt(600 / 8 * 7 / 8)


def test_epochs_of_neighbouring_seeds_are_different():
    one, two = (order(image_set(48), 60, seed=seed) for seed in (0, 1))
    firsts = {tuple(batch) for batch in one}
    assert not firsts & {tuple(batch) for batch in two}


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 23, 100, 10**9])
def test_resuming_at_any_step_equals_never_stopping(start):
    images = image_set(50)
    if start <= 100:
        assert order(images, 3, start_step=start) == order(images, start + 3)[start:]
    else:  # a far step costs no more than a near one
        assert order(images, 2, start_step=start)[1] == order(images, 1, start_step=start + 1)[0]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_number_of_threads_changes_nothing(threads):
    assert order(image_set(50), 20, threads=threads) == order(image_set(50), 20)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_each_global_batch(processes):
    """Joined, the parts give the batches of one process; nobody loads the others' images."""
    whole = order(image_set(50), 20, start_step=3)
    loaded: list[set[int]] = [set() for _ in range(processes)]
    parts = []
    for p in range(processes):

        def load(i: int, p: int = p) -> np.ndarray:
            loaded[p].add(i)
            return np.full((2, 2, 1), i, np.uint8)

        part = order(
            image_set(50, load),
            20,
            start_step=3,
            process_index=p,
            process_count=processes,
            threads=0,
        )
        assert all(len(batch) == 8 // processes for batch in part)
        assert loaded[p] == set(joined(part))
        parts.append(part)
    assert [joined(batches) for batches in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("sampling", [{}, {"balanced": True}, {"images_per_class": 4}])
def test_without_pixels_the_batches_are_the_same_and_nothing_is_read(sampling):
    def load(i: int) -> np.ndarray:
        raise AssertionError(f"image {i} was read")

    place = {"start_step": 3, "process_index": 1, "process_count": 2}
    bare = take(image_set(50, load), 20, pixels=False, **sampling, **place)
    for batch, whole in zip(bare, take(image_set(50), 20, **sampling, **place), strict=True):
        del whole["image"]
        assert batch.keys() == whole.keys()
        for name, values in batch.items():
            assert values.dtype == whole[name].dtype
            np.testing.assert_array_equal(values, whole[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 51}, "a batch of 51 from 50 training images"),
        ({"batch_size": 0}, "a batch of 0 from 50"),
        ({"process_count": 3}, "a batch of 8 is not divisible by 3 processes"),
    ],
)
def test_batches_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        take(image_set(50), 1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_index": 2, "process_count": 2}, "process 2 of 2"),
        ({"process_index": -1, "process_count": 2}, "process -1 of 2"),
        ({"start_step": -1}, "start_step -1"),
    ],
)
def test_places_that_are_not_there(options, message):
    with pytest.raises(ValueError, match=message):
        take(image_set(50), 1, **options)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_failing_image_surfaces_as_itself(threads):
    def load(i: int) -> np.ndarray:
        if i == 7:
            raise UnreadableImage("x/7.png: cut short")
        return np.zeros((2, 2, 1), np.uint8)

    with pytest.raises(UnreadableImage) as caught:
        take(image_set(8, load), 1, threads=threads)
    assert str(caught.value) == "x/7.png: cut short"  # Grain's remark is a note beside it


# ------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(("n", "b"), [(50, 8), (48, 8), (3, 8), (1, 1), (50, 50)])
def test_evaluation_is_in_order_with_one_shape_and_a_mask(n, b, threads):
    batches = list(eval_batches(image_set(n), batch_size=b, threads=threads))
    assert len(batches) == -(-n // b)
    assert {batch["image"].shape for batch in batches} == {(b, 2, 2, 1)}
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.dtype == bool
    assert mask.tolist() == [True] * n + [False] * (len(mask) - n)
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[mask].tolist() == list(range(n))
    assert (index[~mask] == n - 1).all()  # in range: they index tables without harm
    np.testing.assert_array_equal(
        np.concatenate([batch["image"] for batch in batches])[:, 0, 0, 0], index
    )


def test_evaluation_of_nothing_and_twice():
    assert list(eval_batches(image_set(9).subset([]), batch_size=4)) == []
    batches = eval_batches(image_set(9), batch_size=4)
    assert len(list(batches)) == len(list(batches)) == 3


def test_evaluation_needs_a_batch():
    with pytest.raises(ValueError, match="got 0"):
        eval_batches(image_set(9), batch_size=0)


# ------------------------------------------------------------------------------ programs, versions


ENDINGS = {
    "held": "evaluation = iter(eval_batches(images, batch_size=10)); next(evaluation)",
    "exit": "raise SystemExit(0)",
}


def test_programs_end_without_noise_and_without_children():
    begin = """
import multiprocessing
import numpy as np
from jaxssl.data import *
names = tuple(map(str, range(50)))
load = lambda i: np.full((8, 8, 1), i, np.uint8)
images = ImageSet(names, names, np.arange(50), names, load, np.arange(50), (8, 8, 1))
stream = train_stream(images, batch_size=10, seed=0)
for batch in stream: break
held = iter(stream)
next(held)
assert not multiprocessing.active_children()
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", begin + end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for end in ENDINGS.values()
    ]
    for program in running:
        assert program.communicate(timeout=120) == ("", "")
        assert program.returncode == 0


def test_the_order_of_a_seed_is_pinned():
    """A NumPy that draws otherwise would change every seeded run: it must show here."""
    assert order(image_set(50), 1)[0] == [18, 23, 36, 4, 2, 3, 34, 24]
