"""The documentation is true: its code runs, its links lead somewhere, its site needs no network."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shutil
import subprocess
import tomllib
import types
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import cli, config, datasets, export, simclr
from jaxssl import augment, files, models
from jaxssl.models import encoders

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
MKDOCS = shutil.which("mkdocs")
BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: str, kind: str = "python") -> dict[str, str]:
    """The named pieces of code of a page."""
    found = BLOCK.findall((PAGES / page).read_text(encoding="utf-8"))
    return {title: code for language, title, code in found if language == kind}


def run(code: str, names: dict | None = None, name: str = "page") -> dict:
    """Execute code of a page as a module of its own."""
    module = types.ModuleType(name)
    module.__dict__.update(names or {})
    exec(compile(code, name, "exec"), module.__dict__)
    return module.__dict__


def added(page: str, title: str) -> str:
    """The entry that a page's diff adds to a table, without its last comma."""
    lines = blocks(page, "diff")[title].splitlines()
    (line,) = [line[1:].strip() for line in lines if line.startswith("+    ")]
    return line.removesuffix(",")


def test_the_folder_of_the_tutorial_is_what_its_page_says(tmp_path, monkeypatch):
    from jaxssl import data

    monkeypatch.chdir(tmp_path)
    # A few of them: writing all takes a second.
    few = data.load_digits(size=32).subset(range(40))
    monkeypatch.setattr(data, "load_digits", lambda size: few)
    code = blocks("tutorials/your-folder.md")["practice.py"]
    run(code.replace("1797", "40"))
    reading = data.Reading(size=16, channels=1, labels_from=str(tmp_path / "labels.csv"))
    images, _ = data.open_images(str(tmp_path / "practice"), reading)
    assert len(images) == 40
    labelled = {
        name: images.class_names[c]
        for name, c in zip(images.ids, images.labels, strict=True)
        if c >= 0
    }
    assert labelled == {
        "0000.png": "0",
        "0018.png": "8",
        "0036.png": few.class_names[few.labels[36]],
    }


def test_the_step_of_the_tutorial_is_one_devices_on_a_mesh(monkeypatch):
    monkeypatch.setattr(
        augment, "digits", lambda key, image: image
    )  # its views take long to compile
    parts = blocks("tutorials/own-step.md")
    names = run("\n".join(parts[title] for title in ("step", "mesh", "shard_map", "where")))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (16, 8, 8, 1), np.uint8)
    params = {"w": random.normal(size=(64, 8)) / 8, "v": random.normal(size=(8, 4))}
    params = jax.tree.map(jnp.float32, params)
    key = jax.random.key(0)
    moved, loss = names["step"](params, key, images)
    spread, on_mesh = names["step"](params, key, names["on_mesh"](images))
    assert loss == pytest.approx(float(on_mesh), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved, spread)
    # Equation 1 of SimCLR in float64.
    z_a, z_b = random.normal(size=(2, 16, 4)).astype(np.float32)
    z = np.float64(np.concatenate([z_a, z_b]))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    s = z @ z.T / 0.1
    positives = s[np.arange(32), np.roll(np.arange(32), 16)]
    np.fill_diagonal(s, -np.inf)
    expected = (np.log(np.exp(s).sum(1)) - positives).mean()
    assert float(names["sharded_loss"](z_a, z_b)) == pytest.approx(expected, rel=1e-5)
    more = np.full((4, 4), np.nan, np.float32)
    padded = [np.concatenate([rows, more]) for rows in (z_a, z_b)]
    assert float(names["padded_loss"](*padded, np.arange(20) < 16)) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_loop_of_the_tutorial_learns(monkeypatch, capsys):
    monkeypatch.setattr(augment, "digits", lambda key, image: image * jax.random.uniform(key))
    parts = blocks("tutorials/own-loop.md")
    loop = parts["loop"].replace("STEPS, BATCH = 200, 64", "STEPS, BATCH = 12, 16")
    assert loop.count("BATCH = 12, 16") == 1
    names = run("\n".join([loop, parts["embed"]]))
    logged = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(logged) == 2
    assert logged[1] < 0.8 * logged[0]
    assert int(names["state"].step) == 12
    assert names["h"].shape == (len(names["images"]), 64)
    trained = nnx.merge(
        nnx.graphdef(names["method"].model), names["state"].params, names["state"].rest
    )
    trained.eval()
    few = augment.to_float(jnp.asarray(names["images"].batch(np.arange(5))["image"]))
    np.testing.assert_allclose(names["h"][:5], trained(few)[0], rtol=1e-3, atol=1e-4)


