"""Lays out images that a table, Parquet files or tar shards hold as a folder of images, in the cache.

From there on they are a data set like any other. Images that a CSV file lists are linked, others are written.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from catdog.config.suggestions import ask, suggest_path
from catdog.data.images import IMAGE_SUFFIXES, is_image_name
from catdog.data.progress import reported_progress
from catdog.data.splits import MOST_NAMED, SPLIT_FOLDERS, name_some
from catdog.data.staging import locked, require_free_space, staged
from catdog.system.errors import UserError
from catdog.system.wording import plural

log = logging.getLogger(__name__)

VERSION = 1
GROUPS = "groups.csv"
CSV_COLUMNS = ("file", "label")
LABELS = ("label", "labels", "class", "target", "fine_label")
FOLDER_OF = {name: names[0] for names in SPLIT_FOLDERS.values() for name in names}
# A shard's name says its split as a word: train-00000-of-00002.parquet, imagenet-val-000001.tar, validation/0.tar.
_SPLIT_WORD = re.compile(rf"(?:^|[^a-z])({'|'.join(FOLDER_OF)})(?:$|[^a-z])", re.IGNORECASE)
ROWS_AT_ONCE = 256
# In bytes; file systems allow 255.
LONGEST_NAME = 200
# The first bytes of an image file, and the suffix of its format.
_FORMATS = (
    (b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"RIFF", ".webp"), (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)  # fmt: skip


@dataclass(frozen=True)
class _Image:
    """An image of a data set.

    Attributes:
        name: its name, with a suffix, and without folders.
        label: the name of its class.
        split: as the folder of a split is called; "" if it is not given.
        group: the name of its group; "" for none.
        content: the bytes of its file, or the file.
    """

    name: str
    label: str
    split: str
    group: str
    content: bytes | Path


def lay_out(source: str, archive: str, cache: Path) -> Path:
    """Returns the folder in the cache that holds a data set's images; makes it the first time, or if the data set has changed.

    Where the data set names groups, the folder has a table of them, `groups.csv`.

    Args:
        source: csv: a file with the columns file and label, and perhaps split and group; parquet: a file, or a folder of files, as
            Hugging Face's data sets have them; webdataset: a tar file, or a folder of them.
        archive: the file or folder.
        cache: folder of the cache; the images are kept in its `extracted/`.

    Raises:
        UserError: there is no such file, its columns or entries are not those of a data set, or the cache cannot be written.
    """
    path = Path(archive).expanduser()
    if not path.exists():
        raise UserError(f"dataset.archive: there is no file or folder {archive!r}.{ask([suggest_path(path)])}")
    files = [path] if source == "csv" else _find_shards(path, ".parquet" if source == "parquet" else ".tar")
    if source == "csv" and not path.is_file():
        raise UserError(
            f"dataset.archive: must be a CSV file with dataset.source=csv, received the folder {archive!r}."
        )
    read = {"csv": _read_csv, "parquet": _read_parquet, "webdataset": _read_tars}[source]
    folder = cache / "extracted" / _hash_files(source, path, files)
    with locked(folder, f"reading {path.name}"):
        if not folder.exists():
            log.info("reading %s of %s, once", plural(len(files), "file"), path)
            with staged(folder) as stage:
                if source != "csv":
                    require_free_space(folder.parent, sum(file.stat().st_size for file in files))
                count = _write(stage, read(path, files))
            log.info("%s %s in %s", plural(count, "image"), "are linked" if source == "csv" else "were written", folder)
    return folder


def _find_shards(path: Path, suffix: str) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob(f"*{suffix}") if not file.name.startswith("."))
    if not files:
        raise UserError(f"dataset.archive: there is no {suffix} file in {path}.")
    return files


def _hash_files(source: str, path: Path, files: Iterable[Path]) -> str:
    """Returns the key of a data set in the cache: its files, their sizes and times."""
    parts = [f"{source} {VERSION} {path.resolve()}"]
    for file in files:
        status = file.stat()
        parts.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _write(stage: Path, images: Iterable[_Image]) -> int:
    """Writes images below a folder for their split and class, and the table of their groups; returns how many."""
    groups: dict[str, str] = {}
    count, made = 0, set()
    for image in images:
        # A class's name becomes one folder, whatever is in it.
        label = image.label.replace("/", "_").replace("\0", "_").strip()
        if not label or label.startswith("."):
            raise UserError(
                f"dataset.archive: {image.label!r} cannot be the name of a class; image {image.name!r} has it."
            )
        name = PurePosixPath(image.split, label, image.name)
        target = stage / name
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        # A link that is there already must never be written through: it leads to somebody's photo.
        if os.path.lexists(target):
            raise UserError(
                f"dataset.archive: two images would be called {name.as_posix()!r} in the cache. Rename one of them."
            )
        if isinstance(image.content, Path):
            _link(image.content, target)
        else:
            with target.open("xb") as file:
                file.write(image.content)
        if image.group:
            groups[name.as_posix()] = image.group
        count += 1
    if groups:
        names = sorted(groups) if len(groups) == count else sorted(
            path.relative_to(stage).as_posix() for path in stage.rglob("*") if not path.is_dir()
        )  # fmt: skip
        pd.DataFrame({"file": names, "group": [groups.get(name, "") for name in names]}).to_csv(
            stage / GROUPS, index=False
        )
    return count


def _link(file: Path, target: Path) -> None:
    try:
        target.symlink_to(file)
    except (PermissionError, NotImplementedError):
        # Windows may not allow links.
        shutil.copyfile(file, target)


def _read_csv(path: Path, _files: Iterable[Path]) -> Iterator[_Image]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        problem = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise UserError(
            f"dataset.archive: {path} must be a table of images as CSV, in UTF-8, with the columns file and label; it cannot "
            f"be read: {problem}. Write it again as CSV."
        ) from error
    missing = [name for name in CSV_COLUMNS if name not in table]
    if missing or table.empty:
        raise UserError(
            f"dataset.archive: {path} must have the columns file and label, may have split and group, and needs a row for each "
            f"image; received {', '.join(map(str, table.columns)) or 'no columns'}, {plural(len(table), 'row')}."
        )
    for name in ("split", "group"):
        if name not in table:
            table[name] = ""
    _require_files(path, table)
    splits = _read_splits(path, table["split"].tolist())
    top = path.parent.resolve()
    for number, (file, label, group) in enumerate(zip(table["file"], table["label"], table["group"], strict=True)):
        # Files of the same name in two folders stay two files, and a name says where its image is.
        name = file.strip("/").replace("../", "").replace("/", "__")
        if len(name.encode()) > LONGEST_NAME:
            name = f"{hashlib.sha256(file.encode()).hexdigest()[:16]}{PurePosixPath(file).suffix}"
        yield _Image(name, label, splits[number], group, top / file)


def _require_files(path: Path, table: pd.DataFrame) -> None:
    top, files = path.parent, table["file"]
    checks = {
        f"whose name does not end like an image's ({', '.join(sorted(IMAGE_SUFFIXES))})":
            [file for file in files if not is_image_name(PurePosixPath(file).name)],
        "listed twice": files[files.duplicated()].tolist(),
        "without a label": files[table["label"].str.strip() == ""].tolist(),
        f"not there, relative to {top.resolve()}": [file for file in files if not os.path.lexists(top / file)],
    }  # fmt: skip
    for problem, bad in checks.items():
        if bad:
            raise UserError(
                f"dataset.archive: {path}: {plural(len(bad), 'file')} {problem}: {', '.join(name_some(bad))}."
            )


def _read_splits(path: Path, values: list[str]) -> list[str]:
    """Returns the folder of each row's split; "" if none is given."""
    given = [value.strip().lower() for value in values]
    if not any(given):
        return given
    strange = sorted({value for value in given if value not in FOLDER_OF})
    if strange:
        raise UserError(
            f"dataset.archive: the column split of {path} must have {', '.join(FOLDER_OF)} in all rows or in none, received also "
            f"{', '.join(map(repr, strange[:MOST_NAMED]))}."
        )
    return [FOLDER_OF[value] for value in given]


