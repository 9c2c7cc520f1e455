"""The registry: the champion moves only to a better model on the same data; any model can be named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from support import compose_config

from catdog.config.schema import PromoteConfig
from catdog.registry.champion import (
    Promotion,
    choose_study,
    has_champion_to_test,
    promote,
    resolve_model,
)
from catdog.registry.evidence import MOVES, Challenge, Evidence, Reason, weigh
from catdog.statistics.contrasts import Contrast, contrast
from catdog.statistics.judgements import Judgement
from catdog.system.errors import UserError


class Store:
    """A tracking store of its own, with runs that look trained."""

    def __init__(self, folder) -> None:
        uri = f"sqlite:///{folder}/mlflow.db"
        # Both: another test may have left a registry of its own.
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self.client = mlflow.MlflowClient(uri, registry_uri=uri)
        self.folder = folder
        self.open_study("cats_vs_dogs")
        self.config: PromoteConfig = compose_config().promote
        self.count = 0

    def add(
        self, accuracy: float, loss: float = 0.5, digest: str = "d" * 64, keep: str = "best", variant: str | None = None,
        seed: int = 0, right: np.ndarray | None = None, sure: float | None = None, command: str = "",
    ) -> str:  # fmt: skip
        """Returns the id of a run with this val accuracy in its best epoch and 0.1 less in its last one, and its 200 answers.

        Args:
            accuracy: the first images are right, as many as it says, unless `right` says which.
            loss: of both.
            digest: of the data.
            keep: which model was kept.
            variant: digest of its config without the seed; None: one of its own.
            seed: its seed.
            right: bool (200,), whether each answer is right.
            sure: probability of every answer; None: as often as it is right.
            command: that trained it.
        """
        right = np.arange(200) < round(200 * accuracy) if right is None else right
        self.count += 1
        with mlflow.start_run(experiment_id=self.experiment_id, run_name=f"run {accuracy}") as active:
            model = mlflow.initialize_logged_model(experiment_id=self.experiment_id)
            mlflow.set_tags({
                "catdog.data_digest": digest, "catdog.model_uri": f"models:/{model.model_id}",
                "catdog.variant_digest": variant or f"variant {self.count}", "mlflow.source.name": command,
            })  # fmt: skip
            mlflow.log_params({"trainer.keep": keep, "seed": seed})
            mlflow.log_metrics({"best_val_accuracy": accuracy, "best_val_loss": loss,
                                "final_val_accuracy": accuracy - 0.1, "final_val_loss": loss})  # fmt: skip
            probability = right.mean() if sure is None else sure
            cats = np.where(right, probability, 1 - probability)
            table = pd.DataFrame(
                {"file": [f"cats/{n}.jpg" for n in range(200)], "label": "cats", "cats": cats, "dogs": 1 - cats}
            )
            mlflow.log_text(table.to_csv(index=False), "predictions/val.csv")
        return active.info.run_id

    def open_study(self, name: str) -> None:
        """Makes a study, to which the next runs belong."""
        self.experiment_id = self.client.create_experiment(name, artifact_location=(self.folder / "a").as_uri())

    def promote(self, *run_ids: str, **options) -> Promotion:
        (promotion,) = promote(self.client, replace(self.config, **options), list(run_ids))
        return promotion

    def champion(self, name: str = "cats_vs_dogs"):
        return self.client.get_model_version_by_alias(name, "champion")


@pytest.fixture
def store(tmp_path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(tmp_path)


def test_the_best_of_several_is_registered_and_ties_go_to_the_lower_loss(store: Store) -> None:
    store.add(0.99)  # not a candidate
    runs = [store.add(0.7), store.add(0.8, loss=0.6), store.add(0.8, loss=0.4)]
    promotion = store.promote(*runs)
    assert promotion == Promotion("cats_vs_dogs", "1", runs[2], True)
    version = store.champion()
    assert (version.run_id, version.tags["catdog.val_accuracy"]) == (runs[2], "0.8")


def test_the_champion_moves_only_on_evidence(store: Store) -> None:
    first = store.add(0.8)
    store.promote(first)
    assert store.champion().tags["catdog.evidence_outcome"] == "first"
    for accuracy, loss, moves, outcome in (
        (0.7, 0.5, False, "worse"),
        (0.8, 0.4, False, "not better"),  # as many right: no better, whatever the loss
        (0.81, 0.4, False, "undecided"),  # two images more, none less: that may be luck
        (0.9, 0.9, True, "better"),
    ):
        run = store.add(accuracy, loss)
        promotion = store.promote(run)
        assert promotion.is_champion is moves, accuracy
        assert (store.champion().run_id == run) is moves
        version = store.client.get_model_version("cats_vs_dogs", promotion.version)
        assert version.tags["catdog.evidence_outcome"] == outcome
        assert outcome in version.description
    assert len(store.client.search_model_versions("name='cats_vs_dogs'")) == 5


def test_a_lead_that_may_be_luck_is_too_little_evidence(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Three images more out of 200, but 30 answers differ: the interval does not exclude that it is worse."""
    right = np.arange(200) < 160
    store.promote(store.add(0.8, right=right, command="python -m catdog.train model=cnn seed=0"))
    other = right.copy()
    other[:13], other[160:176] = False, True
    run = store.add(0.815, right=other, command="python -m catdog.train model=augmented trainer.epochs=5 seed=0")
    with caplog.at_level("INFO"):
        assert store.promote(run).is_champion is False
    version = store.client.get_model_version("cats_vs_dogs", "2")
    evidence = json.loads(version.tags["catdog.evidence"])
    assert (evidence["outcome"], evidence["images"], evidence["over_seeds"]) == ("undecided", 200, False)
    assert evidence["difference"] == pytest.approx(0.015)
    assert evidence["low"] < -0.01 < evidence["high"]
    assert evidence["challenger_runs"] == [run]
    assert "images alone" in version.description
    assert "python -m catdog.train -m model=cnn seed=0,1,2,3,4" in caplog.text
    assert "python -m catdog.train -m model=augmented trainer.epochs=5 seed=0,1,2,3,4" in caplog.text
    # Where it is enough not to be worse, a wider margin lets it pass; so does force, which is recorded.
    assert store.promote(run, margin=0.2).is_champion is False
    assert store.promote(run, margin=0.2, rule="not_worse").is_champion is True
    store.client.set_registered_model_alias("cats_vs_dogs", "champion", "1")
    assert store.promote(run, force=True).is_champion is True
    assert store.champion().tags["catdog.evidence_outcome"] == "forced"
    assert "too little evidence" in store.champion().description


