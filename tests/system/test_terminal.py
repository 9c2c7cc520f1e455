"""What is printed in the terminal is what it is, whatever characters it has."""

import pandas as pd
import pytest

from catdog import cli
from catdog.deployment.prediction import build_answers_table


@pytest.mark.parametrize("name", ["[circle]", "trip [/cat].jpg", "[bold]x"])
def test_square_brackets_in_names_are_shown(capsys, name: str) -> None:
    answers = pd.DataFrame({"file": [name], "class": [name], "probability": [0.5]})
    cli.show_result(build_answers_table(answers))
    assert capsys.readouterr().out.count(name) == 2
