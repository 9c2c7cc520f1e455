"""The Python API: a study and its methods. The commands are thin shells around it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.config.checks import require, require_choice, require_types
from catdog.config.command_lines import quote
from catdog.config.schema import DEFAULT_STUDY, DEFAULT_URI, PromoteConfig, TrackingConfig, load_tracking, require_study
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pandas as pd
    from mlflow import MlflowClient

    from catdog.auditing.drift import DriftFindings
    from catdog.auditing.result import DatasetFindings, PipelineFindings
    from catdog.comparison.result import Comparison
    from catdog.config.schema import DatasetConfig
    from catdog.data.dataset import Dataset
    from catdog.data.handout import Split
    from catdog.data.predictions import Predictions
    from catdog.deployment.ensemble import Ensemble, EnsemblePlan
    from catdog.deployment.evaluation import Evaluation
    from catdog.deployment.export import Export
    from catdog.deployment.prediction import TrainedModel
    from catdog.registry.card import Card
    from catdog.registry.deletion import Deletion
    from catdog.registry.ledger import OpenLook
    from catdog.search.decisions import Decision
    from catdog.search.tuned import Tuning
    from catdog.sweeps.launch import PlannedSweep
    from catdog.sweeps.result import Sweep
    from catdog.tracking.recording import RecordedRun, Recording


# An audit asks this many of the study's newest runs.
MOST_RUNS_ASKED = 20


class Study:
    """A question and the runs that answer it: one MLflow experiment.

    Make one object for each name and store; several objects in one process do not disturb each other. Nothing is read or written
    before a method is called.

    Args:
        name: the study's name, as `study=` on the command line.
        tracking_uri: address of the MLflow store, `sqlite:///PATH/mlflow.db` or `http://HOST:PORT`; None: the environment variable
            MLFLOW_TRACKING_URI, or else `sqlite:///mlruns/mlflow.db`.

    Raises:
        UserError: the name is empty or has a slash in it.
    """

    def __init__(self, name: str = DEFAULT_STUDY, *, tracking_uri: str | None = None) -> None:
        require_study(name)
        is_address = tracking_uri is None or isinstance(tracking_uri, str)
        require(is_address, "tracking_uri", "an address such as sqlite:///PATH/mlflow.db, or None", tracking_uri)
        self.name = name
        self._tracking = load_tracking(tracking_uri or DEFAULT_URI)
        self._dataset: tuple[tuple[str, ...] | None, Dataset] | None = None
        self._recording: Recording | None = None
        self._has_settled = False

    @classmethod
    def choose(cls, name: str | None, model: str | None = None, *, tracking_uri: str | None = None) -> "Study":
        """Returns the study of this name, or where none is named cats_vs_dogs or the only one that has a champion.

        Args:
            name: the study's; None: the one whose champion answers.
            model: as for `model`: a value that names a run or a registered model needs no study, and any study finds it.
            tracking_uri: address of the MLflow store.

        Raises:
            UserError: several studies have a champion, and cats_vs_dogs has none.
        """
        from catdog.registry.champion import choose_study

        if name is None:
            name = choose_study(cls(tracking_uri=tracking_uri)._connect(), model)
        return cls(name, tracking_uri=tracking_uri)

    @classmethod
    def of_run(cls, run_id: str, *, tracking_uri: str | None = None, key: str = "run_id") -> "Study":
        """Returns the study that a run or a sweep belongs to, even if that was deleted.

        Args:
            run_id: MLflow's.
            tracking_uri: as for `Study`.
            key: what an error calls the id.

        Raises:
            UserError: there is no such run or sweep.
        """
        from catdog.tracking.records import find_study_of

        client = cls(tracking_uri=tracking_uri)._connect()
        return cls(find_study_of(client, run_id, key), tracking_uri=tracking_uri)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, tracking_uri={self._tracking.uri!r})"

    @property
    def tracking(self) -> TrackingConfig:
        """The tracking section of the config: the store's address, the folder for artifacts, the outbox."""
        return self._tracking

    @property
    def is_writable(self) -> bool:
        """Whether this process may write to the store; without permission, it can read a database all the same."""
        from catdog import tracking

        return tracking.is_writable(self._tracking.uri)

    def _connect(self, *, write: bool = False) -> "MlflowClient":
        """Returns a client of the store, which must exist; `write` raises a UserError without permission to write."""
        from catdog import tracking

        client = tracking.connect(self._tracking, create=False)
        if write:
            advice = "It can be read: compare and predict work. A look at test images has to be recorded there first."
            tracking.require_writable(self._tracking.uri, advice)
        return client

    # Training -------------------------------------------------------------------------------------------------------------

    def plan(self, *overrides: str) -> "pd.DataFrame":
        """Returns what `train` would do, one row per run, without doing it.

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
        """Trains a sweep, each run in its own process. Finished runs are reused, and interrupted runs are resumed.

        Args:
            overrides: in Hydra's grammar, as after `python -m catdog.train -m`: "model=cnn,augmented", "seed=0,1,2". If no key has
                several values, it is a sweep of one run.
            quiet: show no progress; otherwise it is shown in the terminal, or below the notebook's cell.
            launcher: options of the launcher, such as n_jobs=2, timeout_s=3600.

        Returns:
            The finished sweep. It includes the runs that failed, with their errors.

        Raises:
            UserError: something cannot be trained; this is found before the first run starts.
            KeyboardInterrupt: Ctrl-C. At the first one, active runs save their state and close; the same call resumes them.
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
        metric: str = "accuracy",
        margin: float | None = None,
        error: float = 0.05,
        first_seeds: int = 3,
        max_seeds: int = 12,
        plan: bool = False,
        train: Mapping[str, Callable[[int], Any]] | None = None,
        quiet: bool = False,
    ) -> "Decision":
        """Trains seeds in rounds until each pair of variants is decided. The error rate allows for a look after each round.

        Args:
            overrides: what makes the variants, without seeds: "model=cnn,augmented".
            metric: what is compared, as for `compare`.
            margin: a difference up to this is as good as none; None: as for `compare`.
            error: highest probability that any statement is wrong, over all pairs and looks.
            first_seeds: seeds of each variant before the first look.
            max_seeds: most seeds of each variant; then it ends, decided or not.
            plan: train the first seeds only; `Decision.describe_plans()` says what more seeds and images would find.
            train: instead of overrides, for runs of other tools: variant -> a function of a seed that records that run (`record`).
            quiet: show no progress.

        Raises:
            UserError: fewer than two variants, or a run failed.
            KeyboardInterrupt: Ctrl-C; the same call resumes.
        """
        from catdog.config.commands import DecideConfig, require_left_to_decide
        from catdog.search.decisions import SweepTrainer, decide
        from catdog.search.recorded import RecordingTrainer
        from catdog.sweeps.display import QuietDisplay, choose_display
        from catdog.sweeps.launch import plan_sweep

        options = {"margin": margin, "error": error, "first_seeds": first_seeds, "max_seeds": max_seeds, "plan": plan,
                   "metric": metric}  # fmt: skip
        require_types(DecideConfig, options)
        config = DecideConfig(**options)  # type: ignore[arg-type]
        if train is not None:
            if overrides:
                raise UserError(
                    f"train: functions train the variants, so there is nothing to override, received {overrides[0]!r}."
                )
            return decide(config, RecordingTrainer(self._connect_to_record(), self._tracking, self.recording, train))
        display = QuietDisplay if quiet else choose_display()
        words = self._place_last(overrides)
        for word in overrides:
            require_left_to_decide(word)
        trainer = SweepTrainer(
            words,
            lambda runs, options, arguments: plan_sweep(runs, options, arguments).run(display),
            metric,
        )
        return decide(config, trainer)

    def tune(
        self,
        *overrides: str,
        trials: int = 40,
        budget_minutes: float | None = None,
        top: int = 4,
        seeds: int = 5,
        metric: str = "accuracy",
        margin: float | None = None,
        error: float = 0.05,
        sampler: str = "tpe",
        random_share: float = 0.1,
        factor: int = 3,
        min_epochs: int | None = None,
        space: str | Path | None = None,
        search: str | None = None,
        quiet: bool = False,
    ) -> "Tuning":
        """Searches for good settings of one model, and lets the best race against the default with fresh seeds.

        Most trials stop early, at a checkpoint; those that do well go on there. A search that was interrupted goes on where it
        stopped, and one that has ended goes on if `trials` is larger.

        Args:
            overrides: in Hydra's grammar. Keys with several values, or an interval, make the space:
                "trainer.learning_rate=tag(log,interval(1e-4,1e-2))", "head.units=64,128"; the others hold for all trials.
            trials: configurations to try.
            budget_minutes: begin no further training after so many minutes of searching; None: all trials.
            top: the best configurations that race; so many trials at least are trained to the end.
            seeds: most seeds of each configuration in the race; 0: no race.
            metric: what is searched for, as for `compare`.
            margin: a difference up to this is as good as none; None: as for `compare`.
            error: highest probability that a verdict of the race is wrong, over all configurations and looks.
            sampler: tpe, random, gp, cmaes or grid.
            random_share: so often the next configuration is drawn at random instead.
            factor: one of so many trials that come to a rung goes on to the next.
            min_epochs: every trial is trained for at least so many epochs; None: two, or one more than the warm-up.
            space: YAML file with more keys to vary, which may depend on others.
            search: name of the search; None: the keys that it varies.
            quiet: show no progress.

        Raises:
            UserError: something is wrong with the search, found before anything is trained; or a run of the race failed.
            KeyboardInterrupt: Ctrl-C; the same call goes on.
        """
        from catdog.config.commands import TuneConfig
        from catdog.search.tuning import tune
        from catdog.sweeps.display import QuietDisplay, choose_display
        from catdog.sweeps.launch import plan_sweep

        display = QuietDisplay if quiet else choose_display()
        options = {
            "trials": trials, "budget_minutes": budget_minutes, "top": top, "seeds": seeds, "metric": metric, "margin": margin,
            "error": error, "sampler": sampler, "random_share": random_share, "factor": factor, "min_epochs": min_epochs,
            "space": None if space is None else str(space), "search": search,
        }  # fmt: skip
        require_types(TuneConfig, options)
        config = TuneConfig(**options)  # type: ignore[arg-type]
        words = self._place_last(overrides)
        return tune(
            config,
            words,
            command=words,
            make_display=display,
            run=lambda runs, options, arguments, *, command="train", names=None: plan_sweep(
                runs, options, arguments, command=command, names=names
            ).run(display),
        )

    def _plan(self, overrides: Sequence[str], options: Mapping[str, Any]) -> "PlannedSweep":
        from catdog.config.composition import compose_sweep
        from catdog.sweeps.launch import plan_sweep
        from catdog.sweeps.options import build_options

        words = self._place_last(overrides)
        runs, launcher = compose_sweep(words)
        return plan_sweep(runs, build_options(launcher, options), ["-m", *words])

    def _place_last(self, overrides: Sequence[str]) -> list[str]:
        """Returns the overrides, followed by those that name the study and its store.

        Raises:
            UserError: one of them is no text, or names another study or store.
        """
        for word in overrides:
            example = 'one text for each key, as in "model=cnn,augmented", "seed=0,1"'
            require(isinstance(word, str), "overrides", example, word)
            if word in ("-m", "--multirun"):
                raise UserError(f"{word}: leave it out; keys with several values make a sweep here.")
            key, _, value = word.lstrip("+~").partition("=")
            if (key == "study" and value not in (self.name, quote(self.name))) or key == "tracking.uri":
                raise UserError(
                    f"{key}: this is {self!r}, received {word!r}. Leave it out, or make another object: "
                    "catdog.Study(NAME, tracking_uri=ADDRESS)."
                )
        return [*overrides, *self._place()]

    def _place(self) -> list[str]:
        """Returns the overrides that name the study and its store; defaults are left out."""
        named = [] if self.name == DEFAULT_STUDY else [f"study={quote(self.name)}"]
        if self._tracking.uri == DEFAULT_URI:
            return named
        server = ["tracking=server"] if self._tracking.uri.startswith("http") else []
        return [*named, *server, f"tracking.uri={quote(self._tracking.uri)}"]

    # Results --------------------------------------------------------------------------------------------------------------

    def runs(self, config: str = "varying") -> "pd.DataFrame":
        """Returns the study's training runs, whatever their status, one row each, the oldest first.

        Columns: run_id, name, variant, seed, status, start, one for each config key ("trainer.epochs"), one for each metric
        ("val/accuracy": its last value; "best_val_accuracy"), sweep, registered_model, precision, code (the first digits of its
        digest). Metrics of runs that an older catdog trained have today's names.

        Args:
            config: "varying" for the keys whose values differ between the runs, or "all".

        Raises:
            UserError: there is no such study in the store.
        """
        from catdog.tracking.records import build_runs_frame, list_runs

        require_choice("config", ("varying", "all"), config)
        return build_runs_frame(list_runs(self._connect(), self.name), config)

    def history(self) -> "pd.DataFrame":
        """Returns the metrics of the runs after each epoch: columns run_id, name, epoch, metric ("val/accuracy"), value.

        Raises:
            UserError: there is no such study in the store.
        """
        from catdog.tracking.records import build_history_frame, list_runs

        client = self._connect()
        return build_history_frame(client, list_runs(client, self.name))

    def compare(
        self,
        *,
        metric: str = "accuracy",
        margin: float | None = None,
        sweep: str | None = None,
        runs: str | Sequence[str] | None = None,
        gradcam: str = "auto",
    ) -> "Comparison":
        """Returns runs side by side: tables, figures, verdicts, and the page.

        Args:
            metric: what is compared: accuracy, balanced_accuracy, log_loss, brier, auc, f1, top_5, f1:CLASS, cost:FILE, or your own
                as module:function.
            margin: a difference in the metric up to this is as good as none; 0.02: two points. None: the metric's default.
            sweep: run id of a sweep; None: the study's latest.
            runs: a run id, or several, to compare instead of a sweep.
            gradcam: "auto" computes Grad-CAM for the page if it is not stored yet; "never" does not.

        Raises:
            UserError: there is no such study, sweep or run, or none of them has finished; or the metric is not possible.
        """
        from catdog.comparison.analysis import analyse, choose_margin
        from catdog.comparison.load import load_comparison
        from catdog.comparison.result import Comparison
        from catdog.config.commands import CompareConfig
        from catdog.data.metrics import load_metric

        require_types(CompareConfig, {"metric": metric, "margin": margin})
        measure = load_metric(metric)
        margin = choose_margin(measure, margin)
        require_choice("gradcam", ("auto", "never"), gradcam)
        client = self._connect()
        named = [runs] if isinstance(runs, str) else runs
        compared = load_comparison(client, study=self.name, sweep_id=sweep, run_ids=named, metric=measure)
        analysis = analyse(compared, margin)
        if self.is_writable:
            analysis.log_look(client)
        return Comparison(client, analysis, gradcam)

    def has_champion_to_test(self) -> bool:
        """Returns whether the study has a champion; that of a quick look, which is not meant to be tested, does not count."""
        from catdog.registry.champion import has_champion_to_test

        return has_champion_to_test(self._connect(), self.name)

    def champion(self) -> "TrainedModel":
        """Returns the champion of the study: a model that one of its own runs has trained.

        Raises:
            UserError: there is none.
        """
        return self.model()

    def model(self, model: str | int | None = None) -> "TrainedModel":
        """Returns a trained model.

        Args:
            model: a run id, a version, an alias, NAME/VERSION, NAME@ALIAS or a models:/ URI; None: the champion.

        Raises:
            UserError: there is no such model.
        """
        from catdog.deployment.prediction import find_model

        return find_model(self._connect(), self.name, _name_model(model))

    def _find_model(self, model: "TrainedModel | str | int | None") -> "TrainedModel":
        from catdog.deployment.prediction import TrainedModel

        return model if isinstance(model, TrainedModel) else self.model(model)

    def card(self, model: str | int | None = None) -> "Card":
        """Returns what is on record about a model: data, evidence, accuracy, calibration, mistakes, test looks.

        `html` is the page, and `save(PATH)` writes it.

        Args:
            model: as for `model`; None: the champion.

        Raises:
            UserError: there is no such model, or its run is gone.
        """
        from catdog.registry.card import load_card
        from catdog.registry.champion import resolve_model

        client = self._connect()
        found = resolve_model(client, self.name, _name_model(model))
        return load_card(client, found.run_id, found.words, found.version)

    def evaluate(
        self,
        model: "TrainedModel | str | int | None" = None,
        *,
        archive: str | None = None,
        batch_size: int = 32,
        cache: str | None = None,
        command: str | None = None,
    ) -> "Evaluation":
        """Evaluates a model on the test split of its run; a look, which the ledger counts and the run keeps.

        Args:
            model: as for `model`, or what that returns; None: the champion.
            archive: where the run's data set lies now, if it has moved.
            batch_size: images per step.
            cache: folder for decoded images; None: that of the environment variable CATDOG_CACHE, or the user's.
            command: what the ledger says of who looked; None: this call.

        Raises:
            UserError: there is no such model, or the data set is not the one that its run was trained on.
        """
        from catdog.deployment.evaluation import evaluate

        require(batch_size >= 1, "batch_size", "1 or more", batch_size)
        self._connect(write=True)
        found = self._find_model(model)
        said = command or f"catdog.Study({self.name!r}).evaluate({found.words!r})"
        return evaluate(found, archive=archive, cache=cache, batch_size=batch_size, command=said)

    def export(
        self,
        model: "TrainedModel | str | int | None" = None,
        formats: "str | Sequence[str] | None" = None,
        *,
        output: str | Path | None = None,
        int8: bool = False,
        calibration_images: int = 200,
        margin: float = 0.01,
        archive: str | None = None,
        batch_size: int = 32,
        cache: str | None = None,
    ) -> "Export":
        """Writes a model as files for other runtimes, and scores each of them again on all validation images of its run.

        Each file is scored by its own runtime in another process and compared with the kept model, image by image. What was
        measured is written beside the files, and logged to the model's run and version.

        Args:
            model: as for `model`, or what that returns; None: the champion.
            formats: "litert", "onnx", "savedmodel", or several of them; None: all.
            output: a new folder; None: `exports/` and the model's name.
            int8: write LiteRT in whole numbers too.
            calibration_images: how many training images int8 takes its ranges from.
            margin: a difference in val accuracy up to this is as good as none.
            archive: where the run's data set lies now, if it has moved.
            batch_size: images per step of the kept model.
            cache: folder for decoded images; None: that of the environment variable CATDOG_CACHE, or the user's.

        Raises:
            UserError: there is no such model, a package is missing, the folder is not empty, the data set is not the one that its
                run was trained on, or a format cannot hold the model.
        """
        from catdog.config.commands import EXPORT_FORMATS, ExportConfig
        from catdog.deployment.export import Request, export_model

        named = [formats] if isinstance(formats, str) else None if formats is None else list(formats)
        # Its checks are those of the command.
        ExportConfig(
            format=named, int8=int8, calibration_images=calibration_images, margin=margin, batch_size=batch_size
        )
        found = self._find_model(model)
        request = Request(
            named or EXPORT_FORMATS, int8, None if output is None else Path(output), margin, calibration_images, archive, cache,
            batch_size,
        )  # fmt: skip
        return export_model(found, request, self.name)

    def plan_ensemble(self, *, variant: str | None = None, runs: "str | Sequence[str] | None" = None) -> "EnsemblePlan":
        """Returns an ensemble of runs, judged by their stored answers to the validation images; nothing is built.

        Args:
            variant: the variant whose finished seeds are the members; None: the one whose mean val accuracy is highest, of those
                with two or more seeds.
            runs: the run ids of the members, instead of a variant.

        Raises:
            UserError: there are no such runs, fewer than two, or they cannot be one ensemble.
        """
        from catdog.deployment.ensemble import plan_ensemble

        return plan_ensemble(self._connect(), self.name, variant, [runs] if isinstance(runs, str) else runs)

    def ensemble(
        self,
        plan: "EnsemblePlan | None" = None,
        *,
        variant: str | None = None,
        runs: "str | Sequence[str] | None" = None,
        promote: PromoteConfig | bool = True,
        archive: str | None = None,
        batch_size: int = 32,
        cache: str | None = None,
        command: str | None = None,
    ) -> "Ensemble":
        """Builds one model that answers with the mean of its members' probabilities, and records it as a run of the study.

        Its answers to the validation images are checked against the mean of its members' stored ones. It becomes a version of the
        study's registered model, and the champion if the evidence is sufficient. The same ensemble is not built twice.

        Args:
            plan: what `plan_ensemble` returned; None: it is planned from `variant` and `runs`, as there.
            variant: as for `plan_ensemble`.
            runs: as for `plan_ensemble`.
            promote: whether, or by which rules, it may become champion.
            archive: where the members' data set lies now, if it has moved.
            batch_size: images per step.
            cache: folder for decoded images; None: that of the environment variable CATDOG_CACHE, or the user's.
            command: what MLflow says of who built it; None: this call.

        Raises:
            UserError: as `plan_ensemble`; or a member's model cannot be part of one, or the images are gone.
        """
        from catdog.deployment.ensemble import build_ensemble

        require(batch_size >= 1, "batch_size", "1 or more", batch_size)
        named = plan is None or (variant is None and runs is None)
        require(named, "variant" if variant is not None else "runs", "left out where a plan is given", variant or runs)
        plan = plan or self.plan_ensemble(variant=variant, runs=runs)
        rules = PromoteConfig(enabled=promote) if isinstance(promote, bool) else promote
        self._connect(write=True)
        return build_ensemble(
            self._connect_to_record(), self._tracking, self.name, plan, rules, archive=archive, cache=cache,
            batch_size=batch_size, command=command or f"catdog.Study({self.name!r}).ensemble()",
        )  # fmt: skip

    def audit(
        self, dataset: "DatasetConfig | str" = "dataset=cats_dogs", *overrides: str, labels: str | None = None
    ) -> "DatasetFindings":
        """Looks for problems in a data set that would spoil a comparison: copies, leaks, wrong labels, odd files. Trains nothing.

        If the study has finished runs on these images, their answers also say whether images belong together.

        Args:
            dataset: the dataset section of a config, or its first override in Hydra's grammar: "dataset=folder".
            overrides: further overrides: "dataset.archive=path/to/images".
            labels: the pre-trained backbone by which wrong labels are looked for, a file in `conf/backbone`, such as
                "mobilenet_v2"; None: they are not.

        Raises:
            UserError: the data set cannot be read or downloaded, or is not valid; or the backbone is not available.
        """
        from catdog.auditing.result import audit_dataset
        from catdog.config.commands import require_label_backbone
        from catdog.config.composition import compose_run

        config = compose_run([dataset, *overrides]).config.dataset if isinstance(dataset, str) else dataset
        require_label_backbone(labels)
        return audit_dataset(config, self._load_answers, labels)

    def audit_photos(
        self,
        photos: str | Path,
        against: "TrainedModel | str | int | None" = None,
        *,
        margin: float = 0.05,
        archive: str | None = None,
        batch_size: int = 32,
        cache: str | None = None,
    ) -> "DriftFindings":
        """Compares new photos without labels with the images on which a model was validated. Trains nothing, changes no file.

        It says how sizes, brightness, contrast, sharpness, saturation, the model's confidence and its answers differ, what its
        accuracy on the photos may be, and which of them should be labelled first.

        Args:
            photos: a folder; every image below it counts, but for those that show the same picture as an image of train or val.
            against: the model, as for `model`, or what that returns; None: the champion.
            margin: a loss of accuracy up to this is accepted, in (0, 1).
            archive: where the data set of the model's run lies now, if it has moved.
            batch_size: images per step.
            cache: folder for decoded images; None: that of the environment variable CATDOG_CACHE, or the user's.

        Raises:
            UserError: the folder has no images, there is no such model, or its run is gone or has stored no validation answers.
        """
        from catdog.auditing.drift import check_photos

        require(0 < margin < 1, "margin", "more than 0 and less than 1", margin)
        require(batch_size >= 1, "batch_size", "1 or more", batch_size)
        found = self._find_model(against)
        return check_photos(found, photos, margin=margin, archive=archive, cache=cache, batch_size=batch_size)

    def _load_answers(self, data_digest: str) -> "list[Predictions]":
        """Returns the validation answers of the study's finished runs on this data; empty without a store or a study."""
        from catdog import tracking
        from catdog.tracking.records import list_runs

        client = tracking.connect_existing(self._tracking)
        if client is None or client.get_experiment_by_name(self.name) is None:
            return []
        runs = [run for run in list_runs(client, self.name) if run.is_finished and run.data_digest == data_digest]
        return [answers for run in runs[-MOST_RUNS_ASKED:] if len(answers := run.load_predictions())]

    def audit_pipeline(self, pipeline: "str | Callable[[], Any]", epochs: int = 5) -> "PipelineFindings":
        """Looks for images that move between the splits of an input pipeline from epoch to epoch.

        Args:
            pipeline: a function that returns (train, val, test), each of which can be iterated repeatedly; or its name,
                "module:function".
            epochs: how many times each is iterated, at least 2.

        Raises:
            UserError: there is no such function, it fails, or it returns something else.
        """
        from catdog.auditing.result import audit_pipeline

        return audit_pipeline(pipeline, epochs)

    # Deleting and restoring ------------------------------------------------------------------------------------------------

    def plan_deletion(self, *, run: str | None = None, sweep: str | None = None) -> "Deletion":
        """Returns what would be deleted, and what hangs on it: `describe()` says it, `carry_out()` does it.

        Args:
            run: the id of a run of this study.
            sweep: the id of a sweep of this study, which is deleted with its runs; neither: the whole study.

        Raises:
            UserError: there is no such run, sweep or study, or it is deleted already.
        """
        from catdog.registry import deletion

        require(run is None or sweep is None, "sweep", "left out if a run is named", sweep)
        client, outbox = self._connect(), Path(self._tracking.outbox)
        if run is not None:
            return deletion.plan_run_deletion(client, self.name, run, outbox)
        if sweep is not None:
            return deletion.plan_sweep_deletion(client, self.name, sweep, outbox)
        return deletion.plan_study_deletion(client, self.name, outbox)

    def delete_run(self, run_id: str, *, force: bool = False) -> None:
        """Marks a training run as deleted, as MLflow does: `restore_run` undoes it, `catdog.clean` removes it for good.

        What the outbox holds for the run, such as checkpoints and undelivered results, is removed at once.

        Args:
            run_id: a run of this study.
            force: delete it even if it trained the champion; the study then has no champion.

        Raises:
            UserError: it is not a run of this study, it is being trained, or it trained the champion.
        """
        self._delete(self.plan_deletion(run=run_id), "run_id", force)

    def delete_sweep(self, sweep_id: str, *, force: bool = False) -> None:
        """Marks a sweep and its runs as deleted, as `delete_run`; runs that another sweep has too are kept.

        Raises:
            UserError: it is not a sweep of this study, one of its runs is being trained, or trained the champion.
        """
        self._delete(self.plan_deletion(sweep=sweep_id), "sweep_id", force)

    def delete(self, *, force: bool = False) -> None:
        """Marks the whole study as deleted, as `delete_run`. Until it is restored or removed for good, its name is taken.

        Raises:
            UserError: there is no such study, one of its runs is being trained, or trained the champion.
        """
        self._delete(self.plan_deletion(), "study", force)

    def _delete(self, deletion: "Deletion", key: str, force: bool) -> None:
        led = ", ".join(sorted({version.name for version in deletion.champions}))
        if led and not force:
            raise UserError(
                f"{key}: {deletion.what} is, or has, the champion of {led}. Promote another one first, or delete it and forget "
                "the champion with force=True."
            )
        deletion.carry_out()

    def restore_run(self, run_id: str) -> list[str]:
        """Restores a training run that was deleted, here or in MLflow; returns what was restored, in words.

        If it was the champion's run, and there is no other champion by now, it is that again.

        Raises:
            UserError: there is no such run, it is not deleted, or its whole study is.
        """
        from catdog.registry.deletion import restore_run

        return restore_run(self._connect(), run_id)

    def restore_sweep(self, sweep_id: str) -> list[str]:
        """Restores a sweep with its runs, as `restore_run`.

        Raises:
            UserError: there is no such sweep, nothing of it is deleted, or its whole study is.
        """
        from catdog.registry.deletion import restore_sweep

        return restore_sweep(self._connect(), sweep_id)

    def restore(self) -> list[str]:
        """Restores the study with all its runs, as `restore_run`; also those that were deleted before the study was.

        Raises:
            UserError: there is no such study, or it is not deleted.
        """
        from catdog.registry.deletion import restore_study

        return restore_study(self._connect(), self.name)

    def forget_champion(self) -> "TrainedModel":
        """Removes the alias `champion` and returns the model that had it. The next promotion is then made without a comparison.

        The model's version stays registered; `restore_champion` undoes it.

        Raises:
            UserError: there is no champion.
        """
        from catdog.deployment.prediction import TrainedModel
        from catdog.registry.champion import forget_champion

        client = self._connect(write=True)
        return TrainedModel(client, forget_champion(client, self.name))

    def restore_champion(self) -> "TrainedModel":
        """Gives the alias `champion` back to the model that had it last, and returns that.

        Raises:
            UserError: there is a champion, or there never was one.
        """
        from catdog.registry.champion import restore_champion

        restore_champion(self._connect(), self.name)
        return self.champion()

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
        """Records a run that another tool trains. It is FINISHED when the block ends, FAILED or KILLED after an exception.

        If a finished run of the same variant, config, seed, data, code and libraries exists already, `run.is_finished` is true and
        nothing is written a second time; the script should then skip its work.

        Args:
            variant: what is compared, such as "resnet18-torch".
            seed: the run's seed; runs of one variant differ in nothing else.
            config: the settings that define the variant: numbers, texts, lists and dictionaries.
            dataset: the images of the run, as for training: ["dataset=folder", "dataset.archive=PATH"]; None: those that this
                object was given before, or those of the study's newest run.
            reuse: exact, or never, which records the run again.
            promote: whether its model may become champion.
            code: the Python files that train; None: the file, or the notebook's cell, that calls this method.

        Returns:
            A context manager that gives a `RecordedRun`.

        Raises:
            UserError: an argument is wrong, or the images cannot be read or downloaded.
        """
        from catdog.registry.champion import promote as register
        from catdog.tracking.recording import read_scripts, record_run

        scripts, images = read_scripts(code), self._load_dataset(dataset)
        return record_run(
            self._connect_to_record(), self._tracking, self.name, images, variant=variant, seed=seed, config=config,
            scripts=scripts, reuse=reuse, promote=register if promote else None, recording=self._recording,
        )  # fmt: skip

    @contextlib.contextmanager
    def recording(self, name: str = "recorded runs", *, promote: bool = True) -> "Iterator[Recording]":
        """Groups all runs recorded in the block, like the runs of a sweep. `compare` then uses them by default.

        Args:
            name: the group's name in MLflow.
            promote: whether the best run of its best variant may become champion.

        Raises:
            UserError: another such block is open.
        """
        from catdog.registry.champion import promote as register
        from catdog.tracking.recording import open_recording

        if self._recording is not None:
            raise UserError(f"recording: {self._recording.name!r} is open. End it before the next one begins.")
        with open_recording(
            self._connect_to_record(), self._tracking, self.name, name, register if promote else None
        ) as recording:
            self._recording = recording
            try:
                yield recording
            finally:
                self._recording = None

    def split(self, name: str, *, dataset: Sequence[str] | None = None, look: "OpenLook | None" = None) -> "Split":
        """Returns the files, labels and class names of a split. Those of test need a look that the ledger records.

        Args:
            name: train, val or test.
            dataset: as for `record`.
            look: for test, the look that `look` opened.

        Raises:
            UserError: there is no such split, the images cannot be read or downloaded, or test is asked for without a look.
        """
        from catdog.data.handout import hand_out
        from catdog.registry.ledger import require_look

        if name == "test" and look is None:
            require_look(None)
        found = self._load_dataset(dataset)
        if name == "test" and look is not None:
            require_look(look, found.manifest.images)
            look.give_images()
        return hand_out(found, name, look)

    @contextlib.contextmanager
    def look(self, run_id: str) -> "Iterator[OpenLook]":
        """Records a look at the test split by one of the study's runs, before any test image is given out.

        In the block, `split("test", look=look)` returns the images, and `look.record({"test/accuracy": ...})` stores the result.

        Args:
            run_id: the run whose model is evaluated.

        Raises:
            UserError: there is no such run, or its images cannot be read or downloaded.
        """
        from catdog.registry.card import write_cards_of
        from catdog.registry.ledger import open_run_look
        from catdog.tracking.study_data import load_run_dataset, require_run

        client = self._connect(write=True)
        run = require_run(client, run_id)
        images = load_run_dataset(run, "Bring the original data back.").manifest.images
        with open_run_look(client, images, run_id) as look:
            yield look
        write_cards_of(client, run_id)

    def _connect_to_record(self) -> "MlflowClient":
        """Returns a client of the store, which is created if needed. The first call delivers what is left in the outbox."""
        from catdog import tracking
        from catdog.registry.champion import promote
        from catdog.tracking.settlement import settle_earlier

        client = tracking.connect(self._tracking)
        tracking.check_study(client, self.name)
        if not self._has_settled:
            self._has_settled = True
            settle_earlier(client, self._tracking, promote)
        return client

    def _load_dataset(self, overrides: Sequence[str] | None) -> "Dataset":
        """Returns the data set that the overrides name, or that of the last call, or the study's. Its files are hashed once."""
        from catdog import tracking
        from catdog.tracking.study_data import load_study_dataset

        words = None if overrides is None else tuple([overrides] if isinstance(overrides, str) else overrides)
        if self._dataset is None or words not in (None, self._dataset[0]):
            client = tracking.connect_existing(self._tracking)
            self._dataset = words, load_study_dataset(client, self.name, words)
        return self._dataset[1]


def _name_model(model: Any) -> str | None:
    """Returns what `model=` would be on the command line, where a version is a number."""
    is_named = model is None or (isinstance(model, str | int) and not isinstance(model, bool))
    require(
        is_named, "model", "a run id, a version, an alias, NAME/VERSION, NAME@ALIAS, a models:/ URI, or None", model
    )
    return None if model is None else str(model)
