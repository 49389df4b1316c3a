"""Strict tests: eight CPU devices, no implicit rank promotion, warnings are errors (pyproject)."""

import gc
import importlib.util
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pytest

# Before jax is imported anywhere: the tests compare one device with many.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Fusions as plain loops: a training step compiles in 1.1 s where it takes 4.3. And one
        # module for LLVM, not up to 32 that are compiled beside one another: two cores have two
        # workers to do. XLA ends a process over a flag that it does not know.
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        * version("jaxlib").startswith("0.10."),
    ]
)
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the tests' time is compilation, and optimised code would run for microseconds; programs
# that tests start in processes of their own hear it too. One part is compiled as users' programs
# are: the processes of tests/experiments/test_simclr.py.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# However small a program is: most are, and there are thousands.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# The folder of XLA's own caches, which a GPU's compiler has, would be part of each program's key,
# and ours is another in every run: nothing would be found again.
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"

# Threads for eight devices' programs, and as many to start the next ones. XLA has one pool for both
# and by default eight in it: where a test starts more than 32 programs before the first has ended,
# those that start may hold all that are to run, for ever (jaxlib 0.10.2; `jaxssl.training.dispatch`
# has the reason). For this process alone: those that tests start have a few devices, and threads
# that compute come with it.
os.environ["PJRT_NPROC"] = "16"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

DEVICES, DEVICE_COUNT = jax.devices, jax.device_count
assert len(jax.devices()) == 8
del os.environ["PJRT_NPROC"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Give a test that is marked `one_device` the first of the eight alone.

    Programs of eight devices take twice the time of one device's to trace, load and run, on two
    cores.
    """
    one = item.get_closest_marker("one_device") is not None
    jax.devices = (lambda *backend: DEVICES(*backend)[:1]) if one else DEVICES
    jax.device_count = (lambda *backend: 1) if one else DEVICE_COUNT


def pytest_configure(config):
    """Caches that no one else has, and compiled programs that all processes share.

    JAX's key for a compiled program is its text with the compiler's options and version: what was
    changed is compiled again. `pytest --cache-clear` forgets them.
    """
    cache = getattr(config, "cache", None)  # none with -p no:cacheprovider
    # By each process: with --cache-clear each of them has emptied it.
    kept = None if cache is None else cache.mkdir("compiled")
    if "JAXSSL_TEST_CACHE" not in os.environ:  # set by the first process, for xdist's workers
        folder = tempfile.TemporaryDirectory(prefix="jaxssl-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAXSSL_TEST_CACHE"] = folder.name
        config.add_cleanup(lambda: os.environ.pop("JAXSSL_TEST_CACHE"))
        own = Path(folder.name) / "jaxssl"
        own.mkdir()
        if kept is None:
            (own / "xla").mkdir()
        else:
            _forget_old(kept)
            (own / "xla").symlink_to(kept, target_is_directory=True)
    os.environ["XDG_CACHE_HOME"] = os.environ["JAXSSL_TEST_CACHE"]
    xla = Path(os.environ["XDG_CACHE_HOME"]) / "jaxssl" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(xla))


def _forget_old(folder):
    """Remove programs that no run has read for a month: each change of the code adds some."""
    for file in folder.iterdir():
        if file.stat().st_atime < time.time() - 30 * 86_400:
            file.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def load_script():
    """Import a program of `scripts/`, which is no package, by its path in there."""

    def load(path):
        file = Path(__file__).parents[1] / "scripts" / path
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # its dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


def pytest_collection_modifyitems(items):
    """Whole programs first: what is left at the end for one of two workers is short."""
    items.sort(key=lambda item: item.get_closest_marker("program") is None)


def _look_for_garbage():
    """Collect what is garbage, and never look at again what is not.

    Traces make millions of objects and keep many. Python looks through all that live whenever there
    are a quarter more of them, two seconds each time in a process that has tested for a while, and
    through the youngest after every 700. Here the youngest are looked at after 50,000, and what a
    file leaves behind stays to the end: caches, and the modules of the tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 10)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """All modules are imported."""
    _look_for_garbage()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Of a file's last test, whose fixtures are gone."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        _look_for_garbage()
    return result
