"""scripts/check_device.py tells a wrong device from a right one."""

import importlib.util
import json
from pathlib import Path

import pytest

from jaxssl import losses

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_device.py"
CASES = ["--cases", "byol", "views: digits"]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_device", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_device_agrees_and_another_result_fails(check, capsys, monkeypatch, tmp_path):
    assert check.main([*CASES, "--json", str(tmp_path / "d.json")]) == 0
    record = json.loads((tmp_path / "d.json").read_text())
    parts = [(row["case"], row["part"]) for row in record["rows"]]
    assert parts == [
        ("byol", "value"),
        ("byol", "gradient 0"),
        ("byol", "gradient 1"),  # the teacher's, which is stopped: 0 on both
        ("views: digits", "views"),
    ]
    assert "jax" in record["versions"]

    # The process beside this one computes the right loss, this one another.
    right = losses.byol
    monkeypatch.setattr(losses, "byol", lambda a, b: 1.001 * right(a, b))
    assert check.main(CASES) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert [line.split(":")[0] for line in failed] == ["FAIL byol, value", "FAIL byol, gradient 0"]
