"""What is released: wheel and sdist hold what they should, twice the same, and install alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from experiments import cli

from .test_rooms import imports

ROOT = Path(__file__).parents[1]
pytest.importorskip("hatchling", reason="it builds the packages")


def build(out: Path) -> tuple[Path, Path]:
    """Wheel and sdist, of the files as they stand."""
    env = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", out],
        check=True,
        cwd=ROOT,
        env=env,
        capture_output=True,
    )
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel unpacked, which is what installing a wheel of pure Python is."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(folder)
    return folder


def sources() -> set[str]:
    """The files of both packages as they lie here, but for what Python and tools leave behind."""
    return {
        str(file.relative_to(ROOT))
        for package in ("jaxssl", "experiments")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_holds_both_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        about = {name for name in names if ".dist-info/" in name}
        (points,) = [wheel.read(n).decode() for n in about if n.endswith("entry_points.txt")]
    assert names - about == sources()
    # By name too: a pattern in .gitignore could hide a file from both sides.
    kinds = {Path(name).suffix for name in names}
    assert {".j2", ".css", ".js"} <= kinds
    assert "jaxssl/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in about)
    assert "jaxssl = experiments.cli:front_door" in points


def test_the_sdist_holds_what_a_wheel_is_made_of(built):
    with tarfile.open(built[1]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    own = {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "docs/CITATION.cff"}
    # hatchling adds .gitignore and its own PKG-INFO.
    assert names - {"PKG-INFO", ".gitignore"} == sources() | own


def test_both_are_the_same_when_built_again(built, tmp_path):
    again = build(tmp_path)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in built]


def test_the_losses_of_the_wheel_need_jax_alone(installed, tmp_path):
    """Away from the repository, where whatever else the project names cannot be imported."""
    code = """
import sys
class Alone:
    refused = {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "sklearn", "PIL", "umap"}
    refused |= {"matplotlib", "pyarrow", "jinja2", "tyro", "tqdm", "tensorboardX", "optuna"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.refused:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Alone())
import jaxssl.losses
print(jaxssl.__file__, len(jaxssl.losses.__all__))
"""
    env = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    assert done.stdout.startswith(str(installed))


def test_the_front_door_of_the_wheel_opens(installed, tmp_path):
    code = "import sys; sys.argv = ['jaxssl']; from experiments.cli import front_door; front_door()"
    env = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    assert "simclr" in done.stdout
    assert "usage: jaxssl PROGRAM" in done.stdout


@pytest.mark.parametrize("start", ["-m experiments.simclr", "-c front_door simclr"])
def test_a_program_without_its_extra_is_one_line_that_says_which(start, installed, tmp_path):
    """Where nothing is installed at all: `-S` leaves out site-packages."""
    how, what, *flags = start.split()
    if what == "front_door":
        what = "import experiments.cli; experiments.cli.front_door()"
    done = subprocess.run(
        [sys.executable, "-S", how, what, *flags],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith('pip install "jaxssl[experiments]"')


def test_every_package_that_is_not_of_the_core_has_an_extra_that_brings_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bring = {
        extra: {re.split(r"[\[<>=]", one)[0].lower().replace("_", "-") for one in wanted}
        for extra, wanted in project["optional-dependencies"].items()
    }
    distributions = packages_distributions()
    for extra, packages in cli.EXTRAS.items():
        for package in packages:
            named = {n.lower().replace("_", "-") for n in distributions.get(package, ())}
            # Those that are not installed here have their own names.
            assert (named or {package}) & bring[extra], (extra, package)
    known = {package for packages in cli.EXTRAS.values() for package in packages}
    known |= {"markupsafe", "sqlalchemy"}  # brought by jinja2 and optuna
    programs = set((ROOT / "experiments").glob("*.py")) - {ROOT / "experiments" / "colab.py"}
    for file in (*(ROOT / "jaxssl").rglob("*.py"), *programs):
        used = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names)
        assert used - {"jax", "flax", "optax", "jaxssl", "experiments"} <= known, file


def test_an_audit_names_what_is_vulnerable_and_what_was_not_looked_at(load_script):
    audit = load_script("audit.py")
    fault = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}
    known = {"name": "a", "version": "1.0", "vulns": [fault]}
    fine = {"name": "b", "version": "2", "vulns": []}
    unknown = {"name": "c", "skip_reason": "not found"}

    def said(*packages):
        return audit.audited(json.dumps({"dependencies": packages}), "")

    line = "a 1.0: PYSEC-1 CVE-1, fixed in 1.1"
    assert said(known, fine, unknown) == (
        [line],
        "2 packages, 1 known vulnerabilities; not in its database: c",
    )
    assert said(unknown) == ([], "skipped: its database knows none of 1 packages from here")
    assert audit.audited("", "a\nConnectionError: b") == ([], "skipped: ConnectionError: b")
