"""The report of a run: one page that opens from disk, with its figures and numbers beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxssl.analysis.cards import write_cards
from jaxssl.analysis.names import set_title
from jaxssl.analysis.page import FigureFiles, render
from jaxssl.analysis.results import Results
from jaxssl.analysis.run import read_about
from jaxssl.analysis.sections import (
    classifier,
    clusters,
    crop,
    distances,
    exemplars,
    labels,
    maps,
    outliers,
    overview,
    retrieval,
    settings,
    skipped,
    suspects,
    training,
    views,
)
from jaxssl.analysis.sections.base import Context, Section
from jaxssl.analysis.tables import Tables
from jaxssl.files import write_text

# The page, from top to bottom. A new section is a file in sections/ and a line here.
SECTIONS = [
    Section("overview", "At a glance", overview.make, spoken=True),
    Section("labels", "How far do few labels go?", labels.make, "Few labels"),
    Section("classification", "What does the classifier get right?", classifier.make, "Classifier"),
    Section("suspects", "Suspects", suspects.make, "Suspects"),
    Section("training", "Training", training.make, "Training"),
    Section("crop", "Cut off below", crop.make),
    Section("views", "What training sees", views.make, "Views"),
    Section("map", "Map of the embedding", maps.make, "Map"),
    Section("clusters", "Clusters", clusters.make, "Clusters"),
    Section("outliers", "Outliers", outliers.make, "Outliers"),
    Section("distances", "Distances between classes", distances.make, "Distances"),
    Section("retrieval", "Retrieval and clustering", retrieval.make, "Retrieval"),
    Section("exemplars", "Typical and odd images", exemplars.make, "Exemplars"),
    Section("skipped", "Images left out", skipped.make),
    Section("settings", "Settings", settings.make, "Settings"),
]


def write_report(
    run_dir: str | os.PathLike[str],
    tables: Tables,
    results: Results,
    *,
    steps: Sequence[tuple[str, str]] = (),
) -> Path:
    """Draw `report/index.html` from tables and numbers; compute nothing anew.

    Each figure is on the page, and beside it as PNG with its numbers as JSON; the folder gets its
    `MODEL_CARD.md` and `DATA_CARD.md` anew. What the run does not
    have (metrics, a map, pictures) is a sentence in its place, or left out.

    Args:
        run_dir: The run folder; `config.json`, `metrics.jsonl`, `skipped.json` and
            `report/views.png` are shown where they are there.
        tables: Embedding -> set -> table; those of h, with the columns of `with_map`.
        results: Of `analyse`.
        steps: What to do next: (what it gives, the command).

    Returns:
        The page's path.

    Raises:
        InputError: A file of the folder cannot be used.
    """
    folder = Path(run_dir)
    run = read_about(folder)
    out = folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    context = Context(run, tables["h"], results, FigureFiles(out), steps)
    made = [(section, section.make(context)) for section in SECTIONS]
    page = render(
        "report.html.j2",
        title=overview.title(run),
        run_name=folder.resolve().name,
        sets={set_title(name): found for name, found in results.sets.items()},
        sheets=context.files.sheets,
        trained=results.trained,
        sections=[
            {
                "id": section.id,
                "title": section.title,
                "nav": section.nav,
                "spoken": section.spoken,
                "content": content,
            }
            for section, content in made
            if content is not None
        ],
    )
    write_text(out / "index.html", page)
    write_cards(run, results)
    return out / "index.html"
