"""The Python API: training, plans and decisions, as a script or a notebook calls them."""

import gc
import os
import signal
import sys
import time
from pathlib import Path

import mlflow
import pytest
from support import PROJECT, TINY, start_python

import catdog

pytestmark = pytest.mark.slow

# No `if __name__ == "__main__"`: a script's first lines must not have to know of processes.
SCRIPT = """
import sys
import catdog

study = catdog.Study("scripted", tracking_uri=sys.argv[1])
print("begun", flush=True)
sweep = study.train("model=cnn", f"trainer.epochs={sys.argv[2]}", *sys.argv[3:])
print(sweep.outcomes["outcome"].tolist(), flush=True)
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('api')}/mlflow.db"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> list[str]:
    """What every call below says of its data and its place."""
    folder = tmp_path_factory.mktemp("api-runs")
    return [*TINY, f"dataset.cache={cache}", f"tracking.artifacts={folder}/artifacts", f"tracking.outbox={folder}/outbox",
            f"hydra.sweep.dir={folder}/outputs"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(uri: str, words: list[str]) -> "catdog.sweeps.result.Sweep":
    return catdog.Study("api", tracking_uri=uri).train("model=cnn,augmented", *words, quiet=True, n_jobs=2)


def test_a_sweep_is_trained_and_then_planned_as_reused(uri, words, trained, capfd) -> None:
    assert trained.is_complete
    assert trained.errors == {}
    outcomes = trained.outcomes
    assert outcomes["run"].tolist() == ["cnn", "augmented"]
    assert outcomes["outcome"].tolist() == ["finished", "finished"]
    assert outcomes["val_accuracy"].between(0, 1).all()
    assert outcomes["run_id"].tolist() == trained.run_ids
    study = catdog.Study("api", tracking_uri=uri)
    plan = study.plan("model=cnn,augmented", "seed=0,1", *words)
    assert plan["run"].tolist() == ["cnn seed=0", "cnn seed=1", "augmented seed=0", "augmented seed=1"]
    assert plan["plan"].tolist() == ["reuse", "run", "reuse", "run"]
    assert plan["run_id"].tolist()[::2] == trained.run_ids
    again = study.train("model=cnn,augmented", *words, quiet=True)
    assert again.outcomes["outcome"].tolist() == ["reused", "reused"]
    assert again.sweep_id == trained.sweep_id
    # Quiet is quiet: below the commands nothing prints.
    assert capfd.readouterr().out == ""


def test_results_show_themselves_in_a_few_lines(uri, words, trained) -> None:
    shown = repr(trained).splitlines()
    assert shown[0] == f"Sweep(2 of 2 runs finished, sweep_id={trained.sweep_id!r})"
    assert shown[1].split() == ["run", "outcome", "val_accuracy", "best_val_accuracy"]
    assert [line.split()[:2] for line in shown[2:]] == [["cnn", "finished"], ["augmented", "finished"]]
    assert f"{trained.outcomes['val_accuracy'][0]:.3f}" in shown[2]
    html = trained._repr_html_()
    assert "finished" in html
    assert trained.run_ids[0] not in html
    assert len(repr(trained.result)) < 2000
    study = catdog.Study("api", tracking_uri=uri)
    one = study.train("model=cnn", *words, quiet=True)
    accuracy = one.outcomes["val_accuracy"][0]
    assert repr(one) == f"Sweep(cnn: reused, val accuracy {accuracy:.3f}, run_id={one.run_ids[0]!r})"
    deletion = repr(study.plan_deletion(run=one.run_ids[0])).splitlines()
    assert deletion[:2] == ["Deletion, not carried out:", f"run cnn ({one.run_ids[0]}) of the study 'api'"]
    assert repr(study.split("val")) == "Split('val': 32 images of 2 classes)"
    with study.look(one.run_ids[0]) as look:
        assert repr(look) == f"OpenLook(look 1, open, run_id={one.run_ids[0]!r})"
    findings = study.audit(*(word for word in words if word.startswith("dataset")))
    assert repr(findings).startswith("DatasetFindings('synthetic': ")
    assert len(repr(findings)) < 2000


def test_the_process_is_left_as_it_was(uri, words, trained) -> None:
    before = (gc.isenabled(), gc.get_freeze_count(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
              os.environ.get("TMPDIR"), sys.modules["__main__"], mlflow.get_tracking_uri())  # fmt: skip
    catdog.Study("left alone", tracking_uri=uri).train("model=cnn", *words, quiet=True)
    after = (gc.isenabled(), gc.get_freeze_count(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
             os.environ.get("TMPDIR"), sys.modules["__main__"], mlflow.get_tracking_uri())  # fmt: skip
    assert after == before
    assert "tensorflow" not in sys.modules or before[4] is after[4]


def test_a_mistake_is_a_user_error_that_names_the_key(uri, words) -> None:
    study = catdog.Study("mistakes", tracking_uri=uri)
    for overrides, said in [
        (("model=nope",), "model=nope: no such option; allowed: "),
        (("trainer.epochs=0",), "trainer.epochs: must be 1 or more, or 0 where trainer.images_seen is set, received 0"),
        (("trainer.epoch=1",), "Did you mean trainer.epochs"),
        (("seed=0", "seed=1,"), "cannot read"),
    ]:
        with pytest.raises(catdog.UserError, match=said):
            study.plan(*words, *overrides)
    with pytest.raises(catdog.UserError, match="n_job: no such option of a sweep"):
        study.train("model=cnn", *words, n_job=2)
    with pytest.raises(catdog.UserError, match="a comparison needs two variants or more"):
        study.decide("model=cnn", *words)
    with pytest.raises(catdog.UserError, match="study: must be a name without slashes"):
        catdog.Study("a/b")


def test_a_run_that_fails_is_in_the_outcomes(uri, words) -> None:
    sweep = catdog.Study("failing", tracking_uri=uri).train(
        "model=cnn", "trainer.learning_rate=1e39,0.001", *words, quiet=True
    )
    assert sweep.outcomes["outcome"].tolist() == ["failed", "finished"]
    assert not sweep.is_complete
    assert "the loss became" in sweep.errors["cnn learning_rate=1e+39"]
    assert "the loss became" in repr(sweep)


@pytest.mark.nightly
def test_rounds_decide(uri, words) -> None:
    decision = catdog.Study("rounds", tracking_uri=uri).decide(
        "model=cnn,drawn_mini", *words, margin=0.3, error=0.5, first_seeds=2, max_seeds=2, quiet=True
    )
    frame = decision.to_frame()
    assert list(frame[["first", "second", "seeds"]].iloc[0]) == ["cnn", "drawn_mini", 2]
    assert frame["low"][0] <= frame["difference"][0] <= frame["high"][0]
    assert frame["words"][0]
    shown = repr(decision).splitlines()
    assert shown[0] == f"Decision('rounds', 2 seeds, sweep_id={decision.sweep_id!r})"
    assert shown[1] == f"  cnn \N{MINUS SIGN} drawn_mini: {frame['words'][0]}"
    assert "<table" in decision._repr_html_()


@pytest.mark.nightly
def test_a_look_of_compare_leaves_decide_less_error(uri, words, caplog: pytest.LogCaptureFixture) -> None:
    study = catdog.Study("looks", tracking_uri=uri)
    variants = ("model=cnn,drawn_mini", *words)
    options = {"margin": 0.3, "error": 0.5, "first_seeds": 2, "max_seeds": 2, "quiet": True}
    planned = study.decide(*variants, **options, plan=True)
    assert [(row["images"], row["seeds"]) for row in planned.describe_plans()][:3] == [(32, 5), (32, 10), (32, 20)]
    first = planned.to_frame()
    assert planned.error == 0.5
    # Only a look at several seeds of each variant, with a verdict, counts; the same look twice counts once.
    for _ in range(2):
        study.compare(gradcam="never")
    with caplog.at_level("INFO"):
        again = study.decide(*variants, **options)
    assert again.error == pytest.approx(0.1)
    assert "compare has judged seeds of these variants before" in caplog.text
    assert again.to_frame()["low"][0] < first["low"][0]


def test_a_script_is_interrupted_and_goes_on(tmp_path, uri, words) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = (uri, "400", *(word for word in words if not word.startswith("trainer.ep")))
    process = start_python(tmp_path, str(script), *arguments, PYTHONPATH=str(PROJECT))
    assert process.stdout is not None
    seen = []
    deadline = time.monotonic() + 120
    for line in process.stdout:
        seen.append(line)
        if "epoch   2/400" in line or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in rest
    # The script ran once: its runs' processes did not import it.
    assert sum("begun" in line for line in seen) == 1
    plan = catdog.Study("scripted", tracking_uri=uri).plan("model=cnn", *words, "trainer.epochs=400")
    assert plan["plan"].tolist() == ["resume"]
    assert "interrupted after epoch" in plan["why"][0]
