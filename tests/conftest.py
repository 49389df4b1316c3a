"""Strict tests: eight CPU devices, no implicit rank promotion, warnings are errors (pyproject)."""

import os

# Before jax is imported anywhere: the tests compare one device with many.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("MPLBACKEND", "Agg")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the tests' time is compilation, and optimised code would run for microseconds. Programs
# that tests start in processes of their own are compiled as their users' are.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_modifyitems(items):
    """Whole programs first: what is left at the end for one of two workers is short."""
    items.sort(key=lambda item: item.get_closest_marker("program") is None)
