"""What the benchmark programs stand on: processes that may die, memory, ratios inside a round."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "scripts" / "benchmarks"

PROGRAM = """
def quick(size):
    print("noise on stdout")
    return lambda: 1.5

def large(size):
    return lambda: len(bytes(bytearray(size)))

def endless(size):
    import time
    return lambda: time.sleep(60)

def wrong(size):
    return lambda: 1 / 0

CONTENDERS = {"quick": quick, "absent": quick, "large": large, "huge": large, "endless": endless,
              "wrong": wrong}
LIBRARIES = {"absent": ["no_such_library"]}
"""


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("_measure", FOLDER / "_measure.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "_measure", module)  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


def test_contenders_that_fail_leave_the_others_their_numbers(benchmark, tmp_path, capsys):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    flags = ["--memory-gb", "0.4", "--rounds", "2", "--seconds", "0"]
    options = parser.parse_args([*flags, "--json", str(tmp_path / "out.json")])
    names, case = ["quick", "absent", "large", "wrong"], {"size": 5 * 10**7}
    results = benchmark.measure(program, names, case, options)
    results += benchmark.measure(program, ["huge"], {"size": 10**9}, options)
    results += benchmark.measure(
        program, ["endless"], case, parser.parse_args([*flags, "--limit-s", "1"])
    )
    quick, absent, large, wrong, huge, endless = results
    assert (quick.value, len(quick.seconds), quick.note) == (1.5, 2, "")
    assert quick.memory_bytes < 1e7
    # Twice its size at a time.
    assert 0.99e8 < large.memory_bytes < 1.1e8
    assert absent.note == "absent: No module named 'no_such_library'"
    assert endless.note == "more than 1 s"
    assert wrong.note == "failed: ZeroDivisionError: division by zero"
    assert huge.note == "more than 0.4 GB"
    benchmark.print_table(results, reference="quick")
    assert "| 50,000,000 | endless | more than 1 s | - | - | - |" in capsys.readouterr().out
    benchmark.write_json(options.json, options, results, reference="quick")
    record = json.loads(options.json.read_text())
    assert record["rows"][0]["ratio"] == 1
    assert record["rows"][2]["ratio"] > 1
    assert record["rows"][1]["median_s"] is None
    assert "commit" in record


def test_ratios_are_taken_inside_a_round(benchmark):
    ours, theirs = (benchmark.Result(name, {}) for name in ("ours", "theirs"))
    ours.seconds, theirs.seconds = [1.0, 2.0, 9.0], [2.0, 1.0, 3.0]
    assert ours.ratios(theirs) == [0.5, 2.0, 3.0]
    assert ours.ratios(None) == []


def test_another_checkout_takes_turns_with_this_one(benchmark, tmp_path):
    program, other = tmp_path / "program.py", tmp_path / "other"
    program.write_text(
        "import experiments\n"
        "from pathlib import Path\n"
        "def here():\n"
        "    return lambda: float((Path(experiments.__file__).parent.parent / 'old').exists())\n"
        "CONTENDERS = {'here': here}\n"
    )
    other.mkdir()
    (other / "old").touch()
    for name in ("experiments", "jaxssl"):
        (other / name).symlink_to(FOLDER.parent.parent / name)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--rounds", "1", "--seconds", "0", "--before", str(other)])
    results = benchmark.measure(program, ["here"], {}, options)
    found = {result.contender: result.value for result in results}
    assert found == {"here, before": 1, "here": 0}


def test_a_contender_is_also_measured_as_it_starts(benchmark, tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "def here():\n"
        "    return lambda: float('mmap_max=0' in os.environ.get('GLIBC_TUNABLES', ''))\n"
        "CONTENDERS = {'here': here}\n"
    )
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--rounds", "1", "--seconds", "0"])
    results = benchmark.measure(program, ["here", "here, as it starts"], {}, options)
    assert [result.value for result in results] == [1, 0]


def test_before_a_round_it_is_measured_how_near_the_cores_are(benchmark, tmp_path, capsys):
    program = tmp_path / "program.py"
    program.write_text("CONTENDERS = {'here': lambda: lambda: 1.0}\n")
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--rounds", "2", "--seconds", "0"])
    (result,) = benchmark.measure(program, ["here"], {}, options)
    many = len(os.sched_getaffinity(0)) > 1
    assert len(result.handoff_ns) == 2 * many
    assert all(10 < ns < 1e6 for ns in result.handoff_ns)
    benchmark.print_table([result], reference="here")
    assert ("a byte from core to core" in capsys.readouterr().out) == many


def test_a_record_names_no_folder_of_this_machine(benchmark, tmp_path, monkeypatch):
    where, other = tmp_path / "numbers.json", tmp_path / "checkout"
    flags = ["--json", str(where), "--before", str(other)]
    monkeypatch.setattr("sys.argv", ["encoders.py", *flags])
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    benchmark.write_json(where, parser.parse_args(flags), [], reference="here")
    assert str(tmp_path) not in where.read_text()
    record = json.loads(where.read_text())
    assert record["command"].endswith("--json numbers.json --before checkout")
    assert record["options"]["before"] == "checkout"
