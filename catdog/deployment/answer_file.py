"""The file of the answers to many images: it grows batch by batch, survives a kill, and appears under its name when complete.

Until then there is a folder beside it, `answers.csv.partial`:

- `begun.json`: the model, the arguments and the options with which it was begun; `files.jsonl`: the files that these named then,
  each with its size and its time, so that a folder may grow meanwhile, and a file that was replaced is noticed;
- `rows.csv`, `rows.jsonl` or, for Parquet, `rows.arrow`: the first rows. A Parquet file cannot be read before its end is written,
  nor continued, so its rows are a stream of Arrow record batches until they are complete;
- `progress.jsonl`: a line for each batch, with the length of `rows` after it, the checksum of what it added, and the files that
  could not be read. What `rows` has beyond the last line, or what does not match its checksum, was cut short and is dropped.
  It also says which reasons may pass, such as a server that was away: these batches are answered again, until none is left;
- `complete.json`: the checksum of the complete file, written just before that gets its name; `complete.parquet`, while it is made.
"""

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from filelock import FileLock, Timeout

from catdog.system.documents import to_plain
from catdog.system.errors import UserError
from catdog.system.files import DISK_FULL, PARTIAL_SUFFIX, replacing, sync_file, write_atomically
from catdog.system.wording import agree, plural

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# What the column of the reasons is called.
UNREADABLE = "unreadable"
# Rows of a row group of a Parquet file: at most this many, and at most so many bytes of probabilities.
GROUP_ROWS, GROUP_BYTES = 65_536, 32 * 2**20


class Format(Protocol):
    """How rows are written to a file that only grows."""

    suffix: str
    """The ending of the file that grows."""

    def head(self) -> bytes:
        """Returns what comes before the first row."""

    def encode(self, rows: "pd.DataFrame") -> bytes:
        """Returns some rows."""

    def complete(self, rows: Path) -> Path:
        """Returns the complete file of all rows, which is in the same folder, and on the disk."""


class _Csv:
    suffix = ".csv"

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def head(self) -> bytes:
        import pandas as pd

        return write_csv(pd.DataFrame(columns=list(self.columns))).encode()

    def encode(self, rows: "pd.DataFrame") -> bytes:
        return write_csv(rows, header=False).encode()

    def complete(self, rows: Path) -> Path:
        return rows


class _JsonLines:
    suffix = ".jsonl"

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def head(self) -> bytes:
        return b""

    def encode(self, rows: "pd.DataFrame") -> bytes:
        lines = (json.dumps(to_plain(row), ensure_ascii=False, allow_nan=False) for row in rows.to_dict("records"))
        return "".join(f"{line}\n" for line in lines).encode()

    def complete(self, rows: Path) -> Path:
        return rows


