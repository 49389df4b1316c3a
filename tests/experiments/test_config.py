"""The flags as data: their ranges, what they belong to, and who has which."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import math

import pytest

from experiments import (
    arcface,
    baseline,
    cli,
    config,
    datasets,
    finetune,
    folders,
    frozen,
    linear_eval,
    networks,
    predict,
    presets,
    report,
    simclr,
    softmax,
    study,
    watching,
)
from jaxssl.errors import InputError

STUDIES = {name: importlib.import_module(f"experiments.{name}") for name in cli.STUDIES}
# Those that train a network on images of their own.
TRAIN = {n: program for n, program in STUDIES.items() if program not in (finetune, frozen)}
KINDS = [type(next(iter(program.PRESETS.values()))) for program in STUDIES.values()]
KINDS += [linear_eval.LinearEval, report.Report, predict.Predict]

# By hand: the rule, what is just inside, what is just outside.
RULES = {
    "0 or more": ([0, 0.0], [-1, -1e-9, math.nan, math.inf]),
    "1 or more": ([1], [0, -5]),
    "2 or more": ([2], [1]),
    "above 0": ([1e-9, 5], [0.0, -1.0, math.nan, math.inf]),
    "0 to 1": ([0.0, 1.0], [-0.1, 1.1, math.nan]),
    "above 0 and at most 1": ([1e-9, 1.0], [0.0, 1.0001, math.nan]),
    "0 or more and below 1": ([0.0, 0.999], [1.0, -0.1, math.nan]),
}
OF = {
    "0 or more": {
        *("weight_decay", "seed", "keep_every", "process", "patience", "margin"),
        *("hard_negatives_from", "hard_positives_from", "images_per_class"),
    },
    "1 or more": {
        *(
            "min_images",
            "image_size",
            "width",
            "batch_size",
            "epochs",
            "steps",
            "log_every",
            "processes",
        ),
        *(
            "average_views",
            "steps_per_dispatch",
            "features",
            "layers",
            "hidden",
            "l2",
            "l3",
            "plateau",
        ),
    },
    "2 or more": {"draws"},
    "above 0": {
        *("learning_rate", "evaluate_epochs", "save_minutes", "temperature", "scale"),
        "join_seconds",
    },
    "0 to 1": {"min_score"},
    "above 0 and at most 1": {"label_fraction", "layer_decay"},
    "0 or more and below 1": {"warmup", "dropout"},
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_number_has_a_range_and_is_refused_by_its_flag(kind):
    settings = kind()
    for field in dataclasses.fields(kind):
        default = getattr(settings, field.name)
        number = isinstance(default, int | float) and not isinstance(default, bool)
        rules = [rule for rule, names in OF.items() if field.name in names]
        assert len(rules) == 1 if number else len(rules) <= 1, field.name
        for rule in rules:
            good, bad = RULES[rule]
            for value in good:
                changed = dataclasses.replace(settings)
                object.__setattr__(changed, field.name, value)
                config.check_ranges(changed)
            for value in bad:
                changed = dataclasses.replace(settings)
                object.__setattr__(changed, field.name, value)  # what a check of its own would say
                with pytest.raises(InputError) as error:
                    config.check_ranges(changed)
                flag = f"--{field.name.replace('_', '-')}"
                assert str(error.value) == f"{flag} is {value}: it must be {rule}"


@pytest.mark.parametrize("name", STUDIES)
def test_a_number_out_of_range_ends_a_program_before_anything_is_written(name, tmp_path):
    program = STUDIES[name]
    settings = next(iter(program.PRESETS.values()))
    changed = dataclasses.replace(settings, run_dir=str(tmp_path / "run"), draws=1)
    message = r"^--draws is 1: it must be 2 or more$"
    with pytest.raises(InputError, match=message), study.open(changed):
        pass
    assert not (tmp_path / "run").exists()


def test_a_margin_is_of_its_kind():
    arc = arcface.ArcFace()
    assert arc.margin == 0.5
    assert dataclasses.replace(arc, kind="cosface", margin=None).margin == 0.35
    assert dataclasses.replace(arc, kind="cosface", margin=0.2).margin == 0.2
    with pytest.raises(InputError, match=r"arcface's lies in \[0, 1\.571\), in radians, not degr"):
        arcface.ArcFace(margin=30.0)
    with pytest.raises(InputError, match=r"cosface's lies in \[0, 1\)"):
        arcface.ArcFace(kind="cosface", margin=1.0)


def test_a_folder_on_a_gpu_is_trained_as_the_tables_networks_were():
    mine, theirs = (simclr.PRESETS[name] for name in ("folder-lite0-gpu", "plankton-lite0"))
    other = {
        field.name
        for field in dataclasses.fields(mine)
        if getattr(mine, field.name) != getattr(theirs, field.name)
    }
    assert other == {"seen", "unseen", "background", "labels"}


@pytest.mark.parametrize("name", TRAIN)
def test_a_presets_length_holds_in_every_program(name):
    found = TRAIN[name].PRESETS
    lengths = {"digits": 60, "folder": 30, "plankton-cpu": 30, "plankton-wide-cpu": 10}
    lengths |= {"cifar10": 100 if name == "rnn" else 200, "cifar10-cpu": 10}
    assert {preset: found[preset].epochs for preset in lengths} == lengths
    assert found["plankton"].epochs == type(found["plankton"])().epochs
    assert found.keys() == presets.PRESETS.keys()


def hash_of(settings) -> str:
    return config.hash_of(config.recipe(dataclasses.asdict(settings), type(settings)))


def test_the_hash_is_of_the_recipe_alone():
    base = simclr.PRESETS["digits"]
    same = [
        *({"run_dir": "elsewhere"}, {"seed": 3}, {"processes": 2, "process": 1}, {"cpu": True}),
        *({"coordinator": "a:1"}, {"gpu": True}, {"data_dir": "moved"}, {"resident": True}),
        *({"steps_per_dispatch": 4}, {"log_every": 3}, {"save_minutes": 1.0}, {"draws": 9}),
        *({"labels": (10,)}, {"on_bad_image": "skip"}, {"preset": "digits"}, {"config": "a.json"}),
    ]
    other = [
        *({"temperature": 0.2}, {"epochs": 61}, {"steps": 9}, {"judge": "last"}, {"seen": ("0",)}),
        *({"encoder": "resnet18"}, {"batch_size": 128}, {"views": "plankton"}, {"freeze": "trunk"}),
    ]
    for changes in same:
        assert hash_of(dataclasses.replace(base, **changes)) == hash_of(base), changes
    hashes = {hash_of(dataclasses.replace(base, **changes)) for changes in other}
    assert len(hashes | {hash_of(base)}) == len(other) + 1


def test_what_a_resumed_run_may_change_and_what_an_evaluation_takes_over():
    scopes = config.scopes(softmax.Softmax)
    may = {name for name, scope in scopes.items() if scope.resume}
    assert {"steps", "judge", "draws", "labels", "log_every", "processes", "data_dir", "cpu"} <= may
    assert not may & {"seed", "epochs", "learning_rate", "seen", "resident", "label_fraction"}
    own = {name for name, scope in scopes.items() if scope.own}
    places = {"data_dir", "labels_from", "image_root", "run_dir"}
    assert own == places | {"coordinator", "process", "preset", "config"}
    kept = {name for name, scope in scopes.items() if scope.kept}
    assert {"seed", "data_dir", "encoder", "label_fraction"} <= kept
    assert not kept & {"tpu", "gpu", "cpu", "run_dir", "processes", "process", "log_every"}


def accesses(module) -> set[str]:
    """The attributes that a module's source reads, and its strings, by which `getattr` reads."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return found | {node.value for node in nodes if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("name", TRAIN)
