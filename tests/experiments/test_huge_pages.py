import os
import platform
import subprocess
import sys

import pytest

from experiments import huge_pages

PROGRAM = """
import os, sys
from pathlib import Path
from experiments import huge_pages
print("begun", os.getpid(), flush=True)
huge_pages.POLICY = Path(sys.argv[1])
huge_pages.ask()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2], sys.stdin.read())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own")


def run(policy, tmp_path, **environment):
    if policy:
        (tmp_path / "enabled").write_text(policy)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "enabled", "--flag of two words"],
        env={k: v for k, v in os.environ.items() if k != huge_pages.SETTING} | environment,
        input="typed",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def test_a_program_starts_once_more_where_pages_are_to_be_asked_for(tmp_path):
    first, second, last = run("always [madvise] never\n", tmp_path)
    assert first == second  # the same process, from its first line
    kept = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
    assert last == f"glibc.malloc.hugetlb=1:{kept} --flag of two words typed"


@pytest.mark.parametrize("policy", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_a_program_goes_on_where_there_is_nothing_to_ask(policy, tmp_path):
    _, last = run(policy, tmp_path)
    assert last == "None --flag of two words typed"


def test_a_setting_of_the_user_is_left_as_it_is(tmp_path):
    _, last = run("always [madvise] never\n", tmp_path, GLIBC_TUNABLES="glibc.malloc.arena_max=2")
    assert last.startswith("glibc.malloc.arena_max=2 ")


@pytest.mark.parametrize("start", [["-m", "experiments.describe"], ["-c", "front_door"]])
def test_the_programs_ask(start, tmp_path):
    door = "from experiments import cli; cli.front_door()"
    start = ["-c", door, "describe"] if start[1] == "front_door" else start
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def told(*command): print('once more', *command); sys.stdout.flush(); os._exit(0)\n"
        "os.execv = told\n"
        "import pathlib\n"
        "pathlib.Path.read_text = lambda path: '[madvise]'\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.SETTING}
    program = subprocess.run(
        [sys.executable, *start, "--help"],
        env=environment | {"PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert program.stdout.startswith("once more ")
    assert program.stdout.rstrip().endswith("describe', '--help']")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_a_step_of_a_program_meets_the_memory_of_the_one_before():
    program = """
import resource, sys
import jax, jax.numpy as jnp
from experiments import config, study

if sys.argv[1] == "as the programs do":
    study.start_devices(config.Devices())
x = jnp.ones((3_000_000, 8))
step = jax.jit(lambda x, w: jnp.sum((x @ w).T.reshape(x.shape) @ w))  # 96 MB on the way
faults = []
for _ in range(6):
    step(x, jnp.eye(8)).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[2])
"""
    faults = {}
    for how in ("as the programs do", "as JAX does"):
        faults[how] = int(
            subprocess.run(
                [sys.executable, "-c", program, how],
                env=os.environ | {huge_pages.SETTING: huge_pages.VALUE, "XLA_FLAGS": ""},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    assert 10 * faults["as the programs do"] < faults["as JAX does"]
