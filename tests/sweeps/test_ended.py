"""When a sweep has ended: only then is anything of it promoted, and anything but its own command suggested."""

from types import SimpleNamespace

import pytest
from support import compose_config

from catdog.config.schema import Config
from catdog.sweeps.jobs import INTERRUPTED, JobState
from catdog.sweeps.launch import SweepResult, _share_outcomes
from catdog.sweeps.plan import PlannedRun


@pytest.fixture(scope="module")
def config() -> Config:
    return compose_config("model=cnn")


def job(config: Config, how: str, **plan) -> JobState:
    """A job that ended in a way: finished, or with an error; "" if it was not started."""
    planned = PlannedRun("cnn", config, None, **plan)  # type: ignore[arg-type]
    outcome = SimpleNamespace(run_id="0") if how == "finished" else None
    return JobState(None, [], planned, outcome=outcome, error="" if outcome else how)  # type: ignore[arg-type]


def commands(config: Config, *jobs: JobState, **options) -> list[str]:
    result = SweepResult("cats_vs_dogs", config.tracking, "5", ["-m", "model=cnn", "seed=0,1"], list(jobs), **options)
    assert result.lacks_promotion is not result.has_ended
    words = [command[command.index("-m catdog") :] for command in result.next_commands()]
    return [word.split()[1].removeprefix("catdog.") for word in words]


def test_an_incomplete_sweep_leads_only_to_its_own_command(config) -> None:
    done = job(config, "finished")
    for left in (job(config, INTERRUPTED), job(config, ""), job(config, "7 trains it right now", state="busy")):
        assert commands(config, done, left, is_promoted=True, interrupted=True) == ["train"]
        assert commands(config, done, left, undelivered="no answer") == ["deliver", "train"]
    # A deleted run is rather restored.
    assert commands(config, done, job(config, INTERRUPTED, restore="run=1")) == ["restore", "train"]
    assert commands(config, done, job(config, INTERRUPTED, restore="run=1", discard=True)) == ["train"]
    # A run that failed by itself does not keep the others from being the best.
    assert commands(config, done, job(config, "the loss became NaN"), is_promoted=True) == [
        "train",
        "compare",
        "evaluate",
    ]
    # An interruption may come after the last run has finished.
    assert commands(config, done, done, is_promoted=True, interrupted=True) == ["compare", "evaluate"]


def test_a_run_that_is_the_same_as_another_ends_as_that_does(config) -> None:
    for how, state, described in (
        (INTERRUPTED, "run", "interrupted"),
        ("", "run", "not started"),
        ("7 trains it right now", "busy", "busy"),
        ("the loss became NaN", "run", "failed"),
        ("finished", "run", "reused"),
    ):
        jobs = [job(config, how, state=state), job(config, "", state="reuse", same_as=0)]
        _share_outcomes(jobs)
        assert jobs[1].describe_state() == described
        assert jobs[1].has_ended is jobs[0].has_ended
