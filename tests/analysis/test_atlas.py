"""The map's data, decoded as the page's script decodes it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from jaxssl.analysis import atlas
from jaxssl.analysis.embeddings import Embeddings


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return out.getvalue()


def decode(uri):
    head, body = uri.split(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("L"), np.int32)


def array(data, key, dtype):
    return np.frombuffer(base64.b64decode(data[key]), dtype)


def table(names, xy, vectors, thumbnails=()):
    extra = {} if xy is None else dict(zip(("x_umap", "y_umap"), np.transpose(xy), strict=True))
    return Embeddings(
        vectors=np.asarray(vectors, np.float32),
        ids=tuple(f"{name}/{i}" for i, name in enumerate(names)),
        paths=("",) * len(names),
        class_names=tuple(names),
        class_index=np.where(np.array(names) == "", -1, np.unique(names, return_inverse=True)[1]),
        split=("test",) * len(names),
        thumbnails=list(thumbnails),
        extra=extra,
    )


def test_small_pictures_keep_their_pixels_and_others_stand_on_white():
    tiny = np.asarray(atlas.thumbnail(png([[0, 255], [255, 0]]), 8))[:, :, 0]
    np.testing.assert_array_equal(tiny, np.kron([[0, 255], [255, 0]], np.ones((4, 4))))
    wide = np.asarray(atlas.thumbnail(png(np.zeros((10, 40))), 20))[:, :, 0]
    np.testing.assert_array_equal(wide[:7], 255)
    np.testing.assert_array_equal(wide[8:12], 0)


def test_only_png_is_opened():
    out = io.BytesIO()
    Image.new("L", (4, 4)).save(out, "GIF")
    assert atlas.thumbnail(out.getvalue(), 8) is None
    whole = png(np.random.default_rng(0).integers(0, 256, (40, 40)))
    assert atlas.thumbnail(whole, 8) is not None
    assert atlas.thumbnail(whole[: len(whole) // 2], 8) is None


def test_sprites_lie_where_the_script_looks_for_them():
    shades = [0, 80, 160, 240]
    across = atlas.SHEET // 672  # three tiles across, nine a sheet
    thumbnails = [png(np.full((8, 8), shades[i % 4])) for i in range(11)]
    thumbnails[5] = b""
    sheets = [decode(uri) for uri in atlas.sprite_sheets(thumbnails, tile=672)]
    assert [sheet.shape for sheet in sheets] == [(2016, 2016), (672, 2016)]
    for i in range(11):
        row, column = divmod(i % across**2, across)
        tile = sheets[i // across**2][row * 672 :, column * 672 :][100:500, 100:500]
        assert abs(tile - (255 if i == 5 else shades[i % 4])).max() <= 4
    assert atlas.sprite_sheets([b"", b""], tile=48) == []


def test_map_data_holds_each_drawn_point():
    nan = float("nan")
    tables = {
        "train": table(["b", "a", "a"], [[0, 0], [nan, nan], [4, 2]], [[9, 0], [5, 5], [0, 1]]),
        "unseen": table(["c", "c"], [[0, 2], [2, 0]], [[0, 1.1], [8, 0.1]]),
        "undrawn": table(["c"], None, [[1, 1]]),
    }
    data = atlas.map_data(tables, ["a", "b", "c"], metric="euclidean")
    assert data["ids"] == ["b/0", "a/2", "c/0", "c/1", "a/1", "c/0"]  # the last two not drawn
    assert data["classes"] == ["a", "b", "c"]
    np.testing.assert_array_equal(array(data, "label", "<u2"), [1, 0, 2, 2, 0, 2])
    np.testing.assert_array_equal(array(data, "set", "u1"), [0, 0, 1, 1, 0, 2])
    assert data["sets"] == ["train", "unseen", "undrawn"]
    # x over the whole width, y upside down and with the same scale, centred.
    np.testing.assert_allclose(array(data, "x", "<u2") / 65535, [0, 1, 0, 0.5], atol=1e-4)
    np.testing.assert_allclose(array(data, "y", "<u2") / 65535, [0.75, 0.25, 0.25, 0.75], atol=1e-4)
    near = array(data, "neighbours", "<u4").reshape(4, data["near"])
    assert near.shape == (4, 5)
    vectors = np.array([[9, 0], [0, 1], [0, 1.1], [8, 0.1], [5, 5], [1, 1]])
    expected = np.argsort(np.linalg.norm(vectors[:4, None] - vectors, axis=2), axis=1)[:, 1:]
    np.testing.assert_array_equal(near, expected)
    assert data["sheets"] == []


@pytest.mark.parametrize("count", [2, 200])
def test_neighbours_never_hold_the_point_itself(count):
    rng = np.random.default_rng(0)
    one = table(["a"] * count, rng.normal(size=(count, 2)), rng.normal(size=(count, 3)))
    data = atlas.map_data({"test": one}, ["a"], metric="angular")
    near = array(data, "neighbours", "<u4").reshape(count, -1)
    assert near.shape[1] == min(8, count - 1)
    assert not (near == np.arange(count)[:, None]).any()


def test_neighbours_are_of_the_points_where_the_others_are_too_many(monkeypatch):
    monkeypatch.setattr(atlas, "MOST", 3)
    nan = float("nan")
    xy = [[0, 0], [1, 1], [nan, nan], [2, 2]]
    one = table(
        ["a", "", "a", "a"], xy, [[0, 0], [3, 0], [0.1, 0], [4, 0]], [png([[0] * 5] * 3)] * 4
    )
    data = atlas.map_data({"test": one}, ["a"], metric="euclidean")
    assert data["ids"] == ["a/0", "/1", "a/3"]
    near = array(data, "neighbours", "<u4").reshape(3, 2)
    np.testing.assert_array_equal(near, [[1, 2], [2, 0], [1, 0]])
    assert data["of"] == "on the map"
    assert data["classes"] == ["a", "no label"]
    np.testing.assert_array_equal(array(data, "label", "<u2"), [0, 1, 0])
    assert data["shapes"] == [5, 3] * 3


def test_predictions_are_classes_or_none():
    one = table(["a", "b", "a"], np.eye(3)[:, :2], np.eye(3))
    one.extra["predicted"] = np.array(["b", "", "elsewhere"])
    data = atlas.map_data({"test": one}, ["a", "b"], metric="euclidean")
    np.testing.assert_array_equal(array(data, "guess", "<u2"), [1, 65535, 65535])
