"""The result of a search: its trials, what the best is worth, the verdict of the race, and the command that trains the winner."""

import html
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from catdog.comparison.result import DRAWING, FIGURE_DPI
from catdog.config.command_lines import next_command, quote, train_command
from catdog.config.names import shorten_keys
from catdog.config.schema import DEFAULT_STUDY
from catdog.search.race import find_winner
from catdog.search.space import Space
from catdog.search.trials import Trial, TrialState, find_best
from catdog.statistics.judgements import Judgement
from catdog.statistics.metrics import ACCURACY, Metric
from catdog.system.errors import UserError
from catdog.system.saving import save_page, saving_folder
from catdog.system.wording import plural

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from catdog.search.decisions import Decision
    from catdog.search.importance import Importance
    from catdog.statistics.optimism import Correction

# The table of the terminal has no more rows.
MOST_ROWS = 12
PAGE = "search.html"


@dataclass
class Tuning:
    """What a search has found.

    Attributes:
        study: its study.
        uri: address of the tracking store.
        search_id: id of the search's run in MLflow.
        name: the search's name.
        space: what was varied.
        fixed: the overrides that all trials share.
        trials: all trials, in order.
        rungs: the epochs at which trials were compared.
        metric: by which.
        seeds: most seeds of the race.
        seconds: how long the search was led, without the race.
        correction: what the best score is worth; None if no trial has finished.
        decision: the race; None if there was none.
        curve_metric: by which the epochs of a trial, and so unfinished trials, are judged.
        traced: what the best of the finished trials was worth after each of them, the higher the better: float64 (finished,); empty
            if it is not known.
        importances: of each key; empty if too few trials have a score.
    """

    study: str
    uri: str
    search_id: str
    name: str
    space: Space
    fixed: list[str]
    trials: list[Trial]
    rungs: tuple[int, ...]
    metric: Metric
    seeds: int
    seconds: float
    correction: "Correction | None" = None
    decision: "Decision | None" = None
    curve_metric: Metric = ACCURACY
    traced: "Sequence[float] | np.ndarray" = ()
    importances: "Mapping[str, Importance]" = field(default_factory=dict)

    def __repr__(self) -> str:
        head = f"Tuning({self.name!r}, {plural(len(self.trials), 'trial')}, search_id={self.search_id!r})"
        return "\n  ".join([head, *self.sentences()]).replace("\N{NO-BREAK SPACE}", " ")

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the verdict and the table of trials."""
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
        return said + str(self.to_frame().to_html(index=False, border=0, float_format="{:.4g}".format))

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score; None if none has finished."""
        return find_best(self.trials)

    @property
    def winner(self) -> Trial | None:
        """The trial that beats the default by evidence; None if none does: then the default is kept."""
        pair = find_winner(self.decision) if self.decision else None
        return next((trial for trial in self.trials if pair and trial.name == pair.first), None)

    @property
    def epochs(self) -> int:
        """How many epochs all trials were trained for."""
        return sum(trial.epochs for trial in self.trials if trial.origin != "reused")

    @property
    def full_epochs(self) -> int:
        """How many epochs a whole training of each trial would have taken."""
        return sum(self.rungs[-1] for trial in self.trials if trial.origin != "reused")

    def word_settings(self, trial: Trial) -> str:
        """Returns a trial's settings in short: "learning_rate=0.0021 dropout=0.31"."""
        short = shorten_keys(self.space.keys)
        return " ".join(f"{short[key]}={value}" for key, value in trial.settings.items())

    def train_command(self, trial: Trial) -> str:
        """Returns the command that trains a trial's configuration with the search's own seed."""
        words = [*self.fixed, *self.space.word(trial.settings)]
        if self.study != DEFAULT_STUDY and not any(item.startswith(("study=", "experiment=")) for item in words):
            words.append(f"study={quote(self.study)}")
        return train_command(words)

    def next_commands(self) -> list[str]:
        """Returns the commands to type next: to train the winner, and to see the race."""
        if self.decision is None:
            return []
        trained = [self.train_command(self.winner)] if self.winner else []
        return [*trained, next_command("compare", self.study, self.uri, f"sweep={self.decision.sweep_id}")]

    @property
    def figure_names(self) -> list[str]:
        """The names that `figure` accepts: the figures that these trials allow."""
        return list(self._figures)

    def figure(self, name: str) -> "Figure":
        """Returns a figure: "history", "curves", "rungs", "slices", "parallel", "importance" or "race".

        Raises:
            UserError: there is no such figure for these trials.
        """
        if name not in self._figures:
            raise UserError(f"figure: must be one of {', '.join(self._figures) or 'none'}, received {name!r}.")
        return self._figures[name]

    def save(self, path: str | Path) -> Path:
        """Writes the page, one self-contained HTML file, and returns its path.

        Raises:
            UserError: the file cannot be written.
        """
        return save_page(path, self._page)

    def save_folder(self, parent: str | Path) -> Path:
        """Writes page, table and figures to this search's own folder, and returns it: search.html, trials.csv, figures/.

        Args:
            parent: where that folder is made; it is named after the search's run in MLflow.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = Path(parent) / self.search_id
        with saving_folder(folder):
            # An earlier page of the same search may have had other figures.
            shutil.rmtree(folder / "figures", ignore_errors=True)
            for name, content in self.files.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
        return folder

    @cached_property
    def files(self) -> dict[str, bytes]:
        """What `save_folder` writes: the content of each file by its path."""
        from catdog.plots import make_legible

        # Before the PNGs: in the page the reader's browser chooses the fonts, and no text is replaced.
        files = {PAGE: self._page.encode(), "trials.csv": self.to_frame().to_csv(index=False).encode()}
        with DRAWING:
            for name, figure in self._figures.items():
                buffer = io.BytesIO()
                make_legible(figure).savefig(buffer, format="png", dpi=FIGURE_DPI)
                files[f"figures/{name}.png"] = buffer.getvalue()
        return files

    @cached_property
    def _figures(self) -> "dict[str, Figure]":
        from catdog.search.page.figures import build_figures

        with DRAWING:
            return build_figures(self)

    @cached_property
    def _page(self) -> str:
        from catdog.search.page.render import render_page

        figures = self._figures
        with DRAWING:
            return render_page(self, figures)

    def sentences(self) -> list[str]:
        """Returns what was found, in sentences."""
        return [sentence for sentence in (self._say_found(), self._say_race(), self._say_cost()) if sentence]

    def _say_found(self) -> str:
        best, metric = self.best, self.metric
        if best is None:
            return "No trial was trained to the end, so nothing was found."
        found = metric.show_with_unit(float(metric.orient(best.score or 0.0)))
        words = f"{best.name} ({self.word_settings(best)})"
        said = f"The best of {plural(len(self.trials), 'trial')} is {words}: {metric.words} {found}"
        if self.correction is None:
            return f"{said}."
        worth = metric.show_with_unit(float(metric.orient(self.correction.corrected)))
        low, high = sorted(float(metric.orient(bound)) for bound in (self.correction.low, self.correction.high))
        return (
            f"{said}, which is the best of many noisy scores: corrected for that, {worth} "
            f"[{metric.show(low)}, {metric.show(high)}]."
        )

    def _say_race(self) -> str:
        if self.decision is None:
            return ""
        winner = self.winner
        start = f"In the race, with {plural(self.decision.seeds, 'fresh seed')} of each,"
        if winner is not None:
            words = next(pair.words for pair in self.decision.pairs if pair.first == winner.name)
            return f"{start} {words} than the default. It has {self.word_settings(winner)}."
        raced = plural(len(self.decision.pairs), "configuration")
        if all(pair.outcome == Judgement.EQUIVALENT for pair in self.decision.pairs):
            bound = max(abs(bound) for pair in self.decision.pairs for bound in pair.interval)
            return f"{start} none of {raced} differs from the default by more than {self.metric.at_most(bound)}: keep the default."
        return f"{start} none of {raced} is shown to be better than the default: keep the default."

    def _say_cost(self) -> str:
        full = self.full_epochs
        share = f", {self.epochs / full:.0%} of what whole trainings of all of them would have taken" if full else ""
        return f"The search trained {plural(self.epochs, 'epoch')}{share}, in {self.seconds / 60:.1f} minutes."

    def to_frame(self) -> "pd.DataFrame":
        """Returns one row per trial.

        Columns: trial (its number), one for each key, state, epochs, score (that of a finished trial, in the metric's own sign),
        best_so_far (of all of its epochs; the higher the better), seconds, origin, run_id, why.
        """
        import pandas as pd

        return pd.DataFrame(self.describe_trials())

    def describe_trials(self) -> list[dict[str, Any]]:
        """Returns the rows of `to_frame` as mappings."""
        orient = self.metric.orient
        return [
            {
                "trial": trial.number, **{key: trial.settings.get(key) for key in self.space.keys}, "state": str(trial.state),
                "epochs": trial.epochs,
                "score": None if trial.score is None else float(orient(trial.score)),
                "best_so_far": trial.curve[max(trial.curve)] if trial.curve else None,
                "seconds": trial.seconds, "origin": trial.origin, "run_id": trial.run_id or None, "why": trial.why or None,
            }
            for trial in self.trials
        ]  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Returns the result for JSON."""
        best, winner = self.best, self.winner
        corrected = None
        if self.correction is not None:
            bounds = sorted(float(self.metric.orient(value)) for value in (self.correction.low, self.correction.high))
            corrected = {
                "value": float(self.metric.orient(self.correction.corrected)),
                "low": bounds[0],
                "high": bounds[1],
            }
        race = None
        if self.decision is not None:
            race = {"sweep": self.decision.sweep_id, "seeds": self.decision.seeds, "pairs": self.decision.describe()}
        return {
            "study": self.study, "search": self.search_id, "name": self.name, "metric": self.metric.name,
            "space": self.space.describe(), "rungs": list(self.rungs), "trials": self.describe_trials(),
            "best": None if best is None else best.number, "corrected": corrected, "race": race,
            "winner": None if winner is None else winner.number, "epochs": self.epochs, "full_epochs": self.full_epochs,
            "seconds": self.seconds, "sentences": self.sentences(),
        }  # fmt: skip


def build_table(tuning: Tuning) -> Table:
    """Returns the best trials as a table for the terminal."""
    metric, short = tuning.metric, shorten_keys(tuning.space.keys)
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("trial", justify="right")
    for key in tuning.space.keys:
        table.add_column(short[key], justify="right", overflow="fold")
    for title in ("epochs", f"val {metric.words}"):
        table.add_column(title, justify="right")
    table.add_column("state", overflow="fold")
    for trial in rank(tuning.trials)[:MOST_ROWS]:
        score = "" if trial.last is None else metric.show(float(metric.orient(trial.last)))
        words = f"{trial.state}: {trial.why}" if trial.why else str(trial.state)
        cells = [trial.settings.get(key, "") for key in tuning.space.keys]
        name = f"{trial.number} (default)" if trial.origin == "default" else str(trial.number)
        table.add_row(name, *map(Text, cells), str(trial.epochs), score, Text(words))
    if len(tuning.trials) > MOST_ROWS:
        table.caption = f"… and {plural(len(tuning.trials) - MOST_ROWS, 'trial')}"
        table.caption_justify = "left"
    return table


def rank(trials: Sequence[Trial]) -> list[Trial]:
    """Returns trials with the best first: those that finished by their score, then the others by how far they came."""

    def key(trial: Trial) -> tuple[float, ...]:
        place = -1 if trial.state == TrialState.FINISHED else 0
        return (
            place,
            0 if place else -trial.epochs,
            -(trial.last if trial.last is not None else float("-inf")),
            trial.number,
        )

    return sorted(trials, key=key)
