"""SIGKILL to the programs that read a finished run or search: while they write a file, or anywhere.

A program is killed, then its command is given again to its end. What was there before and is not
the program's stays as it was; a file of its own is the old one or the new one, whole; after the
second run all files are those of a program that nobody killed, but for clocks, and nothing is left
over. `label` is asked by a client for one class after another: what it said was saved is saved.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import time
import urllib.request
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from _forked import Forked
from _kills import TRACE, Session

from jaxssl.files import cache_dir, read_record, write_record

# What a clock has in it: names in JSON, and what a page or a log says of time.
CLOCKS = {"time", "started", "images_per_second", "input_wait", "sha256", "crc"}
CLOCK = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[^\"<]*|\d+(\.\d+)? (s|ms|min)\b")
# Logs and databases that grow, checkpoints (which are manifests' own business), events with a time,
# and of a training that was stopped the page, card and curves that tell how long it took, and of a
# search the plots, which show the trial that was cut short.
CHECKPOINTS = "checkpoints/"
GROWING = re.compile(
    r"(.*\.lock|.*\.jsonl|.*log\.txt|.*\.sqlite.*|.*plots/.*\.svg)$|.*checkpoints/|.*/events\."
    r"|finetuned/(MODEL_CARD\.md|report/(index\.html|training\..*))$"
)
NAMED = (CHECKPOINTS, "/events.")  # whose files have other names each time


def commands(work: Path, flags: list[str]) -> dict[str, tuple[str, list[str]]]:
    """List what is killed: the program and its arguments."""
    run, images = str(work / "run"), str(work / "images")
    few = ["--draws", "2", "--labels", "10", "30"]
    digits = ["--dataset", "digits", "--seen", "0", "1", "2", "--unseen", "6", "7"]
    frozen = ["--encoder", "convnet", "--pretrained", "", *digits, "--image-size", "16"]
    search = ["--trials", "2", "--steps", "6", "--storage", str(work / "search" / "study.sqlite")]
    return {
        "embed": ("embed", [run, "--data-dir", images, "--cpu"]),
        "embed, frozen": ("embed", [*frozen, *few, "--cpu", "--run-dir", str(work / "frozen")]),
        "predict": ("predict", [run, "--data-dir", images, "--cpu"]),
        "label_next": ("label_next", [run, "--labels-from", str(work / "labels.csv")]),
        "report": ("report", [run, *few]),
        "compare": ("compare", [run, str(work / "other"), "--out", str(work / "compared")]),
        "linear_eval": ("linear_eval", [run, "--cpu"]),
        "finetune": (
            "finetune",
            [run, *few, "--cpu", "--steps", "8", "--run-dir", str(work / "finetuned")],
        ),
        "tune": ("tune", ["simclr", *flags, *search]),
        **{
            f"export, {tool}": ("export", [run, "--to", tool])
            for tool in ("atlas", "fiftyone", "tensorboard")
        },
    }


def prepare(folder: Path, flags: list[str]) -> Path:
    """Train a small run, and put what the programs take into a folder, which is copied for each."""
    before = folder / "before"
    work = folder / "work"  # the paths that files name
    if fault := Session(work / "run", [*flags, "--steps", "12"], said=folder / "run").fault():
        raise SystemExit(fault)
    work.rename(before)
    _take_along(before)
    return before


def _take_along(before: Path) -> None:
    """Put another run, a folder of images and a table of labels beside the run."""
    from PIL import Image
    from sklearn.datasets import load_digits

    from jaxssl.analysis import read_tables

    shutil.copytree(before / "run", before / "other")
    record = read_record(before / "other")
    record["config"]["seed"] = 1  # to compare takes no run twice
    write_record(before / "other" / "config.json", record)
    digits = load_digits()
    rows = []
    for name in (0, 1, 2):
        (before / "images" / f"class {name}").mkdir(parents=True)
        for i, row in enumerate(np.flatnonzero(digits.target == name)[:8]):
            pixels = np.uint8(digits.images[row] * 15).repeat(2, 0).repeat(2, 1)
            Image.fromarray(pixels).save(before / "images" / f"class {name}" / f"{i}.png")
    for one in read_tables(before / "run", embeddings=["h"])["h"].values():
        rows += [f"{id_},class {name}" for id_, name in zip(one.ids, one.class_names, strict=True)]
    (before / "labels.csv").write_text("\n".join(["path,label", *rows[::9]]) + "\n")


def contents(folder: Path) -> dict[str, str]:
    """Hash each file, but for what a clock has in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                found[str(path.relative_to(folder))] = _content(path)
            except FileNotFoundError:
                continue
    return found


def _content(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):  # half a file has the hash of its bytes
            data = json.dumps(_without_clocks(json.loads(data))).encode()
    data = CLOCK.sub(b"", data)
    return hashlib.sha256(data).hexdigest()


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in CLOCKS and not k.endswith("seconds")}
        return {k: _without_clocks(v) for k, v in kept.items()}
    return [_without_clocks(one) for one in value] if isinstance(value, list) else value


