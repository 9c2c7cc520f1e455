"""Tuning: a search, the correction of its best score, and the race of its best configurations against the default."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from catdog.search.answers import collect_final, collect_rungs
from catdog.search.decisions import Decision, decide
from catdog.search.importance import measure_importances
from catdog.search.leader import Leader, lead_search
from catdog.search.planning import DEFAULT, plan_search
from catdog.search.race import RaceTrainer, RunSweep, build_race_config, choose_entrants
from catdog.search.saved import save_winner
from catdog.search.tuned import Tuning
from catdog.statistics.metrics import NAMED
from catdog.statistics.optimism import allow_for_selection, correct_selection, trace_selection
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from catdog.config.commands import TuneConfig
    from catdog.sweeps.launch import MakeDisplay

log = logging.getLogger(__name__)


def tune(
    config: "TuneConfig",
    overrides: Sequence[str],
    *,
    command: Sequence[str],
    make_display: "MakeDisplay",
    run: RunSweep,
    on_found: Callable[[Tuning], None] = lambda _: None,
    on_round: Callable[[str], None] = lambda _: None,
    on_look: Callable[[Decision], None] = lambda _: None,
) -> Tuning:
    """Searches, and lets the best race against the default; a search that was interrupted goes on where it stopped.

    Args:
        config: the options of the search.
        overrides: in Hydra's grammar: those with several values are the space, the others hold for all trials.
        command: the arguments of the command, to be typed again.
        make_display: returns the display of the search.
        run: trains a sweep of the race.
        on_found: called after the search, before the race.
        on_round: called before each round of the race with a description of it.
        on_look: called after each look of the race.

    Raises:
        UserError: something is wrong with the search; this is found before anything is trained.
        KeyboardInterrupt: Ctrl-C.
    """
    planned = plan_search(config, overrides)
    leader = lead_search(planned, make_display, command)
    try:
        tuning = _collect(leader)
        on_found(tuning)
        default = planned.read_defaults()
        entrants = choose_entrants(leader.trials, config.top, default)
        if config.seeds and entrants:
            tried = sum(trial.settings != default for trial in leader.trials)
            tuning.decision = decide(
                build_race_config(planned), RaceTrainer(planned, entrants, command, run), against=DEFAULT,
                luck=lambda found: allow_for_selection(found, tried).search, on_round=on_round, on_look=on_look,
            )  # fmt: skip
        leader.log_result(tuning)
        if config.save is not None:
            save_winner(tuning, config.save, planned.search_identity)
    except BaseException as error:
        leader.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    if not leader.close("FINISHED"):
        raise UserError(leader.describe_undelivered())
    return tuning


def _collect(leader: Leader) -> Tuning:
    planned = leader.planned
    correction, traced = None, np.zeros(0)
    if leader.values:
        groups = planned.dataset.manifest.code_groups(leader.files)
        final, rungs = collect_final(leader), collect_rungs(leader)
        correction = correct_selection(final, groups, rungs=rungs)
        _, corrected = trace_selection(final, groups, rungs=rungs)
        traced = corrected[sorted(leader.values)]
    return Tuning(
        planned.base_config.study, planned.base_config.tracking.uri, leader.run_id, planned.name, planned.space,
        planned.fixed, leader.trials, planned.halving.rungs, planned.metric, planned.config.seeds, leader.seconds,
        correction, curve_metric=NAMED[planned.base_config.trainer.keep_metric], traced=traced,
        importances=measure_importances(planned.space, leader.trials, planned.halving.rungs),
    )  # fmt: skip
