"""How a sweep's jobs are run: the options of the launcher, `hydra.launcher.KEY=VALUE`."""

from dataclasses import dataclass

from catdog.system.errors import UserError


@dataclass
class LauncherOptions:
    """The launcher's options; Hydra composes them, so they need their checks here.

    Attributes:
        n_jobs: runs at the same time; CPU threads are divided among them, and several GPUs given out one each.
        timeout_s: a run that takes longer is ended; None: never.
        memory_gb: a run whose process uses more is ended; None: no limit but the machine's.
        retries: how often a run whose process died is started again, each time from its last checkpoint.
        on_error: continue with the other runs, or stop: start no further one.
        plan_only: show the plan and stop.
        only: names of variants, as the plan shows them without seed=; the other runs are left out. None: all.
        result_file: where a sweep whose runs have all finished says, as JSON, which sweep it was.
    """

    n_jobs: int = 1
    timeout_s: float | None = None
    memory_gb: float | None = None
    retries: int = 1
    on_error: str = "continue"
    plan_only: bool = False
    only: list[str] | None = None
    result_file: str | None = None

    def __post_init__(self) -> None:
        _require(self.n_jobs >= 1, "n_jobs", "1 or more", self.n_jobs)
        _require(
            self.timeout_s is None or self.timeout_s > 0, "timeout_s", "more than 0 seconds, or null", self.timeout_s
        )
        _require(self.memory_gb is None or self.memory_gb > 0, "memory_gb", "more than 0, or null", self.memory_gb)
        _require(self.retries >= 0, "retries", "0 or more", self.retries)
        _require(self.on_error in ("continue", "stop"), "on_error", "continue or stop", self.on_error)


HELP = {
    "n_jobs": "runs at the same time; CPU threads are divided among them, several GPUs given out one each",
    "timeout_s": "end a run that takes longer",
    "memory_gb": "end a run whose process uses more memory",
    "retries": "start a run whose process died again, from its last checkpoint, so often",
    "on_error": "continue with the other runs, or stop: start no further one",
    "plan_only": "show what would be reused, resumed and run, and why; train nothing",
    "only": "train these variants of the sweep alone, by their names in the plan: only=[cnn,augmented]",
    "result_file": "write the sweep's run id here, as JSON, once all of its runs have finished",
}


def _require(ok: bool, key: str, allowed: str, received: object) -> None:
    if not ok:
        raise UserError(f"hydra.launcher.{key}: must be {allowed}, received {received!r}.")