def fresh(folder: Path) -> Path:
    """Put everything as it was before, and forget the caches but for compiled programs."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "before", work, symlinks=True)
    for path in cache_dir().glob("*"):
        if path.name != "xla":
            shutil.rmtree(path, ignore_errors=True)
    return work


def left_over(work: Path) -> list[str]:
    """List temporary files, of the caches too."""
    return [str(path) for place in (work, cache_dir()) for path in place.rglob("*tmp*")]


def ended(process: Forked, seconds: float = 900) -> str:
    """Wait for a good end, and say what was wrong with it."""
    code = process.wait(seconds)
    process.kill()
    wrong = code != 0 or TRACE in process.err
    return f"exit {code}: {process.err[-600:]}" if wrong else ""


class Killed:
    """One program, killed again and again.

    Args:
      folder: With `before`.
      name: Of the program and what it does.
      program: As `jaxssl PROGRAM` names it.
      arguments: Its own.
      chance: Of the moments.
    """

    def __init__(
        self, folder: Path, name: str, program: str, arguments: list[str], chance: random.Random
    ):
        self.folder, self.name, self.chance = folder, name, chance
        self._program, self._arguments = program, arguments
        self.where, self.faults = Counter[str](), list[str]()
        self.writes, self.seconds = 0, 0.0  # of the program that is left alone

    def start(self, last: int = 0) -> Forked:
        """Start the program."""
        return Forked(self._arguments, self.folder / "said", program=self._program, last=last)

    def left_alone(self) -> bool:
        """Run it to its end, and keep what it makes; tell whether that went well."""
        work = fresh(self.folder)
        self.before = contents(work)
        begin, process = time.monotonic(), self.start()
        if fault := ended(process):
            self.faults.append(f"{self.name}, not killed: {fault}")
            return False
        self.seconds = time.monotonic() - begin
        self.writes = process.writes.stat().st_size
        self.expected = contents(work)
        return True

    def kill(self, aim: str) -> None:
        """Kill it once, and give its command again."""
        work = fresh(self.folder)
        last = self.chance.randrange(1, self.writes + 1) if aim == "a write" else 0
        process = self.start(last)
        end = time.monotonic() + self.chance.uniform(0.02, 0.9) * self.seconds
        while process.poll() is None and (last or time.monotonic() < end):
            time.sleep(0.002)
        process.kill()
        if process.code != -signal.SIGKILL:
            return
        place = "a write" if any(work.rglob(".*.tmp")) or aim == "a write" else "another moment"
        self.where[place] += 1
        at = f"{self.name}, killed in {place}" + f" {last} of {self.writes}" * bool(last)
        halves = [
            file
            for file, now in contents(work).items()
            if now not in (self.before.get(file), self.expected.get(file))
            and not GROWING.match(file)
            and ".tmp" not in file
        ]
        lost = [file for file in self.before if not (work / file).exists()]
        again = ended(self.start())
        after = contents(work)
        other = [
            file
            for file in sorted(after.keys() | self.expected.keys())
            if after.get(file) != self.expected.get(file)
            and not (GROWING.match(file) and (file in after or any(part in file for part in NAMED)))
        ]
        for fault, what in (
            ("neither old nor new", halves),
            ("gone", lost),
            ("the second run", [again] if again else []),
            ("not as without a kill", other if not again else []),
            ("left over", left_over(work)),
        ):
            if what:
                self.faults.append(f"{at}: {fault}: {what[:5]}")
                print(self.faults[-1], flush=True)


def torture(
    folder: Path,
    flags: list[str],
    *,
    kills: int,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Kill each program so many times, half of them while it writes.

    Args:
      folder: Where they work.
      flags: Of the run.
      kills: Of each program.
      seconds: After so long no other kill is begun.
      seed: Of the moments.

    Returns:
      `programs`: kills of each by their place; `faults`.
    """
    compiled = cache_dir() / "xla"  # of earlier runs, so that little is compiled here
    compiled.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    cache_dir().mkdir(parents=True)
    (cache_dir() / "xla").symlink_to(compiled)
    import optuna.visualization.matplotlib  # noqa: F401 what tune imports
    import sqlalchemy  # noqa: F401

    prepare(folder, flags)
    chance, begin = random.Random(seed), time.monotonic()
    victims: list[Killed | Labelled] = [Labelled(folder, chance)]
    faults: list[str] = []
    for name, (program, arguments) in commands(folder / "work", flags).items():
        one = Killed(folder, name, program, arguments, chance)
        if one.left_alone():
            victims.append(one)
        faults += one.faults
        one.faults = []
        print(f"{name}: {one.writes} writes, {one.seconds:.0f} s; {len(faults)} faults", flush=True)
    for i in range(kills):  # each once before any twice: the seconds may not reach to the end
        for victim in victims:
            if time.monotonic() - begin < seconds:
                victim.kill("a write" if i % 3 < 2 else "any")
        done = sum(sum(victim.where.values()) for victim in victims)
        print(f"round {i + 1}: {done} kills", flush=True)
    programs = {victim.name: dict(victim.where) for victim in victims}
    return {"programs": programs, "faults": sum((victim.faults for victim in victims), faults)}


