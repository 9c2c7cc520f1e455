"""Downloads a file from a URL, and copes with networks that are missing, slow or unreliable."""

import hashlib
import logging
import os
import queue
import re
import socket
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from catdog.data.progress import reported_progress
from catdog.data.staging import locked, require_free_space

logger = logging.getLogger(__name__)

# From the name lookup to the headers of the response. With the imports before it, a user gets the message within 20 s.
CONNECT_TIMEOUT_S = 10.0
# The same after an interruption; together with the pauses, all reconnections end within 20 s.
RECONNECT_TIMEOUT_S = 5.0
RECONNECT_PAUSES_S = (0.5, 1.0, 2.0)
# The longest time without data in the middle of a response.
STALL_TIMEOUT_S = 20.0

_CHUNK_BYTES = 2**16


class UnreachableError(OSError):
    """There is no response or no content from a URL; the message is a short reason without the URL."""


class BrokenDownloadError(UnreachableError):
    """A download was interrupted after it had begun; the next attempt resumes it."""


def check_reachable(url: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Raises an error unless the host of `url` responds; a 404 counts as a response.

    Args:
        url: an http(s) URL, which may be a folder's.
        timeout_s: the longest time that this takes, including name lookup and redirects.

    Raises:
        UnreachableError: there is no response; an OSError whose message is a short reason.
    """
    _request(url, {}, timeout_s).close()


def download_file(url: str, folder: Path) -> Path:
    """Returns the file that `url` was downloaded to, now or earlier; the file is never deleted.

    An interrupted download is resumed where it stopped, by this call and by later ones. If several processes want the same URL
    at the same time, only one downloads it.

    Args:
        url: an http(s) URL.
        folder: where the file is kept.

    Returns:
        A file in `folder`, named after the URL.

    Raises:
        UnreachableError: there was no response within CONNECT_TIMEOUT_S, or the response was an error.
        BrokenDownloadError: the download was interrupted, and all attempts to resume it failed.
        UserError: the folder cannot be written, or its disk is full.
    """
    name = re.sub(r"[^\w.-]+", "_", unquote(urlsplit(url).path).rpartition("/")[2])[-80:] or "file"
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if target.exists():
        return target
    with locked(target, "downloading the same file"):
        if not target.exists():  # else another process has downloaded it while this one waited
            start_s = time.monotonic()
            part = target.with_name(target.name + ".part")
            _download_all(url, part)
            part.replace(target)
            _validator_file(part).unlink(missing_ok=True)
            size_mb = target.stat().st_size / 1e6
            logger.info("downloaded %.1f MB in %.1f s to %s", size_mb, time.monotonic() - start_s, target)
    return target


def _download_all(url: str, part: Path) -> None:
    for attempt, pause_s in enumerate((0.0, *RECONNECT_PAUSES_S)):
        time.sleep(pause_s)
        try:
            _download_rest(url, part, RECONNECT_TIMEOUT_S if attempt else CONNECT_TIMEOUT_S)
            return
        except UnreachableError as error:
            if attempt == 0 and not isinstance(error, BrokenDownloadError):
                raise  # nothing has arrived yet: report it at once
            problem = error
            logger.info("the download broke off: %s", error)
    raise BrokenDownloadError(*problem.args) from problem


def _download_rest(url: str, part: Path, timeout_s: float) -> None:
    """Downloads what `part` lacks, or all of it if the server sends another version or no ranges."""
    headers = {"Accept-Encoding": "identity"}  # so that sizes and ranges count the bytes of the file
    have = part.stat().st_size if part.exists() and _validator_file(part).exists() else 0
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _validator_file(part).read_text("utf-8")}
    with _request(url, headers, timeout_s) as response:
        refused_part = have and response.status_code == requests.codes.range_not_satisfiable
        if response.status_code not in (requests.codes.ok, requests.codes.partial_content) and not refused_part:
            raise UnreachableError(f"the server answers {response.status_code} {response.reason}")
        start, total = _extent(response)
        if start not in (0, have):
            if not have:
                raise UnreachableError("the server sends a range of the file that was not requested")
            part.unlink()  # the server does not have this range: start over
            _download_rest(url, part, timeout_s)
            return
        if start == 0:
            part.write_bytes(b"")  # before the validator, so that a kill in between cannot mix two versions
            _write_validator(part, response)
        if total is not None:
            require_free_space(part.parent, total - start)
        with part.open("ab") as file, reported_progress("downloading", total, "bytes", done=start) as advance:
            try:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    advance(len(chunk))
            except requests.RequestException as error:
                raise BrokenDownloadError(_reason(error)) from error
            file.flush()
            os.fsync(file.fileno())  # after a power loss, an incomplete file must not count as complete
            if total is not None and file.tell() != total:
                raise BrokenDownloadError(f"only {file.tell():,} of {total:,} bytes arrived")


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Returns where in the file the response begins (-1: unknown) and the length of the whole file (None: unknown)."""
    if response.status_code == requests.codes.ok:
        encoded = "Content-Encoding" in response.headers  # the length is then that of the encoded bytes
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() and not encoded else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (int(found[1]), int(found[2])) if found else (-1, None)


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".validator")


def _write_validator(part: Path, response: requests.Response) -> None:
    """Stores what identifies this version of the file; without it, the download cannot be resumed.

    Source: RFC 9110, 13.1.5: If-Range takes a strong ETag or a date.
    """
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if validator and "Content-Encoding" not in response.headers:
        _validator_file(part).write_text(validator, "utf-8")
    else:
        _validator_file(part).unlink(missing_ok=True)


def _request(url: str, headers: dict[str, str], timeout_s: float) -> requests.Response:
    """Returns the response to a GET request with any status, when its headers have arrived but not its body.

    The request runs in a thread, which is abandoned after the timeout. A socket's own timeout is not enough: it applies to each
    address of the host in turn, and does not cover the name lookup.
    """
    outcomes: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()
    abandoned = threading.Event()

    def ask() -> None:
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=(timeout_s, STALL_TIMEOUT_S))
        except Exception as error:
            outcomes.put(error)
        else:
            outcomes.put(response)
            if abandoned.is_set():
                response.close()

    threading.Thread(target=ask, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=timeout_s)
    except queue.Empty:
        abandoned.set()
        outcome = requests.Timeout()
    if isinstance(outcome, requests.Timeout):
        raise UnreachableError(f"no answer within {timeout_s:g} s") from outcome
    if isinstance(outcome, Exception):
        raise UnreachableError(_reason(outcome)) from outcome
    return outcome


def _reason(error: BaseException) -> str:
    """Returns the operating system's reason from a chain of exceptions, or else the message of the first one."""
    reason = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return f"its host name is not found ({cause.strerror})"
        if isinstance(cause, TimeoutError):
            reason = "it stopped answering"
        elif isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return reason
