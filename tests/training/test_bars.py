"""What a log shows while something takes long: a line a minute, where a terminal has a bar."""

import re
import sys

import pytest

from jaxssl.training import bars, processes


@pytest.fixture
def each_time(monkeypatch):
    monkeypatch.setattr(bars, "LINE_SECONDS", 0.0)


def test_a_log_gets_lines_with_rate_and_time_left(each_time, capsys):
    with bars.Bar(1500, title="train", unit="image") as bar:
        bar.start_t -= 10  # ten seconds ago
        bar.update(1000)
        bar.update(500)
    said = capsys.readouterr()
    assert not said.out
    assert said.err.splitlines() == [
        "train: 1,000 of 1,500 images, 100 a second, 5 s left",
        "train: 1,500 of 1,500 images, 150 a second, 0 s left",
    ]


def test_a_log_is_told_once_a_minute(capsys, monkeypatch):
    now = [0.0]
    bar = bars.Bar(10, title="train", unit="image")
    monkeypatch.setattr(bar, "_time", lambda: now[0])
    bar.start_t = bar.last_print_t = 0.0
    for n in range(10):
        now[0] = 25.0 * (n + 1)
        bar.update(1)
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["3", "6", "9"]
    assert lines[0].endswith("of 10 images, 0.04 a second, 2.9 min left")


def test_without_a_title_or_in_another_process_nothing_is_said(each_time, capsys, monkeypatch):
    with bars.Bar(2, title="", unit="image") as bar:
        bar.update(1)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with bars.Bar(2, title="train", unit="image") as bar:
        bar.update(1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_goes_away(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with bars.Bar(2, title="train", unit="image") as bar:
        bar.update(1)
        bar.refresh()
    said = capsys.readouterr()
    assert not said.out
    assert "train" in said.err
    assert said.err.endswith("\r")


def test_training_says_a_line_a_minute_between_validations(training, each_time, capsys):
    training()
    steps = re.findall(r"^step (\d+)/12", capsys.readouterr().out, re.MULTILINE)
    assert [int(step) for step in steps] == [2, 4, 4, 6, 8, 8, 10, 12, 12]


def test_training_of_less_than_a_minute_says_its_validations_alone(training, capsys):
    training()
    out = capsys.readouterr().out
    assert re.findall(r"^step (\d+)/12.*validation", out, re.MULTILINE) == ["4", "8", "12"]
    assert len(re.findall("^step", out, re.MULTILINE)) == 3
