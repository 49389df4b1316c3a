"""Real plankton: two small classes and the one duplicate of PlanktonSet, from their archive."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxssl.data import Reading, describe, open_images, split_classes, train_val_test

ARCHIVE = Path(os.environ.get("JAXSSL_DATA", "")) / "planktonset1.tar.gz"
pytestmark = pytest.mark.skipif(
    not ARCHIVE.is_file(), reason="JAXSSL_DATA names no folder that holds planktonset1.tar.gz"
)
SEEN, UNSEEN = "invertebrate_larvae_other_A", "heteropod"
DUPLICATE = ("chaetognath_other/271.jpg", "chaetognath_non_sagitta/14864.jpg")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("plankton")
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            id_ = member.name.removeprefix("planktonset1/")
            if id_ in DUPLICATE or id_.startswith((f"{SEEN}/", f"{UNSEEN}/")):
                archive.extract(member, top, filter="data")
    return top / "planktonset1"


def test_counts_pixels_and_split(root, tmp_path):
    reading = Reading(48, classes=(SEEN, UNSEEN), cache_dir=tmp_path)
    images, report = open_images(root, reading)
    assert report.background == 255
    assert report.counts == {SEEN: 14, UNSEEN: 10}
    assert (report.unreadable, report.other_files, report.warnings) == ({}, (), ())
    pixels = images.images()
    assert np.median(pixels) > 230  # grey silhouettes on white
    with Image.open(images.paths[0]) as image:
        want = image.convert("L").resize((48, 48), Image.Resampling.BILINEAR)
    assert np.abs(pixels[0, ..., 0].astype(int) - np.asarray(want)).max() <= 1
    seen, unseen = split_classes(images, [SEEN], [UNSEEN])
    parts = train_val_test(seen, seed=0)
    assert [len(part) for part in parts] == [10, 1, 3]
    assert f"{UNSEEN}" in describe(parts._asdict() | {"unseen": unseen})


def test_the_known_duplicate_is_found(root, tmp_path):
    classes = tuple(name.split("/")[0] for name in DUPLICATE)
    images, report = open_images(root, Reading(8, classes=classes, cache_dir=tmp_path))
    assert images.groups.tolist() == [0, 0]
    assert report.warnings == (
        "the same image in more than one class: chaetognath_other/271.jpg = "
        "chaetognath_non_sagitta/14864.jpg",
    )
