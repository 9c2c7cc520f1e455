"""Turns a URL, a zip or a folder into the local folder that holds the images."""

import errno
import hashlib
import logging
import lzma
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from catdog.config.suggestions import ask, suggest_path
from catdog.data.download import BrokenDownloadError, UnreachableError, check_reachable, download_file
from catdog.data.images import describe_hidden, is_hidden_image, is_image_file
from catdog.data.progress import reported_progress
from catdog.data.staging import locked, require_free_space, staged
from catdog.system.errors import UserError

__all__ = ["check_reachable", "fetch_archive", "find_images_root"]

logger = logging.getLogger(__name__)

_WAYS_OUT = (
    "Set dataset.archive=PATH (or the environment variable CATDOG_ARCHIVE) to a local zip or folder,"
    " or use dataset=synthetic, which needs no download."
)
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError)
_REFUSED_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class _UnsoundZipError(Exception):
    """A file is not a zip, is damaged, or is not safe to extract; the message continues a sentence "the file ..."."""


def fetch_archive(location: str, cache: Path) -> Path:
    """Returns the folder that holds the images of `location`; downloads and extracts them into the cache if necessary.

    Args:
        location: an http(s) URL of a zip, a local zip or a local folder.
        cache: the folder of the cache. Downloads are kept in its `downloads/`, extracted zips in its `extracted/`.

    Returns:
        The folder that directly holds the folders of the splits or of the classes.

    Raises:
        UserError: there is nothing at `location`, it cannot be reached, it is not a valid zip, or the cache cannot be written.
    """
    if re.match(r"https?://", location, re.IGNORECASE):
        return find_images_root(_fetch_url(location, cache))
    if "://" in location:
        raise UserError(f"dataset.archive: {location} is not an http or https URL. {_WAYS_OUT}")
    path = Path(location).expanduser()
    if not location or not path.exists():
        raise UserError(
            f"dataset.archive: there is no file or folder {location!r}.{ask([suggest_path(path)])} {_WAYS_OUT}"
        )
    try:
        return find_images_root(path if path.is_dir() else _extract(path, cache))
    except _UnsoundZipError as error:
        raise UserError(f"dataset.archive: {path} {error}. {_WAYS_OUT}") from error
    except PermissionError as error:
        raise UserError(f"dataset.archive: {error.filename} cannot be read: {error.strerror}. {_WAYS_OUT}") from error


def find_images_root(folder: Path) -> Path:
    """Returns the folder at or below `folder` that directly holds the folders of the splits or of the classes.

    Zips often wrap everything in one more folder. A lone subfolder is such a wrapper when it holds folders itself; one
    that holds only images is a class.
    """
    while True:
        subfolders = [path for path in folder.iterdir() if path.is_dir() and not _is_clutter(path.name)]
        has_images = any(is_image_file(path) and path.is_file() for path in folder.iterdir())
        if len(subfolders) != 1 or has_images:
            return folder
        if not any(path.is_dir() and not _is_clutter(path.name) for path in subfolders[0].iterdir()):
            return folder
        folder = subfolders[0]


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _fetch_url(url: str, cache: Path) -> Path:
    parts = urlsplit(url)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()  # without secrets
    try:
        archive = download_file(url, cache / "downloads")
    except BrokenDownloadError as error:
        message = f"the download of {shown} broke off: {error}. Run the same command again to resume it. Or else:"
        raise UserError(f"dataset.archive: {message} {_WAYS_OUT}") from error
    except UnreachableError as error:
        raise UserError(f"dataset.archive: {shown} cannot be downloaded: {error}. {_WAYS_OUT}") from error
    try:
        return _extract(archive, cache)
    except _UnsoundZipError as error:
        archive.unlink(missing_ok=True)
        message = (
            f"the file from {shown} {error}. It was removed; run the same command again to download it anew. Or else:"
        )
        raise UserError(f"dataset.archive: {message} {_WAYS_OUT}") from error