def test_seeds_of_both_variants_count_and_more_of_them_can_decide(store: Store) -> None:
    generator = np.random.default_rng(0)
    hard = generator.permutation(200)

    def seeds(variant: str, share: float, count: int, first: int = 0) -> list[str]:
        runs = []
        for seed in range(first, first + count):
            right = np.ones(200, dtype=bool)
            right[hard[: round(200 * (1 - share)) + seed % 2]] = False
            runs.append(store.add(right.mean(), variant=variant, seed=seed, right=right))
        return runs

    store.promote(*seeds("old", 0.80, 3))
    challengers = seeds("new", 0.86, 3)
    promotion = store.promote(*challengers)
    assert promotion.is_champion is True
    evidence = json.loads(store.champion().tags["catdog.evidence"])
    assert evidence["over_seeds"] is True
    assert sorted(evidence["challenger_runs"]) == sorted(challengers)
    assert len(evidence["champion_runs"]) == 3
    # A seed more of the champion's own variant is compared model by model, and is no better.
    assert store.promote(*seeds("new", 0.86, 1, first=6)).is_champion is False


def test_the_best_variant_is_the_one_with_the_best_mean(store: Store) -> None:
    steady = [store.add(accuracy, variant="steady", seed=seed) for seed, accuracy in enumerate((0.8, 0.82, 0.81))]
    lucky = [store.add(accuracy, variant="lucky", seed=seed) for seed, accuracy in enumerate((0.9, 0.6, 0.7))]
    assert store.promote(*lucky, *steady).run_id == steady[1]


