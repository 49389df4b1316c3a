"""New images on a map: their places by a plain loop, and the page that shows them."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
from scipy.optimize import brentq

from jaxssl.analysis import newcomers, placing

from .conftest import SEEN, UNSEEN, make_tables, mapped, table, unlabelled


def test_places_are_the_means_that_a_plain_loop_finds():
    rng = np.random.default_rng(0)
    bank, places = rng.normal(size=(40, 3)) * [1, 9, 0], rng.normal(size=(40, 2))
    new = rng.normal(size=(6, 3)) * [1, 9, 0]
    found = placing.place(new, bank, places, neighbours=7)
    spread = np.where(bank.std(axis=0) > 0, bank.std(axis=0), 1)
    for vector, place in zip(new, found, strict=True):
        far = np.linalg.norm((vector - bank) / spread, axis=1)
        near = np.argsort(far)[:7]

        def surplus(scale, d=far[near]):
            return np.exp(-d / scale).sum() - np.log2(7)

        weights = np.exp(-far[near] / brentq(surplus, 1e-3, 1e3))
        np.testing.assert_allclose(place, weights @ places[near] / weights.sum(), rtol=1e-6)


def test_an_image_of_the_map_lies_where_it_lies_and_one_far_away_among_its_nearest():
    rng = np.random.default_rng(1)
    bank, places = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    np.testing.assert_array_equal(placing.place(bank[:5], bank, places), places[:5])
    far = placing.place(np.full((1, 4), 1e6), bank, places)
    assert np.all((places.min(0) <= far) & (far <= places.max(0)))
    one = placing.place(bank, bank[:1], places[:1])  # a map of one image
    np.testing.assert_array_equal(one, np.repeat(places[:1], 30, axis=0))
    with pytest.raises(ValueError, match="one place an image"):
        placing.place(bank, bank, places[:3])


def test_unlike_is_told_by_the_banks_own_distances():
    bank = np.arange(20.0)[:, None]
    far, usual = placing.unlike(np.array([[3.25], [40.0]]), bank, metric="euclidean")
    np.testing.assert_allclose(far, [0.25, 21])
    assert usual == 1


@pytest.fixture(scope="module")
def known():
    return mapped(make_tables(baselines=()))["h"]


def drawn_page(folder, known, new):
    placed = newcomers.with_places(known, new)
    page = newcomers.write_newcomers(
        folder, known, placed, title="New <b>", run_name="run", about={"images": "<i>"}
    )
    text = page.read_text()
    data = re.search(r'<script type="application/json" id="map-data">(.*?)</script>', text, re.S)
    return placed, text, json.loads(data[1])


def test_the_page_holds_both_layers_and_the_nearest_labelled(known, tmp_path):
    new = unlabelled(table(np.random.default_rng(5), SEEN, "other", 5))
    placed, text, data = drawn_page(tmp_path, known, new)
    labelled = [t for t in known.values() if len(t)]
    bank = np.concatenate([t.vectors for t in labelled])
    ids = [id_ for t in labelled for id_ in t.ids]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (new.vectors, bank)]
    cosines = unit[0] @ unit[1].T
    assert placed.extra["nearest"].tolist() == [ids[i] for i in cosines.argmax(axis=1)]
    degrees = np.degrees(np.arccos(cosines.max(axis=1)))
    np.testing.assert_allclose(placed.extra["nearest_distance"], degrees, rtol=1e-3)
    assert data["sets"][-1] == "new"
    assert data["layer"]["names"] == ["the run", *SEEN, *UNSEEN, "new, no label"]
    group = np.frombuffer(base64.b64decode(data["layer"]["group"]), "<u2")
    assert group.tolist() == [0] * (len(group) - 10) + [6] * 10
    assert text.count("<article") == 10
    assert "UMAP's own transform would need the fitted object" in text.replace("&#39;", "'")
    assert "<b>alert" not in text
    assert "<script>alert" not in text


def test_predicted_classes_colour_the_new_images(known, tmp_path):
    new = unlabelled(table(np.random.default_rng(5), SEEN, "other", 2))
    guesses = np.array([SEEN[1], "", "fresh", SEEN[0]], object)
    _, _, data = drawn_page(tmp_path, known, dataclasses.replace(new, extra={"predicted": guesses}))
    names = data["layer"]["names"]
    group = np.frombuffer(base64.b64decode(data["layer"]["group"]), "<u2")[-4:]
    assert [names[g] for g in group] == [SEEN[1], "new, no label", "fresh", SEEN[0]]


def test_a_run_without_labels_has_no_list_and_one_without_a_map_no_page(known, tmp_path):
    bare = {name: unlabelled(t) for name, t in known.items()}
    new = unlabelled(table(np.random.default_rng(5), SEEN, "other", 2))
    placed, text, _ = drawn_page(tmp_path, bare, new)
    assert "nearest" not in placed.extra
    assert "No image of the run has a label" in text
    flat = {name: dataclasses.replace(t, extra={}) for name, t in known.items()}
    assert "x_umap" not in newcomers.with_places(flat, new).extra
    with pytest.raises(ValueError, match="no map"):
        newcomers.write_newcomers(tmp_path, flat, new, title="", run_name="", about={})


def test_of_very_many_new_images_some_are_drawn(known, tmp_path, monkeypatch):
    monkeypatch.setattr(newcomers, "MOST", 7)
    new = unlabelled(table(np.random.default_rng(5), SEEN, "other", 10))
    placed, text, _ = drawn_page(tmp_path, known, new)
    assert np.isfinite(placed.extra["x_umap"]).sum() == 7
    assert "7 of them, evenly taken, are drawn" in text
