import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxssl.analysis.embeddings import Embeddings, load, save
from jaxssl.errors import InputError

COLUMNS = ["id", "path", "class_name", "class_index", "split", "embedding"]


def make(**changes):
    values = {
        "vectors": np.arange(12, dtype=np.float32).reshape(4, 3) / 7,
        "ids": ("a/1", "a/2", "c/1", "b/1"),
        "paths": ("/data/part<Crustacea/1.jpg", "", "", ""),
        "class_names": ("part<Crustacea", "part<Crustacea", "Bär, klein", "other<living"),
        "class_index": np.array([0, 0, 5, 2]),
        "split": ("train", "train", "test", "val"),
    }
    return Embeddings(**{**values, **changes})


def test_what_is_saved_is_loaded(tmp_path):
    table = make(
        thumbnails=[b"\x89PNG", b"", b"\x00", b""],
        extra={
            "score": np.array([0.5, np.nan, 1, 0]),
            "predicted": np.array(["x", "", "y", "z"]),
            "rank": np.arange(4),
        },
        metadata={"layer": "h", "distance": "angular"},
    )
    save(tmp_path / "new" / "test.parquet", table, {"layer": "z", "config_hash": "12ab"})
    back = load(str(tmp_path / "new" / "test.parquet"))
    assert back.vectors.dtype == np.float32
    assert back.class_index.dtype == np.int32
    np.testing.assert_array_equal(back.vectors, table.vectors)
    np.testing.assert_array_equal(back.class_index, table.class_index)
    for name in ("ids", "paths", "class_names", "split", "thumbnails"):
        assert getattr(back, name) == getattr(table, name), name
    assert back.metadata == {"layer": "z", "distance": "angular", "config_hash": "12ab"}
    assert list(back.extra) == ["score", "predicted", "rank"]
    for name, column in table.extra.items():
        np.testing.assert_array_equal(back.extra[name], column)
    assert back.extra["rank"].dtype == np.int64


def test_the_file_has_the_columns_that_other_tools_expect(tmp_path):
    save(tmp_path / "plain.parquet", make())
    save(tmp_path / "images.parquet", make(thumbnails=[b"\x89PNG", b"", b"", b""]))
    plain = pq.read_schema(tmp_path / "plain.parquet")
    images = pq.read_schema(tmp_path / "images.parquet")
    assert plain.names == COLUMNS
    assert images.names == [*COLUMNS, "image"]
    embedding = plain.field("embedding").type
    assert pa.types.is_fixed_size_list(embedding)
    assert (embedding.list_size, embedding.value_type) == (3, pa.float32())
    assert images.field("image").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})


def test_pandas_opens_it_and_what_pandas_writes_is_loaded(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not a dependency")
    table = make(thumbnails=[b"\x89PNG", b"", b"", b""])
    save(tmp_path / "a.parquet", table)
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), table.vectors)
    assert frame["class_name"].tolist() == list(table.class_names)
    frame["depth"] = [1.0, 2.0, 3.0, 4.0]
    frame.to_parquet(tmp_path / "b.parquet")
    back = load(tmp_path / "b.parquet")
    np.testing.assert_array_equal(back.vectors, table.vectors)
    np.testing.assert_array_equal(back.extra["depth"], [1, 2, 3, 4])
    assert back.thumbnails == table.thumbnails


def test_an_image_without_a_label_has_no_class(tmp_path):
    names = ("part<Crustacea", "", "Bär, klein", "")
    table = make(class_names=names, class_index=np.array([3, -1, 5, -1]))
    save(tmp_path / "test.parquet", table)
    table = load(tmp_path / "test.parquet")
    assert table.class_list == ("part<Crustacea", "Bär, klein")
    np.testing.assert_array_equal(table.labels, [0, -1, 1, -1])
    assert table.labelled.ids == ("a/1", "c/1")
    none = table.select([1, 3])
    assert (none.class_list, len(none.labelled)) == ((), 0)


def test_classes_are_listed_in_the_order_of_their_index():
    table = make()
    assert table.class_list == ("part<Crustacea", "other<living", "Bär, klein")
    np.testing.assert_array_equal(table.labels, [0, 0, 2, 1])


@pytest.mark.parametrize(
    "rows", [np.array([False, True, False, True]), np.array([3, 1]), [3, -3], np.array([], int)]
)
def test_select_takes_every_column_along(rows):
    table = make(thumbnails=[b"0", b"1", b"2", b"3"], extra={"row": np.arange(4)})
    expected = [row for row in range(4) if rows[row]] if len(rows) == 4 else [r % 4 for r in rows]
    part = table.select(rows)
    assert part.extra["row"].tolist() == expected
    assert part.thumbnails == [b"%d" % row for row in expected]
    np.testing.assert_array_equal(part.vectors, table.vectors[expected])
    np.testing.assert_array_equal(part.class_index, table.class_index[expected])
    for name in ("ids", "paths", "class_names", "split"):
        assert list(getattr(part, name)) == [getattr(table, name)[row] for row in expected]