def digits(**changes):
    return dataclasses.replace(simclr.PRESETS["digits"], **changes)


def test_the_least_method_is_one(tmp_path):
    file = tmp_path / "least.py"
    file.write_text(blocks("extend/method.md")["least.py"])
    program = cli.load_program(str(file))
    settings = dataclasses.replace(program.PRESETS["digits"], image_size=16)
    outline = {"classes": ["0", "1"], "shape": (16, 16, 1), "steps_per_epoch": 1, "total_steps": 1}
    method = program.make_method(settings, datasets.of_outline(outline, settings))
    graphdef, state = nnx.split(method.model)

    def loss(state, image, key):
        model = nnx.merge(graphdef, state, copy=True)
        return method.loss(model, {"image": image}, key, 0)

    image = jax.ShapeDtypeStruct((4, 16, 16, 1), np.uint8)
    value, metrics = jax.eval_shape(loss, state, image, jax.random.key(0))
    assert (value.shape, value.dtype, metrics) == ((), jnp.float32, {})
    assert method.score({"loss": 1.0, "knn_accuracy": 0.5}) == -0.5


def test_the_encoder_is_made_by_its_name_and_freezes(monkeypatch):
    names = run(blocks("extend/encoder.md")["jaxssl/models/patches.py"])
    line = added("extend/encoder.md", "jaxssl/models/encoders.py")
    entry = eval(f"{{{line}}}", {**vars(encoders), **names})
    monkeypatch.setitem(encoders.ENCODERS, "patches", entry["patches"])
    encoder = models.make_encoder("patches", image_size=16, channels=1, rngs=nnx.Rngs(0))
    image = np.float32(np.random.default_rng(0).random((2, 16, 16, 1)))
    # The same by hand: each patch of 8 x 8 through two matrices, and their mean.
    cut = encoder.cut.kernel[...].reshape(64, -1)
    patches = image.reshape(2, 2, 8, 2, 8, 1).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 64)
    h = np.maximum(np.maximum(patches @ cut, 0) @ encoder.mix.kernel[...], 0).mean(1)
    np.testing.assert_allclose(encoder(image), h, atol=1e-5)
    assert h.shape[1] == encoder.features
    models.freeze(encoder, until="cut")
    assert len(jax.tree.leaves(nnx.state(encoder, nnx.Param))) == 2  # the matrix of "mix", its bias


