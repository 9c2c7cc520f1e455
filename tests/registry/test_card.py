"""The model card: what is on record about a model, and nothing else."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import compose_config

from catdog.data.predictions import Predictions
from catdog.registry import card as cards
from catdog.registry.card import name_file, write_card
from catdog.registry.champion import promote
from catdog.registry.evidence import Evidence, Reason
from catdog.registry.ledger import digest_test, open_look
from catdog.statistics.proportions import wilson_interval
from catdog.tracking.records import get_run

CLASSES = ["cats", "dogs"]


def record(stored, name: str, wrong: int, seed: int = 0) -> str:
    """Stores with a run what a trained one has: 40 val answers, `wrong` of which are wrong, the first the most confident."""
    run_id, client = stored.runs[name], stored.client
    files = [f"{kind}/<{number}>.jpg" for kind in CLASSES for number in range(20)]
    labels = np.repeat(CLASSES, 20)
    right = np.arange(40) >= wrong
    of_label = np.where(right, 0.9, 0.02 + 0.01 * np.arange(40))
    cats = np.where(labels == "cats", of_label, 1 - of_label)
    answers = pd.DataFrame({"file": files, "label": labels, "cats": cats, "dogs": 1 - cats})
    client.log_text(run_id, answers.to_csv(index=False), "predictions/val.csv")
    split = pd.DataFrame({"file": files, "label": labels, "split": "val", "sha256": [f"{n:064x}" for n in range(40)]})
    others = [
        pd.DataFrame(
            {"file": [f"{part}{n}" for n in range(count)], "label": "cats", "split": part, "sha256": f"{count:064x}"}
        )
        for part, count in (("train", 1234), ("test", 8))
    ]
    client.log_text(run_id, pd.concat([split, *others]).to_csv(index=False), "split.csv")
    tags = {"data_digest": "d" * 64, "classes": "cats,dogs", "model_uri": "models:/m-1", "variant": name,
            "variant_digest": name, "majority_fraction": "0.5"}  # fmt: skip
    for key, value in tags.items():
        client.set_tag(run_id, f"catdog.{key}", value)
    for key, value in {"trainer.keep": "last", "seed": seed, "preprocessing.image_size": 48, "backbone.weights": "imagenet",
                       "backbone.application": "MobileNetV2"}.items():  # fmt: skip
        client.log_param(run_id, key, value)
    client.log_metric(run_id, "final_val_accuracy", 1 - wrong / 40)
    client.log_metric(run_id, "final_val_loss", 0.5)
    return run_id


def text_of(html: str) -> str:
    """Returns a page's text, each run of blanks as one."""
    body = html[html.index("<body>") :]
    return " ".join(re.sub(r"<[^>]*>", " ", body).replace("\N{NO-BREAK SPACE}", " ").split())


def read_card(stored, name: str, version: str, model: str = "catdog") -> str:
    return (stored.artifacts(name) / name_file(model, version)).read_text("utf-8")


@pytest.fixture
def config():
    return replace(compose_config().promote, registered_model="catdog", metric="accuracy")


def test_every_registered_version_gets_a_card_from_the_records(stored, config, monkeypatch) -> None:
    monkeypatch.setattr(
        "catdog.registry.champion.find_model_address", lambda *_: stored.artifacts("augmented").as_uri()
    )
    record(stored, "cnn", wrong=12)
    record(stored, "augmented", wrong=1)
    stored.client.set_model_version_tag("catdog", "1", "catdog.data_digest", "d" * 64)
    (promotion,) = promote(stored.client, config, [stored.runs["augmented"]])
    assert (promotion.version, promotion.is_champion) == ("2", True)
    html = read_card(stored, "augmented", "2")
    text = text_of(html)
    low, high = wilson_interval(39, 40)
    for words in (
        "catdog version 2", f"97.5 % on 40 validation images, 95% interval {100 * low:.1f} to {100 * high:.1f} %",
        "When this card was written, it was champion", "all 1,234 40 8", "d" * 64,
        "better : better than the champion", "version 1 of catdog, the champion of that time", "augmented, seed 0", "cnn, seed 0",
        "MobileNetV2, imagenet. Their licence is not recorded: unknown.", "cats/&lt;0&gt;.jpg cats dogs 98.0",
        "Of 1 wrong answer to validation images", "the ledger of this store has no look at its test images",
        "Test accuracy: not measured",
        "FOLDER model=catdog/2", 'mlflow.pyfunc.load_model("models:/catdog/2")', "calibration error",
    ):  # fmt: skip
        assert words in text, words
    # Self-contained, and no name is taken for markup.
    assert not re.search(r"<(script|link|img)|https?://", html)
    assert "<0>" not in html
    version = stored.client.get_model_version("catdog", "2")
    assert version.description.startswith("**better**")
    (line,) = [line for line in version.description.splitlines() if line.startswith("Model card:")]
    assert "trained on 1,234 images of 2 classes (cats, dogs), val accuracy 97.5" in line
    assert "All of it: model_cards/catdog-2.html among the artifacts of its run, augmented." in line
    # The command and the API have the same, also for a model that is named by its run.
    assert text_of(stored.study.card("catdog/2").html) == text
    done = stored.run("card", "study=pets", "output=page.html", f"model={stored.runs['cnn']}")
    assert done.code == 0, done.text
    assert "open page.html" in done.out
    assert "no version of a registered model is meant" in text_of((stored.folder / "page.html").read_text("utf-8"))