def test_a_better_model_that_is_badly_calibrated_does_not_become_champion(store: Store) -> None:
    store.promote(store.add(0.8))
    boastful = store.add(0.85, sure=0.999)
    assert store.promote(boastful).is_champion is False
    assert store.client.get_model_version("cats_vs_dogs", "2").tags["catdog.evidence_outcome"] == "calibration"
    assert store.promote(boastful, calibration_margin=0.5).is_champion is True


@pytest.mark.parametrize("lost", ["challenger", "champion", "images"])
def test_what_cannot_be_compared_does_not_move_the_champion(store: Store, lost: str) -> None:
    runs = {"champion": store.add(0.7), "challenger": store.add(0.9)}
    store.promote(runs["champion"])
    folder = Path(store.client.get_run(runs.get(lost, runs["challenger"])).info.artifact_uri.removeprefix("file://"))
    answers = folder / "predictions" / "val.csv"
    if lost == "images":
        answers.write_text(answers.read_text().replace("cats/7.jpg", "cats/other.jpg"))
    else:
        answers.unlink()
    assert store.promote(runs["challenger"]).is_champion is False
    version = store.client.get_model_version("cats_vs_dogs", "2")
    assert version.tags["catdog.evidence_outcome"] == "not comparable"
    assert store.promote(runs["challenger"], force=True).is_champion is True


def test_looks_at_the_test_split_stay_on_the_version(store: Store) -> None:
    run = store.add(0.8)
    store.client.set_tag(run, "catdog.test_looks", "3")
    store.promote(run)
    assert store.champion().tags["catdog.test_looks"] == "3"
    assert "look 3" in store.champion().description


def test_test_results_play_no_part(store: Store) -> None:
    first, second = store.add(0.8), store.add(0.7)
    for run, accuracy in ((first, 0.1), (second, 0.99)):
        store.client.log_metric(run, "test/accuracy", accuracy)
    assert store.promote(first, second).run_id == first
    assert store.promote(second).is_champion is False


@pytest.mark.parametrize(
    ("low", "high", "estimate_sign", "calibration", "outcome"),
    [
        (-0.005, 0.03, 1, (0.05, 0.05), "not worse"),
        (0.005, 0.03, 1, (0.05, 0.05), "better"),
        (-0.0101, 0.03, 1, (0.05, 0.05), "undecided"),
        (-0.005, 0.03, 1, (0.0701, 0.05), "calibration"),
        (-0.005, 0.03, 1, (0.0, 0.05), "not worse"),
        (-0.03, -0.005, -1, (0.05, 0.05), "worse"),
        (-0.03, 0.005, -1, (0.05, 0.05), "not better"),
        (-0.001, 0.001, 0, (0.05, 0.05), "not better"),
        (0.01, 0.03, 1, (0.9, 0.05), "calibration"),
    ],
)
def test_the_rule(store: Store, low, high, estimate_sign, calibration, outcome) -> None:
    estimate, images = (low + high) / 2, 100_001
    assert np.sign(round(estimate, 9)) == estimate_sign
    quantile = student.ppf(0.975, images - 1)
    found = Contrast(estimate, (0.0, 0.0), ((high - low) / 2 / quantile) ** 2, (3, 3), images)
    assert weigh(found, calibration, replace(store.config, rule="not_worse"))[0] == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.001, 0.03, "better"), (-0.001, 0.03, "undecided"), (-0.003, 0.009, "equivalent"), (-0.03, -0.001, "worse"),
        (-0.03, 0.005, "not better"),
    ],
)  # fmt: skip
def test_by_default_a_challenger_has_to_be_better(store: Store, low: float, high: float, outcome: str) -> None:
    images = 100_001
    quantile = student.ppf(0.975, images - 1)
    found = Contrast((low + high) / 2, (0.0, 0.0), ((high - low) / 2 / quantile) ** 2, (3, 3), images)
    assert weigh(found, (0.05, 0.05), store.config)[0] == outcome


