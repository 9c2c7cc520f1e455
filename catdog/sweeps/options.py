"""How a sweep's jobs are run: the options of the launcher, `hydra.launcher.KEY=VALUE`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from catdog.config.checks import require_types
from catdog.system.errors import UserError


@dataclass
class LauncherOptions:
    """The launcher's options. Hydra composes them, so their values are checked here.

    Attributes:
        n_jobs: how many runs train at the same time; they share the CPU threads, and each gets one of several GPUs.
        timeout_s: a run that takes longer is ended; None: no limit.
        memory_gb: a run whose process uses more is ended; None: no limit but the machine's.
        retries: how often a run whose process died is restarted, each time from its last checkpoint.
        on_error: "continue" with the other runs, or "stop": start no further run.
        plan_only: show the plan, and train nothing.
        only: names of variants, as the plan shows them without seed=; the other runs are left out. None: all.
        format: how plan_only shows the plan: "table" or "json".
        result_file: file to which the sweep's run id is written, as JSON, once all of its runs have finished.
    """

    n_jobs: int = 1
    timeout_s: float | None = None
    memory_gb: float | None = None
    retries: int = 1
    on_error: str = "continue"
    plan_only: bool = False
    only: list[str] | None = None
    result_file: str | None = None
    format: str = "table"

    def __post_init__(self) -> None:
        _require(self.n_jobs >= 1, "n_jobs", "1 or more", self.n_jobs)
        _require(
            self.timeout_s is None or self.timeout_s > 0, "timeout_s", "more than 0 seconds, or null", self.timeout_s
        )
        _require(self.memory_gb is None or self.memory_gb > 0, "memory_gb", "more than 0, or null", self.memory_gb)
        _require(self.retries >= 0, "retries", "0 or more", self.retries)
        _require(self.format in ("table", "json"), "format", "table or json", self.format)
        _require(self.on_error in ("continue", "stop"), "on_error", "continue or stop", self.on_error)


@dataclass
class ClusterOptions(LauncherOptions):
    """The options that all clusters have: each run is one job.

    Attributes:
        n_jobs: how many jobs wait or train at the same time.
        memory_gb: memory of each job; None: the cluster's default.
        cpus: CPU cores of each job, and so CPU threads of each run.
        gpus: GPUs of each job.
        detach: submit the jobs and end; the same command later shows how they stand and finishes the sweep.
    """

    n_jobs: int = 100
    cpus: int = 2
    gpus: float = 0
    detach: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.cpus >= 1, "cpus", "1 or more", self.cpus)
        _require(self.gpus >= 0, "gpus", "0 or more", self.gpus)


@dataclass
class SlurmOptions(ClusterOptions):
    """The options of `hydra/launcher=slurm`: each run is one job of a SLURM cluster.

    Attributes:
        partition: SLURM's partition; None: the cluster's default. Likewise account, qos and constraint.
        timeout_min: SLURM's time limit of each job. A run that needs longer is put into the queue again before it is reached.
        setup: shell commands that a job runs first, such as "module load cuda".
        extra: further options of sbatch by name, such as {reservation: mine}.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: int = 240
    setup: list[str] | None = None
    extra: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.gpus == int(self.gpus), "gpus", "a whole number", self.gpus)
        _require(
            self.extra is None or isinstance(self.extra, Mapping),
            "extra",
            "a mapping such as {reservation: mine}",
            self.extra,
        )
        _require(self.timeout_min >= 1, "timeout_min", "1 or more minutes", self.timeout_min)


@dataclass
class RayOptions(ClusterOptions):
    """The options of `hydra/launcher=ray`: each run is one actor of a Ray cluster.

    Attributes:
        address: of the cluster: "auto" finds the one that this host belongs to.
        gpus: GPUs of each job; a part of one, such as 0.5, is shared with others.
        resources: further resources that a node must have, such as {A100: 1}.
    """

    address: str = "auto"
    resources: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.gpus < 1 or self.gpus == int(self.gpus), "gpus", "a whole number, or less than 1", self.gpus)
        _require(
            self.resources is None
            or (
                isinstance(self.resources, Mapping)
                and all(isinstance(each, int | float) for each in self.resources.values())
            ),
            "resources",
            "a mapping of names to numbers such as {A100: 1}",
            self.resources,
        )


