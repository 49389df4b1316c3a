"""Cards say what the run's files say, whatever its classes are called, and nothing else."""

import dataclasses
import json
import re

import pytest

from jaxssl.analysis.cards import data_card, model_card, write_cards
from jaxssl.analysis.page import FigureFiles
from jaxssl.analysis.results import Embedded, ImageCounts, Results
from jaxssl.analysis.run import Run, read_about


def tables(card):
    """The cells of every table of a card, a list of rows each."""
    found, rows = [], []
    for line in [*card.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            found, rows = [*found, rows], []
    return found


@pytest.fixture
def cards(run):
    return {name: (run / f"{name}_CARD.md").read_text("utf-8") for name in ("MODEL", "DATA")}


def test_names_that_attack_stay_text_and_tables_stay_tables(cards):
    for card in cards.values():
        assert not re.search("<(?!/?br)[a-z]", card)
        for rows in tables(card):
            assert len({len(row) for row in rows}) == 1, rows
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in cards["DATA"]


def test_the_data_card_counts_every_image_once(run, cards):
    (head, _, *rows) = tables(cards["DATA"])[0]
    results = Results.read(run / "results.json")
    counts = [[int(cell) for cell in row[1:]] for row in rows]
    assert [sum(column) for column in zip(*counts[:-1], strict=True)] == counts[-1]
    assert counts[-1] == [found.images for found in results.sets.values()]
    assert len(head) == 1 + len(results.sets)


def test_the_model_card_has_the_curves_of_results_json(run, cards):
    stored = json.loads((run / "results.json").read_text())["label_efficiency"]
    whole = [row for row in stored if row["classifier"] == "svc" and row["all"]]
    assert whole
    for row in whole:
        assert f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in cards["MODEL"]


def test_where_files_lie_is_not_handed_on(run):
    about = read_about(run)
    record = {**about.record, "recipe": {"data_dir": "/home/me/secret", "batch_size": 8}}
    card = model_card(dataclasses.replace(about, record=record), Results.read(run / "results.json"))
    assert "secret" not in card
    assert "| batch&#95;size | 8 |" in card or "| batch_size | 8 |" in card


def test_without_labels_and_without_a_record_the_cards_claim_nothing(tmp_path):
    results = Results(Embedded("h", "angular", 4), {"train": ImageCounts(12, {})})
    bare = Run(tmp_path, {})
    assert "no image has a label" in model_card(bare, results)
    assert "kNN" not in model_card(bare, results)
    assert tables(data_card(bare, results))[0][2:] == [["(no label)", "12"], ["(all)", "12"]]


def test_a_bar_or_a_line_break_in_a_name_breaks_no_table(tmp_path):
    results = Results(Embedded("h", "angular", 4), {"train": ImageCounts(3, {"a|b\n## `c": 3})})
    card = data_card(Run(tmp_path, {}), results)
    assert tables(card)[0][2:] == [["a&#124;b ## &#96;c", "3"], ["(all)", "3"]]


def test_the_answers_of_a_person_stay_in_a_card(run, cards, capsys):
    about, results = read_about(run), Results.read(run / "results.json")
    path = run / "MODEL_CARD.md"
    path.write_text(cards["MODEL"] + "It is for copepods.\n")
    write_cards(about, results)
    assert path.read_text().endswith("It is for copepods.\n")
    assert (run / "MODEL_CARD-2.md").read_text("utf-8") == cards["MODEL"]
    assert (run / "DATA_CARD.md").read_text("utf-8") == cards["DATA"]
    assert not (run / "DATA_CARD-2.md").exists()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("MODEL_CARD.md was changed")


def test_notes_in_a_table_of_the_report_stay(tmp_path, capsys):
    table = FigureFiles(tmp_path).table
    table("suspects", ["path"], [["a.png"]])
    path = tmp_path / "suspects.csv"
    path.write_text(path.read_text() + "a.png is a copepod")
    assert table("suspects", ["path"], [["b.png"]])["name"] == "suspects-2.csv"
    assert "copepod" in path.read_text()
    assert "b.png" in (tmp_path / "suspects-2.csv").read_text()
