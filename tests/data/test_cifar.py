"""CIFAR-10 prepared for TFDS and read from it: genuine, whole or not there, quick at once."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxssl.data import cifar, cifar_source, cifar_tfds, decode
from jaxssl.data.cifar import load_cifar
from jaxssl.data.cifar_kinds import CIFAR10, CIFAR100
from jaxssl.data.cifar_tfds import prepare_cifar
from jaxssl.errors import InputError, Stopped

CLASS_NAMES = CIFAR10.class_names
ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("JAXSSL_DATA", "")) / "cifar10-jpeg.tar.gz"
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)
PIXELS[11] = PIXELS[4]  # the same picture twice in the training images


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Three train and two test images a class; in their order PIXELS[:30] and PIXELS[30:]."""
    top = tmp_path_factory.mktemp("images")
    for row, pixels in enumerate(PIXELS):
        folder = top / ("train" if row < 30 else "test") / CLASS_NAMES[row % 10]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    return top


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("tfds")
    assert prepare_cifar("cifar10", source, data_dir=top, subset=9) == top / "cifar10" / "3.0.2"
    return top


@pytest.fixture
def data_dir(prepared, tmp_path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(prepared, tmp_path / "tfds")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    def refuse(url, **_):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(cifar.urllib.request, "urlopen", refuse)


def refusal(action, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(top: Path) -> dict[str, bytes]:
    return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------ genuine


def test_tfds_reads_it_as_its_own(prepared):
    builder = tfds.builder("cifar10", data_dir=prepared)
    assert type(builder).__module__ == "tensorflow_datasets.image_classification.cifar"
    assert builder.info.full_name == "cifar10/3.0.2"
    assert builder.info.features["label"].names == list(CLASS_NAMES)
    assert builder.info.splits["train"].num_examples == 30
    records = tfds.data_source("cifar10", split="test", data_dir=prepared)
    ids = [record["id"].decode() for record in records]
    assert sorted(ids) == [f"test_{i:05d}" for i in range(20)]
    assert ids != sorted(ids)  # TFDS shuffles by key
    for id_, record in zip(ids, records, strict=True):
        row = int(id_[-5:])
        np.testing.assert_array_equal(record["image"], PIXELS[30 + row])
        assert record["label"] == row % 10


def test_the_same_in_its_official_order(prepared):
    train, test = (
        load_cifar("cifar10", split, data_dir=str(prepared)) for split in ("train", "test")
    )
    np.testing.assert_array_equal(train.images(), PIXELS[:30])
    np.testing.assert_array_equal(test.images(), PIXELS[30:])
    assert train.ids[:2] == ("train/00000", "train/00001")
    assert test.ids[-1] == "test/00019"
    assert train.class_names == CLASS_NAMES
    assert train.labels.tolist() == [*range(10)] * 3
    assert (train.labels.dtype, train.groups.dtype) == (np.int32, np.int64)
    assert train.groups[11] == train.groups[4]
    assert len(set(train.groups.tolist())) == 29
    assert train.shape == (32, 32, 3)


def test_cifar100_is_read_by_tfds_as_its_own_with_both_labels(tmp_path):
    """Baby is a person, a bee an insect, and so on, as in the official archive's names."""
    coarse = {"apple": 4, "baby": 14, "bee": 7, "train": 18, "worm": 13}
    for row, name in enumerate(coarse):
        for split in ("train", "test"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(PIXELS[row]).save(folder / "0.png")
    prepare_cifar("cifar100", tmp_path / "images", data_dir=tmp_path, subset=1)
    records = tfds.data_source("cifar100", split="test", data_dir=tmp_path)
    for record in records:
        row = int(record["id"][-5:])
        np.testing.assert_array_equal(record["image"], PIXELS[row])
        name = CIFAR100.class_names[record["label"]]
        assert (name, record["coarse_label"]) == list(coarse.items())[row]
    images = load_cifar("cifar100", "test", data_dir=str(tmp_path))
    assert [images.class_names[label] for label in images.labels] == list(coarse)
    np.testing.assert_array_equal(images.images(), PIXELS[:5])
    assert len(images.class_names) == 100


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (20, 3), (48, 1)])
def test_other_sizes_and_grey_as_a_folder_gives_them(size, channels, prepared, source):
    images = load_cifar("cifar10", "train", size=size, channels=channels, data_dir=str(prepared))
    want = decode(source / "train" / "cat" / "13.png", size=size, channels=channels)
    np.testing.assert_array_equal(images[13]["image"], want)
    assert images.shape == want.shape


def test_the_usual_folder_is_that_of_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(load_cifar("cifar10", "test")) == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(prepared / "home"))
    assert CIFAR10.folder() == prepared / "home/tensorflow_datasets/cifar10/3.0.2"


def test_arguments_out_of_range(prepared):
    for options in ({"size": 0}, {"channels": 2}, {"split": "val"}):
        with pytest.raises(ValueError, match="CIFAR has splits 'train' and 'test'"):
            load_cifar("cifar10", **{"split": "train", "data_dir": str(prepared)} | options)


