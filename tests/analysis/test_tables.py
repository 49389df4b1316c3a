"""Tables in their folders, and the map's columns."""

import re

import numpy as np
import pytest

from jaxssl.analysis import projection
from jaxssl.analysis.tables import read_tables, save_tables, with_map
from jaxssl.errors import InputError
from jaxssl.files import write_record

from .conftest import DEEP, make_tables

ABOUT = {"study": "SimCLR", "dataset": "folder", "recipe": {}}


@pytest.fixture
def flat(monkeypatch):
    """UMAP as the first two features, which is quick."""
    monkeypatch.setattr(projection, "_umap", lambda points, seed: points[:, :2])


def test_tables_come_back_from_their_folders(tmp_path):
    tables = make_tables(deep=True, baselines=("last", "untrained"))
    save_tables(tmp_path, tables)
    assert (tmp_path / "embeddings" / "test.parquet").exists()
    assert (tmp_path / "embeddings" / "last" / "unseen.parquet").exists()
    found = read_tables(tmp_path)
    assert {name: list(sets) for name, sets in found.items()} == {
        "h": ["train", "val", "test", "unseen", DEEP],
        "last": ["train", "val", "test", "unseen"],
        "untrained": ["train", "val", "test", "unseen"],
    }
    for embedding, sets in found.items():
        for name, table in sets.items():
            np.testing.assert_array_equal(table.vectors, tables[embedding][name].vectors)
    assert list(read_tables(tmp_path, embeddings=("untrained",))) == ["h", "untrained"]


def test_what_has_no_folder_or_no_embedding_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'clip', not one of h, last"):
        save_tables(tmp_path, {"clip": {}})
    with pytest.raises(InputError, match="no such run folder"):
        read_tables(tmp_path / "none")
    with pytest.raises(
        InputError, match=r"no embeddings.*the command that began it, with this run"
    ):
        read_tables(tmp_path)
    command = "jaxssl simclr --data-dir 'my images' --run-dir runs/a"
    write_record(tmp_path / "config.json", {"format": 2, "config": {}, "go_on": command} | ABOUT)
    with pytest.raises(InputError, match=rf"finish the run: {re.escape(command)}$"):
        read_tables(tmp_path)


def test_the_map_adds_two_columns_to_h_and_changes_nothing_else(flat):
    tables = make_tables()
    found = with_map(tables, limit=10)
    assert found["untrained"] is tables["untrained"]
    for name, table in found["h"].items():
        before = tables["h"][name]
        np.testing.assert_array_equal(table.vectors, before.vectors)
        assert (table.ids, table.thumbnails) == (before.ids, before.thumbnails)
        assert table.metadata == before.metadata
        assert tuple(table.extra) == (() if name == "val" else ("x_umap", "y_umap"))
        drawn = [np.isfinite(column) for column in table.extra.values()]
        assert [int(mask.sum()) for mask in drawn] == ([] if name == "val" else [10, 10])
        assert not drawn or (drawn[0] == drawn[1]).all()
    assert all(table.extra == {} for table in tables["h"].values())


def test_a_place_is_that_of_its_image(flat):
    vectors = {name: t.vectors for name, t in make_tables()["h"].items() if name != "val"}
    found = with_map(make_tables())["h"]
    together = np.concatenate(list(vectors.values())).astype(float)
    for name, part in vectors.items():
        expected = (part - together.mean(0)) / together.std(0)
        places = np.stack([found[name].extra[c] for c in ("x_umap", "y_umap")], 1)
        np.testing.assert_allclose(places, expected[:, :2], atol=1e-5)