NOT_FINITE = np.ones((4, 3))
NOT_FINITE[[1, 3], 2] = np.nan, np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": NOT_FINITE}, r"2 of 4 vectors are not finite, the first is of a/2"),
        ({"vectors": [[1.0], [1.0, 2.0], [1.0], [1.0]]}, "ragged"),
        ({"vectors": np.ones((4, 3, 1))}, r"shape \(4, 3, 1\), not \[n, d\]"),
        ({"vectors": np.ones((4, 0))}, r"shape \(4, 0\)"),
        ({"ids": ("a", "b")}, "ids has 2 rows and vectors has 4"),
        ({"thumbnails": [b""]}, "thumbnails has 1 rows and vectors has 4"),
        ({"extra": {"score": np.ones(3)}}, "score has 3 rows and vectors has 4"),
        ({"extra": {"score": np.ones((4, 2))}}, r"'score' has shape \(4, 2\)"),
        ({"extra": {"split": np.ones(4)}}, "'split' has a fixed column's name"),
        ({"class_index": np.array([0.0, 0.0, 5.0, 2.0])}, r"class_index is float64 \(4,\)"),
        ({"class_index": np.array([0, 0, 5, -2])}, "'other<living' has class_index -2"),
        ({"class_index": np.array([0, 0, 5, -1])}, "an image without a label has -1 and no name"),
        ({"class_names": ("", "", "x", "y")}, "class '' has class_index 0"),
        ({"class_index": np.array([0, 0, 2, 2])}, "class_index 2 is 'Bär, klein' and 'other"),
        ({"class_index": np.array([0, 1, 5, 2])}, "'part<Crustacea' has class_index 0 and 1"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as error:
        make(**changes)
    assert "\n" not in str(error.value)


def rewrite(path, /, **columns):
    """The file of `make()` with columns replaced, or left out where None."""
    save(path, make())
    arrow = pq.read_table(path)
    for name, column in columns.items():
        arrow = arrow.drop_columns([name])
        if column is not None:
            arrow = arrow.append_column(name, column)
    pq.write_table(arrow, path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": None, "path": None}, "no column path, split; a table has id, path"),
        ({"embedding": pa.array([[1.0, 2.0], [1.0], None, [3.0, 4.0]])}, "2 of 4 .* a/2 with 1"),
        ({"embedding": pa.array([[1.0, 2.0], [1.0, None], [1.0, 1.0], [3.0, 4.0]])}, "1 of 4 vec"),
        ({"embedding": pa.array(["1", "2", "3", "4"])}, "not a readable embedding table"),
        ({"class_index": pa.array([0, 0, None, 2])}, "1 rows have no class_index"),
    ],
)
def test_a_file_with_the_wrong_columns_is_refused_by_its_name(tmp_path, columns, message):
    path = tmp_path / "test.parquet"
    rewrite(path, **columns)
    with pytest.raises(InputError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more", b"\x00" * 100])
def test_no_file_and_no_parquet_file_are_refused_by_name(tmp_path, content):
    path = tmp_path / "test.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="no such" if content is None else "not a readable") as e:
        load(path)
    assert str(e.value).startswith(f"{path}: ")
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="no such"):
        load(tmp_path)


@pytest.mark.parametrize("damaged", [slice(30, 90), slice(-400, -8)], ids=["page", "footer"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damaged):
    path = tmp_path / "test.parquet"
    save(path, make())
    content = bytearray(path.read_bytes())
    content[damaged] = b"\xff" * len(content[damaged])
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a readable embedding table|was changed") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_no_flipped_bit_becomes_another_number(tmp_path):
    """Without checksums 306 of 600 flips read as other numbers, with Parquet's own 1 of 600."""
    path = tmp_path / "test.parquet"
    save(path, make(), {"layer": "h"})
    whole = path.read_bytes()
    for at in np.random.default_rng(0).permutation(len(whole))[:200]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        try:
            same = load(path)
        except InputError:
            continue
        assert same.vectors.tobytes() == make().vectors.tobytes()
        assert (same.ids, same.metadata) == (make().ids, {**make().metadata, "layer": "h"})


def test_a_flipped_bit_of_the_footer_is_seen_too(tmp_path):
    """Where Parquet has no checksum: here the distance that the numbers are judged by."""
    path = tmp_path / "test.parquet"
    save(path, make(), {"layer": "h9"})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"h9", b"h8"))
    with pytest.raises(InputError, match="was changed after it was written"):
        load(path)


def test_other_readers_and_writers_know_nothing_of_the_checksum(tmp_path):
    path = tmp_path / "test.parquet"
    save(path, make())
    arrow = pq.read_table(path, page_checksum_verification=True)
    pq.write_table(arrow.slice(0, 1), path)  # as a person does who leaves rows out
    assert load(path).ids == make().ids[:1]


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    save(tmp_path / "test.parquet", make())
    old = (tmp_path / "test.parquet").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "test.parquet", make(), {"new": True})
    assert (tmp_path / "test.parquet").read_bytes() == old
    assert os.listdir(tmp_path) == ["test.parquet"]


def test_importing_the_room_imports_neither_jax_nor_anything_heavy():
    names = "embeddings distances projection exemplars probes retrieval sampling"
    program = f"""
import sys, importlib
for name in {names.split()}:
    importlib.import_module("jaxssl.analysis." + name)
heavy = "jax flax umap numba sklearn scipy pyarrow pandas matplotlib torch".split()
print(sorted(set(heavy) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