def test_a_program_has_the_flags_that_it_uses_and_no_others(name):
    program, read = TRAIN[name], set()
    kind = type(program.PRESETS["digits"])

    class Recorded(kind):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    settings = vars(program.PRESETS["digits"]) | {"schedule": "cosine"}
    outline = {"classes": ("a", "b"), "shape": (16, 16, 1), "steps_per_epoch": 2, "total_steps": 40}
    made = Recorded(**{f.name: settings[f.name] for f in dataclasses.fields(kind)})
    read.clear()
    program.make_method(made, datasets.of_outline(outline, made))
    fields = {field.name for field in dataclasses.fields(kind)}
    shared = {field.name for field in dataclasses.fields(config.Config)}
    # Read where something is frozen, where labels are few.
    seldom = accesses(networks) & {"batch_norm"} | accesses(study) & {"label_fraction"}
    assert fields - shared <= read | accesses(program) | seldom
    parts = (study, datasets, config, folders, watching, baseline, program)
    floor = set().union(*map(accesses, parts))
    assert shared - {"preset", "config"} <= floor  # these two the parser reads, of any program
    assert {"preset", "config"} <= fields


def test_a_row_classifier_has_no_encoder_to_choose_or_freeze():
    flags = {field.name for field in dataclasses.fields(STUDIES["rnn"].RNN)}
    assert not flags & {"encoder", "freeze", "pretrained", "width", "optimizer", "schedule"}


def test_every_flag_has_a_help_text():
    for kind in KINDS:
        texts = config.help_of(kind)
        assert not {f.name for f in dataclasses.fields(kind) if not texts.get(f.name)}


@pytest.mark.parametrize("name", ["embed", "predict"])
def test_a_file_of_another_ending_is_refused_before_any_work(name, monkeypatch):
    program = importlib.import_module(f"experiments.{name}")
    flags = {"embed": "Embed", "predict": "Predict"}[name]
    monkeypatch.setattr(program.finished, "open", lambda *_, **__: None)
    monkeypatch.setattr(program.study, "start_devices", lambda _: None)
    asked = getattr(program, flags)(run_dir="run", data_dir="DIR", out="there/table.xlsx")
    with pytest.raises(
        InputError, match=r"--out there/table\.xlsx: the file is written as \.\w+ or"
    ):
        program.main(asked)
