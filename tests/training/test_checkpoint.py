"""Checkpoints that were whole, half written, damaged, or of another model."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from jaxssl.errors import CheckpointError, InputError
from jaxssl.files import write_record
from jaxssl.training.checkpoint import MANIFEST, Checkpoints, damage
from jaxssl.training.state import create_state

from .conftest import Net, method_of, placement, same


def state_of(seed: int, devices: int = 1, classes: int = 4):
    method = method_of(model=Net(nnx.Rngs(seed), classes))
    return placement(devices).replicate(create_state(method))


@pytest.fixture
def saved(tmp_path):
    """Steps 1, 2 and 3 of three different states."""
    states = {step: state_of(step) for step in (1, 2, 3)}
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"step": step, "score": 1.0 / step})
    return tmp_path, states


def restore(folder, like=None, **options):
    said = []
    with Checkpoints(folder, say=said.append) as checkpoints:
        state, facts = checkpoints.restore(like or state_of(0), **options)
    return state, facts, said


def test_round_trip_bit_for_bit_with_random_keys(saved):
    folder, states = saved
    state, facts, said = restore(folder)
    assert same(state, states[3])
    assert facts["step"] == 3
    assert not said
    assert jax.tree.structure(state) == jax.tree.structure(states[3])
    assert same(restore(folder, step=1)[0], states[1])


@pytest.mark.parametrize(("source", "target"), [(8, 1), (1, 8), (8, 2)])
def test_another_number_of_devices(tmp_path, source, target):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state_of(5, source), {})
    state, _, _ = restore(tmp_path, state_of(0, target))
    assert same(state, state_of(5))
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == target


def test_any_flipped_bit_falls_back_to_the_step_before(saved):
    """One random bit of every file of the newest step, one file at a time."""
    folder, states = saved
    random = np.random.default_rng(0)
    files = sorted(path for path in (folder / "3").rglob("*") if path.is_file())
    assert len(files) > 4
    for file in files:
        content = file.read_bytes()
        if not content:
            continue
        broken = bytearray(content)
        broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        file.write_bytes(broken)
        assert "was changed" in damage(folder / "3"), file.name
        file.write_bytes(content)
    assert damage(folder / "3") is None

    data = max(files, key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    state, facts, said = restore(folder)
    assert same(state, states[2])
    assert facts["step"] == 2
    assert "checkpoint 3 skipped" in said[0]
    assert (folder / "quarantine" / "3").is_dir()


@pytest.mark.parametrize(
    "harm", ["delete", "truncate", "no manifest", "bad manifest", "foreign", "empty"]
)
def test_a_damaged_step_is_skipped_and_named(saved, harm):
    folder, states = saved
    data = max((folder / "3").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    if harm == "delete":
        data.unlink()
    elif harm == "truncate":
        os.truncate(data, 1)
    elif harm == "no manifest":  # killed between Orbax's commit and ours
        (folder / "3" / MANIFEST).unlink()
    elif harm == "bad manifest":
        (folder / "3" / MANIFEST).write_text("{")
    elif harm == "foreign":  # with a checksum that fits
        write_record(folder / "3" / MANIFEST, {"files": []})
    else:  # an interrupted copy of a run folder
        (folder / "99").mkdir()
    state, _, said = restore(folder)
    assert same(state, states[3 if harm == "empty" else 2])
    assert len(said) == 1
    again = 99 if harm == "empty" else 3
    with Checkpoints(folder) as checkpoints:  # the next save of that step is not refused
        checkpoints.save(again, states[1], {})
    assert same(restore(folder, step=again)[0], states[1])


def test_an_asked_step_is_never_replaced_by_another(saved):
    folder, _ = saved
    (folder / "3" / MANIFEST).unlink()
    with pytest.raises(InputError, match="not finished"):
        restore(folder, step=3)
    with pytest.raises(InputError, match="no such folder"):
        restore(folder, step=7)


def test_another_model_is_named_parameter_by_parameter(saved):
    folder, _ = saved
    with pytest.raises(InputError, match=r"params\.head\.0\.bias: checkpoint \(4,\), model \(6,\)"):
        restore(folder, state_of(0, classes=6))


def test_a_changed_score_is_not_believed_and_said(tmp_path):
    said = []
    with Checkpoints(tmp_path, keep=3, say=said.append) as checkpoints:
        for step, score in enumerate([3.0, 1.0, 2.0], 1):
            checkpoints.save(step, state_of(0), {"score": score})
        checkpoints.finish()
        manifest = tmp_path / "3" / MANIFEST
        manifest.write_text(manifest.read_text().replace('"score": 2.0', '"score": 0.5'))
        assert checkpoints.best_step() == 2
    assert said == [
        f"checkpoint 3: {MANIFEST} cannot be read, or was changed after it was written; "
        "whether it is the best is not known"
    ]


def test_a_folder_that_was_removed_is_noticed_at_the_next_save(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        shutil.rmtree(folder)
        with pytest.raises(CheckpointError, match="No such file"):
            checkpoints.save(1, state_of(0), {})
    assert not folder.exists()


def test_keeps_the_newest_and_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, score in enumerate([3.0, 1.0, 1.0, None, 2.0, 2.0], 1):
            checkpoints.save(step, state_of(0), {"score": score})
        checkpoints.finish()
        assert checkpoints.steps() == [3, 5, 6]
        assert checkpoints.best_step() == 3  # the latest of equals


def test_a_kill_while_an_old_step_is_removed_leaves_no_half_of_it(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def some_files(folder, **_):
        next(file for file in folder.rglob("*") if file.is_file()).unlink()
        raise Killed

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state_of(1), {})
        checkpoints.finish()
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", some_files)
            checkpoints.save(2, state_of(2), {})
            with pytest.raises(Killed):
                checkpoints.finish()
        assert checkpoints.steps() == [2]
    with Checkpoints(tmp_path) as checkpoints:
        assert [path.name for path in tmp_path.iterdir()] == ["2"]
        assert damage(tmp_path / "2") is None


def test_leftovers_of_a_kill_are_cleared(saved):
    folder, states = saved
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-0")
    state, _, _ = restore(folder)
    assert same(state, states[3])
    assert not list(folder.glob("*tmp*"))


def test_a_failed_save_is_an_error_with_the_space_left(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("jaxssl.training.checkpoint.write_manifest", full)
        checkpoints.save(1, state_of(0), {})
        with pytest.raises(CheckpointError, match=r"1 failed, \d+ MB free there.*No space"):
            checkpoints.finish()
        checkpoints.save(2, state_of(0), {})
        with pytest.raises(CheckpointError):  # the last one too: never a silent exit
            checkpoints.__exit__()
        monkeypatch.undo()


def test_manifest_covers_every_file(saved):
    folder, _ = saved
    listed = set(json.loads((folder / "3" / MANIFEST).read_text())["files"])
    there = {str(p.relative_to(folder / "3")) for p in (folder / "3").rglob("*") if p.is_file()}
    assert there - listed == {MANIFEST}
