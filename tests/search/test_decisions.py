import json
import math

import numpy as np
import pytest
from support import TINY, Study, run_catdog

from catdog.decide import split_arguments
from catdog.search.decisions import Pair
from catdog.statistics.contrasts import contrast
from catdog.statistics.judgements import Judgement
from catdog.system.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize(
    "variants",
    [("cnn", "augmented"), pytest.param(("cnn", "augmented", "preprocessed"), marks=pytest.mark.nightly)],
    ids=len,
)
def test_rounds_train_what_is_undecided_and_reuse_the_rest(tmp_path, cache, variants):
    import mlflow

    tiny = [item for item in TINY if "validation" not in item]
    command = (
        "decide", f"model={','.join(variants)}", *tiny, "dataset.drawing.validation_per_class=120",
        "study=decided", "first_seeds=2", "max_seeds=3", "margin=0.001", "error=0.2",
    )  # fmt: skip
    done = run_catdog(tmp_path, cache, *command)
    assert done.code == 0, done.text
    assert "round 1 of at most 2: 2 seeds of all variants" in done.out
    client = mlflow.MlflowClient(Study(tmp_path, cache, done).uri)
    (experiment,) = [item for item in client.search_experiments() if item.name == "decided"]
    sweeps = client.search_runs(
        [experiment.experiment_id], "tags.`catdog.kind` = 'sweep'", order_by=["attributes.start_time ASC"]
    )
    decisions = [json.loads(sweep.data.tags["catdog.decision"])["pairs"] for sweep in sweeps]
    assert len(decisions[0]) == math.comb(len(variants), 2)
    still = [pair for pair in decisions[0] if pair["outcome"] == "undecided"]
    undecided = [
        name for name in variants if name in {variant for pair in still for variant in (pair["first"], pair["second"])}
    ]
    assert len(sweeps) == (2 if undecided else 1)
    # The second round reuses the first one's runs: there is one of each.
    runs = client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'run'")
    assert sorted(run.info.run_name for run in runs) == sorted(
        f"{name} seed={seed}" for name in variants for seed in range(3 if name in undecided else 2)
    )
    # What was decided stays as it was when it was decided.
    assert [pair for pair in decisions[0] if pair["outcome"] != "undecided"] == [
        pair for pair in decisions[-1] if pair["seeds"] == 2 and pair["outcome"] != "undecided"
    ]
    if undecided:
        assert f"round 2 of at most 2: 3 seeds of {', '.join(undecided)}" in done.out
    assert all("result_file" not in sweep.data.tags["catdog.command"] for sweep in sweeps)
    assert f"sweep={sweeps[-1].info.run_id}" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("model=cnn",), 2, "a comparison needs two variants or more, received model=cnn."),
        (("model=cnn,augmented", "seed=0,1"), 2, "seed: set by this command, received 'seed=0,1'"),
        (("model=cnn,augmented", "max_seeds=2"), 2, "max_seeds: must be first_seeds (3) or more, received 2"),
        (("model=cnn,augmented", "first_seeds=1"), 2, "first_seeds: must be 2 or more, received 1"),
        (("model=cnn,augmented", "margin=2"), 2, "margin: must be more than 0 and less than 1, received 2.0"),
        (("model=cnn,augmented", "error=0"), 2, "error: must be more than 0 and at most 0.5"),
        (("model=cnn,agmented",), 2, "model=agmented: no such option"),
        (("model=cnn,augmented", "max_seed=3"), 2, "max_seed: no such key"),
    ],
)
def test_mistakes_are_said_in_one_message(catdog, arguments, code, said):
    done = catdog("decide", *arguments)
    assert done.code == code, done.text
    assert said in " ".join(done.text.split())
    assert "Traceback" not in done.text


def test_arguments_are_shared_out():
    own, rest = split_arguments(
        ["-m", "model=cnn,augmented", "margin=0.1", "trainer.epochs=2", "max_seeds=4", "--help"]
    )
    assert own == ["margin=0.1", "max_seeds=4", "--help"]
    assert rest == ["model=cnn,augmented", "trainer.epochs=2"]
    with pytest.raises(UserError, match=r"hydra\.launcher\.plan_only"):
        split_arguments(["hydra.launcher.plan_only=true"])


@pytest.mark.parametrize(
    ("outcome", "interval", "words"),
    [
        (Judgement.BETTER, (0.02, 0.05), "a is better by at least 2.0 points"),
        (Judgement.WORSE, (-0.05, -0.02), "b is better by at least 2.0 points"),
        (Judgement.EQUIVALENT, (-0.004, 0.012), "no difference of more than 1.2 points"),
        (Judgement.FUTILE, (-0.1, 0.1), "cannot be decided by more seeds: 10 images are too few"),
    ],
)
def test_decisions_in_words(outcome, interval, words):
    found = contrast(np.ones((2, 10)), np.ones((2, 10)))
    pair = Pair("a", "b", outcome, 3, found, interval)
    assert pair.words.replace("\N{NO-BREAK SPACE}", " ") == words
    assert not pair.is_open
