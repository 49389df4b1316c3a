"""A step compiled for TPUs that are not here: counted, searched, advised; with libtpu, made."""

import dataclasses
import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import compile as program
from experiments import rnn, simclr, softmax
from jaxssl import lowering, training
from jaxssl.errors import InputError
from jaxssl.training import compiling, hlo
from jaxssl.training.devices import placement_over
from jaxssl.training.state import state_shapes

ROOT = Path(__file__).parents[2]
GIB = 2**30
TPU = types.SimpleNamespace(device_kind="TPU v5 lite")


def chips(number=4, memory=16 * GIB):
    """A slice without a compiler: its devices are only counted."""
    found = compiling.Slice(f"v5e-{number}", "v5e", number, [TPU] * number)
    assert found.chip.memory == memory
    return found


def test_the_model_s_shapes_are_those_of_its_weights():
    for module, made in ((simclr, simclr.SimCLR), (softmax, softmax.Softmax), (rnn, rnn.RNN)):
        settings = made(image_size=16, batch_size=16)
        shapes = state_shapes(program.shapes_of(module, settings))
        leaves = jax.tree.leaves(shapes)
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
        outline = {"classes": map(str, range(10)), "shape": (16, 16, 1)}
        data = program.datasets.of_outline(
            outline | {"steps_per_epoch": 100, "total_steps": 10_000}, settings
        )
        real = training.create_state(module.make_method(settings, data))
        assert jax.tree.structure(real) == jax.tree.structure(shapes)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(real)] == [
            (x.shape, x.dtype) for x in leaves
        ]


def linear_step(placement):
    """A step that all-reduces one gradient of 3 x 5 and one loss, and asks what it is made for."""
    asked = []

    def loss(model, batch, key, step):
        asked.append((lowering.devices(), lowering.platform()))
        return (model(batch["image"].mean((1, 2))) ** 2).mean(), {}

    model = nnx.Linear(3, 5, use_bias=False, rngs=nnx.Rngs(0))
    method = training.Method("Linear", model, loss, optax.sgd(0.1))
    return method, training.make_train_step(method, placement), asked


