"""What is learnt from, chosen by and judged on: nothing leaks, and every choice is said."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from jaxssl.data import ImageSet, load_digits, split_classes, split_protocol, train_val_test
from jaxssl.data.near import near_duplicates
from jaxssl.errors import InputError


def image_set(labels: list[int], split=(), groups=None) -> ImageSet:
    """Images of noise; class k is called "class k"."""
    n = len(labels)
    pixels = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 1), np.uint8)
    return ImageSet(
        ids=tuple(f"{i:03d}" for i in range(n)),
        paths=("",) * n,
        labels=np.array(labels, np.int32),
        class_names=tuple(f"class {k}" for k in range(max(labels) + 1)),
        load=pixels.__getitem__,
        groups=np.arange(n) if groups is None else np.array(groups),
        shape=(16, 16, 1),
        split=tuple(split),
    )


def check_no_leak(parts, images) -> None:
    """No group on two sides, no image twice, no label of another image."""
    sides = [parts.train, parts.val, parts.test, parts.unseen]
    for i, a in enumerate(sides):
        for b in sides[i + 1 :]:
            assert not {*a.ids} & {*b.ids}
            assert not {*a.groups.tolist()} & {*b.groups.tolist()}
    name_of = {
        id_: images.class_names[label] if label >= 0 else ""
        for id_, label in zip(images.ids, images.labels, strict=True)
    }
    for part in sides:
        for id_, label in zip(part.ids, part.labels, strict=True):
            assert name_of[id_] == (part.class_names[label] if label >= 0 else "")


# ------------------------------------------------------------------------------------------ classes


def test_named_classes_give_the_splits_they_always_gave():
    digits = load_digits(size=8)
    parts = split_protocol(digits, seen=["5", "0", "8"], unseen=["7"], seed=3, look_for_near=False)
    seen, unseen = split_classes(digits, ["5", "0", "8"], ["7"])
    want = (*train_val_test(seen, seed=3), unseen)
    for part, other in zip((parts.train, parts.val, parts.test, parts.unseen), want, strict=True):
        assert part.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("seen", [None, "all"])
def test_without_names_every_class_with_enough_images_is_seen(seen):
    images = image_set([0] * 9 + [1] * 2 + [2] * 12 + [3])
    parts = split_protocol(images, seen=seen, seed=0)
    assert parts.train.class_names == ("class 0", "class 2")
    assert parts.left_out == {"class 1": 2, "class 3": 1}
    assert len(parts.unseen) == 0
    assert "none is unseen" in parts.note[0]
    assert "too few images to split: 'class 1' (2), 'class 3' (1)" in str(parts)
    assert len(parts.train) + len(parts.val) + len(parts.test) == 21
    check_no_leak(parts, images)
    assert split_protocol(images, min_images=10, seed=0).train.class_names == ("class 2",)


def test_copies_are_no_images_to_split():
    images = image_set([0] * 5 + [1] * 5, groups=[0, 0, 0, 0, 1, *range(5, 10)])
    assert split_protocol(images, seed=0).left_out == {"class 0": 5}


def test_unseen_classes_by_number_are_drawn_by_the_seed():
    images = image_set([*np.repeat(np.arange(8), 4).tolist(), 8])
    drawn = {split_protocol(images, unseen=2, seed=seed).unseen.class_names for seed in range(9)}
    assert len(drawn) > 4
    again = split_protocol(images, unseen=2, seed=0)
    assert again.unseen.class_names == split_protocol(images, unseen=2, seed=0).unseen.class_names
    assert len(again.train.class_names) == 6
    assert not {*again.train.class_names} & {*again.unseen.class_names}
    parts = split_protocol(images, seen=["class 3"], unseen=7, seed=0)
    assert len(parts.unseen) == 28
    parts = split_protocol(images, unseen=["class 8", "class 2"], seed=0)
    assert parts.unseen.class_names == ("class 8", "class 2")  # named: small or not
    assert len(parts.train.class_names) == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seen": ["class2"]}, "no class 'class2'; the 3 classes, the nearest first: 'class 2', "),
        ({"unseen": ["x"]}, "no class 'x'; the 3 classes"),
        ({"seen": ["class 0"], "unseen": ["class 0"]}, "is both seen and unseen"),
        ({"unseen": 3}, "3 unseen classes of 3 with at least 3 images: choose 0 to 2"),
        ({"unseen": -1}, "choose 0 to 2"),
        ({"min_images": 9}, "no class has 9 distinct images to split (the largest, 'class 1', has"),
    ],
)
def test_choices_that_cannot_be(options, said):
    with pytest.raises(InputError) as caught:
        split_protocol(image_set([0] * 4 + [1] * 5 + [2] * 4), seed=0, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_classes_that_are_left_out_are_told_apart_by_quotes():
    images = image_set([0] * 5 + [1] * 5 + [2])
    images = dataclasses.replace(images, class_names=("a", "b", "diatom, chain"))
    assert "too few images to split: 'diatom, chain' (1)" in str(split_protocol(images, seed=0))


# ---------------------------------------------------------------------------------- without labels


def test_without_labels_all_images_are_learnt_from():
    images = image_set([0] * 6)
    images = dataclasses.replace(images, labels=np.full(6, -1, np.int32), class_names=())
    parts = split_protocol(images, seed=0)
    assert parts.train.ids == images.ids
    # True of a network that is not trained, too.
    assert parts.note == (
        "no labels: all images are in the training part, and nothing is held out",
    )
    assert not len(parts.val) + len(parts.test) + len(parts.unseen)
    given = dataclasses.replace(images, split=("train", "", "test", "test", "val", ""))
    given = dataclasses.replace(given, groups=np.array([0, 1, 2, 3, 4, 2]))
    parts = split_protocol(given, seed=0)
    assert parts.train.ids == ("000", "001")
    assert parts.test.ids == ("002", "003", "004")


def test_images_without_a_label_are_learnt_from_unless_their_group_is_held_out():
    images = image_set([0] * 8 + [1] * 8 + [-1] * 6, groups=[*range(20), 0, 1])
    for seed in range(5):
        parts = split_protocol(images, unseen=["class 1"], seed=seed)
        check_no_leak(parts, images)
        held = {*parts.val.groups.tolist(), *parts.test.groups.tolist()}
        loose = {"016", "017", "018", "019"}
        loose |= {id_ for id_, group in (("020", 0), ("021", 1)) if group not in held}
        mine = {i for i, c in zip(parts.train.ids, parts.train.labels, strict=True) if c < 0}
        assert mine == loose
        assert len(parts.train.labelled()) == 8 - len(parts.val) - len(parts.test)


# ---------------------------------------------------------------------------- splits that are given


def test_a_given_split_is_taken():
    split = ["train", "train", "val", "test"] * 4
    images = image_set([0] * 8 + [1] * 8, split)
    parts = split_protocol(images, seed=0)
    for part, name in ((parts.train, "train"), (parts.val, "val"), (parts.test, "test")):
        assert {*part.split} == {name}
        assert len(part) == split.count(name)
    assert split_protocol(images, seed=1).train.ids == parts.train.ids
    unseen = split_protocol(images, unseen=["class 1"], seed=0).unseen
    assert len(unseen) == 8


def test_without_test_images_the_validation_folder_is_the_test():
    images = image_set([0] * 20 + [1] * 20, ["train", "train", "train", "val"] * 10)
    parts = split_protocol(images, seed=0)
    assert {*parts.test.split} == {"val"}
    assert {*parts.train.split, *parts.val.split} == {"train"}
    assert len(parts.val) == 4  # round(1.5) a class
    assert "its validation images are the test" in str(parts)
    check_no_leak(parts, images)


def test_copies_across_a_given_split_are_not_learnt_from():
    images = image_set([0] * 8, ["train"] * 5 + ["val", "test", "test"], [0, 1, 2, 3, 4, 5, 0, 5])
    parts = split_protocol(images, seed=0)
    assert sorted(parts.train.ids + parts.val.ids) == ["001", "002", "003", "004"]
    assert len(parts.val) == 1  # the given one is a copy of a test image
    assert parts.test.ids == ("006", "007")
    assert "2 images of it have a copy" in str(parts)


def test_classes_that_a_given_split_cannot_judge_are_left_out():
    images = image_set([0] * 4 + [1] * 4, ["train", "train", "test", "val"] + ["train"] * 4)
    assert split_protocol(images, seed=0).left_out == {"class 1": 4}


# ---------------------------------------------------------------------------------- near-duplicates


def _saved_again(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))[..., None]


def test_near_duplicates_are_found_and_others_are_not():
    digits = load_digits(size=16)
    a, b = digits.subset(range(600)), digits.subset(range(600, 1200))
    lit = (a.load(20) // 2 + 60, a.load(21) // 2)  # the same shape in another light
    copies = [_saved_again(a.load(7), 60), a.load(9) - a.load(9) // 80, a.load(11)[:, ::-1], *lit]
    pixels = np.concatenate([b.images(), np.stack(copies)])
    n = len(pixels)
    mixed = ImageSet(
        ids=tuple(map(str, range(n))),
        paths=("",) * n,
        labels=np.full(n, -1, np.int32),
        class_names=(),
        load=pixels.__getitem__,
        groups=np.arange(n),
        shape=(16, 16, 1),
    )
    pairs = dict(near_duplicates(a, mixed))
    assert pairs[7] == 600
    assert pairs[9] == 601
    assert pairs.get(11) != 602
    assert not {603, 604} & {*pairs.values()}
    assert len(pairs) < 8  # among 600 digits a few are alike
    assert near_duplicates(a.subset([]), b) == near_duplicates(a, b.subset([])) == []


def test_near_duplicates_across_the_split_are_named():
    images = image_set([0] * 40)
    pixels = images.images()
    pixels[20:] = pixels[:20]
    images = dataclasses.replace(images, load=pixels.__getitem__)
    parts = split_protocol(images, seed=0)
    twin = {i: (i + 20) % 40 for i in range(40)}
    mine = {int(i) for i in parts.train.ids}
    held = [int(i) for part in (parts.val, parts.test) for i in part.ids]
    want = {(f"{i:03d}", f"{twin[i]:03d}") for i in held if twin[i] in mine}
    assert {*parts.near} == want
    assert want
    assert f"{len(want)} held-out images are nearly the same as a training image" in str(parts)
    assert split_protocol(images, seed=0, look_for_near=False).near == ()


def test_blank_images_are_alike_to_all_and_named_to_nobody():
    images = image_set([0] * 90)
    blank = dataclasses.replace(images, load=lambda i: np.full((16, 16, 1), 255, np.uint8))
    assert near_duplicates(blank.subset(range(30)), blank.subset(range(30, 90))) == []


@pytest.mark.parametrize("asked", [{"unseen": 3}, {"unseen": ["a"]}, {"seen": ["a", "b"]}])
def test_classes_of_images_without_labels_are_refused(asked):
    images = image_set([0] * 9)
    bare = dataclasses.replace(images, labels=np.full(9, -1, np.int32), class_names=())
    with pytest.raises(InputError, match="no image has a label"):
        split_protocol(bare, seed=0, **asked)
    assert len(split_protocol(bare, seed=0, seen="all", unseen=0).train) == 9
