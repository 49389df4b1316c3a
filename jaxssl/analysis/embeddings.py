"""The table of embeddings: one row an image, on disk as one parquet file.

Columns `id, path, class_name, class_index, split, embedding` (a fixed-size list of d float32), and
where there are any `image` (a struct of PNG bytes and path) and further columns (`predicted`,
`score`, `x_umap`, `height` and `width` of the file, `pixel_size` in micrometres, …). The schema's
metadata holds a JSON object under `jaxssl`. The file opens in pandas, DuckDB and embedding-atlas as
it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jaxssl.analysis.distances import Metric
from jaxssl.errors import InputError, visible
from jaxssl.files import atomic, parquet_changed, seal_parquet

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_SIDES = ("height", "width")
_SCALE = ("width", "pixel_size")
COLUMNS = ("id", "path", "class_name", "class_index", "split", "embedding")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of n images, with what is known about each image; validated when made.

    Args:
        vectors: float32 `[n, d]`, finite.
        ids: n names, unique within the data set, e.g. `"copepod/271.jpg"`.
        paths: n file paths, `""` where there is no file.
        class_names: n class names, one a ROW (`class_list` has one a class); `""` for no label.
        class_index: int32 `[n]`, 0 or more, one index is one name; -1 for no label.
        split: n names of splits, e.g. `"test"`.
        thumbnails: n images as PNG bytes, `b""` where there is none; `[]` for none at all.
        extra: Further columns by name, each `[n]`.
        metadata: What JSON can hold, about the whole table (`config_hash`, `layer`, `distance`).

    Raises:
        InputError: Lengths that differ, vectors that are ragged or not finite, an index with two
            names, a name with two indices, a class without a name, an extra column with the name of
            a fixed one.

    Example:
        >>> table = Embeddings(
        ...     vectors=np.eye(3),
        ...     ids=("a/1", "b/1", "b/2"),
        ...     paths=("", "", ""),
        ...     class_names=("a", "b", "b"),
        ...     class_index=np.array([0, 1, 1]),
        ...     split=("test",) * 3,
        ... )
        >>> len(table), table.class_list
        (3, ('a', 'b'))
        >>> table.select(table.class_index == 1).ids
        ('b/1', 'b/2')
    """

    vectors: np.ndarray
    ids: tuple[str, ...]
    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    class_index: np.ndarray
    split: tuple[str, ...]
    thumbnails: list[bytes] = field(default_factory=list)
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ids", "paths", "class_names", "split"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "vectors", _as_vectors(self.vectors))
        object.__setattr__(self, "class_index", _as_indices(self.class_index))
        object.__setattr__(self, "thumbnails", list(self.thumbnails) or [b""] * len(self))
        columns = {name: np.asarray(column) for name, column in self.extra.items()}
        object.__setattr__(self, "extra", columns)
        self._check_lengths()
        self._check_finite()
        self._check_classes()

    def _check_lengths(self) -> None:
        columns = {
            name: len(getattr(self, name))
            for name in ("ids", "paths", "class_names", "class_index", "split", "thumbnails")
        }
        for name, column in self.extra.items():
            if name in COLUMNS or name == "image":
                raise InputError(f"the extra column {name!r} has a fixed column's name: rename it")
            if column.ndim != 1:
                raise InputError(f"the extra column {name!r} has shape {column.shape}, not [n]")
            columns[name] = len(column)
        for name, length in columns.items():
            if length != len(self):
                raise InputError(
                    f"{name} has {length} rows and vectors has {len(self)}: one row an image"
                )

    def _check_finite(self) -> None:
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if bad.size:
            raise InputError(
                f"{bad.size} of {len(self)} vectors are not finite, the first is of "
                f"{self.ids[bad[0]]}: embed again from a checkpoint with a finite loss"
            )

    def _check_classes(self) -> None:
        name_of: dict[int, str] = {}
        index_of: dict[str, int] = {}
        for index, name in zip(self.class_index.tolist(), self.class_names, strict=True):
            if index < -1 or (index == -1) != (name == ""):
                raise InputError(
                    f"class {name!r} has class_index {index}: 0 is the smallest, and an image "
                    "without a label has -1 and no name"
                )
            if name_of.setdefault(index, name) != name:
                raise InputError(
                    f"class_index {index} is {name_of[index]!r} and {name!r}: one index, one class"
                )
            if index_of.setdefault(name, index) != index:
                raise InputError(
                    f"class {name!r} has class_index {index_of[name]} and {index}: one class, one "
                    "index"
                )

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def class_list(self) -> tuple[str, ...]:
        """Names of the k classes that have a row, ordered by class_index."""
        indices, first = np.unique(self.class_index, return_index=True)
        return tuple(self.class_names[row] for row in first[indices >= 0])

    @property
    def labels(self) -> np.ndarray:
        """int32 `[n]` into `class_list`: class_index without its holes; -1 for no label."""
        indices, found = np.unique(self.class_index, return_inverse=True)
        return (found - int(np.sum(indices < 0))).astype(np.int32)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """Height and width of each file in pixels, (0, 0) where they are unknown."""
        columns = [np.asarray(self.extra.get(n, np.zeros(len(self), int))) for n in _SIDES]
        if any(column.dtype.kind not in "iu" for column in columns):
            return [(0, 0)] * len(self)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @property
    def object_ids(self) -> list[str]:
        """EcoTaxa's names of what the images show, "" where they are not known."""
        return [str(name or "") for name in self.extra.get("object_id", [""] * len(self))]

    @property
    def micrometres(self) -> list[float]:
        """How many each picture is wide, by `width` and `pixel_size`; 0 where that is unknown."""
        columns = [np.asarray(self.extra.get(n, np.zeros(len(self)))) for n in _SCALE]
        if any(column.dtype.kind not in "iuf" for column in columns):
            return [0.0] * len(self)
        wide = columns[0].astype(np.float64) * columns[1]
        return np.where(np.isfinite(wide) & (wide > 0), wide, 0.0).tolist()

    @property
    def labelled(self) -> Embeddings:
        """The rows that have a label; the table itself where all have one."""
        known = self.class_index >= 0
        return self if known.all() else self.select(known)

    @property
    def distance(self) -> Metric:
        """The distance the vectors were trained for, as `metadata` says; Euclidean by default.

        Raises:
            InputError: `metadata` names another distance.
        """
        metric = self.metadata.get("distance", "euclidean")
        if metric not in ("euclidean", "angular"):
            raise InputError(f"the table's distance is {metric!r}; it must be euclidean or angular")
        return metric

    def select(self, rows: np.ndarray) -> Embeddings:
        """Return the rows of a boolean mask `[n]`, or of integer indices in their order."""
        rows = np.arange(len(self))[np.asarray(rows)]

        def pick(values: Sequence[T]) -> list[T]:
            return [values[row] for row in rows]

        return replace(
            self,
            vectors=self.vectors[rows],
            ids=tuple(pick(self.ids)),
            paths=tuple(pick(self.paths)),
            class_names=tuple(pick(self.class_names)),
            class_index=self.class_index[rows],
            split=tuple(pick(self.split)),
            thumbnails=pick(self.thumbnails),
            extra={name: column[rows] for name, column in self.extra.items()},
        )


