"""The options of the commands other than `train`: one dataclass for each command, with the ranges of its keys.

They are separate from the schema of a run (`catdog.config.schema`) because they do not affect any run's result or identity.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from catdog.config.checks import require, require_choice
from catdog.config.metrics import ACCURACY, FORMS, require_margin, require_metric
from catdog.config.schema import (
    CONF,
    DEFAULT_STUDY,
    DatasetConfig,
    PromoteConfig,
    TrackingConfig,
    list_options,
    option,
    require_no_archive_of_drawn,
)
from catdog.system.errors import UserError

MARGIN = (
    "a difference in the metric up to this is as good as none, such as 0.02: two points; null: 0.02, of brier and auc 0.01, of "
    "cost:FILE 0.02 of the largest cost"
)


@dataclass
class CompareConfig:
    """The options of `compare`."""

    study: str = option("the study whose latest sweep is compared", DEFAULT_STUDY)
    sweep: str | None = option("run id of a sweep; null: the study's latest", None)
    runs: list[str] | None = option("run ids to compare instead of a sweep: runs=ID or runs=ID,ID", None)
    output: str = option("folder for the page and the table", "comparisons")
    metric: str = option(f"what is compared: {FORMS}", ACCURACY)
    margin: float | None = option(MARGIN, None)
    format: str = option("how the result is printed: table, or json for scripts (docs/json.md)", "table")
    gradcam: str = option("auto computes Grad-CAM where it is not stored yet; never does not", "auto")
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_metric("metric", self.metric)
        require_margin("margin", self.margin, self.metric)
        require_choice("gradcam", ("auto", "never"), self.gradcam)
        require_choice("format", ("table", "json"), self.format)


@dataclass
class EvaluateDatasetConfig:
    """The data set keys of `evaluate`: only where the files are, because the run says which data set it is."""

    archive: str | None = option("where the run's data set is now, if it has moved", None)
    cache: str = option("folder for downloads and decoded images (CATDOG_CACHE)", "${catdog_cache:}")


@dataclass
class EvaluateConfig:
    """The options of `evaluate`."""

    study: str | None = option(
        f"the study whose champion is evaluated; null: {DEFAULT_STUDY}, or the only study that has a champion", None
    )
    model: str | None = option(
        "a run id, version, alias, NAME/VERSION, NAME@ALIAS or models:/ URI; null: champion", None
    )
    dataset: EvaluateDatasetConfig = field(default_factory=EvaluateDatasetConfig)
    format: str = option("how the result is printed: table, or json for scripts (docs/json.md)", "table")
    batch_size: int = option("images per step", 32)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_choice("format", ("table", "json"), self.format)
        require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)


@dataclass
class EnsembleConfig:
    """The options of `ensemble`."""

    study: str | None = option(f"the study; null: that of the first of runs, or {DEFAULT_STUDY}", None)
    variant: str | None = option(
        "the variant whose finished seeds become one model; null: the one whose mean val accuracy is highest", None
    )
    runs: list[str] | None = option("run ids of the members instead of a variant: runs=ID,ID", None)
    plan_only: bool = option("judge it by the stored answers, and build nothing", False)
    dataset: EvaluateDatasetConfig = field(default_factory=EvaluateDatasetConfig)
    format: str = option("how the result is printed: table, or json for scripts (docs/json.md)", "table")
    batch_size: int = option("images per step", 32)
    promote: PromoteConfig = MISSING
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_choice("format", ("table", "json"), self.format)
        require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)
        require(not (self.variant and self.runs), "variant", "left out where runs are named", self.variant)


@dataclass
class PredictConfig:
    """The options of `predict`."""

    study: str | None = option(
        f"the study whose champion predicts; null: {DEFAULT_STUDY}, or the only study that has a champion", None
    )
    model: str | None = option(
        "a run id, version, alias, NAME/VERSION, NAME@ALIAS or models:/ URI; null: champion", None
    )
    format: str = option("table, csv or json", "table")
    output: str | None = option(
        "write the answers to this .csv, .jsonl or .parquet file, batch by batch; the same command resumes",
        None,
    )
    sheet: str | None = option("write an annotated contact sheet to this PNG", None)
    batch_size: int = option("images per step", 32)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_choice("format", ("table", "csv", "json"), self.format)
        require(
            self.output is None or self.output.lower().endswith((".csv", ".jsonl", ".parquet")),
            "output", "a file name ending in .csv, .jsonl or .parquet", self.output,
        )  # fmt: skip
        require(
            self.output is None or self.format == "table",
            "format", "left out with output=FILE, whose ending names the format", self.format,
        )  # fmt: skip
        require(
            self.output is None or self.sheet is None,
            "sheet", "left out with output=FILE; ask for a contact sheet in a command of its own", self.sheet,
        )  # fmt: skip
        require(
            self.sheet is None or self.sheet.lower().endswith(".png"), "sheet", "a file name ending in .png", self.sheet
        )
        require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)


EXPORT_FORMATS = ("litert", "onnx", "savedmodel")


@dataclass
class ExportConfig:
    """The options of `export`."""

    study: str | None = option(
        f"the study whose champion is exported; null: {DEFAULT_STUDY}, or the only study that has a champion", None
    )
    model: str | None = option(
        "a run id, version, alias, NAME/VERSION, NAME@ALIAS or models:/ URI; null: champion", None
    )
    format: list[str] | None = option(f"of {', '.join(EXPORT_FORMATS)}, one or several; null: all of them", None)
    int8: bool = option("write LiteRT in whole numbers too, with ranges from training images", False)
    calibration_images: int = option("how many training images int8 takes its ranges from", 200)
    output: str | None = option("a new folder for the files; null: exports/ and the model's name", None)
    margin: float = option("a difference in val accuracy up to this is as good as none: 0.01 is one point", 0.01)
    dataset: EvaluateDatasetConfig = field(default_factory=EvaluateDatasetConfig)
    show: str = option("how the result is printed: table, or json for scripts (docs/json.md)", "table")
    batch_size: int = option("images per step of the kept model", 32)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        formats = self.format
        listed = f"some of {', '.join(EXPORT_FORMATS)}, each once, or null"
        if formats is not None:
            advice = "To print JSON: show=json." if {"json", "table"} & {*formats} else ""
            known = bool(formats) and set(formats) <= {*EXPORT_FORMATS} and len(set(formats)) == len(formats)
            require(known, "format", listed, ",".join(formats), advice)
        with_litert = formats is None or "litert" in formats
        require(with_litert or not self.int8, "int8", "false without litert in format", self.int8)
        require(self.calibration_images >= 1, "calibration_images", "1 or more", self.calibration_images)
        require(0 <= self.margin < 1, "margin", "0 or more, and less than 1", self.margin)
        require_choice("show", ("table", "json"), self.show)
        require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)


@dataclass
class ServeConfig:
    """The options of `serve`."""

    study: str | None = option(
        f"the study whose champion answers; null: {DEFAULT_STUDY}, or the only study that has a champion", None
    )
    model: str | None = option(
        "a run id, version, alias, NAME/VERSION, NAME@ALIAS or models:/ URI; null: champion", None
    )
    host: str = option("the network interface to listen on; 0.0.0.0: all of them", "127.0.0.1")
    port: int = option("the port to listen on; 0: a free one", 8000)
    token: str | None = option(
        "what clients must send as Authorization: Bearer TOKEN; better in the environment, as CATDOG_TOKEN; null: nothing",
        None,
    )
    max_body_mb: float = option("the largest request, in MB", 20.0)
    max_photos: int = option("the most photos in a request", 100)
    queue: int = option("how many photos may wait; more are refused with status 429", 256)
    watch_s: float = option("how often the store is asked for a new champion, in seconds", 10.0)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require(0 <= self.port < 2**16, "port", "0 to 65535", self.port)
        require(0 < self.max_body_mb <= 1000, "max_body_mb", "more than 0, up to 1000", self.max_body_mb)
        require(self.max_photos >= 1, "max_photos", "1 or more", self.max_photos)
        require(self.queue >= self.max_photos, "queue", f"max_photos={self.max_photos} or more", self.queue)
        require(self.watch_s >= 1, "watch_s", "1 or more seconds", self.watch_s)


@dataclass
class CardConfig:
    """The options of `card`."""

    study: str | None = option(
        f"the study whose champion is meant; null: {DEFAULT_STUDY}, or the only study that has a champion", None
    )
    model: str | None = option(
        "a run id, version, alias, NAME/VERSION, NAME@ALIAS or models:/ URI; null: champion", None
    )
    output: str = option("the HTML file that is written", "model_card.html")
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require(
            self.output.lower().endswith((".html", ".htm")),
            "output",
            "a file name ending in .html or .htm",
            self.output,
        )


@dataclass
class DeliverConfig:
    """The options of `deliver`."""

    discard: str | None = option(
        "give up what the outbox holds for this study, or this entry: the name of its folder; null: deliver", None
    )
    tracking: TrackingConfig = MISSING


@dataclass
class StatusConfig:
    """The options of `status`."""

    study: str | None = option("only the runs of this study; null: of all studies", None)
    format: str = option("how the runs are printed: table, or json for scripts (docs/json.md)", "table")
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_choice("format", ("table", "json"), self.format)


@dataclass
class CleanCacheConfig:
    """The data set keys of `clean`."""

    cache: str = option("folder for downloads and decoded images (CATDOG_CACHE)", "${catdog_cache:}")


@dataclass
class CleanConfig:
    """The options of `clean`."""

    study: str | None = option("clean what belongs to this study only, not the cache; null: everything", None)
    older_than_days: float = option("keep what was deleted, or used, more recently", 30.0)
    cache_gb: float | None = option(
        "GB that decoded, drawn and extracted images may take; what was not used for longest goes first; null: any",
        None,
    )
    yes: bool = option("remove it; otherwise it is only shown", False)
    dataset: CleanCacheConfig = field(default_factory=CleanCacheConfig)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require(self.older_than_days >= 0, "older_than_days", "0 or more", self.older_than_days)
        require(self.cache_gb is None or self.cache_gb >= 0, "cache_gb", "0 or more, or null", self.cache_gb)


@dataclass
class UiConfig:
    """The options of `ui`."""

    study: str | None = option("the study whose runs are shown; null: the one trained last", None)
    host: str = option("the network interface to listen on; 0.0.0.0: all of them", "127.0.0.1")
    port: int | None = option("the port to listen on; null: 5000, or a free one if that is in use", None)
    open: bool = option("open the browser, where there is one", True)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require(self.port is None or 0 < self.port < 2**16, "port", "1 to 65535, or null", self.port)


@dataclass
class AuditConfig:
    """The options of `audit`."""

    dataset: DatasetConfig = MISSING
    study: str | None = option(
        "the study whose runs on these images say how alike neighbouring images are, and whose champion answers to photos; null: "
        f"{DEFAULT_STUDY}; of photos also the only study that has a champion",
        None,
    )
    photos: str | None = option(
        "a folder of new photos without labels, instead of a data set: do they differ from the validation images of a model, what "
        "may its accuracy on them be, and which should be labelled first?",
        None,
    )
    against: str | None = option(
        "with photos: the model, as model= names it elsewhere: champion, a run id, version, alias, NAME/VERSION or NAME@ALIAS; "
        "null: champion",
        None,
    )
    margin: float = option("with photos: a loss of accuracy up to this is accepted; 0.05: five points", 0.05)
    pipeline: str | None = option(
        "module:function that returns (train, val, test), each an iterable of images, instead of a data set", None
    )
    epochs: int = option("how many times the pipeline's data sets are iterated", 5)
    fail_on: str = option(
        "exit with code 3 if there is a finding of at least this severity: error, warning or never", "never"
    )
    format: str = option("how the result is printed: table, or json for scripts (docs/json.md)", "table")
    output: str = option("folder for the page and the tables", "audits")
    labels: str | None = option(
        "also look for wrong labels by this pre-trained backbone, a file in conf/backbone such as mobilenet_v2; null: do not",
        None,
    )
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_choice("format", ("table", "json"), self.format)
        require(self.epochs >= 2, "epochs", "2 or more", self.epochs, "A leak between epochs takes two to see.")
        require_choice("fail_on", ("error", "warning", "never"), self.fail_on)
        require_label_backbone(self.labels)
        require(
            self.labels is None or self.pipeline is None, "labels", "null where a pipeline is audited", self.labels,
            "Labels are checked in a data set: dataset=folder dataset.archive=PATH.",
        )  # fmt: skip
        require(0 < self.margin < 1, "margin", "more than 0 and less than 1", self.margin)
        if self.photos is None:
            require(
                self.against is None,
                "against",
                "left out without photos",
                self.against,
                "Name a folder: photos=FOLDER.",
            )
        else:
            advice = "New photos have no labels, and are checked by themselves."
            require(self.pipeline is None, "pipeline", "left out where photos are named", self.pipeline, advice)
            require(self.labels is None, "labels", "null where photos are named", self.labels, advice)
        require_no_archive_of_drawn(self.dataset)


def require_label_backbone(received: str | None) -> None:
    """Raises a UserError unless it is None or names a file in `conf/backbone` with pre-trained weights."""
    if received is None:
        return
    files = {path.stem: OmegaConf.load(path) for path in sorted((CONF / "backbone").glob("*.yaml"))}
    trained = tuple(name for name, content in files.items() if "weights" in content)
    require(received in trained, "labels", f"null or one of {', '.join(trained)}", received)


def require_left_to_decide(override: str) -> None:
    """Raises a UserError if an override sets what `decide` sets itself."""
    key = override.lstrip("+~").partition("=")[0]
    if key in ("seed", "hydra.launcher.plan_only", "hydra.launcher.only", "hydra.launcher.result_file"):
        raise UserError(
            f"{key}: set by this command, received {override!r}. Leave it out; first_seeds and max_seeds set the number of seeds."
        )


@dataclass
class DecideConfig:
    """The options of `decide`."""

    margin: float | None = option(MARGIN, None)
    error: float = option("highest probability that any statement is wrong, over all pairs and looks", 0.05)
    first_seeds: int = option("seeds of each variant before the first look", 3)
    max_seeds: int = option("most seeds of each variant; then it ends, decided or not", 12)
    plan: bool = option(
        "train the first seeds only, and show what 5, 10 and 20 seeds or twice the images would find", False
    )
    format: str = option("table, or json: one document on stdout", "table")
    metric: str = option(f"what is compared: {FORMS}", ACCURACY)

    def __post_init__(self) -> None:
        require_choice("format", ("table", "json"), self.format)
        require_metric("metric", self.metric)
        require_margin("margin", self.margin, self.metric)
        require(0 < self.error <= 0.5, "error", "more than 0 and at most 0.5", self.error)
        require(self.first_seeds >= 2, "first_seeds", "2 or more", self.first_seeds, "One seed shows no spread.")
        require(
            self.max_seeds >= self.first_seeds, "max_seeds", f"first_seeds ({self.first_seeds}) or more", self.max_seeds
        )


@dataclass
class TuneConfig:
    """The options of `tune`."""

    trials: int = option("configurations to try", 40)
    budget_minutes: float | None = option(
        "begin no further training after so many minutes of searching; null: all trials", None
    )
    top: int = option(
        "the best configurations that race against the default; so many trials at least are trained to the end", 4
    )
    seeds: int = option("most seeds of each configuration in the race, none of them the search's; 0: no race", 5)
    metric: str = option(f"what is searched for: {FORMS}", ACCURACY)
    margin: float | None = option(MARGIN, None)
    error: float = option(
        "highest probability that a verdict of the race is wrong, over all configurations and looks", 0.05
    )
    sampler: str = option("how the next configuration is chosen: tpe, random, gp, cmaes or grid", "tpe")
    random_share: float = option("so often the next configuration is drawn at random instead", 0.1)
    factor: int = option("one of so many trials that come to a rung goes on to the next", 3)
    min_epochs: int | None = option(
        "every trial is trained for at least so many epochs; null: two, or one more than the warm-up", None
    )
    space: str | None = option("YAML file with more keys to vary, which may depend on others", None)
    search: str | None = option("name of the search; null: the keys that it varies", None)
    save: str | None = option("write the winner to conf/experiment/NAME.yaml", None)
    output: str = option("folder for the page and the tables", "searches")
    format: str = option("table, or json: one document on stdout", "table")

    def __post_init__(self) -> None:
        require_choice("format", ("table", "json"), self.format)
        require_metric("metric", self.metric)
        require_margin("margin", self.margin, self.metric)
        require_choice("sampler", ("tpe", "random", "gp", "cmaes", "grid"), self.sampler)
        require(self.trials >= 1, "trials", "1 or more", self.trials)
        minutes = self.budget_minutes
        require(minutes is None or minutes > 0, "budget_minutes", "more than 0, or null", minutes)
        require(self.top >= 1, "top", "1 or more", self.top)
        require(self.seeds == 0 or self.seeds >= 2, "seeds", "0, or 2 or more", self.seeds, "One seed shows no spread.")
        require(0 < self.error <= 0.5, "error", "more than 0 and at most 0.5", self.error)
        require(0 <= self.random_share <= 1, "random_share", "from 0 to 1", self.random_share)
        require(self.factor >= 2, "factor", "2 or more", self.factor)
        require(self.min_epochs is None or self.min_epochs >= 1, "min_epochs", "1 or more, or null", self.min_epochs)
        require(
            self.save is None or bool(re.fullmatch(r"[A-Za-z0-9][\w-]*", self.save)), "save",
            "a name of letters, digits, _ and -", self.save,
        )  # fmt: skip


@dataclass
class DeleteConfig:
    """The options of `delete`."""

    run: str | None = option("id of a run to delete", None)
    sweep: str | None = option("id of a sweep to delete with its runs", None)
    study: str | None = option(
        "name of a study to delete as a whole; with champion=true: whose champion to forget", None
    )
    champion: bool = option("forget the champion of study=NAME: its version stays, without the alias", False)
    yes: bool = option("delete without asking", False)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_one_target(self)


@dataclass
class RestoreConfig:
    """The options of `restore`."""

    run: str | None = option("id of a deleted run", None)
    sweep: str | None = option("id of a deleted sweep, which is restored with its runs", None)
    study: str | None = option("name of a deleted study; with champion=true: whose champion to put back", None)
    champion: bool = option("give the alias champion back to the version of study=NAME that had it last", False)
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        require_one_target(self)


def require_one_target(config: DeleteConfig | RestoreConfig) -> None:
    """Raises a UserError unless exactly one thing is named; nothing named is what `--help` and the reference compose."""
    named = {key: value for key in ("run", "sweep", "study") if (value := getattr(config, key)) is not None}
    if len(named) > 1:
        key, value = list(named.items())[-1]
        require(False, key, f"left out where {next(iter(named))} is named", value, "Name one thing at a time.")
    if config.champion:
        require(
            "study" in named, "champion", "given with the study whose champion is meant, champion=true study=NAME", True
        )


ROOTS: dict[str, type] = {
    "audit": AuditConfig,
    "compare": CompareConfig,
    "decide": DecideConfig,
    "tune": TuneConfig,
    "evaluate": EvaluateConfig,
    "ensemble": EnsembleConfig,
    "predict": PredictConfig,
    "serve": ServeConfig,
    "export": ExportConfig,
    "card": CardConfig,
    "status": StatusConfig,
    "deliver": DeliverConfig,
    "delete": DeleteConfig,
    "restore": RestoreConfig,
    "clean": CleanConfig,
    "ui": UiConfig,
}


# Config groups in conf/ that these commands compose too.
STORED_GROUPS = ("tracking", "dataset", "promote", "hydra/job_logging", "hydra/hydra_logging")


def unregister(repo: dict[str, Any]) -> None:
    """Removes the config groups that `register` added from a copy of Hydra's store; the schemas stay."""
    for group in STORED_GROUPS:
        parent, _, name = group.rpartition("/")
        holder = repo.get(parent, {}) if parent else repo
        for path in (CONF / group).glob("*.yaml"):
            holder.get(name, {}).pop(path.name, None)


