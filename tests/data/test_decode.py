"""One file of every kind, pinned by pixel values or by the reason given."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxssl.data import Reading, UnreadableImage, decode, open_images
from jaxssl.data.source import Source
from jaxssl.errors import InputError


def grey(path: Path, size: int = 4, **options) -> np.ndarray:
    return decode(path, size=size, channels=1, **options)[..., 0]


def rgb(path: Path, size: int = 4, **options) -> np.ndarray:
    return decode(path, size=size, channels=3, **options)


def reason(path: Path) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(path, size=4, channels=1)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    return caught.value.reason


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(header: tuple[int, int, int, int], raw: bytes) -> bytes:
    """A PNG of (width, height, bit depth, colour type) written byte by byte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    ihdr = struct.pack(">IIBBBBB", *header, 0, 0, 0)
    body = chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---------------------------------------------------------------------------------- scaled depth


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_divided_by_257(tmp_path, suffix):
    deep = np.array([[0, 128, 129, 257], [385, 386, 64 * 257, 4096]] * 2, np.uint16)
    deep[3, 3] = 65535
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(grey(tmp_path / f"a.{suffix}"), np.rint(deep / 257))


def test_big_endian_16_bit_tiff(tmp_path):
    deep = (np.arange(16, dtype=np.uint16) * 257 * 16).reshape(4, 4)
    Image.frombytes("I;16B", (4, 4), deep.astype(">u2").tobytes()).save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(grey(tmp_path / "a.tiff"), deep // 257)


def test_16_bit_colour_png_keeps_its_level(tmp_path):
    row = b"\0" + np.full(12, 64 * 257, ">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png((4, 4, 16, 2), row * 4))
    assert (rgb(tmp_path / "a.png") == 64).all()


def test_float_pixels_of_unit_range_are_multiplied_by_255(tmp_path):
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4) ** 2
    Image.fromarray(values).save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(grey(tmp_path / "a.tiff"), np.rint(values * 255))


@pytest.mark.parametrize("bad", [3.0, -0.5, np.nan, np.inf])
def test_other_floats_are_refused(tmp_path, bad):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 2] = bad
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert reason(tmp_path / "a.tiff").endswith("only 0 to 1 can be scaled")


