"""A model card and a data card of a run, from its own files: nothing stands in them that was not.

Reference:
    Mitchell et al. 2019, "Model Cards for Model Reporting"; Gebru et al. 2018, "Datasheets for
    Datasets". What these ask and no file of a run answers is left open, as a question.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxssl.analysis.findings import failing, failing_sentence, winning_baselines
from jaxssl.analysis.headlines import (
    WITHOUT_LABELS,
    accuracies,
    headline_labels,
    of_classes,
    without_curve,
)
from jaxssl.analysis.names import embedding_title, set_title
from jaxssl.analysis.results import Results
from jaxssl.analysis.run import Run
from jaxssl.files import free, write_text

# Where files lie, and who may have named what: cards are handed on, the run folder is not.
_PRIVATE = ("data_dir", "run_dir", "labels_from", "image_root", "pretrained", "config")
_SAID = "Written by jaxssl from this folder's `config.json` and `results.json`."
_ASKED_OF_MODELS = (
    "What is it for, and what must it not be used for?",
    "Under which licence may it be passed on? Published weights that it began with have their own.",
    "Who answers questions?",
)
_ASKED_OF_DATA = (
    "Where, when and with which instrument were the images taken?",
    "Who labelled them, how, and how often did they agree?",
    "Under which licence, and how is it cited?",
    "What is missing: places, seasons, sizes, species?",
)


def write_cards(run: Run, results: Results) -> None:
    """Write `MODEL_CARD.md` and `DATA_CARD.md` into a run's folder.

    They ask a person for answers: one that was changed is kept, and the new one has a number.

    Args:
        run: Its record; a field that it does not have is left out.
        results: Its numbers.
    """
    for name, card in (("MODEL_CARD.md", model_card), ("DATA_CARD.md", data_card)):
        place = free(run.folder / name, say=print)
        write_text(place, card(run, results), note="")


def model_card(run: Run, results: Results) -> str:
    """Tell in Markdown what was trained, how, and what was measured of it."""
    embedding, about = results.embedding, run.provenance
    title = f"{run.study} on {run.dataset}" if run.dataset else run.study
    made = {
        "encoder": run.settings.get("encoder"),
        "output": f"{embedding.layer}, {embedding.dimensions} numbers an image",
        "distance it was trained for": embedding.distance,
        "weights it began with": about.get("pretrained"),
        "images it takes": _size(run),
        "checkpoint judged": results.protocol.get("judged"),
        "steps": results.training.get("last_step"),
        "training images": results.protocol.get("training_images"),
        "training time, s": _rounded(results.wall_seconds.get("training")),
        "devices": about.get("devices"),
        "versions": ", ".join(f"{n} {v}" for n, v in about.get("versions", {}).items()),
        "commit": about.get("commit"),
        "hash of the recipe": run.record.get("hash"),
    }
    settings = {name: value for name, value in run.recipe.items() if name not in _PRIVATE}
    return _page(
        f"Model card: {_plain(title)}",
        _SAID,
        *_section("What it is", _table(("", ""), made.items())),
        *_section("What was measured", _measured(results)),
        *_section("What to know", [f"- {_plain(line)}" for line in _limits(results)]),
        *_section("Settings", _table(("setting", "value"), settings.items())),
        *_section("To be answered by a person", [f"- {line}" for line in _ASKED_OF_MODELS]),
    )


def data_card(run: Run, results: Results) -> str:
    """Tell in Markdown which images a run was of, and how they were split."""
    classes = list(dict.fromkeys(c for counts in results.sets.values() for c in counts.classes))
    rows: list[Sequence[Any]] = [
        (name, *(counts.classes.get(name, 0) for counts in results.sets.values()))
        for name in classes
    ]
    if any(counts.unlabelled for counts in results.sets.values()):
        rows.append(("(no label)", *(counts.unlabelled for counts in results.sets.values())))
    rows.append(("(all)", *(counts.images for counts in results.sets.values())))
    split = {
        "images as read": _size(run),
        "fit to a square": run.settings.get("fit"),
        "cut off below": run.settings.get("crop_bottom"),
        "kept on one side of the split": run.settings.get("group_by"),
        "least images of a class": run.settings.get("min_images"),
        "seed of the split": run.seed,
        "fingerprint of images and labels": run.record.get("data"),
    }
    copies = sum(bool(one.twin) for one in results.suspects)
    found = [
        f"- {len(results.suspects):,} images are listed as suspects in `report/suspects.csv` "
        f"({copies:,} of them as copies of another): guesses, for a person to look at."
        if results.suspects
        else "- No image is listed as a suspect."
    ]
    return _page(
        f"Data card: {_plain(run.dataset or 'images')}",
        _SAID,
        *_section("How many images", _table(("class", *map(set_title, results.sets)), rows)),
        *_section("How they were read and split", _table(("", ""), split.items())),
        *_section("What was found in them", found),
        *_section("To be answered by a person", [f"- {line}" for line in _ASKED_OF_DATA]),
    )


def _measured(results: Results) -> list[str]:
    """Tell accuracies, and the SVC's curve a set, beside the baselines."""
    lines = [f"- {name}: {share:.1%}" for name, share in accuracies(results).items()]
    if not any(counts.classes for counts in results.sets.values()):
        lines.append(f"- Nothing: {WITHOUT_LABELS}.")
    svc = [row for row in results.label_efficiency if row.classifier == "svc"]
    for name in dict.fromkeys(row.set for row in svc):
        here = {(r.embedding, r.labels): r for r in svc if r.set == name}
        labels = headline_labels([r for r in svc if r.set == name], results.label_sizes)
        rows = []
        for embedding in dict.fromkeys(embedding for embedding, _ in here):
            cells = [here.get((embedding, n)) for n in labels]
            texts = [f"{c.mean:.3f} ({c.low:.3f} to {c.high:.3f})" if c else "–" for c in cells]
            rows.append((embedding_title(embedding), *texts))
        lines += ["", f"Balanced accuracy of an SVC on {_plain(of_classes(name))}, by labels:", ""]
        lines += _table(("", *(f"{n:,}" for n in labels)), rows)
    for name, why in without_curve(results).items():
        lines.append(f"- Accuracy by few labels was not measured on {_plain(name)}: {_plain(why)}.")
    return lines