HELP = {
    "n_jobs": "runs at the same time; they share the CPU threads, and each gets one of several GPUs",
    "timeout_s": "end a run that takes longer",
    "memory_gb": "end a run whose process uses more memory",
    "retries": "how often to restart a run whose process died, each time from its last checkpoint",
    "on_error": "continue with the other runs, or stop: start no further run",
    "plan_only": "show what would be reused, resumed and run, and why; train nothing",
    "only": "train only these variants of the sweep, by their names in the plan: only=cnn,augmented",
    "format": "how plan_only shows the plan: table, or json for scripts",
    "result_file": "write the sweep's run id here, as JSON, once all of its runs have finished",
}


CLUSTER_HELP = {
    "n_jobs": "how many jobs wait or train at the same time",
    "memory_gb": "memory of each job; null: the cluster's default",
    "cpus": "CPU cores of each job, and so CPU threads of each run",
    "gpus": "GPUs of each job; with Ray also a part of one: 0.5",
    "detach": "submit the jobs and end; the same command later shows how they stand and finishes the sweep",
}

SLURM_HELP = {
    "partition": "SLURM's partition; null: the cluster's default",
    "account": "SLURM's account",
    "qos": "SLURM's quality of service",
    "constraint": "features that a node must have",
    "timeout_min": "time limit of each job; a run that needs longer is put into the queue again before it is reached",
    "setup": "shell commands that a job runs first: setup=['module load cuda']",
    "extra": "further options of sbatch: extra={reservation: mine}",
}

RAY_HELP = {
    "address": "the cluster's; auto: the one that this host belongs to",
    "resources": "further resources that a node must have: resources={A100: 1}",
}

# The options of each `hydra/launcher`, and their help.
KINDS: dict[str, tuple[type[LauncherOptions], dict[str, str]]] = {
    "catdog": (LauncherOptions, HELP),
    "slurm": (SlurmOptions, HELP | CLUSTER_HELP | SLURM_HELP),
    "ray": (RayOptions, HELP | CLUSTER_HELP | RAY_HELP),
}


def build_options(composed: Mapping[Any, Any], given: Mapping[str, Any]) -> LauncherOptions:
    """Returns the options that Hydra composed for the launcher, replaced by those in `given`.

    Raises:
        UserError: an option does not exist, or its value is out of range.
    """
    # Each launcher has a class of its own in hydra_plugins.
    name = str(composed.get("_target_", "")).rpartition(".")[2].removesuffix("Launcher").lower()
    kind, allowed = KINDS.get(name, KINDS["catdog"])
    known = {key: _to_plain(value) for key, value in composed.items() if key in allowed}
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise UserError(f"{unknown[0]}: no such option of a sweep. Allowed: {', '.join(allowed)}.")
    require_types(kind, given)
    return kind(**{**known, **given})


def _to_plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def require_attached(options: LauncherOptions) -> None:
    """Raises a UserError if a command that goes by the results of its runs is to leave them."""
    if isinstance(options, ClusterOptions) and options.detach:
        raise UserError(
            "hydra.launcher.detach: this command decides by the results what to train next, so it cannot leave its jobs. Leave "
            "detach out; the same command goes on after an interruption, with the jobs that are in the queue."
        )


def read_single_options(overrides: list[str]) -> LauncherOptions:
    """Returns the launcher's options that apply to a single run, plan_only and format; all others need a sweep.

    Args:
        overrides: of Hydra's own keys, such as ["hydra.launcher.plan_only=true"].

    Raises:
        UserError: an option needs a sweep.
    """
    given: dict[str, str] = {}
    for item in overrides:
        if item.startswith("hydra/launcher=") and item != "hydra/launcher=catdog":
            raise UserError(f"{item}: a launcher runs sweeps. Add -m: one run is a sweep of one.")
        if item.startswith("hydra.launcher."):
            key, _, value = item.removeprefix("hydra.launcher.").partition("=")
            if key not in ("plan_only", "format"):
                raise UserError(
                    f"hydra.launcher.{key}={value}: a launcher runs sweeps. Add -m: one run is a sweep of one."
                )
            given[key] = value.lower()
    return LauncherOptions(plan_only=given.get("plan_only") == "true", format=given.get("format", "table"))


def _require(ok: bool, key: str, allowed: str, received: object) -> None:
    if not ok:
        raise UserError(f"hydra.launcher.{key}: must be {allowed}, received {received!r}.")