def _as_vectors(vectors: object) -> np.ndarray:
    try:
        array = np.asarray(vectors, np.float32)
    except ValueError as error:
        raise InputError(f"the vectors are ragged, each must have the same d: {error}") from None
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"vectors have shape {array.shape}, not [n, d] with d of 1 or more")
    return array


def _as_indices(class_index: object) -> np.ndarray:
    array = np.asarray(class_index)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"class_index is {array.dtype} {array.shape}, not integers [n]")
    return array.astype(np.int32)


def save(
    path: str | Path,
    table: Embeddings,
    metadata: Mapping[str, Any] | None = None,
    *,
    note: str | None = None,
) -> None:
    """Write the table as one parquet file, whole or not at all.

    The file appears under its name only when every byte is on the disk (temporary file, fsync,
    rename): no reader sees, and no killed writer leaves, half a table.

    Args:
        path: The file; its folder is made if it is missing.
        table: What to write.
        metadata: JSON values to add to `table.metadata`, and to win over it.
        note: Of what it was made, noted beside it (`jaxssl.files.free`); None notes nothing.

    Example:
        >>> import tempfile
        >>> table = Embeddings(np.ones((1, 2)), ("1",), ("",), ("a",), np.array([0]), ("test",))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Path(folder) / "test.parquet", table, {"layer": "h"})
        ...     load(Path(folder) / "test.parquet").metadata
        {'layer': 'h'}
    """
    import pyarrow.parquet as pq

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrow = _to_arrow(table).replace_schema_metadata(
        {"jaxssl": json.dumps({**table.metadata, **(metadata or {})})}
    )
    with atomic(path, note=note) as file:
        pq.write_table(
            arrow,
            file,
            # Only names repeat; a dictionary of float vectors or pictures is wasted work.
            use_dictionary=["class_name", "split"],
            compression="zstd",
            write_page_checksum=True,
        )
        seal_parquet(file)


