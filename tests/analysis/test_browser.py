"""The page in a real browser: pointed at, clicked, selected, by keyboard, at every width."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxssl.analysis import newcomers
from jaxssl.analysis.acquisition import Proposals
from jaxssl.analysis.measures import analyse
from jaxssl.analysis.next_page import write_proposals
from jaxssl.analysis.report import write_report
from jaxssl.analysis.results import Facts
from jaxssl.analysis.tables import together

from .conftest import CLASSIFICATION, SEEN, make_tables, mapped, table, unlabelled

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium (apt install chromium)")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def scaled(tables):
    """The tables as of files of 200 x 300 pixels, each of 4 micrometres."""
    for one in tables["h"].values():
        size = {"height": 200, "width": 300, "pixel_size": 4.0}
        one.extra.update({name: np.full(len(one), value) for name, value in size.items()})
        one.thumbnails[:] = [wide(data) for data in one.thumbnails]
    return tables


def wide(data):
    """A picture, half as wide again."""
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((12, 8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with hostile names, classes far apart, a few images without a label."""
    folder = tmp_path_factory.mktemp("browser")
    tables = make_tables(baselines=())
    tables["h"]["train"] = unlabelled(tables["h"]["train"], slice(0, 4))
    tables = scaled(mapped(tables))
    guesses = np.array([SEEN[0]] * 7 + [SEEN[1]] + [SEEN[0]] * 3 + [SEEN[1]] * 5)  # CLASSIFICATION
    tables["h"]["test"].extra["predicted"] = guesses
    for name, one in tables["h"].items():
        if name == "test":
            one.extra["object_id"] = np.array([f"of {id_}" for id_ in one.ids], object)
        if name != "val":
            # A class a column, so that a box takes whole classes.
            one.extra["x_umap"] = one.class_index + 10.0 * (name == "unseen")
            one.extra["y_umap"] = np.arange(len(one), dtype=float) / len(one)
    results = analyse(tables, Facts(classification=CLASSIFICATION), draws=2)
    page = write_report(folder, tables, results)
    return page.as_uri()


class Opened:
    """The page, what it said and what it asked for."""

    def __init__(self, context, address, *, map=True):
        self.page, self.said, self.asked = context.new_page(), [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.over = self.page.locator("[data-part=over]")
        if map:
            self.page.locator("#map-app[data-frames]").wait_for()
            self.over.scroll_into_view_if_needed()

    def part(self, name):
        return self.page.locator(f"[data-part={name}]")

    def spot(self, i):
        """Where point i is in the window."""
        box = self.over.bounding_box()
        data = json.loads(self.page.locator("#map-data").text_content())
        place = "new Uint16Array(Uint8Array.from(atob(a), c => c.charCodeAt(0)).buffer)[i]"
        x, y = (self.page.evaluate(f"([a, i]) => {place}", [data[k], i]) / 65535 for k in "xy")
        side = min(box["width"], box["height"]) - 40
        return (
            box["x"] + box["width"] / 2 + (x - 0.5) * side,
            box["y"] + box["height"] / 2 + (y - 0.5) * side,
        )

    def drag(self, *spots):
        self.page.mouse.move(*spots[0])
        self.page.mouse.down()
        for spot in spots[1:]:
            self.page.mouse.move(*spot, steps=3)
        self.page.mouse.up()

    def all_of(self, tool):
        """Draw around every point with a tool."""
        box = self.over.bounding_box()
        left, top = box["x"] + 3, box["y"] + 3
        right, bottom = left + box["width"] - 6, top + box["height"] - 6
        self.page.locator(f"[data-tool={tool}]").click()
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.drag(*([corners[0], corners[2]] if tool == "box" else corners))


@pytest.fixture
def opened(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    one = Opened(context, address)
    yield one
    # Nothing was said on the console, and nothing asked for but the page and what is in it.
    assert one.said == []
    assert [url for url in one.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def rows_of(download, delimiter=","):
    text = Path(download.path()).read_bytes().decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text), delimiter=delimiter))