class _Parquet:
    suffix = ".arrow"

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    @property
    def _schema(self) -> "pa.Schema":
        import pyarrow as pa

        texts = ("file", "class", UNREADABLE)
        return pa.schema([(name, pa.string() if name in texts else pa.float32()) for name in self.columns])

    def head(self) -> bytes:
        return bytes(self._schema.serialize())

    def encode(self, rows: "pd.DataFrame") -> bytes:
        import pyarrow as pa

        return bytes(pa.RecordBatch.from_pandas(rows, self._schema, preserve_index=False).serialize())

    def complete(self, rows: Path) -> Path:
        import pyarrow as pa
        from pyarrow import parquet

        group_rows = max(1, min(GROUP_ROWS, GROUP_BYTES // (4 * len(self.columns))))
        complete = rows.with_name("complete.parquet")
        with (
            rows.open("rb") as stream,
            pa.ipc.open_stream(stream) as reader,
            complete.open("wb") as file,
            parquet.ParquetWriter(file, self._schema, compression="zstd") as writer,
        ):
            held: list[pa.RecordBatch] = []
            held_rows = 0
            for batch in reader:
                held.append(batch)
                held_rows += len(batch)
                # Row groups of the same size, however the rows came: the same rows give the same file.
                while held_rows >= group_rows:
                    table = pa.Table.from_batches(held)
                    writer.write_table(table.slice(0, group_rows), row_group_size=group_rows)
                    held = table.slice(group_rows).to_batches()
                    held_rows -= group_rows
            if held:
                writer.write_table(pa.Table.from_batches(held), row_group_size=group_rows)
        sync_file(complete)
        return complete


FORMATS: dict[str, type[_Csv] | type[_JsonLines] | type[_Parquet]] = {
    ".csv": _Csv,
    ".jsonl": _JsonLines,
    ".parquet": _Parquet,
}


class Begun(NamedTuple):
    """What the rows of a file depend on, beside the photos; a command with something else does not go on with it.

    Attributes:
        model: the run that trained it, or its address.
        words: the model in a sentence.
        named: the value of `model=` that names it.
        batch_size: images per step.
        arguments: the digest of what names the files, as `digest_arguments` returns it.
        decoder: the version of what decodes images.
    """

    model: str
    words: str
    named: str
    batch_size: int
    arguments: str
    decoder: str


class _Line(NamedTuple):
    """The state after a batch: files answered, length of the rows, checksum of what was added, reason by position of a file.

    `passing` has the positions of those files whose reason may pass.
    """

    files: int
    length: int
    crc32: int
    unreadable: dict[str, str]
    passing: list[int]


class _Sign(NamedTuple):
    """By what a file is known again: its size in bytes, and its time in nanoseconds."""

    size: int
    time_ns: int


# Of a file that cannot be looked at.
UNSEEN = _Sign(-1, -1)


def digest_arguments(arguments: Sequence[str | Path]) -> str:
    """Returns the digest of arguments that name files and folders, in their order, and of where they are."""
    digest = hashlib.sha256()
    for argument in arguments:
        # Both: the same relative name in another working folder is another file.
        digest.update(os.fsencode(argument) + b"\0" + os.fsencode(os.path.abspath(argument)) + b"\0")  # noqa: PTH100
    return digest.hexdigest()


def write_csv(rows: "pd.DataFrame", *, header: bool = True) -> str:
    """Returns rows as CSV. Unlike pandas before Python 3.13, it quotes a text with a carriage return, which would end the row."""
    # A text with a newline is quoted; no file name, class or reason contains this pair.
    forced = "\n\0"
    texts = [name for name in rows.columns if rows[name].dtype.kind not in "fiub"]
    odd = [name for name in texts if any("\r" in text for text in rows[name] if isinstance(text, str))]
    if odd:
        rows = rows.assign(**{name: rows[name].str.replace("\r", forced, regex=False) for name in odd})
    if header:
        rows = rows.rename(columns=lambda name: name.replace("\r", forced))
    return str(rows.to_csv(index=False, header=header, lineterminator="\n")).replace(forced, "\r")


def partial_folder(output: Path) -> Path:
    """Returns the folder that holds the rows of a file until it is complete."""
    return output.with_name(output.name + PARTIAL_SUFFIX)


def require_place(output: Path) -> None:
    """Raises a UserError unless a file can be begun here, or an interrupted one can go on."""
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"output: a file name ending in {', '.join(FORMATS)}, received {str(output)!r}.")
    if not output.resolve().parent.is_dir():
        raise UserError(
            f"output: no folder {str(output.parent)!r} to write {output.name!r} to. Make it, or name another file."
        )
    if output.is_dir():
        example = output / "answers.csv"
        raise UserError(f"output: {str(output)!r} is a folder. Name a file in it, such as output={example}.")
    if output.exists() and not partial_folder(output).is_dir():
        raise _exists(output)


class AnswerFile:
    """The rows of a file of answers, while it is written; `opened` makes one.

    Attributes:
        files: the files that are answered, in order: those that the first command found.
        new: how many files this command found that are not among them.
        done: how many files have their row already.
        unreadable: the reason for each file that could not be read, by its position among the files.
        passing: the positions of those whose reason may pass.
    """

    def __init__(self, output: Path, begun: Begun, columns: Sequence[str]) -> None:
        self.files: Sequence[Path] = ()
        self.new = 0
        self.done = 0
        self.unreadable: dict[int, str] = {}
        self.passing: set[int] = set()
        self._output = output
        self._folder = partial_folder(output)
        self._begun = begun
        self._format: Format = FORMATS[output.suffix.lower()](columns)
        self._rows: BinaryIO | None = None
        self._progress: BinaryIO | None = None
        self._length = 0

    @property
    def _rows_path(self) -> Path:
        return self._folder / f"rows{self._format.suffix}"

    @property
    def _progress_path(self) -> Path:
        return self._folder / "progress.jsonl"

    @property
    def _complete_path(self) -> Path:
        return self._folder / "complete.json"

    def open(self, files: Sequence[Path]) -> None:
        """Begins the file, or finds where it stopped, and drops what was half written.

        Args:
            files: what the arguments name now.

        Raises:
            UserError: it was begun with another model, other arguments or other options, or a photo was replaced since.
        """
        with _errors_named(self._output):
            self._open(files)

    def _open(self, files: Sequence[Path]) -> None:
        signs = self._list_files(files)
        lines = list(_read_progress(self._progress_path))
        if self._output.exists():
            # Only the last step was missing: to remove this folder.
            if not _is_complete(self._complete_path, self._output):
                raise _exists(self._output)
            kept = lines
        else:
            kept = list(_keep_intact(lines, self._rows_path))
            # Neither file may keep the half of something, or what comes next would follow it.
            self._open_files(kept[-1][0].length if kept else 0, kept[-1][1] if kept else 0)
        for line, _ in kept:
            self._note({int(place): reason for place, reason in line.unreadable.items()}, line.passing)
        if kept:
            self.done, self._length = kept[-1][0].files, kept[-1][0].length
        else:
            self._add(self._format.head(), 0, {}, ())
        if self._rows is not None:
            self._require_unchanged(signs)

    def add(self, rows: "pd.DataFrame", unreadable: Mapping[int, str], passing: Collection[int] = ()) -> None:
        """Writes the rows of the next batch.

        Args:
            rows: one for each file of the batch, in order.
            unreadable: the reasons, by the position of the file among all files.
            passing: the positions of those whose reason may pass.
        """
        with _errors_named(self._output):
            self._add(self._format.encode(rows), len(rows), unreadable, passing)

    def _add(self, content: bytes, files: int, unreadable: Mapping[int, str], passing: Collection[int]) -> None:
        assert self._rows is not None
        assert self._progress is not None
        self._rows.write(content)
        self._rows.flush()
        self._length += len(content)
        self.done += files
        self._note(unreadable, passing)
        line = _Line(self.done, self._length, zlib.crc32(content), _by_text(unreadable), sorted(passing))
        # After the rows that it vouches for.
        self._progress.write(_encode_line(line))
        self._progress.flush()

    def list_again(self) -> list[int]:
        """Returns the positions of all files of the batches in which a file could not be read for a reason that may pass."""
        again: list[int] = []
        former = 0
        for line, _ in _read_progress(self._progress_path):
            again += range(former, line.files) if line.passing else ()
            former = line.files
        return again

    def replace(self, batches: "Iterator[tuple[pd.DataFrame, Mapping[int, str], Collection[int]]]") -> None:
        """Writes the rows of those batches anew to which the files of `list_again` belong; the others stay.

        Args:
            batches: for each of them, in order, the arguments of `add`.
        """
        with _errors_named(self._output):
            self.close()
            self.unreadable, self.passing = {}, set()
            with replacing(self._rows_path) as rows, replacing(self._progress_path) as progress:
                self._length = 0
                for content, former in self._read_batches():
                    line = former
                    if former.passing:
                        frame, unreadable, passing = next(batches)
                        content = self._format.encode(frame)
                        line = former._replace(unreadable=_by_text(unreadable), passing=sorted(passing))
                    self._length += len(content)
                    self._note({int(place): reason for place, reason in line.unreadable.items()}, line.passing)
                    rows.write(content)
                    progress.write(_encode_line(line._replace(length=self._length, crc32=zlib.crc32(content))))
            # The record gets its name first. A kill in between leaves checksums that do not match: these rows are made again.
            self._open_files(self._length, self._progress_path.stat().st_size)

    def _read_batches(self) -> Iterator[tuple[bytes, _Line]]:
        with self._rows_path.open("rb") as rows:
            for line, _ in _read_progress(self._progress_path):
                yield rows.read(line.length - rows.tell()), line

    def _note(self, unreadable: Mapping[int, str], passing: Collection[int]) -> None:
        self.unreadable |= unreadable
        self.passing |= set(passing)

    def _open_files(self, rows_length: int, progress_length: int) -> None:
        self._rows = _open_at(self._rows_path, rows_length)
        self._progress = _open_at(self._progress_path, progress_length)

    def finish(self) -> None:
        """Puts the complete file in its place."""
        if self._rows is not None:
            with _errors_named(self._output):
                os.fsync(self._rows.fileno())
                self.close()
                complete = self._format.complete(self._rows_path)
                write_atomically(self._complete_path, json.dumps(_measure(complete)))
                if self._output.exists():
                    raise _exists(self._output)
                complete.replace(self._output)

    def close(self) -> None:
        """Closes what is open; what has been written stays."""
        for file in (self._rows, self._progress):
            if file is not None:
                # If the disk is full, closing fails as well: it tries to write again. What is half written is dropped later.
                with contextlib.suppress(OSError):
                    file.close()

    def _list_files(self, files: Sequence[Path]) -> list[_Sign]:
        """Sets `files` and `new`, and returns the signs that the files had when an earlier command found them."""
        path, listing = self._folder / "begun.json", self._folder / "files.jsonl"
        if not path.exists():
            with replacing(listing) as file:
                for name in files:
                    file.write(json.dumps([str(name), *_read_sign(name)]).encode() + b"\n")
            write_atomically(path, json.dumps(self._begun._asdict(), indent=1))
            self.files = files
            return []
        try:
            former = Begun(**json.loads(path.read_text("utf-8")))
            stored = list(map(json.loads, listing.read_text("utf-8").splitlines()))
            names, signs = [Path(name) for name, *_ in stored], [_Sign(*sign) for _, *sign in stored]
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise UserError(
                f"output: {str(path)!r} is not what this version of catdog writes. Remove the folder, or name another file."
            ) from error
        self._require_same(former, len(names))
        self.files, self.new = names, len(set(files).difference(names))
        return signs

    def _require_same(self, former: Begun, files: int) -> None:
        now = self._begun
        problem = ""
        if former.model != now.model:
            problem = f"{former.words}, and this command uses {now.words}. Go on with model={former.named},"
        elif former.batch_size != now.batch_size:
            problem = f"batch_size={former.batch_size}, received batch_size={now.batch_size}. Go on with the former,"
        elif former.arguments != now.arguments:
            problem = (
                f"{plural(files, 'file')}, and other files or folders are named now, or in another order, or from another working "
                "folder. Name the same ones from the same place,"
            )
        elif former.decoder != now.decoder:
            problem = (
                f"images decoded by {former.decoder}, and it is {now.decoder} now. Go on with that version of Pillow,"
            )
        if problem:
            raise self._refuse(problem)

    def _require_unchanged(self, signs: Sequence[_Sign]) -> None:
        """Raises a UserError if a file that has its row is another one now; one that is gone has its row all the same."""
        changed = [
            file
            for place, (file, sign) in enumerate(zip(self.files[: self.done], signs, strict=False))
            if place not in self.passing and UNSEEN not in (sign, now := _read_sign(file)) and sign != now
        ]
        if changed:
            files = f"{plural(len(changed), 'file')} {agree(len(changed), 'that has its row has', 'that have their rows have')}"
            raise self._refuse(
                f"other photos: {files} changed since, {str(changed[0])!r} first. Put the former ones back,"
            )

    def _refuse(self, problem: str) -> UserError:
        afresh = f"or begin afresh: remove the folder {str(self._folder)!r}, or name another file."
        return UserError(f"output: {str(self._output)!r} was begun with {problem} {afresh}")


@contextmanager
def opened(output: Path, begun: Begun, files: Sequence[Path], columns: Sequence[str]) -> Iterator[AnswerFile]:
    """Yields the file of answers to add to, which holds the rows of an earlier command that was stopped. Complete after the block.

    Args:
        output: the file; `require_place` must have allowed it.
        begun: what its rows depend on.
        files: what is to be answered, unless an earlier command has begun: then the files that it found.
        columns: of its rows.

    Raises:
        UserError: it was begun with something else, another command writes it, or it cannot be written.
    """
    folder = partial_folder(output)
    with _errors_named(output):
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(
                f"output: another command is writing {str(output)!r}. Wait until it has ended, or name another file."
            ) from error
    file = AnswerFile(output, begun, columns)
    try:
        file.open(files)
        yield file
        file.finish()
    finally:
        file.close()
        lock.release()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _errors_named(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "Free some space" if error.errno in DISK_FULL else "Make it writable"
        raise UserError(
            f"output: cannot write {str(output)!r} ({error.strerror}). {advice}, and the same command goes on where it stopped; or "
            "name another file."
        ) from error


def _exists(output: Path) -> UserError:
    return UserError(f"output: {str(output)!r} exists, and is not overwritten. Remove it, or name another file.")


def _read_progress(path: Path) -> Iterator[tuple[_Line, int]]:
    """Yields the lines of the record of progress, each with the length of the record up to its end; stops at one cut short."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for text in file:
            end += len(text)
            try:
                line = _Line(**json.loads(text))
            except (ValueError, TypeError):
                return
            if not text.endswith(b"\n"):
                return
            yield line, end


def _keep_intact(lines: Sequence[tuple[_Line, int]], rows: Path) -> Iterator[tuple[_Line, int]]:
    """Yields the lines up to the first one whose rows are not what was written, as after a power cut."""
    if not rows.exists():
        return
    with rows.open("rb") as file:
        for line, end in lines:
            content: Any = file.read(max(0, line.length - file.tell()))
            if file.tell() != line.length or zlib.crc32(content) != line.crc32:
                return
            yield line, end


def _encode_line(line: _Line) -> bytes:
    return json.dumps(line._asdict()).encode() + b"\n"


def _by_text(unreadable: Mapping[int, str]) -> dict[str, str]:
    return {str(place): reason for place, reason in unreadable.items()}


def _read_sign(file: Path) -> _Sign:
    try:
        status = file.stat()
    except OSError:
        return UNSEEN
    return _Sign(status.st_size, status.st_mtime_ns)


def _measure(path: Path) -> dict[str, int]:
    """Returns the length and the checksum of a file."""
    length = checksum = 0
    with path.open("rb") as file:
        while content := file.read(2**20):
            length, checksum = length + len(content), zlib.crc32(content, checksum)
    return {"length": length, "crc32": checksum}


def _is_complete(record: Path, output: Path) -> bool:
    """Returns whether a file is the complete one that was written, not another one that a user has put there."""
    try:
        return bool(json.loads(record.read_text("utf-8")) == _measure(output))
    except (FileNotFoundError, ValueError):
        return False


def _open_at(path: Path, length: int) -> BinaryIO:
    """Opens a file to write after its first `length` bytes, without the rest."""
    path.touch()
    file = path.open("r+b")
    file.truncate(length)
    file.seek(length)
    return file
