"""The short form of scripts/torture.py: mutated files of every kind, within memory and time."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "scripts"


def test_mutated_files_end_in_one_line_within_bounds():
    """The numbers of the mutations are fixed: what fails here fails again."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "_fuzz.py", "all", "0", "120", "50"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["fault"] for line in said if "fault" in line] == []
    assert done.returncode == 0, done.stderr[-2000:]
    ends = {line["target"]: line for line in said if "target" in line}
    assert len(ends) >= 23
    # The mutations reach the readers: most kinds of files are refused many times.
    assert sum(end["refused"] > 5 for end in ends.values()) >= 17