def test_the_model_that_is_served_has_to_be_better_by_its_own_answers(store: Store) -> None:
    def difference(estimate: float, spread: float) -> Contrast:
        return Contrast(estimate, (0.0, 0.0), spread**2, (1, 1), 100_001)

    found = difference(0.03, 0.005)
    assert weigh(found, (0.05, 0.05), store.config, own=difference(0.02, 0.01))[0] == "better"
    assert weigh(found, (0.05, 0.05), store.config, own=difference(-0.001, 0.001))[0] == "own answers"
    assert weigh(found, (0.05, 0.05), store.config, own=difference(0.01, 0.02))[0] == "own answers"


def test_each_challenge_on_the_same_images_has_to_show_more(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.promote(store.add(0.8))

    def challenge(images: int, **options: object) -> Evidence:
        """A challenger that is right on so many more images, and wrong on none that the champion has right."""
        promotion = store.promote(store.add(0.8 + images / 200), **options)
        found = Evidence.from_tags(store.client.get_model_version("cats_vs_dogs", promotion.version).tags)
        assert found is not None
        return found

    first = challenge(4)
    assert (first.challenge, first.variants, first.confidence) == (1, 1, pytest.approx(0.95))
    assert "Challenge 1 on these images: 2.5% of the 5%" in first.description
    second = challenge(4)
    assert second.challenge == 2
    assert second.confidence == pytest.approx(1 - 0.05 / 3)
    assert second.low is not None and first.low is not None and second.low < first.low  # noqa: PT018
    with caplog.at_level("INFO"):
        for number in range(3, 11):
            assert challenge(1).challenge == number
    assert "challenge 10 on the same validation images" in caplog.text


def test_comparing_the_same_runs_again_is_no_new_challenge(store: Store) -> None:
    store.promote(store.add(0.8))
    run = store.add(0.82)
    for _ in range(3):
        version = store.promote(run).version
        found = Evidence.from_tags(store.client.get_model_version("cats_vs_dogs", version).tags)
        assert found is not None
        assert found.challenge == 1


def test_the_best_of_several_variants_has_to_show_more(store: Store) -> None:
    store.promote(store.add(0.8))
    promotion = store.promote(*(store.add(0.82) for _ in range(4)))
    found = Evidence.from_tags(store.client.get_model_version("cats_vs_dogs", promotion.version).tags)
    assert found is not None
    assert (found.variants, found.confidence) == (4, pytest.approx(1 - 0.05 / 4))


def test_equal_challengers_seldom_replace_a_champion(store: Store) -> None:
    """Chains of ten sweeps, each of four variants that are as good as the champion: at most 5% of chains end with another one."""
    rng = np.random.default_rng(1)
    chains, seeds, variants = 400, 3, 4
    images = rng.beta(4.5, 0.5, (chains, 1, 200))
    champion = rng.random((chains, seeds, 200)) < images
    stands = np.ones(chains, dtype=bool)
    for number in range(1, 11):
        drawn = np.stack([rng.random((chains, seeds, 200)) < images for _ in range(variants)])
        best = drawn[drawn.mean(axis=(2, 3)).argmax(axis=0), np.arange(chains)]
        confidence = Challenge(number, variants).confidence(number, store.config.error)
        for chain in np.flatnonzero(stands):
            found = contrast(best[chain], champion[chain])
            stands[chain] = weigh(found, (0.05, 0.05), store.config, confidence)[0] not in MOVES
    assert 0 < (~stands).sum() <= 0.05 * chains


def test_outcomes_are_decisions_or_reasons_and_older_versions_still_read() -> None:
    """A version's tag `catdog.evidence_outcome` had these words before there was one vocabulary of decisions."""
    decisions = ("better", "worse", "undecided")
    reasons = ("first", "not worse", "other data", "forced", "calibration", "not comparable")
    assert [Judgement(word) for word in decisions] == list(decisions)
    assert [Reason(word) for word in reasons] == list(reasons)
    assert not set(Judgement) & set(Reason)
    tags = Evidence(Reason.NOT_WORSE, "shown").tags
    assert tags["catdog.evidence_outcome"] == json.loads(tags["catdog.evidence"])["outcome"] == "not worse"
    assert type(tags["catdog.evidence_outcome"]) is str


def test_the_kept_model_is_what_counts(store: Store) -> None:
    """With trainer.keep=last the model of the last epoch was kept: its accuracy ranks, not the best epoch's."""
    best, last = store.add(0.8), store.add(0.85, keep="last")
    assert store.promote(best, last).run_id == best


def test_on_changed_images_the_new_best_is_champion_and_the_former_one_stays_reachable(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A user adds photos and trains again: models are compared on the same images only, and the message comes once."""
    first = store.add(0.9)
    store.promote(first)
    other = store.add(0.6, digest="e" * 64)
    with caplog.at_level("INFO"):
        assert store.promote(other) == Promotion("cats_vs_dogs", "2", other, True)
    assert "registered cats_vs_dogs version 2: run 0.6, val accuracy 0.600; it is the champion now" in caplog.text
    assert "the former champion, version 1, run 0.9, was chosen on other images" in caplog.text
    assert "It is model=cats_vs_dogs@champion-dddddddd from now on" in caplog.text
    assert store.champion().tags["catdog.evidence_outcome"] == "other data"
    assert resolve_model(store.client, "cats_vs_dogs", "champion-dddddddd").run_id == first
    caplog.clear()
    worse = store.add(0.5, digest="e" * 64)
    with caplog.at_level("INFO"):
        assert store.promote(worse) == Promotion("cats_vs_dogs", "3", worse, False)
    assert "other images" not in caplog.text


def test_back_on_the_former_images_the_former_champion_has_to_be_beaten(store: Store) -> None:
    first, other = store.add(0.8), store.add(0.6, digest="e" * 64)
    store.promote(first)
    store.promote(other)
    worse = store.add(0.7)
    assert store.promote(worse) == Promotion("cats_vs_dogs", "3", worse, False)
    assert store.champion().run_id == first
    aliases = store.client.get_registered_model("cats_vs_dogs").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "1", "champion-eeeeeeee": "2"}
    # The same command again: its run is the best on its images already, so nothing is compared.
    assert store.promote(other).is_champion
    assert store.client.get_model_version("cats_vs_dogs", "2").tags["catdog.evidence_outcome"] == "other data"
    better = store.add(0.95)
    assert store.promote(better) == Promotion("cats_vs_dogs", "4", better, True)


def test_every_study_has_a_registered_model_of_its_own(store: Store) -> None:
    """On the same data, the second study's model does not compete with the first one's, and neither answers for the other."""
    first = store.add(0.9)
    store.promote(first)
    store.open_study("flowers: big & small")
    with pytest.raises(UserError) as raised:
        resolve_model(store.client, "flowers: big & small", None)
    assert str(raised.value) == (
        "model: study 'flowers: big & small' has no champion. Its next sweep or run makes one, unless promote.enabled=false; type "
        "its command again, and finished runs are reused. Or name a run: model=RUN_ID. Studies with a champion: cats_vs_dogs "
        "(study=NAME)."
    )
    assert not has_champion_to_test(store.client, "flowers: big & small")
    other = store.add(0.6)
    assert store.promote(other) == Promotion("flowers- big - small", "1", other, True)
    assert has_champion_to_test(store.client, "flowers: big & small")
    for study, run_id in (("cats_vs_dogs", first), ("flowers: big & small", other)):
        assert resolve_model(store.client, study, None).run_id == run_id


def test_a_shared_registered_model_has_one_champion_of_one_study(store: Store) -> None:
    """With promote.registered_model. The same variant in another study is not another seed of it."""
    first = store.add(0.8, variant="cnn", seed=0)
    store.promote(first, registered_model="pets")
    store.open_study("b")
    same = store.add(0.8, variant="cnn", seed=1)
    assert store.promote(same, registered_model="pets") == Promotion("pets", "2", same, False)
    words = json.loads(store.client.get_model_version("pets", "2").tags["catdog.evidence"])["words"]
    assert words.endswith(", as the same variant in another study")
    with pytest.raises(
        UserError, match=r"study 'b' has no champion\. The champion of pets, version 1, is of study 'cats_vs_dogs'"
    ):
        resolve_model(store.client, "b", None)
    # On other data it does not take the other study's place.
    other = store.add(0.9, digest="e" * 64)
    assert store.promote(other, registered_model="pets") == Promotion("pets", "3", other, False)
    assert resolve_model(store.client, "b", None).run_id == other
    assert resolve_model(store.client, "cats_vs_dogs", None).run_id == first


def test_a_champion_under_an_older_name_is_found_and_compared_with(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Studies used to share `catdog`, and other data had a registered model named after its digest."""
    old, older = store.add(0.8), store.add(0.7, digest="e" * 64)
    for name, run in (("catdog-eeeeeeee", older), ("catdog", old)):
        store.client.create_registered_model(name)
        store.promote(run, registered_model=name)
    # MLflow sorts by the time of the start, in milliseconds.
    store.client.set_tag(store.add(0.1), "catdog.registered_model", "catdog")
    assert resolve_model(store.client, "cats_vs_dogs", None)[1:3] == (old, "catdog version 1")
    worse = store.add(0.75)
    with caplog.at_level("INFO"):
        assert store.promote(worse) == Promotion("cats_vs_dogs", "3", worse, False)
    assert "catdog version 1, its champion, is cats_vs_dogs version 1 as well" in caplog.text
    assert resolve_model(store.client, "cats_vs_dogs", None)[1:3] == (old, "cats_vs_dogs version 1")
    assert resolve_model(store.client, "cats_vs_dogs", "champion-eeeeeeee").run_id == older
    assert resolve_model(store.client, "cats_vs_dogs", "catdog@champion").run_id == old


def test_without_a_study_the_only_champion_answers(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.promote(store.add(0.9))
    assert choose_study(store.client, None) == "cats_vs_dogs"
    store.open_study("b")
    store.promote(store.add(0.9))
    with caplog.at_level("INFO"):
        assert choose_study(store.client, None) == "cats_vs_dogs"
    assert "taking the champion of study cats_vs_dogs; these have one as well: b (study=NAME)" in caplog.text
    store.client.delete_registered_model_alias("cats_vs_dogs", "champion")
    assert choose_study(store.client, "champion") == "b"
    store.open_study("c")
    store.promote(store.add(0.9))
    with pytest.raises(UserError, match=r"^study: several studies have a champion: b, c\. Name one: study=b$"):
        choose_study(store.client, None)
    # These name a model by themselves.
    assert {choose_study(store.client, model) for model in ("b/1", "b@champion", "0" * 32)} == {"cats_vs_dogs"}


def test_a_quick_look_does_not_take_the_name(store: Store) -> None:
    quick = store.add(0.9)
    store.client.log_param(quick, "dataset.max_images_per_class", 10)
    promotion = store.promote(quick)
    assert promotion.name == "cats_vs_dogs-quick"
    assert store.promote(store.add(0.6, digest="e" * 64)).name == "cats_vs_dogs"


def test_a_quick_look_does_not_take_the_studys_place(store: Store) -> None:
    """Its model is found while there is no other, and by its name; a later look does not stand for the study."""

    def look(accuracy: float) -> None:
        run = store.add(accuracy)
        store.client.log_param(run, "dataset.max_images_per_class", 10)
        store.promote(run)

    look(0.9)
    assert resolve_model(store.client, "cats_vs_dogs", None)[2] == "cats_vs_dogs-quick version 1"
    store.promote(store.add(0.6, digest="e" * 64))
    look(0.95)
    assert resolve_model(store.client, "cats_vs_dogs", None)[2] == "cats_vs_dogs version 1"
    assert resolve_model(store.client, "cats_vs_dogs", "cats_vs_dogs-quick@champion")[2].startswith(
        "cats_vs_dogs-quick version"
    )


def test_the_champion_can_be_kept_when_the_images_change(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first, other = store.add(0.9), store.add(0.6, digest="e" * 64)
    store.promote(first)
    with caplog.at_level("INFO"):
        assert store.promote(other, replace_other_data=False) == Promotion("cats_vs_dogs", "2", other, False)
    assert (
        "is still version 1, run 0.9, which was chosen on other images: promote.replace_other_data=false" in caplog.text
    )
    assert store.champion().run_id == first
    assert resolve_model(store.client, "cats_vs_dogs", "champion-eeeeeeee").run_id == other


def test_a_run_is_registered_once(store: Store) -> None:
    """The same sweep again, after an interruption or because it reuses its runs, adds no version."""
    first, second = store.add(0.7), store.add(0.6)
    assert store.promote(first, second) == store.promote(first, second) == Promotion("cats_vs_dogs", "1", first, True)
    assert store.promote(second) == store.promote(second) == Promotion("cats_vs_dogs", "2", second, False)
    assert len(store.client.search_model_versions("name='cats_vs_dogs'")) == 2


def test_a_sweep_over_data_sets_has_a_best_for_each(store: Store) -> None:
    runs = [store.add(0.7), store.add(0.9, digest="e" * 64), store.add(0.8)]
    promotions = promote(store.client, store.config, runs)
    assert [(p.name, p.run_id) for p in promotions] == [("cats_vs_dogs", runs[2]), ("cats_vs_dogs", runs[1])]
    assert [p.is_champion for p in promotions] == [True, False]
    # A sweep that has runs on the champion's images leaves it there.
    again = promote(store.client, store.config, [runs[1], store.add(0.7)])
    assert [p.is_champion for p in again] == [False, False]
    assert store.champion().run_id == runs[2]


def test_promotion_can_be_off(store: Store) -> None:
    config = replace(store.config, enabled=False)
    assert promote(store.client, config, [store.add(0.9)]) == []
    assert store.client.search_registered_models() == []


def test_a_model_is_found_by_every_name_it_has(store: Store) -> None:
    first, second = store.add(0.9), store.add(0.8)
    store.promote(first)
    store.promote(second)
    for name, run_id in (
        (None, first), ("champion", first), ("1", first), ("2", second),
        ("cats_vs_dogs/2", second), ("cats_vs_dogs@champion", first),
        ("models:/cats_vs_dogs/2", second), ("models:/cats_vs_dogs@champion", first),
        (second, second), (f"runs:/{second}/model", second),
    ):  # fmt: skip
        uri, found, *_ = resolve_model(store.client, "cats_vs_dogs", name)
        assert found == run_id, name
        assert uri.startswith("models:/")


@pytest.mark.parametrize("name", [None, "3", "challenger", "cats_vs_dogs/3", "nobody@champion", "0" * 32])
def test_a_model_that_is_not_there_is_said_with_what_is(store: Store, name: str | None) -> None:
    with pytest.raises(UserError, match=r"^model: (no |study 'cats_vs_dogs' has no champion)"):
        resolve_model(store.client, "cats_vs_dogs", name)


def test_a_champion_whose_run_is_gone_gives_way_to_force_alone(store: Store) -> None:
    first = store.add(0.8)
    store.promote(first)
    store.client.delete_run(first)
    store.client._tracking_client.store._hard_delete_run(first)  # as `mlflow gc` does
    assert store.promote(store.add(0.9)).is_champion is False
    assert store.promote(store.add(0.7), force=True).is_champion is True


def test_a_store_that_fails_does_not_pass_for_one_without_a_champion(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    def fail(name: str, alias: str) -> None:
        raise MlflowException("the server is away")

    run = store.add(0.5)
    monkeypatch.setattr(store.client, "get_model_version_by_alias", fail)
    with pytest.raises(MlflowException, match="away"):
        store.promote(run)
