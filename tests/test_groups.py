"""A folder in which each drawn scene is there four times, slightly shifted: from splits to promotion, with its groups."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from support import Catdog

import catdog
from catdog.data.groups import code_groups
from catdog.data.handout import Split
from catdog.data.synthetic import draw_animal
from catdog.registry.evidence import Evidence
from catdog.tracking.records import get_run

SCENES, VERSIONS = 16, 4
PATTERN = r"[^/]+/scene_\d+"
DATA = ("dataset=folder", "dataset.archive=scenes", "dataset.holdout_fraction=0.6", f"dataset.groups='{PATTERN}'")
UNNAMED = ("dataset=folder", "dataset.archive=given", "dataset.near_duplicates=ignore")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `scenes`, with 16 scenes of cats and 16 of dogs."""
    root = tmp_path_factory.mktemp("drawn") / "scenes"
    generator = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (root / f"{kind}s").mkdir(parents=True)
        for scene in range(SCENES):
            image = draw_animal(kind, generator, 100, 100)
            for version in range(VERSIONS):
                left, top = generator.integers(0, 5, 2).tolist()
                image.crop((left, top, left + 96, top + 96)).save(root / f"{kind}s" / f"scene_{scene}_{version}.jpg")
    return root


@pytest.fixture
def folder(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, empty_store: Path) -> Path:
    """A working folder with these images: in `scenes`, and in `given` with folders for the splits."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    (tmp_path / "scenes").symlink_to(drawn)
    for file in drawn.glob("*/*.jpg"):
        scene = int(file.stem.split("_")[1])
        split = "train" if scene < 3 else "test" if scene < 5 else "validation"
        place = tmp_path / "given" / split / file.parent.name / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATDOG_CACHE", str(cache))
    return tmp_path


@pytest.fixture
def study(folder: Path) -> catdog.Study:
    return catdog.Study("scenes", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")


def scene_of(file: str) -> str:
    found = re.search(PATTERN, file)
    assert found
    return found[0]


def answer(val: Split, files: list[str], wrong: float, seed: int) -> np.ndarray:
    """Probabilities of a model that is wrong about whole scenes, as often as it says."""
    scenes = sorted({scene_of(file) for file in files})
    # Which scenes are hard is the same for all seeds but one scene.
    chosen = [*scenes[:: max(1, round(1 / wrong))], scenes[seed % len(scenes)]]
    right = np.array([scene_of(file) not in chosen for file in files])
    return np.where(np.arange(2) == np.where(right, val.labels, 1 - val.labels)[:, None], 0.9, 0.1)


def record(study: catdog.Study, data: tuple[str, ...], variant: str, wrong: float, seed: int) -> str:
    val = study.split("val", dataset=list(data))
    files = [Path(file).as_posix() for file in val.files]
    with study.record(variant, seed, dataset=list(data)) as run:
        run.log_validation(val.files, val.labels, answer(val, files, wrong, seed))
    return str(run.run_id)


@pytest.mark.nightly
def test_recorded_runs_are_compared_by_group_and_decided_by_group(study: catdog.Study) -> None:
    for variant, wrong in (("good", 0.1), ("bad", 0.4)):
        for seed in range(3):
            run_id = record(study, DATA, variant, wrong, seed)
    client = mlflow.MlflowClient(study.tracking.uri, study.tracking.uri)
    stored = get_run(client, run_id)
    splits = stored.load_splits()
    assert stored.groups == PATTERN
    assert set(splits.groupby("group")["split"].nunique()) == {1}
    assert set(splits["group"]) == set(map(scene_of, splits["file"]))

    found = study.compare(gradcam="never")
    compared = found.analysis.comparison
    images, groups = compared.val_images, compared.val_groups
    assert groups == images // VERSIONS
    plain = found.analysis.variants[0].right.mean()
    assert found.variants.set_index("variant").loc["good", "kept_val_accuracy"] == pytest.approx(plain)
    assert set(found.pairs["groups"]) == set(found.variants["val_groups"]) == {groups}
    assert found.to_dict()["val_groups"] == groups
    shown = f"{images} validation images in {groups} groups"
    assert shown in " ".join(found.sentences)
    assert f"as dataset.groups={PATTERN} names them" in " ".join(found.sentences)
    page = found.save("page.html").read_text()
    assert f"in {groups} groups" in page
    # Whole scenes are wrong: by image the interval would be half as wide.
    low, high = found.analysis.variants[0].interval
    once = np.unique(compared.groups_of_outcomes, return_index=True)[1]
    by_scene = catdog.statistics.contrasts.accuracy_interval(found.analysis.variants[0].right[:, once])
    assert (low, high) == pytest.approx(by_scene)
    # A single run too.
    assert study.compare(runs=[run_id], gradcam="never").analysis.variants[0].interval[1] - found.runs[
        "fair_val_high"
    ].iloc[-1] == pytest.approx(0)

    decision = study.decide(
        train={name: lambda seed, name=name, wrong=wrong: record(study, DATA, name, wrong, seed)
               for name, wrong in (("good", 0.1), ("bad", 0.4))},
        max_seeds=3, quiet=True,
    )  # fmt: skip
    assert decision.pairs[0].found is not None
    assert decision.pairs[0].found.groups == groups


def test_images_that_belong_together_are_noticed_where_nobody_named_groups(study: catdog.Study) -> None:
    for seed in range(3):
        record(study, UNNAMED, "net", 0.4, seed)
    (warning,) = study.compare(gradcam="never").warnings
    assert "Images that follow each other in the order of their names are right or wrong together" in warning
    assert "name the groups: dataset.groups" in warning
    found = study.audit(*UNNAMED)
    alike = [finding for finding in found.found if finding.kind == "alike"]
    assert all(finding.severity == "warning" for finding in alike)
    assert "in the order of their names" in alike[0].words
    # The shifted versions of a scene are near-duplicates, most of them.
    assert "that are near-duplicates are right or wrong together" in alike[1].words
    # Of another study there are no answers.
    other = catdog.Study("other", tracking_uri=study.tracking.uri).audit(*UNNAMED)
    assert "alike" not in {finding.kind for finding in other.found}


def test_near_duplicates_that_the_splitter_kept_together_are_the_groups_of_intervals(study: catdog.Study) -> None:
    record(study, DATA[:-1], "net", 0.4, 0)
    found = study.compare(gradcam="never")
    compared = found.analysis.comparison
    assert compared.val_groups is not None
    assert compared.val_groups < compared.val_images
    assert "the near-duplicates that were kept in one split" in " ".join(found.sentences)


@pytest.mark.slow
def test_train_compare_audit_evaluate_and_promotion_go_by_groups(catdog: Catdog, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "scenes")
    words = [*DATA, "study=scenes", "preprocessing.image_size=32", "trainer.batch_size=16", "trainer.epochs=1"]
    trained = catdog("train", "-m", "model=cnn", *words)
    assert trained.code == 0, trained.text
    assert "128 images in 32 groups by dataset.groups=" in trained.text
    again = catdog("train", "-m", "model=cnn", "head.dropout=0.1", *words)
    assert again.code == 0, again.text

    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    client = mlflow.MlflowClient(uri, uri)
    versions = client.search_model_versions("name='scenes'")
    evidence = [Evidence.from_tags(version.tags) for version in versions]
    weighed = next(one for one in evidence if one is not None and one.difference is not None)
    assert weighed.groups == weighed.images // VERSIONS
    assert f"val images in {weighed.groups} groups" in weighed.words
    assert f"{weighed.images} images in {weighed.groups} groups" in weighed.description

    compared = catdog("compare", "study=scenes", "gradcam=never")
    assert f"{weighed.images} validation images in {weighed.groups} groups" in compared.out
    runs = ",".join(version.run_id for version in versions)
    planned = catdog("ensemble", "study=scenes", f"runs=[{runs}]", "plan_only=true", "format=json")
    assert json.loads(planned.out)["val_groups"] == weighed.groups
    looked = catdog("evaluate", "study=scenes")
    assert looked.code == 0, looked.text
    assert re.search(r"of \d+ images in \d+ groups\)", looked.out)
    audited = catdog("audit", *DATA, "study=scenes")
    assert audited.code == 0, audited.text
    assert "128 images in 32 groups by dataset.groups=" in audited.out


def test_groups_are_coded_by_first_appearance() -> None:
    codes = code_groups(["b", "a", "b"])
    assert codes is not None
    assert codes.tolist() == [0, 1, 0]
    assert code_groups(["b", "a"]) is None
    assert code_groups([]) is None
