"""The file of the answers to many images: it grows batch by batch, survives a kill, and appears under its name when complete.

Until then there is a folder beside it, `answers.csv.partial`:

- `begun.json`: the model, the files and the options with which it was begun;
- `rows.csv`, `rows.jsonl` or, for Parquet, `rows.arrow`: the first rows. A Parquet file cannot be read before its end is written,
  nor continued, so its rows are a stream of Arrow record batches until they are complete;
- `progress.jsonl`: a line for each batch, with the length of `rows` after it, the checksum of what it added, and the files that
  could not be read. What `rows` has beyond the last line, or what does not match its checksum, was cut short and is dropped.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from filelock import FileLock, Timeout

from catdog.system.documents import to_plain
from catdog.system.errors import UserError
from catdog.system.files import DISK_FULL, PARTIAL_SUFFIX, replacing, write_atomically

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

    def complete(self, rows: Path, output: Path) -> None:
        """Makes the complete file of all rows, at once."""


class _Csv:
    suffix = ".csv"

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def head(self) -> bytes:
        import pandas as pd

        return pd.DataFrame(columns=list(self.columns)).to_csv(index=False, lineterminator="\n").encode()

    def encode(self, rows: "pd.DataFrame") -> bytes:
        return str(rows.to_csv(index=False, header=False, lineterminator="\n")).encode()

    def complete(self, rows: Path, output: Path) -> None:
        rows.replace(output)


class _JsonLines:
    suffix = ".jsonl"

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def head(self) -> bytes:
        return b""

    def encode(self, rows: "pd.DataFrame") -> bytes:
        lines = (json.dumps(to_plain(row), ensure_ascii=False, allow_nan=False) for row in rows.to_dict("records"))
        return "".join(f"{line}\n" for line in lines).encode()

    def complete(self, rows: Path, output: Path) -> None:
        rows.replace(output)


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

    def complete(self, rows: Path, output: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        group_rows = max(1, min(GROUP_ROWS, GROUP_BYTES // (4 * len(self.columns))))
        with (
            rows.open("rb") as stream,
            pa.ipc.open_stream(stream) as reader,
            replacing(output) as file,
            parquet.ParquetWriter(file, self._schema, compression="zstd") as writer,
        ):
            held: list[pa.RecordBatch] = []
            for batch in reader:
                held.append(batch)
                # Row groups of the same size, however the rows came: the same rows give the same file.
                while sum(map(len, held)) >= group_rows:
                    table = pa.Table.from_batches(held)
                    writer.write_table(table.slice(0, group_rows), row_group_size=group_rows)
                    held = table.slice(group_rows).to_batches()
            if held:
                writer.write_table(pa.Table.from_batches(held), row_group_size=group_rows)


FORMATS: dict[str, type[_Csv] | type[_JsonLines] | type[_Parquet]] = {
    ".csv": _Csv,
    ".jsonl": _JsonLines,
    ".parquet": _Parquet,
}


class Begun(NamedTuple):
    """What the rows of a file depend on; a command with something else does not go on with it.

    Attributes:
        model: the run that trained it, or its address.
        words: the model in a sentence.
        named: the value of `model=` that names it.
        batch_size: images per step.
        files: how many files there are.
        digest: of their names, in order.
        decoder: the version of what decodes images.
    """

    model: str
    words: str
    named: str
    batch_size: int
    files: int
    digest: str
    decoder: str


class _Line(NamedTuple):
    """The state after a batch: files answered, length of the rows, checksum of what was added, reason by position of a file."""

    files: int
    length: int
    crc32: int
    unreadable: dict[str, str]


def digest_files(files: Sequence[Path]) -> str:
    """Returns the digest of the names of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file) + b"\0")
    return digest.hexdigest()


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
        done: how many files have their row already, in the order of the files.
        unreadable: the reason for each file that could not be read, by its position among the files.
    """

    def __init__(self, output: Path, begun: Begun, columns: Sequence[str]) -> None:
        self.done = 0
        self.unreadable: dict[int, str] = {}
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

    def open(self) -> None:
        """Begins the file, or finds where it stopped, and drops what was half written.

        Raises:
            UserError: it was begun with another model, other files or other options.
        """
        with _errors_named(self._output):
            self._open()

    def _open(self) -> None:
        self._require_same()
        lines = list(_read_progress(self._progress_path))
        if self._output.exists():
            # Only the last step was missing: to remove this folder.
            if not lines or lines[-1][0].files != self._begun.files:
                raise _exists(self._output)
            kept = lines
        else:
            kept = list(_keep_intact(lines, self._rows_path))
            # Neither file may keep the half of something, or what comes next would follow it.
            self._rows = _open_at(self._rows_path, kept[-1][0].length if kept else 0)
            self._progress = _open_at(self._progress_path, kept[-1][1] if kept else 0)
        for line, _ in kept:
            self.unreadable |= {int(place): reason for place, reason in line.unreadable.items()}
        if kept:
            self.done, self._length = kept[-1][0].files, kept[-1][0].length
        else:
            self._add(self._format.head(), 0, {})

    def add(self, rows: "pd.DataFrame", unreadable: Mapping[int, str]) -> None:
        """Writes the rows of the next batch.

        Args:
            rows: one for each file of the batch, in order.
            unreadable: the reasons, by the position of the file among all files.
        """
        with _errors_named(self._output):
            self._add(self._format.encode(rows), len(rows), unreadable)

    def _add(self, content: bytes, files: int, unreadable: Mapping[int, str]) -> None:
        assert self._rows is not None
        assert self._progress is not None
        self._rows.write(content)
        self._rows.flush()
        self._length += len(content)
        self.done += files
        self.unreadable |= unreadable
        reasons = {str(place): reason for place, reason in unreadable.items()}
        line = _Line(self.done, self._length, zlib.crc32(content), reasons)
        # After the rows that it vouches for.
        self._progress.write(json.dumps(line._asdict()).encode() + b"\n")
        self._progress.flush()

    def finish(self) -> None:
        """Puts the complete file in its place."""
        if self._rows is not None:
            with _errors_named(self._output):
                os.fsync(self._rows.fileno())
                self.close()
                self._format.complete(self._rows_path, self._output)

    def close(self) -> None:
        """Closes what is open; what has been written stays."""
        for file in (self._rows, self._progress):
            if file is not None:
                file.close()

    def _require_same(self) -> None:
        path = self._folder / "begun.json"
        try:
            former = Begun(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            write_atomically(path, json.dumps(self._begun._asdict(), indent=1))
            return
        except (ValueError, TypeError) as error:
            raise UserError(
                f"output: {str(path)!r} is not what this version of catdog writes. Remove the folder, or name another file."
            ) from error
        now = self._begun
        afresh = f"or begin afresh: remove the folder {str(self._folder)!r}, or name another file."
        problem = ""
        if former.model != now.model:
            problem = f"{former.words}, and this command uses {now.words}. Go on with model={former.named},"
        elif former.batch_size != now.batch_size:
            problem = f"batch_size={former.batch_size}, received batch_size={now.batch_size}. Go on with the former,"
        elif (former.files, former.digest) != (now.files, now.digest):
            change = (
                f"and there are {now.files:,} now" if former.files != now.files else "and other files are named now"
            )
            problem = f"{former.files:,} files, {change}. Name the same files in the same order,"
        elif former.decoder != now.decoder:
            problem = (
                f"images decoded by {former.decoder}, and it is {now.decoder} now. Go on with that version of Pillow,"
            )
        if problem:
            raise UserError(f"output: {str(self._output)!r} was begun with {problem} {afresh}")


@contextmanager
def opened(output: Path, begun: Begun, columns: Sequence[str]) -> Iterator[AnswerFile]:
    """Yields the file of answers to add to, which holds the rows of an earlier command that was stopped. Complete after the block.

    Args:
        output: the file; `require_place` must have allowed it.
        begun: what its rows depend on.
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
        file.open()
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


def _open_at(path: Path, length: int) -> BinaryIO:
    """Opens a file to write after its first `length` bytes, without the rest."""
    path.touch()
    file = path.open("r+b")
    file.truncate(length)
    file.seek(length)
    return file