HYDRA_FLAGS = ("--cfg", "-c", "--resolve", "--info", "--package", "-p", "--help", "-h", "--version")


def split_paths(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns the command line of `predict` as (paths, options).

    KEY=VALUE with a key of `predict` is an option, even if a file has that name. Everything else is a path, except Hydra's flags.
    """
    keys = {key for key, _, _ in list_options(PredictConfig)} | {"tracking", "hydra"}
    options, paths = [], []
    follows_flag = False
    for argument in arguments:
        key = argument.lstrip("+~").partition("=")[0]
        if follows_flag or argument in HYDRA_FLAGS or ("=" in argument and (key in keys or key.startswith("hydra."))):
            options.append(argument)
        else:
            paths.append(argument)
        follows_flag = argument in ("--cfg", "-c", "--package", "-p", "--info")
    return paths, options


def register() -> None:
    """Registers the commands' schemas and the groups they compose, so that Hydra does not have to search `conf/` for them.

    If a folder on Hydra's search path is called KEY, Hydra reads KEY=VALUE as the choice of a group. With `conf/` on the path,
    `conf/model/` would turn model=RUN_ID into such a choice. So these commands search `conf/command/` only.
    """
    store = ConfigStore.instance()
    for name, schema in ROOTS.items():
        store.store(group="schema", name=name, node=schema, provider="catdog")
    for group in STORED_GROUPS:
        for path in sorted((CONF / group).glob("*.yaml")):
            store.store(group=group, name=path.stem, node=OmegaConf.load(path), provider="catdog")
