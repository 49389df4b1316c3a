"""The table of images: access, subsets, fingerprint."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from grain import MapDataset

from jaxssl.data import ImageSet


def image_set(n: int = 7, seed: int = 0) -> tuple[ImageSet, np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 3, 4, 1), np.uint8)
    images = ImageSet(
        ids=tuple(f"x/{i}" for i in range(n)),
        paths=("",) * n,
        labels=rng.integers(0, 3, n).astype(np.int32),
        class_names=("a", "b", "c"),
        load=pixels.__getitem__,
        groups=np.arange(n),
        shape=(3, 4, 1),
    )
    return images, pixels


def test_items_batches_and_all_images():
    images, pixels = image_set()
    np.testing.assert_array_equal(images.images(), pixels)
    item = images[3]
    np.testing.assert_array_equal(item["image"], pixels[3])
    assert (item["label"], item["index"]) == (images.labels[3], 3)
    assert item["label"].dtype == item["index"].dtype == np.int32
    batch = images.batch([5, 1, 5])
    np.testing.assert_array_equal(batch["image"], pixels[[5, 1, 5]])
    np.testing.assert_array_equal(batch["label"], images.labels[[5, 1, 5]])
    assert batch["index"].tolist() == [5, 1, 5]
    assert batch["index"].dtype == batch["label"].dtype == np.int32


def test_subsets_of_subsets():
    images, pixels = image_set()
    part = images.subset([6, 2, 0, 5]).subset(np.array([3, 1]))
    assert part.ids == ("x/5", "x/2")
    np.testing.assert_array_equal(part.images(), pixels[[5, 2]])
    np.testing.assert_array_equal(part.labels, images.labels[[5, 2]])
    assert part.groups.tolist() == [5, 2]
    assert part[1]["index"] == 1


def test_images_without_a_label_and_given_splits():
    images, pixels = image_set()
    labels = np.array([2, -1, 0, -1, 1, 2, -1], np.int32)
    split = ("train", "", "test", "val", "train", "", "test")
    part = dataclasses.replace(images, labels=labels, split=split).labelled()
    assert part.ids == ("x/0", "x/2", "x/4", "x/5")
    assert part.labels.tolist() == [2, 0, 1, 2]
    assert part.split == ("train", "test", "train", "")
    np.testing.assert_array_equal(part.images(), pixels[[0, 2, 4, 5]])
    assert part.subset([2, 0]).split == ("train", "train")


def test_an_empty_set_has_a_shape():
    empty = image_set()[0].subset([])
    assert len(empty) == 0
    assert empty.images().shape == (0, 3, 4, 1)


def test_grain_reads_it():
    images, pixels = image_set()
    batches = list(MapDataset.source(images).batch(7))
    np.testing.assert_array_equal(batches[0]["image"], pixels)
    assert batches[0]["index"].tolist() == list(range(7))


def test_the_fingerprint_follows_ids_order_labels_and_shape():
    images, _ = image_set()
    prints = {
        images.fingerprint(),
        images.subset([1, 0, 2, 3, 4, 5, 6]).fingerprint(),
        images.subset(range(6)).fingerprint(),
        dataclasses.replace(images, labels=(images.labels + 1) % 3).fingerprint(),
        dataclasses.replace(images, shape=(4, 3, 1)).fingerprint(),
        dataclasses.replace(images, ids=tuple(f"y/{i}" for i in range(7))).fingerprint(),
        dataclasses.replace(images, split=("train", *[""] * 6)).fingerprint(),
        dataclasses.replace(images, split=("", "train", *[""] * 5)).fingerprint(),
    }
    assert len(prints) == 8
    assert image_set(seed=0)[0].fingerprint() == images.fingerprint()
    assert images.subset(range(7)).fingerprint() == images.fingerprint()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"paths": ("",)}, r"equally long, got \[7, 1, 7, 7, 7, 7, 7\]"),
        ({"ids": ("x",) * 7}, "unique"),
        ({"labels": np.full(7, 3, np.int32)}, "label 3 outside the 3 classes"),
        ({"labels": np.full(7, -2, np.int32)}, "label -2 outside the 3 classes"),
        ({"split": ("train",) * 6}, r"equally long, got \[7, 7, 7, 7, 6, 7, 7\]"),
        ({"split": ("train", "valid", *[""] * 5)}, "train, val, test or '', got 'valid'"),
    ],
)
def test_columns_that_do_not_fit(column, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(image_set()[0], **column)


def test_positions_out_of_range():
    with pytest.raises(IndexError):
        image_set()[0].subset([7])
