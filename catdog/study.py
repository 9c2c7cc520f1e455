"""The Python API: a study, and what can be done with it. The commands are thin shells around it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.config.command_lines import quote
from catdog.config.schema import DEFAULT_STUDY, DEFAULT_URI, TrackingConfig, load_tracking, require_study
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pandas as pd
    from mlflow import MlflowClient

    from catdog.data.dataset import Dataset
    from catdog.data.handout import Split
    from catdog.registry.ledger import OpenLook
    from catdog.search.decisions import Decision
    from catdog.sweeps.launch import PlannedSweep
    from catdog.sweeps.result import Sweep
    from catdog.tracking.recording import RecordedRun, Recording


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
        self._dataset: tuple[tuple[str, ...] | None, Dataset] | None = None
        self._recording: Recording | None = None
        self._has_settled = False

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

    def record(
        self,
        variant: str,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        *,
        dataset: Sequence[str] | None = None,
        reuse: str = "exact",
        promote: bool = True,
        code: Sequence[str | Path] | None = None,
    ) -> "AbstractContextManager[RecordedRun]":
        """Records a run that another tool trains; it is FINISHED when the block ends, FAILED or KILLED by an exception.

        Where a finished run of the same variant, config, seed, data, code and libraries is there already, `run.is_finished` is true
        and nothing is written twice: let the script skip its work then.

        Args:
            variant: what is compared, such as "resnet18-torch".
            seed: the run's; runs of one variant differ in nothing else.
            config: what makes the variant what it is: numbers, texts, lists and dictionaries.
            dataset: which images the run is about, as for training: ["dataset=folder", "dataset.archive=PATH"]; None: those that
                this object was given before, or those of the study's newest run.
            reuse: exact, or never: it is recorded again.
            promote: whether its model may become champion.
            code: the Python files that train; None: the file, or the notebook's cell, that calls this method.

        Returns:
            A context manager that gives a `RecordedRun`.

        Raises:
            UserError: what is wrong in the arguments, or the images cannot be had.
        """
        from catdog.tracking.recording import read_scripts, record_run

        scripts, images = read_scripts(code), self._load_dataset(dataset)
        return record_run(
            self._connect_to_record(), self._tracking, self.name, images, variant=variant, seed=seed, config=config,
            scripts=scripts, reuse=reuse, promote=promote, recording=self._recording,
        )  # fmt: skip

    @contextlib.contextmanager
    def recording(self, name: str = "recorded runs", *, promote: bool = True) -> "Iterator[Recording]":
        """Holds all runs recorded in the block together, as those of a sweep: `compare` then takes them by default.

        Args:
            name: what it is called in MLflow.
            promote: whether the best run of its best variant may become champion.

        Raises:
            UserError: another such block is open.
        """
        from catdog.tracking.recording import open_recording

        if self._recording is not None:
            raise UserError(f"recording: {self._recording.name!r} is open. End it before the next one begins.")
        with open_recording(self._connect_to_record(), self._tracking, self.name, name, promote) as recording:
            self._recording = recording
            try:
                yield recording
            finally:
                self._recording = None

    def split(self, name: str, *, dataset: Sequence[str] | None = None, look: "OpenLook | None" = None) -> "Split":
        """Returns the files, labels and class names of train or val; those of test for a look in the ledger.

        Args:
            name: train, val or test.
            dataset: as of `record`.
            look: for test: of `look`.

        Raises:
            UserError: no such split, the images cannot be had, or test is asked for without a look.
        """
        from catdog.data.handout import hand_out
        from catdog.registry.ledger import require_look

        if name == "test" and look is None:
            require_look(None)
        found = self._load_dataset(dataset)
        if name == "test":
            require_look(look, found.manifest.images)
        return hand_out(found, name, look)

    @contextlib.contextmanager
    def look(self, run_id: str) -> "Iterator[OpenLook]":
        """Records a look at the test split by one of the study's runs, before anything of it is given out.

        Within the block `split("test", look=look)` gives the images; `look.record({"test/accuracy": ...})` keeps what was found.

        Args:
            run_id: of the run whose model is looked at.

        Raises:
            UserError: there is no such run, or its images cannot be had.
        """
        from catdog.registry.ledger import open_run_look
        from catdog.tracking.study_data import find_run, load_run_dataset

        client = self._connect()
        run = find_run(client, run_id)
        images = load_run_dataset(run, "Bring the original data back.").manifest.images
        with open_run_look(client, images, run_id) as look:
            yield look

    def _connect_to_record(self) -> "MlflowClient":
        """Returns a client of the store, made by first use; delivers what earlier runs have left in the outbox."""
        from catdog import tracking
        from catdog.tracking.settlement import settle_entries

        client = tracking.connect(self._tracking)
        if not self._has_settled:
            self._has_settled = True
            settle_entries(client, Path(self._tracking.spool), self._tracking.uri, self._tracking.wait_s)
        return client

    def _load_dataset(self, overrides: Sequence[str] | None) -> "Dataset":
        """Returns the data set that overrides name, or that of the last call, or the study's; its files are hashed once."""
        from catdog import tracking
        from catdog.tracking.study_data import load_study_dataset

        words = None if overrides is None else tuple([overrides] if isinstance(overrides, str) else overrides)
        if self._dataset is None or words not in (None, self._dataset[0]):
            client = tracking.connect_existing(self._tracking)
            self._dataset = words, load_study_dataset(client, self.name, words)
        return self._dataset[1]
