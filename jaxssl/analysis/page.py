"""What a page is made of: figures with their files, matrices as tables, one HTML file.

The page opens from disk without a network and refuses one by its own policy. Every name goes
through jinja2's escaping; only SVG made by `drawing.to_svg`, which escapes itself, and the files of
this folder do not.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxssl.analysis.drawing import PALETTE, cell_text, save_png, to_svg
from jaxssl.analysis.spreadsheets import csv_text
from jaxssl.files import free, safe_name, write_json, write_text

_HERE = Path(__file__).parent
_SHADES = 32


class FigureFiles:
    """Figures of one page: inline as SVG, beside it as PNG, their numbers as JSON.

    Args:
        folder: Where the page stands.
        above: Whether what is noted of the files (`jaxssl.files.free`) goes into the folder above.
    """

    def __init__(self, folder: Path, *, above: bool = True):
        self._folder, self._above = folder, above
        self._count = 0
        # Sheets of pictures, which stand at the page's end: it is drawn before they are read.
        self.sheets: list[str] = []

    def add(
        self,
        name: str,
        numbers: Any,
        *,
        alt: str,
        wide: Figure,
        narrow: Figure | None = None,
        table: tuple[Sequence[str], Iterable[Sequence[Any]]] | None = None,
    ) -> dict[str, Any]:
        """Write `name.png` and `name.json`, and return what the macro `plot` shows.

        Args:
            name: File name without ending; what a file system forbids is replaced.
            numbers: What the figure shows, as JSON values.
            alt: What the figure says, for who cannot see it.
            wide: The figure; it becomes the PNG.
            narrow: The same for a narrow screen; without it the figure is only linked.
            table: Columns and rows of `name.csv`, which the page holds too.
        """
        name = safe_name(name)
        save_png(wide, self._folder / f"{name}.png", note="", above=self._above)
        write_json(self._folder / f"{name}.json", numbers)
        self._count += 1
        figure: dict[str, Any] = {"png": quote(f"{name}.png"), "json": quote(f"{name}.json")}
        figure |= {"alt": alt, "csv": self.table(name, *table) if table else None}
        if narrow is not None:
            figure["wide"] = to_svg(wide, f"w{self._count}")
            figure["narrow"] = to_svg(narrow, f"n{self._count}")
        return figure

    def table(
        self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> dict[str, str]:
        """Write `name.csv`, and return what the macro `csv` shows: the page holds the file too.

        One that a person changed is kept, and the new one has a number.

        Args:
            name: File name without ending.
            columns: Names of the columns.
            rows: Cells.
        """
        text, name = csv_text(columns, rows), safe_name(name)
        place = free(self._folder / f"{name}.csv", above=self._above, say=print)
        write_text(place, text, note="", above=self._above)
        body = base64.b64encode(b"\xef\xbb\xbf" + text.encode()).decode()
        return {"name": place.name, "data": f"data:text/csv;base64,{body}"}


def seriation(matrix: ArrayLike) -> list[int]:
    """Order classes so that look-alikes stand side by side: by the first principal coordinate.

    Classical scaling: the leading eigenvector of -½ J D² J, with D made symmetric and its diagonal
    (a class with itself) zero.

    Args:
        matrix: Distances `[k, k]`; the diagonal may be NaN or None.

    Returns:
        The k indices in their new order.

    Reference:
        Torgerson 1952, "Multidimensional scaling: I. Theory and method".

    Example:
        >>> seriation([[0.1, 9.0, 1.0], [9.0, 0.1, 8.0], [1.0, 8.0, 0.1]])
        [0, 2, 1]
    """
    distances = np.array(matrix, np.float64)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    squared = distances**2
    means = squared.mean(0)
    gram = (means[:, None] + means[None, :] - squared - squared.mean()) / 2
    axis = np.linalg.eigh(gram)[1][:, -1]
    axis = (
        axis if axis[0] <= axis[-1] else -axis
    )  # an eigenvector has no sign: keep the first first
    return np.argsort(axis, kind="stable").tolist()


def matrix_table(
    matrix: ArrayLike,
    classes: Sequence[str],
    counts: Mapping[str, int],
    *,
    texts: Sequence[Sequence[str]] | None = None,
    limits: tuple[float, float] | None = None,
    scale: str = "s",
) -> list[dict[str, Any]]:
    """Make the rows of the macro `matrix`: a name, a count, and cells with text and shade.

    Args:
        matrix: `[k, k]` in the order of `classes`.
        classes: k names.
        counts: Images of each class.
        texts: What each cell says; the numbers themselves unless given.
        limits: The numbers of the first and the last shade; the smallest and largest unless given.
        scale: Of `shades_css`: "s", or "b" from light to dark.

    Returns:
        One object a row: `name`, `count`, `cells` of `text` and `shade` (a CSS class of
        `shades_css`, "" where there is no number).
    """
    values = np.asarray(matrix, np.float64)  # null is NaN
    known = values[np.isfinite(values)]
    low, high = limits or ((known.min(), known.max()) if known.size else (0, 1))
    texts = texts or [[cell_text(value) for value in row] for row in values]
    level = (values - low) / max(high - low, 1e-12)
    return [
        {
            "name": name,
            "count": counts.get(name, 0),
            "cells": [
                {"text": text, "shade": _shade(share, scale)}
                for text, share in zip(row, shares, strict=True)
            ],
        }
        for name, row, shares in zip(classes, texts, level, strict=True)
    ]


def _shade(share: float, scale: str) -> str:
    return f"{scale}{min(int(share * _SHADES), _SHADES - 1)}" if np.isfinite(share) else ""


def shades_css() -> str:
    """Return the CSS classes of shades, with black or white text by what reads better.

    s0 to s31 are cividis, from dark to light; b0 to b31 go from light to dark blue.
    """
    scales = {"s": ("cividis", 0.0, 1.0), "b": ("Blues", 0.03, 1.0)}
    rules = []
    for scale, (name, low, high) in scales.items():
        at = low + (high - low) * (np.arange(_SHADES) + 0.5) / _SHADES
        colors = matplotlib.colormaps[name](at)[:, :3]
        linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]  # WCAG 2; black and white tie at 0.179
        rules += [
            f".{scale}{i}{{background:{to_hex(color)};color:{ink}}}"
            for i, (color, bright) in enumerate(zip(colors, luminance, strict=True))
            for ink in ["#000" if bright > 0.179 else "#fff"]
        ]
    return "".join(rules)


def render(template: str, **context: Any) -> str:
    """Fill a template of this room; undefined names raise, all values are escaped.

    Args:
        template: File name, e.g. "report.html.j2".
        **context: What the template names.

    Returns:
        The HTML.
    """
    return _environment().get_template(template).render(**context)


def fragment(template: str, **context: Any) -> Markup:
    """Fill a template whose HTML goes into another page as it is."""
    return Markup(render(template, **context))


def plot(figure: Mapping[str, Any], caption: str) -> Markup:
    """Return the HTML of a figure with its caption: all that a section of one figure needs.

    Args:
        figure: Of `FigureFiles.add`, with a narrow form.
        caption: A sentence.
    """
    return fragment("plot.html.j2", figure=figure, caption=caption)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_HERE, _HERE / "sections"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "cell": cell_text, "name": breakable}
    script, digest = _script("scale.js", "map_points.js", "map.js", "page.js")
    linked, linked_digest = _script("scale.js", "map_points.js", "linked.js", "page.js")
    environment.globals |= {
        "css": (_HERE / "report.css").read_text(encoding="utf-8") + shades_css(),
        "script": script,
        "script_hash": digest,
        "linked_script": linked,
        "linked_hash": linked_digest,
        "palette": PALETTE,
    }
    return environment


def _script(*names: str) -> tuple[str, str]:
    """Join scripts of this folder; and the hash by which a page's policy knows them."""
    script = "".join((_HERE / name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return script, f"sha256-{digest}"


def label_page(state: Mapping[str, Any]) -> tuple[str, str]:
    """Return the page of `jaxssl label`, and the policy to send with it.

    Args:
        state: What it shows at first, as JSON values.
    """
    script, digest = _script("scale.js", "label.js")
    policy = (
        "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
        f"script-src '{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return render("label.html.j2", state=state, script=script), policy


def breakable(name: str) -> Markup:
    """Return a name that a narrow place may break after _ - / . and nowhere inside a word.

    A number keeps its per cent sign beside it.

    Example:
        >>> breakable("copepod_<a>")
        Markup('copepod_<wbr>&lt;a&gt;')
    """
    parts = re.split(r"(?<=[_\-/.])(?=[^_\-/.])", re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", name))
    return Markup("<wbr>").join(parts)


def percent(value: float | None) -> str:
    """Return a share in per cent with one decimal.

    Example:
        >>> percent(0.9463), percent(None)
        ('94.6', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}"
