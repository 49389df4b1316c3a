"""The page as a browser's parser meets it: closed, escaped, offline, true to results.json."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from jaxssl.analysis.report import headlines, health, write_report
from jaxssl.analysis.results import analyse
from jaxssl.errors import InputError

from .conftest import SEEN, UNSEEN, write_run

VOID = {"meta", "img", "br", "hr", "link", "input"}


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
        (self.raw if inside else self.texts).append(data)

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
    return json.loads((run / "results.json").read_text())


def test_ids_are_unique_and_every_anchor_leads_somewhere(page):
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    anchors = [link[1:] for link in page.values("href") if link.startswith("#")]
    assert anchors
    assert set(anchors) <= set(ids)


def test_every_link_is_a_file_beside_the_page(run, page):
    links = [link for link in page.values("href") if not link.startswith("#")]
    assert len(links) >= 2 * 8
    for link in links:
        assert re.match(r"^[^/:]+\.(png|json)$", unquote(link))
        assert (run / "report" / unquote(link)).stat().st_size > 0


def test_nothing_is_fetched(source, page):
    sources = page.values("src") + page.values("xlink:href")
    assert all(s.startswith(("data:image/", "#")) for s in sources)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}


def test_the_policy_allows_the_one_script_and_no_other(source, page):
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    script = source[source.rindex("<script>") + len("<script>") : source.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]


@pytest.mark.parametrize("name", [*SEEN, *UNSEEN])
def test_a_hostile_name_is_text_wherever_it_stands(page, name):
    assert " ".join(name.split()) in page.text
    assert any(name in value for value in page.values("alt"))


def test_no_name_became_a_tag(source, page):
    assert [tag for tag, _ in page.tags].count("script") == 2  # the map's data, the map
    assert "<script>alert" not in source
    assert "<i>broken</i>" not in source
    assert "part<Crustacea" not in source
    assert "x/<i>broken</i>.jpg" in page.text
    assert "<b>plankton</b>" in page.text


def test_the_maps_data_survives_its_script_tag(run, page):
    (data,) = [json.loads(raw) for raw in page.raw if raw.lstrip().startswith("{")]
    assert data["classes"] == [*SEEN, *UNSEEN]
    points = json.loads((run / "report/umap.json").read_text())
    assert data["ids"] == [point["id"] for name in points for point in points[name]]
    assert any("<script>" in name for name in data["ids"])
    assert data["sets"] == ["train", "test", "unseen"]
    assert all(sheet.startswith("data:image/webp") for sheet in data["sheets"])


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
    for row in numbers["label_efficiency"]:
        mean, low, high = (f"{100 * row[key]:.1f}" for key in ("mean", "low", "high"))
        assert f"{mean} {low}–{high}" in page.text
    for found in numbers["retrieval"]["unseen"].values():
        assert f"{found['map_at_r']:.3f}" in page.text
    for value in numbers["silhouette"]["test"].values():
        assert f"{value:.3f}" in page.text
    for value in numbers["separation"]["unseen"].values():
        assert f"{value['angular']:.3f}" in page.text
    assert f"Between / within: {numbers['separation']['unseen']['h']['angular']:.2f}" in page.text
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
    order = [numbers["distances"]["unseen"]["classes"].index(name) for name in saved["classes"]]
    whole = numbers["distances"]["unseen"]["euclidean"]
    assert saved["euclidean"] == [[whole[i][j] for j in order] for i in order]
    tables = re.findall(r'<figure class="matrix">.*?</figure>', source, re.S)
    assert len(tables) == 5  # the classifier's, then two of test and two of unseen
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", tables[3], re.S)
    for i, row in enumerate(rows):
        cells = re.findall(r'<td class="([^"]*)">([^<]*)</td>', row)
        assert [float(text) for _, text in cells] == pytest.approx(saved["euclidean"][i], rel=0.01)
        assert ["self" in names for names, _ in cells] == [j == i for j in range(3)]


def test_figures_numbers_stand_beside_them(run, numbers):
    report = run / "report"
    rows = json.loads((report / "label-efficiency-unseen.json").read_text())
    assert rows["rows"] == numbers["label_efficiency"]
    assert rows["chance"] == pytest.approx(1 / 3)
    umap = json.loads((report / "umap.json").read_text())
    assert {name: len(points) for name, points in umap.items()} == {
        "train": 32,
        "test": 16,
        "unseen": 36,
    }
    assert json.loads((report / "exemplars-test.json").read_text()) == numbers["exemplars"]["test"]
    names = {path.stem for path in report.glob("*.png")} | {"index"}
    assert {path.stem for path in report.iterdir()} == names  # a PNG and a JSON each, no leftovers


def test_the_same_results_give_the_same_page(run, source):
    before = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    write_report(run)
    after = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    assert after == before


def test_what_is_missing_is_a_sentence(tmp_path):
    folder = write_run(tmp_path, unseen=None, baselines=(), record=False)
    text = Page(write_report(folder).read_text()).text
    for sentence in ("run the analysis", "no UMAP coordinates", "config.json is missing"):
        assert sentence in text
    analyse(folder, draws=2)
    page = Page(write_report(folder).read_text())
    for sentence in (
        "No unseen classes were judged",
        "there are no label-efficiency curves",
        "metrics.jsonl is missing or empty",
        "wrote no report/views.png",
    ):
        assert sentence in page.text
    assert "no UMAP coordinates" not in page.text
    assert "run the analysis" not in page.text
    assert "classifier" not in page.text


def test_what_the_settings_rule_out_is_not_missed(tmp_path):
    folder = write_run(tmp_path, unseen=None, baselines=())
    record = json.loads((folder / "config.json").read_text())
    record["config"] |= {"unseen": [], "views": False}
    (folder / "config.json").write_text(json.dumps(record))
    share = analyse(folder, draws=2)["knn_accuracy"]
    page = Page(write_report(folder).read_text())
    assert "label-efficiency" not in page.text
    assert "views.png" not in page.text
    assert "#labels" not in page.values("href")
    assert f"kNN on h (k = 200, T = .1) {100 * share:.1f}" in " ".join(page.text.split())


def test_views_are_shown_when_the_program_wrote_them(tmp_path):
    folder = write_run(tmp_path, unseen=None, baselines=(), record=False)
    (folder / "report").mkdir()
    (folder / "report/views.png").write_bytes(b"\x89PNG picture")
    page = Page(write_report(folder).read_text())
    encoded = base64.b64encode(b"\x89PNG picture").decode()
    assert f"data:image/png;base64,{encoded}" in page.values("src")


def test_no_run_no_report(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        write_report(tmp_path / "none")


def test_headlines_are_the_rows_that_were_measured():
    rows = [
        {
            "set": "unseen-x",
            "embedding": e,
            "classifier": c,
            "labels": n,
            "mean": m,
            "low": 0,
            "high": 1,
        }
        | ({"all": True} if n == 420 else {})
        for e, m in (("h", 0.5), ("raw_pixels", 0.75))
        for c in ("svc", "knn")
        for n in (30, 40, 300, 420)
    ]
    sets = {"unseen-x": {"classes": {"a": 1, "b": 2}}}
    (found,) = headlines({"label_efficiency": rows, "sets": sets})
    assert (found["set"], found["classes"]) == ("unseen: x", 2)
    assert [(tile["labels"], tile["all"]) for tile in found["tiles"]] == [
        (30, False),
        (300, False),
        (420, True),
    ]
    for tile in found["tiles"]:
        bars = [(bar["name"], bar["mean"], bar["best"]) for bar in tile["bars"]]
        assert bars == [("this embedding", 0.5, False), ("raw pixels", 0.75, True)]
    assert headlines({}) == []


GOOD = {"std": 0.9, "effective_rank": 20.0}
TRIPLET = {"loss": 0.49, "margin": 0.5, "d_ap": 0.01, "d_an": 0.02}
Z = {"z_std": 0.9, "effective_rank": 20.0}


@pytest.mark.parametrize(
    ("records", "spread", "state"),
    [
        ([], {}, "unknown"),
        ([], {"test": GOOD}, "healthy"),
        ([], {"test": GOOD, "unseen": {"std": 0.9, "effective_rank": 1.9}}, "collapsed"),
        ([{**Z, "z_std": 0.09}], {"test": GOOD}, "collapsed"),
        ([{**Z, "z_std": float("nan")}], {"test": GOOD}, "collapsed"),
        ([{**Z, "loss": 5.9, "chance": 6.0}], {"test": GOOD}, "at chance"),
        ([{**Z, "loss": float("nan"), "chance": 6.0}], {"test": GOOD}, "at chance"),
        ([{**Z, "loss": 2.0, "chance": 6.0}], {"test": GOOD}, "healthy"),
        ([{**Z, "z_std": 0.0}, {**Z, "loss": 2.0}], {"test": GOOD}, "healthy"),
        ([{**Z, "loss": 2.0, "chance": 6.0}, {"loss": 9.0, "z_std": None}], {}, "healthy"),
        ([TRIPLET], {"test": GOOD}, "collapsed"),
        ([{**TRIPLET, "loss": 0.3}, TRIPLET], {}, "collapsed"),
        ([TRIPLET, {**TRIPLET, "loss": 0.3}], {"test": GOOD}, "healthy"),
        ([{**TRIPLET, "d_ap": 0.4, "d_an": 0.41}], {"test": GOOD}, "healthy"),
        # Measured: 21 classes of plankton after the switch to hard positives, and before it.
        ([{**TRIPLET, "loss": 0.559, "d_ap": 0.090, "d_an": 0.031}], {"test": GOOD}, "collapsed"),
        ([{**TRIPLET, "loss": 0.345, "d_ap": 0.245, "d_an": 0.401}], {"test": GOOD}, "healthy"),
        ([{**TRIPLET, "d_an": None}], {}, "unknown"),
    ],
)
def test_health_is_said_in_words(records, spread, state):
    found = health(records, spread)
    assert found["state"] == state
    assert found["text"].endswith(".")


def test_a_collapsed_triplet_run_says_where_the_loss_sits_and_what_to_do():
    text = health([TRIPLET], {"test": GOOD})["text"]
    assert "sits at the margin (0.490 of 0.5)" in text
    assert "0.010 and negatives of 0.020" in text
    for flag in ("--hard-negatives-from", "--hard-positives-from", "--learning-rate"):
        assert flag in text