def test_a_later_look_is_added_and_the_description_does_not_grow(stored) -> None:
    run_id = record(stored, "cnn", wrong=4)
    stored.client.update_model_version("catdog", "1", "**first**: why.\n\nTwo lines\nof mine.")
    write_card(stored.client, "catdog", "1")
    split = pd.read_csv(stored.artifacts("cnn") / "split.csv")
    with open_look(stored.client, digest_test(split), study="pets", model="catdog version 1", model_uri="", run_id=run_id,
                   command="evaluate") as look:  # fmt: skip
        look.record({"test/accuracy": 0.875})
    cards.write_cards_of(stored.client, run_id)
    text = text_of(read_card(stored, "cnn", "1"))
    assert "its test images were looked at 1 time" in text
    assert "catdog version 1 (this model) 87.5" in text

    def describe() -> str:
        return stored.client.get_model_version("catdog", "1").description

    description = describe()
    assert description.startswith("**first**: why.\n\nTwo lines\nof mine.\n\nModel card: ")
    assert description.count("Model card:") == 1
    assert description.endswith("\n\nTest split: this was look 1 at its images, of all models together.")
    cards.write_cards_of(stored.client, run_id)
    assert describe() == description
    with open_look(stored.client, digest_test(split), study="pets", model="catdog version 1", model_uri="", run_id=run_id,
                   command="evaluate") as look:  # fmt: skip
        look.record({"test/accuracy": 0.875})
    cards.write_cards_of(stored.client, run_id)
    assert describe() == description.replace("look 1", "look 2")


def test_each_version_of_a_run_has_a_card_of_its_own(stored) -> None:
    run_id = record(stored, "cnn", wrong=4)
    stored.client.create_registered_model("best of pets")
    stored.client.create_model_version("best of pets", stored.artifacts("cnn").as_uri(), run_id=run_id)
    cards.write_cards_of(stored.client, run_id)
    assert "<h1>catdog version 1</h1>" in read_card(stored, "cnn", "1")
    other = read_card(stored, "cnn", "1", "best of pets")
    assert "<h1>best of pets version 1</h1>" in other
    # A name with a blank is one word in the shell.
    assert "FOLDER &#39;model=best of pets/1&#39;" in other
    assert 'load_model("models:/best of pets/1")' in other
    for model in ("catdog", "best of pets"):
        description = stored.client.get_model_version(model, "1").description
        assert f"All of it: model_cards/{model}-1.html among" in description


def change(stored, name: str, *, tags=(), params=(), answers=None):
    """Returns the card of a recorded run, some of whose records are other ones."""
    run_id = record(stored, name, wrong=4)
    for key, value in dict(tags).items():
        stored.client.set_tag(run_id, f"catdog.{key}", value)
    for key, value in dict(params).items():
        stored.client.log_param(run_id, key, value)
    if answers is not None:
        stored.client.log_text(run_id, answers.to_csv(index=False), "predictions/val.csv")
    return stored.study.card("catdog/1")


def test_a_look_that_this_ledger_does_not_have_is_not_denied(stored) -> None:
    card = change(stored, "cnn", tags={"test_looks": "3"})
    assert "Its run has a look on record, but the ledger of this store has none at its test images." in text_of(
        card.html
    )
    unknown = replace(card, looks=None, run=get_run(stored.client, stored.runs["augmented"]))
    assert "Whether its test images were looked at is not recorded." in text_of(unknown.html)


def test_own_code_may_have_loaded_weights(stored) -> None:
    card = change(stored, "cnn", params={"backbone.builder": "mine:build"})
    assert card.weights == "not recorded: it was built by own code"


def test_class_names_with_commas_stay_whole(stored) -> None:
    answers = pd.DataFrame({"file": ["a.jpg"], "label": ["cats, big"], "cats, big": [0.9], "dogs": [0.1]})
    card = change(stored, "cnn", tags={"classes": "cats, big,dogs"}, answers=answers)
    assert card.class_names == ["cats, big", "dogs"]
    empty = replace(card, predictions=Predictions.empty(), metadata={"class_names": ["cats, big", "dogs"]})
    assert empty.class_names == ["cats, big", "dogs"]