def test_int32_holding_16_bit_values_is_divided_by_257(tmp_path):
    values = (np.arange(16, dtype=np.int32) * 257 * 17).reshape(4, 4)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(grey(tmp_path / "a.tiff"), values // 257)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 65536), (-1, 1000), (0, 2**31 - 1)])
def test_int32_of_unstated_depth_is_refused(tmp_path, low, high):
    values = np.full((4, 4), low, np.int32)
    values[0, 0] = high
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert f"from {low} to {high}, a range that states no depth" in reason(tmp_path / "a.tiff")


def test_deep_tiff_with_white_as_zero_is_refused_not_inverted(tmp_path):
    Image.fromarray(np.full((4, 4), 999, np.uint16)).save(tmp_path / "a.tiff", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tiff") as image:
        assert image.tag_v2[262] == 0  # else this file tests nothing
    assert "white as 0" in reason(tmp_path / "a.tiff")


# ------------------------------------------------------------------------------ modes and colour


@pytest.mark.parametrize("fill", [255, 0, 100])
def test_colour_hidden_under_alpha_never_appears(tmp_path, fill):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200  # red everywhere, hidden in the upper half
    pixels[2:, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = rgb(tmp_path / "a.png", fill=fill)
    assert (got[:2] == fill).all()
    assert (got[2:] == [200, 0, 0]).all()


def test_half_alpha_is_mixed_with_the_fill(tmp_path):
    Image.fromarray(np.full((4, 4, 2), (0, 128), np.uint8), "LA").save(tmp_path / "a.png")
    assert (grey(tmp_path / "a.png") == 127).all()  # 0 * 128/255 + 255 * 127/255


def test_palette_with_a_transparent_entry(tmp_path):
    image = Image.fromarray(np.array([[0, 1]] * 2, np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=0)
    assert rgb(tmp_path / "a.png", size=2)[0].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_colour_key_of_an_rgb_png_is_transparent(tmp_path):
    pixels = np.full((2, 2, 3), (10, 20, 30), np.uint8)
    pixels[:, 1] = (40, 50, 60)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(10, 20, 30))
    assert rgb(tmp_path / "a.png", size=2)[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_one_bit_palette_grey_alpha_and_cmyk(tmp_path):
    checker = np.indices((4, 4)).sum(axis=0) % 2
    Image.fromarray(checker.astype(bool)).save(tmp_path / "one.png")
    np.testing.assert_array_equal(grey(tmp_path / "one.png"), checker * 255)

    colour = Image.new("RGB", (4, 4), (0, 128, 255))
    colour.quantize(2).save(tmp_path / "palette.gif")
    assert (rgb(tmp_path / "palette.gif") == (0, 128, 255)).all()

    Image.new("LA", (4, 4), (90, 255)).save(tmp_path / "la.png")
    assert (grey(tmp_path / "la.png") == 90).all()

    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(rgb(tmp_path / "cmyk.jpg").astype(int) - (255, 0, 0)).max() <= 2


def test_grey_of_colour_is_luma_and_rgb_of_grey_is_three_times_it(tmp_path):
    colour = noise(0, 4, 4, 3)
    Image.fromarray(colour).save(tmp_path / "a.png")
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey(tmp_path / "a.png") - luma).max() <= 0.51
    Image.fromarray(colour[..., 0]).save(tmp_path / "b.png")
    np.testing.assert_array_equal(rgb(tmp_path / "b.png"), np.repeat(colour[..., :1], 3, axis=-1))


# ------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff", "lzw.tiff", "16.tiff"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (6, 3), (3, 2), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, name, orientation, turns):
    stored = noise(1, 4, 4) if name != "16.tiff" else noise(1, 4, 4).astype(np.uint16) * 257
    options = {"lossless": True} if name == "a.webp" else {}
    if name.endswith("tiff"):
        options = {"compression": "tiff_lzw"} if name == "lzw.tiff" else {}
        options["tiffinfo"] = {274: orientation}
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    Image.fromarray(stored).save(tmp_path / name, **options)
    want = np.rot90(noise(1, 4, 4), turns)
    np.testing.assert_array_equal(grey(tmp_path / name), want)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_orientation_of_a_tiff_that_is_not_square(tmp_path, compression):
    # Opened by name, Pillow 13 scrambles the uncompressed one: it maps the file in memory with
    # height and width already swapped.
    stored = noise(2, 4, 8)
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={274: 6}, compression=compression)
    want = np.full((8, 8), 255)
    want[:, 2:6] = np.rot90(stored, 3)
    np.testing.assert_array_equal(grey(tmp_path / "a.tif", size=8, fit="pad"), want)


def test_squash_and_pad(tmp_path):
    Image.fromarray(np.full((3, 6), 40, np.uint8)).save(tmp_path / "a.png")
    assert (grey(tmp_path / "a.png") == 40).all()
    assert grey(tmp_path / "a.png", fit="pad", fill=7)[:, 0].tolist() == [7, 40, 40, 7]
    got = rgb(tmp_path / "a.png", fit="pad", fill=7)
    assert got[0].tolist() == [[7] * 3] * 4
    assert got[1].tolist() == [[40] * 3] * 4


@pytest.mark.parametrize("shape", [(1, 1), (3, 4000), (4000, 3)])
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_extreme_shapes(tmp_path, shape, fit):
    Image.fromarray(np.full(shape, 40, np.uint8)).save(tmp_path / "a.png")
    got = grey(tmp_path / "a.png", size=5, fit=fit)
    assert got.shape == (5, 5)
    assert (got == 40).any()


def test_shrinking_averages_instead_of_picking_pixels(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "a.png")
    got = grey(tmp_path / "a.png", size=8).astype(int)
    assert np.abs(got - 100).max() <= 4  # nearest neighbour gives 0 or 200


def test_large_jpeg_at_reduced_scale_stays_close_to_the_full_decode(tmp_path):
    x, y = np.meshgrid(np.arange(400), np.arange(300))
    scene = (127 + 60 * np.sin(x / 20) + 60 * np.cos(y / 30)).astype(np.uint8)
    Image.fromarray(scene).save(tmp_path / "a.jpg", quality=95)
    full = Image.fromarray(scene).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(grey(tmp_path / "a.jpg", size=32).astype(int) - np.asarray(full)).max() <= 4


# ---------------------------------------------------------------------------- containers, frames


def test_the_first_of_several_frames(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (30, 60, 90)]
    for name in ("a.gif", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert (grey(tmp_path / name) == 30).all()


@pytest.mark.parametrize("name", ["a.jpg", "A.PNG", "ünï cödé.png", "new\nline.png"])
def test_content_decides_not_the_name(tmp_path, name):
    Image.new("L", (4, 4), 77).save(tmp_path / name, format="PNG")
    assert (grey(tmp_path / name) == 77).all()


def test_trailing_garbage_is_harmless(tmp_path):
    for kind in ("png", "jpg"):
        Image.new("L", (8, 8), 77).save(tmp_path / f"a.{kind}")
        with open(tmp_path / f"a.{kind}", "ab") as file:
            file.write(b"garbage" * 100)
        assert (grey(tmp_path / f"a.{kind}") == 77).all()


# ---------------------------------------------------------------------------------- unreadable


# The last 16 bytes of a PNG hold no pixels, those of a JPEG do.
@pytest.mark.parametrize(("kind", "lost"), [("jpg", 16), ("jpg", 2000), ("png", 64), ("png", 2000)])
def test_truncated(tmp_path, kind, lost):
    Image.fromarray(noise(3, 64, 64)).save(tmp_path / f"a.{kind}")
    whole = (tmp_path / f"a.{kind}").read_bytes()
    (tmp_path / f"a.{kind}").write_bytes(whole[:-lost])
    assert reason(tmp_path / f"a.{kind}") == "the file is cut short"


def test_png_with_a_wrong_checksum(tmp_path):
    Image.fromarray(noise(4, 64, 64)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    assert reason(tmp_path / "a.png").startswith("damaged, it does not decode (")


def test_not_an_image(tmp_path):
    (tmp_path / "zero.png").touch()
    assert reason(tmp_path / "zero.png") == "an empty file"
    (tmp_path / "text.png").write_text("no pixels here")
    assert reason(tmp_path / "text.png").startswith("not an image of a format read here")
    (tmp_path / "heic.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert reason(tmp_path / "heic.jpg").startswith("not an image of a format read here")


def test_formats_outside_the_list_are_not_opened(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png", format="PPM")
    assert reason(tmp_path / "a.png").startswith("not an image of a format read here")


@pytest.mark.parametrize("side", [9_460, 10_000, 20_000])
def test_bombs_are_refused_from_the_header(tmp_path, side):
    # One byte of pixels: were they decoded, the reason would be a file cut short.
    (tmp_path / "bomb.png").write_bytes(png((side, side, 1, 0), b"\0"))
    for action in ("error", "ignore"):  # whatever Pillow's warning of bombs does
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            assert reason(tmp_path / "bomb.png").startswith("more than 89 megapixels")
    (tmp_path / "small.png").write_bytes(png((9_000, 9_000, 1, 0), b"\0"))
    assert reason(tmp_path / "small.png") == "the file is cut short"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "not a regular file"


def test_folders_links_and_missing_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    assert reason(tmp_path / "folder.png") == "not a regular file"
    assert reason(tmp_path / "missing.png") == "no such file, or a link to none"
    (tmp_path / "dangling.png").symlink_to(tmp_path / "missing.png")
    assert reason(tmp_path / "dangling.png") == "no such file, or a link to none"
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "symbolic links" in reason(tmp_path / "loop.png")
    Image.new("L", (4, 4), 5).save(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert (grey(tmp_path / "link.png") == 5).all()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_no_permission(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert reason(tmp_path / "a.png") == "no permission to read it"


def test_the_error_survives_pickling_and_is_an_input_error():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png: why", "why")))
    assert isinstance(error, InputError)
    assert (str(error), error.reason) == ("a.png: why", "why")
    assert str(UnreadableImage("one string makes it whole")) == "one string makes it whole"


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"channels": 4}, {"fill": 256}, {"fill": -1}, {"fit": "crop"}]
)
def test_options_out_of_range(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=") as caught:
        decode(tmp_path / "a.png", **({"size": 4, "channels": 1} | options))
    assert not isinstance(caught.value, InputError)


def test_pillow_is_left_as_strict_as_it_was():
    from PIL import ImageFile

    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    # what Pillow does by itself with the deep images above: clip, in silence
    clipped = Image.open(io.BytesIO(_int32_tiff(64 * 257))).convert("L")
    assert np.asarray(clipped).min() == 255


def _int32_tiff(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), level, np.int32)).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ((-1, 2, 2), "its place lies outside the file"),
        ((0, -2, 2), "its place lies outside the file"),
        ((0, 2**20, 2**20), "more than 89 megapixels; shrink it or cut it into parts"),
        ((2**70, 2, 2), "the file ends before its pixels do"),
        ((8, 3, 3), "the file ends before its pixels do"),
    ],
)
def test_a_place_in_a_file_is_one_within_it(tmp_path, place, why):
    """As a foreign .adc tells them; nothing of the size that it claims is set aside."""
    path = tmp_path / "x.roi"
    path.write_bytes(bytes(16))
    with pytest.raises(UnreadableImage) as caught:
        decode(Source(str(path), raw=place), size=4, channels=1)
    assert caught.value.reason == why


@pytest.mark.parametrize("cell", ["1e999", "nan", "", '"' + "x" * 200_000 + '"'])
def test_numbers_of_an_ifcb_that_are_none_are_one_line(tmp_path, cell):
    (tmp_path / "D1.roi").write_bytes(bytes(16))
    (tmp_path / "D1.adc").write_text(",".join(["0"] * 15 + [cell, "2", "0"]))
    with pytest.raises(InputError, match=r"D1\.adc is no table of an IFCB") as caught:
        open_images(tmp_path, Reading(size=4, channels=1))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
