"""What other tools are given is what the run holds, read back by the tools themselves.

Each with the real package where it is installed; the check needs none of them. The run's names of
classes and sets attack what reads them.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from flax import nnx
from PIL import Image
from sklearn.utils.estimator_checks import check_estimator

from experiments import export as program
from jaxssl import analysis
from jaxssl.errors import InputError
from jaxssl.files import read_json
from jaxssl.integrations import atlas, exported, fiftyone, tensorboard
from jaxssl.integrations.sklearn import JaxsslEmbedder
from jaxssl.models import ConvNet, load_pretrained

from .conftest import DEEP, METRICS

# Other people's packages warn of other people's packages.
real = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def finished(run):
    return analysis.read_run(run, embeddings=("h",))


def needs(package: str):
    return pytest.importorskip(package, reason=f"{package} is not installed")


POINT = "svc/unseen/h/25"


def point(row) -> str:
    return f"{row.classifier}/{row.set}/{row.embedding}/{row.labels}"


def curve(name: str) -> list[tuple[int, float]]:
    split, _, metric = name.partition("/")
    return [(row["step"], row[metric]) for row in METRICS if row["split"] == split]


def test_all_images_are_the_tables_rows_once_with_their_places(finished):
    table = exported.all_images(finished)
    sets = finished.tables["h"]
    assert len(table) == sum(map(len, sets.values()))  # no image is in two of them
    assert set(table.split) == set(sets)
    for name in sets:
        rows = [i for i, split in enumerate(table.split) if split == name]
        np.testing.assert_array_equal(table.vectors[rows], sets[name].vectors)
        assert [table.class_names[i] for i in rows] == list(sets[name].class_names)
        if name == "val":
            assert np.isnan(table.extra["x_umap"][rows]).all()
        else:
            np.testing.assert_array_equal(table.extra["x_umap"][rows], sets[name].extra["x_umap"])


def test_what_trackers_are_told_names_no_folder_of_this_machine(finished):
    told = exported.settings(finished)
    assert told["batch_size"] == 128
    assert told["commit"] == "0123456789ab"
    assert not {"run_dir", "data_dir", "pretrained"} & told.keys()
    numbers = exported.numbers(finished)
    (row,) = (r for r in finished.results.label_efficiency if point(r) == POINT)
    assert numbers[POINT] == row.mean
    assert numbers["top-1"] == 0.75


def test_tensorboard_files(finished, tmp_path):
    for _ in range(2):  # again, into the same folder
        tensorboard.export(finished, tmp_path)
    lines = (tmp_path / "00000" / "h" / "metadata.tsv").read_text().split("\n")
    table = exported.all_images(finished)
    assert lines[0] == "class\tset\timage"
    assert [line.count("\t") for line in lines[:-1]] == [2] * (len(table) + 1)
    vectors = np.loadtxt(tmp_path / "00000" / "h" / "tensors.tsv", delimiter="\t", ndmin=2)
    np.testing.assert_allclose(vectors, table.vectors, rtol=1e-6)
    with Image.open(tmp_path / "00000" / "h" / "sprite.png") as sheet:
        across = sheet.width // 48
        row, column = divmod(len(table) - 1, across)
        picture = sheet.crop((48 * column, 48 * row, 48 * column + 48, 48 * row + 48)).convert("L")
    with Image.open(io.BytesIO(table.thumbnails[-1])) as own:
        assert np.asarray(picture).mean() == pytest.approx(np.asarray(own).mean(), abs=1)
    assert (tmp_path / "projector_config.pbtxt").read_text().count("embeddings {") == 1


@real
def test_tensorboard_reads_curves_and_projector(finished, tmp_path):
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

    tensorboard.export(finished, tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("val/loss")]
    np.testing.assert_allclose(found, curve("val/loss"), rtol=1e-6)
    vectors = _read_tensor_tsv_file(str(tmp_path / "00000" / "h" / "tensors.tsv"))
    np.testing.assert_allclose(vectors, exported.all_images(finished).vectors, rtol=1e-6)


@real
def test_wandb_writes_an_offline_run(finished, tmp_path):
    needs("wandb")
    from jaxssl.integrations import wandb as ours

    written = ours.export(finished, tmp_path)
    (record,) = Path(written.path).glob("run-*.wandb")
    content = record.read_bytes()
    assert b"val/loss" in content
    assert b"effective_rank" in content
    assert POINT.encode() in content
    assert str(tmp_path).encode() not in content
    assert written.opened_by == f"wandb sync {written.path}"


@real
def test_mlflow_holds_curves_numbers_and_cards(finished, tmp_path):
    needs("mlflow")
    from mlflow import MlflowClient

    from jaxssl.integrations import mlflow as ours

    ours.export(finished, tmp_path)
    ours.export(finished, tmp_path)  # a second run in the same store
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    assert runs[0].data.params["batch_size"] == "128"
    assert runs[0].data.metrics[POINT] == exported.numbers(finished)[POINT]
    history = client.get_metric_history(runs[0].info.run_id, "val/loss")
    assert [(m.step, m.value) for m in history] == curve("val/loss")
    assert {f.path for f in client.list_artifacts(runs[0].info.run_id)} == {
        card for card in ("MODEL_CARD.md", "DATA_CARD.md") if (finished.folder / card).is_file()
    }


def test_atlas_has_the_images_that_have_a_place(finished, tmp_path):
    written = atlas.export(finished, tmp_path)
    table = pq.read_table(written.path)
    assert len(table) == sum(len(t) for name, t in finished.tables["h"].items() if name != "val")
    assert np.isfinite(table["x_umap"].to_numpy()).all()
    assert table["image"][0]["bytes"].as_py().startswith(b"\x89PNG")
    for name in ("--x x_umap", "--y y_umap", "--image image"):
        assert name in written.opened_by
        assert name.split()[-1] in table.column_names


@real
def test_embedding_atlas_reads_it(finished, tmp_path):
    needs("embedding_atlas")
    from embedding_atlas.cli import load_datasets

    written = atlas.export(finished, tmp_path)
    frame = load_datasets([str(written.path)])
    assert {"x_umap", "y_umap", "class_name", "image"} <= set(frame.columns)
    assert len(frame) == pq.ParquetFile(written.path).metadata.num_rows


def test_fiftyone_samples_name_pictures_that_are_there(finished, tmp_path):
    fiftyone.export(finished, tmp_path)
    samples = read_json(tmp_path / "samples.json")["samples"]
    table = exported.all_images(finished)
    assert len(samples) == len(table)
    for row in (0, len(table) - 1):
        sample = samples[row]
        assert (tmp_path / sample["filepath"]).read_bytes() == table.thumbnails[row]
        assert sample["tags"] == [table.split[row]]
        assert sample["ground_truth"] == {"_cls": "Classification", "label": table.class_names[row]}
        np.testing.assert_allclose(sample["embedding"], table.vectors[row], rtol=1e-6)
    assert {s["tags"][0] for s in samples} == {"train", "val", "test", "unseen", DEEP}


@real
def test_fiftyone_imports_it(finished, tmp_path):
    """By the importer of the type that the command names; a data set needs a MongoDB server."""
    needs("fiftyone")
    from fiftyone import types

    written = fiftyone.export(finished, tmp_path)
    assert "LegacyFiftyOneDataset" in written.opened_by
    importer = types.LegacyFiftyOneDataset().get_dataset_importer_cls()(str(written.path))
    with importer:
        samples = list(importer)
    table = exported.all_images(finished)
    assert [sample.ground_truth.label for sample in samples] == list(table.class_names)
    assert [sample.tags for sample in samples] == [[name] for name in table.split]
    np.testing.assert_allclose([s.embedding for s in samples], table.vectors, rtol=1e-6)
    assert all(Path(sample.filepath).is_file() for sample in samples)


@real
def test_fiftyone_makes_a_data_set_with_the_map_of_it(finished, tmp_path, monkeypatch):
    """As the command does, and the lines of docs/pages/integrations.md."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where its server keeps its files
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "database"))
    fo = needs("fiftyone")
    from fiftyone.core.service import DatabaseService, ServiceExecutableNotFound

    try:
        DatabaseService.find_mongod()
    except ServiceExecutableNotFound:
        pytest.skip("FiftyOne has found no MongoDB server to download")
    written = fiftyone.export(finished, tmp_path / "out")
    form = fo.types.LegacyFiftyOneDataset
    images = fo.Dataset.from_dir(dataset_dir=str(written.path), dataset_type=form)
    table = exported.all_images(finished)
    assert images.values("ground_truth.label") == list(table.class_names)
    assert images.values("tags") == [[name] for name in table.split]
    np.testing.assert_allclose(np.stack(images.values("embedding")), table.vectors, rtol=1e-6)
    page = Path(__file__).parents[2] / "docs" / "pages" / "integrations.md"
    lines = page.read_text(encoding="utf-8").partition('```python title="map"\n')[2]
    exec(lines.partition("```")[0].replace("NAME", images.name))
    placed = images.exists("x")
    points = np.stack(placed.values(["x", "y"]), axis=1)
    np.testing.assert_allclose(images.load_brain_results("map").points, points)
    alike = images.sort_by_similarity(images.first().id, k=2, brain_key="alike")
    assert alike.first().id == images.first().id