def _to_arrow(table: Embeddings) -> pa.Table:
    import pyarrow as pa

    columns = {
        "id": pa.array(table.ids, pa.string()),
        "path": pa.array(table.paths, pa.string()),
        "class_name": pa.array(table.class_names, pa.string()),
        "class_index": pa.array(table.class_index),
        "split": pa.array(table.split, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(
            table.vectors.reshape(-1), table.vectors.shape[1]
        ),
    }
    if any(table.thumbnails):
        columns["image"] = pa.StructArray.from_arrays(
            [pa.array(table.thumbnails, pa.binary()), columns["path"]], names=["bytes", "path"]
        )
    columns |= {name: pa.array(column) for name, column in table.extra.items()}
    return pa.table(columns)


def load(path: str | Path) -> Embeddings:
    """Read a table that `save`, or another tool with the same columns, has written.

    Args:
        path: a parquet file; `embedding` may be lists of one length as well as fixed-size lists,
            since pandas writes those back.

    Returns:
        The table, with every column that is not one of the fixed ones in `extra`.

    Raises:
        InputError: No such file, not a parquet file, a missing column, or rows that `Embeddings`
            refuses; one line that starts with the path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such embedding table")
    try:
        if parquet_changed(path):
            raise InputError("was changed after it was written: embed again")
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return _from_arrow(file.read())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        reason = visible(str(error).partition("\n")[0])[:120]
        raise InputError(
            f"{path}: not a readable embedding table ({reason}); embed again"
        ) from None


def _from_arrow(arrow: pa.Table) -> Embeddings:
    missing = [name for name in COLUMNS if name not in arrow.column_names]
    if missing:
        raise InputError(f"no column {', '.join(missing)}; a table has {', '.join(COLUMNS)}")
    for name in ("id", "class_name", "class_index"):
        if arrow[name].null_count:
            raise InputError(f"{arrow[name].null_count} rows have no {name}: fill them")
    images = arrow["image"].to_pylist() if "image" in arrow.column_names else []
    return Embeddings(
        vectors=_read_vectors(arrow),
        ids=_strings(arrow, "id"),
        paths=_strings(arrow, "path"),
        class_names=_strings(arrow, "class_name"),
        class_index=arrow["class_index"].to_numpy(),
        split=_strings(arrow, "split"),
        thumbnails=[(image or {}).get("bytes") or b"" for image in images],
        extra={
            name: arrow[name].to_numpy()
            for name in arrow.column_names
            if name not in COLUMNS and name != "image"
        },
        metadata=json.loads((arrow.schema.metadata or {}).get(b"jaxssl", b"{}")),
    )


def _strings(arrow: pa.Table, name: str) -> tuple[str, ...]:
    return tuple(value or "" for value in arrow[name].cast("string").to_pylist())


def _read_vectors(arrow: pa.Table) -> np.ndarray:
    import pyarrow.compute as pc

    column = arrow["embedding"]
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    d = int(lengths.max(initial=0))
    ragged = np.flatnonzero(lengths != d)
    if ragged.size:
        raise InputError(
            f"{ragged.size} of {len(lengths)} embeddings are not {d} numbers long, the first is "
            f"of {arrow['id'][int(ragged[0])]} with {lengths[ragged[0]]}: embed again"
        )
    return pc.list_flatten(column).to_numpy().reshape(len(lengths), d)
