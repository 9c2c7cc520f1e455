"""Cleaning: what was deleted is removed for good, after it was shown; what somebody may still need stays."""

import os
import time

import pytest

from catdog.data.cache_contents import list_cached
from catdog.registry.cleaning import find_garbage
from catdog.tracking.outbox import entry_for


def test_it_shows_first_and_removes_on_request(stored) -> None:
    stored.study.delete_run(stored.runs["cnn"], force=True)
    folder = stored.artifacts("cnn")
    assert "Nothing to remove." in stored.run("clean").out, "it was deleted just now"
    done = stored.run("clean", "older_than_days=0")
    assert done.code == 0, done.text
    assert "deleted from the study 'pets': 1 run" in done.out
    assert "150 kB in all. Nothing was removed: this only shows it." in done.out.replace("\N{NO-BREAK SPACE}", " ")
    assert "Next: python -m catdog.clean older_than_days=0 yes=true" in done.out
    assert folder.exists()
    done = stored.run("clean", "older_than_days=0", "yes=true")
    assert "Removed: 150 kB." in done.out.replace("\N{NO-BREAK SPACE}", " ")
    assert not folder.parent.exists()
    assert len(list((stored.folder / "mlruns/artifacts/pets/models").iterdir())) == 1
    assert (
        "what `catdog.clean` or `mlflow gc` removed is gone for good"
        in stored.run("restore", f"run={stored.runs['cnn']}").err
    )
    assert stored.client.search_model_versions("name = 'catdog'") == []
    done = stored.run("restore", "champion=true", "study=pets")
    assert done.code == 2
    assert "none of the 0 versions of catdog is known to have been its champion. Train first" in done.err


def test_the_champions_run_stays_until_the_champion_is_forgotten(stored) -> None:
    stored.client.delete_run(stored.runs["cnn"])
    done = stored.run("clean", "older_than_days=0", "yes=true")
    assert done.code == 0, done.text
    assert (
        "trained catdog version 1, the champion. Restore the run, or forget the champion first: python -m catdog.delete"
        in done.out
    )
    assert stored.artifacts("cnn").exists()


def test_a_deleted_study_frees_its_name_and_looks_stay(stored) -> None:
    ledger = stored.client.create_experiment("catdog-test-ledger")
    look = stored.client.create_run(ledger, tags={"catdog.kind": "test_look"}).info.run_id
    foreign = stored.client.create_experiment("not ours")
    other = stored.client.create_run(foreign).info.run_id
    stored.client.delete_run(look)
    stored.client.delete_experiment(foreign)
    stored.study.delete(force=True)
    done = stored.run("clean", "older_than_days=0", "yes=true", "study=pets")
    assert "the deleted study 'pets': 2 sweeps and 2 runs" in done.out
    assert stored.client.get_experiment_by_name("pets") is None
    assert not (stored.folder / "mlruns/artifacts/pets").exists()
    assert "Nothing to remove." in stored.run("clean", "older_than_days=0", "yes=true").out
    assert stored.client.get_run(look).info.lifecycle_stage == "deleted"
    assert stored.client.get_run(other).info.lifecycle_stage == "deleted"
    stored.client.create_experiment("pets")


def test_of_the_outbox_only_what_nobody_waits_for_goes(stored) -> None:
    root, uri = stored.folder / "mlruns/outbox", "sqlite:///mlruns/mlflow.db"

    def add(name: str, study: str, run: str = "", records: int = 0) -> None:
        entry = entry_for(root, uri, study, "run", name).claim(
            {"kind": "run", "name": name, "study": study, "tracking": {"uri": uri}}
        )
        for number in range(records):
            entry.append("tags", values={"number": str(number)})
        if run:
            entry.save_state(run_id=stored.runs[run])
        entry.release()

    stored.client.delete_run(stored.runs["augmented"])
    add("waiting", "pets", records=2)
    add("early", "not made yet", records=1)
    add("interrupted", "pets", run="cnn")
    add("deleted", "pets", run="augmented", records=3)
    done = stored.run("clean", "older_than_days=0", "yes=true")
    text = " ".join(done.out.split())
    assert "stays: waiting of the study 'pets', 2 records in mlruns/outbox/run-" in text
    assert "stays: early of the study 'not made yet', 1 record in " in text
    assert "left of an interrupted run in the outbox: interrupted of the study 'pets', 0 records" in text
    assert "left of a deleted run in the outbox: deleted of the study 'pets', 3 records" in text
    assert len(list(root.glob("run-*/entry.json"))) == 2


def test_the_cache_goes_by_age_and_by_size(tmp_path) -> None:
    cache = tmp_path / "cache"
    # What searches that are running write to.
    (cache / "duplicates" / "1a2b" / "parts").mkdir(parents=True)
    ages = {
        "decoded": 40,
        "drawn": 20,
        "extracted": 10,
        "downloads": 99,
        "duplicates/1a2b": 50,
    }
    for number, (kind, age_days) in enumerate(ages.items()):
        folder = cache / kind / str(number)
        folder.mkdir(parents=True)
        (folder / "images").write_bytes(bytes(1_000_000))
        then = time.time() - age_days * 24 * 3600
        os.utime(folder / "images", (then, then))

    def find(**options: float) -> list[str]:
        found = find_garbage(None, outbox=tmp_path, uri="sqlite:///x.db", cache=cache, **options)
        return [item.what.partition(" in /")[0] for item in found.garbage if str(cache) in item.what]

    found_first, decoded, drawn = (
        f"1 folder of {what}" for what in ("findings of near-duplicates", "decoded images", "drawn images")
    )
    assert [item.folder.name for item in list_cached(cache)] == ["4", "0", "1", "2"]
    assert find(older_than_days=45) == [found_first]
    assert find(older_than_days=30) == [found_first, decoded]
    assert find(older_than_days=15) == [found_first, decoded, drawn]
    assert find(older_than_days=99, cache_gb=0.001) == [found_first, decoded, drawn]
    assert find(older_than_days=99, cache_gb=1) == []
    found = find_garbage(None, outbox=tmp_path, uri="sqlite:///x.db", cache=cache, older_than_days=30)
    for item in found.garbage:
        item.remove()
    assert not (cache / "decoded" / "0").exists()
    assert (cache / "drawn" / "1" / "images").exists()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("older_than_days=-1", "older_than_days: must be 0 or more, received -1.0"),
        ("cache_gb=-1", "cache_gb: must be 0 or more, or null, received -1.0"),
        ("dry_run=false", "dry_run: no such key"),
    ],
)
def test_a_mistake_is_named(stored, argument: str, said: str) -> None:
    done = stored.run("clean", argument)
    assert done.code == 2
    assert said in done.err
