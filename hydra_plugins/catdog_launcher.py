"""The launchers through which Hydra runs catdog's sweeps, `hydra/launcher=NAME`; each run has a process of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from catdog.sweeps.options import LauncherOptions, RayOptions, SlurmOptions


@dataclass
class CatdogLauncherConfig(LauncherOptions):
    """The launcher's options, with the class that Hydra creates from them."""

    _target_: str = "hydra_plugins.catdog_launcher.CatdogLauncher"


@dataclass
class SlurmLauncherConfig(SlurmOptions):
    """The same for a SLURM cluster."""

    _target_: str = "hydra_plugins.catdog_launcher.SlurmLauncher"


@dataclass
class RayLauncherConfig(RayOptions):
    """The same for a Ray cluster."""

    _target_: str = "hydra_plugins.catdog_launcher.RayLauncher"


class CatdogLauncher(Launcher):
    """Hands a sweep's jobs to `catdog.sweeps`; nothing heavy is imported before there is a sweep to run."""

    kind: type[LauncherOptions] = LauncherOptions

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Stores the context and the config; `task_function` is not used, since `catdog.sweeps` trains the runs itself."""
        from catdog.config.sharing import share_composition

        del task_function
        # Hydra's sweeper composes all jobs before it launches them.
        share_composition(hydra_context.config_loader)
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a sweep, and returns its results; `initial_job_idx` is not used, since a sweep is one batch of jobs."""
        del initial_job_idx
        from catdog.config.composition import expand_sweep
        from catdog.train import launch

        setup_globals()
        runs = expand_sweep(self.hydra_context.config_loader, self.config, job_overrides)
        result = launch(runs, self.kind(**self.options))
        return [
            JobReturn(cfg=job.composed, status=JobStatus.COMPLETED, _return_value=job.outcome) for job in result.jobs
        ]


class SlurmLauncher(CatdogLauncher):
    """The same for a SLURM cluster."""

    kind = SlurmOptions


class RayLauncher(CatdogLauncher):
    """The same for a Ray cluster."""

    kind = RayOptions


for _name, _node in (("catdog", CatdogLauncherConfig), ("slurm", SlurmLauncherConfig), ("ray", RayLauncherConfig)):
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="catdog")
