"""scripts/check_device.py tells a wrong device from a right one."""

import importlib.util
import json
from pathlib import Path

import pytest

from jaxssl import losses

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_device.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_device", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_agrees_is_told_from_what_does_not(check, capsys, monkeypatch, tmp_path):
    # The process beside this one computes the right loss, this one another.
    right = losses.byol
    monkeypatch.setattr(losses, "byol", lambda a, b: 1.001 * right(a, b))
    file = tmp_path / "device.json"
    assert check.main(["--cases", "byol", "views: digits", "--json", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("FAIL")] == [
        "FAIL byol, value",
        "FAIL byol, gradient 0",
    ]
    record = json.loads(file.read_text())
    error = {(row["case"], row["part"]): row["error"] for row in record["rows"]}
    assert error["byol", "value"] == pytest.approx(0.001, rel=1e-3)
    assert error["byol", "gradient 1"] == 0  # the teacher's, which is stopped: 0 on both
    assert error["views: digits", "views"] < 1e-6
    assert "jax" in record["versions"]
