"""Metrics other than the accuracy through the whole of catdog, on images of which one class has five times as many as the other."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from support import TINY, Catdog

import catdog
from catdog.registry.evidence import Evidence
from catdog.tracking.artifacts import load_history, load_predictions

DRAWN = ("train", "-m", "model=cnn,augmented", *TINY)
COUNTS = {"common": 150, "rare": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise pictures, the rare ones a little greener."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("imbalanced")
    for green, (name, count) in enumerate(COUNTS.items()):
        (root / "images" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(110, 60, (32, 32, 3)) + rng.normal(0, 15) + np.array([0, 30 * green, 0])
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(root / "images" / name / f"{number:03d}.png")
    return root


@pytest.fixture(scope="module")
def words(folder: Path, cache: Path) -> list[str]:
    return ["dataset=folder", f"dataset.archive={folder}/images", "dataset.holdout_fraction=0.5", "dataset.test_fraction=0.2",
            "preprocessing.image_size=32", "trainer.epochs=4", "trainer.keep_metric=auc", "promote.metric=auc",
            "trainer.class_weights=balanced", f"dataset.cache={cache}", f"tracking.artifacts={folder}/artifacts",
            f"tracking.outbox={folder}/outbox", f"hydra.sweep.dir={folder}/outputs"]  # fmt: skip


@pytest.fixture(scope="module")
def study(folder: Path) -> catdog.Study:
    return catdog.Study("imbalanced", tracking_uri=f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def trained(study: catdog.Study, words: list[str]) -> "catdog.sweeps.result.Sweep":
    return study.train("model=cnn", "trainer.learning_rate=0.01,0.0001", "seed=0,1", *words, quiet=True)


@pytest.mark.slow
def test_the_kept_epoch_is_the_best_by_the_metric(study, trained) -> None:
    assert trained.is_complete, trained.errors
    for run_id in trained.run_ids:
        run = mlflow.MlflowClient(study.tracking.uri).get_run(run_id)
        history = load_history(run.info.artifact_uri)
        predictions = load_predictions(run.info.artifact_uri)
        kept = int(run.data.metrics["kept_epoch"])
        assert kept == 1 + int(np.argmax(history["val/auc"]))
        assert run.data.metrics["best_val_accuracy"] == pytest.approx(history.at(kept, "val/accuracy"))
        area = roc_auc_score(predictions.label_indices, predictions.probabilities[:, 1])
        # The saved model is the same network in float32.
        assert history.at(kept, "val/auc") == pytest.approx(area, abs=0.02)


@pytest.mark.slow
def test_runs_are_compared_by_any_metric(study, trained, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "costs.csv").write_text("common,rare\n0,1\n5,0\n")
    (folder / "mine.py").write_text(
        "def error(labels, probabilities):\n    return probabilities.argmax(axis=1) != labels\n\n\nerror.lower_is_better = True\n"
    )
    by_run = {run_id: load_predictions(mlflow.MlflowClient(study.tracking.uri).get_run(run_id).info.artifact_uri)
              for run_id in trained.run_ids}  # fmt: skip
    plain = [balanced_accuracy_score(one.label_indices, one.predicted) for one in by_run.values()]
    for metric, margin in {"balanced_accuracy": None, "log_loss": None, "auc": None, "f1:rare": None, "cost:costs.csv": None,
                           "mine:error": 0.02}.items():  # fmt: skip
        compared = study.compare(metric=metric, margin=margin, gradcam="never")
        variants, (pair,) = compared.variants, compared.pairs.to_dict("records")
        assert set(variants["metric"]) == {metric}
        lower = metric in ("log_loss", "cost:costs.csv", "mine:error")
        assert variants["score"].is_monotonic_increasing if lower else variants["score"].is_monotonic_decreasing
        assert (variants["score_low"] <= variants["score"]).all()
        assert (variants["score"] <= variants["score_high"]).all()
        assert pair["score_difference"] == pytest.approx(variants["score"][0] - variants["score"][1])
        assert pair["low"] <= pair["score_difference"] <= pair["high"]
        assert pair["accuracy_difference"] == pytest.approx(
            variants["fair_val_accuracy"][0] - variants["fair_val_accuracy"][1]
        )
        assert ("lower is better" in compared.sentences[0]) == lower
        assert any("What is compared is fair" in text for text in compared.sentences)
        if metric == "balanced_accuracy":
            assert variants["score"].mean() == pytest.approx(np.mean(plain), abs=0.1)
    page = compared.save(folder / "page.html").read_text(encoding="utf-8")
    assert "What is compared is the error: lower is better" in page
    assert "the best epoch on the validation images by AUC" in page


@pytest.mark.slow
def test_the_balanced_accuracy_the_baseline_and_recalls_are_shown_unasked(study, trained, folder, catdog) -> None:
    compared = study.compare(gradcam="never")
    balanced = study.compare(metric="balanced_accuracy", gradcam="never").variants.set_index("variant")["score"]
    found = compared.variants.set_index("variant")["balanced_val_accuracy"]
    assert found.to_dict() == pytest.approx(balanced.to_dict())
    said = next(text for text in compared.sentences if "imbalanced" in text)
    assert "60 validation images of common, 12 of rare. Always answering common scores an accuracy of 83.3 %." in said
    assert f"{compared.variants['variant'][0]} {100 * compared.variants['balanced_val_accuracy'][0]:.1f} %" in said
    classes = compared.classes
    assert classes["class"].tolist() == ["common", "rare"] * 2
    assert classes["images"].tolist() == [60, 12] * 2
    assert (classes["low"] <= classes["recall"]).all()
    # The balanced accuracy is the mean of the recalls, but the random halves of the images do not have quite as many of each class.
    assert classes.groupby("variant")["recall"].mean().to_dict() == pytest.approx(balanced.to_dict(), abs=0.03)
    page = compared.save(folder / "page.html").read_text(encoding="utf-8")
    assert "balanced val %" in page
    assert "Recall by class" in page
    command = ("compare", "study=imbalanced", f"tracking.uri={study.tracking.uri}", "gradcam=never")
    done = catdog(*command, "format=json", "metric=brier")
    assert done.code == 0, done.text
    content = json.loads(done.out)
    assert (content["metric"], content["higher_is_better"], content["margin"]) == ("brier", False, 0.01)
    assert content["class_counts"] == {"common": 60, "rare": 12}
    assert len(content["classes"]) == 4
    shown = catdog(*command, "metric=auc")
    assert "balanced" in shown.out
    assert "difference in fair val AUC [95 %]" in shown.out


@pytest.mark.slow
def test_the_champion_is_chosen_by_the_metric(study, trained) -> None:
    client = mlflow.MlflowClient(study.tracking.uri, study.tracking.uri)
    version = client.get_model_version_by_alias("imbalanced", "champion")
    scores = study.compare(metric="auc", gradcam="never").analysis
    best = max(scores.ranked[0].records, key=lambda record: record.score_by(scores.metric).mean)
    assert version.run_id == best.run_id
    evidence = Evidence.from_tags(version.tags)
    assert evidence is not None
    assert evidence.moves


@pytest.mark.slow
def test_a_decision_goes_by_the_metric(study, trained, words) -> None:
    looked = study.decide(
        "model=cnn",
        "trainer.learning_rate=0.01,0.0001",
        *words,
        metric="log_loss",
        first_seeds=2,
        max_seeds=2,
        quiet=True,
    )
    (row,) = looked.describe()
    assert row["metric"] == "log_loss"
    assert looked.margin == 0.02
    assert row["low"] <= row["difference"] <= row["high"]
    compared = study.compare(metric="log_loss", gradcam="never").variants.set_index("variant")["score"]
    assert abs(row["difference"]) == pytest.approx(abs(compared.iloc[0] - compared.iloc[1]))


@pytest.mark.slow
def test_more_evidence_in_the_metric_is_needed_for_another_champion(study, trained, words) -> None:
    client = mlflow.MlflowClient(study.tracking.uri, study.tracking.uri)
    study.train(
        "model=cnn", "trainer.learning_rate=0.003", *words, "promote.metric=log_loss", "promote.margin=0.05", quiet=True
    )
    newest = max(client.search_model_versions("name = 'imbalanced'"), key=lambda version: int(version.version))
    evidence = Evidence.from_tags(newest.tags)
    assert evidence is not None
    assert evidence.metric == "log_loss"
    assert evidence.low <= evidence.difference <= evidence.high
    assert "log loss" in newest.description
    assert "nats" in newest.description
    # Lower is better.
    assert evidence.moves == (evidence.high < 0) or evidence.outcome == "calibration"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compare", "metric=acuracy"), "metric: must be accuracy, balanced_accuracy, log_loss, brier, auc, f1, top_5, f1:CLASS, "
         "cost:FILE, or your own as module:function, received 'acuracy'. Did you mean accuracy?"),
        (("compare", "metric=auc", "margin=1.5"), "margin: must be more than 0 and less than 1, received 1.5."),
        (("compare", "metric=mine:kappa"), "margin: must be given with metric=mine:kappa"),
        (("compare", "metric=cost:"), "metric: must be accuracy"),
        (("decide", "model=cnn,augmented", "metric=aucc"), "metric: must be accuracy"),
        (("decide", "experiment=quickstart", "metric=top_5"), "metric: top_5 needs more than 5 classes, and there are 2."),
        (("train", "-m", "model=cnn,augmented", "trainer.keep_metric=log-loss"), "trainer.keep_metric: must be one of accuracy, "
         "balanced_accuracy, log_loss, brier, auc, f1, top_5, received 'log-loss'. Did you mean log_loss?"),
        (("train", "-m", "model=cnn,augmented", "promote.metric=cost"), "promote.metric: must be accuracy"),
        ((*DRAWN, "trainer.keep_metric=top_5"), "trainer.keep_metric: top_5 needs more than 5 classes, and there are 2."),
        ((*DRAWN, "promote.metric=cost:nowhere.csv"), "promote.metric: nowhere.csv: there is no such file."),
        ((*DRAWN, "promote.metric=f1:birds"), "promote.metric: f1:birds must name one of the classes cats, dogs."),
    ],
)  # fmt: skip
def test_a_wrong_metric_is_named_before_anything_is_trained(
    catdog: Catdog, arguments: tuple[str, ...], said: str
) -> None:
    done = catdog(*arguments)
    assert done.code == 2, done.text
    assert said in " ".join(done.text.split())
    assert "Traceback" not in done.text
