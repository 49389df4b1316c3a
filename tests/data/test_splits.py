"""Splits: exact counts, no leaks, the same for the same seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxssl.data import (
    ImageSet,
    describe,
    label_fraction,
    load_digits,
    split_classes,
    train_val,
    train_val_test,
)
from jaxssl.errors import InputError


def image_set(counts: list[int], groups: list[int] | None = None) -> ImageSet:
    n = sum(counts)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    pixels = np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 2, 2, 1)
    return ImageSet(
        ids=tuple(f"{label}/{i}" for i, label in enumerate(labels)),
        paths=("",) * n,
        labels=labels,
        class_names=tuple(f"c{i}" for i in range(len(counts))),
        load=pixels.__getitem__,
        groups=np.arange(n) if groups is None else np.array(groups),
        shape=(2, 2, 1),
    )


# ------------------------------------------------------------------------------- seen and unseen


def test_labels_follow_the_order_given():
    images = image_set([3, 2, 4, 1])
    seen, unseen = split_classes(images, ["c2", "c0"], ["c3"])
    assert seen.class_names == ("c2", "c0")
    assert np.bincount(seen.labels).tolist() == [4, 3]
    for part in (seen, unseen):
        for i, id_ in enumerate(part.ids):
            assert f"c{id_[0]}" == part.class_names[part.labels[i]]
            np.testing.assert_array_equal(part.load(i), images.load(images.ids.index(id_)))
    assert seen.labels.dtype == np.int32
    assert len(unseen) == 1


def test_unseen_may_be_empty():
    seen, unseen = split_classes(image_set([3, 2]), ["c1", "c0"], [])
    assert (len(seen), len(unseen), unseen.class_names) == (5, 0, ())


@pytest.mark.parametrize(
    ("seen", "unseen", "message"),
    [
        (["c0", "c1"], ["c1"], "class 'c1' is both seen and unseen"),
        (["c0", "c0"], ["c1"], "class 'c0' is named 2 times as seen"),
        (["c0"], ["c1", "c1"], "class 'c1' is named 2 times as unseen"),
        (["c0", "c9"], ["c1"], "no class 'c9'; the classes are 'c0', 'c1', 'c2'"),
        (["c0"], ["c9"], "no class 'c9'"),
    ],
)
def test_class_lists_that_cannot_be(seen, unseen, message):
    with pytest.raises(InputError, match=message):
        split_classes(image_set([3, 3, 3]), seen, unseen)


# ------------------------------------------------------------------------- train, validation, test


def part_counts(images: ImageSet, **options) -> np.ndarray:
    k = len(images.class_names)
    parts = train_val_test(images, **options)
    return np.array([np.bincount(part.labels, minlength=k) for part in parts])


def test_every_class_is_split_exactly():
    counts = [1979, 703, 100, 20, 7, 4, 3]
    got = part_counts(image_set(counts), seed=0)
    val = [max(1, round(0.05 * n)) for n in counts]
    test = [max(1, round(0.20 * n)) for n in counts]
    assert got[1].tolist() == val
    assert got[2].tolist() == test
    assert got.sum(axis=0).tolist() == counts


def test_parts_are_disjoint_complete_in_order_and_carry_their_pixels():
    images = image_set([50, 30])
    parts = train_val_test(images, seed=3)
    ids = [id_ for part in parts for id_ in part.ids]
    assert sorted(ids) == sorted(images.ids)
    for part in parts:
        where = [images.ids.index(id_) for id_ in part.ids]
        assert where == sorted(where)
        np.testing.assert_array_equal(part.images(), images.images()[where])
        np.testing.assert_array_equal(part.labels, images.labels[where])


def test_the_seed_decides_and_every_image_gets_everywhere():
    images = image_set([20, 20])
    assert train_val_test(images, seed=1).test.ids == train_val_test(images, seed=1).test.ids
    tested = [set(train_val_test(images, seed=seed).test.ids) for seed in range(40)]
    assert len({frozenset(ids) for ids in tested}) == 40
    assert set().union(*tested) == set(images.ids)


@pytest.mark.parametrize("seed", range(10))
def test_groups_never_straddle(seed):
    rng = np.random.default_rng(seed)
    counts = [100, 60, 40]
    groups = rng.integers(0, 120, 200).tolist()  # many groups of 2-5, some across classes
    images = image_set(counts, groups)
    parts = train_val_test(images, seed=seed)
    seen = [set(part.groups.tolist()) for part in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    got = part_counts(images, seed=seed)
    want = np.array(counts) * np.array([[0.75], [0.05], [0.2]])
    assert np.abs(got - want).max() <= 2


def test_a_few_duplicates_move_no_count():
    groups = list(range(100))
    groups[7] = groups[3]
    groups[60] = groups[20]  # across the two classes
    np.testing.assert_array_equal(
        part_counts(image_set([50, 50], groups), seed=0), part_counts(image_set([50, 50]), seed=0)
    )


def test_a_set_that_is_all_pairs_is_still_split_by_the_fractions():
    got = part_counts(image_set([200], [i // 2 for i in range(200)]), seed=0)
    np.testing.assert_array_equal(got, [[150], [10], [40]])


@pytest.mark.parametrize(
    ("groups", "want"),
    [
        ([0] * 5 + [1] * 5 + [2] * 5, {5}),  # three groups, none of which fits: one to each part
        ([0] * 4 + [i // 2 for i in range(2, 18)], {14, 2, 4}),
        ([0, 0, 0, 1, 2], {3, 1}),
        ([0, 0, 0, 1, 1], None),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_every_part_gets_an_image_where_three_are_distinct(groups, want, seed):
    if want is None:
        with pytest.raises(InputError, match=r"5 images \(2 distinct\)"):
            train_val_test(image_set([len(groups)], groups), seed=seed)
    else:
        assert set(part_counts(image_set([len(groups)], groups), seed=seed).ravel()) == want


def test_the_largest_groups_are_placed_first():
    # Placed last, the group of 8 would find no part with room for it.
    groups = [0] * 8 + [1 + i // 2 for i in range(32)]
    for seed in range(20):
        got = part_counts(image_set([40], groups), seed=seed)
        np.testing.assert_array_equal(got, [[30], [2], [8]])


@pytest.mark.parametrize("n", [1, 2])
def test_a_class_too_small_is_named_with_its_count(n):
    with pytest.raises(InputError, match=rf"class 'c1' has {n} images .* at least 3") as caught:
        train_val_test(image_set([10, n]), seed=0)
    assert "\n" not in str(caught.value)


def test_copies_do_not_count_as_images():
    with pytest.raises(InputError, match=r"class 'c1' has 4 images \(2 distinct\)"):
        train_val_test(image_set([10, 4], [*range(10), 10, 10, 10, 11]), seed=0)


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1), (1.0, 0.0, 0.0), (0.9, 0.2, -0.1)])
def test_fractions_out_of_range(fractions):
    with pytest.raises(ValueError, match="positive and sum to 1"):
        train_val_test(image_set([10]), fractions=fractions, seed=0)


# -------------------------------------------------------------------------------- label fractions


def test_label_fractions_are_stratified_and_nested():
    images = image_set([100, 50, 3])
    tenth, half = (label_fraction(images, f, seed=0) for f in (0.1, 0.5))
    assert np.bincount(tenth.labels).tolist() == [10, 5, 1]
    assert np.bincount(half.labels).tolist() == [50, 25, 2]
    assert set(tenth.ids) < set(half.ids)
    assert label_fraction(images, 1.0, seed=0).ids == images.ids
    assert label_fraction(images, 0.1, seed=1).ids != tenth.ids


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_label_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=f"got {fraction}"):
        label_fraction(image_set([10]), fraction, seed=0)


# ------------------------------------------------------------------------------------- the table


def test_the_table_adds_up():
    seen, unseen = split_classes(image_set([100, 60, 40]), ["c0", "c1"], ["c2"])
    text = describe(train_val_test(seen, seed=0)._asdict() | {"unseen": unseen})
    rows = [line.split() for line in text.splitlines()]
    assert rows == [
        ["class", "train", "val", "test", "unseen", "total", "share"],
        ["c0", "75", "5", "20", "0", "100", "50.0%"],
        ["c1", "45", "3", "12", "0", "60", "30.0%"],
        ["c2", "0", "0", "0", "40", "40", "20.0%"],
        ["total", "120", "8", "32", "40", "200", "100.0%"],
        ["share", "60.0%", "4.0%", "16.0%", "20.0%", "100.0%"],
    ]


# ------------------------------------------------------------------------- train and validation


def test_train_val_cuts_the_share_of_every_class():
    images = image_set([40, 10, 3])
    train, val = train_val(images, fraction=0.1, seed=0)
    assert np.bincount(val.labels).tolist() == [4, 1, 1]
    assert sorted((*train.ids, *val.ids)) == sorted(images.ids)
    assert train_val(images, fraction=0.1, seed=0)[1].ids == val.ids
    assert train_val(images, fraction=0.1, seed=1)[1].ids != val.ids


def test_train_val_takes_whole_groups_even_across_classes():
    groups = [*range(19), 0, *range(20, 39), 20]  # 0 and 19, 20 and 39 are the same files
    for seed in range(20):
        train, val = train_val(image_set([20, 20], groups), fraction=0.3, seed=seed)
        assert not set(train.groups) & set(val.groups)
        assert 12 <= len(val) <= 14


def test_train_val_refuses_to_take_all():
    with pytest.raises(InputError, match="'c1' has 1 images"):
        train_val(image_set([20, 1]), fraction=0.1, seed=0)
    with pytest.raises(ValueError, match="fraction must be in"):
        train_val(image_set([20]), fraction=1.0, seed=0)


def test_images_without_a_label_are_counted_apart_and_never_in_a_class():
    labelled = image_set([4, 3])
    labels = labelled.labels.copy()
    labels[[0, 6]] = -1
    images = dataclasses.replace(labelled, labels=labels)
    rows = describe({"train": images}).splitlines()
    assert [row.split()[:-1] for row in rows[1:4]] == [
        ["c0", "3", "3"],
        ["c1", "2", "2"],
        ["(no", "label)", "2", "2"],
    ]
    assert split_classes(images, ["c1"], ["c0"])[0].ids == labelled.subset([4, 5]).ids
    assert len(label_fraction(images, 1.0, seed=0)) == 5
    with pytest.raises(ValueError, match="needs labels"):
        train_val_test(images, seed=0)


def test_of_very_many_classes_the_smallest_are_counted_together():
    digits = load_digits(size=8)
    whole = describe({"all": digits}).splitlines()
    some = describe({"all": digits}, most=4).splitlines()
    count = {line.split()[0]: int(line.split()[1]) for line in whole[1:-2]}
    largest = sorted(count, key=lambda name: -count[name])[:3]
    assert [line.split()[0] for line in some[1:4]] == sorted(largest)
    assert some[4].startswith("(7 smaller classes)")
    assert int(some[4].split()[3]) == sum(count.values()) - sum(count[name] for name in largest)
    assert some[-2].split() == whole[-2].split()
