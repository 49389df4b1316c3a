"""The verdict on an embedding, from what collapsed and living runs have measured."""

import subprocess
import sys

import pytest

from jaxssl.analysis.health import Spread, health

GOOD = Spread(std=0.9, effective_rank=20.0)
LINE = Spread(std=0.9, effective_rank=1.9)
TRIPLET = {"loss": 0.49, "margin": 0.5, "d_ap": 0.01, "d_an": 0.02}
Z = {"z_std": 0.9, "effective_rank": 20.0}


@pytest.mark.parametrize(
    ("metrics", "spread", "state"),
    [
        ([], {}, "unknown"),
        ([], {"test": GOOD}, "not collapsed"),
        ([], {"test": GOOD, "unseen": LINE}, "collapsed"),
        ([{**Z, "z_std": 0.09}], {"test": GOOD}, "collapsed"),
        ([{**Z, "z_std": float("nan")}], {"test": GOOD}, "collapsed"),
        ([{**Z, "loss": 5.9, "chance": 6.0}], {"test": GOOD}, "at chance"),
        ([{**Z, "loss": float("nan"), "chance": 6.0}], {"test": GOOD}, "at chance"),
        ([{**Z, "loss": 2.0, "chance": 6.0}], {"test": GOOD}, "not collapsed"),
        ([{**Z, "z_std": 0.0}, {**Z, "loss": 2.0}], {"test": GOOD}, "not collapsed"),
        ([{**Z, "loss": 2.0, "chance": 6.0}, {"loss": 9.0, "z_std": None}], {}, "not collapsed"),
        ([TRIPLET], {"test": GOOD}, "collapsed"),
        ([{**TRIPLET, "loss": 0.3}, TRIPLET], {}, "collapsed"),
        ([TRIPLET, {**TRIPLET, "loss": 0.3}], {"test": GOOD}, "not collapsed"),
        ([{**TRIPLET, "d_ap": 0.4, "d_an": 0.41}], {"test": GOOD}, "not collapsed"),
        # Measured: 21 classes of plankton after the switch to hard positives, and before it.
        ([{**TRIPLET, "loss": 0.559, "d_ap": 0.090, "d_an": 0.031}], {"test": GOOD}, "collapsed"),
        ([{**TRIPLET, "loss": 0.345, "d_ap": 0.245, "d_an": 0.401}], {"test": GOOD},
         "not collapsed"),
        ([{**TRIPLET, "d_an": None}], {}, "unknown"),
    ],
)  # fmt: skip
def test_health_is_said_in_words(metrics, spread, state):
    found = health(metrics, spread)
    assert found.state == state
    assert found.text.endswith(".")


def test_a_collapsed_triplet_run_says_where_the_loss_sits_and_which_settings_help():
    text = health([TRIPLET], {"test": GOOD}).text
    assert "sits at the margin (0.490 of 0.5)" in text
    assert "0.010 and negatives of 0.020" in text
    for setting in ("hard negatives", "hard positives", "learning rate"):
        assert setting in text
    assert "--" not in text


def test_what_was_measured_is_named():
    found = health([{**Z, "z_std": 0.5}], {"unseen-x": GOOD})
    assert found.measured == {"z, training's end": Spread(0.5, 20.0), "h, unseen: x": GOOD}


def test_training_asks_without_paying_for_figures():
    code = "import jaxssl.analysis.health, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"matplotlib", "sklearn", "scipy", "umap", "jinja2"}