def test_the_data_set_is_read_and_split_without_a_leak(monkeypatch, capsys):
    code = blocks("extend/dataset.md")["experiments/datasets.py"]
    names = run("from __future__ import annotations\n" + code, dict(vars(datasets)))
    line = added("extend/dataset.md", "experiments/datasets.py")
    monkeypatch.setitem(datasets.READERS, "shapes", eval(f"{{{line}}}", names)["shapes"])
    data = datasets.read(digits(dataset="shapes", seen=(), unseen=()), seed=0)
    assert "circle" in capsys.readouterr().out
    parts = [data.train, data.val, data.test]
    assert sum(map(len, parts)) == 240
    groups = [{int(name.split("/")[1]) // 16 for name in part.ids} for part in parts]
    assert not groups[0] & groups[2]
    # A disk of radius r has the share pi / 4 of the square around it.
    areas = {name: [] for name in data.classes}
    for i in range(len(data.train)):
        one = data.train[i]
        areas[data.classes[one["label"]]].append(np.mean(one["image"]) / 255)
    assert max(areas["circle"]) / max(areas["square"]) == pytest.approx(np.pi / 4, abs=0.06)


def test_the_figure_is_drawn_with_its_numbers(tmp_path):
    from jaxssl.analysis import report
    from jaxssl.analysis.embeddings import Embeddings
    from jaxssl.analysis.page import FigureFiles
    from jaxssl.analysis.sections.base import Context

    names = run(blocks("extend/figure.md")["jaxssl/analysis/sections/norms.py"])
    line = added("extend/figure.md", "jaxssl/analysis/report.py")
    section = eval(line, {**vars(report), "norms": types.SimpleNamespace(make=names["make"])})
    h = Embeddings(
        vectors=np.diag([3.0, 4.0, 5.0]),
        ids=("a", "b", "c"),
        paths=("",) * 3,
        class_names=("",) * 3,
        class_index=np.full(3, -1, np.int32),
        split=("train",) * 3,
    )
    page = section.make(Context(None, {"train": h}, None, FigureFiles(tmp_path)))
    assert "norms.png" in page
    assert files.read_object(tmp_path / "norms.json")["train"][1] == 4.0
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")


def test_links_of_the_front_pages_lead_somewhere():
    for file in [*ROOT.glob("*.md"), PAGES / "index.md"]:
        text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place = link.split("#")[0]
            assert link.startswith("https://") or (file.parent / place).exists(), (file.name, link)


def every_flag() -> set[str]:
    """What the programs take, and the flags of scripts that the pages name."""
    kinds = [
        kind
        for name in (*cli.STUDIES, *cli.TOOLS)
        for kind in vars(importlib.import_module(f"experiments.{name}")).values()
        if dataclasses.is_dataclass(kind) and isinstance(kind, type)
    ]
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    flags = {config.flag(name) for name in names} | {config.flag(f"no_{name}") for name in names}
    scripts = (ROOT / "scripts").glob("*.py")
    flags |= {one for s in scripts for one in re.findall(r'"(--[a-z-]+)"', s.read_text())}
    # argparse's and mkdocs' own, and those that a program renames.
    return flags | {"--help", "--completion", "--for", "--source", "--strict"}


def test_programs_and_flags_of_the_pages_are_those_there_are():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.rglob("*.md"))
    for name in (*cli.STUDIES, *cli.TOOLS):
        spelled = name.replace("_", "[-_]")
        if name != "frozen":  # it is `embed --encoder`
            assert re.search(rf"jaxssl {spelled}\b|`{spelled}[ `]", text), name
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+\b", text)) <= every_flag()


def test_the_page_of_other_tools_names_each_once_with_its_extra():
    page = (PAGES / "integrations.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    rows = re.findall(r"jaxssl export RUN --to (\w+)`.*\[(\w+)\]\"`", page)
    assert [tool for tool, _ in rows] == [extra for _, extra in rows]
    assert {tool for tool, _ in rows} == set(get_args(export.Tool))
    assert {extra for _, extra in rows} <= extras.keys()
    for name, code in blocks("integrations.md").items():
        if name == "map":  # run with FiftyOne where that is: tests/analysis/test_integrations.py
            continue
        run("\n".join(line for line in code.splitlines() if "import" in line))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as it is built, every warning an error: broken links and docstrings among them."""
    if MKDOCS is None:
        pytest.skip("there is no mkdocs (pip install -e '.[docs]')")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        # With -q a warning is not seen, and so no error either.
        [MKDOCS, "build", "--strict", "-f", ROOT / "docs" / "mkdocs.yml", "-d", out],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return out


def test_the_site_asks_no_other_host_for_anything(site):
    # A server alone shows 404.html, whose links begin at its top.
    pages = sorted(page for page in site.rglob("*.html") if page.name != "404.html")
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search("--8 ?(<|&lt;)", text), page  # what was to be included
        asked = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', text)
        asked += re.findall(r'<link\b[^>]*\bhref="([^"]+)"', text)
        assert not [place for place in asked if re.match(r"(https?:)?//", place)], page
        for place in asked:
            if not place.startswith("data:"):
                assert (page.parent / place.split("?")[0]).exists(), (page.name, place)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text()), sheet


def test_the_search_finds_pages_of_a_site_that_is_opened_from_disk(site):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not chromium:
        pytest.skip("there is no chromium (apt install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "methods" / "simclr.html").as_uri())
        page.fill(".md-search__input", "nt_xent")
        page.locator(".md-search__input").press("End")
        page.locator(".md-search-result__link").nth(1).wait_for(state="attached")
        found = page.locator(".md-search-result__link").all()
        places = [link.get_attribute("href") for link in found]
        browser.close()
    assert any("api/losses.html#jaxssl.losses" in place for place in places), places
    assert all(url.startswith(("file:", "data:", "about:")) for url in asked), asked


@pytest.mark.parametrize("room", ["losses", "augment", "models", "data", "training", "analysis"])
def test_the_reference_has_every_public_name(site, room):
    tree = ast.parse((ROOT / "jaxssl" / room / "__init__.py").read_text())
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    page = (site / "api" / f"{room}.html").read_text(encoding="utf-8")
    found = {one.split(".")[-1] for one in re.findall(rf'id="(jaxssl\.{room}\.[\w.]+)"', page)}
    # flax's own, and three that are made in one line: the page has a sentence for each.
    told = {"Rngs", *(f"efficientnet_lite{i}" for i in range(3))}
    assert set(names) - found <= told
    assert "&gt;&gt;&gt;" in page or room == "training"


def test_pictures_are_small():
    sizes = {file.name: file.stat().st_size for file in (PAGES / "images").iterdir()}
    assert max(sizes.values()) < 200_000
    assert sum(sizes.values()) < 1_000_000
