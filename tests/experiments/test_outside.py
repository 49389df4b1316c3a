"""A method from a file outside the package, BYOL, is trained, resumed and opened as any other."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import cli, finetune, finished, study
from jaxssl import embedding
from jaxssl.errors import InputError
from jaxssl.files import read_record

from .conftest import numbers, run_notebook, small, train

BYOL = str(Path(__file__).parents[1] / "outside" / "byol.py")
pytestmark = [pytest.mark.program, pytest.mark.one_device]


@pytest.fixture(scope="module")
def program():
    return cli.load_program(BYOL)


@pytest.fixture(scope="module")
def run(program, tmp_path_factory):
    """Four steps without a stop, validated at the last."""
    folder = tmp_path_factory.mktemp("byol") / "run"
    return train(program, small(program, steps=4, evaluate_epochs=0.33, run_dir=str(folder)))


def test_it_trains_and_its_teacher_follows(run):
    rows = numbers(run.rows, "train")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(0 < row["loss"] < 8 for row in rows)
    # The schedule of the step: half a cosine from .97 to 1 at the end of all epochs.
    total = run.data.total_steps
    expected = [1 - 0.03 * (np.cos(np.pi * t / total) + 1) / 2 for t in range(4)]
    np.testing.assert_allclose([row["decay"] for row in rows], expected, rtol=1e-5)
    (validated,) = numbers(run.rows, "val")
    assert validated["decay"] == pytest.approx(1 - 0.03 * (np.cos(np.pi * 4 / total) + 1) / 2)
    first = np.asarray(
        study.training.create_state(run.method).rest["teacher"]["head"]["linears"][0]["kernel"]
    )
    last = np.asarray(run.last.rest["teacher"]["head"]["linears"][0]["kernel"])
    online = np.asarray(run.last.params["online"]["head"]["linears"][0]["kernel"])
    assert 0 < np.abs(last - first).max() < np.abs(online - first).max()


def test_it_resumes_bit_for_bit(program, run, tmp_path):
    config = dataclasses.replace(run.config, run_dir=str(tmp_path / "run"))
    train(program, dataclasses.replace(config, steps=2))
    again = train(program, config)
    assert numbers(again.rows, "train") == numbers(run.rows, "train")

    def same(a, b):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, again.last, run.last)


def test_its_folder_makes_no_program_import_a_file(run):
    folder = str(run.folder)
    assert read_record(folder)["program"] == BYOL
    with pytest.raises(InputError) as error:
        finished.open(folder)
    assert f"trained by {BYOL}, which is not part of jaxssl" in str(error.value)
    assert f"--method {BYOL}" in str(error.value)


def test_its_embedding_and_its_encoder_are_taken_from_the_folder(run):
    folder = str(run.folder)
    test = run.data.test
    encode = embedding.compile_output(run.method.model, run.method.encode, run.run.placement)
    expected = embedding.embed_set(encode, run.last, test, run.run.placement)
    np.testing.assert_array_equal(embedding.embed(test, folder, method=BYOL), expected)
    config = finetune.FineTune(start=folder, method=BYOL)
    method = finetune.make_method(config, run.data)
    assert method.start.startswith("BYOL on digits, step 4 of ")
    state = study.training.create_state(method)
    kernel = state.params["encoder"]["convs"][0]["kernel"]
    np.testing.assert_array_equal(
        kernel, run.last.params["online"]["encoder"]["convs"][0]["kernel"]
    )


def test_its_notebook_opens_it(program, run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run.folder, tmp_path / "run")
    monkeypatch.setattr(cli, "load_program", lambda file: program)
    monkeypatch.setitem(program.PRESETS, "digits", run.config)
    names = run_notebook("byol", FILE=BYOL, EPOCHS=run.config.epochs, RUN=str(tmp_path / "run"))
    assert int(names["trained"].states["last"].step) == 4
    assert "'teacher'" in capsys.readouterr().out
