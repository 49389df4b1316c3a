"""Imports point one way; what is written once is written in its room; how long things may be."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli

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
# What a file of jaxssl/integrations imports where it is used: the tool that it writes for.
TOOLS = {
    "tensorboard": {"tensorboardX"},
    "wandb": {"wandb"},
    "mlflow": {"mlflow"},
    "huggingface": {"datasets", "pyarrow"},
    "safetensors": {"safetensors"},
}
# The front door for programmers: images, a model and a run folder meet in no room.
FRONT = "embedding.py"
LIBRARY = sorted((ROOT / "jaxssl").rglob("*.py"))
PROGRAMS = sorted((ROOT / "experiments").glob("*.py"))


def imports(file: Path, *, inside: bool = True) -> set[str]:
    """Every module a file imports, wherever in it; `inside=False`: while it is imported itself."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            lazy = isinstance(child, ast.FunctionDef | ast.Lambda)
            typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if inside or not (lazy or typing):
                visit(child)

    visit(ast.parse(file.read_text()))
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


def test_what_all_rooms_stand_on_imports_nothing():
    for name in ("errors", "files"):
        found = imports(ROOT / "jaxssl" / f"{name}.py")
        others = {n for n in found if n.split(".")[0] not in sys.stdlib_module_names}
        assert {n.rsplit(".", 1)[0] for n in others} <= {"jaxssl.errors"}, name


def test_integrations_stand_on_the_rooms_and_import_their_tools_where_they_are_used():
    folder = ROOT / "jaxssl" / "integrations"
    for file in LIBRARY:
        inside, start = imports(file), imports(file, inside=False)
        if file.parent != folder:
            assert not any(name.startswith("jaxssl.integrations") for name in inside), file
            continue
        own = {"numpy"} | ({"sklearn"} if file.stem == "sklearn" else set())
        for found, allowed in ((start, own), (inside, own | TOOLS.get(file.stem, set()))):
            packages = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names)
            assert packages <= allowed | {"jaxssl"}, file


def test_one_module_crosses_the_rooms_and_asks_the_programs_and_says_why():
    crossing = set()
    for file in LIBRARY:
        found = imports(file)
        rooms = {n.split(".")[1] for n in found if n.startswith("jaxssl.")} & ROOMS.keys()
        inside = file.parent.name != "integrations" and len(rooms) > 1
        if any(name.startswith("experiments") for name in found) or inside:
            crossing.add(file.name)
    assert crossing == {FRONT}
    lines = (ROOT / "jaxssl" / FRONT).read_text().splitlines()
    asks = next(i for i, line in enumerate(lines) if "from experiments import" in line)
    assert lines[asks].startswith(" ")  # where it is called, not where it is imported
    assert lines[asks - 1].strip().startswith("#")


@pytest.mark.parametrize(
    ("text", "home"),
    [
        # describe and the front door run no training.
        ("nnx.merge(", {"training/step.py", "models/describe.py"}),
        ("make_mesh(", {"training/devices.py"}),
        ("from orbax", {"training/checkpoint.py"}),
        ("os.replace(", {"files.py"}),
    ],
)
def test_written_once(text, home):
    found = {str(file.relative_to(ROOT / "jaxssl")) for file in LIBRARY if text in file.read_text()}
    assert found == home


@pytest.mark.parametrize("package", ["experiments", "jaxssl.data", "jaxssl.training"])
def test_no_circle(package):
    """Also of imports inside functions, but for cli, which finds a program by its name."""
    folder = ROOT / package.replace(".", "/")
    modules = {file.stem: file for file in folder.glob("*.py") if file.stem != "__init__"}
    graph = {}
    for name, file in modules.items():
        found = {n.removeprefix(f"{package}.") for n in imports(file) if n.startswith(package)}
        graph[name] = {n.split(".")[0] for n in found} & set(modules)
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises where there is one
    assert set(order) == set(modules)


def functions(file: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)]


def parameters(function: ast.FunctionDef) -> int:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in every)


def test_no_function_of_the_upper_floor_takes_more_than_seven_parameters():
    files = [*PROGRAMS, *(ROOT / "jaxssl" / "training").glob("*.py")]
    long = {
        f"{file.name}: {function.name}"
        for file in files
        for function in functions(file)
        if parameters(function) > 7
    }
    assert long == set()
    verbs = {f.name: f for f in functions(ROOT / "experiments" / "study.py")}
    for verb in ("open", "load", "train", "embed", "report"):
        assert parameters(verbs[verb]) <= 5, verb


