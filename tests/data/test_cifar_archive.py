"""CIFAR-10 from the archives people have, and from the archives nobody should have."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxssl.data import cifar_archive, cifar_source
from jaxssl.data.cifar_archive import read_files
from jaxssl.data.cifar_kinds import CIFAR10, CIFAR100
from jaxssl.data.cifar_source import read_cifar
from jaxssl.errors import InputError

CLASS_NAMES = CIFAR10.class_names
read_cifar10 = partial(read_cifar, CIFAR10)
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def refusal(source: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_cifar10(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert str(source) in text
    return text


def tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    """An archive of these files, then of entries without content."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return path


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def unpacked(top: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    return top


# --------------------------------------------------------------- the three forms of the same images


@pytest.fixture(scope="module")
def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per batch 20 images uint8 [n, 32, 32, 3], two of each class in mixed order, and labels."""
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.integers(0, 256, (20, 32, 32, 3), np.uint8),
            rng.permutation(np.repeat(np.arange(10), 2)),
        )
        for name in BATCHES
    }


def binary(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The official layout: a label, then 1,024 bytes each of red, green and blue."""
    return b"".join(
        bytes([label]) + image[..., 0].tobytes() + image[..., 1].tobytes() + image[..., 2].tobytes()
        for image, label in zip(images, labels.tolist(), strict=True)
    )


def python(
    images: np.ndarray, labels: list[int], code: bytes = b"u1", key: bytes = b"labels"
) -> bytes:
    """A pickle as Python 2 and its NumPy wrote the official batches, opcode by opcode."""

    def text(value: bytes) -> bytes:  # SHORT_BINSTRING
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:  # BININT
        return b"J" + struct.pack("<i", value)

    pixels = images.transpose(0, 3, 1, 2).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + (number(0) + b"\x85" + text(b"b") + b"\x87R")
        + (b"(" + number(1) + number(len(images)) + number(3072) + b"\x86")
        + (b"cnumpy\ndtype\n" + text(code) + number(0) + number(1) + b"\x87R")
        + (b"(" + number(3) + text(b"|") + b"NNN" + number(-1) * 2 + number(0) + b"tb")
        + (b"\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb")
    )
    values = b"](" + b"".join(map(number, labels)) + b"e"
    return (
        b"\x80\x02}(" + text(key) + values + text(b"data") + array
        + text(b"batch_label") + text(b"training batch 1 of 5") + b"u."
    )  # fmt: skip


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def forms(batches) -> dict[str, dict[str, bytes]]:
    """The files of the binary and python archives."""
    return {
        "binary": {
            f"cifar-10-batches-bin/{name}.bin": binary(*batch) for name, batch in batches.items()
        },
        "python": {
            f"cifar-10-batches-py/{name}": python(images, labels.tolist())
            for name, (images, labels) in batches.items()
        },
    }


@pytest.fixture(scope="module")
def folders() -> dict[str, bytes]:
    """Three train and two test images a class, each of its own colour; noise beside them."""
    files = {"README.txt": b"not an image"}
    for label, name in enumerate(CLASS_NAMES):
        for i in range(5):
            where = f"train/{name}/{i}" if i < 3 else f"test/{name}/{i}"
            files[f"{where}.png"] = png(np.full((32, 32, 3), 20 * label + i, np.uint8))
    return files


def test_the_handmade_pickle_is_one_that_numpy_reads(batches):
    images, labels = batches["test_batch"]
    loaded = pickle.loads(python(images, labels.tolist()), encoding="bytes")
    np.testing.assert_array_equal(
        loaded[b"data"].reshape(-1, 3, 32, 32), images.transpose(0, 3, 1, 2)
    )
    assert loaded[b"labels"] == labels.tolist()


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("container", ["tar.gz", "folder"])
def test_official_batches_in_their_order(form, container, forms, batches, tmp_path):
    files = {"notes/readme.html": b"<p>", **dict(reversed(forms[form].items()))}
    if container == "folder":
        source = unpacked(tmp_path / "unpacked", files)
    else:
        source = tar(tmp_path / "some.tar.gz", files)
    parts = read_cifar10(source, subset=100)
    train = [batches[name] for name in BATCHES[:5]]
    np.testing.assert_array_equal(parts["train"].images, np.concatenate([x for x, _ in train]))
    np.testing.assert_array_equal(parts["train"].labels, np.concatenate([y for _, y in train]))
    np.testing.assert_array_equal(parts["test"].images, batches["test_batch"][0])


