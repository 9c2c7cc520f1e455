"""The names of the tags that catdog writes in MLflow, on runs, sweeps, looks and model versions; and typed reads of them."""

import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from catdog.config.digest import hash_text
from catdog.config.names import unescape

# The experiment that counts looks at test splits; it is no study.
LEDGER = "catdog-test-ledger"

KIND = "catdog.kind"
RUN, ENSEMBLE, SWEEP, LOOK = "run", "ensemble", "sweep", "test_look"
# The kinds that have a model and answers.
WITH_MODEL = (RUN, ENSEMBLE)

# What a run's result depends on.
IDENTITY = "catdog.identity"
CONFIG_DIGEST = "catdog.config_digest"
DATA_DIGEST = "catdog.data_digest"
CODE_DIGEST = "catdog.code_digest"
CODE_FILES = "catdog.code_files"
LIBRARIES = "catdog.libraries"
PRECISION = "catdog.precision"
DEVICE = "catdog.device"
# The digest of a run's config without its seed.
VARIANT_DIGEST = "catdog.variant_digest"
# Tags on which a run's result depends, in addition to those of its config and data.
RESULT = (CODE_DIGEST, LIBRARIES, PRECISION, DEVICE)

# Tags that nobody searches or reads on MLflow's pages, together in one as JSON. Runs of an older catdog have them one by one.
DETAILS = "catdog.details"
# MLflow's limit on the length of a tag.
MOST_CHARACTERS = 8000

# The place of a run, and what was started where.
VARIANT = "catdog.variant"
SWEEP_ID = "catdog.sweep"
MEMBER = "catdog.member."
# How many different runs a sweep has: a run that `mlflow gc` removed leaves nothing else behind.
RUNS = "catdog.runs"
KEY = "catdog.key"
OWNER = "catdog.owner"
# When that process last said that it works on the run, in seconds since 1970.
SIGN_OF_LIFE = "catdog.sign_of_life"
COMMAND = "catdog.command"
RETRIES = "catdog.retries"
ERROR = "catdog.error"
NOTE = "mlflow.note.content"
SOURCE = "mlflow.source.name"

# What MLflow's own pages read: the kind of a study, its saved views by their key, and the color of a run's name and curves.
EXPERIMENT_KIND = "mlflow.experimentKind"
VIEW = "mlflow.sharedViewState."
# On a study: whether it has runs of versions with other metric names, NAMES_MIXED, or not, NAMES_NEW. Until `complete_study` has
# looked, a study of those versions lacks it.
METRIC_NAMES = "catdog.metric_names"
NAMES_NEW, NAMES_MIXED = "new", "mixed"
COLOR = "mlflow.runColor"

# Its data and its model.
IMAGES = "catdog.{split}_images"
# Who named groups of images, if images come in groups: a pattern, a file, or near_duplicates.
GROUPS = "catdog.groups"
MAJORITY_FRACTION = "catdog.majority_fraction"
CLASSES = "catdog.classes"
MODEL_URI = "catdog.model_uri"
REGISTERED_MODEL = "catdog.registered_model"
TEST_LOOKS = "catdog.test_looks"
DECISION = "catdog.decision"
# On a search: what must not change while it goes on, how long it was led, and what each trial tries, as JSON.
SEARCH = "catdog.search"
SEARCH_SECONDS = "catdog.search_seconds"
# The run of its best trial, and that of the trial that beat the default; "default" if none did.
SEARCH_BEST = "catdog.search_best"
SEARCH_WINNER = "catdog.search_winner"
TRIAL = "catdog.trial."
# On a run: at how many looks of `compare` its variant has been judged, each time with more seeds.
COMPARED = "catdog.compared"

# A run that a script recorded: that it was recorded, and the size of its validation images in the cache of decoded images.
RECORDED = "catdog.recorded"
IMAGE_SIZE = "catdog.image_size"

# The members of an ensemble: the name of each run by its id, as JSON.
ENSEMBLE_OF = "catdog.ensemble_of"

# A look in the ledger, and a model version: the run that trained the model, and more about it.
TRAINED_BY = "catdog.run"
RUN_NAME = "catdog.run_name"
STUDY = "catdog.study"
MODEL = "catdog.model"
TEST_DIGEST = "catdog.test_digest"
# On a look that ended before any test image was given out.
NOT_LOOKED = "catdog.not_looked"
VAL_ACCURACY = "catdog.val_accuracy"
VAL_LOSS = "catdog.val_loss"
EVIDENCE = "catdog.evidence"
EVIDENCE_OUTCOME = "catdog.evidence_outcome"
EVIDENCE_INTERVAL = "catdog.evidence_interval"
# On a run and a model version: what was measured of the file that it was exported to, by format.
EXPORT = "catdog.export."
# On a registered model: the version that was its champion when the alias was removed.
FORMER_CHAMPION = "catdog.former_champion"