def _extract(archive: Path, cache: Path) -> Path:
    """Returns the folder that `archive` was extracted to, now or earlier."""
    with _damage_named(archive), zipfile.ZipFile(archive) as source:
        entries = _safe_entries(source)
        folder = cache / "extracted" / _content_key(entries)
        if not _is_extracted(folder, entries):
            with locked(folder, f"extracting {archive.name}"):
                if not _is_extracted(folder, entries):  # another process may have done it while this one waited
                    if folder.exists():
                        logger.warning("files in %s were changed or removed: extracting it again", folder)
                    _extract_into(folder, source, entries)
    return folder


def _extract_into(folder: Path, source: zipfile.ZipFile, entries: Mapping[PurePosixPath, zipfile.ZipInfo]) -> None:
    start_s = time.monotonic()
    size_bytes = sum(info.file_size for info in entries.values())
    with staged(folder) as stage, reported_progress("extracting", len(entries), "files") as advance:
        # zipfile reads no more of an entry than its declared size, so this check also protects from zip bombs.
        require_free_space(folder.parent, size_bytes)
        for path, info in entries.items():
            target = stage / path
            try:
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with source.open(info) as packed, target.open("xb") as file:
                        shutil.copyfileobj(packed, file)
            except (FileExistsError, NotADirectoryError) as error:
                raise _UnsoundZipError(f"holds more than one entry for the path {str(path)!r} on this disk") from error
            except OSError as error:
                if error.errno in _REFUSED_NAME:
                    raise _UnsoundZipError(f"holds a name that this disk refuses: {str(path)!r}") from error
                raise
            advance(1)
    hidden = [_entry_name(info) for info in source.infolist() if is_hidden_image(PurePosixPath(_entry_name(info)))]
    if hidden:
        logger.info("%s", describe_hidden(hidden))
    duration_s = time.monotonic() - start_s
    logger.info(
        "extracted %s files, %.1f MB, in %.1f s to %s", f"{len(entries):,}", size_bytes / 1e6, duration_s, folder
    )


def _safe_entries(source: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Returns the entries to extract by their path below the folder.

    Raises:
        _UnsoundZipError: an entry would leave the folder, is a link or a device, or is encrypted.
    """
    entries = {}
    for info in source.infolist():
        name = _entry_name(info)
        path = PurePosixPath(name)
        if "\\" in name or name.startswith("/") or ".." in path.parts or re.match("[A-Za-z]:", name):
            raise _UnsoundZipError(f"holds an entry that may leave its folder: {name!r}")
        file_type = stat.S_IFMT(info.external_attr >> 16)
        if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _UnsoundZipError(f"holds a link or a device: {name!r}")
        if info.flag_bits & 1:
            raise _UnsoundZipError("is encrypted")
        if not any(_is_clutter(part) for part in path.parts) and path.parts:
            entries[path] = info
    if not entries:
        raise _UnsoundZipError("holds no files")
    return entries


def _entry_name(info: zipfile.ZipInfo) -> str:
    # macOS writes names in UTF-8 without setting its flag; zipfile then reads them as code page 437.
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _content_key(entries: Mapping[PurePosixPath, zipfile.ZipInfo]) -> str:
    # The CRC and size of every file: the key changes with any content, but not with the archive's path or time, and it
    # needs no reading of the files.
    listing = sorted(f"{path}\0{info.CRC}\0{info.file_size}\n" for path, info in entries.items())
    return hashlib.sha256("".join(listing).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _is_extracted(folder: Path, entries: Mapping[PurePosixPath, zipfile.ZipInfo]) -> bool:
    if not folder.exists():
        return False
    try:
        return all(info.is_dir() or (folder / path).stat().st_size == info.file_size for path, info in entries.items())
    except OSError:
        return False


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turns zipfile's exceptions about a file's content into _UnsoundZipError."""
    try:
        yield
    except NotImplementedError as error:  # a compression method that zipfile lacks, such as Deflate64
        raise _UnsoundZipError(f"cannot be extracted: {error}") from error
    except _DAMAGE as error:
        with archive.open("rb") as file:
            is_zip = file.read(2) == b"PK"  # the first bytes of every entry; the end of the file may be missing
        raise _UnsoundZipError(f"is cut short or damaged ({error})" if is_zip else "is not a zip archive") from error
    except OSError as error:
        if error.errno is None:  # bz2 raises this for damaged data
            raise _UnsoundZipError(f"is cut short or damaged ({error})") from error
        raise
