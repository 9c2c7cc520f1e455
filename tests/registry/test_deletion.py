"""Deleting and restoring: what hangs on a run, a sweep, a study or a champion is shown, deleted, and put back."""

import os
import time

import pytest
from support import TINY

import catdog
from catdog.system import terminal
from catdog.tracking.outbox import entry_for


def test_without_a_terminal_nothing_is_deleted_and_it_is_said_how(stored) -> None:
    run = stored.runs["cnn"]
    done = stored.run("delete", f"run={run}")
    assert done.code == 2
    assert f"run cnn ({run}) of the study 'pets'" in done.out
    assert "catdog version 1 is the champion: the alias is removed, no other takes its place" in done.out
    assert f"sweep of 2 ({stored.runs['first']}) loses a run: compare gives no verdict on it" in done.out
    assert (
        f"nothing was deleted, because there is no terminal to ask in. To delete this: python -m catdog.delete run={run} yes=true"
        in done.err
    )
    assert not stored.is_deleted("cnn")
    assert stored.find_champion() == run


@pytest.mark.parametrize("answer", [True, False])
def test_with_a_terminal_it_asks(stored, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(terminal, "can_ask", lambda: True)
    monkeypatch.setattr(terminal, "ask", lambda question: answer)
    done = stored.run("delete", f"run={stored.runs['augmented']}")
    assert done.code == (0 if answer else 2), done.text
    assert ("Nothing was deleted." in done.out) is not answer
    assert stored.is_deleted("augmented") is answer


def test_a_run_is_deleted_and_restored_with_its_alias(stored) -> None:
    run = stored.runs["cnn"]
    done = stored.run("delete", f"run={run}", "yes=true")
    assert done.code == 0, done.text
    assert f"Deleted. To undo it: python -m catdog.restore run={run}" in done.out
    assert stored.is_deleted("cnn")
    assert stored.find_champion() is None
    again = stored.run("delete", f"run={run}", "yes=true")
    assert again.code == 2
    assert "is deleted already. Restore it: " in again.err
    done = stored.run("restore", f"run={run}")
    assert done.code == 0, done.text
    assert f"restored: run cnn ({run})\nrestored: catdog version 1, the champion\n" in done.out
    assert not stored.is_deleted("cnn")
    assert stored.find_champion() == run
    assert "is not deleted. Nothing was changed." in stored.run("restore", f"run={run}").err


def test_a_champion_of_a_later_time_stays(stored) -> None:
    stored.study.delete_run(stored.runs["cnn"], force=True)
    stored.client.create_model_version("catdog", "file:/nowhere", run_id=stored.runs["augmented"])
    stored.client.set_registered_model_alias("catdog", "champion", "2")
    assert stored.study.restore_run(stored.runs["cnn"]) == [f"run cnn ({stored.runs['cnn']})"]
    assert stored.find_champion() == stored.runs["augmented"]


def test_a_sweep_takes_its_runs_with_it_but_not_those_of_another_sweep(stored) -> None:
    done = stored.run("delete", f"sweep={stored.runs['first']}", "yes=true")
    assert done.code == 0, done.text
    assert "  stays, because another sweep has it too: augmented" in done.out
    assert [name for name in stored.runs if stored.is_deleted(name)] == ["first", "cnn"]
    done = stored.run("restore", f"sweep={stored.runs['first']}")
    assert f"restored: sweep of 2 ({stored.runs['first']}): cnn\nrestored: catdog version 1, the champion" in done.out
    assert not any(stored.is_deleted(name) for name in stored.runs)


def test_a_study_is_deleted_and_known_to_be_before_anything_is_trained(stored) -> None:
    done = stored.run("delete", "study=pets", "yes=true")
    assert done.code == 0, done.text
    assert "the study 'pets': 2 sweeps, 2 runs" in done.out
    assert all(stored.is_deleted(name) for name in stored.runs)
    began = time.monotonic()
    for command in (("train", "-m", "model=cnn", *TINY), ("compare",)):
        done = stored.run(*command, "study=pets")
        assert done.code == 2
        assert (
            "study: 'pets' was deleted in MLflow. Restore it: python -m catdog.restore study=pets. Or remove it for good"
            in done.err
        )
        assert "clean study=pets older_than_days=0 yes=true" in done.err
    assert time.monotonic() - began < 30
    assert not (stored.cache / "drawn").exists(), "nothing was prepared"
    with pytest.raises(catdog.UserError, match=r"was deleted in MLflow\. Restore it"), stored.study.recording("torch"):
        pass
    assert "was deleted with its study 'pets'. Restore that" in stored.run("restore", f"run={stored.runs['cnn']}").err
    done = stored.run("restore", "study=pets")
    assert "restored: the study 'pets': 2 sweeps, 2 runs\nrestored: catdog version 1, the champion" in done.out
    assert not any(stored.is_deleted(name) for name in stored.runs)


def test_what_the_outbox_has_of_a_deleted_study_goes(stored) -> None:
    study = stored.study
    entry = entry_for(stored.folder / "mlruns/outbox", study.tracking.uri, "pets", "run", "identity")
    entry.claim({"kind": "run", "name": "dropout", "study": "pets", "tracking": {"uri": study.tracking.uri}})
    assert any("removed for good: dropout of the study 'pets'" in line for line in study.plan_deletion().describe())
    with pytest.raises(catdog.UserError, match=f"process {os.getpid()} on .* works on dropout of the study 'pets'"):
        study.delete(force=True)
    assert not stored.is_deleted("cnn")
    assert stored.find_champion() == stored.runs["cnn"]
    entry.release()
    study.delete(force=True)
    assert not entry.folder.exists()


def test_a_champion_is_forgotten_and_put_back(stored) -> None:
    # By hand, and against the evidence: what was champion is what comes back.
    stored.client.create_model_version("catdog", "file:/nowhere", run_id=stored.runs["augmented"])
    stored.client.set_registered_model_alias("catdog", "champion", "2")
    done = stored.run("delete", "champion=true", "study=pets", "yes=true")
    assert done.code == 0, done.text
    assert stored.find_champion() is None
    done = stored.run("evaluate", "study=pets")
    assert done.code == 2
    assert (
        "model: catdog has 2 versions, but no champion: the alias was removed. It was version 2. Put the alias back: python -m "
        "catdog.restore champion=true study=pets"
    ) in done.err
    done = stored.run("restore", "champion=true", "study=pets")
    assert done.code == 0, done.text
    assert "restored: catdog version 2, the champion" in done.out
    assert stored.find_champion() == stored.runs["augmented"]
    again = stored.run("restore", "champion=true", "study=pets")
    assert again.code == 2
    assert "champion: catdog has one, version 2; there is nothing to restore." in again.err


def test_an_alias_that_mlflows_pages_removed_is_put_back_by_the_evidence(stored) -> None:
    stored.client.delete_registered_model_alias("catdog", "champion")
    assert stored.study.restore_champion().run_id == stored.runs["cnn"]
    # Where the run is gone too, the run comes first.
    stored.client.delete_registered_model_alias("catdog", "champion")
    stored.client.delete_run(stored.runs["cnn"])
    for command in (("restore", "champion=true"), ("predict", str(stored.folder / "mlruns"))):
        (stored.folder / "mlruns" / "a.jpg").touch()
        done = stored.run(*command, "study=pets")
        assert done.code == 2
        assert f"was deleted in MLflow. Restore it: python -m catdog.restore run={stored.runs['cnn']}" in done.err


@pytest.mark.parametrize("command", ["delete", "restore"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name what to {command}: run=RUN_ID, sweep=RUN_ID, study=NAME, or champion=true study=NAME."),
        (("run=a", "sweep=b"), "sweep: must be left out where run is named, received 'b'. Name one thing at a time."),
        (
            ("champion=true",),
            "champion: must be given with the study whose champion is meant, champion=true study=NAME",
        ),
        (("run=" + "0" * 31 + "a",), "run: no run or sweep"),
        (("study=nosuch",), "study: no study 'nosuch' in this tracking store"),
    ],
)
def test_a_mistake_is_named(stored, command: str, arguments: tuple[str, ...], said: str) -> None:
    done = stored.run(command, *arguments)
    assert done.code == 2
    assert said.format(command=command) in done.err
    assert "Traceback" not in done.text


def test_a_sweep_is_no_run_and_the_ledger_is_no_study(stored) -> None:
    assert "is no training run, but a sweep" in stored.run("delete", f"run={stored.runs['first']}").err
    assert "is no sweep, but a training run" in stored.run("delete", f"sweep={stored.runs['cnn']}").err
    assert "is the ledger of looks at test splits" in stored.run("delete", "study=catdog-test-ledger").err
