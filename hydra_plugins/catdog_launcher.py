"""Hydra's way to catdog's sweeps: the launcher `hydra/launcher=catdog`, one process per run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from catdog.sweeps.options import LauncherOptions


@dataclass
class CatdogLauncherConfig(LauncherOptions):
    _target_: str = "hydra_plugins.catdog_launcher.CatdogLauncher"


class CatdogLauncher(Launcher):
    """Hands a sweep's jobs to `catdog.sweeps`; nothing heavy is imported before there is a sweep to run."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from catdog.sweeps.launch import launch

        options = LauncherOptions(**self.options)
        return launch(self.hydra_context, self.config, [list(overrides) for overrides in job_overrides], options)


ConfigStore.instance().store(group="hydra/launcher", name="catdog", node=CatdogLauncherConfig, provider="catdog")