class Tags(dict[str, str]):
    """The tags of a run, a sweep, a look or a model version, by name, with typed reads of catdog's own.

    Args:
        tags: as MLflow has them; those that `gather` put together are taken apart.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        super().__init__({**_read_mapping(tags.get(DETAILS)), **tags})

    @property
    def kind(self) -> str:
        """RUN, ENSEMBLE, SWEEP, LOOK; another word, or "", for anything else."""
        return self.get(KIND, "")

    @property
    def identity(self) -> str:
        """The digest of what a run's result depends on, or of a sweep's runs; "" if unknown."""
        return self.get(IDENTITY, "")

    @property
    def decision(self) -> dict[str, Any]:
        """What `decide` found out about a sweep: its metric, and `pairs` with first, second, words and more; empty without it."""
        return _read_mapping(self.get(DECISION))

    @property
    def search(self) -> dict[str, Any]:
        """What a search must not change while it goes on: name, space, sampler and more; empty on anything else."""
        return _read_mapping(self.get(SEARCH))

    @property
    def sign_of_life(self) -> float:
        """When its process last said that it works on it, in seconds since 1970; 0 if it never did."""
        return float(self.get(SIGN_OF_LIFE, "0"))

    @property
    def search_seconds(self) -> float:
        """How long a search was led."""
        return float(self.get(SEARCH_SECONDS, 0.0))

    @property
    def trials(self) -> dict[int, dict[str, Any]]:
        """What each trial of a search tries, by its number: settings, origin and more."""
        found = {key.removeprefix(TRIAL): value for key, value in self.items() if key.startswith(TRIAL)}
        return {int(number): _read_mapping(value) for number, value in found.items()}

    @property
    def compared(self) -> int:
        """At how many looks of `compare` the run has been judged with its siblings."""
        return int(self.get(COMPARED, "0"))

    @property
    def variant_digest(self) -> str:
        """The digest of a run's config without its seed; "" if unknown."""
        return self.get(VARIANT_DIGEST, "")

    @property
    def config_digest(self) -> str:
        """The digest of what affects training in a run's config, seed included; "" if unknown."""
        return self.get(CONFIG_DIGEST, "")

    @property
    def data_digest(self) -> str:
        """The digest of the images and their splits; "" if unknown."""
        return self.get(DATA_DIGEST, "")

    @property
    def groups(self) -> str:
        """Who named the groups of the images; "" if they come in no groups."""
        return self.get(GROUPS, "")

    @property
    def code_digest(self) -> str:
        """The digest of the code that trained it; "" if unknown."""
        return self.get(CODE_DIGEST, "")

    @property
    def code_files(self) -> dict[str, str]:
        """The digest of each file of that code; empty if unknown."""
        return _read_mapping(self.get(CODE_FILES))

    @property
    def libraries(self) -> dict[str, str]:
        """The version of each library; empty if unknown."""
        return _read_mapping(self.get(LIBRARIES))

    @property
    def runtime(self) -> dict[str, str]:
        """The resolved `precision` and the kind of `device`, as far as they are known."""
        return {name: self[tag] for name, tag in (("precision", PRECISION), ("device", DEVICE)) if tag in self}

    @property
    def model_uri(self) -> str | None:
        """MLflow's address of the kept model, or of the model that a look is at; None if there is none."""
        return self.get(MODEL_URI) or None

    @property
    def trained_by(self) -> str:
        """The id of the run that trained the model of a look or of a version; "" if unknown."""
        return self.get(TRAINED_BY, "")

    @property
    def is_recorded(self) -> bool:
        """Whether a script recorded the run, and catdog did not train it."""
        return RECORDED in self

    @property
    def ensemble_of(self) -> dict[str, str]:
        """The name of each member of an ensemble by its run id; empty for anything else."""
        return _read_mapping(self.get(ENSEMBLE_OF))

    @property
    def image_size(self) -> int:
        """The size in pixels of a recorded run's validation images; 0 if unknown."""
        return int(self.get(IMAGE_SIZE) or 0)

    @property
    def overrides(self) -> list[str] | None:
        """The overrides that the run was trained with, without the seed; None if they are not known."""
        words = shlex.split(self.get(SOURCE, ""))
        if words[:3] != ["python", "-m", "catdog.train"]:
            return None
        return [
            unescape(word) for word in words[3:] if not word.startswith("seed=") and word not in ("-m", "--multirun")
        ]

    def variant_key(self, *, without: Collection[str] = ()) -> str:
        """Returns a key that all seeds of one variant share; "" if the tags do not identify a variant.

        The key covers the config without its seed, the code, the libraries, the precision and the kind of device. It does not cover
        the data: compare the data digests as well if the runs must be on the same data. Tags that an old run lacks are left out.

        Args:
            without: tags to ignore.
        """
        rest = [self[tag] for tag in RESULT if tag in self and tag not in without]
        return hash_text(self.variant_digest + "".join(rest)) if self.variant_digest and rest else self.variant_digest

    def is_same_variant(self, other: "Tags") -> bool:
        """Returns whether two runs are seeds of one variant on the same data."""
        key = self.variant_key()
        return bool(key) and key == other.variant_key() and self.data_digest == other.data_digest


def gather(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns these tags as one, so that they do not fill a run's page; a tag that does not fit stays on its own."""
    together: dict[str, str] = {}
    apart: dict[str, str] = {}
    for key, value in tags.items():
        fits = len(json.dumps({**together, key: value})) <= MOST_CHARACTERS
        (together if fits else apart)[key] = value
    return {DETAILS: json.dumps(together), **apart}


def trial_tag(number: int) -> str:
    """Returns the name of a search's tag that says what a trial tries."""
    return f"{TRIAL}{number}"


def export_tag(format: str) -> str:
    """Returns the name of the tag that says what was measured of an exported file."""
    return f"{EXPORT}{format}"


def member_tag(sweep_id: str) -> str:
    """Returns the name of the tag that makes a run a member of a sweep."""
    return f"{MEMBER}{sweep_id}"


def _read_mapping(text: str | None) -> dict[str, Any]:
    try:
        return dict(json.loads(text or "{}"))
    except (ValueError, TypeError):
        return {}
