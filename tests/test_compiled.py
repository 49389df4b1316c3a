"""The tests' own cache of compiled programs: what makes a second run short."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture
def cache_of_our_own():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def test_a_second_run_finds_the_programs_of_the_first(tmp_path, cache_of_our_own):
    """Each run has a folder of its own with a link to what is kept, as in conftest.py."""
    kept = tmp_path / "kept"
    kept.mkdir()
    found = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "xla").symlink_to(kept, target_is_directory=True)
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / run / "xla"))
        compilation_cache.reset_cache()
        jax.jit(lambda x: jnp.sin(x) * 3.25)(1.0)  # another function, the same program
        found.append(sorted(file.name for file in kept.iterdir()))
    assert found[0]
    assert found[0] == found[1]


def test_programs_that_no_run_has_read_for_a_month_go(tmp_path, request):
    plugins = request.config.pluginmanager.get_plugins()
    (conftest,) = (plugin for plugin in plugins if hasattr(plugin, "_forget_old"))
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / "old", (0, 0))
    conftest._forget_old(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["new"]
