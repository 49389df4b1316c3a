"""The notebook is what its source makes; it runs from top to bottom in test_simclr."""

import subprocess
import sys

from .conftest import ROOT, colab_cells, execute_colab


def test_the_notebook_is_what_its_source_makes():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/make_notebook.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    both = colab_cells("markdown") + colab_cells("code")
    assert all(set(cell) >= {"id", "metadata", "source"} for cell in both)
    assert not any("# %%" in line or line == '"""\n' for cell in both for line in cell["source"])
    # The source is a program too, and says the same as the cells in order.
    in_order = "\n".join("".join(cell["source"]) for cell in colab_cells("code"))
    compile(in_order, "cells", "exec")


def test_a_setting_that_is_wrong_ends_in_a_sentence(tmp_path):
    done = execute_colab({"IMAGES": "not/there", "SOURCE": ""}, tmp_path)
    assert done.returncode
    assert "IMAGES is 'not/there', which is not there." in done.stderr
    assert "experiments.simclr" not in done.stdout
