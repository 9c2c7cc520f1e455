"""The figures of a search: passes its trials to the plot functions, which only know arrays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from catdog.config.names import shorten_keys
from catdog.plots import (
    SearchAxis,
    plot_differences,
    plot_importances,
    plot_parallel,
    plot_rungs,
    plot_search_history,
    plot_slices,
    plot_trial_curves,
)
from catdog.search.space import Dimension
from catdog.search.trials import Trial, TrialState
from catdog.statistics.metrics import Metric

if TYPE_CHECKING:
    from catdog.search.tuned import Tuning


def build_figures(tuning: "Tuning") -> dict[str, Figure]:
    """Returns all figures that the trials allow, under names that also serve as file names.

    Returns:
        history, curves, rungs, slices, parallel, importance and race -> Figure; those without data are omitted.
    """
    figures: dict[str, Figure] = {}
    if tuning.decision is not None and any(pair.found for pair in tuning.decision.pairs):
        figures["race"] = _draw_race(tuning)
    finished = [trial for trial in tuning.trials if trial.state == TrialState.FINISHED]
    if finished:
        figures["history"] = _draw_history(tuning, finished)
    curves = {
        trial.number: {epoch: _show(tuning.curve_metric, value) for epoch, value in trial.curve.items()}
        for trial in tuning.trials
        if trial.curve
    }
    if curves:
        ended = [trial.number for trial in finished]
        figures["curves"] = plot_trial_curves(curves, ended, tuning.rungs, word_axis(tuning.curve_metric))
    if tuning.trials:
        figures["rungs"] = plot_rungs(tuning.rungs, *count_rungs(tuning))
    scores = np.array([_score_of(tuning, trial) for trial in tuning.trials], dtype=float)
    if np.isfinite(scores).any():
        names = shorten_keys(tuning.space.keys)
        sides = [place_trials(each, names[each.key], tuning.trials) for each in tuning.space]
        ended_ones = np.array([trial.state == TrialState.FINISHED for trial in tuning.trials])
        label = word_axis(tuning.metric)
        figures["slices"] = plot_slices(sides, scores, ended_ones, label)
        if len(sides) > 1:
            figures["parallel"] = plot_parallel(sides, scores, ended_ones, label, higher=tuning.metric.higher_is_better)
    if tuning.importances:
        names = shorten_keys(tuning.space.keys)
        figures["importance"] = plot_importances(
            {names[key]: (each.value, each.low, each.high) for key, each in tuning.importances.items()}
        )
    return figures


def _draw_history(tuning: "Tuning", finished: Sequence[Trial]) -> Figure:
    metric = tuning.metric
    scores = np.array([trial.score for trial in finished], dtype=float)
    best = np.maximum.accumulate(scores)
    interval = None
    if tuning.correction is not None and len(tuning.traced):
        low, high = sorted((_show(metric, tuning.correction.low), _show(metric, tuning.correction.high)))
        interval = (low, high)
    return plot_search_history(
        [trial.number for trial in finished], [_show(metric, value) for value in scores],
        [_show(metric, value) for value in best], word_axis(metric),
        [_show(metric, value) for value in tuning.traced], interval,
    )  # fmt: skip


def _draw_race(tuning: "Tuning") -> Figure:
    assert tuning.decision is not None
    metric = tuning.metric
    rows = {}
    for pair in tuning.decision.pairs:
        if pair.found is not None:
            low, high = sorted(float(metric.orient(bound)) for bound in pair.interval)
            rows[f"{pair.first} \N{MINUS SIGN} {pair.second}"] = (float(metric.orient(pair.found.estimate)), low, high)
    unit = metric.unit or metric.words
    return plot_differences(
        rows, "The race against the default", tuning.decision.margin,
        unit if metric.higher_is_better else f"{unit}, {metric.direction}", metric.scale,
    )  # fmt: skip


def word_axis(metric: Metric) -> str:
    """Returns the label of an axis of scores."""
    return f"val {metric.heading}"


def count_rungs(tuning: "Tuning") -> tuple[list[int], list[int]]:
    """Returns for each rung how many trials came to it, and how many of them trained on."""
    reached = [sum(trial.epochs >= rung for trial in tuning.trials) for rung in tuning.rungs]
    return reached, [sum(trial.epochs > rung for trial in tuning.trials) for rung in tuning.rungs]


def _show(metric: Metric, value: float) -> float:
    """Returns a score that is the higher the better as it is written: in the metric's sign and unit."""
    return metric.scale * float(metric.orient(value))


def _score_of(tuning: "Tuning", trial: Trial) -> float:
    """Returns the score of a trial as it is written; of one that stopped, if it was measured by the same metric, the one it had."""
    if trial.score is not None:
        return _show(tuning.metric, trial.score)
    if trial.last is None or tuning.curve_metric.name != tuning.metric.name:
        return float("nan")
    return _show(tuning.metric, trial.last)


def place_trials(dimension: Dimension, name: str, trials: Sequence[Trial]) -> SearchAxis:
    """Returns a key of the space as an axis, with the place of each trial on it."""
    values = [trial.settings.get(dimension.key) for trial in trials]
    numbers = _read_numbers(dimension)
    if dimension.choices and numbers is None:
        index = {choice: float(place) for place, choice in enumerate(dimension.choices)}
        places = [index.get(value, float("nan")) if value is not None else float("nan") for value in values]
        return SearchAxis(name, np.array(places), _shorten_choices(dimension.choices))
    if numbers is not None:
        # Choices that are numbers, such as 16,32,64: evenly spaced, in their order.
        ordered = tuple(sorted(dimension.choices, key=float))
        index = {choice: float(place) for place, choice in enumerate(ordered)}
        return SearchAxis(name, np.array([index.get(value or "", float("nan")) for value in values]), ordered)
    read = [float(value) if value is not None else float("nan") for value in values]
    return SearchAxis(name, np.array(read), log=dimension.log)


def _shorten_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Returns choices such as module:function without the module, if they can be told apart by the rest."""
    short = tuple(choice.strip("'\"").rpartition(":")[2] for choice in choices)
    return short if len(set(short)) == len(choices) and all(short) else choices


def _read_numbers(dimension: Dimension) -> list[float] | None:
    """Returns the choices of a key as numbers; None if not all of them are."""
    try:
        return [float(choice) for choice in dimension.choices] or None
    except ValueError:
        return None