@real
def test_hugging_face_reads_splits_labels_and_embeddings(finished, tmp_path):
    datasets = needs("datasets")
    from jaxssl.integrations import huggingface

    huggingface.export(finished, tmp_path / "out")
    read = datasets.load_from_disk(str(tmp_path / "out"))
    assert sum(map(len, read.values())) == len(exported.all_images(finished))
    test, own = read["test"].with_format("numpy"), finished.tables["h"]["test"]
    np.testing.assert_array_equal(np.stack(test["embedding"][:]), own.vectors)
    names = read["test"].features["label"].names
    assert [names[i] for i in test["label"][:]] == list(own.class_names)
    assert read["test"][0]["image"].size == (8, 8)


@real
def test_a_data_set_of_hugging_face_becomes_a_folder_that_programs_read(tmp_path):
    datasets = needs("datasets")
    from jaxssl.data import Reading, open_images
    from jaxssl.integrations import huggingface

    pictures = [Image.fromarray(np.full((9, 9), 20 * i, np.uint8)) for i in range(4)]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["../up", "=b"])
    )
    part = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 1, -1]}, features)
    both = datasets.DatasetDict(train=part, test=part.select([1]))
    both.save_to_disk(str(tmp_path / "saved"))
    part.to_parquet(str(tmp_path / "one.parquet"))
    said = huggingface.unpack(tmp_path / "saved", tmp_path / "images")
    assert said.startswith("5 images of 2 classes")
    images, report = open_images(
        str(tmp_path / "images"), Reading(9, channels=1, cache_dir=str(tmp_path / "cache"))
    )
    assert sorted(images.class_names) == ["../up", "=b"], str(report)
    assert (images.labels < 0).sum() == 1
    assert {int(images.load(i).mean()) for i in range(len(images))} == {0, 20, 40, 60}
    huggingface.unpack(tmp_path / "one.parquet", tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.png"))) == 4
    with pytest.raises(InputError, match="is not empty"):
        huggingface.unpack(part, tmp_path / "again")
    with pytest.raises(InputError, match="no column 'pixels'; its columns: image, label"):
        huggingface.unpack(part, tmp_path / "new", image="pixels")


class Moments(nnx.Module):
    """An encoder of images of any size: their mean and spread."""

    def __call__(self, images):
        return jnp.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], axis=1)