def _limits(results: Results) -> list[str]:
    """Say what the numbers do not show, and what they show against the model."""
    lines = [*(failing_sentence(one) for one in failing(results)), *winning_baselines(results)]
    if results.label_efficiency:
        lines.append(
            "Intervals are of one run, over random draws of labels from the same images: other "
            "seeds and other images vary more."
        )
    seen = results.sets.get("train")
    if not results.trained:
        lines.append("It learnt from none of these images.")
    elif seen is not None and seen.classes:
        lines.append(f"It learnt from {seen.images:,} images of {len(seen.classes):,} classes.")
    return lines


def _size(run: Run) -> str | None:
    shape = run.record.get("outline", {}).get("shape")
    return f"{shape[0]} x {shape[1]} px, {'grey' if shape[2] == 1 else 'RGB'}" if shape else None


def _rounded(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:,.0f}"


def _page(title: str, *lines: str) -> str:
    return "\n".join([f"# {title}", "", *lines]).rstrip() + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Make a table of Markdown; of two columns the rows without a value are left out."""
    kept = [row for row in rows if not (len(row) == 2 and row[1] in (None, "", [], ()))]
    lines = [[_plain(cell) for cell in row] for row in (columns, *kept)]
    rule = f"|{'---|' * len(columns)}"
    written = [f"| {' | '.join(cells)} |" for cells in lines]
    return [written[0], rule, *written[1:]] if kept else []


def _plain(value: Any) -> str:
    r"""Return a value as one line that Markdown and HTML show as it is.

    Example:
        >>> _plain("a|b\n<i>*c*"), _plain(["x", "y"]), _plain(3)
        ('a&#124;b &lt;i&gt;&#42;c&#42;', 'x, y', '3')
    """
    if isinstance(value, Mapping):
        value = [f"{name} {inner}" for name, inner in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    for sign in "|*`[]\\":
        text = text.replace(sign, f"\0{ord(sign)};")
    return html.escape(text, quote=False).replace("\0", "&#")
