"""The tests' own cache of compiled programs: what makes a second run short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What this run's conftest.py has set: the other has to set it itself.
OWN = ("JAXSSL_TEST_CACHE", "XDG_CACHE_HOME", "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES")


@pytest.mark.program
def test_a_second_run_finds_the_programs_of_the_first_and_forgets_old_ones(tmp_path):
    alone = {k: v for k, v in os.environ.items() if k not in OWN}
    compiled = tmp_path / "d" / "compiled"

    def programs() -> set[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={tmp_path}"]
        command += ["tests/models/test_averaging.py", "-k", "layer"]
        subprocess.run(command, cwd=ROOT, env=alone, check=True, capture_output=True)
        return {file.name for file in compiled.iterdir()}

    first = programs()
    assert first
    old = compiled / "of-a-code-that-is-gone-cache"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    assert programs() == first