@pytest.mark.parametrize("form", ["binary", "python"])
def test_official_batches_of_cifar100_have_fine_labels(form, batches, tmp_path):
    images = batches["test_batch"][0]
    labels = np.arange(80, 100)
    if form == "binary":
        rows = [bytes([label // 5]) + binary(image[None], label[None])
                for image, label in zip(images, labels, strict=True)]  # fmt: skip
        content = {f"{split}.bin": b"".join(rows) for split in ("train", "test")}
    else:
        batch = python(images, labels.tolist(), key=b"fine_labels")
        content = {"train": batch, "test": batch}
    parts = read_cifar(CIFAR100, unpacked(tmp_path, content), subset=1)
    for split in ("train", "test"):
        np.testing.assert_array_equal(parts[split].images, images)
        assert parts[split].labels.tolist() == labels.tolist()
    with pytest.raises(InputError, match="not the whole of CIFAR-100: 0 train images of apple"):
        read_cifar(CIFAR100, tmp_path)


def test_a_subset_is_the_first_of_each_class(forms, batches, tmp_path):
    parts = read_cifar10(tar(tmp_path / "some.tar.gz", forms["binary"]), subset=1)
    images, labels = batches["data_batch_1"]
    first = sorted(labels.tolist().index(label) for label in range(10))
    np.testing.assert_array_equal(parts["train"].images, images[first])
    np.testing.assert_array_equal(parts["train"].labels, labels[first])


@pytest.mark.parametrize("mode", ["w", "w:gz", "folder"])
def test_images_by_class_in_turn(mode, folders, tmp_path):
    hidden = {
        "train/cat/._0.png": b"AppleDouble",
        "__MACOSX/train/cat/0.png": b"",
        ".git/a.png": b"",
    }
    files = {f"./cifar/{name}": content for name, content in reversed((folders | hidden).items())}
    if mode == "folder":
        source = unpacked(tmp_path / "images", files)
    else:
        source = tar(
            tmp_path / "images.tar", files, entry("cifar/empty", tarfile.DIRTYPE), mode=mode
        )
    seen: list[tuple[int, int]] = []
    parts = read_cifar10(source, subset=2, progress=lambda *done: seen.append(done))
    assert parts["train"].labels.tolist() == [*range(10), *range(10)]
    assert parts["train"].images[:, 5, 6, 1].tolist() == [
        20 * c + i for i in (0, 1) for c in range(10)
    ]
    assert parts["test"].images[:, 0, 0, 0].tolist() == [
        20 * c + i for i in (3, 4) for c in range(10)
    ]
    assert seen == [(40, 40)]


def test_all_of_it_is_demanded_unless_a_subset_is_asked_for(folders, tmp_path, monkeypatch):
    source = unpacked(tmp_path / "images", folders)
    text = refusal(source)
    assert "3 train images of airplane for 5,000" in text
    assert "--subset" in text
    monkeypatch.setattr(cifar_source, "COUNTS", {"train": 30, "test": 20})
    assert len(read_cifar10(source)["train"].labels) == 30
    (source / "test" / "truck" / "4.png").unlink()
    assert "1 test images of truck for 2" in refusal(source)


def test_an_official_archive_is_told_by_its_sha256(forms, tmp_path, monkeypatch):
    source = tar(tmp_path / "cifar-10-binary.tar.gz", forms["binary"])
    text = refusal(source)
    assert "not the official archive" in text
    assert cifar_source.PAGE in text
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setitem(CIFAR10.sha256, source.name, digest)
    monkeypatch.setattr(cifar_source, "COUNTS", {"train": 100, "test": 20})
    assert len(read_cifar10(source)["train"].labels) == 100


# --------------------------------------------------------------------------------- hostile pickles

HOSTILE = {  # by each of the opcodes that ask for a global
    "os.mkdir": b"\x80\x02cos\nmkdir\nU\x03ran\x85R.",
    "posix.mkdir": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93\x8c\x03ran\x85R.",
    "builtins.eval": b'cbuiltins\neval\n(S\'__import__("os").mkdir("ran")\'\ntR.',
    "os.makedirs": b"(S'ran'\nios\nmakedirs\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_runs_nothing(name, forms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = forms["python"] | {"cifar-10-batches-py/data_batch_3": HOSTILE[name]}
    text = refusal(tar(tmp_path / "evil.tar.gz", files), subset=5)
    assert "data_batch_3" in text
    assert f"load {name}" in text
    assert not Path("ran").exists()
    pickle.loads(HOSTILE[name])
    assert Path("ran").is_dir()  # hostile indeed


def test_a_pickle_of_few_bytes_cannot_ask_for_gigabytes(forms, tmp_path):
    bomb = b"\x80\x02}r\xff\xff\xff\x0f."  # memo position 268,435,455: 4 GiB in the C reader
    source = unpacked(tmp_path / "a", forms["python"] | {"cifar-10-batches-py/test_batch": bomb})
    tracemalloc.start()
    refusal(source, subset=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_a_key_that_holds_itself_twice_and_so_on_takes_no_time(forms, tmp_path):
    """40 levels: 2**40 steps for who hashes it."""
    nested = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))
    batch = {"cifar-10-batches-py/test_batch": b"\x80\x02" + nested + b"q\x64}h\x64K\x01s."}
    text = refusal(unpacked(tmp_path / "a", forms["python"] | batch), subset=5)
    assert "test_batch" in text
    assert "a key that is no text" in text


def test_a_label_that_holds_itself_twice_and_so_on_is_not_written_out():
    label = []
    for _ in range(40):
        label = [label, label]
    with pytest.raises(InputError, match="the label of row 0 is list, outside 0-9"):
        cifar_source._labels(CIFAR10, "x", [label])


def test_a_name_of_megabytes_is_not_read(tmp_path):
    header = zeros(400 * 2**20)
    header.type = tarfile.GNUTYPE_LONGNAME
    source = tmp_path / "a.tar"
    source.write_bytes(header.tobuf() + bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match="holds more than CIFAR can"):
        read_files(source)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


# --------------------------------------------------------------------------------- damaged contents


def damaged_batches(forms, batches) -> dict[str, tuple[dict[str, bytes], str]]:
    images, labels = batches["data_batch_2"]
    beyond = [*labels.tolist()[:-1], 10]
    py, bin_ = "cifar-10-batches-py/data_batch_2", "cifar-10-batches-bin/data_batch_2.bin"
    return {
        "label 10": (
            {bin_: binary(images, np.array(beyond))},
            "label of row 19 is 10, outside 0-9",
        ),
        "pickled label 10": ({py: python(images, beyond)}, "row 19 is 10, outside 0-9"),
        "pickled label -1": ({py: python(images, [-1, *beyond[1:]])}, "row 0 is -1, outside 0-9"),
        "a byte short": ({bin_: binary(images, labels)[:-1]}, "not a multiple of 3073"),
        "pickle cut short": (
            {py: forms["python"][py][:30_000]},
            "no batch of CIFAR-10, or damaged",
        ),
        "labels missing": ({py: python(images, beyond[:-2])}, "18 labels and pixels (20, 3072)"),
        "floats": (
            {py: python(images, labels.tolist(), b"f4")},
            "CIFAR-10 has 3072 bytes an image",
        ),
        "not a batch": ({py: pickle.dumps([1, 2], protocol=2)}, "no batch of CIFAR-10"),
        "images of 24 pixels": (
            {py: python(images[:, :24], labels.tolist())},
            "20 labels and pixels (20, 3072) of 46080 bytes",
        ),
    }


@pytest.mark.parametrize(
    "case",
    ["label 10", "pickled label 10", "pickled label -1", "a byte short", "pickle cut short",
     "labels missing", "floats", "not a batch", "images of 24 pixels"],
)  # fmt: skip
def test_a_damaged_batch_is_one_clear_line(case, forms, batches, tmp_path):
    change, said = damaged_batches(forms, batches)[case]
    form = "binary" if next(iter(change)).endswith(".bin") else "python"
    text = refusal(unpacked(tmp_path / "batches", forms[form] | change), subset=5)
    assert said in text
    assert "data_batch_2" in text


def test_a_missing_batch(forms, tmp_path):
    files = dict(forms["binary"])
    del files["cifar-10-batches-bin/data_batch_4.bin"]
    assert "data_batch_4 is missing" in refusal(tar(tmp_path / "a.tar", files, mode="w"), subset=5)


GREY = np.zeros((32, 32), np.uint8)
LARGE = np.zeros((33, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train/cat/9.png": png(LARGE)}, "'train/cat/9.png' is 32 x 33 pixels, RGB"),
        ({"train/cat/9.png": png(GREY)}, "is 32 x 32 pixels, L; CIFAR's are 32 x 32, RGB"),
        ({"train/cat/9.png": png(LARGE[:32])[:60]}, "'train/cat/9.png' does not decode"),
        ({"train/cat/9.JPG": b""}, "'train/cat/9.JPG' does not decode"),
        (
            {"train/catfish/1.png": png(LARGE)},
            "'train/catfish/1.png' does not lie in train/<class>/",
        ),
        ({"9.png": png(LARGE)}, "'9.png' does not lie in train/<class>/"),
    ],
)
def test_an_image_that_does_not_belong(change, said, folders, tmp_path):
    assert said in refusal(unpacked(tmp_path / "images", folders | change), subset=9)


def test_something_else_altogether(tmp_path):
    source = tar(tmp_path / "a.tar.gz", {"cifar-100-binary/train.bin": b"\0" * 3074})
    assert "holds no train images; expected cifar-10-binary.tar.gz" in refusal(source, subset=1)
    assert "holds no train images" in refusal(source)
    with pytest.raises(InputError, match="at least 1 image of each class, got 0"):
        read_cifar10(source, subset=0)


# --------------------------------------------------------------------------------- hostile archives

TRAPS = {
    "up": (tarfile.TarInfo("train/../../ran.png"), "leads outside"),
    "absolute": (tarfile.TarInfo("/tmp/ran.png"), "leads outside"),
    "link": (entry("train/cat/1.png", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
    "hard link": (entry("train/cat/1.png", tarfile.LNKTYPE, "a.png"), "is a link or a device"),
    "device": (entry("train/cat/1.png", tarfile.CHRTYPE), "is a link or a device"),
    "FIFO": (entry("train/cat/1.png", tarfile.FIFOTYPE), "is a link or a device"),
    "twice": (tarfile.TarInfo("README.txt"), "'README.txt' comes twice"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_an_archive_that_reaches_out_is_refused(trap, folders, tmp_path):
    member, said = TRAPS[trap]
    source = tar(tmp_path / "evil.tar.gz", folders, member)
    assert said in refusal(source, subset=1)
    assert list(tmp_path.iterdir()) == [source]


def test_links_and_pipes_of_a_folder_are_refused(folders, tmp_path):
    source = unpacked(tmp_path / "images", folders)
    for make in (lambda path: path.symlink_to("/etc"), os.mkfifo):
        make(source / "train" / "x")
        assert "'train/x' is a link or a device" in refusal(source, subset=1)
        (source / "train" / "x").unlink()


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def flip(content: bytes) -> bytes:
    """One bit of gzip's checksum, far behind the end of the tar inside."""
    padded = gzip.compress(gzip.decompress(content) + bytes(2**20))
    return padded[:-6] + bytes([padded[-6] ^ 1]) + padded[-5:]


@pytest.mark.parametrize(
    ("mode", "damage"),
    [
        ("w:gz", cut),
        ("w", cut),
        ("w:gz", flip),
        ("w", lambda _: b"PK\3\4 a zip"),
        ("w", lambda _: b""),
    ],
)
def test_a_damaged_archive_is_one_clear_line(mode, damage, forms, tmp_path):
    whole = tar(tmp_path / "whole", forms["binary"], mode=mode)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(damage(whole.read_bytes()))
    assert "cut short or damaged" in refusal(damaged, subset=5)
    assert "no such file or folder" in refusal(tmp_path / "nowhere")


def test_an_archive_that_cannot_be_read(forms, tmp_path, monkeypatch):
    source = tar(tmp_path / "a.tar", forms["binary"], mode="w")
    no = PermissionError(13, "Permission denied")  # by hand: root may read everything
    monkeypatch.setattr(
        cifar_archive._Bounded, "read", lambda self, size: (_ for _ in ()).throw(no)
    )
    assert "cannot be read: Permission denied" in refusal(source)


def zeros(size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo("zeros")
    member.size = size
    return member


def bombs() -> dict[str, bytes]:
    """Archives of a few kilobytes that unroll to 4 MiB, or say so."""
    content = io.BytesIO(bytes(2**22))
    one, header = io.BytesIO(), zeros(2**22)
    with tarfile.open(fileobj=one, mode="w") as archive:
        archive.addfile(header, content)
    header.type = tarfile.XHDTYPE  # what tarfile reads into memory before it gives a name
    extended = header.tobuf(tarfile.USTAR_FORMAT) + bytes(2**22) + zeros(0).tobuf()
    claim = zeros(2**40).tobuf(tarfile.GNU_FORMAT)
    many = b"".join(tarfile.TarInfo(f"{i}").tobuf() for i in range(200)) + bytes(1024)
    return {"one": one.getvalue(), "extended": extended, "claim": claim, "many": many}


@pytest.mark.parametrize("name", ["one", "extended", "claim", "many"])
def test_a_bomb_stops_while_it_unrolls(name, tmp_path, monkeypatch):
    for limit, value in (("MAX_BYTES", 2**20), ("MAX_FILE_BYTES", 2**19), ("MAX_FILES", 100)):
        monkeypatch.setattr(cifar_archive, limit, value)
    source = tmp_path / "bomb.tar.gz"
    source.write_bytes(gzip.compress(bombs()[name]))
    tracemalloc.start()
    with pytest.raises(InputError, match="holds more than CIFAR can"):
        read_files(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