@pytest.mark.parametrize("devices", [1, 4])
def test_a_step_is_lowered_without_data_for_the_devices_it_is_given(devices):
    placement = placement_over(jax.devices()[:devices], 8)
    method, step, asked = linear_step(placement)
    key, batch = jax.random.key(0), {"image": np.ones((8, 2, 2, 3), np.float32)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    compiled = step.lower(state_shapes(method), shapes, key).compile()
    # Eight devices are here: it is the mesh that says.
    assert set(asked) == {(devices, "cpu")}
    cost = compiling.cost_of(compiled, placement)
    state = placement.replicate(training.create_state(method))
    size = sum(x.nbytes for x in jax.tree.leaves((state, batch["image"][: 8 // devices])))
    assert cost.arguments >= size - 8 * 4  # a step counter may be dropped
    expected = {} if devices == 1 else {"all-reduce"}
    assert set(cost.collectives) == set(expected)
    if devices > 1:
        assert 4 * 15 <= cost.collectives["all-reduce"][1] <= 4 * 15 + 16
        assert cost.sent == pytest.approx(2 * 3 / 4 * cost.collectives["all-reduce"][1])
    # The lowered program and the step that is called are one.
    args = state, placement.put(batch), key
    whole = placement.replicate(training.create_state(method))
    by_hand = compiled(whole, args[1], key, None)[1]["loss"]
    assert float(step(*args)[1]["loss"]) == float(by_hand)


def test_what_is_told_is_counted_by_kind_loops_as_often_as_they_run():
    text = """HloModule jit_step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%turn (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %cp = (f32[8,4]{1,0:T(8,128)}, f32[8,4]{1,0:T(8,128)}, u32[], u32[]) collective-permute-start(%x)
  %cpd = f32[8,4]{1,0} collective-permute-done(%cp)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %ar = (f32[10]{0}, bf16[6]{0}) all-reduce(%x, %y), to_apply=%sum
  %ag = (f32[8,4], f32[32,4]{1,0}) all-gather-start(%x), channel_id=3, dimensions={0}
  %part = f32[32,4]{1,0} all-gather(%y), channel_id=3, dimensions={0}
  %agd = f32[32,4]{1,0} all-gather-done(%ag)
  %w = (s32[], f32[8,4]) while(%t), body=%turn, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %f = f32[8,4] fusion(%w), calls=%sum
}
"""
    found = hlo.communication(text)
    assert found == {
        "all-reduce": (1, 4 * 10 + 2 * 6),
        "all-gather": (1, 4 * 32 * 4),
        "collective-permute": (7, 7 * 4 * 8 * 4),
    }
    by_hand = 2 * 3 / 4 * 52 + 3 / 4 * 512 + 7 * 128
    assert hlo.sent(found, 4) == pytest.approx(by_hand)


def test_what_moves_is_what_passes_between_main_memory_and_the_core():
    # Two products, of 24 + 32 + 48 numbers and of 48 + 32 + 24: as by hand, and as XLA counts.
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((6, 4), (4, 8))]
    compiled = jax.jit(lambda a, b: (a @ b) @ b.T).lower(*shapes).compile()
    moved = hlo.moved(compiled.as_text())
    assert moved == compiled.cost_analysis()["bytes accessed"] == 4 * (104 + 104)


def test_what_stays_near_the_core_does_not_move_and_of_what_is_cut_only_the_part():
    text = """HloModule jit_step

%cut (p.0: f32[64,128], p.1: s32[]) -> f32[8,128] {
  %p.0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  ROOT %d = f32[8,128]{1,0:T(8,128)} dynamic-slice(%p.0, %p.1), dynamic_slice_sizes={8,128}
}

%put (q.0: f32[64,128], q.1: f32[8,128]) -> f32[64,128] {
  %q.0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %q.1 = f32[8,128]{1,0:T(8,128)S(1)} parameter(1)
  ROOT %u = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%q.0, %q.1, %q.1)
}

%turn (t: (s32[], f32[64,128])) -> (s32[], f32[64,128]) {
  %t = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[64,128]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %i = s32[]{:T(128)S(1)} get-tuple-element(%t), index=0
  %part = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%cut
  %sum = f32[8,128]{1,0:T(8,128)S(1)} add(%part, %part)
  %whole = f32[64,128]{1,0:T(8,128)} fusion(%x, %sum), kind=kLoop, calls=%put
  ROOT %r = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) tuple(%i, %whole)
}

%go (u: (s32[], f32[64,128])) -> pred[] {
  %other = s32[]{:T(128)} constant(5)
  %many = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%first, %many), direction=LT
}

ENTRY %main (x: bf16[100,3]) -> f32[8] {
  %x = bf16[100,3]{1,0:T(8,128)(2,1)} parameter(0)
  %s = (bf16[100,3]{1,0:T(8,128)(2,1)S(1)}, bf16[100,3]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %c = bf16[100,3]{1,0:T(8,128)(2,1)S(1)} copy-done(%s)
  %e = bf16[100,3]{0,1:T(8,128)(2,1)} exponential(%c)
  %w = (s32[]{:T(128)}, f32[64,128]) while(%t), condition=%go, body=%turn
}
"""
    copied, written = 104 * 128 * 2, 8 * 128 * 2  # each in whole tiles
    turns = 7 * 2 * (4 * 8 * 128)  # eight rows read, eight written
    assert hlo.moved(text) == copied + written + turns


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window_strides": (2, 1), "padding": ((1, 0), (2, 3))},
        {"padding": ((-1, 2), (0, 0)), "rhs_dilation": (2, 1)},
        {"lhs_dilation": (3, 2), "padding": ((2, 2), (1, 4)), "window_strides": (2, 2)},
        {"feature_group_count": 3, "padding": "SAME"},
        {"batch_group_count": 2},
    ],
)
def test_a_convolution_multiplies_what_xla_counts(options):
    channels = 6 // options.get("feature_group_count", 1)
    x = jax.ShapeDtypeStruct((4, 9, 8, 6), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 2, channels, 12), jnp.float32)
    options = {"window_strides": (1, 1), "padding": "VALID", **options}
    numbers = ("NHWC", "HWIO", "NHWC")
    lowered = jax.jit(
        lambda x, k: jax.lax.conv_general_dilated(x, k, dimension_numbers=numbers, **options)
    ).lower(x, kernel)
    text = lowered.compiler_ir("hlo").as_hlo_text()
    assert hlo.multiplied(text) == lowered.cost_analysis()["flops"] > 0


def test_products_in_a_loop_count_as_often_as_it_runs():
    # The compiler counts them once, so that a loss in tiles had a sixteenth of its work.
    def products(xs, w):
        return jax.lax.scan(lambda w, x: (jnp.tanh(x @ w), None), w, xs)[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 8, 8), (8, 8))]
    compiled = jax.jit(products).lower(*shapes).compile()
    by_hand = 16 * 2 * 8**3
    assert hlo.multiplied(compiled.as_text()) == by_hand
    cost = compiling.cost_of(compiled, placement_over(jax.devices()[:1], 8))
    assert cost.flops == by_hand


