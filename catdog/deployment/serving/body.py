"""Reads the photos of a request, in any of the ways that clients send them, within limits."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

READ_S = 60.0
# A client that sends too much reads the answer only once it has sent it, so this much is thrown away before the answer.
DRAINED = 16
# How many bodies of the largest size are held at a time.
BODIES = 8
RAW = ("application/octet-stream", "")
WAYS = "multipart/form-data with files, image/jpeg and other image types with one file, or application/json"


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: the HTTP status, 400 to 499.
        detail: why, in one sentence.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Photo:
    """A file of a request.

    Attributes:
        name: as the client calls it; "" if it does not.
        content: the file's bytes.
    """

    name: str
    content: bytes

    def __post_init__(self) -> None:
        # JSON may name half of a character, which no answer could repeat.
        object.__setattr__(self, "name", self.name.encode("utf-8", "replace").decode())


class BodyReader:
    """Reads requests, and holds no more of them in memory than a few of the largest.

    Args:
        max_bytes: the largest body.
        max_photos: the most photos in one.
    """

    def __init__(self, max_bytes: int, max_photos: int) -> None:
        self.max_bytes = max_bytes
        self.max_photos = max_photos
        self._held = 0

    @contextmanager
    def reserve(self, request: Request) -> Iterator[None]:
        """Holds memory for a body until the block ends.

        Raises:
            RequestError: there is none left.
        """
        declared = request.headers.get("content-length", "")
        size = min(int(declared), self.max_bytes) if declared.isdigit() else self.max_bytes
        if self._held + size > BODIES * self.max_bytes:
            raise RequestError(429, "too many large requests at the same time; try again in a moment")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def read(self, request: Request) -> list[Photo]:
        """Returns the photos of a request.

        Raises:
            RequestError: the body is too large, slow, malformed, or of another type.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            async with asyncio.timeout(READ_S):
                body = await self._read_body(request)
        except TimeoutError:
            raise RequestError(408, f"the request did not arrive within {READ_S:.0f} s") from None
        except ClientDisconnect:
            raise RequestError(400, "the request was cut short") from None
        if kind == "multipart/form-data":
            photos = await self._read_form(request, body)
        elif kind == "application/json":
            photos = _read_json(body)
        elif kind.startswith("image/") or kind in RAW:
            photos = [Photo("", body)]
        else:
            raise RequestError(415, f"content-type must be {WAYS}")
        if not photos:
            raise RequestError(400, "the request has no photo")
        if len(photos) > self.max_photos:
            raise RequestError(413, f"{len(photos)} photos; the limit is {self.max_photos} a request")
        return photos

    async def _read_body(self, request: Request) -> bytes:
        body, length = bytearray(), 0
        async for chunk in request.stream():
            length += len(chunk)
            if length <= self.max_bytes:
                body += chunk
            else:
                body.clear()
            if length > DRAINED * self.max_bytes:
                break
        if length > self.max_bytes:
            raise RequestError(413, f"the request is larger than {self.max_bytes / 1e6:g} MB")
        return bytes(body)

    async def _read_form(self, request: Request, body: bytes) -> list[Photo]:
        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        parser = MultiPartParser(request.headers, stream(), max_files=self.max_photos, max_fields=100)
        # In memory: the body is there already, and no file of a client is to lie on the disk.
        parser.spool_max_size = self.max_bytes
        try:
            form = await parser.parse()
            return [
                Photo(item.filename or "", await item.read())
                for _, item in form.multi_items()
                if not isinstance(item, str)
            ]
        except MultiPartException as error:
            if "Too many files" in error.message:
                raise RequestError(413, f"more than {self.max_photos} photos in a request") from None
            raise RequestError(400, "the multipart form is malformed") from None
        except (ValueError, KeyError, UnicodeError):
            raise RequestError(400, "the multipart form is malformed") from None
        finally:
            # Starlette (1.10) leaves those of a form that is cut short.
            for file in getattr(parser, "_files_to_close_on_error", []):
                file.close()


def _read_json(body: bytes) -> list[Photo]:
    try:
        document = json.loads(body)
        items = document["photos"]
        assert isinstance(items, list)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise RequestError(400, 'JSON must be {"photos": [{"name": "a.jpg", "data": "BASE64"}, ...]}') from None
    photos = []
    for number, item in enumerate(items):
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
