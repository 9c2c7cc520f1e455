"""The result of a search as one self-contained HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from catdog.comparison.page import render
from catdog.comparison.page.render import breakable
from catdog.comparison.page.svg import embed_svg
from catdog.config.command_lines import next_command
from catdog.config.names import shorten_keys
from catdog.search.page.figures import count_rungs
from catdog.search.planning import DEFAULT
from catdog.search.trials import Trial, TrialState
from catdog.search.tuned import Tuning, rank
from catdog.system import wording
from catdog.system.pages import build_environment
from catdog.system.wording import percent_with_unit, plural

CAPTIONS = {
    "race": "Each configuration less the default, with fresh seeds. All intervals at all looks hold together. Blue: the interval "
    "excludes zero.",
    "history": "A later trial has a better chance to be the luckiest so far: the line of the best rises even if all settings are "
    "equally good. {corrected}",
    "curves": "The best score of each trial up to each epoch, by {curve}. {stopped}",
    "rungs": "A trial that falls behind is paused at its checkpoint, and goes on from there if its turn comes.",
    "slices": "Each point is a trial. {hollow}The other keys vary too, so that a pattern here need not be the effect of this key.",
    "parallel": "Each line is a trial. {reached}A key that a trial does not have is skipped.",
    "importance": "By a forest of trees that predicts the scores from the settings (functional ANOVA): the share of the variance "
    "that each key explains by itself. The interval is over seeds of the forest and over trials.",
}
DESCRIPTIONS = {
    "race": "Dot chart: difference in {metric} of every configuration of the race from the default, as in the table of the race",
    "history": "Chart: {metric} of every finished trial, and the best found so far; the numbers are in the table of trials",
    "curves": "Line chart: best score of every trial by epoch",
    "rungs": "Bar chart: how many trials came to each rung, and how many went on, as in the table of rungs",
    "slices": "Scatter plots: {metric} against each key of the space; the numbers are in the table of trials",
    "parallel": "Parallel coordinates: the settings and the {metric} of every trial; the numbers are in the table of trials",
    "importance": "Dot chart: importance of every key with its interval, as in the table of importance",
}
# Figures with an axis of scores.
SCORED = ("history", "curves", "slices", "parallel")
CORRECTED = "The corrected line says what the best is worth on other images of the same kind."
HOLLOW = (
    "Hollow: it stopped at a rung, with its score there, which is the best of fewer epochs and not fair: it counts for the order "
    "at its rung only. "
)


def render_page(tuning: Tuning, figures: Mapping[str, Figure]) -> str:
    """Returns the page as HTML: the verdict in words, the race, the trials, the figures, what it cost, and how to train the winner.

    Args:
        tuning: what the search has found.
        figures: those of `build_figures`.
    """
    environment = build_environment(Path(__file__).parent, Path(render.__file__).parent)
    environment.filters.update(breakable=breakable, percent=wording.percent_with_unit)
    reached, went_on = count_rungs(tuning)
    compare = None
    if tuning.decision is not None:
        compare = next_command("compare", tuning.study, tuning.uri, f"sweep={tuning.decision.sweep_id}")
    return environment.get_template("search.html.j2").render(
        tuning=tuning,
        metric=tuning.metric,
        headline=word_headline(tuning),
        sentences=tuning.sentences(),
        short=shorten_keys(tuning.space.keys),
        ranked=rank(tuning.trials),
        describe=lambda trial: _describe_trial(tuning, trial),
        rungs=list(zip(tuning.rungs, reached, went_on, strict=True)),
        figures=_embed_figures(tuning, figures),
        costs=list_costs(tuning),
        compare=compare,
        DEFAULT=DEFAULT,
        missing=wording.MISSING,
    )


def word_headline(tuning: Tuning) -> str:
    """Returns the one line to remember."""
    best, winner = tuning.best, tuning.winner
    if best is None:
        return "No trial was trained to the end"
    if winner is not None and tuning.decision is not None:
        words = next(pair.words for pair in tuning.decision.pairs if pair.first == winner.name)
        return f"{words[0].upper()}{words[1:]} than the default"
    if tuning.decision is not None:
        return "Nothing is shown to be better than the default"
    return f"The best of {plural(len(tuning.trials), 'trial')}, not raced against the default"


def _describe_trial(tuning: Tuning, trial: Trial) -> dict[str, str]:
    """Returns the cells of a trial's row: score, state and more, in words."""
    same = tuning.curve_metric.name == tuning.metric.name
    score = wording.MISSING
    if trial.score is not None:
        score = tuning.metric.show(float(tuning.metric.orient(trial.score)))
    elif trial.last is not None and same:
        score = tuning.metric.show(float(tuning.metric.orient(trial.last)))
    passed = [rung for rung in tuning.rungs if rung <= trial.epochs]
    state = f"paused at epoch {trial.epochs}" if trial.state == TrialState.PAUSED else str(trial.state)
    return {
        "score": score,
        "rung": f"{len(passed)} of {len(tuning.rungs)}",
        "state": state,
        "minutes": f"{trial.seconds / 60:.1f}" if trial.seconds else wording.MISSING,
    }


def list_costs(tuning: Tuning) -> list[tuple[str, str]]:
    """Returns what the search cost and what whole trainings of all trials would have cost: what, in words."""
    epochs, full = tuning.epochs, tuning.full_epochs
    costs = [("search", f"{plural(epochs, 'epoch')} in {tuning.seconds / 60:.1f} minutes")]
    if full:
        whole = plural(full, "epoch")
        timed = [(trial.seconds, trial.epochs) for trial in tuning.trials if trial.seconds and trial.epochs]
        if timed and epochs:
            per_epoch = sum(seconds for seconds, _ in timed) / sum(count for _, count in timed)
            whole += f", about {full * per_epoch / 60:.1f} minutes of training, where the search took "
            whole += f"{sum(seconds for seconds, _ in timed) / 60:.1f}"
        costs.append(
            ("all trials in full", f"{whole}: the search needed {percent_with_unit(epochs / full, 0)} of the epochs")
        )
    if tuning.decision is not None:
        runs = tuning.decision.seeds + sum(pair.seeds for pair in tuning.decision.pairs)
        costs.append(("race", f"{plural(runs, 'run')} of {plural(tuning.rungs[-1], 'epoch')} each at most"))
    reused = sum(trial.origin == "reused" for trial in tuning.trials)
    if reused:
        costs.append(("reused", f"{plural(reused, 'trial')} that had been trained before, not counted"))
    return costs


def _embed_figures(tuning: Tuning, figures: Mapping[str, Figure]) -> dict[str, tuple[Any, str]]:
    """Returns SVG and caption of each figure, by its name."""
    hollow = any(trial.score is None and trial.curve for trial in tuning.trials)
    same = tuning.curve_metric.name == tuning.metric.name
    is_loss = not tuning.metric.higher_is_better
    words = {
        "metric": tuning.metric.words,
        "curve": f"{tuning.curve_metric.words} on the validation images",
        "corrected": CORRECTED if len(tuning.traced) else "",
        "hollow": (HOLLOW if same else "") if hollow else "",
        "reached": "One that stopped at a rung has its score there. " if hollow and same else "",
        "stopped": "Those that are lighter stopped at a rung." if hollow else "",
    }
    return {
        name: (
            embed_svg(figure, f"figure-{name}", DESCRIPTIONS[name].format(**words)),
            CAPTIONS[name].format(**words) + (" Lower is better." if name in SCORED and is_loss else ""),
        )
        for name, figure in figures.items()
    }
