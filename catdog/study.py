"""The Python API: a study, and what can be done with it. The commands are thin shells around it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from catdog.config.command_lines import quote
from catdog.config.schema import DEFAULT_STUDY, DEFAULT_URI, TrackingConfig, load_tracking, require_study

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from catdog.search.decisions import Decision
    from catdog.sweeps.launch import PlannedSweep
    from catdog.sweeps.result import Sweep


class Study:
    """A question and the runs that answer it: one MLflow experiment.

    A study of another name or another store is another object; several in one process do not disturb each other. Nothing
    is read or written before a method is called.

    Args:
        name: the study's, as `study=` on the command line.
        tracking_uri: address of the MLflow store, `sqlite:///PATH/mlflow.db` or `http://HOST:PORT`; None: that of the environment
            variable MLFLOW_TRACKING_URI, or `sqlite:///mlruns/mlflow.db`.

    Raises:
        UserError: the name is empty or has a slash in it.
    """

    def __init__(self, name: str = DEFAULT_STUDY, *, tracking_uri: str | None = None) -> None:
        require_study(name)
        self.name = name
        self._tracking = load_tracking(tracking_uri or DEFAULT_URI)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, tracking_uri={self._tracking.uri!r})"

    @property
    def tracking(self) -> TrackingConfig:
        """The tracking section of the config: the store's address, the folder for artifacts, the outbox."""
        return self._tracking

    def _connect(self) -> "MlflowClient":
        """Returns a client of the store, which must exist."""
        from catdog import tracking

        return tracking.connect(self._tracking, create=False)

    # Training -------------------------------------------------------------------------------------------------------------

    def plan(self, *overrides: str) -> "pd.DataFrame":
        """Returns what `train` would do, and does nothing: one row a run.

        The columns are run, plan (reuse, resume, run, busy), why, run_id and seed.

        Args:
            overrides: as for `train`.

        Raises:
            UserError: as `train`.
        """
        import pandas as pd

        from catdog.sweeps.plan import describe_plan

        planned = self._plan(overrides, {"plan_only": True})
        return pd.DataFrame(describe_plan([job.planned for job in planned.jobs]))

    def train(self, *overrides: str, quiet: bool = False, **launcher: Any) -> "Sweep":
        """Trains a sweep, each run in a process of its own; what is finished is reused, what was interrupted goes on.

        Args:
            overrides: in Hydra's grammar, as after `python -m catdog.train -m`: "model=cnn,augmented", "seed=0,1,2". Without
                several values it is a sweep of one run.
            quiet: show no progress; otherwise it is shown in the terminal, or below the notebook's cell.
            launcher: options of the launcher, such as n_jobs=2, timeout_s=3600.

        Returns:
            How it went. Runs that failed are in it, with their errors.

        Raises:
            UserError: what cannot be trained; it is found before the first run starts.
            KeyboardInterrupt: Ctrl-C. The first one lets running runs close; the same call goes on with them.
        """
        from catdog.sweeps.display import QuietDisplay, choose_display
        from catdog.sweeps.result import Sweep

        planned = self._plan(overrides, launcher)
        result = planned.run(QuietDisplay if quiet else choose_display())
        if result.interrupted:
            raise KeyboardInterrupt
        return Sweep(result)

    def decide(
        self,
        *overrides: str,
        margin: float = 0.02,
        error: float = 0.05,
        first_seeds: int = 3,
        max_seeds: int = 12,
        quiet: bool = False,
    ) -> "Decision":
        """Trains seeds in rounds until each pair of variants is decided, and is not wrong more often for looking after each round.

        Args:
            overrides: what makes the variants, without seeds: "model=cnn,augmented".
            margin: a difference in accuracy up to this is as good as none.
            error: how often any statement may be wrong, over all pairs and looks.
            first_seeds: seeds of each variant before the first look.
            max_seeds: seeds after which it ends, decided or not.
            quiet: show no progress.

        Raises:
            UserError: fewer than two variants, or a run failed.
            KeyboardInterrupt: Ctrl-C; the same call goes on.
        """
        from catdog.config.commands import DecideConfig
        from catdog.search.decisions import SweepTrainer, decide
        from catdog.sweeps.display import QuietDisplay, choose_display
        from catdog.sweeps.launch import plan_sweep

        display = QuietDisplay if quiet else choose_display()
        trainer = SweepTrainer(
            [*overrides, *self._place()],
            lambda runs, options, arguments: plan_sweep(runs, options, arguments).run(display),
        )
        return decide(DecideConfig(margin, error, first_seeds, max_seeds), trainer)

    def _plan(self, overrides: Sequence[str], options: Mapping[str, Any]) -> "PlannedSweep":
        from catdog.config.composition import compose_sweep
        from catdog.sweeps.launch import plan_sweep
        from catdog.sweeps.options import build_options

        words = [*overrides, *self._place()]
        runs, launcher = compose_sweep(words)
        return plan_sweep(runs, build_options(launcher, options), ["-m", *words])

    def _place(self) -> list[str]:
        """Returns the overrides that say where the study is, as far as that is not the default."""
        named = [] if self.name == DEFAULT_STUDY else [f"study={quote(self.name)}"]
        if self._tracking.uri == DEFAULT_URI:
            return named
        server = ["tracking=server"] if self._tracking.uri.startswith("http") else []
        return [*named, *server, f"tracking.uri={quote(self._tracking.uri)}"]

    # Results --------------------------------------------------------------------------------------------------------------

    # Runs of other tools --------------------------------------------------------------------------------------------------
