"""Composition: turns command lines in Hydra's grammar into configs of runs."""

import contextlib
import copy
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import filter_overrides, setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from catdog.config import commands, schema
from catdog.config.checks import read_hints
from catdog.config.mistakes import explain, explain_choice, require_valid, schema_of
from catdog.config.names import unescape
from catdog.config.schema import Config, load_config
from catdog.config.sharing import share_composition
from catdog.config.sweep_base import tolerant_sweeps
from catdog.system.errors import UserError

log = logging.getLogger(__name__)

NOTHING = "nothing"
# Hydra's state is global to the process.
_lock = threading.RLock()


@dataclass(frozen=True)
class ComposedRun:
    """One run's config, as Hydra composed it.

    Attributes:
        composed: the config with Hydra's own section.
        config: the same as dataclasses, checked.
        overrides: the command line's overrides for this run, such as ["model=cnn", "seed=1"].
    """

    composed: DictConfig
    config: Config
    overrides: list[str]

    @property
    def model(self) -> str:
        """The choice of the group `model`, whether the command line, an experiment or the default made it."""
        return str(self.composed.hydra.runtime.choices["model"])

    @property
    def without(self) -> str:
        """The choice of the group `without`: an ingredient that is turned off, or NOTHING."""
        return str(self.composed.hydra.runtime.choices["without"])


def compose_sweep(overrides: Sequence[str]) -> tuple[list[ComposedRun], DictConfig]:
    """Returns the runs that a command line makes, in Hydra's order, and the options of the launcher.

    Args:
        overrides: in Hydra's grammar, as after `python -m catdog.train -m`: "model=cnn,augmented", "seed=0,1,2".

    Raises:
        UserError: the config cannot be composed; the message says why.
    """
    require_valid(overrides, "config")
    with open_hydra() as loader, explained():
        base = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
        # Resolved here, once: the folder's name contains the current time, and all runs must share the folder.
        _ = base.hydra.sweep.dir
        return expand_sweep(loader, base, _split(loader, base)), base.hydra.launcher


class BaseRun:
    """A composed run whose variations are composed quickly: what they share has been checked, and read from files, once.

    Args:
        overrides: in Hydra's grammar, what all variations share.

    Raises:
        UserError: they make no config, or several.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = list(overrides)
        runs, self.launcher = compose_sweep(overrides)
        if len(runs) != 1:
            raise UserError(
                f"{' '.join(overrides)}: makes {len(runs)} runs where one is wanted. Give each key one value."
            )
        self.run = runs[0]
        with open_hydra() as loader, explained():
            self._base = loader.load_configuration("config", self.overrides, run_mode=RunMode.MULTIRUN)
            # Resolved here, once: the folder's name contains the current time.
            _ = self._base.hydra.sweep.dir

    def vary(self, overrides: Sequence[str]) -> ComposedRun:
        """Returns the run with further overrides.

        Raises:
            UserError: a value is out of range, or values contradict each other.
        """
        with open_hydra() as loader, explained():
            return expand_sweep(loader, self._base, [[*self.overrides, *overrides]])[0]


def compose_run(overrides: Sequence[str]) -> ComposedRun:
    """Returns the one run that a command line makes.

    Raises:
        UserError: the config cannot be composed, or it makes several runs; the message says which.
    """
    runs, _ = compose_sweep(overrides)
    if len(runs) != 1:
        raise UserError(f"{' '.join(overrides)}: makes {len(runs)} runs where one is wanted. Give each key one value.")
    return runs[0]


def expand_sweep(loader: ConfigLoader, base: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[ComposedRun]:
    """Returns the jobs of a sweep, each composed and checked.

    A job that leaves out an ingredient which its model does not have, by the group `without`, is not a job of its own. It is left
    out if the sweep has the same job without this choice.

    Args:
        loader: Hydra's config loader.
        base: the sweep's config.
        job_overrides: the overrides of each job.

    Raises:
        UserError: a value out of range, or groups that contradict each other.
    """
    runs = []
    shared = share_composition(loader)
    for number, overrides in enumerate(job_overrides):
        composed = shared.take(base, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = f"{number}"
            composed.hydra.job.num = number
        overridden = [unescape(word) for word in filter_overrides(overrides)]
        runs.append(ComposedRun(composed, load_config(without_hydra(composed), Config), overridden))
    return _leave_out_lacking(runs)


def _leave_out_lacking(runs: list[ComposedRun]) -> list[ComposedRun]:
    """Returns the runs but for those whose `without` changes nothing; the names of the others are logged."""
    if all(run.without == NOTHING for run in runs):
        return runs
    # As text, because configs have no hash: comparing each with each takes long in a large sweep.
    whole = {repr(run.config) for run in runs if run.without == NOTHING}
    kept, lacking = [], {}
    for run in runs:
        if run.without != NOTHING and repr(run.config) in whole:
            lacking[f"{run.model} without {run.without}"] = True
        else:
            kept.append(run)
    if lacking:
        log.info("left out, because the model has no such ingredient: %s", ", ".join(lacking))
    return kept


def without_hydra(composed: DictConfig) -> DictConfig:
    """Returns the config of a job without Hydra's own section."""
    task = copy.deepcopy(composed)
    with open_dict(task):
        del task["hydra"]
    return task