def test_a_point_is_told_and_kept_with_its_neighbours(opened):
    data = json.loads(opened.page.locator("#map-data").text_content())
    opened.page.mouse.move(*opened.spot(40))
    tip = opened.page.locator(".tip")
    assert data["ids"][40] in tip.text_content()
    opened.page.mouse.click(*opened.spot(40))
    panel = opened.part("pinned")
    assert data["ids"][40] in panel.text_content()
    assert panel.locator(".near button").count() == 8
    written = panel.locator(".near small").all_text_contents()
    assert set(written) <= set(data["classes"])  # written, not only coloured
    shown = panel.locator(".picture canvas").bounding_box()
    assert shown["width"] / shown["height"] == pytest.approx(12 / 8, rel=0.03)
    assert panel.locator(".scale").text_content() == "500 µm"  # 90 of 120 pixels are 900
    panel.locator(".picture").click()
    larger = opened.page.locator("#larger")
    assert data["ids"][40] in larger.locator(".what").text_content()
    opened.page.keyboard.press("Escape")
    panel.locator(".near button").first.focus()
    before = panel.locator(".head").text_content(), panel.text_content()
    opened.page.keyboard.press("Enter")
    assert panel.text_content() != before[1]
    focused = "document.activeElement.closest('[data-part=pinned]') !== null"
    assert opened.page.evaluate(focused)  # the focus is not lost


@pytest.mark.parametrize("tool", ["box", "lasso"])
def test_a_selection_is_counted_and_saved_row_by_row(opened, tool):
    data = json.loads(opened.page.locator("#map-data").text_content())
    opened.all_of(tool)
    picked, page = opened.part("picked"), opened.page
    assert picked.locator("h3").text_content() == "84 selected"
    assert "no label (4)" in picked.text_content()
    assert picked.locator(".chosen canvas").count() == 60
    picked.locator(".more").click()
    assert picked.locator(".chosen canvas").count() == 84
    with page.expect_download() as got:
        picked.get_by_text("file names (CSV)").click()
    head, *rows = rows_of(got.value)
    assert head == ["id", "path", "class", "set"]
    assert sorted(row[0] for row in rows) == sorted(data["ids"][:84])
    assert sum(row[2] == "" for row in rows) == 4
    picked.locator("input").fill("Copepoda<Maxillopoda")
    with page.expect_download() as got:
        picked.get_by_text("EcoTaxa").click()
    head, types, *rows = rows_of(got.value, "\t")
    columns = ["object_id", "object_annotation_category", "object_annotation_status"]
    assert head == ["img_file_name", *columns]
    assert types == ["[t]"] * 4
    assert {tuple(row[2:]) for row in rows} == {("Copepoda<Maxillopoda", "predicted")}
    own = {one for one in data["ids"][:84] if one.startswith("test/")}
    assert len(own) == 16
    for name, object_id, *_ in rows:  # EcoTaxa's own name, else as `predict` names it
        assert object_id == (Path(name).stem if name not in own else f"of {name}")
    assert len(rows) == 84


def test_a_box_takes_what_is_in_it(opened):
    x, _ = opened.spot(16)  # the second class of the training images: a column of 16
    opened.page.locator("[data-tool=box]").click()
    box = opened.over.bounding_box()
    opened.drag((x - 12, box["y"] + 2), (x + 12, box["y"] + box["height"] - 2))
    text = opened.part("picked").locator(".muted").text_content()
    assert text == "part<Crustacea (24)"  # and eight test images
    opened.page.keyboard.press("Shift+Tab")


