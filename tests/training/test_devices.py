"""Platforms and meshes; a demanded platform is never replaced in silence."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import lowering
from jaxssl.errors import InputError
from jaxssl.training import devices


def test_batches_are_split_and_states_are_whole():
    where = devices.data_placement(16)
    batch = where.put({"image": np.arange(32.0).reshape(16, 2)})
    assert where.device_count == 8
    assert {shard.data.shape for shard in batch["image"].addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(batch["image"], np.arange(32.0).reshape(16, 2))
    whole = where.replicate({"w": np.ones(3, np.float32)})
    assert {shard.data.shape for shard in whole["w"].addressable_shards} == {(3,)}


def test_a_batch_that_cannot_be_split():
    with pytest.raises(InputError, match=r"the batch size 12 cannot be split over 8 devices"):
        devices.data_placement(12)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_missing_platform_is_one_clear_line(platform):
    code = f"""
from jaxssl.errors import InputError
from jaxssl.training import devices
import jax
try:
    devices.require({platform!r})
except InputError as error:
    print(error)
print(jax.devices()[0].platform)
"""
    if jax.default_backend() == platform:
        pytest.skip(f"this machine has a {platform}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"no {platform.upper()} found; JAX")
    assert "do not ask for one" in first
    assert second == "cpu"


def test_stacked_batches_are_split_as_each_of_them_is():
    where = devices.data_placement(16)
    stacked = where.put_stacked([{"index": np.arange(16) + 100 * i} for i in range(3)])["index"]
    assert {shard.data.shape for shard in stacked.addressable_shards} == {(3, 2)}
    np.testing.assert_array_equal(stacked[2], np.arange(16) + 200)


@pytest.mark.parametrize("shape", [(5, 4, 6, 3), (7, 128, 128, 3), (6, 181, 182, 1)])
def test_resident_images_come_back_whole_whatever_rows_they_lie_in(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = devices.data_placement(8).reside(shape, lambda: pixels)
    rows, width = images.pixels.shape
    assert width <= devices.ROW_LIMIT
    assert rows * width == pixels.size
    index = np.array([shape[0] - 1, 0, 2, 2])
    found = jax.jit(images.gather)(images.pixels, jnp.asarray(index))
    np.testing.assert_array_equal(found, pixels[index])


def test_resident_images_are_whole_everywhere_and_bounded():
    where = devices.data_placement(8)
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    images = where.reside(pixels.shape, lambda: pixels)
    assert images.pixels.dtype == np.uint8
    for shard in images.pixels.addressable_shards:
        np.testing.assert_array_equal(shard.data.reshape(pixels.shape), pixels)
    rows = np.array([4, 0, 4])
    np.testing.assert_array_equal(images.gather(images.pixels, rows), pixels[rows])

    def read():
        raise AssertionError("read although they do not fit")

    message = r"200,000 images of 128 x 128 x 3 would take 9.2 GiB on every device, the limit is 4:"
    with pytest.raises(InputError, match=message):
        where.reside((200_000, 128, 128, 3), read)


def test_as_many_cpu_devices_as_cores_compute_on_one_each(monkeypatch):
    several = devices.placement_over(jax.devices(), 8)
    one = devices.placement_over(jax.devices()[:1], 8)
    for cores, single in ((2, True), (8, True), (16, False)):
        monkeypatch.setattr(devices, "CORES", cores)
        assert bool(several.compiler_options) == single
        assert not one.compiler_options


def test_no_more_cpu_devices_than_cores():
    devices.divide_cpu(None)
    with pytest.raises(InputError, match=f"this process has {lowering.CORES} cores"):
        devices.divide_cpu(lowering.CORES + 1)


UNLESS_TOLD = """
import sys
import jax
from experiments import config, simclr, study
from jaxssl.training import devices

devices.CORES = int(sys.argv[1])
flags = simclr.SimCLR(batch_size=int(sys.argv[2]))
if sys.argv[3] == "in use":
    jax.devices()
study.start_devices(flags)
print(jax.device_count())
"""


@pytest.mark.parametrize(
    ("cores", "batch", "before", "others", "expected"),
    [
        ("2", "64", "", {}, 2),
        ("1", "64", "", {}, 1),
        ("8", "64", "", {}, 1),
        ("2", "63", "", {}, 1),
        ("2", "64", "in use", {}, 1),
        ("2", "64", "", {"JAX_NUM_CPU_DEVICES": "1"}, 1),
        ("2", "64", "", {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
    ],
)
def test_each_of_two_cores_is_a_device_unless_told(cores, batch, before, others, expected):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    ran = subprocess.run(
        [sys.executable, "-c", UNLESS_TOLD, cores, batch, before],
        env=environment | {"JAX_PLATFORMS": "cpu"} | others,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(expected)]


STEPS = """
import jax, numpy as np
from experiments import config, simclr, study, datasets
from jaxssl import training
from jaxssl.training import devices

study.start_devices(config.Devices(cpu_devices=2))
flags = simclr.SimCLR(encoder="convnet", image_size=16, color="rgb", optimizer="sgd", views="cifar")
outline = {"classes": (), "shape": (16, 16, 3), "steps_per_epoch": 1, "total_steps": 4}
images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.uint8)
found = []
for count in (1, 2):
    method = simclr.make_method(flags, datasets.of_outline(outline, flags))
    placement = devices.placement_over(jax.devices()[:count], 32)
    step = training.make_train_step(method, placement)
    state = placement.replicate(training.create_state(method))
    batch, key = placement.put({"image": images}), jax.random.key(0)
    text = step.lower(state, batch, key).as_text()
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch, key)
        losses.append(float(metrics["loss"]))
    weights = [np.ravel(leaf) for leaf in jax.tree.leaves(state.params)]
    found.append((losses, np.concatenate(weights), "stablehlo.convolution" in text))
(losses, weights, _), (others, others_weights, by_xla) = found
np.testing.assert_allclose(others, losses, rtol=1e-4)
off = np.linalg.norm(others_weights - weights) / np.linalg.norm(weights)
assert off < 1e-4, off
print(len(jax.devices()), by_xla)
"""


@pytest.mark.skipif(lowering.CORES < 2, reason="of two cores")
def test_a_step_on_a_device_a_core_is_the_step_on_one():
    """As users' programs are: oneDNN, the compiler's options, XLA's optimisations."""
    ran = subprocess.run(
        [sys.executable, "-c", STEPS],
        env={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JAX_", "XLA_"))
        }
        | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-2:] == ["2", "False"]