class Labelled:
    """`label`, killed while a client labels all images; what it called saved must be saved.

    Args:
      folder: With `before`.
      chance: Of the moments.
    """

    name = "label"

    def __init__(self, folder: Path, chance: random.Random):
        self.folder, self.chance = folder, chance
        self.where, self.faults = Counter[str](), list[str]()

    def kill(self, aim: str) -> None:
        """Label until it dies, start it again, take a click back, and label the rest."""
        work = fresh(self.folder)
        before = contents(work)
        # Two writes a click: the log's line, then the table.
        last = self.chance.randrange(1, 41) if aim == "a write" else 0
        saved: dict[str, str] = {}
        page = _Page(self.folder, last)
        wanted = page.label(saved, 1000 if last else self.chance.randrange(1, 20))
        page.process.kill()
        if page.process.code != -signal.SIGKILL:
            self.faults.append(f"label ended by itself: {page.process.err[-600:]}")
            return
        self.where["a write" if last else "another moment"] += 1
        found, wrong = _labels(work), []
        if any(found.get(name) != label for name, label in saved.items()):
            wrong.append(f"of {len(saved)} labels that it called saved, {len(found)} are there")
        if found.items() - (saved | wanted).items():
            wrong.append("labels that nobody gave")
        page = _Page(self.folder)
        if found:
            page.ask("undo", {"group": 0})
            if not _labels(work).items() < found.items():
                wrong.append("the last click could not be taken back")
        page.label(saved, 10**6)
        os.kill(page.process.pid, signal.SIGINT)
        wrong += [fault] if (fault := ended(page.process)) else []
        if _labels(work).items() != {(name, _class_of(name)) for name in page.names}:
            wrong.append("the labels of all images are not those that were given")
        changed = {name for name, hash_ in contents(work).items() if before.get(name) != hash_}
        changed -= {"run/labels.csv", "run/labels.clicks.jsonl", "run/.labels.csv.lock"}
        for fault, what in (
            ("", wrong),
            ("changed", sorted(changed)),
            ("left over", left_over(work)),
        ):
            if what:
                self.faults.append(f"label, killed in write {last}: {fault} {what[:4]}")
                print(self.faults[-1], flush=True)


class _Page:
    """A server of `label`, and what its page asks of it."""

    def __init__(self, folder: Path, last: int = 0):
        arguments = [str(folder / "work" / "run"), "--labels-from", "none"]
        self.process = Forked(arguments, folder / "said", program="label", last=last)
        while "open http" not in self.process.out and self.process.poll() is None:
            time.sleep(0.01)
        address = re.search(r"open (http://\S+)", self.process.out)
        if not address:
            raise SystemExit(f"label did not start: {self.process.err}")
        self._address = address[1]
        tables = sorted((folder / "work" / "run" / "embeddings").glob("*.parquet"))
        self.names = {name for path in tables for name in _ids(path)}

    def ask(self, path: str, body: Any = None) -> Any:
        """Ask for a state, or post."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self._address + path, data)
        asked.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)

    def label(self, saved: dict[str, str], clicks: int) -> dict[str, str]:
        """Label so many times, or until it dies; return what was asked for last."""
        wanted: dict[str, str] = {}
        try:
            state = self.ask("state?group=0")
            while state["images"] and clicks:
                label = _class_of(state["images"][0]["id"])
                rows = {
                    one["row"]: one["id"]
                    for one in state["images"]
                    if _class_of(one["id"]) == label
                }
                wanted = dict.fromkeys(rows.values(), label)
                asked = {"rows": list(rows), "label": label, "group": state["group"]}
                state = self.ask("assign", asked)
                saved.update(wanted)
                clicks -= 1
        except (OSError, http.client.HTTPException):
            self.process.wait(60)
        return wanted


def _class_of(name: str) -> str:
    return f"class {zlib.crc32(name.encode()) % 2}"


def _ids(path: Path) -> list[str]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=["id"])["id"].to_pylist()


def _labels(work: Path) -> dict[str, str]:
    """Read the table that grows, strictly: one that is not whole raises."""
    path = work / "run" / "labels.csv"
    if not path.exists():
        return {}
    head, *rows = csv.reader(path.read_text().splitlines(), strict=True)
    assert head == ["path", "label"], head
    return dict(rows)