# -------------------------------------------------------------------------------------------- cache


def test_the_second_start_decodes_nothing(data_dir, cache, monkeypatch):
    seen: list[tuple[int, int]] = []
    load_cifar("cifar10", "train", data_dir=str(data_dir), progress=lambda *done: seen.append(done))
    assert seen == [(30, 30)]
    monkeypatch.setattr(cifar, "_decode_all", None)
    again = load_cifar("cifar10", "train", data_dir=str(data_dir))
    np.testing.assert_array_equal(again.images(), PIXELS[:30])
    assert again.groups[11] == again.groups[4]


def test_another_data_set_in_the_same_place_is_read_anew(data_dir, source, cache):
    load_cifar("cifar10", "train", data_dir=str(data_dir))
    shutil.rmtree(data_dir / "cifar10")
    prepare_cifar("cifar10", source, data_dir=data_dir, subset=1)
    np.testing.assert_array_equal(
        load_cifar("cifar10", "train", data_dir=str(data_dir)).images(), PIXELS[:10]
    )
    assert len(list(cache.rglob("*.npy"))) == 1  # the old pixels are gone


def test_a_damaged_cache_is_made_again(data_dir, cache):
    load_cifar("cifar10", "test", data_dir=str(data_dir))
    (packed,) = cache.rglob("*.npy")
    for content in (packed.read_bytes()[:-1], b"", b"junk"):
        packed.write_bytes(content)
        images = load_cifar("cifar10", "test", data_dir=str(data_dir)).images()
        np.testing.assert_array_equal(images, PIXELS[30:])


def test_a_cache_that_cannot_be_written(data_dir, cache):
    cache.write_bytes(b"a file where the folder should be")
    text = refusal(load_cifar, "cifar10", "test", data_dir=str(data_dir))
    assert "cannot write the image cache" in text
    assert "XDG_CACHE_HOME" in text


# --------------------------------------------------------------------- nothing lost, nothing halved


def test_what_is_there_is_not_overwritten(data_dir, source):
    before = files(data_dir)
    text = refusal(prepare_cifar, "cifar10", source, data_dir=data_dir, subset=1)
    assert f"{data_dir / 'cifar10' / '3.0.2'} is there already" in text
    assert files(data_dir) == before


def test_a_source_that_is_refused_leaves_no_trace(source, tmp_path):
    assert "not the whole of CIFAR-10" in refusal(
        prepare_cifar, "cifar10", source, data_dir=tmp_path / "new"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_stop_while_writing_leaves_nothing(error, source, tmp_path, monkeypatch):
    written = iter(range(12))

    def write(image):
        if next(written, None) is None:
            raise error
        return Image.Image.copy(small)

    small = Image.new("RGB", (32, 32))
    monkeypatch.setattr(cifar_tfds.Image, "fromarray", write)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        prepare_cifar("cifar10", source, data_dir=tmp_path / "new", subset=9)
    if isinstance(error, OSError):
        assert "3.0.2: No space left" in str(caught.value)
    assert files(tmp_path / "new") == {}
    assert not list((tmp_path / "new" / "cifar10").iterdir())


# ------------------------------------------------------------------------------ folders gone astray


def test_another_version(data_dir):
    (data_dir / "cifar10" / "3.0.2").rename(data_dir / "cifar10" / "3.0.0")
    text = refusal(load_cifar, "cifar10", "train", data_dir=str(data_dir))
    assert "holds version 3.0.0, not 3.0.2" in text
    assert "name another data folder" in text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("version", "3.0.0", "holds cifar10 3.0.0 array_record, not cifar10 3.0.2"),
        ("fileFormat", "tfrecord", "holds cifar10 3.0.2 tfrecord, not"),
        ("name", "cifar100", "holds cifar100 3.0.2"),
    ],
)
def test_a_folder_that_is_not_what_its_name_says(key, value, said, data_dir):
    path = data_dir / "cifar10" / "3.0.2" / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert said in refusal(load_cifar, "cifar10", "train", data_dir=str(data_dir))


RECORDS = "cifar10-train.array_record-00000-of-00001"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (RECORDS, lambda content: content[: len(content) // 2]),
        (RECORDS, lambda content: content[:-1]),
        (RECORDS, lambda content: content[:69_000] + b"?" + content[69_001:]),
        (RECORDS, lambda content: b""),
        (RECORDS, None),
        ("dataset_info.json", lambda content: b"{"),
        ("dataset_info.json", lambda content: b"[]"),
        ("dataset_info.json", None),
    ],
)
def test_damaged_files_are_one_clear_line(name, damage, data_dir, cache):
    path = data_dir / "cifar10" / "3.0.2" / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    text = refusal(load_cifar, "cifar10", "train", data_dir=str(data_dir))
    assert text.startswith(f"{path.parent} cannot be read (")
    assert "python scripts/prepare_cifar10.py --source" in text
    assert not list(cache.rglob("*.npy"))


