"""The registry: the champion moves only to a better model on the same data; any model can be named."""

from dataclasses import replace

import mlflow
import pytest
from test_config import compose_config

from catdog.config import PromoteConfig
from catdog.errors import UserError
from catdog.promote import Promotion, promote, resolve_model


class Store:
    """A tracking store of its own, with runs that look trained."""

    def __init__(self, folder) -> None:
        uri = f"sqlite:///{folder}/mlflow.db"
        # Both: another test may have left a registry of its own.
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self.client = mlflow.MlflowClient(uri, registry_uri=uri)
        self.experiment_id = self.client.create_experiment("cats_vs_dogs", artifact_location=(folder / "a").as_uri())
        self.config: PromoteConfig = compose_config().promote

    def add(self, accuracy: float, loss: float = 0.5, digest: str = "d" * 64, keep: str = "best") -> str:
        """Returns the id of a run whose best epoch had this val accuracy and whose last one had 0.1 less."""
        with mlflow.start_run(experiment_id=self.experiment_id, run_name=f"run {accuracy}") as active:
            model = mlflow.initialize_logged_model(experiment_id=self.experiment_id)
            mlflow.set_tags({"catdog.data_digest": digest, "catdog.model_uri": f"models:/{model.model_id}"})
            mlflow.log_params({"trainer.keep": keep})
            mlflow.log_metrics({"best/val_accuracy": accuracy, "best/val_loss": loss,
                                "final/val_accuracy": accuracy - 0.1, "final/val_loss": loss})  # fmt: skip
        return active.info.run_id

    def promote(self, *run_ids: str, **options) -> Promotion:
        (promotion,) = promote(self.client, replace(self.config, **options), list(run_ids))
        return promotion

    def champion(self, name: str = "catdog"):
        return self.client.get_model_version_by_alias(name, "champion")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_the_best_of_several_is_registered_and_ties_go_to_the_lower_loss(store: Store) -> None:
    store.add(0.99)  # not a candidate
    runs = [store.add(0.7), store.add(0.8, loss=0.6), store.add(0.8, loss=0.4)]
    promotion = store.promote(*runs)
    assert promotion == Promotion("catdog", "1", runs[2], True)
    version = store.champion()
    assert (version.run_id, version.tags["catdog.val_accuracy"]) == (runs[2], "0.8")


def test_the_champion_moves_only_if_it_is_beaten(store: Store) -> None:
    first = store.add(0.8)
    store.promote(first)
    for accuracy, loss, moves in ((0.7, 0.5, False), (0.8, 0.5, False), (0.8, 0.4, True), (0.9, 0.9, True)):
        run = store.add(accuracy, loss)
        promotion = store.promote(run)
        assert promotion.is_champion is moves
        assert (store.champion().run_id == run) is moves
    assert len(store.client.search_model_versions("name='catdog'")) == 5


def test_the_kept_model_is_what_counts(store: Store) -> None:
    """With trainer.keep=last the model of the last epoch was kept: its accuracy ranks, not the best epoch's."""
    best, last = store.add(0.8), store.add(0.85, keep="last")
    assert store.promote(best, last).run_id == best


def test_other_data_gets_its_own_registered_model(store: Store) -> None:
    first = store.add(0.9)
    store.promote(first)
    other = store.add(0.99, digest="e" * 64)
    promotion = store.promote(other)
    assert promotion == Promotion("catdog-eeeeeeee", "1", other, True)
    assert store.champion().run_id == first
    worse = store.add(0.98, digest="e" * 64)
    assert store.promote(worse) == Promotion("catdog-eeeeeeee", "2", worse, False)


def test_a_quick_look_does_not_take_the_name(store: Store) -> None:
    quick = store.add(0.9)
    store.client.log_param(quick, "dataset.max_images_per_class", 10)
    promotion = store.promote(quick)
    assert promotion.name == "catdog-quick"
    assert store.promote(store.add(0.6, digest="e" * 64)).name == "catdog"


def test_other_data_replaces_the_champion_only_by_an_explicit_flag(store: Store) -> None:
    store.promote(store.add(0.9))
    other = store.add(0.6, digest="e" * 64)
    assert store.promote(other, replace_other_data=True) == Promotion("catdog", "2", other, True)


def test_a_run_is_registered_once(store: Store) -> None:
    """The same sweep again, after an interruption or because it reuses its runs, adds no version."""
    first, second = store.add(0.7), store.add(0.6)
    assert store.promote(first, second) == store.promote(first, second) == Promotion("catdog", "1", first, True)
    assert store.promote(second) == store.promote(second) == Promotion("catdog", "2", second, False)
    assert len(store.client.search_model_versions("name='catdog'")) == 2


def test_a_sweep_over_data_sets_has_a_best_for_each(store: Store) -> None:
    runs = [store.add(0.7), store.add(0.9, digest="e" * 64), store.add(0.8)]
    promotions = promote(store.client, store.config, runs)
    assert [(p.name, p.run_id) for p in promotions] == [("catdog", runs[2]), ("catdog-eeeeeeee", runs[1])]


def test_promotion_can_be_off(store: Store) -> None:
    config = replace(store.config, enabled=False)
    assert promote(store.client, config, [store.add(0.9)]) == []
    assert store.client.search_registered_models() == []


def test_a_model_is_found_by_every_name_it_has(store: Store) -> None:
    first, second = store.add(0.9), store.add(0.8)
    store.promote(first)
    store.promote(second)
    for name, run_id in (
        (None, first), ("champion", first), ("1", first), ("2", second), ("catdog/2", second), ("catdog@champion", first),
        ("models:/catdog/2", second), ("models:/catdog@champion", first), (second, second), (f"runs:/{second}/model", second),
    ):  # fmt: skip
        uri, found, _ = resolve_model(store.client, "cats_vs_dogs", name)
        assert found == run_id, name
        assert uri.startswith("models:/")


@pytest.mark.parametrize("name", [None, "3", "challenger", "catdog/3", "nobody@champion", "0" * 32])
def test_a_model_that_is_not_there_is_said_with_what_is(store: Store, name: str | None) -> None:
    with pytest.raises(UserError, match=r"^model: no "):
        resolve_model(store.client, "cats_vs_dogs", name)


def test_a_champion_whose_run_is_gone_still_has_its_score(store: Store) -> None:
    first = store.add(0.8)
    store.promote(first)
    store.client.delete_run(first)
    store.client._tracking_client.store._hard_delete_run(first)  # as `mlflow gc` does
    assert store.promote(store.add(0.7)).is_champion is False
    assert store.promote(store.add(0.9)).is_champion is True


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
