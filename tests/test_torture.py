"""The short forms of scripts/torture.py: files of every kind, within memory and time.

With `JAXSSL_FUZZ_SECONDS=60` hypothesis draws files for each reader for so long, others each time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
SECONDS = float(os.environ.get("JAXSSL_FUZZ_SECONDS", "0"))


def ends(*arguments):
    """Change files of one kind or all in a child; return what it said of each kind."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "_fuzz.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["fault"] for line in said if "fault" in line] == []
    assert done.returncode == 0, done.stderr[-2000:]
    return {line["target"]: line for line in said if "target" in line}


def test_mutated_files_end_in_one_line_within_bounds():
    """The numbers of the mutations are fixed: what fails here fails again."""
    found = ends("all", 0, 120, 50)
    assert len(found) >= 34
    # The mutations reach the readers: most kinds of files are refused many times.
    assert sum(end["refused"] > 5 for end in found.values()) >= 25


def test_files_that_hypothesis_draws_end_in_one_line_within_bounds(tmp_path):
    pytest.importorskip("hypothesis")
    if not SECONDS:
        found = ends("properties", "all", 0, 120, 8)
        assert all(end["done"] == 8 for end in found.values())
        return
    ends("corpus", tmp_path)
    for place in sorted(tmp_path.iterdir()):
        (target,) = place.joinpath("target.txt").read_text().splitlines()
        ends("properties", target, 0, SECONDS, 0)