def test_a_class_alone_all_none_and_search(opened):
    page, legend = opened.page, opened.part("legend")
    pressed = "[aria-pressed=true]"
    assert legend.locator(pressed).count() == 6
    legend.locator(".alone", has_text="part<Crustacea").click()
    assert legend.locator(pressed).count() == 1
    opened.all_of("box")
    assert opened.part("picked").locator("h3").text_content() == "24 selected"
    legend.locator(".alone", has_text="part<Crustacea").click()
    assert legend.locator(pressed).count() == 6
    opened.part("none").click()
    assert legend.locator(pressed).count() == 0
    opened.part("all").click()
    opened.part("search").fill("PART<")
    opened.part("hits").get_by_text("class part<Crustacea").click()
    assert legend.locator(pressed).count() == 1
    opened.part("search").fill("test/part<Crustacea/9")
    opened.part("hits").locator("button").first.click()
    assert "test/part<Crustacea/9" in opened.part("pinned").text_content()
    opened.part("search").fill("nowhere")
    assert "nothing of that name" in opened.part("hits").text_content()
    assert page.locator("#map-app").count() == 1


def test_the_address_opens_the_same_view(opened, browser):
    page = opened.page
    opened.all_of("box")
    page.locator("[data-zoom='1.5']").click()
    opened.part("color").select_option("predicted")
    opened.part("names").uncheck()
    opened.part("legend").locator(".switch").last.click()
    page.locator("[data-tool=move]").click()
    opened.over.press("Enter")
    for _ in range(50):  # the page's policy forbids the strings that wait_for_function evaluates
        page.wait_for_timeout(100)
        if "off=" in page.url and "pin=" in page.url:
            break
    context = browser.new_context(viewport={"width": 900, "height": 700})
    other = Opened(context, page.url)
    for part in ("picked", "pinned", "key"):
        assert other.part(part).text_content() == opened.part(part).text_content(), part
        pictures = [one.part(part).locator("canvas").count() for one in (other, opened)]
        assert pictures[0] == pictures[1], part
    assert not other.part("names").is_checked()
    other.page.wait_for_timeout(300)
    assert other.page.url == page.url
    assert other.said == []
    context.close()
    opened.page.goto("about:blank")


def test_the_keyboard_alone_is_enough(opened):
    over, said = opened.over, opened.part("said")
    over.focus()
    for key in ("+", "ArrowLeft", "ArrowUp", "-", "0"):
        opened.page.keyboard.press(key)
    opened.page.keyboard.press("Enter")
    assert said.text_content()
    assert opened.part("pinned").locator(".near button").count() == 8
    first = said.text_content()
    opened.page.keyboard.press("n")
    assert said.text_content() != first
    opened.page.keyboard.press("p")
    assert said.text_content() == first
    opened.page.keyboard.press("s")
    assert opened.part("picked").locator("h3").text_content() == "84 selected"
    opened.page.keyboard.press("Escape")
    assert opened.part("picked").is_hidden()
    opened.page.keyboard.press("Escape")
    assert "Click a point" in opened.part("pinned").text_content()
    assert over.get_attribute("role") == "application"


def test_a_picture_is_larger_on_click_with_its_path(opened):
    button = opened.page.locator("#outliers button.picture").first
    button.focus()
    opened.page.keyboard.press("Enter")
    dialog = opened.page.locator("#larger")
    assert dialog.is_visible()
    assert button.get_attribute("data-what") == dialog.locator(".what").text_content()
    scale, picture = dialog.locator(".scale"), dialog.locator("img")
    scale.wait_for()
    box, bar = picture.bounding_box(), scale.locator("span").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(12 / 8, rel=0.01)
    assert box["width"] == 480
    assert scale.text_content() == "200 µm"  # of 1,200 that it is wide: 160 of 480 pixels are 400
    assert bar["width"] == pytest.approx(480 * 200 / 1200, abs=1)
    opened.page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert opened.page.evaluate("document.activeElement.className") == "picture"


