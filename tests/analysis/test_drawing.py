"""Style and files: what a name does in matplotlib, in SVG, in XML."""

import os
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxssl.analysis import drawing

HOSTILE = [
    r"$\frac$",
    "$1 and $2",
    "<script>alert(1)</script>",
    "a \"b\" & 'c' <!-- d",
    "two\nlines",
    "_hidden",
    "nul\x00 esc\x1b",
    "lone \udcff surrogate",
    "珊瑚 🪸",
]


def figure_of(name):
    figure = Figure(layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], "o", color=drawing.INK, label=drawing.literal(name))
    ax.set_title(drawing.literal(name))
    ax.legend()
    return figure


def texts(svg):
    return [
        "".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag[-4:] == "text"
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_drawn_as_it_is(name, tmp_path):
    svg = drawing.to_svg(figure_of(name), "f")
    drawing.save_png(figure_of(name), tmp_path / "f.png")
    shown = drawing.literal(name).replace(r"\$", "$")
    assert texts(svg).count(shown) == 2  # the title and the legend, which hides "_" by itself
    assert "<script" not in svg


def test_svg_ids_are_its_own_and_every_reference_is_met():
    svgs = [drawing.to_svg(figure_of("x"), prefix) for prefix in ("a", "b")]
    ids, references = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            for key, value in attributes:
                if key == "id":
                    ids.append(value)
                elif key == "xlink:href" or (value and "url(#" in value):
                    references.append(value.split("#")[1].rstrip(")"))

    reader = Reader()
    for svg in svgs:
        reader.feed(svg)
    assert references
    assert len(set(ids)) == len(ids)
    assert set(references) == set(ids)
    assert "<style" not in svgs[0]


def test_svg_ink_follows_the_page_and_bytes_repeat():
    svg = drawing.to_svg(figure_of("x"), "f")
    assert "currentColor" in svg
    assert drawing.INK not in svg
    assert svg == drawing.to_svg(figure_of("x"), "f")


def test_png_repeats_and_leaves_nothing_beside_it(tmp_path):
    for name in ("a.png", "b.png"):
        drawing.save_png(figure_of("x"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_a_png_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def killed(source, target):
        Image.open(source).load()  # whole before it gets its name
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        drawing.save_png(figure_of("x"), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_fifty_classes_have_fifty_looks():
    assert len({drawing.class_style(i) for i in range(50)}) == 50
    assert drawing.class_style(50) == drawing.class_style(0)


def test_short_cuts_names_but_not_formulas():
    assert drawing.short("x" * 40) == "x" * 33 + "…"
    assert drawing.short("$" * 3) == r"\$\$\$"
    assert np.all([len(drawing.short("y" * n)) == min(n, 34) for n in range(1, 60)])


def test_every_colour_has_contrast_on_light_and_dark():
    """WCAG 1.4.11: 3:1 against the page's cards, white and #181c21."""

    def luminance(color):
        channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        ) @ [0.2126, 0.7152, 0.0722]

    assert len(set(drawing.PALETTE)) == 10
    for color in (*drawing.PALETTE, drawing.GREY):
        assert 1.05 / (luminance(color) + 0.05) >= 3
        assert (luminance(color) + 0.05) / (luminance("#181c21") + 0.05) >= 3