def test_slices_are_named_as_they_are_rented(monkeypatch):
    for name, said in {
        "v7-8": "is no TPU: name one of v5e, v5p, v6e",
        "8": "is no TPU",
        "v5e-3": "of v5e this knows 1, 4, 8",
        "v5p-7": "of v5p this knows 2, 8, 16",
        # libtpu's v4 has a device a core, and JAX's mesh refuses it in a traceback.
        "v4-8": "JAX computes on its chips: name one of v5e, v5p, v6e, such as v5p-8",
    }.items():
        with pytest.raises(InputError, match=re.escape(said)):
            compiling.describe_slice(name)
    for name in ("v5litepod-8", "V5E-8", "v5e-8"):
        assert compiling.chips_of(name) == ("v5e", 8)
    for number in (4, 8, 16, 32, 64, 128, 256):
        for axes in (2, 3):
            sides = compiling._sides(number, axes)
            assert math.prod(sides) == number
            assert max(sides) <= 2 * min(sides)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape('pip install "jax[tpu]"')):
        compiling.describe_slice("v5e-1")


def cost(memory, **more):
    kinds = {field.name: 0 for field in dataclasses.fields(compiling.Cost)}
    return compiling.Cost(**kinds | {"temporaries": int(memory), "collectives": {}} | more)


def test_the_bound_is_the_slowest_of_three():
    found = cost(1e9, moved=819e6, flops=197e9, sent=2e6)
    bounds = found.bounds(compiling.CHIPS["v5e"])
    assert bounds == pytest.approx({"memory": 1e-3, "matrix units": 1e-3, "links": 1e-5})
    text = program.table(dataclasses.replace(found, flops=1e12), chips())
    assert "5.08  1.00 TFLOP at 197 a second, which binds" in text
    assert "1.00  0.819 GB moved" in text
    assert "5.82% of 17.2" in text
    # What is small is no 0.
    text = program.table(cost(123e3, moved=45e3, sent=0.0), chips())
    assert "<0.001  <0.001% of 17.2" in text
    assert "<0.001  <0.001 GB moved" in text


@pytest.mark.parametrize("fixed", [0.2, 5, 15])
@pytest.mark.parametrize("per_image", [1e-4, 0.013, 1.7])
def test_the_largest_batch_is_the_one_that_trying_all_finds(fixed, per_image, capsys):
    tried = []

    def compile_for(batch):
        tried.append(batch)
        needs = (fixed + per_image * batch / 4) * GIB
        if needs > 15.75 * GIB:
            raise compiling.DoesNotFit(needs, 15.75 * GIB)
        return cost(needs)

    said = program.largest_batch(compile_for, 256, (fixed + per_image * 64) * GIB, chips())
    every = [4 * 2**k for k in range(16) if fixed + per_image * 2**k <= 15.75]
    assert f"{every[-1]:,} (" in said if every else "not even 4 images" in said
    # The last that is tried is not called the largest: nobody asked for the next.
    assert ("larger were not tried" in said) == (bool(every) and every[-1] == program.LARGEST)
    assert len(tried) == len(set(tried)) <= 9


@pytest.mark.parametrize(
    "said",
    [
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 27.89G of 15.75G hbm. Exceeded hbm capacity by 12.1G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (27.89G) exceeds available HBM (15.75G).",
    ],
)
def test_both_of_the_compiler_s_complaints_are_understood(said):
    error = compiling.out_of_memory(said)
    assert (error.needs, error.has) == (27.89 * GIB, 15.75 * GIB)
    assert compiling.out_of_memory("INTERNAL: " + said.partition(":")[2]) is None


def test_what_does_not_fit_is_one_line_with_settings_that_were_seen_to_fit(capsys):
    settings = simclr.SimCLR(batch_size=256, image_size=128, color="rgb")
    error = compiling.DoesNotFit(18.1 * GIB, 15.75 * GIB)

    def fits(*ways):
        def compile_with(**changed):
            if changed not in ways:
                raise compiling.DoesNotFit(17 * GIB, 15.75 * GIB)
            return cost(GIB)

        return compile_with

    def advice(settings, *ways, number=1):
        return program.advice(error, settings, chips(number), fits(*ways))

    line = advice(settings, {"batch_size": 128}, {"bfloat16": True}, {"image_size": 96})
    assert "\n" not in line
    assert "needs 19.4 of 16.9 GB a chip. --bfloat16 or --batch-size 128 or --image-size 96" in line
    assert line.endswith("or more chips fits")
    assert "trying --image-size 112" in capsys.readouterr().out  # the first guess
    assert advice(settings, {"batch_size": 32}).endswith("--batch-size 32 or more chips fits")
    assert advice(settings).endswith("no setting tried fits: more chips may")
    # A batch of one cannot be spread over more chips, nor what every chip holds.
    one = dataclasses.replace(settings, batch_size=1)
    assert advice(one).endswith("none of the settings tried fits")
    resident = dataclasses.replace(settings, resident=True)
    assert advice(resident, {"resident": False}).endswith("GB a chip. --no-resident fits")


