"""The row classifiers: a few steps, their optimizer against torch's, settings from a file."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp

from experiments import cli, judging, rnn
from experiments.images import load_data
from jaxssl.errors import InputError
from jaxssl.files import read_lines as read_metrics
from jaxssl.training import devices
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.state import create_state

pytestmark = pytest.mark.program

SMALL = dataclasses.replace(
    rnn.PRESETS["digits"],
    seen=("0", "1", "2"),
    unseen=("6",),
    batch_size=64,
    steps=4,
    log_every=1,
    image_size=8,
    hidden=8,
    l2=6,
    l3=5,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Four steps and a validation, not judged: as a trial of the tuning."""
    folder = tmp_path_factory.mktemp("rnn")
    config = dataclasses.replace(SMALL, run_dir=str(folder / "run"), plateau=1, epochs=2)
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        rnn.main(config, lambda row: heard.append(dict(row)))
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    return SimpleNamespace(config=config, folder=folder / "run", rows=rows, heard=heard)


def test_what_is_validated_is_what_is_saved(trained):
    config = trained.config
    model, optimizer = rnn.make_model(config), rnn.make_optimizer(config, 12)
    placement = devices.data_placement(config.batch_size)
    with Checkpoints(trained.folder / "checkpoints") as checkpoints:
        blank = placement.replicate(create_state(model, optimizer))
        state, _ = checkpoints.restore(blank, step=4)
    images = load_data(config).val
    order = np.random.default_rng(0).permutation(len(images))[:24]  # what eight devices divide
    classify = judging.compile_encode(model, placement, lambda model, images: model(images)[1])
    logits = judging.embed(classify, state, images, placement)[order].astype(np.float64)
    labels = images.labels[order]
    loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(24), labels])
    (row,) = [row for row in trained.rows if row["split"] == "val"]
    assert row["loss"] == pytest.approx(loss, rel=1e-4)
    assert row["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels), abs=1e-6)
    assert [found.items() <= row.items() for found in trained.heard] == [True]
    assert [row["step"] for row in trained.rows if row["split"] == "train"] == [1, 2, 3, 4]
    assert {"loss", "accuracy"} <= trained.rows[0].keys()
    assert state.opt_state[-1].count == 4  # of the six steps of the plateau's epoch


def test_no_one_judged_it(trained):
    names = {path.name for path in trained.folder.iterdir()}
    assert "checkpoints" in names
    assert not {"embeddings", "results.json", "report"} & names


def test_the_optimizer_is_torchs_with_its_plateau():
    """Adam with coupled weight decay; ReduceLROnPlateau of the epochs' means, one epoch earlier."""
    torch = pytest.importorskip("torch", reason="parity with torch's Adam and ReduceLROnPlateau")
    random = np.random.default_rng(0)
    grads = random.normal(size=(10, 4)).astype(np.float32)
    losses = np.float32([3, 1, 2, 1, 2, 2, 2, 2, 2, 1])  # epochs of two steps
    start = random.normal(size=4).astype(np.float32)
    config = dataclasses.replace(SMALL, plateau=2, epochs=5, weight_decay=0.3, learning_rate=0.1)

    weights = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.Adam([weights], lr=0.1, weight_decay=0.3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.1, patience=1)
    optimizer = rnn.make_optimizer(config, 10)
    params = jnp.array(start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for i, (grad, loss) in enumerate(zip(grads, losses, strict=True)):
        if i % 2:  # optax looks before an epoch's last step, torch after it
            scheduler.step(losses[i - 1 : i + 1].mean())
        weights.grad = torch.tensor(grad)
        adam.step()
        updates, state = update(grad, state, params, value=loss)
        params = params + updates
        np.testing.assert_allclose(params, weights.detach(), rtol=1e-5, atol=1e-6)
    assert adam.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_cifars_rows_are_96_values(cell, gates):
    config = dataclasses.replace(SMALL, cell=cell, layers=3, hidden=256, l2=64, l3=32)
    config = dataclasses.replace(config, image_size=32, color="rgb", seen=tuple("0123456789"))
    model = nnx.eval_shape(lambda: rnn.make_model(config))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.encoder, nnx.Param)))
    assert count == sum(gates * 256 * (inputs + 256 + 2) for inputs in (96, 256, 256))
    head = model.head
    assert [linear.kernel.shape for linear in head.linears] == [(256, 64), (64, 32)]
    assert head.classifier.kernel.shape == (32, 10)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    h, logits = nnx.eval_shape(lambda model, images: model(images), model, images)
    assert (h.shape, logits.shape) == ((2, 256), (2, 10))


def test_settings_come_from_a_file_and_flags_win(tmp_path):
    file = tmp_path / "best.json"
    settings = {
        "cell": "lstm",
        "hidden": 512,
        "learning_rate": 0.01,
        "views": True,
        "steps": None,
        "seen": ["3", "4"],
        "lookalikes": None,
        "dataset": "digits",
    }
    file.write_text(json.dumps(settings))
    config = cli.parse(["--hidden", "128", "--config", str(file), "--no-views"], rnn.PRESETS)
    expected = {"cell": "lstm", "hidden": 128, "learning_rate": 0.01, "seen": ("3", "4")}
    expected |= {"views": False, "config": str(file)}
    assert config == dataclasses.replace(rnn.PRESETS["digits"], **expected)
    file.write_text(json.dumps({"dataset": "plankton", "epochs": 3}))
    config = cli.parse([f"--config={file}"], rnn.PRESETS)
    assert config.seen == rnn.PRESETS["plankton"].seen
    assert (config.image_size, config.epochs) == (128, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hiden": 3, "cell": "gru", "depth": 1}', "this program has not: depth, hiden"),
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no settings"),
        (None, "cannot be read as JSON: .*No such file"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message, monkeypatch, capsys):
    file = tmp_path / "best.json"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["rnn", "--config", str(file)])
    with pytest.raises(SystemExit) as end:
        cli.run(rnn.main, rnn.PRESETS)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    with pytest.raises(InputError, match=message):
        cli.parse(["--config", str(file)], rnn.PRESETS)


def test_describe_prints_the_model(capsys):
    rnn.main(dataclasses.replace(SMALL, describe=True, layers=2))
    out = capsys.readouterr().out
    assert "encoder/layers/1/recurrent" in out
    assert "head/classifier" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "--layers is 0"),
        ({"weight_decay": -1.0}, "--weight-decay is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_settings_are_one_line(changes, message):
    with pytest.raises(InputError, match=message) as error:
        rnn.main(dataclasses.replace(SMALL, **changes))
    assert "\n" not in str(error.value)
