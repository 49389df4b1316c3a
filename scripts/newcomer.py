"""A newcomer's path, timed: from `git clone` to 1,000 images on a map, and to predictions.

    python scripts/newcomer.py
    python scripts/newcomer.py --first
    python scripts/newcomer.py --data-dir DIR --labels TABLE --source https://...

What README.md says, command by command, in a new folder with an environment and caches of its own.
Without `--data-dir` the images are 1,000 of scikit-learn's digits, as files, 112 of them labelled.
With `--first` the first block of README.md runs instead, as it is spelt, up to the tests.
Seconds count only where nothing else runs; of the installation most are the package index's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRACTICE = """
import csv
from pathlib import Path
from PIL import Image
from jaxssl.data import load_digits
digits = load_digits(size=32).subset(range(1000))
Path("images").mkdir()
for i in range(1000):
    Image.fromarray(digits.load(i)[..., 0]).save(f"images/{i:04}.png")
with open("labels.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["image", "label"])
    rows = range(0, 1000, 9)
    table.writerows([f"{i:04}.png", digits.class_names[digits.labels[i]]] for i in rows)
"""


def first_commands() -> str:
    """Read README.md's first block of commands, as it is spelt, up to the tests; in the clone."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("```sh\n")[2].partition("```")[0]
    return f"set -x; cd clone\n{block.partition('# the tests')[0]}"


def main() -> None:
    """Walk the path, and print what each step took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default=str(ROOT), help="what is cloned")
    parser.add_argument("--python", default="python3", help="the interpreter, 3.11 to 3.14")
    parser.add_argument("--data-dir", default="", help="a folder of about 1,000 images")
    parser.add_argument("--labels", default="", help="a table of image and label of some of them")
    parser.add_argument("--first", action="store_true", help="README's first commands alone")
    flags = parser.parse_args()
    if bool(flags.data_dir) != bool(flags.labels):
        parser.error("--data-dir and --labels go together")
    images, labels = (str(Path(one).absolute()) for one in (flags.data_dir, flags.labels))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not flags.data_dir:
            images, labels = str(folder / "images"), str(folder / "labels.csv")
        practice = [] if flags.data_dir else [("practice images", ["python", "-c", PRACTICE])]
        clone = ("clone", ["git", "clone", "-q", flags.source, "clone"])
        steps = [
            clone,
            ("environment", [flags.python, "-m", "venv", "venv"]),
            ("install", shlex.split("pip install -q -e ./clone[experiments,pretrained]")),
            *practice,
            (
                "images on a map",
                [
                    *("jaxssl", "embed", "--encoder", "efficientnet_lite0"),
                    *("--data-dir", images, "--run-dir", "runs/first"),
                ],
            ),
            (
                "predictions in a file",
                ["jaxssl", "predict", "runs/first", "--data-dir", images, "--labels-from", labels],
            ),
        ]
        if flags.first:
            steps = [clone, ("README's first commands", ["bash", "-ec", first_commands()])]
        environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
        environment["PATH"] = f"{folder / 'venv' / 'bin'}:{environment['PATH']}"
        environment["XDG_CACHE_HOME"] = str(folder / "cache")
        took = []
        for step, command in steps:
            print(f"\n$ {step if PRACTICE in command else shlex.join(command)}", flush=True)
            start = time.monotonic()
            subprocess.run(command, check=True, cwd=folder, env=environment)
            took.append((step, time.monotonic() - start))
        if flags.first:
            assert list((folder / "clone" / "runs").glob("*/report/index.html"))
        else:
            assert (folder / "runs" / "first" / "report" / "index.html").is_file()
            assert list((folder / "runs" / "first" / "predictions").glob("*.csv"))
    print()
    for step, seconds in took:
        print(f"{step:24}{seconds:8.0f} s")
    print(f"{'together':24}{sum(seconds for _, seconds in took):8.0f} s")


if __name__ == "__main__":
    main()
