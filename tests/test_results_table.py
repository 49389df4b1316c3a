"""The table of docs/pages/results.md, by hand."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli
from jaxssl.analysis.results import Embedded, ImageCounts, LabelRow, Results

SCRIPT = Path(__file__).parent.parent / "scripts" / "results_table.py"


def record(path, study="SimCLR", **settings):
    path.mkdir(exist_ok=True)
    config = {"run_dir": str(path), **settings}
    recipe = {name: value for name, value in settings.items() if name != "seed"}
    found = {"format": 2, "study": study, "dataset": "x", "config": config, "recipe": recipe}
    (path / "config.json").write_text(json.dumps(found))


def run_folder(path, seed, mean, sizes=(), **settings):
    record(path, seed=seed, **settings)
    rows = tuple(
        LabelRow("unseen", e, "svc", n, mean=m, low=0.0, high=1.0, draws=5, all=n == 500)
        for e, m in [("h", mean), ("raw_pixels", 0.5)]
        for n in (10, 30, 90, 300, 500)
    )
    sets = {"unseen": ImageCounts(700, {"a": 350, "b": 350})}
    results = Results(Embedded("h", "angular", 8), sets, label_efficiency=rows, label_sizes=sizes)
    results.write(path / "results.json")
    return str(path)


def table(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def test_mean_and_spread_over_seeds(tmp_path):
    runs = [
        run_folder(tmp_path / f"{s}", s, m, weight_decay=1e-6)
        for s, m in enumerate([0.8, 0.9, 1.0])
    ]
    done = table(*runs, "--log", str(tmp_path / "log.json"))
    assert "| unseen | svc | **this embedding (h)** | 90.0 ± 10.0 |" in done.stdout
    assert "| unseen | svc | raw pixels | 50.0 ± 0.0 |" in done.stdout
    assert "untrained" not in done.stdout
    assert done.stdout.startswith(
        "| set | classifier | embedding | 30 labels | 90 labels | 300 labels | all"
    )
    log = (tmp_path / "log.json").read_text()
    found = json.loads(log)
    assert [len(run["label_efficiency"]) for run in found] == [2 * 4] * 3
    assert {run["config"]["recipe"]["weight_decay"] for run in found} == {1e-6}  # not rounded
    assert str(tmp_path) not in log


def test_runs_of_other_settings_are_not_averaged(tmp_path):
    runs = [run_folder(tmp_path / "a", 0, 0.8), run_folder(tmp_path / "b", 1, 0.8, epochs=3)]
    assert "differ in more than their seed" in table(*runs).stderr


def test_numbers_of_labels_that_were_asked_for_have_their_columns(tmp_path):
    done = table(run_folder(tmp_path / "a", 0, 0.8, sizes=(10,)))
    assert done.stdout.startswith("| set | classifier | embedding | 10 labels | all labels |")


def test_a_run_of_the_old_form_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "study": "simclr"}))
    assert "older version of jaxssl" in table(str(tmp_path)).stderr.splitlines()[-1]


def test_classifiers_share_a_row_by_start_and_what_is_trained(tmp_path):
    for name, start, top in (("a", "simclr", 0.6), ("b", "simclr", 0.8), ("c", None, 0.5)):
        folder = tmp_path / name
        record(folder, "GRU", label_fraction=0.1, data_dir=str(tmp_path / "tfds"))
        facts = {"start": start, "trained": "linear layer"} if start else {}
        results = {"protocol": facts, "training": {}, "classification": {"top": {"1": top}}}
        (folder / "results.json").write_text(json.dumps(results))
    done = table(*(str(tmp_path / n) for n in "abc"), "--classifiers", "--log", tmp_path / "log")
    assert "| simclr | linear layer | 10% | 70.0 ± 14.1 | 2 |" in done.stdout
    assert "| GRU | end to end | 10% | 50.0 | 1 |" in done.stdout
    assert str(tmp_path) not in (tmp_path / "log").read_text()


def test_linear_evaluation_by_embedding(tmp_path):
    (tmp_path / "linear_eval").mkdir()
    top = {"top": {"1": 0.5, "3": 0.8, "5": 1.0}}
    rows = [{"embedding": name, "linear": top, "knn": top} for name in ("h", "untrained")]
    results = {"rows": rows, "epochs": [], "wall_seconds": {}}
    record(tmp_path)
    (tmp_path / "linear_eval" / "results.json").write_text(json.dumps(results))
    done = table(str(tmp_path), "--linear-eval")
    assert "| untrained network | 50.0 | 80.0 | 100.0 | 50.0 | 80.0 | 100.0 | 1 |" in done.stdout


@pytest.fixture(scope="module")
def reproduce(load_script):
    return load_script("reproduce.py")


def test_every_file_of_results_is_of_a_table_that_can_be_measured_again(reproduce):
    written = [file for table in reproduce.TABLES.values() for file in table.results]
    assert len(written) == len(set(written))
    there = {file.name for file in (SCRIPT.parents[1] / "results").glob("*.json")}
    assert there <= {*written, *reproduce.BY_HAND}
    for table in reproduce.TABLES.values():
        text = "\n".join(table.commands)
        assert all(f"OUT/{file}" in text for file in table.results)
        for page in re.findall(r"[\w/]+\.md", table.page):
            assert (SCRIPT.parents[1] / page).is_file()


def test_the_commands_of_the_tables_parse(reproduce):
    """Flags of programs by their parser, those of one seed for all; of scripts by name."""
    parsed = set()
    for table in reproduce.TABLES.values():
        for line in table.commands:
            first_seed = re.sub(r"(--seed )\d+|-\d+(?=\s|$)", r"\1", line)
            if first_seed in parsed:
                continue
            parsed.add(first_seed)
            python, first, *rest = shlex.split(line)
            assert python == "python"
            if first != "-m":
                text = (SCRIPT.parents[1] / first).read_text()
                text += (SCRIPT.parent / "benchmarks" / "_measure.py").read_text()
                flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
                if first.startswith("scripts/"):
                    assert all(f'"{flag}"' in text for flag in flags), line
                continue
            name, *flags = rest
            module = name.removeprefix("experiments.")
            if module == "embed":
                module = "frozen"
            program = importlib.import_module(f"experiments.{module}")
            presets = getattr(program, "PRESETS", None) or {module: program.LinearEval()}
            cli.parse(flags, presets)


def test_a_dirty_tree_is_not_measured(reproduce, monkeypatch, capsys):
    def git(*words):
        return "abc" if words[0] == "rev-parse" else " M jaxssl/files.py\n?? x"

    monkeypatch.setattr(reproduce, "_git", git)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "digits"])
    with pytest.raises(SystemExit):
        reproduce.main()
    assert "the tree is not clean (M jaxssl/files.py ...): commit first" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "plankton-wide"])
    with pytest.raises(SystemExit):
        reproduce.main()
    assert "--plankton DIR is missing" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "digits", "--dry-run"])
    reproduce.main()
    *trained, told = capsys.readouterr().out.splitlines()
    assert [line.split()[4] for line in trained] == ["0", "1", "2"]
    assert told.startswith("python scripts/results_table.py ")
