"""Ask pip-audit whether a version that is installed here has a known vulnerability.

`python scripts/audit.py` looks at the packages of this Python. pip-audit itself is put into an
environment of its own, so that what it needs is not looked at. It ends with exit code 1 where there
is a vulnerability; without a package index or the database (PyPI's) it says so, and that is all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 120  # about one request a package


def audited(output: str, why: str) -> tuple[list[str], str]:
    """Read what pip-audit found.

    Args:
      output: Its JSON; "" where it ended before that.
      why: Then, what it said.

    Returns:
      A line for each vulnerability, and one about how many packages were looked at.
    """
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        last = (why.strip().splitlines() or ["it said nothing"])[-1]
        return [], f"skipped: {last[:200]}"
    found = [
        f"{one['name']} {one['version']}: {fault['id']} {' '.join(fault.get('aliases', []))}, "
        f"fixed in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for one in packages
        for fault in one.get("vulns", [])
    ]
    unknown = [one["name"] for one in packages if "skip_reason" in one]
    if packages and len(unknown) == len(packages):
        return found, f"skipped: its database knows none of {len(packages)} packages from here"
    looked = f"{len(packages) - len(unknown)} packages, {len(found)} known vulnerabilities"
    return found, looked + (f"; not in its database: {', '.join(unknown)}" if unknown else "")


def main() -> int:
    """Install pip-audit, ask it, print what it knows; return the exit code."""
    freeze = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    with tempfile.TemporaryDirectory() as name:
        installed = Path(name, "installed.txt")
        installed.write_bytes(subprocess.run(freeze, check=True, capture_output=True).stdout)
        python = Path(name, "venv", "bin", "python")
        output, why = "", "no answer within seconds"
        try:
            subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
            install = [python, "-m", "pip", "install", "--quiet", "pip-audit"]
            subprocess.run(install, check=True, capture_output=True, timeout=SECONDS)
            ask = [python, "-m", "pip_audit", "--no-deps", "--disable-pip", "-f", "json"]
            ask += ["--progress-spinner", "off", "-r", installed]
            done = subprocess.run(ask, capture_output=True, text=True, timeout=SECONDS)
            output, why = done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            why = f"no answer within {SECONDS} s"
        except subprocess.CalledProcessError:
            why = "pip-audit cannot be installed here"
    found, summary = audited(output, why)
    print("\n".join([*found, f"pip-audit: {summary}"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
