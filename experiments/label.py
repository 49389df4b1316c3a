"""Label images in the browser: a grid of look-alikes, keys assign classes, every click is saved.

`python -m experiments.label runs/simclr-...`

Opens a small page on this machine alone (127.0.0.1) and prints its address; Ctrl-C ends it. The
table grows in RUN/labels.csv, which `jaxssl label-next` reads by itself and every other program
with `--labels-from`. The same command again goes on from there, and undo with it.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import cli, labelling
from experiments.config import AtLeast0, AtLeast1, check_ranges
from experiments.label_server import Session, make_server
from experiments.labelling import Labelling, Pool
from jaxssl.analysis.acquisition import look_alikes
from jaxssl.analysis.label_table import LabelTable
from jaxssl.errors import InputError, Stopped
from jaxssl.files import read_record


@dataclasses.dataclass(frozen=True)
class Label(Labelling):
    """The flags of labelling."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a finished run."""
    only: str = ""
    """Only the images that this table names, such as label-next.csv. Default: all without a
    label."""
    port: AtLeast0[int] = 0
    """Of the page's address; 0: any that is free."""
    group: AtLeast1[int] = 40
    """About how many look-alikes stand together."""
    seed: AtLeast0[int] = 0
    """Of the groups."""


def main(config: Label) -> None:
    """Read, lock the table, serve until Ctrl-C."""
    check_ranges(config)
    if config.port > 65535:
        raise InputError(f"--port is {config.port}: it must be 65535 or less")
    pool = labelling.open_pool(config, config.run_dir)
    pool.table.parent.mkdir(parents=True, exist_ok=True)
    with _held(pool.table):
        # Read again: the table may have grown until it was held.
        session = make_session(config, pool)
        server = make_server(session, config.port)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        print(
            f"{session.left:,} images without a label in {len(session.groups):,} groups of "
            "look-alikes"
        )
        print(f"table: {pool.table}, {len(session.table.labels):,} labels so far")
        print(_then(config, pool.table))
        print(f"open {server.address} (this machine only); Ctrl-C ends", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            thread.join()
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                print(file=sys.stderr)  # below the ^C
        finally:
            server.shutdown()
            server.server_close()
    labels = session.table.labels
    classes = len(set(labels.values()))
    told = f"{len(labels):,} labels of {classes} class{'es' * (classes != 1)} are in {pool.table}"
    if session.left:
        raise Stopped(f"{told}; {session.left:,} images are left: the same command goes on")
    print(told)


def make_session(config: Label, pool: Pool) -> Session:
    """Group what has no label, look-alikes together."""
    images = pool.images
    table = LabelTable(pool.table, images.ids)
    wanted = np.array([not name for name in images.class_names])
    rows = np.flatnonzero(wanted)
    if config.only:
        named = labelling.rows_of(config.only, images.ids)
        rows = np.array([row for row in sorted(named) if wanted[row]], np.int64)
    if not len(rows) and not table.changes:
        what = f"images of {config.only}" if config.only else "images"
        raise InputError(
            f"all {what} have a label: name others with --data-dir, or give --labels-from none or "
            "a table for the labels that count"
        )
    found = [rows[:0]]  # nothing but clicks to take back
    if len(rows):
        found = look_alikes(
            images.vectors[rows], size=config.group, metric=images.distance, seed=config.seed
        )
    counts = Counter(name for name in pool.own if name)
    return Session(images, table, [rows[group].tolist() for group in found], counts)


def _then(config: Label, table: Path) -> str:
    """Say what the labels are for."""
    run = shlex.quote(config.run_dir)
    place = config.data_dir
    if not place and (Path(config.run_dir).expanduser() / "config.json").is_file():
        place = read_record(Path(config.run_dir).expanduser())["config"].get("data_dir", "")
    predict = f"jaxssl predict {run} --data-dir {shlex.quote(place) if place else 'IMAGES'}"
    return (
        f"then what to label next: jaxssl label-next {run}{config.again()}\n"
        f"and classes for all: {predict} --labels-from {shlex.quote(str(table))}"
    )


def _held(table: Path) -> Any:
    """Hold a table until the process ends, or refuse in one line."""
    from jaxssl.training.runs import lock

    file = open(table.with_name(f".{table.name}.lock"), "a+")  # noqa: SIM115 closed by the caller
    file.seek(0)
    holder = file.read().strip() or "another process"
    lock(file, f"the table {table}", f"{holder}: end it with Ctrl-C, or name another --table")
    file.seek(0)
    file.truncate()
    file.write(f"jaxssl label, process {os.getpid()}")
    file.flush()
    return file


if __name__ == "__main__":
    cli.run(main, {"label": Label()})
