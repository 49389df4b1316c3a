import os
import platform
import subprocess
import sys

import pytest

from experiments import malloc
from jaxssl.lowering import CORES

PROGRAM = """
import os, platform, sys
from experiments import malloc
print("begun", os.getpid(), flush=True)
if sys.argv[1]:
    platform.libc_ver = lambda: (sys.argv[1], "1")
malloc.ask()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2], sys.stdin.read())
"""

of_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")


def run(library="", **environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, library, "--flag of two words"],
        env={k: v for k, v in os.environ.items() if k != malloc.SETTING} | environment,
        input="typed",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def faults_of(program):
    """Count the page faults of the last three of six steps, as the program prints them."""
    faults = {}
    for how in ("as the programs do", "as JAX does"):
        ran = subprocess.run(
            [sys.executable, "-c", program, how],
            env=os.environ | {malloc.SETTING: malloc.VALUE, "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        faults[how] = int(ran.stdout)
    return faults


@of_glibc
def test_a_program_starts_once_more_where_malloc_can_be_asked():
    first, second, last = run()
    assert first == second  # the same process, from its first line
    kept = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
    kept += ":glibc.malloc.top_pad=134217728"
    assert last == f"glibc.malloc.hugetlb=1:{kept} --flag of two words typed"


def test_a_program_goes_on_where_there_is_nobody_to_ask():
    _, last = run("musl")
    assert last == "None --flag of two words typed"


def test_a_setting_of_the_user_is_left_as_it_is():
    _, last = run(GLIBC_TUNABLES="glibc.malloc.arena_max=2")
    assert last.startswith("glibc.malloc.arena_max=2 ")


@of_glibc
@pytest.mark.parametrize("start", [["-m", "experiments.describe"], ["-c", "front_door"]])
def test_the_programs_ask(start, tmp_path):
    door = "from experiments import cli; cli.front_door()"
    start = ["-c", door, "describe"] if start[1] == "front_door" else start
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def told(*command): print('once more', *command); sys.stdout.flush(); os._exit(0)\n"
        "os.execv = told\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != malloc.SETTING}
    program = subprocess.run(
        [sys.executable, *start, "--help"],
        env=environment | {"PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert program.stdout.startswith("once more ")
    assert program.stdout.rstrip().endswith("describe', '--help']")


@of_glibc
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
    faults = faults_of(program)
    assert 10 * faults["as the programs do"] < faults["as JAX does"]


@of_glibc
@pytest.mark.skipif(CORES < 2, reason="of two cores")
def test_a_step_on_two_cores_devices_meets_it_too():
    program = """
import resource, sys
import jax, jax.numpy as jnp
from experiments import config, study
from jaxssl import training

study.start_devices(config.Devices(cpu_devices=2))
placement = training.data_placement(2)
options = placement.compiler_options if sys.argv[1] == "as the programs do" else {}
layers = range(5)  # of 20 MB on each device, all kept for the gradient
x = jax.device_put(jnp.ones((2, 2**20, 5)), placement.sharded)
w = jax.device_put([jnp.eye(5)] * len(layers), placement.replicated)


def loss(w, x):
    for each in w:
        x = jnp.tanh(x @ each)
    return x.sum()


step = jax.jit(jax.grad(loss), compiler_options=options)
faults = []
for _ in range(6):
    jax.block_until_ready(step(w, x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[2])
"""
    faults = faults_of(program)
    assert 10 * faults["as the programs do"] < faults["as JAX does"]
