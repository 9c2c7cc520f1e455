"""A search before it is led: its space, its default run, its data and its rule, all checked before anything trains."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import open_dict

from catdog.config.composition import BaseRun, ComposedRun, compose_sweep
from catdog.config.digest import flatten, hash_text
from catdog.config.metrics import ACCURACY, METRICS
from catdog.config.names import shorten_keys, show_value
from catdog.config.schema import Config
from catdog.data.metrics import load_metric
from catdog.registry.champion import promote
from catdog.search.halving import Halving, plan_rungs
from catdog.search.sampling import require_sampler
from catdog.search.saved import require_free
from catdog.search.space import Dimension, Space, read_space, split_overrides
from catdog.search.trials import Trial
from catdog.statistics.metrics import Metric
from catdog.sweeps.busy import busy_sweep
from catdog.sweeps.check import load_datasets, plan_runtimes
from catdog.sweeps.fitting import fit_composed, fit_configs
from catdog.sweeps.jobs import JobState
from catdog.sweeps.options import LauncherOptions, build_options, require_attached
from catdog.sweeps.plan import PlannedRun, close_dead
from catdog.system.errors import UserError
from catdog.tracking import tags as tag
from catdog.tracking.identity import identify
from catdog.tracking.records import RUNNING, StoredRun, find_by_identity

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.config.commands import TuneConfig
    from catdog.data.dataset import Dataset

log = logging.getLogger(__name__)

DEFAULT = "default"
# A whole training has so many rungs below its last at most, unless min_epochs says otherwise: 20 epochs, 7 and 2.
FEWEST_EPOCHS = 2


@dataclass
class PlannedSearch:
    """A search that is checked, and not yet led.

    Attributes:
        config: the options of the search.
        fixed: the overrides that all trials share.
        space: what is varied.
        base_run: composes the runs of trials.
        base_config: its config, fitted to the data.
        identity: of that run.
        dataset: the data set of all trials.
        runtime: precision and device of all trials.
        options: the launcher's.
        halving: the rule by which trials go on.
        metric: by which they are compared.
        name: of the search, which with the default run makes it the same search when it is started again.
        client: of the tracking store; None if there is none yet.
        earlier: the search's run in MLflow, if it has begun before.
    """

    config: "TuneConfig"
    fixed: list[str]
    space: Space
    base_run: BaseRun
    base_config: Config
    identity: Any
    dataset: "Dataset" = field(repr=False)
    runtime: dict[str, str]
    options: LauncherOptions
    halving: Halving
    metric: Metric
    name: str
    client: "MlflowClient | None" = field(repr=False)
    earlier: StoredRun | None = field(repr=False)

    @property
    def search_identity(self) -> str:
        """By which the same command finds the search again."""
        return hash_text(f"search\n{self.name}\n{self.identity.digest}")

    @cached_property
    def most_trials(self) -> int:
        """The number of trials: as many as were asked for, or all configurations that the space has."""
        wanted = self.config.trials
        return sum(1 for _ in islice(self.space.list_settings(), wanted)) if self.space.is_finite else wanted

    def describe(self) -> dict[str, Any]:
        """Returns what must not change while the search goes on, for JSON."""
        return {
            "name": self.name, "space": self.space.describe(), "sampler": self.config.sampler, "metric": self.metric.name,
            "factor": self.config.factor, "rungs": list(self.halving.rungs), "random_share": self.config.random_share,
        }  # fmt: skip

    def compose(self, trial: Trial) -> ComposedRun:
        """Returns the run of a trial.

        Raises:
            UserError: its settings do not go together.
        """
        run = self.base_run.vary(self.space.word(trial.settings))
        composed = run.composed
        with open_dict(composed):
            composed.hydra.sweep.dir = self.base_run.run.composed.hydra.sweep.dir
            composed.hydra.sweep.subdir = trial.name.replace(" ", "-")
            composed.hydra.job.num = trial.number
            composed.hydra.job.id = f"{trial.number}"
        return run

    def build_job(self, trial: Trial, name: str = "") -> JobState:
        """Returns the job of a trial, with its identity.

        Raises:
            UserError: its settings do not go together.
        """
        run = self.compose(trial)
        name = name or trial.name
        (config,) = fit_configs([(name, run.config)], [self.dataset])
        if config.trainer.epochs != self.base_config.trainer.epochs:
            raise UserError(
                "trainer.epochs: must be the same for all trials, or they could not be compared at the same epochs."
            )
        (runtime,) = plan_runtimes([(name, config)], self.options)
        identity = identify(config, self.dataset.manifest.digest, runtime)
        planned = PlannedRun(name, config, identity, images=self.dataset.manifest.images)
        return JobState(fit_composed(run.composed, config), run.overrides, planned)

    def read_defaults(self) -> dict[str, str] | None:
        """Returns the default settings, if they lie in the space."""
        choices = self.base_run.run.composed.hydra.runtime.choices
        leaves = flatten(self.base_config)
        settings: dict[str, str] = {}
        for dimension in self.space:
            if not dimension.applies(settings):
                continue
            value = choices[dimension.key] if dimension.key in choices else leaves.get(dimension.key)
            text = _find_text(dimension, show_value(str(value)))
            if text is None:
                return None
            settings[dimension.key] = text
        return settings


def _find_text(dimension: Dimension, default: str) -> str | None:
    """Returns the value of a dimension that equals a default, as the dimension writes it; None if it has none."""
    if not dimension.choices:
        found = dimension.read(default)
        return None if found is None else dimension.show(found)
    for choice in dimension.choices:
        if choice.strip("'\"") == default or _is_equal_number(choice, default):
            return choice
    return None


def _is_equal_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def plan_search(config: "TuneConfig", overrides: Sequence[str]) -> PlannedSearch:
    """Returns a search whose space, default run, data and earlier trials are checked.

    Args:
        config: the options of the search.
        overrides: in Hydra's grammar: those with several values are the space.

    Raises:
        UserError: something is wrong with them; nothing is trained then.
    """
    from catdog import tracking
    from catdog.tracking.settlement import settle_earlier

    fixed, varied = split_overrides(overrides)
    space = read_space(varied, Path(config.space) if config.space else None, fixed)
    require_sampler(config.sampler, space)
    metric = load_metric(config.metric)
    if (
        config.metric in METRICS
        and config.metric != ACCURACY
        and not any(item.startswith("trainer.keep_metric=") for item in fixed)
    ):
        fixed.append(f"trainer.keep_metric={config.metric}")
    base_run = BaseRun(fixed)
    base = base_run.run
    _check_kinds(space, base.config)
    _check_ends(space, fixed)
    tracking.check_store(base.config.tracking)
    client = tracking.connect_existing(base.config.tracking)
    if client:
        tracking.check_study(client, base.config.study)
    (dataset,) = load_datasets([(DEFAULT, base.config)])
    metric.require_classes("metric", dataset.classes)
    (base_config,) = fit_configs([(DEFAULT, base.config)], [dataset])
    options = build_options(base_run.launcher, {})
    require_attached(options)
    (runtime,) = plan_runtimes([(DEFAULT, base_config)], options)
    identity = identify(base_config, dataset.manifest.digest, runtime)
    trainer = base_config.trainer
    fewest = config.min_epochs or max(FEWEST_EPOCHS, int(trainer.warmup_epochs) + 1)
    if config.min_epochs is not None and config.min_epochs > trainer.epochs:
        raise UserError(f"min_epochs: must be at most trainer.epochs={trainer.epochs}, received {config.min_epochs}.")
    rungs = plan_rungs(trainer.epochs, fewest, config.factor, trainer.is_validated)
    name = config.search or " ".join(shorten_keys(space.keys).values())
    planned = PlannedSearch(
        config, fixed, space, base_run, base_config, identity, dataset, runtime, options,
        Halving(rungs, config.factor, config.top), metric, name, client, None,
    )  # fmt: skip
    require_free(config.save, planned.search_identity)
    if client:
        settle_earlier(client, base_config.tracking, promote)
        close_dead(client, base_config)
        found = find_by_identity(client, base_config.study, planned.search_identity, tag.SWEEP)
        planned.earlier = found[0] if found else None
    if planned.earlier:
        _check_earlier(planned, planned.earlier)
    return planned


def _check_kinds(space: Space, config: Config) -> None:
    """Raises a UserError if a key of the space takes whole numbers only, and its interval holds others."""
    leaves = flatten(config)
    for dimension in space:
        value = leaves.get(dimension.key)
        if isinstance(value, int) and not isinstance(value, bool) and not dimension.choices and not dimension.whole:
            words = dimension.words
            whole = (
                words.replace("interval(", "int(interval(", 1).replace(")", "))", 1) if "interval" in words else words
            )
            raise UserError(f"{dimension.key}: takes whole numbers, received {words}. Use {whole}.")


def _check_ends(space: Space, fixed: list[str]) -> None:
    """Raises a UserError if a key does not exist, or does not take the first or the last of its values."""
    for dimension in space:
        needed = [f"{key}={values[0]}" for key, values in dimension.when]
        ends = dimension.choices or (dimension.show(dimension.low), dimension.show(dimension.high))
        for value in ends:
            compose_sweep([*fixed, *needed, f"{dimension.prefix}{dimension.key}={value}"])


def _check_earlier(planned: PlannedSearch, earlier: StoredRun) -> None:
    """Raises a UserError if somebody leads the search right now, or if it began with another space or another rule."""
    if earlier.status == RUNNING:
        raise busy_sweep(earlier.owner, "search")
    before, now = earlier.tags.search, planned.describe()
    advice = f"Give the same, or another name to begin another search: search={planned.name.split()[0]}2."
    spaces = (before.get("space", {}), now["space"])
    for key in dict.fromkeys([*spaces[0], *spaces[1]]):
        was, wanted = (_word_values(space.get(key)) for space in spaces)
        if was != wanted:
            raise UserError(f"{key}: the search {planned.name!r} has begun with {was}, received {wanted}. {advice}")
    for key in ("sampler", "metric", "factor", "random_share", "rungs"):
        if before.get(key) != now[key]:
            name = "min_epochs" if key == "rungs" else key
            raise UserError(
                f"{name}: the search {planned.name!r} has begun with {before.get(key)}, received {now[key]}. {advice}"
            )


def _word_values(described: Mapping[str, Any] | None) -> str:
    if described is None:
        return "no such key"
    when = described.get("when", {})
    return str(described["values"]) + (f" when {when}" if when else "")