def png(side: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": 10}, "its label is 10"),
        ({"label": -1}, "its label is -1"),
        ({"id": b"train_00000"}, "'train_00000' comes twice"),
        ({"id": b"train_00003"}, "'train_00003' is none of train_00000 to train_00002"),
        ({"id": b"test_00001"}, "'test_00001' is none of"),
        ({"image": png(33)}, "an image of 33 x 33 pixels, RGB"),
        ({"image": png(32, "L")}, "an image of 32 x 32 pixels, L"),
        ({"image": b"junk"}, "cannot identify image"),
    ],
)
def test_records_that_are_not_of_cifar10(change, said, data_dir, monkeypatch):
    records = [{"id": b"train_%05d" % i, "label": i, "image": png(32)} for i in range(3)]
    records[1] |= change
    monkeypatch.setattr(cifar_tfds, "read_records", lambda folder, split: records)
    assert said in refusal(load_cifar, "cifar10", "train", data_dir=str(data_dir))


# ------------------------------------------------------------------------------------------ network


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """An "official" archive of 50 + 10 images that the network holds; its counts and sha256."""
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as out:
        for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
            rows = [bytes([i]) + bytes([20 * i]) * 3072 for i in range(10)]
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = 30730
            out.addfile(member, io.BytesIO(b"".join(rows)))
    monkeypatch.setattr(cifar_source, "COUNTS", {"train": 50, "test": 10})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(CIFAR10.sha256, path.name, digest)

    class Reply(io.BytesIO):
        headers = {"Content-Length": str(path.stat().st_size)}  # noqa: RUF012

    monkeypatch.setattr(
        cifar.urllib.request, "urlopen", lambda url, timeout: Reply(path.read_bytes())
    )
    return path


def test_an_absent_data_set_is_downloaded_and_prepared(archive, tmp_path):
    seen: list[tuple[int, int]] = []
    images = load_cifar(
        "cifar10", "train", data_dir=str(tmp_path / "new"), progress=lambda *done: seen.append(done)
    )
    assert images.labels.tolist() == [*range(10)] * 5
    assert images[3]["image"][9, 9].tolist() == [60, 60, 60]
    assert seen[0] == (60_000, 60_000)  # the download, in images
    assert not list((tmp_path / "new").glob("cifar10-download-*"))


def test_a_download_of_other_bytes_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setitem(CIFAR10.sha256, archive.name, "0" * 64)
    text = refusal(load_cifar, "cifar10", "train", data_dir=str(tmp_path / "new"))
    assert "not the official archive" in text
    assert files(tmp_path / "new") == {}
    archive.write_bytes(archive.read_bytes()[:-500])
    assert "cut short or damaged" in refusal(
        load_cifar, "cifar10", "train", data_dir=str(tmp_path / "new")
    )


def test_neither_data_nor_network(tmp_path):
    text = refusal(load_cifar, "cifar10", "train", data_dir=str(tmp_path / "new"))
    assert f"not in {tmp_path / 'new' / 'cifar10' / '3.0.2'}" in text
    assert "Name or service not known" in text
    assert "cifar-10-binary.tar.gz or cifar-10-python.tar.gz" in text
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in text
    assert "python scripts/prepare_cifar10.py --name cifar10 --source PATH" in text
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------ whole program


@pytest.mark.program
def test_the_script_prepares_without_tensorflow_and_without_jax(source, tmp_path):
    code = f"""
import runpy, sys
sys.argv = ["prepare_cifar10.py", "--source", {str(source)!r}, "--data-dir", "new", "--subset", "2"]
runpy.run_path({str(ROOT / "scripts" / "prepare_cifar10.py")!r}, run_name="__main__")
from jaxssl.data.cifar import load_cifar
images = load_cifar("cifar10", "train", data_dir="new")
print(len(images), {{"tensorflow", "jax"}} & set(sys.modules))
sys.argv[2] = "nowhere"
sys.argv[4] = "other"
runpy.run_path({str(ROOT / "scripts" / "prepare_cifar10.py")!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(str(tmp_path / "new" / "cifar10" / "3.0.2"))
    assert second == "20 set()"
    assert done.stderr.splitlines()[-1].endswith("nowhere: no such file or folder")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(
    not REAL.is_file(), reason="JAXSSL_DATA names no folder that holds cifar10-jpeg.tar.gz"
)
def test_a_slice_of_the_real_images(tmp_path):
    prepare_cifar("cifar10", REAL, data_dir=tmp_path, subset=20)
    images = load_cifar("cifar10", "train", data_dir=str(tmp_path))
    assert images.labels.tolist() == [*range(10)] * 20
    # The published mean and deviation of CIFAR-10's channels, on a sample of 200.
    mean, deviation = images.images().mean((0, 1, 2)) / 255, images.images().std((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.05)
    np.testing.assert_allclose(deviation, [0.2470, 0.2435, 0.2616], atol=0.03)


def test_a_signal_is_not_taken_for_damage(data_dir, monkeypatch):
    def stopped(folder, split):
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr(cifar_tfds, "read_records", stopped)
    with pytest.raises(Stopped, match="SIGTERM"):
        load_cifar("cifar10", "train", data_dir=str(data_dir))
