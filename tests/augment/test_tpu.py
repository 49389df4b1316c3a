"""Views as a TPU's own compiler makes them; it needs no TPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Limits in GB for temporaries and for what is moved, of one chip: half as much again as libtpu
# 0.0.42 says. By a gather of pixels plankton's views need 18, more than the chip has.
LIMITS = {
    "plankton 256 x 128 px RGB": (0.51, 6.1),
    "cifar 512 x 32 px RGB": (0.21, 7.1),
    "cifar with blur 64 x 96 px RGB": (0.1, 2.0),
    "digits 256 x 16 px grey, 4 chips": (0.01, 0.3),
}


@pytest.mark.program
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='a TPU\'s compiler is needed: pip install "jax[tpu]"',
)
def test_views_fit_a_v5e_chip_and_hold_no_gather_and_no_padded_pixels():
    # In a process of its own: libtpu reads the environment, and the tests have theirs.
    done = subprocess.run(
        [sys.executable, ROOT / "tests/augment/compile_for_tpu.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    programs = {said.pop("name"): said for said in map(json.loads, done.stdout.splitlines())}
    assert programs.keys() == LIMITS.keys()
    for name, said in programs.items():
        temporaries, moved = said["temporaries_gb"], said["moved_gb"]
        print(f"{name}: {temporaries:.3f} GB of temporaries, {moved:.2f} GB moved")
        assert not said["gathers"], name
        assert not said["narrow"], name
        assert not said["collectives"], name
        assert temporaries < LIMITS[name][0], name
        assert moved < LIMITS[name][1], name