def _split(loader: ConfigLoader, base: DictConfig) -> list[list[str]]:
    """Returns the overrides of each job, in the order of Hydra's own sweeper; an experiment file may add some."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    brought = OmegaConf.to_container(base.hydra.sweeper.params) if base.hydra.sweeper.params else {}
    assert isinstance(brought, dict)
    task = OmegaConf.to_container(base.hydra.overrides.task, resolve=False)
    assert isinstance(task, list)
    words = [f"{key!s}={value}" for key, value in brought.items()] + [str(word) for word in task]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


@contextlib.contextmanager
def open_hydra() -> Iterator[ConfigLoader]:
    """Opens Hydra on the configs of runs, one thread at a time. Afterwards Hydra's global state is as it was before."""
    with _lock:
        # Hydra's plugins register their configs only once, so they must do it before the store is copied.
        Plugins.instance()
        store = ConfigStore.instance()
        former = store.repo
        store.repo = copy.deepcopy(former)
        # The groups that a command registers for itself would hide the files of the same name in conf/.
        commands.unregister(store.repo)
        # A command may compose runs while Hydra is still open from composing the command's own options.
        opened, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
        try:
            schema.register()
            setup_globals()
            with (
                initialize_config_dir(str(schema.CONF), job_name="train", version_base="1.3"),
                tolerant_sweeps(),
            ):
                hydra = GlobalHydra.instance().hydra
                assert hydra is not None
                yield hydra.config_loader
        finally:
            store.repo = former
            GlobalHydra.instance().hydra = opened


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns Hydra's and OmegaConf's exceptions into a UserError that says what is wrong with the command line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, "config")) from error
    except ValueError as error:
        # Hydra raises this if model=1 or dataset=null does not name a choice of the group.
        if "Config group override" not in str(error):
            raise
        raise UserError(explain_choice(error)) from error


def bracket_list(argument: str, root: str) -> str:
    """Returns KEY=A,B as KEY=['A','B'] where KEY takes a list of names: Hydra would refuse a single one, and sweep over several."""
    key, _, value = argument.partition("=")
    names = {name for name, kind in read_hints(schema_of(root)).items() if kind == list[str] | None}
    if key not in {*names, "hydra.launcher.only"} or value in ("", "null") or set(value) & set("[]'\""):
        return argument
    items = (item.strip() for item in value.split(","))
    # Hydra would read the run id 12e5 as a number.
    return f"{key}=[{','.join(item if item.isidentifier() else repr(item) for item in items)}]"
