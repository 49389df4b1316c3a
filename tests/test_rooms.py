"""Imports point one way; what is written once is written in its room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "losses": {"jax"},
    "augment": {"jax"},
    "models": {"jax", "flax", "numpy"},
    "data": {"numpy", "grain", "tensorflow_datasets", "PIL", "sklearn", "pyarrow"},
    "training": {"jax", "flax", "optax", "orbax", "numpy", "tqdm", "tensorboardX"},
    "analysis": {
        *("numpy", "sklearn", "scipy", "matplotlib", "pyarrow", "jinja2", "umap", "PIL"),
        *("threadpoolctl", "markupsafe"),
    },
}


def imports(file: Path) -> set[str]:
    """Every module a file imports, wherever in it, but for type checking."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    files = sorted((ROOT / "jaxssl" / room).rglob("*.py"))
    assert files
    own = (f"jaxssl.{room}", "jaxssl.errors", "jaxssl.files", "jaxssl.lowering")
    for file in files:
        for name in imports(file):
            package = name.split(".")[0]
            if package == "jaxssl":
                assert name.startswith(own), f"{file} imports {name}"
            elif package not in sys.stdlib_module_names:
                assert package in ROOMS[room], f"{file} imports {name}"


def test_no_two_modules_of_the_data_room_import_each_other():
    """Not in a circle of any length, imports inside functions included."""
    files = {f"jaxssl.data.{file.stem}": file for file in (ROOT / "jaxssl/data").glob("[!_]*.py")}
    needs = {
        name: {
            other
            for found in imports(file)
            for other in files
            if f"{found}.".startswith(f"{other}.")
        }
        for name, file in files.items()
    }
    while free := [name for name in needs if not needs[name] & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs


def test_nothing_in_the_library_imports_a_program():
    for file in (ROOT / "jaxssl").rglob("*.py"):
        assert not {name for name in imports(file) if name.startswith("experiments")}, file


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("nnx.merge(", {"training/step.py", "models/describe.py"}),  # describe runs nothing
        ("make_mesh(", {"training/devices.py"}),
        ("from orbax", {"training/checkpoint.py"}),
    ],
)
def test_written_once(text, home):
    found = {
        str(file.relative_to(ROOT / "jaxssl"))
        for file in (ROOT / "jaxssl").rglob("*.py")
        if text in file.read_text()
    }
    assert found == home


def loaded_by(code: str) -> set[str]:
    """The top-level packages in a fresh process after some code."""
    script = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_help_does_not_pay_for_jax():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments.simclr", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "--temperature" in done.stdout
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not modules & {"jax", "numpy", "umap", "sklearn", "matplotlib"}


def test_a_loss_needs_jax_alone():
    heavy = {"flax", "optax", "orbax", "grain", "sklearn", "matplotlib", "PIL"}
    assert not loaded_by("from jaxssl.losses import nt_xent") & heavy


def test_the_data_room_opens_quickly():
    heavy = {"jax", "grain", "tensorflow_datasets", "sklearn", "pyarrow", "tensorflow"}
    assert not loaded_by("import jaxssl.data") & heavy


def test_the_analysis_needs_no_jax():
    rooms = sorted(path.stem for path in (ROOT / "jaxssl" / "analysis").glob("[!_]*.py"))
    code = "import " + ", ".join(f"jaxssl.analysis.{name}" for name in rooms)
    assert not loaded_by(code) & {"jax", "umap", "numba"}
