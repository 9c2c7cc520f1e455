"""Reads the photos of a request, in any of the ways that clients send them, within limits."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

# A body must have arrived after READ_S, and some of it in each IDLE_S. Shorter than the server's last GRACE_S.
READ_S = 25.0
IDLE_S = 10.0
# A client that sends too much reads the answer only once it has sent it, so this much is thrown away before the answer.
DRAINED = 16
# How many bodies of the largest size are held at a time, and how many are parsed, which takes up to five times their size more.
BODIES = 8
PARSERS = 2
# The most of a file's name that an answer repeats; file systems have the same limit.
NAME_LENGTH = 255
# JSON with more values than this for each photo that it may have is not parsed: a value takes up to 20 times its length in memory.
JSON_VALUES = 1000
RAW = ("application/octet-stream", "")
WAYS = "multipart/form-data with files, image/jpeg and other image types with one file, or application/json"


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: the HTTP status.
        detail: why, in one sentence.
        headers: what else the answer says.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


@dataclass(frozen=True)
class Photo:
    """A file of a request.

    Attributes:
        name: as the client calls it, cut to NAME_LENGTH; "" if it does not.
        content: the file's bytes.
    """

    name: str
    content: bytes

    def __post_init__(self) -> None:
        # JSON may name half of a character, which no answer could repeat.
        object.__setattr__(self, "name", self.name[:NAME_LENGTH].encode("utf-8", "replace").decode())


class Hold:
    """The memory that a request holds, out of what all may hold together.

    Args:
        reader: where it is held.
    """

    def __init__(self, reader: "BodyReader") -> None:
        self._reader = reader
        self.size = 0

    def resize(self, size: int) -> None:
        """Says how many bytes it is from now on."""
        self._reader.held += size - self.size
        self.size = size


class BodyReader:
    """Reads requests, and holds no more of them in memory than a few of the largest.

    Args:
        max_bytes: the largest body.
        max_photos: the most photos in one.
    """

    def __init__(self, max_bytes: int, max_photos: int) -> None:
        self.max_bytes = max_bytes
        self.max_photos = max_photos
        self.held = 0
        self._parsers = ThreadPoolExecutor(PARSERS, thread_name_prefix="body")

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """Keeps account of a request's memory until the block ends."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            hold.resize(0)

    async def read(self, request: Request, hold: Hold) -> list[Photo]:
        """Returns the photos of a request.

        Raises:
            RequestError: the body is too large, slow, malformed, or of another type, or too many others are held.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await self._read_body(request, hold)
        if kind == "multipart/form-data":
            photos = await self._parse(_read_form, request.headers, body, self.max_photos)
        elif kind == "application/json":
            photos = await self._parse(_read_json, body, self.max_photos)
        elif kind.startswith("image/") or kind in RAW:
            photos = [Photo("", body)]
        else:
            raise RequestError(415, f"content-type must be {WAYS}")
        if not photos:
            raise RequestError(400, "the request has no photo")
        return photos

    async def _parse(self, parse: Callable[..., list[Photo]], *arguments: Any) -> list[Photo]:
        # In a thread: other requests go on meanwhile.
        return await asyncio.get_running_loop().run_in_executor(self._parsers, parse, *arguments)

    async def _read_body(self, request: Request, hold: Hold) -> bytes:
        body, length = bytearray(), 0
        chunks = request.stream()
        loop = asyncio.get_running_loop()
        end = loop.time() + READ_S
        try:
            while True:
                async with asyncio.timeout_at(min(end, loop.time() + IDLE_S)):
                    chunk = await anext(chunks)
                length += len(chunk)
                if length <= self.max_bytes:
                    # Bytes count once they are there: a client that only announces many takes no room from others.
                    if self.held + len(chunk) > BODIES * self.max_bytes:
                        detail = "too many large requests at the same time; try again in a moment"
                        raise RequestError(429, detail, {"Retry-After": "1"})
                    hold.resize(length)
                    body += chunk
                else:
                    body.clear()
                    hold.resize(0)
                if length > DRAINED * self.max_bytes:
                    break
        except StopAsyncIteration:
            pass
        except TimeoutError:
            limits = f"within {READ_S:.0f} s, or stopped for {IDLE_S:.0f} s"
            raise RequestError(408, f"the request did not arrive {limits}") from None
        except ClientDisconnect:
            raise RequestError(400, "the request was cut short") from None
        if length > self.max_bytes:
            raise RequestError(413, f"the request is larger than {self.max_bytes / 1e6:g} MB")
        return bytes(body)


class _FormParser(MultiPartParser):
    """Starlette's parser, which takes a form without an end for a complete one (1.10)."""

    ended = False

    def on_end(self) -> None:
        """Notes that the closing boundary has come."""
        self.ended = True


def _read_form(headers: Headers, body: bytes, max_photos: int) -> list[Photo]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _FormParser(headers, stream(), max_files=max_photos, max_fields=100)
    # In memory: the body is there already, and no file of a client is to lie on the disk.
    parser.spool_max_size = len(body) + 1
    try:
        form = asyncio.run(parser.parse())
        if not parser.ended:
            raise RequestError(400, "the form is cut short")
        return [
            Photo(item.filename or "", item.file.read())
            for _, item in form.multi_items()
            if isinstance(item, UploadFile)
        ]  # fmt: skip
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise RequestError(413, f"more than {max_photos} photos in a request") from None
        raise RequestError(400, "the multipart form is malformed") from None
    except (ValueError, KeyError, UnicodeError):
        raise RequestError(400, "the multipart form is malformed") from None
    finally:
        # Starlette leaves those of a form that is cut short.
        for file in getattr(parser, "_files_to_close_on_error", []):
            file.close()


def _read_json(body: bytes, max_photos: int) -> list[Photo]:
    try:
        # Each value follows one of these.
        if sum(map(body.count, (b",", b"[", b"{"))) > JSON_VALUES * max_photos:
            raise RequestError(413, f"the JSON has too many values for {max_photos} photos")
        items = json.loads(body)["photos"]
        if not isinstance(items, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(400, 'JSON must be {"photos": [{"name": "a.jpg", "data": "BASE64"}, ...]}') from None
    if len(items) > max_photos:
        raise RequestError(413, f"{len(items)} photos; the limit is {max_photos} a request")
    photos = []
    for number, item in enumerate(items, 1):
        named = item if isinstance(item, dict) else {"data": item}
        name, data = named.get("name", ""), named.get("data")
        try:
            if not isinstance(name, str) or not isinstance(data, str):
                raise ValueError
            # A page sends data:image/jpeg;base64,...
            content = base64.b64decode(data.partition(",")[2] if data.startswith("data:") else data, validate=True)
        except (ValueError, binascii.Error):
            raise RequestError(400, f"photo {number} of the JSON is not in base64") from None
        photos.append(Photo(name, content))
    return photos
