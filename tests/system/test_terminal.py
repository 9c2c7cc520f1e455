"""Tables in the terminal: none without rows, and names whose words stay whole."""

import io

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from catdog import cli
from catdog.deployment.prediction import build_answers_table
from catdog.system import terminal


def test_a_table_without_rows_has_no_header(monkeypatch: pytest.MonkeyPatch, capsys):
    stream = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=stream))
    table = Table("file", "class")
    terminal.show_table(table)
    cli.show_result(table)
    assert stream.getvalue() == capsys.readouterr().out == ""
    table.add_row("a.jpg", "cats")
    terminal.show_table(table)
    assert "file" in stream.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_words_of_names_stay_whole_beside_a_wide_column(width: int):
    names = ["cnn preprocessing.image_size=48 optimizer.weight_decay=0.001", "[bold] learning_rate=0.0003"]
    table = Table()
    terminal.add_name_column(table, "run", names)
    table.add_column("why", overflow="fold")
    for name in names:
        table.add_row(terminal.name_text(name), "long " * 30)
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    shown = stream.getvalue()
    assert all(word in shown for name in names for word in name.split())
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("name", ["[circle]", "trip [/cat].jpg", "[bold]x"])
def test_square_brackets_in_names_are_shown(capsys, name: str) -> None:
    answers = pd.DataFrame({"file": [name], "class": [name], "probability": [0.5]})
    cli.show_result(build_answers_table(answers))
    assert capsys.readouterr().out.count(name) == 2