def _name_split(top: Path, file: Path) -> str:
    """Returns the folder of the split that a shard's name gives; "" for none."""
    found = _SPLIT_WORD.findall(file.relative_to(top).as_posix() if file != top else file.name)
    return FOLDER_OF[found[-1].lower()] if found else ""


def _require_splits(path: Path, splits: dict[Path, str]) -> None:
    without = [file.name for file, split in splits.items() if not split]
    if without and any(splits.values()):
        raise UserError(
            f"dataset.archive: the names of some files in {path} say train, validation or test, but not those of "
            f"{', '.join(name_some(without))}. Rename them, or none of the others."
        )


def _suffix_of(content: bytes) -> str:
    return next((suffix for begin, suffix in _FORMATS if content.startswith(begin)), ".jpg")


def _read_parquet(path: Path, files: list[Path]) -> Iterator[_Image]:
    import pyarrow
    import pyarrow.parquet as pq

    splits = {file: _name_split(path, file) for file in files}
    _require_splits(path, splits)
    try:
        opened = [pq.ParquetFile(file) for file in files]
        total = sum(each.metadata.num_rows for each in opened)
        with reported_progress("reading", total, "images") as advance:
            number = 0
            for file, each in zip(files, opened, strict=True):
                columns = _ParquetColumns(file, each.schema_arrow)
                for batch in each.iter_batches(ROWS_AT_ONCE, columns=columns.wanted):
                    for row in batch.to_pylist():
                        yield columns.read_row(row, splits[file], number)
                        number += 1
                    advance(batch.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"dataset.archive: {path} cannot be read as Parquet: {str(error).splitlines()[0]}.") from error