def test_flags_of_the_program_and_of_compiling_are_read_together(monkeypatch):
    module, flags = program.parse(["simclr", "--for", "v6e-8", "--preset", "plankton"])
    assert module is simclr
    assert (flags.chips, flags.image_size, flags.largest_batch) == ("v6e-8", 128, False)
    assert program.parse(["rnn", "--for=v5p-8"])[1].chips == "v5p-8"
    for name, said in {"finetune": "compile softmax", "frozen": "nothing is trained"}.items():
        with pytest.raises(InputError, match=said):
            program.parse([name])


def test_what_is_assumed_is_said_and_can_be_told():
    sizes = ["--image-size", "256", "--color", "rgb"]
    folder = ["softmax", "--preset", "folder", "--resident", *sizes]
    _, flags = program.parse(folder)
    line = program.first_line(flags, flags, chips(4))
    assert "10 classes, on v5e-4" in line
    assert "45,000 images resident on each" in line
    told = ["--classes", "121", "--resident-images", "500", "--data-dir", "x"]
    module, flags = program.parse([*folder, *told])
    line = program.first_line(flags, flags, chips(4))
    assert "121 classes" in line
    assert "500 images resident" in line
    assert "no image of --data-dir is read" in line
    leaves = jax.tree.leaves(
        nnx.state(program.shapes_of(module, flags, program.classes_of(flags)).model)
    )
    assert any(121 in leaf.shape for leaf in leaves)
    # As many as a run would refuse.
    with pytest.raises(InputError, match=r"45,000 images of 256 x 256 x 3 would take 8\.2 GiB"):
        compiling.check_resident((45_000, 256, 256, 3))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--text", "/nonexistent/hlo.txt"], "no folder of that name"),
        (["--batch-size", "255", "--for", "v5e-8"], "cannot be split over 8 chips"),
    ],
)
def test_what_can_be_told_at_once_is_told_before_anything_is_compiled(monkeypatch, flags, said):
    monkeypatch.setattr(compiling, "describe_slice", None)
    monkeypatch.setattr(program, "prepare", lambda: None)
    with pytest.raises(InputError, match=said):
        program.main(*program.parse(["simclr", *flags]))


def test_a_signal_is_heard_while_the_compiler_works(tmp_path):
    code = (
        # A shell ignores Ctrl-C in what it runs behind, and so do that one's children.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import time; from experiments import cli, compile;"
        "from jaxssl.training import compiling;"
        "print('compiling', flush=True);\n"
        "def work():\n"
        "    with compiling._quiet():\n"  # as the compiler works: what it says is dropped
        "        time.sleep(60)\n"
        "cli.start(lambda: compile.in_a_thread(work), lambda given: ())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "compile: interrupted; nothing is kept of what was compiled\n"


@pytest.mark.program
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='a TPU\'s compiler is needed: pip install "jax[tpu]"',
)
def test_the_digits_step_fits_a_v5e_chip_and_holds_no_gather_of_pixels(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.compile", "simclr", "--for", "v5e-1"),
            *("--text", tmp_path / "hlo.txt"),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    assert "memory of a chip" in done.stdout
    assert "collectives: none" in done.stdout
    moved = float(re.search(r"([\d.]+) GB moved", done.stdout)[1])
    assert moved < 0.6  # half as much again as libtpu 0.0.42 says
    text = (tmp_path / "hlo.txt").read_text()
    assert "convolution" in text
    gathers = re.findall(r"= \w+\[([\d,]+)\]\S* gather\(", text)
    pixels = 2 * 256 * 16
    assert not [g for g in gathers if math.prod(map(int, g.split(","))) > pixels], gathers


@pytest.mark.program
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='a TPU\'s compiler is needed: pip install "jax[tpu]"',
)
def test_a_gather_of_resident_images_copies_neither_them_nor_pads_their_channels():
    # Of rows of 48 KB the table was copied in every step, 1.97 GB of 20,000 images.
    code = (
        "from experiments import compile; compile.prepare();"
        "import jax, jax.numpy as jnp; from jaxssl.training import compiling, devices, hlo;"
        "shape = (20_000, 128, 128, 3); tpu = compiling.describe_slice('v5e-1');"
        "where = devices.placement_over(tpu.devices, 64);"
        "table = jax.ShapeDtypeStruct(devices.Resident.laid_out(shape), jnp.uint8);"
        "index = jax.ShapeDtypeStruct((64,), jnp.int32);"
        "images = devices.Resident(table, shape[1:]);"
        "take = lambda table, i: images.gather(table, i).astype(jnp.float32).mean((1, 2));"
        "made = jax.jit(take, in_shardings=(where.replicated, where.sharded)).lower(table, index);"
        "made = made.compile();"
        "print(made.memory_analysis().temp_size_in_bytes, hlo.moved(made.as_text()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    temporaries, moved = map(float, done.stdout.split())
    images = 64 * 128 * 128 * 3
    assert temporaries < 20 * images
    assert moved < 40 * images
