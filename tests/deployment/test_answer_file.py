"""Answers to many images in a file: it grows, survives a kill, and ends up as if nothing had happened."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import TINY, Study, run_catdog, start_catdog, write_images

from catdog.data import decoding
from catdog.data.decoding import decode_ahead
from catdog.data.images import UnreadableImageError, decode_image
from catdog.deployment import answer_file
from catdog.deployment.answer_file import Begun, digest_arguments, opened, partial_folder, require_place
from catdog.system.errors import UserError

COLUMNS = ["file", "class", "probability", "probability_a", "probability_b", "unreadable"]
FILES = [Path(f"{number}.jpg") for number in range(10)]
BATCH = 3
ENDINGS = ("csv", "jsonl", "parquet")
HARD = ('"{}",\n é.jpg', "{}\r.jpg", "{}\r\n,.jpg", "\r{}\n\r.jpg")


def begun(**changes) -> Begun:
    return Begun("run", "flowers version 3", "flowers/3", BATCH, digest_arguments(["photos"]), "1")._replace(**changes)


def rows_of(places: range) -> pd.DataFrame:
    """Returns rows with everything that is difficult: a quote, line breaks of all kinds, a file without an answer."""
    probabilities = np.array([[place / 10 + 0.03, 0.97 - place / 10] for place in places], np.float32)
    rows = pd.DataFrame({"file": [HARD[place % len(HARD)].format(place) for place in places], "class": ["a"] * len(places),
                         "probability": probabilities[:, 0], "probability_a": probabilities[:, 0],
                         "probability_b": probabilities[:, 1], "unreadable": [None] * len(places)})  # fmt: skip
    if 4 in places:
        rows.loc[4 - places.start, COLUMNS[1:5]] = [None, np.nan, np.nan, np.nan]
        rows.loc[4 - places.start, "unreadable"] = "the file is empty"
    return rows


def write(output: Path, most: int = 99) -> list[int]:
    """Writes at most so many batches and stops, as if killed, if there are more; returns the files that were answered."""
    answered: list[int] = []
    with opened(output, begun(), FILES, COLUMNS) as file:
        while file.done < len(FILES):
            if most == 0:
                raise KeyboardInterrupt
            most -= 1
            places = range(file.done, min(file.done + BATCH, len(FILES)))
            answered += places
            file.add(rows_of(places), {4: "the file is empty"} if 4 in places else {})
    assert file.unreadable == {4: "the file is empty"}
    return answered


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_holds_the_rows_in_order(tmp_path, ending: str) -> None:
    output = tmp_path / f"answers.{ending}"
    write(output)
    read = {"csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
            "parquet": pd.read_parquet}[ending]  # fmt: skip
    found, expected = read(output), rows_of(range(10))
    assert list(found.columns) == COLUMNS
    for name in COLUMNS:
        if name.startswith("probability"):
            assert np.array_equal(found[name].to_numpy(np.float32), expected[name], equal_nan=True)
        else:
            assert found[name].fillna("").tolist() == expected[name].fillna("").tolist()
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_a_kill_leaves_the_result_is_the_same(tmp_path, ending: str) -> None:
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"answers.{ending}"
    write(whole)
    with pytest.raises(KeyboardInterrupt):
        write(output, 3)
    kept = tmp_path / "kept"
    partial_folder(output).rename(kept)
    (rows,) = kept.glob("rows.*")
    sizes = rows.stat().st_size, (kept / "progress.jsonl").stat().st_size
    for name, size in zip((rows.name, "progress.jsonl"), sizes, strict=True):
        for length in range(0, size, max(1, size // 12)):
            shutil.copytree(kept, partial_folder(output))
            with (partial_folder(output) / name).open("r+b") as file:
                file.truncate(length)
            answered = write(output)
            assert answered == list(range(answered[0], 10))
            assert answered[0] % BATCH == 0
            assert output.read_bytes() == whole.read_bytes()
            output.unlink()
    # A kill between two batches costs nothing; a power cut may leave anything where rows were.
    shutil.copytree(kept, partial_folder(output))
    assert write(output) == [9]
    output.unlink()
    shutil.copytree(kept, partial_folder(output))
    with (partial_folder(output) / rows.name).open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"\xaa" * 9)
    assert write(output) == [6, 7, 8, 9]
    assert output.read_bytes() == whole.read_bytes()


def test_a_kill_at_the_very_end_leaves_a_complete_file(tmp_path, monkeypatch) -> None:
    output = tmp_path / "answers.csv"
    with monkeypatch.context() as patch:
        patch.setattr(answer_file.shutil, "rmtree", lambda *_, **__: None)
        write(output)
    assert partial_folder(output).is_dir()
    content = output.read_bytes()
    assert write(output) == []
    assert output.read_bytes() == content
    assert not partial_folder(output).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "other", "words": "flowers version 4"}, "Go on with model=flowers/3, or begin afresh: remove the folder"),
        ({"batch_size": 4}, "was begun with batch_size=3, received batch_size=4"),
        ({"arguments": "x"}, "was begun with 10 files, and other files or folders are named now"),
        ({"decoder": "2"}, "images decoded by 1, and it is 2 now"),
    ],
)  # fmt: skip
def test_something_else_than_the_first_time_is_refused(tmp_path, changes, words: str) -> None:
    output = tmp_path / "answers.csv"
    with pytest.raises(KeyboardInterrupt):
        write(output, 1)
    with pytest.raises(UserError) as refused, opened(output, begun(**changes), FILES, COLUMNS):
        pass
    assert words in str(refused.value)
    write(output)


def test_two_commands_do_not_write_one_file(tmp_path) -> None:
    output = tmp_path / "answers.csv"
    with opened(output, begun(), FILES, COLUMNS), pytest.raises(UserError, match="another command is writing"):
        write(output)


def test_places_that_are_none(tmp_path) -> None:
    (tmp_path / "old.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    for name, words in (("old.csv", "exists, and is not overwritten"), ("folder.csv", "is a folder"),
                        ("none/a.csv", "no folder"), ("a.txt", "ending in .csv, .jsonl, .parquet")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            require_place(tmp_path / name)
    # A file of the user's beside an interrupted one is not taken for the result.
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "answers.csv", 1)
    (tmp_path / "answers.csv").write_text("mine")
    with pytest.raises(UserError, match="exists, and is not overwritten"):
        write(tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text() == "mine"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_the_users_in_the_place_of_the_result_costs_no_rows(tmp_path, ending: str) -> None:
    output = tmp_path / f"answers.{ending}"
    writing = opened(output, begun(), FILES, COLUMNS)
    file = writing.__enter__()
    for start in range(0, 10, BATCH):
        file.add(rows_of(range(start, min(start + BATCH, 10))), {})
    output.write_text("mine")
    with pytest.raises(UserError, match="exists, and is not overwritten"):
        writing.__exit__(None, None, None)
    with pytest.raises(UserError, match="exists, and is not overwritten"):
        write(output)
    assert output.read_text() == "mine"
    output.unlink()
    with opened(output, begun(), FILES, COLUMNS) as file:
        assert file.done == 10
    assert output.exists()


def test_a_kill_while_the_parquet_file_is_made_leaves_nothing_beside_it(tmp_path, monkeypatch) -> None:
    output = tmp_path / "answers.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(answer_file, "sync_file", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(output)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.parquet.partial"]
    write(output)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_a_full_disk_is_one_message_and_the_same_command_goes_on(tmp_path) -> None:
    """A limit on the size of files stands for a disk that is full; the lock must be free afterwards."""
    program = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from pathlib import Path
from test_answer_file import write
from catdog.system.errors import UserError
output = Path({str(tmp_path / "answers.csv")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
try:
    write(output)
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(write(output))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    message, answered = done.stdout.splitlines()
    assert "Free some space, and the same command goes on where it stopped" in message
    assert answered.endswith("9]")
    write(tmp_path / "whole.csv")
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def stop_after(output: Path, files: list[Path], batches: int) -> None:
    with contextlib.suppress(KeyboardInterrupt), opened(output, begun(), files, COLUMNS) as file:
        for start in range(0, batches * BATCH, BATCH):
            file.add(rows_of(range(start, start + BATCH)), {})
        raise KeyboardInterrupt


def test_a_photo_that_was_replaced_is_noticed_if_it_has_its_row(tmp_path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(10)]
    for file in files:
        file.write_bytes(b"photo")
    output = tmp_path / "answers.csv"
    stop_after(output, files, 1)
    files[3].write_bytes(b"another")
    files[0].unlink()
    with opened(output, begun(), files, COLUMNS) as file:
        assert file.done == 3
        for start in range(3, 10, BATCH):
            file.add(rows_of(range(start, min(start + BATCH, 10))), {})
    output.unlink()
    stop_after(output, files, 2)
    files[4].write_bytes(b"another")
    with pytest.raises(UserError, match=r"1 file that has its row has changed since, '.*4\.jpg' first. Put the former"):
        opened(output, begun(), files, COLUMNS).__enter__()


def test_a_folder_that_has_grown_is_answered_as_it_was(tmp_path) -> None:
    output = tmp_path / "answers.csv"
    stop_after(output, FILES, 1)
    with opened(output, begun(), [Path("00.jpg"), *FILES, Path("x.jpg")], COLUMNS) as file:
        assert (list(file.files), file.new, file.done) == (FILES, 2, 3)
        file.add(rows_of(range(3, 10)), {})


def test_the_same_arguments_from_another_folder_are_others(tmp_path, monkeypatch) -> None:
    here = digest_arguments(["photos"])
    monkeypatch.chdir(tmp_path)
    assert digest_arguments(["photos"]) != here


@pytest.mark.parametrize("ending", ENDINGS)
def test_batches_with_a_reason_that_may_pass_are_made_again_and_only_they(tmp_path, ending: str) -> None:
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"answers.{ending}"
    write(whole)
    reasons = {4: "the file is empty"}

    class StillAwayError(Exception):
        pass

    with contextlib.suppress(StillAwayError), opened(output, begun(), FILES, COLUMNS) as file:
        for start in range(0, 10, BATCH):
            places = range(start, min(start + BATCH, 10))
            rows = rows_of(places)
            away = [place for place in places if place in (0, 8)]
            for place in away:
                rows.loc[place - start, COLUMNS[1:]] = [None, np.nan, np.nan, np.nan, "the server is away"]
            file.add(rows, dict.fromkeys(away, "the server is away") | ({4: reasons[4]} if 4 in places else {}), away)
        raise StillAwayError
    with contextlib.suppress(StillAwayError), opened(output, begun(), FILES, COLUMNS) as file:
        assert (file.done, file.passing) == (10, {0, 8})
        assert file.list_again() == [0, 1, 2, 6, 7, 8]
        file.replace(iter([(rows_of(range(3)), {}, []), (rows_of(range(6, 9)), {8: "away"}, [8])]))
        assert (file.passing, file.unreadable) == ({8}, {8: "away", **reasons})
        raise StillAwayError
    assert not output.exists()
    with opened(output, begun(), FILES, COLUMNS) as file:
        assert file.list_again() == [6, 7, 8]
        file.replace(iter([(rows_of(range(6, 9)), {}, [])]))
        assert file.unreadable == reasons
    assert output.read_bytes() == whole.read_bytes()


def test_decoding_runs_ahead_of_its_user_but_not_far(tmp_path, monkeypatch) -> None:
    write_images(tmp_path, 40)
    files = sorted(tmp_path.glob("*.jpg"))
    files[7].write_text("no image")
    decoded: list[Path] = []

    def counted(file: Path, height: int, width: int) -> np.ndarray:
        decoded.append(file)
        return decode_image(file, height, width)

    monkeypatch.setattr(decoding, "decode_image", counted)
    batches = decode_ahead(files, 16, 24, 4)
    first = next(batches)
    deadline = time.monotonic() + 20
    while len(decoded) < 4 * (1 + decoding.MOST_AHEAD) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(decoded) == 4 * (1 + decoding.MOST_AHEAD)
    every = [*first, *(one for batch in batches for one in batch)]
    assert isinstance(every.pop(7), UnreadableImageError)
    assert all(
        np.array_equal(one, decode_image(file, 16, 24))
        for one, file in zip(every, [*files[:7], *files[8:]], strict=True)
    )
    decoded.clear()
    stopped = decode_ahead(files, 16, 24, 4)
    next(stopped)
    stopped.close()
    assert len(decoded) <= 4 * (1 + decoding.MOST_AHEAD)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache: Path) -> Study:
    folder = tmp_path_factory.mktemp("trained")
    sweep = run_catdog(folder, cache, "train", "model=drawn_mini", *TINY, "trainer.epochs=1")
    assert sweep.code == 0, sweep.text
    write_images(folder / "photos", 1200, size=40)
    (folder / "photos" / "005.jpg").write_text("no image")
    (folder / "photos" / "1001.jpg").write_bytes(b"")
    return Study(folder, cache, sweep)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending", ["parquet", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("csv", "jsonl"))]
)
def test_a_killed_command_goes_on_where_it_stopped(trained: Study, ending: str) -> None:
    """The file is that of a command that was not killed, and what was answered is not decoded again."""
    options = ("photos", "batch_size=4")
    whole = trained.run("predict", *options, f"output=whole.{ending}")
    assert whole.code == 2
    assert "'photos/005.jpg': not an image" in whole.err
    assert "'photos/1001.jpg': the file is empty" in whole.err
    assert "2 of 1,200 files cannot be read as images; the others were answered." in " ".join(whole.err.split())
    output = trained.folder / f"answers.{ending}"
    command = start_catdog(trained.folder, trained.cache, "predict", *options, f"output={output.name}")
    progress = partial_folder(output) / "progress.jsonl"
    deadline = time.monotonic() + 120
    while not progress.exists() or progress.read_bytes().count(b"\n") < 40:
        assert time.monotonic() < deadline
        assert command.poll() is None
        time.sleep(0.002)
    command.kill()
    command.communicate(60)
    assert command.returncode == -signal.SIGKILL
    assert not output.exists()
    done = [json.loads(line)["files"] for line in progress.read_bytes().split(b"\n")[:-1]][-1]
    assert 150 < done < 1200
    other = trained.run("predict", "photos", "batch_size=8", f"output={output.name}")
    assert other.code == 2
    assert "was begun with batch_size=4, received batch_size=8" in " ".join(other.err.split())
    # Were this file decoded again, it would have no answer.
    first = sorted((trained.folder / "photos").iterdir())[0]
    content = first.read_bytes()
    times = first.stat()
    first.write_bytes(bytes(len(content)))
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        resumed = trained.run("predict", *options, f"output={output.name}")
    finally:
        first.write_bytes(content)
    assert resumed.code == 2
    assert f"going on after {done:,} of 1,200 files" in " ".join(resumed.err.split())
    # Also what the first command could not read is named.
    assert "'photos/005.jpg': not an image" in resumed.err
    assert output.read_bytes() == (trained.folder / f"whole.{ending}").read_bytes()


@pytest.mark.slow
def test_a_file_that_may_be_readable_later_is_tried_again_by_the_same_command(trained: Study) -> None:
    linked, away = trained.folder / "linked", trained.folder / "away"
    write_images(linked, 70, size=40)
    write_images(trained.folder / "server", 1, size=40)
    (linked / "033.jpg").unlink()
    (linked / "033.jpg").symlink_to(away / "000.jpg")
    options = ("predict", "linked", "output=linked.csv")
    stopped = trained.run(*options)
    assert stopped.code == 2
    assert (
        "1 file cannot be read now, but perhaps later ('linked/033.jpg': no such file). So linked.csv is not complete"
        in (" ".join(stopped.err.split()))
    )
    assert not (trained.folder / "linked.csv").exists()
    assert trained.run(*options).code == 2
    (trained.folder / "server").rename(away)
    write_images(linked / "new", 1, size=40)
    done = trained.run(*options)
    assert done.code == 0, done.text
    assert "going on after 70 of 70 files" in " ".join(done.err.split())
    assert "without 1 file that came after it was begun" in " ".join(done.err.split())
    shutil.rmtree(linked / "new")
    assert trained.run("predict", "linked", "output=whole-linked.csv").code == 0
    assert (trained.folder / "linked.csv").read_bytes() == (trained.folder / "whole-linked.csv").read_bytes()


@pytest.mark.slow
def test_a_file_has_the_answers_that_are_printed_bit_for_bit(trained: Study) -> None:
    few = trained.folder / "few"
    shutil.copytree(trained.folder / "photos", few)
    for file in sorted(few.iterdir())[70:]:
        file.unlink()
    printed = trained.run("predict", "few", "format=csv")
    assert printed.code == 2
    assert trained.run("predict", "few", "output=few.csv").code == 2
    lines = (trained.folder / "few.csv").read_text().splitlines()
    assert [line[:-1] for line in lines if not line.startswith("few/005.jpg")][1:] == printed.out.splitlines()[1:]
    assert "few/005.jpg,,,,,not an image in a supported format" in lines
    assert trained.run("predict", "few", "output=few.parquet").code == 2
    stored = pd.read_parquet(trained.folder / "few.parquet").dropna(subset="class").reset_index(drop=True)
    table = pd.read_csv(io.StringIO(printed.out))
    assert stored["probability_cats"].dtype == np.float32
    assert np.array_equal(stored["probability_cats"], table["probability_cats"].to_numpy(np.float32))
    # As catdog computed them before it decoded ahead: one batch after the other.
    from catdog import Study as Opened

    model = Opened(tracking_uri=trained.uri).model()
    files = [trained.folder / file for file in table["file"]]
    size = model.image_size
    batches = [
        [decode_image(file, size, size) for file in files[start:stop]] for start, stop in ((0, 31), (31, 63), (63, 69))
    ]
    expected = np.concatenate([model.loaded.predict_on_batch(np.stack(batch)) for batch in batches])
    assert np.array_equal(table[["probability_cats", "probability_dogs"]].to_numpy(np.float32), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("output=a.txt",), "output: must be a file name ending in .csv, .jsonl or .parquet, received 'a.txt'."),
        (("output=a.csv", "format=json"), "format: must be left out with output=FILE"),
        (("output=a.csv", "sheet=a.png"), "sheet: must be left out with output=FILE"),
        (("output=none/a.csv",), "output: no folder 'none'"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(trained: Study, options, words: str) -> None:
    done = trained.run("predict", "photos", *options)
    assert done.code == 2
    assert words in " ".join(done.err.split())
    assert not list(trained.folder.glob("a.*"))