class _ParquetColumns:
    """Which columns of a Parquet file have the images, their labels, splits and groups.

    Args:
        file: the file.
        schema: Arrow's.

    Raises:
        UserError: it has no column of images or of labels, or several.
    """

    def __init__(self, file: Path, schema: Any) -> None:
        import pyarrow as pa

        self._file = file
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
        images = [name for name, kind in kinds.items() if kind == "Image"] or [
            each.name for each in schema
            if pa.types.is_binary(each.type) or pa.types.is_large_binary(each.type)
            or (pa.types.is_struct(each.type) and each.type.get_field_index("bytes") >= 0)
        ]  # fmt: skip
        labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        labels = [name for name in LABELS if name in (labels or schema.names)][:1] or labels
        if len(images) != 1 or len(labels) != 1:
            raise UserError(
                f"dataset.archive: {file} needs one column with the bytes of images, and a column {' or '.join(LABELS)} (or one "
                f"that Hugging Face calls ClassLabel); received {', '.join(schema.names)}."
            )
        self.image, self.label = images[0], labels[0]
        self._names = features.get(self.label, {}).get("names")
        self._more = [name for name in ("split", "group") if name in schema.names]
        self.wanted = [self.image, self.label, *self._more]

    def read_row(self, row: dict[str, Any], split: str, number: int) -> _Image:
        """Returns the image of a row.

        Args:
            row: the values by column.
            split: that of the file.
            number: of the row, among all files.
        """
        content, label = row[self.image], row[self.label]
        name = ""
        if isinstance(content, dict):
            name, content = PurePosixPath(content.get("path") or "").name, content["bytes"]
        if content is None or label is None:
            raise UserError(
                f"dataset.archive: row {number:,} in {self._file} has no {'label' if content else 'image'}."
            )
        if self._names and isinstance(label, int):
            label = self._names[label]
        if "split" in self._more:
            (split,) = _read_splits(self._file, [str(row["split"] or "")])
        name = f"{number:08d}{'-' + name if is_image_name(name) else _suffix_of(content)}"
        return _Image(name, str(label), split, str(row.get("group") or ""), content)


def _read_tars(path: Path, files: list[Path]) -> Iterator[_Image]:
    splits = {file: _name_split(path, file) for file in files}
    _require_splits(path, splits)
    places = [folder / "classnames.txt" for folder in (path if path.is_dir() else path.parent, files[0].parent)]
    names = next((place.read_text("utf-8").splitlines() for place in places if place.is_file()), None)
    with reported_progress("reading", len(files), "files") as advance:
        for number, file in enumerate(files):
            try:
                yield from _read_tar(file, number, splits[file], names)
            except (tarfile.TarError, EOFError) as error:
                raise UserError(f"dataset.archive: {file} cannot be read as a tar file: {error}.") from error
            advance(1)


def _read_tar(file: Path, number: int, split: str, names: list[str] | None) -> Iterator[_Image]:
    """Yields the images of a shard. The members of a sample follow each other, and have its key before their first dot."""
    sample: dict[str, bytes] = {}
    current = ""
    with tarfile.open(file, "r|*") as shard:
        for member in shard:
            opened = shard.extractfile(member) if member.isfile() else None
            if opened is None:
                continue
            folder, _, base = member.name.rpartition("/")
            key, _, ending = base.partition(".")
            key = f"{folder}/{key}"
            if key != current and sample:
                yield _read_sample(file, number, current, sample, split, names)
                sample = {}
            current = key
            sample[ending.lower()] = opened.read()
    if sample:
        yield _read_sample(file, number, current, sample, split, names)


def _read_sample(
    file: Path, number: int, key: str, sample: dict[str, bytes], split: str, names: list[str] | None
) -> _Image:
    """Returns the image of a sample of a shard: its label is in .cls, or in .json as label."""
    endings = [ending for ending in sample if f".{ending}" in IMAGE_SUFFIXES]
    described: dict[str, Any] = {}
    if "json" in sample:
        with contextlib.suppress(ValueError, UnicodeDecodeError):
            read = json.load(io.BytesIO(sample["json"]))
            described = read if isinstance(read, dict) else {}
    label = sample["cls"].decode(errors="replace").strip() if "cls" in sample else str(described.get("label", ""))
    if len(endings) != 1 or not label:
        raise UserError(
            f"dataset.archive: sample {key.strip('/')!r} of {file} needs one image and a label, in .cls or as label in .json; "
            f"received {', '.join(f'.{ending}' for ending in sample)}."
        )
    if names and label.isdecimal():
        label = names[int(label)] if int(label) < len(names) else label
    name = f"{number:05d}-{key.strip('/').replace('/', '__')}.{endings[0]}"
    return _Image(name, label, split, str(described.get("group", "")), sample[endings[0]])
