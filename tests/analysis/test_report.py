"""The page as a browser's parser meets it: closed, escaped, offline, true to results.json."""

import base64
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import re
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from markupsafe import Markup

from jaxssl.analysis import report
from jaxssl.analysis.report import write_report
from jaxssl.analysis.results import Facts, Results
from jaxssl.analysis.run import Run
from jaxssl.analysis.sections import crop
from jaxssl.analysis.sections.base import Context, Section
from jaxssl.analysis.sections.overview import headlines

from .conftest import CLASSIFICATION, DEEP, SEEN, UNSEEN, make_tables, mapped, unlabelled, write_run

DEEP_TITLE = DEEP.replace("unseen-", "unseen: ")
VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Page(HTMLParser):
    """What a page holds; fails on a tag that is not closed, or closed twice."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.raw = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of place"

    def handle_data(self, data):
        inside = self.open[-1:] and self.open[-1] in ("script", "style")
        texts = self.raw if inside else self.texts
        if self.tags[-1:] and self.tags[-1][0] == "wbr" and not inside:
            texts[-1] += data  # one name, which may be broken here
        else:
            texts.append(data)

    def values(self, key):
        return [attributes[key] for _, attributes in self.tags if key in attributes]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def source(run):
    return (run / "report/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


@pytest.fixture(scope="module")
def numbers(run):
    return Results.read(run / "results.json")


def test_ids_are_unique_and_every_anchor_leads_somewhere(page):
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    anchors = [link[1:] for link in page.values("href") if link.startswith("#")]
    assert anchors
    assert set(anchors) <= set(ids)


def test_every_link_is_a_file_beside_the_page(run, page):
    links = [link for link in page.values("href") if not link.startswith(("#", "data:text/csv"))]
    assert len(links) >= 2 * 8
    for link in links:
        assert re.match(r"^[^/:]+\.(png|json)$", unquote(link))
        assert (run / "report" / unquote(link)).stat().st_size > 0


def test_every_csv_is_in_the_page_as_it_stands_beside_it(run, page):
    files = [found for _, found in page.tags if "download" in found]
    assert {found["download"] for found in files} == {
        path.name for path in (run / "report").glob("*.csv")
    }
    for found in files:
        head, body = found["href"].split(",")
        assert head == "data:text/csv;base64"
        beside = (run / "report" / found["download"]).read_bytes()
        assert base64.b64decode(body) == b"\xef\xbb\xbf" + beside
        rows = list(csv.reader(io.StringIO(beside.decode(), newline="")))
        assert len({len(row) for row in rows}) == 1


def test_clusters_and_outliers_are_listed_image_by_image(run, tables, numbers):
    with (run / "report/clusters.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sizes = Counter(int(row["cluster"]) for row in rows)
    assert [sizes[i + 1] for i in range(len(sizes))] == [
        cluster.images for cluster in numbers.clusters.clusters
    ]
    assert [row["id"] for row in rows] == [i for t in tables["h"].values() for i in t.ids]
    with (run / "report/outliers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [one.id for one in numbers.outliers]
    assert [float(row["distance"]) for row in rows] == [one.distance for one in numbers.outliers]


def test_nothing_is_fetched(source, page):
    sources = page.values("src") + page.values("xlink:href")
    assert all(s.startswith(("data:image/", "#")) for s in sources)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}


def test_the_policy_allows_the_one_script_and_no_other(source, page):
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]


@pytest.mark.parametrize("name", [*SEEN, *UNSEEN])
def test_a_hostile_class_is_text_wherever_it_stands(page, name):
    assert " ".join(name.split()) in page.text
    assert any(name in value for value in page.values("alt"))
    assert any(f"/{name}/" in value for value in page.values("title"))  # a file's name


def test_a_hostile_set_is_text_wherever_it_stands(page):
    """Sets are named by people; their figures say the name to who cannot see them."""
    assert page.text.count(DEEP_TITLE) >= 7
    spoken = [value for value in page.values("aria-label") if DEEP_TITLE in value]
    told = ("Label efficiency on", "Balanced accuracy over labels", "UMAP:", "Mean Euclidean",
            "Mean angle", "Retrieval and clustering on")  # fmt: skip
    for head in told:
        assert any(value.startswith(head) for value in spoken), head


def test_no_name_became_a_tag(source, page):
    kinds = [found.get("type") for tag, found in page.tags if tag == "script"]
    assert kinds == ["application/json", None, "text/plain"]  # the map's data, code, pictures
    assert "<script>alert" not in source
    assert "<i>broken</i>" not in source
    assert "part<Crustacea" not in source
    assert "x/<i>broken</i>.jpg" in page.text
    assert "<b>plankton</b>" in page.text
    attributes = {name for _, found in page.tags for name in found}
    assert not attributes & {'deep"', "deep", "quoted", "&"}  # none was closed by a quote
    assert [dict(found) for tag, found in page.tags if tag == "b" and found] == []


def test_the_maps_data_survives_its_script_tag(run, page):
    (data,) = [json.loads(raw) for raw in page.raw if raw.lstrip().startswith("{")]
    assert data["classes"] == [*SEEN, *UNSEEN, "x", "y"]
    points = json.loads((run / "report/umap.json").read_text())
    assert data["ids"] == [point["id"] for name in points for point in points[name]]
    sheets = [raw for raw in page.raw if raw.startswith("data:")]
    assert any("<script>" in name for name in data["ids"])
    assert data["sets"] == ["train", "test", "unseen", DEEP_TITLE]
    assert all(sheet.startswith("data:image/webp") for sheet in sheets)
    assert len(sheets) == 1


def test_headings_are_in_order_and_pictures_have_words(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")


def test_the_pages_numbers_are_those_of_results(page, numbers):
    for row in numbers.label_efficiency:
        mean, low, high = (f"{100 * value:.1f}" for value in (row.mean, row.low, row.high))
        assert f"{mean} {low}–{high}" in page.text
    for found in numbers.retrieval["unseen"].values():
        assert f"{found.map_at_r:.3f}" in page.text
    for value in numbers.silhouette["test"].values():
        assert f"{value:.3f}" in page.text
    for value in numbers.separation["unseen"].values():
        assert f"{value.angular:.3f}" in page.text
    ratio = numbers.separation["unseen"]["h"].angular
    assert f"Between / within: {ratio:.2f}" in page.text
    assert "training 12 s" in page.text


def test_the_classifier_is_judged_in_words_and_by_class(page):
    assert "Of 16 test images 12 get their class: 75.0 %" in page.text
    assert "95 % interval 50.5 to 89.8." in page.text
    assert "Among its first 3 guesses: 99.1 %." in page.text
    worst, best = (f"{name} {numbers}" for name, numbers in (
        (SEEN[1], "62.5 30.6–86.3 5 8"),
        (SEEN[0], "87.5 52.9–97.8 7 8"),
    ))  # fmt: skip
    assert page.text.index(f"{worst} {SEEN[0]} 3") < page.text.index(f"{best} {SEEN[1]} 1")


def test_a_run_says_what_its_weights_began_as(page):
    assert "initial weights none: random initialisation" in page.text


def test_the_matrix_is_reordered_alike_in_rows_and_columns(run, source, numbers):
    saved = json.loads((run / "report/distances-unseen-euclidean.json").read_text())
    found = numbers.distances["unseen"]
    order = [found.classes.index(name) for name in saved["classes"]]
    assert saved["euclidean"] == [[found.euclidean[i][j] for j in order] for i in order]
    tables = re.findall(r'<figure class="matrix">.*?</figure>', source, re.S)
    assert len(tables) == 7  # the classifier's, then two of each judged set
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", tables[3], re.S)
    for i, row in enumerate(rows):
        cells = re.findall(r'<td class="([^"]*)">([^<]*)</td>', row)
        assert [float(text) for _, text in cells] == pytest.approx(saved["euclidean"][i], rel=0.01)
        assert ["self" in names for names, _ in cells] == [j == i for j in range(3)]


def test_figures_numbers_stand_beside_them(run, numbers):
    report, written = run / "report", json.loads((run / "results.json").read_text())
    curve = json.loads((report / "label-efficiency-unseen.json").read_text())
    assert curve["rows"] == [row for row in written["label_efficiency"] if row["set"] == "unseen"]
    assert curve["chance"] == pytest.approx(1 / 3)
    umap = json.loads((report / "umap.json").read_text())
    assert {name: len(points) for name, points in umap.items()} == {
        "train": 32,
        "test": 16,
        "unseen": 36,
        DEEP: 8,
    }
    assert json.loads((report / "exemplars-test.json").read_text()) == written["exemplars"]["test"]
    names = {path.stem for path in report.glob("*.png")} | {"index"}
    names |= {path.stem for path in report.glob("*.csv")}
    assert {path.stem for path in report.iterdir()} == names  # a PNG and a JSON each, no leftovers


@pytest.fixture(scope="module")
def seen_only(tmp_path_factory):
    """A classifier without unseen classes, views, metrics of z, baselines; results, page."""
    folder = tmp_path_factory.mktemp("seen")
    tables = make_tables(unseen=None, baselines=())
    rows = [{"step": s, "split": "train", "loss": 1.0 / s, "accuracy": 0.5} for s in (1, 2)]
    facts = Facts(
        protocol={"judged": "best"},
        training={"best_step": 1000, "last_step": 2000},
        classification=CLASSIFICATION,
    )
    results = write_run(folder, tables, facts=facts, metrics=rows, study="Softmax <i>")
    return folder, tables, results


def test_the_same_results_give_the_same_page(seen_only):
    folder, tables, results = seen_only
    before = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}
    write_report(folder, tables, results)
    after = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}
    assert after == before


def test_a_page_speaks_only_of_what_the_run_has(seen_only):
    folder, _, results = seen_only
    page = Page((folder / "report" / "index.html").read_text())
    assert page.text.startswith("Softmax <i> on <b>plankton</b> ·")
    assert f"kNN on h (k = 200, T = .1) {100 * results.knn_accuracy:.1f}" in page.text
    assert "its own classifier 75.0" in page.text
    assert "checkpoint step 1,000 (best) of 2,000" in page.text
    assert "no UMAP coordinates, so there is no map" in page.text
    for absent in ("unseen", "views", "z is the projection", "Dashed in", "z is what"):
        assert absent not in page.text
    assert page.text.count("test: held-out images of the seen classes") >= 2
    assert "#labels" in page.values("href")
    assert "Metrics over the steps." in page.text


def test_the_page_names_the_next_commands(tmp_path):
    tables = make_tables(unseen=("salp",), baselines=())
    results = write_run(tmp_path, tables, metrics=[], page=False)
    steps = [("which images to label first", "jaxssl label-next '/tmp/a <run>'")]
    page = Page(write_report(tmp_path, tables, results, steps=steps).read_text())
    assert "Which images to label first:" in page.text
    assert "jaxssl label-next '/tmp/a <run>'" in page.text
    assert "What next" in page.text
    assert "What next" not in Page(write_report(tmp_path, tables, results).read_text()).text


def test_what_is_missing_is_a_sentence(tmp_path):
    tables = make_tables(unseen=("salp",), baselines=())
    results = write_run(tmp_path, tables, metrics=[], page=False)
    (tmp_path / "config.json").unlink()
    (tmp_path / "report").mkdir()
    (tmp_path / "report/views.png").write_bytes(b"\x89PNG picture")
    page = Page(write_report(tmp_path, tables, results).read_text())
    for sentence in (
        "Judged on 16 test images of the same classes and on 12 images of 1 unseen class.",
        "There is no label-efficiency curve of unseen: it has one class (salp)",
        "metrics.jsonl is missing or empty",
        "config.json is missing",
        "Collapse: not collapsed",
    ):
        assert sentence in page.text
    assert "classifier" not in page.text
    encoded = base64.b64encode(b"\x89PNG picture").decode()
    assert f"data:image/png;base64,{encoded}" in page.values("src")


@pytest.mark.parametrize(("asked", "said"), [("auto", "were found"), ("31", "were asked")])
def test_what_is_cut_off_below_is_shown_before_and_after(asked, said, tmp_path):
    run = Run(tmp_path, {}, record={"config": {"crop_bottom": asked}, "cropped": 31})
    assert crop.make(Context(run, {}, None, None)) is None
    (tmp_path / "report").mkdir()
    (tmp_path / "report/crop.png").write_bytes(b"\x89PNG both")
    text = str(crop.make(Context(run, {}, None, None)))
    assert base64.b64encode(b"\x89PNG both").decode() in text
    assert f"lowest <b>31</b> pixels, which {said}" in text


def test_a_run_without_labels_gets_what_needs_none(tmp_path):
    tables = make_tables(unseen=None, baselines=())
    train = mapped({"h": {"train": unlabelled(tables["h"]["train"])}})
    write_run(tmp_path, train)
    page = Page((tmp_path / "report/index.html").read_text())
    assert "Learnt from 32 images, all without a label." in page.text
    assert "No image has a label" in page.text
    assert page.values("id")[:1] == ["overview"]
    wanted = {
        "overview",
        "training",
        "map",
        "clusters",
        "outliers",
        "settings",
        "suspects",
        "larger",
    }
    assert {i for i in page.values("id") if not i.startswith(("map-", "w", "n"))} == wanted
    data = next(json.loads(raw) for raw in page.raw if raw.lstrip().startswith("{"))
    assert data["classes"] == ["no label"]
    assert (data["unlabelled"], set(base64.b64decode(data["label"]))) == (0, {0})


def test_a_network_that_was_not_trained_is_not_said_to_have_learnt(run, tables, tmp_path):
    write_run(tmp_path, tables, metrics=[], page=False)
    results = Results.read(run / "results.json")
    frozen = dataclasses.replace(results, training={"last_step": 0, "best_step": 0})
    page = Page(write_report(tmp_path, tables, frozen).read_text())
    assert "Not trained; beside what it is judged on there are" in page.text
    assert "training" not in page.values("id")
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "It learnt from none of these images." in card
    for text in (page.text, card):
        assert not re.search("Learnt from|It learnt from [0-9]", text)
    # Pixels have no linear curve, which the caption says.
    assert "There is no curve of raw pixels for: Linear." in page.text


def test_a_section_is_an_object_in_a_list(seen_only, tmp_path, monkeypatch):
    _, tables, results = seen_only
    mine = Section("mine", "My <own>", lambda c: Markup(f"<p>{len(c.h)} sets</p>"), nav="Mine")
    none = Section("none", "Nothing", lambda context: None, nav="None")
    monkeypatch.setattr(report, "SECTIONS", [mine, none])
    page = Page(write_report(tmp_path, tables, results).read_text())
    assert "Mine My <own> 3 sets" in page.text
    assert "Nothing" not in page.text
    assert page.values("id") == ["mine", "larger"]


def test_headlines_are_the_rows_that_were_measured(numbers):
    row = numbers.label_efficiency[0]
    rows = tuple(
        dataclasses.replace(
            row, embedding=e, classifier=c, labels=n, mean=m, low=0.0, high=1.0, all=n == 420
        )
        for e, m in (("h", 0.5), ("raw_pixels", 0.75))
        for c in ("svc", "knn")
        for n in (30, 40, 300, 420)
    )
    (found,) = headlines(dataclasses.replace(numbers, label_efficiency=rows))
    assert (found["set"], found["classes"]) == ("unseen", 3)
    assert [(tile["labels"], tile["all"]) for tile in found["tiles"]] == [
        (30, False),
        (300, False),
        (420, True),
    ]
    for tile in found["tiles"]:
        bars = [(bar["name"], bar["mean"], bar["best"]) for bar in tile["bars"]]
        assert bars == [("this embedding", 0.5, False), ("raw pixels", 0.75, True)]
    assert headlines(dataclasses.replace(numbers, label_efficiency=())) == []