@real
def test_the_embedder_passes_the_checks_of_scikit_learn():
    done = check_estimator(JaxsslEmbedder(Moments()), on_skip=None)
    assert sum(one["status"] == "passed" for one in done) > 40
    skipped = [one["check_name"] for one in done if one["status"] != "passed"]
    assert skipped in ([], ["check_array_api_input"])  # which wants SCIPY_ARRAY_API


def test_the_embedder_takes_images_and_rows_of_one_shape():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 1), np.uint8)
    embedder = JaxsslEmbedder(Moments(), image_shape=(4, 6, 1))
    h = embedder.fit_transform(images)
    plain = images.reshape(5, -1) / 255
    np.testing.assert_allclose(h, np.stack([plain.mean(1), plain.std(1)], 1), rtol=1e-5)
    np.testing.assert_array_equal(embedder.fit_transform(images.reshape(5, -1)), h)
    with pytest.raises(
        ValueError, match=r"rows of 7 numbers are no images of the shape \(4, 6, 1\)"
    ):
        embedder.fit(np.zeros((2, 7)))
    with pytest.raises(ValueError, match="source is None"):
        JaxsslEmbedder().fit(images).transform(images)


@real
def test_safetensors_of_an_encoder_are_read_again_to_the_bit(tmp_path):
    theirs = needs("safetensors.numpy")
    from jaxssl.integrations import safetensors

    encoder, other = (ConvNet(widths=(4, 4), channels=1, rngs=nnx.Rngs(i)) for i in (0, 1))
    about = {"encoder": "convnet", "image_size": 8}
    written = safetensors.export(encoder, tmp_path, about, "embed model.safetensors", "# A card\n")
    file = tmp_path / "model.safetensors"
    assert written.opened_by == f"embed {file}"
    load_pretrained(other, file)
    for kind in (nnx.Param, nnx.BatchStat):
        states = (nnx.state(encoder, kind), nnx.state(other, kind))
        jax.tree.map(np.testing.assert_array_equal, *states)
    np.testing.assert_array_equal(
        theirs.load_file(file)["convs.0.kernel"], encoder.convs[0].kernel[...]
    )
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="changed since jaxssl wrote it, by its sha256"):
        load_pretrained(other, file)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: jaxssl\n")
    assert "# A card" in card
    assert str(tmp_path) not in card
    assert read_json(tmp_path / "config.json") == {**about, "tensors": "jaxssl"}


def test_the_program_says_what_it_wrote_and_how_to_open_it(run, tmp_path, capsys):
    program.main(program.Export(run_dir=str(run), to="atlas", out=str(tmp_path)))
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said[0] == f"{tmp_path / 'images.parquet'}: 92 of 100 images; open it by"
    assert said[1].startswith("  embedding-atlas ")
    with pytest.raises(InputError, match="--to is missing: choose one of tensorboard, wandb"):
        program.main(program.Export(run_dir=str(run)))
    with pytest.raises(InputError, match=r"is no run folder: it has no config\.json"):
        program.main(program.Export(run_dir=str(tmp_path), to="mlflow"))


def test_trackers_take_a_run_that_is_training_still(run, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(run / name, tmp_path)
    unfinished = program._read(tmp_path, "mlflow")
    assert exported.curves(unfinished)[0][0] == 1
    assert exported.numbers(unfinished) == {}
    with pytest.raises(InputError, match="no embeddings"):
        program._read(tmp_path, "atlas")