def test_a_cell_of_the_confusion_matrix_opens_its_images(opened):
    cell = opened.page.locator("#classification button.cell", has_text="3")
    cell.focus()
    opened.page.keyboard.press("Enter")
    dialog = opened.page.locator("#cell")
    assert dialog.locator("h3").text_content() == f"{SEEN[1]}, taken for {SEEN[0]}"
    names = [f"test/{SEEN[1]}/{i}.png" for i in (8, 9, 10)]
    assert dialog.locator("small").all_text_contents() == names
    assert dialog.locator("p").text_content() == "3 images"
    dialog.locator("button.picture").first.click()
    assert names[0] in opened.page.locator("#larger .what").text_content()
    opened.page.keyboard.press("Escape")
    opened.page.keyboard.press("Escape")
    assert dialog.is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_in_light_and_dark(browser, address, scheme):
    context = browser.new_context(viewport={"width": 320, "height": 800}, color_scheme=scheme)
    one = Opened(context, address)
    for width in (320, 400, 1280):
        one.page.set_viewport_size({"width": width, "height": 800})
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width
        one.page.wait_for_timeout(50)
        # The plane holds ink: points were drawn, in the colours of the scheme.
        drawn = one.page.evaluate(
            "(() => { const c = document.querySelector('[data-part=plot] canvas');"
            "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
            ".reduce((n, v, i) => n + (i % 4 === 3 && v > 0), 0) })()"
        )
        assert drawn > 84
    background = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = np.mean([int(v) for v in re.findall(r"\d+", background)[:3]])
    assert (bright < 80) == (scheme == "dark")
    assert one.said == []
    context.close()


def no_violations(page, *places):
    """The rules of WCAG that a program can check (Deque's axe-core), in light, and colours in dark.

    Args:
        page: In light.
        places: Where; the whole page for none.
    """
    package = pytest.importorskip(
        "axe_playwright_python", reason="axe-playwright-python, which brings axe-core, is missing"
    )
    source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(f"() => {{ if (!window.axe) {{ {source} }} }}")
    # All that axe tells of what is right takes longer to hand over than to find.
    run = (
        "([place, rules]) => axe.run(place, rules).then((found) => [found.violations.flatMap("
        "(rule) => rule.nodes.map((node) => [rule.id, node.target, node.failureSummary])), "
        "found.passes.length])"
    )
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        for place in places or ("html",):
            told, passed = page.evaluate(run, [place, rules])
            assert told == [], (scheme, place)
            assert passed > 0


def test_axe_finds_nothing(opened):
    opened.all_of("box")
    opened.over.press("Enter")
    no_violations(opened.page)
    opened.page.emulate_media(color_scheme="light")
    opened.page.locator("#outliers button.picture").first.click()
    no_violations(opened.page, "#larger")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The pages of new images on a run's map, and of what to label next."""
    folder = tmp_path_factory.mktemp("others")
    known = scaled(mapped(make_tables(baselines=())))["h"]
    new = unlabelled(table(np.random.default_rng(5), SEEN, "other", 5))
    placed = newcomers.with_places(known, new)
    about = {"images": "somewhere"}
    images = together(known)
    found = Proposals(np.arange(5), np.linspace(0, 1, 5))
    (folder / "next").mkdir()
    guesses = [(SEEN[0], 0.5)] * 5
    pages = {
        "new": newcomers.write_newcomers(
            folder / "new", known, placed, title="New", run_name="run", about=about
        ),
        "next": write_proposals(folder / "next", images, found, by="margin", guesses=guesses),
    }
    return {name: page.as_uri() for name, page in pages.items()}


@pytest.mark.parametrize("name", ["new", "next"])
def test_the_other_pages_are_as_good(browser, others, name):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    one = Opened(context, others[name], map=name == "new")
    page = one.page
    if name == "new":
        one.over.focus()
        page.keyboard.press("Enter")
        assert one.part("pinned").locator(".near button").count() == 8
        no_violations(page)
    # By Tab and Enter alone to a larger picture, with its scale.
    page.locator("h2", has_text="look like" if name == "new" else "most wanted").click()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('main li button.picture')"):
            break
    if name == "new":
        page.keyboard.press("Tab")  # from a new image, without a scale, to one of the run
    page.keyboard.press("Enter")
    larger = page.locator("#larger")
    assert larger.is_visible()
    larger.locator(".scale").wait_for()
    no_violations(page, *([] if name == "next" else ["#larger"]))
    page.keyboard.press("Escape")
    assert larger.is_hidden()
    for width in (400, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert one.said == []
    assert [url for url in one.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()
