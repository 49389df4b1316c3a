"""The comparison: runs grouped by recipe, pooled by hand; a page that is closed and offline."""

import base64
import dataclasses
import hashlib
import importlib.util
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from jaxssl.analysis.compare import write_comparison
from jaxssl.analysis.methods import MethodRow, label_rows, pooled, read_methods, score
from jaxssl.analysis.results import Results
from jaxssl.analysis.scores import judged_table
from jaxssl.analysis.verdict import verdict
from jaxssl.errors import InputError
from jaxssl.files import read_json

from .conftest import make_tables, write_record, write_run
from .test_report import DEEP_TITLE, Page

TRIPLET = '<i>Triplet</i> "hard" & $x'


def variant(run, folder, *, study="SimCLR", shift=0.0, data="x", **settings):
    """The fixture's run again as another method or seed, its SVC means moved by `shift`."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report"))
    write_record(folder, study=study, **settings)
    change_json(folder / "config.json", data=data)
    results = Results.read(run / "results.json")
    means = {"mean": 0.8 + shift, "low": 0.75 + shift, "high": 0.85 + shift}
    rows = tuple(
        dataclasses.replace(row, **means) if row.embedding == "h" else row
        for row in results.label_efficiency
    )
    own = results.classification
    if settings.get("margin") == 0.7:
        own = None
    elif study == TRIPLET:
        own = dataclasses.replace(own, accuracy=0.5)
    unseen = {**results.nmi["unseen"], "h": 0.5 + shift}
    dataclasses.replace(
        results,
        label_efficiency=rows,
        nmi={**results.nmi, "unseen": unseen},
        classification=own,
    ).write(folder / "results.json")
    return folder


def change_json(path, **change):
    path.write_text(json.dumps(read_json(path) | change))


@pytest.fixture(scope="module")
def runs(run, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        variant(run, root / "a<b>0"),
        variant(run, root / "a1", shift=0.04, data="y", seed=1, run_dir="elsewhere", processes=2),
        variant(run, root / "t0", study=TRIPLET, shift=-0.2, margin=0.5),
        variant(run, root / "t1", study=TRIPLET, shift=-0.3, margin=0.7),
    ]


@pytest.fixture(scope="module")
def folder(runs, tmp_path_factory):
    page, _ = write_comparison(runs, tmp_path_factory.mktemp("out") / "new" / "cmp")
    return page.parent


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_runs_of_one_recipe_are_one_method(runs):
    """Another seed, folder or number of processes makes no other method."""
    methods = read_methods(runs)
    assert {m.name: [one.run.folder.name for one in m.runs] for m in methods} == {
        "SimCLR": ["a<b>0", "a1"],
        f"{TRIPLET}, margin 0.5": ["t0"],
        f"{TRIPLET}, margin 0.7": ["t1"],
        "untrained network": ["a<b>0", "a1"],
        "raw pixels": ["a<b>0", "a1"],
    }


def test_an_encoder_of_its_own_is_named_and_has_its_own_untrained_network(run, runs, tmp_path):
    other = variant(run, tmp_path / "r", study="Softmax", encoder="resnet18")
    assert [m.name for m in read_methods([runs[0], other])] == [
        "SimCLR, convnet",
        "Softmax, resnet18",
        "untrained network (convnet)",
        "untrained network (resnet18)",
        "raw pixels",
    ]


def test_a_setting_that_is_not_set_is_left_out_of_the_name(run, tmp_path):
    settings = [{"steps": None}, {"steps": 9}, {"steps": None, "balanced": True}, {"steps": ""}]
    folders = [variant(run, tmp_path / str(i), **s) for i, s in enumerate(settings)]
    names = [m.name for m in read_methods(folders[:3]) if m.embedding == "h"]
    assert names == ["SimCLR", "SimCLR, steps 9", "SimCLR, balanced"]
    # Two that would then be called the same are told apart all the same.
    names = [m.name for m in read_methods([folders[0], folders[3]]) if m.embedding == "h"]
    assert names == ["SimCLR, steps not set", "SimCLR, steps empty"]


def test_hostile_methods_are_text_wherever_they_stand(page):
    assert "i" not in {tag for tag, _ in page.tags}
    assert page.text.count(TRIPLET) >= 2 * 6  # title, verdict, tables, maps, settings, sources
    spoken = [value for value in page.values("aria-label") if TRIPLET in value]
    for head in ("Balanced accuracy over labels", "UMAP of the test images by"):
        assert any(value.startswith(head) for value in spoken), head
    assert f"All numbers on {DEEP_TITLE}" in page.values("aria-label")


def test_pooling_against_scipy():
    values = np.array([0.91, 0.94, 0.92])
    found = pooled(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    # What is drawn does not shrink with seeds that share the draws.
    half = np.hypot(high - values.mean(), 0.1)
    assert pooled(values, 0.1).high == pytest.approx(values.mean() + half)
    alone = pooled([0.9], 0.1)
    assert (alone.mean, alone.low, alone.high) == pytest.approx((0.9, 0.8, 1.0))
    assert alone.seeds == (0.9,)


def nmi(one):
    return one.results.nmi["unseen"]["h"]


def test_curves_and_scores_over_seeds_by_hand(runs):
    method, single, *_ = read_methods(runs)
    row, alone = label_rows(method)[0], label_rows(single)[0]
    half = np.hypot(0.05, stats.t.ppf(0.975, 1) * 0.02)  # s / sqrt(2) of .80 and .84 is .02
    assert (row.mean, row.seeds) == (pytest.approx(0.82), pytest.approx((0.8, 0.84)))
    assert (row.low, row.high) == pytest.approx((0.82 - half, min(0.82 + half, 1)))
    assert (alone.mean, alone.low, alone.high) == pytest.approx((0.6, 0.55, 0.65))
    assert score(method, nmi).mean == pytest.approx(0.52)
    assert score(method, nmi, within=(0, 0.6)).high == 0.6
    assert score(method, lambda one: one.results.nmi["nowhere"]["h"]) is None
    assert score(method, lambda one: None) is None


def test_an_interval_cut_at_one_keeps_its_longer_side(run, tmp_path):
    path = variant(run, tmp_path / "r") / "results.json"
    results = Results.read(path)
    first, *others = results.label_efficiency
    cut = dataclasses.replace(first, mean=0.99, low=0.96, high=1.0)
    dataclasses.replace(results, label_efficiency=(cut, *others)).write(path)
    row = label_rows(read_methods([path.parent])[0])[0]
    assert (row.low, row.high) == (pytest.approx(0.96), 1.0)


def test_numbers_of_labels_that_were_asked_for_have_a_column(run, tmp_path):
    path = variant(run, tmp_path / "r") / "results.json"
    results = Results.read(path)
    every = results.label_efficiency
    few = [dataclasses.replace(row, labels=n, all=False) for row in every for n in (7, 8)]
    more = dataclasses.replace(results, label_efficiency=(*every, *few), label_sizes=(7,))
    more.write(path)
    methods = read_methods([path.parent])
    rows = [row for method in methods for row in label_rows(method)]
    columns = judged_table("unseen", rows, methods).columns
    assert columns[:3] == ("7 labels", "all 25 labels", "separation")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_size": 64, "color": "rgb", "seed": 5}, "image_size, color"),
        ({"unseen": ["x"]}, "unseen"),
        ({"data": "other pixels"}, "data"),
    ],
)
def test_another_protocol_is_refused_in_one_line(run, runs, tmp_path, change, named):
    other = variant(run, tmp_path / "other", study="Softmax", **change)
    with pytest.raises(InputError) as caught:
        write_comparison([runs[0], other], tmp_path / "out")
    assert f"{runs[0]} and {other} differ in {named}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_images_are_refused_even_under_another_seed(run, runs, tmp_path):
    other = variant(run, tmp_path / "other", seed=1)
    shutil.copy(other / "embeddings/test.parquet", other / "embeddings/unseen.parquet")
    with pytest.raises(InputError, match="differ in data"):
        read_methods([runs[0], other])


def cut(folder, name, rows):
    path = folder / "embeddings" / f"{name}.parquet"
    pq.write_table(pq.read_table(path).slice(0, rows), path)


def test_runs_that_learnt_from_a_part_of_the_labels_are_compared(run, runs, tmp_path):
    part = {"study": "Softmax", "data": "a part's", "label_fraction": 0.5}
    half = variant(run, tmp_path / "half", **part)
    cut(half, "train", 5)
    for folders in ([runs[0], half], [half, runs[0]]):
        named = {method.name for method in read_methods(folders)}
        assert {"SimCLR", "Softmax, label fraction 0.5"} <= named
    # Fewer images for another reason, or fewer that are judged, are another protocol.
    part["label_fraction"] = 1.0
    fewer = variant(run, tmp_path / "fewer", **part)
    cut(fewer, "train", 5)
    part["label_fraction"] = 0.5
    judged = [variant(run, tmp_path / f"no-{name}", **part) for name in ("test", "unseen")]
    for folder, name in zip(judged, ("test", "unseen"), strict=True):
        cut(folder, name, 5)
    other = variant(run, tmp_path / "pixels", **part)
    path = other / "embeddings" / "test.parquet"
    table = pq.read_table(path)
    column = table.column_names.index("image")
    pictures = table["image"].to_pylist()
    turned = pa.array(pictures[::-1], table["image"].type)
    pq.write_table(table.set_column(column, table.field(column), turned), path)
    for folder in (fewer, *judged, other):
        with pytest.raises(InputError, match="differ in data"):
            read_methods([runs[0], folder])


def test_what_cannot_be_compared_is_said_in_one_line(run, runs, tmp_path):
    with pytest.raises(InputError, match="no runs given"):
        read_methods([])
    with pytest.raises(InputError, match="both seed 0"):
        read_methods([runs[0], runs[0]])
    unfinished = variant(run, tmp_path / "half")
    change_json(unfinished / "results.json", retrieval={})
    with pytest.raises(InputError, match="no judged set of two classes"):
        read_methods([unfinished])
    (unfinished / "results.json").unlink()
    with pytest.raises(InputError, match=r"no results\.json; finish the run"):
        read_methods([unfinished])


def test_runs_with_one_unseen_class_are_compared_on_the_seen_ones(tmp_path):
    write_run(tmp_path / "a", make_tables(unseen=("salp",)), page=False)
    page, (said,) = write_comparison([tmp_path / "a"], tmp_path / "out")
    assert "the 200 nearest neighbours tell right from frozen vectors: SimCLR" in said
    assert 'id="labels"' not in page.read_text()


def test_without_unseen_classes_the_seen_ones_are_compared(tmp_path):
    """As on CIFAR-10: by linear evaluation where there is one."""
    for name, study, right in (("a", "SimCLR", 0.7), ("b", "Softmax", 0.9)):
        write_run(tmp_path / name, make_tables(unseen=None), study=study, page=False)
        change_json(tmp_path / name / "results.json", knn_accuracy=right)
    page, verdicts = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "by knn")
    head = "Share of the seen classes' test images that "
    few, *verdicts = verdicts
    assert few.startswith(
        "On the held-out test images of the seen classes the best trained method is SimCLR with 11 "
    )
    assert verdicts == [
        f"{head}the 200 nearest neighbours tell right from frozen vectors: Softmax 90.0 % and "
        "SimCLR 70.0 %."
    ]
    text = page.read_text()
    assert verdicts[0].replace("'", "&#39;") in text
    assert "test: held-out images of the seen classes" in text
    assert [m.name for m in read_methods([tmp_path / "a"])][1:] == [
        "untrained network",
        "raw pixels",
    ]

    (tmp_path / "a" / "linear_eval").mkdir()
    tops = {"h": 0.8, "untrained": 0.6, "raw_pixels": 0.5}
    rows = [{"embedding": name, "linear": {"top": {"1": top}}} for name, top in tops.items()]
    (tmp_path / "a" / "linear_eval" / "results.json").write_text(json.dumps({"rows": rows}))
    page, (_, *verdicts) = write_comparison(
        [tmp_path / "a", tmp_path / "b"], tmp_path / "by linear"
    )
    assert verdicts == [
        f"{head}a linear classifier tells right from frozen vectors: SimCLR 80.0 %, untrained "
        "network 60.0 % and raw pixels 50.0 %."
    ]


def row(name, mean, half, labels=300, where="unseen"):
    low, high = mean - half, mean + half
    return MethodRow(where, name, "svc", labels, mean=mean, low=low, high=high, draws=5)


def test_the_verdict_says_what_the_intervals_allow():
    rows = [
        *(row("A", 0.7, 0.01, 90), row("B", 0.9, 0.01, 90), row("raw pixels", 0.99, 0.0, 90)),
        *(row("A", 0.95, 0.02), row("B", 0.92, 0.02), row("C", 0.89, 0.02), row("D", 0.8, 0.02)),
        *(row("untrained network", 0.88, 0.02), row("raw pixels", 0.5, 0.01)),
        *(row("D", 1.0, 0.0, where="unseen-x"), row("D", 1.0, 0.0, 100)),
    ]
    names = ["A", "B", "C", "D"], ["untrained network", "raw pixels"]
    assert verdict("unseen", rows, *names) == (
        "On the unseen classes the best trained method is B with 90 labels (90.0 %, interval 89.0 "
        "to 91.0, apart from the others) and A with 300 labels (95.0 %, interval 93.0 to 97.0, "
        "overlapping B). With 300 labels both baselines (untrained network 88.0 %, raw pixels "
        "50.0 %) are beaten by A with intervals apart, by B and C with overlapping intervals "
        "and not by D."
    )


def test_the_verdict_on_one_method_without_baselines_and_few_labels():
    said = verdict("unseen-x", [row("A", 0.5, 0.1, 40, "unseen-x")], ["A"], [])
    assert said.startswith("On the unseen classes (x) the one trained method is A with 40 labels (")
    assert said.endswith("No baseline was judged, so nothing says what training added.")


def test_the_page_is_closed_offline_and_escaped(folder, page):
    links = [link for link in page.values("href") if not link.startswith(("#", "data:text/csv"))]
    links += [found["download"] for _, found in page.tags if "download" in found]
    assert len(links) >= 2 * 3
    for link in links:
        assert re.match(r"^[^/:]+\.(png|json|md|csv)$", unquote(link))
        assert (folder / unquote(link)).stat().st_size > 0
    assert {path.name for path in folder.iterdir()} == {*map(unquote, links), "index.html"}
    sources = page.values("src") + page.values("xlink:href")
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed"}
    source = (folder / "index.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.S)  # the one its policy allows
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; base-uri" in source
    kinds = [found.get("type") for tag, found in page.tags if tag == "script"]
    assert kinds == ["application/json", None]
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(ids)
    assert "a<b>0" in page.text


def test_maps_are_linked_in_a_browser(folder):
    """What is selected or pointed at in one is the same images in the other."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("there is no chromium (apt install chromium)")
    said = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((folder / "index.html").as_uri())
        page.locator("#linked[data-frames]").wait_for()
        data = json.loads(page.locator("#linked-data").text_content())
        assert len(data["panels"]) == 3
        told = page.locator("#linked [data-part=said]")
        maps = page.locator("#linked canvas[role=application]")
        search = page.locator("#linked input")

        def bright(i):
            """Coloured pixels of a map: grey ones are not selected."""
            return page.evaluate(
                "i => { const c = document.querySelectorAll('#linked .panel canvas')[2 * i];"
                "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                "let n = 0; for (let k = 0; k < d.length; k += 4) n += d[k + 3] > 200 &&"
                "Math.abs(d[k] - d[k + 2]) > 30; return n; }",
                i,
            )

        everything = [bright(i) for i in range(3)]
        search.fill(data["ids"][0])
        first = [bright(i) for i in range(3)]
        assert "1 selected" in told.text_content()
        assert all(0 < few < many for few, many in zip(first, everything, strict=True))
        maps.nth(1).focus()
        page.keyboard.press("n")
        assert "in 3 of 3 maps" in told.text_content()
        page.keyboard.press("Escape")
        assert f"{len(data['ids']):,} images" in told.text_content()
        box = maps.nth(2).bounding_box()
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=3)
        page.mouse.up()
        assert f"{len(data['ids'])} selected" in told.text_content()
        box_url = page.evaluate("location.href")
        assert [bright(i) for i in range(3)] == everything
        # A selection, of whatever making, opens with its address.
        maps.nth(1).focus()
        page.keyboard.press("n")
        page.keyboard.press("Enter")
        picked = page.evaluate("location.href")
        search.fill(data["ids"][0])
        found = page.evaluate("location.href")
        for address, count in ((box_url, len(data["ids"])), (picked, 1), (found, 1)):
            other = browser.new_page(viewport={"width": 900, "height": 700})
            other.on("pageerror", lambda error: said.append(str(error)))
            other.goto(address)
            assert f"{count} selected" in other.locator("#linked [data-part=said]").text_content()
            assert other.url == address
            other.close()
        search.fill(data["ids"][0])
        page.locator("#linked .chosen button.picture").click()
        assert data["ids"][0] in page.locator("#larger .what").text_content()
        page.keyboard.press("Escape")
        page.locator("#linked .key button").first.click()
        own = sum(one == 0 for one in np.frombuffer(base64.b64decode(data["label"]), "<u2"))
        assert told.text_content().startswith(f"{own} selected")
        maps.nth(1).focus()
        page.keyboard.press("Escape")
        assert page.evaluate("location.hash") == "#linked:"
        assert search.input_value() == ""
        for width in (320, 400):
            page.set_viewport_size({"width": width, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        if brought := importlib.util.find_spec("axe_playwright_python"):
            page.evaluate(Path(brought.origin).with_name("axe.min.js").read_text(encoding="utf-8"))
            assert page.evaluate("axe.run(document).then((found) => found.violations)") == []
        browser.close()
    assert said == []


def test_the_table_shows_the_pooled_numbers_with_the_best_in_bold(folder, page, runs):
    table = json.loads((folder / "table.json").read_text())["few labels"]["unseen"]
    nmi = table["columns"].index("NMI")
    assert [r["name"] for r in table["rows"]] == [m.name for m in read_methods(runs)]
    values = [r["cells"][nmi]["mean"] for r in table["rows"]]
    assert values[:3] == pytest.approx([0.52, 0.3, 0.2])
    for column in range(len(table["columns"])):
        cells = [r["cells"][column] for r in table["rows"]]
        best = max(cell["mean"] for cell in cells)
        assert [cell["best"] for cell in cells] == [c["mean"] == pytest.approx(best) for c in cells]
    seeds = [r["seeds"] for r in table["rows"]]
    assert seeds == [[0, 1], [0], [0], [0, 1], [0, 1]]
    svc = table["rows"][0]["cells"][0]
    assert f"{svc['text']} {svc['interval']}" in page.text
    assert svc["interval"] == "56.1–100.0"  # .82 less and plus .2590, cut at 1


def test_a_classifiers_own_accuracy_stands_with_the_seen_classes(folder):
    table = json.loads((folder / "table.json").read_text())["seen"]
    column = table["columns"].index("own classifier, %")
    cells = [row["cells"][column] for row in table["rows"]]
    assert [cell and cell["mean"] for cell in cells] == [0.75, 0.5, None, None, None]
    assert [cell["best"] for cell in cells[:2]] == [True, False]


def test_every_run_says_where_it_comes_from(page, runs):
    assert page.text.count("jaxssl simclr --seen '<script>'") == len(runs)
    assert page.text.count("0123456789ab") == len(runs) - 1  # a method's two seeds share it
    assert page.text.count("initial weights none: random initialisation") == len(runs) - 1
    assert re.search(r"SimCLR encoder convnet .* a<b>0 seed 0 .* a1 seed 1 ", page.text)
    assert "margin 0.5 0.7" not in page.text
    assert re.search(r"margin – 0\.5 0\.7", page.text)


def test_maps_stand_in_one_frame(folder, runs):
    maps = json.loads((folder / "umap-unseen.json").read_text())
    assert list(maps) == ["SimCLR", f"{TRIPLET}, margin 0.5", f"{TRIPLET}, margin 0.7"]
    both = [*maps["SimCLR"], *json.loads((folder / "umap-test.json").read_text())["SimCLR"]]
    assert len(maps["SimCLR"]) == 36
    assert max(abs(point[axis]) for point in both for axis in "xy") <= 0.5 + 1e-9
