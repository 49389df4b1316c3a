"""How a program ends: what it says, with which code, and what the other processes hear."""

from __future__ import annotations

import pytest

from experiments import cli
from jaxssl.training import processes


@pytest.fixture
def told(monkeypatch):
    """What the other processes are told when this one ends."""
    calls = []
    monkeypatch.setattr(processes, "leave", lambda *call: calls.append(call))
    return calls


def test_an_error_nobody_foresaw_is_told_to_the_other_processes(told, monkeypatch, capsys):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(SystemExit) as end, cli.ending():
        raise KeyError("label")
    assert end.value.code == 1
    assert told == [("KeyError('label')", 1)]
    assert "Traceback" in capsys.readouterr().err


def test_alone_such_an_error_is_a_plain_traceback(told, capsys):
    with pytest.raises(KeyError), cli.ending():
        raise KeyError("label")
    assert not told
    assert not capsys.readouterr().err


def test_an_interrupt_is_a_line_that_fits_programs_without_a_run_folder(told, capsys):
    with pytest.raises(SystemExit) as end, cli.ending():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert told[0][1] == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the same command goes on, with the same --run-dir where it takes one")