@pytest.mark.parametrize("name", ["simclr", "supcon", "triplet", "arcface", "softmax"])
def test_a_program_of_a_method_is_one_page(name):
    file = ROOT / "experiments" / f"{name}.py"
    assert len(file.read_text().splitlines()) <= 110
    (main,) = [function for function in functions(file) if function.name == "main"]
    assert main.end_lineno - main.lineno <= 10


def test_a_method_from_outside_is_one_page():
    assert len((ROOT / "tests" / "outside" / "byol.py").read_text().splitlines()) <= 120


def spoken(file: Path) -> list[ast.Constant]:
    """The strings of a module that are no docstrings."""
    tree = ast.parse(file.read_text())
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n not in docstrings]
    return [node for node in strings if isinstance(node.value, str)]


def test_messages_of_the_library_name_settings_and_spell_no_flags():
    flags = {
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for file in LIBRARY
        for node in spoken(file)
        if re.search(r"(^|\s)--[a-z]", node.value)
        # git's own; and the commands of scripts/prepare_cifar10.py, as the way out.
        and node.value not in ("--short=12", "--porcelain")
        and file.name not in ("cifar.py", "cifar_source.py")
        and file.parent.name != "integrations"  # commands of other tools
    }
    assert flags == set()


def loaded_by(code: str) -> set[str]:
    """The top-level packages in a fresh process after some code."""
    script = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split("\n")[-2].split())


def test_help_of_every_program_pays_for_nothing_heavy():
    """One process for all: what one of them loads, the set of all holds."""
    names = (*cli.STUDIES, *cli.TOOLS)
    code = f"""
import contextlib, io, os, runpy, sys
for name in {names!r}:
    sys.argv = [name, "--help"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        runpy.run_module(f"experiments.{{name}}", run_name="__main__", alter_sys=True)
    assert len(text.getvalue()) > 200, name
"""
    heavy = {"jax", "flax", "optax", "sklearn", "umap", "numba", "matplotlib", "orbax", "grain"}
    assert not loaded_by(code) & heavy


def test_help_names_presets_and_groups():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.simclr", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for text in ("--temperature", "Presets: digits, folder, plankton", "network options"):
        assert text in done.stdout


def test_a_loss_needs_jax_alone():
    heavy = {"flax", "optax", "orbax", "grain", "sklearn", "matplotlib", "PIL"}
    assert not loaded_by("from jaxssl.losses import nt_xent") & heavy


def test_the_analysis_needs_no_jax():
    rooms = sorted(path.stem for path in (ROOT / "jaxssl" / "analysis").glob("[!_]*.py"))
    code = "import " + ", ".join(f"jaxssl.analysis.{name}" for name in rooms)
    assert not loaded_by(code) & {"jax", "umap", "numba"}


def test_report_and_compare_need_no_jax():
    code = "from experiments import compare, report, study\nfrom jaxssl import analysis\n"
    code += "analysis.read_run, analysis.write_report, analysis.analyse, analysis.write_comparison"
    assert not loaded_by(code) & {"jax", "umap", "numba"}


def test_a_room_is_loaded_once_whichever_way_it_is_asked_for():
    """Its menu, then a module of it, before anything of the menu was used; and the other way."""
    code = """
from jaxssl import augment, models, training
from jaxssl.models.freezing import Frozen
assert models.Frozen is Frozen
import jaxssl.training.loop
assert training.fit is jaxssl.training.loop.fit
assert "views" in dir(augment) and augment.__doc__ and "augment" in repr(augment)
import threading
from jaxssl import data
found = []
threads = [threading.Thread(target=lambda: found.append(data.train_stream)) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert found == [data.train_stream] * 8
"""
    assert "flax" in loaded_by(code)


def test_what_is_patched_in_a_room_is_patched_for_all():
    code = """
from jaxssl import training as early
import jaxssl.training
from jaxssl import training as late
early.fit = 5
assert late.fit == jaxssl.training.fit == early.fit == 5
del late.fit
assert not hasattr(early, "fit")
"""
    loaded_by(code)


def test_a_room_that_cannot_be_loaded_says_why_each_time():
    code = """
import sys
sys.modules["optax"] = None
from jaxssl import training
for _ in range(2):
    try:
        training.fit
    except ModuleNotFoundError as error:
        assert "optax" in str(error)
    else:
        raise SystemExit(1)
"""
    loaded_by(code)
