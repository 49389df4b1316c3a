"""The room as a whole: imports go one way, and the menu costs nothing until it is used."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import jaxssl.analysis as menu

ROOM = Path(menu.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOM).with_suffix("").parts): path for path in ROOM.rglob("*.py")
}


def needs(path):
    """The modules of the room that one imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module.startswith("jaxssl.analysis"):
            continue
        inside = node.module.removeprefix("jaxssl.analysis").lstrip(".")
        submodules = {f"{inside}.{alias.name}".lstrip(".") for alias in node.names} & set(MODULES)
        found |= submodules or {inside}
    return found


def test_the_room_imports_one_way():
    graph = {name: needs(path) for name, path in MODULES.items() if name != "__init__"}
    assert "__init__" not in set().union(*graph.values())
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(graph)
    below = {"names", "typed", "health", "results", "tables", "measures", "headlines", "terminal"}
    figures = {"page", "figures", "drawing"}
    assert not set().union(*(graph[name] for name in below)) & figures


def test_the_menu_is_what_it_says_and_costs_nothing():
    code = "import sys, jaxssl.analysis as a; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"numpy", "matplotlib", "sklearn", "umap", "pyarrow"}
    assert list(menu.__all__) == sorted(menu._HOMES)
    assert not set(menu.__all__) & set(MODULES), "a module of that name would take its place"
    for name in menu.__all__:
        assert getattr(menu, name) is not None
    assert set(menu.__all__) <= set(dir(menu))


def test_no_function_takes_more_than_seven():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                assert count <= 7, f"{path}: {node.name} takes {count}"
