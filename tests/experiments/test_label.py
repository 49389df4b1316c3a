"""What to label next, and the page that labels: the tables, the protocol, and a browser."""

import csv
import dataclasses
import http.client
import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import label, label_next, labelling
from experiments.label_server import Session, make_server
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.label_table import LabelTable
from jaxssl.analysis.tables import read_tables, save_tables, together
from jaxssl.errors import InputError
from jaxssl.files import line_of

SIZES = (12, 9, 7)
NAMES = ("a", 'part<Crustacea "x", y', "=c")


def picture(label):
    out = io.BytesIO()
    Image.fromarray(np.full((8, 12), 60 * label, np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def run(tmp_path):
    """A run without labels: 28 images in three groups, and two files outside of it."""
    owner = np.repeat(np.arange(3), SIZES)
    ids = tuple(f"{'=' if i == 5 else ''}{i}.png" for i in range(len(owner)))
    table = Embeddings(
        vectors=9 * np.eye(3)[owner] + np.random.default_rng(0).normal(size=(len(owner), 3)) / 9,
        ids=ids,
        paths=("",) * len(owner),
        class_names=("",) * len(owner),
        class_index=np.full(len(owner), -1),
        split=("train",) * len(owner),
        thumbnails=[picture(one) for one in owner],
        extra={"object_id": np.array([f"object {i}" for i in range(len(owner))], object)},
        metadata={"distance": "euclidean"},
    )
    folder = tmp_path / "run"
    rows = np.arange(len(owner))
    parts = {"train": table.select(rows < 20), "test": table.select(rows >= 20)}
    save_tables(folder, {"h": parts})
    return folder


def rows_of(path, delimiter=","):
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


def test_the_loop_from_no_label_to_the_next_ones(run, capsys):
    config = label_next.LabelNext(run_dir=str(run), number=3)
    label_next.main(config)
    assert "3 of 28 images without a label, by clusters" in capsys.readouterr().out
    out = run / "label-next"
    first = rows_of(out / "label-next.csv")
    groups = np.repeat(np.arange(3), SIZES)
    assert (out / "index.html").read_text().count('class="picture"') == 3
    _, *objects = rows_of(out / "ecotaxa_label_next.tsv", "\t")  # after the row of types
    assert {row["object_annotation_category"] for row in objects} == {""}
    own = [row["path"].strip("./=png") for row in first]
    assert [row["object_id"] for row in objects] == [f"object {i}" for i in own]
    own = [groups[int(i)] for i in own]
    assert sorted(own) == [0, 1, 2]

    # Filled in, the table is one of labels; and no image of it is proposed again.
    filled = run / "filled.csv"
    columns = list(first[0])
    with filled.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({**row, "label": NAMES[g]} for row, g in zip(first, own, strict=True))
    label_next.main(dataclasses.replace(config, labels_from=str(filled), number=100))
    assert "25 of 25 images without a label, by margin; 3 have one of 3" in capsys.readouterr().out
    second = rows_of(out / "label-next.csv")
    assert not {row["path"] for row in first} & {row["path"] for row in second}
    for row in second:
        if (guess := NAMES[groups[int(row["path"].strip("./=png"))]]) != "=c":
            assert row["guess"] == guess
    _, *objects = rows_of(out / "ecotaxa_label_next.tsv", "\t")
    assert {row["object_annotation_status"] for row in objects} == {"predicted"}

    # The table that `label` grows counts by itself, and goes before the other.
    pool = labelling.open_pool(dataclasses.replace(config, labels_from=str(filled)), str(run))
    table = LabelTable(run / "labels.csv", pool.images.ids)
    table.assign([5, 6], "b")
    pool = labelling.open_pool(dataclasses.replace(config, labels_from=str(filled)), str(run))
    assert pool.images.class_names[5:7] == ("b", "b")
    assert sum(map(bool, pool.images.class_names)) in (4, 5)
    assert sum(map(bool, pool.own)) == 3


def test_what_cannot_be_proposed_is_said_in_one_line(run, tmp_path):
    config = label_next.LabelNext(run_dir=str(run))
    with pytest.raises(InputError, match="two classes or more"):
        label_next.main(dataclasses.replace(config, by="margin"))
    other = tmp_path / "other.csv"
    other.write_text("path,label\nnowhere.png,a\n")
    with pytest.raises(InputError, match=r"none of them.*nowhere"):
        label_next.main(dataclasses.replace(config, labels_from=str(other)))
    other.write_text("path,label\n0.png,a\n0.png,b\n")
    with pytest.raises(InputError, match="two labels"):
        label_next.main(dataclasses.replace(config, labels_from=str(other)))
    everything = "".join(f"{'=' if i == 5 else ''}{i}.png,a\n" for i in range(28))
    other.write_text("path,label\n" + everything)
    for program, told in ((label_next, config), (label, label.Label(run_dir=str(run)))):
        with pytest.raises(InputError, match=r"ha(ve|s) a label"):
            program.main(dataclasses.replace(told, labels_from=str(other)))


def test_a_table_is_never_lost(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,label\nelsewhere/7.png,kept\n0.png,a\n")
    table = LabelTable(path, ["0.png", "1.png"])
    assert table.labels == {0: "a"}
    table.assign([0, 1], " b ")
    assert table.undo() == [0, 1]
    assert table.undo() == []
    assert path.read_text() == "path,label\nelsewhere/7.png,kept\n0.png,a\n"
    for wrong in ("", " ", "=x", "a\nb", "x" * 201, "\x1b[2J"):
        with pytest.raises(InputError):
            table.assign([0], wrong)
    assert LabelTable(path, ["0.png"]).labels == {0: "a"}
    path.write_text("path,label,area\n0.png,a,3\n")
    with pytest.raises(InputError, match="stays as it is"):
        LabelTable(path, ["0.png"])


def test_undo_goes_on_after_a_restart(tmp_path):
    path, ids = tmp_path / "labels.csv", ["0.png", "1.png", "=2.png"]
    log = tmp_path / "labels.clicks.jsonl"
    table = LabelTable(path, ids)
    table.assign([0], "a")
    table.assign([0, 2], "b")
    table.assign([1], "c")
    assert table.undo() == [1]
    assert LabelTable(path, ids).changes == 2
    # A kill between the log and the table, and one within a line: neither click was.
    never = line_of({"click": 4, "labels": {"1.png": [None, "d"]}})
    log.write_text(log.read_text() + never + '{"click": 5')
    table = LabelTable(path, ids)
    assert table.labels == {0: "b", 2: "b"}
    table.assign([1], "e")
    table = LabelTable(path, ids)
    assert (table.undo(), table.undo(), table.changes) == ([1], [0, 2], 1)
    assert path.read_text() == "path,label\n0.png,a\n"
    assert LabelTable(path, ids[1:]).changes == 0  # of an image that is not there
    log.write_text(log.read_text().replace('"a"]', '"o"]'))  # a flipped bit
    assert LabelTable(path, ids).changes == 0
    log.write_text(log.read_text().replace('"o"]', '"a"]'))
    assert LabelTable(path, ids).changes == 1
    # What another hand has changed stays as it is.
    path.write_text("path,label\n0.png,z\n")
    assert LabelTable(path, ids).changes == 0
    path.unlink()
    assert LabelTable(path, ids).changes == 0


def test_a_change_that_cannot_be_saved_did_not_happen(tmp_path, monkeypatch):
    table = LabelTable(tmp_path / "labels.csv", ["0.png"])
    monkeypatch.setattr("jaxssl.analysis.label_table.write_text", _full)
    with pytest.raises(OSError, match="full"):
        table.assign([0], "a")
    assert table.labels == {}
    assert table.changes == 0
    monkeypatch.undo()
    assert LabelTable(tmp_path / "labels.csv", ["0.png"]).changes == 0
    assert (tmp_path / "labels.clicks.jsonl").read_bytes() == b""


def _full(path, text):
    raise OSError(28, "the disk is full")


def test_a_second_server_on_a_table_is_refused_in_one_line(tmp_path):
    told = r"in use by jaxssl label, process \d+.*--table"
    with label._held(tmp_path / "labels.csv"), pytest.raises(InputError, match=told):
        label._held(tmp_path / "labels.csv")
    label._held(tmp_path / "labels.csv").close()


def test_an_image_of_another_day_comes_back_with_undo(run):
    images = together(read_tables(run, embeddings=["h"])["h"])
    LabelTable(run / "labels.csv", images.ids).assign(range(28), "a")
    pool = labelling.open_pool(label.Label(run_dir=str(run)), str(run))
    session = label.make_session(label.Label(run_dir=str(run)), pool)
    assert session.state(0)["images"] == []
    assert session.left == 0
    state = session.undo(0)
    assert len(state["images"]) == session.left == state["total"] == 28
    assert rows_of(run / "labels.csv") == []


def test_ctrl_c_ends_in_one_line_and_loses_nothing(run):
    # Behind a shell SIGINT is ignored.
    heard = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = "runpy.run_module('experiments.label', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", f"{heard}; {start}", str(run)]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        told = ""
        while not told.startswith("open "):
            told = started.stdout.readline()
            assert told, started.stderr.read()
        body = json.dumps({"rows": [0, 5], "label": "b", "group": 0}).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(told.split()[1] + "assign", body, head)
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        started.send_signal(signal.SIGINT)
        out, errors = started.communicate(timeout=20)
    finally:
        started.kill()
    assert (started.returncode, out) == (75, "")
    told = f"label: 2 labels of 1 class are in {run / 'labels.csv'}; 26 images are left"
    assert errors == f"{told}: the same command goes on\n"
    assert [row["path"] for row in rows_of(run / "labels.csv")] == ["0.png", "./=5.png"]
    assert LabelTable(run / "labels.csv", [f"{i}.png" for i in range(5)] + ["=5.png"]).changes == 1


@pytest.fixture
def server(run):
    images = together(read_tables(run, embeddings=["h"])["h"])
    table = LabelTable(run / "labels.csv", images.ids)
    groups = [[*range(12)], [*range(12, 21)], [*range(21, 28)]]
    made = make_server(Session(images, table, groups, {"a": 3}))
    thread = threading.Thread(target=made.serve_forever, args=[0.01], daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def asked(server, path="state", body=None, *, address=None, **headers):
    """(status, answer) of a request."""
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request((address or server.address) + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_protocol_saves_before_it_answers(server, run):
    path = run / "labels.csv"
    status, page = asked(server, "")
    assert status == 200
    assert b"Label look-alikes" in page
    assert asked(server, "picture/0") == (200, picture(0))
    _, body = asked(server, "assign", {"rows": [0, 5], "label": NAMES[1], "group": 0})
    state = json.loads(body)
    assert [row["path"] for row in rows_of(path)] == ["0.png", "./=5.png"]
    assert {row["label"] for row in rows_of(path)} == {NAMES[1]}
    assert [image["row"] for image in state["images"]] == [1, 2, 3, 4, *range(6, 12)]
    assert state["classes"] == [{"name": "a", "count": 3}, {"name": NAMES[1], "count": 2}]
    assert (state["left"], state["total"], state["changes"]) == (26, 28, 1)
    # A group that is done gives way to the next, and undo comes back to it.
    rest = state["images"]
    _, body = asked(server, "assign", {"rows": [i["row"] for i in rest], "label": "a", "group": 0})
    assert json.loads(body)["group"] == 1
    assert json.loads(asked(server, "state?group=0&back=1")[1])["group"] == 2
    assert json.loads(asked(server, "undo", {"group": 1})[1])["images"] == rest
    json.loads(asked(server, "undo", {"group": 1})[1])
    assert rows_of(path) == []
    assert json.loads(asked(server, "undo", {"group": 1})[1])["changes"] == 0


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("state", None, {"Host": "evil.example"}, 421),
        ("state", None, {"Host": "127.0.0.1"}, 421),
        ("assign", "good", {"Origin": "http://evil.example"}, 403),
        ("assign", "good", {"Origin": "null"}, 403),
        ("assign", "good", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("assign", "good", {"Content-Type": "text/plain"}, 415),
        ("assign", {"rows": [99], "label": "a"}, {}, 400),
        ("assign", {"rows": [-1], "label": "a"}, {}, 400),
        ("assign", {"rows": [True], "label": "a"}, {}, 400),
        ("assign", {"rows": [0], "label": "=1+1"}, {}, 400),
        ("assign", {"rows": [0], "label": 3}, {}, 400),
        ("assign", {"label": "a"}, {}, 400),
        ("assign", [], {}, 400),
        ("other", {}, {}, 404),
        ("picture/99", None, {}, 404),
        ("picture/-1", None, {}, 404),
        ("picture/../../run/labels.csv", None, {}, 404),
        ("..%2f..%2fetc/passwd", None, {}, 404),
        ("state?group=x", None, {}, 400),
    ],
)
def test_what_does_not_come_from_the_page_is_refused(server, run, path, body, headers, status):
    body = {"rows": [0], "label": "a"} if body == "good" else body
    found, answer = asked(server, path, body, **headers)
    assert found == status
    assert list(json.loads(answer)) == ["error"]
    assert not (run / "labels.csv").exists()


def test_without_the_token_nothing_is_told(server):
    root = f"http://127.0.0.1:{server.server_address[1]}/"
    for path in ("", "state", "x" * 24 + "/state", "../state", f"./{server.token}/"):
        assert asked(server, path, address=root)[0] == 404
    assert server.server_address[0] == "127.0.0.1"
    raw = http.client.HTTPConnection(*server.server_address, timeout=10)
    raw.request("GET", "http://evil.example/", headers={"Host": "evil.example"})
    assert raw.getresponse().status == 421
    raw.close()


def test_the_keyboard_alone_labels_in_a_browser(server, run):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("there is no chromium (apt install chromium)")
    path, said, asked_for = run / "labels.csv", [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked_for.append(request.url))
        page.goto(server.address)
        told = page.locator("[data-part=said]")

        def press(*keys, said=None):
            for key in keys:
                page.keyboard.press(key)
            if said:
                playwright.expect(told).to_have_text(said)

        press("1", said="1 image: a")  # the image that the page begins at
        assert rows_of(path) == [{"path": "0.png", "label": "a"}]
        press("ArrowRight", "Shift+ArrowRight", "/")  # the second and the third of those left
        page.keyboard.type(NAMES[1])
        press("Enter", said=f"2 images: {NAMES[1]}")
        assert [row["path"] for row in rows_of(path)] == ["0.png", "2.png", "3.png"]
        press("Backspace", said="taken back")
        assert [row["path"] for row in rows_of(path)] == ["0.png"]
        press("Control+a", "Space", "2")  # all but the one it stands on
        playwright.expect(told).to_have_text(f"10 images: {NAMES[1]}")
        assert len(rows_of(path)) == 11
        press("1", said="1 image: a")
        playwright.expect(page.locator("[data-part=group]")).to_contain_text("group 2 of 3")
        press("PageDown", said="group 3 of 3: 7 images")
        press("/")
        page.keyboard.type("=1+1")
        press("Enter")
        trouble = page.locator("[data-part=trouble]")
        playwright.expect(trouble).to_contain_text("spreadsheet")
        press("Control+a", "2", said=f"7 images: {NAMES[1]}")
        assert trouble.is_hidden()
        for width, scheme in ((320, "dark"), (400, "light")):
            page.set_viewport_size({"width": width, "height": 700})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        if brought := importlib.util.find_spec("axe_playwright_python"):
            page.evaluate(Path(brought.origin).with_name("axe.min.js").read_text(encoding="utf-8"))
            assert page.evaluate("axe.run(document).then((found) => found.violations)") == []
            page.emulate_media(color_scheme="dark")
            colours = "axe.run(document, { runOnly: ['color-contrast'] })"
            assert page.evaluate(f"{colours}.then((found) => found.violations)") == []
        browser.close()
    own = tuple(server.address[: -len(server.token) - 1] + part for part in (server.token, ""))
    assert all(url.startswith((own[0], "data:")) for url in asked_for)
    assert [one for one in said if "400" not in one] == []  # the refused class, which is shown
    assert len(rows_of(path)) == 19


def fill_in(path, label):
    """Give every row of a table a label, as a spreadsheet does."""
    first = rows_of(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(first[0]))
        writer.writeheader()
        writer.writerows({**row, "label": label(row["path"].strip("./=png"))} for row in first)
    return path.read_bytes()


def test_what_was_filled_in_is_kept_and_read_in_the_next_round(run, tmp_path, capsys):
    groups = np.repeat(np.arange(3), SIZES)
    for out in ("", str(tmp_path / "elsewhere")):
        config = label_next.LabelNext(run_dir=str(run), number=3, out=out)
        label_next.main(config)
        first = Path(out or run / "label-next")
        table = first / "label-next.csv"
        filled = fill_in(table, lambda name: "abc"[groups[int(name)]])
        capsys.readouterr()
        for number in (5, 4):  # the second: nobody touched the round
            label_next.main(dataclasses.replace(config, number=number))
            told = capsys.readouterr().out
            assert f"labels: 3 filled in in {table}\n" in told
            assert f"{table} was changed since it was written and is kept" in told
            assert f"table: {first / 'round-2' / 'label-next.csv'}" in told
            assert "25 images without a label, by margin" in told
            assert table.read_bytes() == filled
            second = rows_of(first / "round-2" / "label-next.csv")
            assert len(second) == number
            assert not {row["path"] for row in second} & {row["path"] for row in rows_of(table)}
        # The third round knows those of the first two, and so does the page that labels.
        fill_in(first / "round-2" / "label-next.csv", lambda name: "abc"[groups[int(name)]])
        label_next.main(config)
        assert len(rows_of(first / "round-3" / "label-next.csv")) == 3
        assert "21 images without a label" in capsys.readouterr().out
        if not out:
            pool = labelling.open_pool(label.Label(run_dir=str(run)), str(run))
            assert sum(map(bool, pool.own)) == 7
            shutil.rmtree(first)


def test_objects_changed_in_the_table_for_ecotaxa_are_kept(run):
    config = label_next.LabelNext(run_dir=str(run), number=3)
    label_next.main(config)
    table = run / "label-next" / "ecotaxa_label_next.tsv"
    table.write_text(mine := table.read_text().replace("\t\t", "\tCopepoda\t"))
    label_next.main(config)
    assert table.read_text() == mine
    assert (run / "label-next" / "round-2" / table.name).is_file()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("checkpoint", "last"), ("image_root", "x"), ("group_by", "cast"), ("follow_links", True)],
)
def test_flags_of_other_images_are_refused_where_there_are_none(run, flag, value):
    config = label_next.LabelNext(run_dir=str(run), **{flag: value})
    with pytest.raises(InputError, match=f"--{flag.replace('_', '-')} is for other images"):
        label_next.main(config)


def test_a_table_that_another_hand_changes_while_it_is_open_is_not_overwritten(tmp_path):
    path = tmp_path / "labels.csv"
    table = LabelTable(path, ["0.png", "1.png"])
    table.assign([0], "a")
    path.write_text("path,label\n0.png,mine\nelsewhere.png,mine\n")
    with pytest.raises(InputError, match="changed by another program"):
        table.assign([1], "b")
    assert path.read_text() == "path,label\n0.png,mine\nelsewhere.png,mine\n"
    table = LabelTable(path, ["0.png", "1.png"])
    table.assign([1], "b")
    assert path.read_text().endswith("elsewhere.png,mine\n1.png,b\n")
    for row, why in (("0.png,a,see Anna", "3 cells"), ("0.png,b", "two labels")):
        path.write_text(text := f"path,label\n0.png,a\n{row}\n")
        with pytest.raises(InputError, match=why):
            LabelTable(path, ["0.png", "1.png"])
        assert path.read_text() == text
