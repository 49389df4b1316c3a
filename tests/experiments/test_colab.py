"""The notebook is what its source makes, and runs from top to bottom where there is no Colab."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import STUBS

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments" / "colab.ipynb"


def cells(kind):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def test_the_notebook_is_what_its_source_makes():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/make_notebook.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    both = cells("markdown") + cells("code")
    assert all(set(cell) >= {"id", "metadata", "source"} for cell in both)
    assert not any("# %%" in line or line == '"""\n' for cell in both for line in cell["source"])
    # The source is a program too, and says the same as the cells in order.
    in_order = "\n".join("".join(cell["source"]) for cell in cells("code"))
    compile(in_order, "cells", "exec")


def execute(settings, tmp_path):
    """Run all code cells in order, with other settings, in a process of its own."""
    sources = []
    for cell in cells("code"):
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", ()):
            source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in settings.items())
        sources.append(source)
    if importlib.util.find_spec("nbclient"):
        script = (
            "import json, sys, nbformat, nbclient\n"
            "book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)"
            " for source in json.load(open(sys.argv[1]))])\n"
            "book = nbclient.NotebookClient(book, timeout=600).execute()\n"
            "for cell in book.cells:\n"
            "    for output in cell.outputs:\n"
            "        print(output.get('text', ''), end='')\n"
            "        print('iframe' if 'iframe' in str(output.get('data', '')) else '')\n"
        )
    else:
        script = (
            "import json, sys\n"
            "names = {'__name__': '__main__'}\n"
            "for source in json.load(open(sys.argv[1])):\n"
            "    exec(compile(source, 'cell', 'exec'), names)\n"
        )
    file = tmp_path / "cells.json"
    file.write_text(json.dumps(sources))
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    quick = {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, file],
        cwd=ROOT,
        env=os.environ
        | quick
        | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{STUBS}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.program
def test_it_runs_from_top_to_bottom_on_a_cpu(tmp_path):
    few = "--steps 2 --batch-size 32 --draws 2 --labels 10 --seen 0 1 --unseen 6 7"
    done = execute({"RUNS": str(tmp_path), "RUN": "tiny", "FLAGS": few}, tmp_path)
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    assert "\ncpu; " in done.stdout  # the device was asked for its name
    report = tmp_path / "tiny" / "report" / "index.html"
    assert report.is_file()
    assert str(report) in done.stdout
    assert (tmp_path / "tiny" / "checkpoints").is_dir()


def test_a_setting_that_is_wrong_ends_in_a_sentence(tmp_path):
    done = execute({"IMAGES": "not/there", "SOURCE": ""}, tmp_path)
    assert done.returncode
    assert "IMAGES is 'not/there', which is not there." in done.stderr
    assert "experiments.simclr" not in done.stdout
