"""From files to the pictures of a page: their shape, size, scale and names all along."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from experiments.tables import table_of
from jaxssl import data
from jaxssl.analysis.atlas import of_file
from jaxssl.analysis.embeddings import load, save
from jaxssl.analysis.pictures import Pictures
from jaxssl.analysis.tables import together, with_pixel_size

SIDES = {"long.png": (16, 120), "large.jpg": (150, 450), "turned.jpg": (90, 30), "tiny.png": (6, 9)}


def ramp(height, width):
    """The same picture at any size: darker above and left."""
    down, right = ((np.arange(n) + 0.5) / n for n in (height, width))
    return np.add.outer(90 * down, 160 * right)


@pytest.fixture
def folder(tmp_path_factory):
    """Pictures of four shapes, a stack, one of 16 bits; a table with scale and objects."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, (height, width) in SIDES.items():
        image = Image.fromarray(ramp(height, width).astype(np.uint8))
        exif = image.getexif()
        if name == "turned.jpg":
            image = image.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        image.save(folder / name, exif=exif)
    pages = [Image.fromarray(np.full((20, 30), 50 * i, np.uint8)) for i in range(3)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    deep = np.linspace(0, 4095, 20 * 40).reshape(20, 40).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    rows = ["path,label,acq_pixel,object_id", "long.png,a,40,o 1", "large.jpg,a,,", "tiny.png,b,7,"]
    (folder / "table.csv").write_text("\n".join(rows))
    return folder


def opened(folder, tmp_path, **reading):
    reading = data.Reading(24, cache_dir=tmp_path, classes=None, **reading)
    images, report = data.open_images(folder, reading)
    return images, report, dict(zip(images.ids, range(len(images)), strict=True))


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_table_keeps_what_the_files_were(folder, tmp_path, fit):
    images, report, at = opened(folder, tmp_path, fit=fit)
    assert "a pixel shows 7 to 40 µm, as column 'acq_pixel' says" in str(report)
    about = {"layer": "h", "distance": "euclidean"}
    vectors = np.eye(len(images), dtype=np.float32)
    save(tmp_path / "t.parquet", table_of(images, "test", vectors, about, pictures=True))
    table = load(tmp_path / "t.parquet")
    pictures = Pictures({"test": table}, files=False)
    for name, sides in SIDES.items():
        assert table.sides[at[name]] == sides
        shown = Image.open(io.BytesIO(table.thumbnails[at[name]]))
        # As many pixels as the network saw, or all that the file has, in the file's shape.
        assert shown.width <= sides[1]
        step = 1 / min(shown.size)  # a side is a whole number of pixels
        assert shown.width / shown.height == pytest.approx(sides[1] / sides[0], rel=1.2 * step)
        pixels = np.asarray(shown, float)
        assert np.abs(pixels - ramp(*pixels.shape)).mean() < 4
    assert table.micrometres[at["long.png"]] == pictures["long.png"].micrometres == 120 * 40
    assert table.micrometres[at["large.jpg"]] == 0
    assert np.isnan(table.extra["pixel_size"][at["large.jpg"]])
    assert table.object_ids[at["long.png"]] == "o 1"
    part = images.subset([at["tiny.png"]])
    assert (part.sides.tolist(), part.pixel_size.tolist()) == ([[6, 9]], [7])
    assert together({"test": table}).sides == tuple(table.sides)
    told = with_pixel_size({"test": table}, 2.0)["test"].micrometres
    assert told[at["large.jpg"]] == 900


def test_a_page_shows_the_file_where_it_is_that_image(folder, tmp_path):
    images, *_ = opened(folder, tmp_path, pixel_size=3.0)
    assert set(images.pixel_size.tolist()) == {3}
    table = table_of(images, "test", np.eye(len(images)), {}, pictures=True)
    pictures = Pictures({"test": table})

    def shown(name):
        source = pictures[name].source.removeprefix("data:image/webp;base64,")
        return Image.open(io.BytesIO(base64.b64decode(source)))

    assert shown("large.jpg").size == (128, 43)
    assert shown("turned.jpg").size == (30, 90)
    # Not the stack for its page, nor 16 bits cut to 8: what the network saw.
    assert np.asarray(shown("stack.tif#3")).mean() == pytest.approx(100, abs=3)
    assert np.asarray(shown("deep.png").convert("L")).mean() == pytest.approx(127, abs=5)
    (folder / "tiny.png").rename(folder / "moved.png")
    assert shown("tiny.png").size == (9, 6)
    os.mkfifo(tmp_path / "pipe.png")  # which would never end
    assert of_file(str(tmp_path / "pipe.png"), (5, 5), 9) is None
    Image.new("L", (70, 70)).save(folder / "tiny.png")  # another file of this name
    pictures = Pictures({"test": table})
    assert shown("tiny.png").size == (9, 6)
