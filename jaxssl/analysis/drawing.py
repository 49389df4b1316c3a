"""How every figure looks and is written: style, names as they are, SVG for the page and PNG.

The SVG's ink is the page's text colour, so that it follows light and dark; the PNG is on white. The
same figure gives the same bytes.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxssl.files import atomic

INK = "#1b1f24"  # to_svg turns it into currentColor
GREY = "#80868f"  # readable on white and on near black
# Petroff's ten colours (arXiv:2107.02270), which stay apart under every colour blindness, with the
# lightness of six moved so that each has a contrast of 3 or more on white and on the dark card
# (WCAG 1.4.11). With five shapes they name fifty classes, and colour is never alone.
PALETTE = (
    "#3f90da", "#c78308", "#bf3b31", "#869593", "#8d4dba",
    "#a96b59", "#e76300", "#9d925e", "#717581", "#669a9d",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "P")
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "jaxssl",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.08,
}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)


def literal(text: str) -> str:
    r"""Write a name as it is: `$` starts no formula, a control character or line break is a space.

    Example:
        >>> literal("a$b\nc")
        'a\\$b c'
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    # A legend passes over labels that begin with an underscore; behind a space of no width not.
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


def short(name: str, limit: int = 34) -> str:
    """Write a name as it is, cut where it is too long for a figure."""
    return literal(name if len(name) <= limit else name[: limit - 1] + "…")


def class_style(index: int) -> tuple[str, str]:
    """Return colour and marker of class `index`: ten colours, then the next of five shapes.

    Example:
        >>> class_style(0)[1], class_style(11)[1], class_style(0)[0] == class_style(50)[0]
        ('o', 's', True)
    """
    return PALETTE[index % 10], MARKERS[index // 10 % 5]


def cell_text(value: float) -> str:
    """Write a distance as its cell shows it: at most three figures, a dash where there is none.

    Example:
        >>> cell_text(0.5), cell_text(9.996), cell_text(12.345), cell_text(87.6)
        ('0.50', '10.0', '12.3', '88')
        >>> cell_text(float("nan"))
        '–'
    """
    if not np.isfinite(value):
        return "–"
    decimals = 2 if value < 9.995 else 1 if value < 49.95 else 0
    return f"{value:.{decimals}f}"


def to_svg(figure: Figure, prefix: str) -> str:
    """Return the figure as an `<svg>` element to put into a page: transparent, ink = currentColor.

    Args:
        figure: Any figure of this room.
        prefix: Unique in the page; ids that are referred to get it, all others go.

    Returns:
        The element's text; equal figures give equal text. Names in it are escaped.
    """
    out = io.BytesIO()
    _save(figure, out, format="svg", transparent=True, dpi=170, metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet would hold for the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    root.set("style", "stroke-linejoin: round")
    reference = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")  # in a style, or a whole href
    links = [
        (element, name)
        for element in root.iter()
        for name in element.attrib
        if name in ("style", "clip-path", f"{{{_XLINK}}}href")
    ]
    used = {name for element, key in links for name in reference.findall(element.attrib[key])}
    for element in root.iter():
        if (name := element.attrib.pop("id", None)) in used:
            element.set("id", f"{prefix}-{name}")
    for element, key in links:
        value = reference.sub(rf"{prefix}-\g<0>", element.attrib[key])
        element.set(key, value.replace(INK, "currentColor"))
    return ElementTree.tostring(root, encoding="unicode")


def save_png(
    figure: Figure, path: str | os.PathLike[str], *, note: str | None = None, above: bool = False
) -> None:
    """Write the figure as a PNG on white, whole or not at all.

    Args:
        figure: Any figure of this room.
        path: The file to write or replace.
        note: As in `jaxssl.files.atomic`: a noted figure is never taken for an image to learn from.
        above: As in `jaxssl.files.atomic`.
    """
    with atomic(Path(path), note=note, above=above) as file:
        _save(figure, file, format="png", dpi=160, facecolor="white")


def _save(figure: Figure, target: Any, **options: Any) -> None:
    # A sheet of images has no layout engine: its names stand outside the axes, outside the figure.
    bounds = "tight" if figure.get_layout_engine() is None else None
    with warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        # A name in a script that the font lacks is boxes in the PNG; the page shows it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(target, bbox_inches=bounds, **options)
    if bounds is None:
        figure.set_layout_engine("none")  # a second file has the same layout: no need to find it
