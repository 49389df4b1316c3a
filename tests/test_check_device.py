"""scripts/check_device.py tells a wrong device from a right one."""

import json

import pytest

from jaxssl import losses


@pytest.fixture(scope="module")
def check(load_script):
    return load_script("check_device.py")


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


def test_a_case_that_there_is_not_is_refused(check, capsys):
    with pytest.raises(SystemExit):
        check.main(["--cases", "views: digit"])
    assert "no case 'views: digit': one of nt_xent, " in capsys.readouterr().err