def test_what_a_model_cannot_tell_or_needs_is_said(stored) -> None:
    answers = pd.DataFrame({"file": ["a.jpg"], "label": ["birds"], "cats": [0.9], "dogs": [0.1]})
    card = change(stored, "cnn", answers=answers)
    text = text_of(replace(card, metadata={"needs": ["mine"]}).html)
    assert "It confuses no classes" not in text
    assert "Not recorded: there are validation images of classes that it does not know." in text
    assert "It needs code of its own, mine: modules are saved with it" in text


def test_intervals_of_grouped_images_are_over_groups(stored) -> None:
    card = change(stored, "cnn")
    alone = card.recalls
    assert alone[0].interval == pytest.approx(wilson_interval(16, 20))
    # Ten images of each group are right or wrong together.
    grouped = replace(card, groups=np.arange(40) // 4)
    assert "on 40 validation images in 10 groups, 95% interval" in grouped.accuracy_words
    assert grouped.accuracy_note == "The interval is over groups of images alone: this is one model."
    low, high = grouped.recalls[0].interval
    assert high - low > alone[0].interval[1] - alone[0].interval[0]
    text = text_of(grouped.html)
    assert "95% intervals over groups of images, each for its class alone" in text
    assert "It takes images for independent draws, although they come in groups: it may be too narrow." in text


def test_the_sides_of_a_choice_are_named_as_far_as_they_are_recorded(stored) -> None:
    client = stored.client
    first, second = record(stored, "cnn", wrong=4), stored.runs["augmented"]
    client.set_tag(second, "catdog.variant", "cnn")

    def describe(*run_ids: str) -> str:
        return cards._describe_runs(client, run_ids)

    assert describe(first, second) == "cnn, seeds 0 and not recorded"
    assert describe(first, "0" * 32, "1" * 32) == "cnn, seed 0, and 2 runs that the store no longer has"
    client.set_tag(second, "catdog.ensemble_of", json.dumps({first: "cnn seed=0"}))
    client.set_tag(second, "catdog.variant", "ensemble of cnn, seeds 0, 1")
    assert describe(second) == "ensemble of cnn, seeds 0, 1"
    # A later version of the champion's run says nothing about which one was compared with.
    client.create_model_version("catdog", stored.artifacts("augmented").as_uri(), run_id=second)
    client.create_model_version("catdog", stored.artifacts("cnn").as_uri(), run_id=first)
    evidence = Evidence(Reason.NOT_BETTER, "it is not", champion_runs=(first,))
    assert cards._describe_sides(client, evidence, client.get_model_version("catdog", "2"))[1] == "version 1"


def test_what_is_not_recorded_is_called_so(stored) -> None:
    text = text_of(stored.study.card("catdog/1").html)
    assert "Val accuracy: not recorded" in text
    assert "pretrained weights not recorded" in text
    assert "first : there was no champion to compare with" in text
    assert "Its answers to the validation images are not recorded" in text


@pytest.mark.parametrize("broken", ["predictions", "artifacts"])
def test_a_card_that_fails_does_not_fail_the_promotion(stored, config, monkeypatch, caplog, broken: str) -> None:
    monkeypatch.setattr("catdog.registry.champion.find_model_address", lambda *_: stored.artifacts("cnn").as_uri())
    run_id = record(stored, "cnn", wrong=4)
    if broken == "predictions":
        monkeypatch.setattr(cards, "load_card", lambda *_: json.loads("{"))
    else:
        monkeypatch.setattr(
            type(stored.client), "log_text", lambda *_: (_ for _ in ()).throw(OSError("the disk is full"))
        )
    (promotion,) = promote(stored.client, replace(config, registered_model="other"), [run_id])
    assert promotion.is_champion
    assert "other version 1 has no model card:" in caplog.text
    stored.client.update_model_version("other", "1", "Model card: an older one.")
    write_card(stored.client, "other", "1")
    assert "the model card of other version 1 was not updated:" in caplog.text


def test_a_model_that_is_none_and_a_place_that_is_none(stored) -> None:
    for arguments, words in (
        (("output=card.pdf",), "output: must be a file name ending in .html or .htm, received 'card.pdf'."),
        (("output=none/card.html",), "output: no folder 'none'"),
        (("model=catdog/7",), "model: catdog has no version '7', received model=catdog/7; it has version 1"),
    ):
        done = stored.run("card", "study=pets", *arguments)
        assert done.code == 2
        assert words in " ".join(done.err.split())
    assert not list(Path(stored.folder).glob("*.html"))


def test_a_card_needs_no_tensorflow(stored) -> None:
    program = (
        "import sys; from catdog import Study; Study('pets').card('catdog/1').html; "
        "assert 'keras' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=stored.folder, capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(Path(cards.__file__).parents[2]), "PATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
