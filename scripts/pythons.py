"""Install the built wheel into fresh environments, and run the losses' tests from there.

`python scripts/pythons.py python3.11 python3.12 python3.13 python3.14`
`python scripts/pythons.py --lowest python3.12`: with the oldest versions that pyproject.toml allows

`python scripts/pythons.py --programs python3.13`: then the extra too, and SimCLR on the digits

Each environment holds the wheel, what it declares, and pytest; nothing of this clone but copies of
the tests. It needs a package index, and takes minutes: it is no part of scripts/check.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("test_nt_xent.py", "test_sup_con.py", "test_margin.py", "test_meshes.py")


def lowest(requirements: list[str]) -> str:
    """Turn lower bounds into exact versions, as pip's constraints.

    Args:
      requirements: Such as "jax>=0.10,<0.12".
    """
    found = [re.match(r"([\w.-]+)>=([\d.]+)", one) for one in requirements]
    return "".join(f"{one[1]}=={one[2]}\n" for one in found if one)


def check(python: str, wheel: Path, constraints: str, flags: argparse.Namespace) -> None:
    """Make an environment with this Python, and run the tests in it; then what needs the extra.

    Args:
      python: The interpreter.
      wheel: What to install.
      constraints: Lines for pip.
      flags: Of `main`: files of tests/losses, and whether to run programs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        inside = folder / "venv" / "bin" / "python"
        (folder / "constraints.txt").write_text(constraints)
        install = [inside, "-m", "pip", "install", "-q", "-c", folder / "constraints.txt"]
        subprocess.run([*install, wheel], check=True)
        said = (
            "import jax, jaxlib, flax, optax, sys; print(sys.version.split()[0], jax.__version__)"
        )
        alone = "from jaxssl.losses import nt_xent; " + said
        subprocess.run([inside, "-c", alone], check=True, cwd=folder)
        front = [folder / "venv" / "bin" / "jaxssl", "simclr", "--steps", "20"]
        done = subprocess.run(front, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert 'pip install "jaxssl[experiments]"' in done.stderr, done.stderr
        # The oracles of the tests, which may be newer than the lowest.
        subprocess.run([inside, "-m", "pip", "install", "-q", "pytest", "scipy"], check=True)
        copied = folder / "tests" / "losses"
        copied.mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
        for file in ("oracles.py", "conftest.py", *flags.tests.split(",")):
            shutil.copy(ROOT / "tests" / "losses" / file, copied)
        (folder / "pytest.ini").write_text("[pytest]\nmarkers = program: as in pyproject.toml\n")
        run = [inside, "-m", "pytest", "-q", "--import-mode=importlib", "tests"]
        env = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
        subprocess.run(run, check=True, cwd=folder, env=env)
        if flags.programs:
            subprocess.run([*install, f"{wheel}[experiments]"], check=True)
            env["XDG_CACHE_HOME"] = str(folder / "cache")
            subprocess.run([*front, "--run-dir", "run"], check=True, cwd=folder, env=env)
            for program in (("report", "run"), ("export", "run", "--to", "tensorboard")):
                subprocess.run([front[0], *program], check=True, cwd=folder, env=env)
            assert (folder / "run" / "report" / "index.html").is_file()


def main() -> None:
    """Build once, then check each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", help="interpreters, such as python3.12")
    parser.add_argument("--lowest", action="store_true", help="the oldest versions allowed")
    parser.add_argument("--programs", action="store_true", help="SimCLR on the digits too")
    parser.add_argument("--tests", default=",".join(TESTS), help="files of tests/losses, by commas")
    flags = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    constraints = lowest(project["dependencies"]) if flags.lowest else ""
    with tempfile.TemporaryDirectory() as out:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out]
        subprocess.run(build, check=True, cwd=ROOT)
        (wheel,) = Path(out).glob("*.whl")
        for python in flags.pythons:
            check(python, wheel, constraints, flags)


if __name__ == "__main__":
    main()
