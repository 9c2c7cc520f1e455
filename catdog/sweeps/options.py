"""How a sweep's jobs are run: the options of the launcher, `hydra.launcher.KEY=VALUE`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def build_options(composed: Mapping[Any, Any], given: Mapping[str, Any]) -> LauncherOptions:
    """Returns the options that Hydra composed for the launcher, replaced by those in `given`.

    Raises:
        UserError: an option does not exist, or its value is out of range.
    """
    known = {key: value for key, value in composed.items() if key in HELP}
    unknown = sorted(set(given) - set(HELP))
    if unknown:
        raise UserError(f"{unknown[0]}: no such option of a sweep. Allowed: {', '.join(HELP)}.")
    return LauncherOptions(**{**known, **given})


def read_single_options(overrides: list[str]) -> LauncherOptions:
    """Returns the launcher's options that apply to a single run, plan_only and format; all others need a sweep.

    Args:
        overrides: of Hydra's own keys, such as ["hydra.launcher.plan_only=true"].

    Raises:
        UserError: an option needs a sweep.
    """
    given: dict[str, str] = {}
    for item in overrides:
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
