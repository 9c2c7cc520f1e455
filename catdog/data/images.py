"""Decodes an image file of any common format, or gives the reason why it cannot be read."""

import errno
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePath
from typing import IO

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from catdog.system.wording import agree, plural

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)

# The most hidden files that a message names.
MOST_HIDDEN = 3

# Part of the key of every decoded cache. Increase it when `decode_image` returns other pixels for any file.
DECODER_VERSION = f"1/pillow-{PIL.__version__.split('.')[0]}"

# Above this, Pillow itself refuses an image as a decompression bomb: 13,377 x 13,377, or 20,000 x 8,947.
MAX_PIXELS = 178_956_970

# Pillow recognizes 40 formats by content. Some of them run other programs (EPS: Ghostscript), and some accept nearly any bytes as
# an image (TGA).
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

# Larger images are decoded one at a time: otherwise each thread could need the memory of the largest. Measured with Pillow 13, an
# image takes up to 20 bytes a pixel while it is decoded (WebP with transparency; PNG and TIFF 12, a progressive JPEG 6).
LARGE_PIXELS = 16_000_000
_one_large_image = threading.Lock()

# 16-bit grey is scaled this many rows at a time, because the arithmetic takes several times the memory of the pixels.
_BAND_ROWS = 64

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(Exception):
    """A file cannot be read as an image; the message is a short reason without the path.

    Attributes:
        lasting: whether the reason is the file's content, so that it remains until the content changes. A missing file, or a
            lack of permission or memory, may be only temporary.
    """

    def __init__(self, reason: str, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


def is_image_file(path: Path) -> bool:
    """Returns whether `path` has the name of an image file; it does not access the disk.

    Hidden files do not count: neither `.DS_Store` nor the `._photo.jpg` that macOS creates beside `photo.jpg`.
    """
    return is_image_name(path.name)


def is_image_name(name: str) -> bool:
    """Returns whether a file of this name, without folders, counts as an image file."""
    # Much faster than os.path.splitext.
    before, dot, after = name.rpartition(".")
    return before != "" and name[0] != "." and (dot + after).lower() in IMAGE_SUFFIXES


def is_hidden_image(path: PurePath) -> bool:
    """Returns whether `path` has the name of an image file but for a dot in front, by which it counts as hidden.

    The `._photo.jpg` of macOS is no image. It does not access the disk.
    """
    return is_hidden_name(path.name)


def is_hidden_name(name: str) -> bool:
    """Returns whether a file of this name, without folders, would count as an image but for a dot in front."""
    return name.startswith(".") and not name.startswith("._") and is_image_name(name.lstrip("."))


def describe_hidden(files: Sequence[str]) -> str:
    """Returns the sentence about images that are left out because their names begin with a dot; the files are not empty."""
    number = len(files)
    begin, are = agree(number, "whose name begins", "whose names begin"), agree(number, "is", "are")
    kind, them = agree(number, "a hidden file", "hidden files"), agree(number, "it", "them")
    more = ", ..." if number > MOST_HIDDEN else ""
    return (
        f"{plural(number, 'image')} {begin} with a dot {are} left out, as {kind}; rename {them} to use {them}: "
        + ", ".join(map(repr, files[:MOST_HIDDEN])) + more
    )  # fmt: skip


def count_pixels(source: IO[bytes]) -> int:
    """Returns how many pixels an open file declares, without decoding them; 0 if `decode_image` would refuse the file at once."""
    try:
        with _quiet_pillow(), Image.open(source, formats=_FORMATS) as image:
            return image.width * image.height
    except Exception:  # as in `decode_image`
        return 0


def decode_image(source: Path | IO[bytes], height: int, width: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the image in a file as the model gets it, before any preprocessing.

    The first frame is rotated upright by its EXIF orientation, resized with antialiased bilinear resampling (without keeping the
    aspect ratio), and put on a white background if it is transparent, as viewers show it. 16-bit grey is scaled from its range, 0
    to 65535, to 8 bits. Colour profiles are ignored. The same file gives the same pixels on every call. The function is
    thread-safe.

    Args:
        source: the path of an image file, or one that is open; its format is recognized by its content.
        height: rows of the result.
        width: columns of the result.
        max_pixels: the largest image that is decoded.

    Returns:
        uint8 (height, width, 3), RGB in [0, 255].

    Raises:
        UnreadableImageError: the file cannot be read, is not an image, is damaged, or has more than `max_pixels`.
    """
    try:
        with _quiet_pillow(), Image.open(source, formats=_FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise UnreadableImageError(f"{image.width} x {image.height} pixels; the limit is {max_pixels:,}")
            # For JPEG only: decodes at 1/2, 1/4 or 1/8 if the result is still at least twice the target size. Both sides get
            # the longer one as a target, because the image may be rotated later.
            image.draft(None, (2 * max(height, width), 2 * max(height, width)))
            # Most JPEGs are decoded row by row in that smaller size. A progressive one is held in full before.
            held = pixels if image.info.get("progressive") else image.width * image.height
            with _one_large_image if held > LARGE_PIXELS else nullcontext():
                image.load()
                return np.array(_upright_rgb(image, height, width))
    except UnreadableImageError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: ValueError, struct.error, KeyError
        raise _unreadable(source, error) from error


def _upright_rgb(image: Image.Image, height: int, width: int) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    size = (width, height)
    if turn is not None:  # rotated after the resampling, when there are fewer pixels
        swaps = turn not in (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
        )
        image = _resampled(image, size[::-1] if swaps else size).transpose(turn)
    else:
        image = _resampled(image, size)
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _resampled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Returns `image` as L, RGB or RGBA at `size`; in RGBA images, colours are weighted by their opacity."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = _scaled_to_8_bits(image)
    elif image.mode in ("I", "F"):
        raise UnreadableImageError("32-bit pixels, which have no standard range; only 8 and 16 bits are supported")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.resize(size, Image.Resampling.BILINEAR)


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Returns 16-bit grey in 8 bits; Pillow's own conversion clips at 255 instead of scaling."""
    scaled = np.empty((image.height, image.width), np.uint8)
    for top in range(0, image.height, _BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
        scaled[top : top + _BAND_ROWS] = (np.asarray(band).astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF is common in photos whose pixels are fine
        return 1


def _unreadable(source: Path | IO[bytes], error: Exception) -> UnreadableImageError:
    match error:
        case FileNotFoundError():
            return UnreadableImageError("no such file", lasting=False)
        case PermissionError():
            return UnreadableImageError("no permission to read it", lasting=False)
        case IsADirectoryError():
            return UnreadableImageError("a folder, not a file", lasting=False)
        case MemoryError():
            return UnreadableImageError("not enough memory to decode it", lasting=False)
        case UnidentifiedImageError():
            empty = (source.stat().st_size if isinstance(source, Path) else source.seek(0, 2)) == 0
            return UnreadableImageError("the file is empty" if empty else "not an image in a supported format")
        case Image.DecompressionBombError():
            return UnreadableImageError(f"too many pixels; the limit is {MAX_PIXELS:,}")
        case OSError(errno=int()) if (
            error.errno != errno.EINVAL
        ):  # EINVAL: damaged content made Pillow seek to a bad offset
            return UnreadableImageError(f"cannot be read: {error.strerror}", lasting=False)
    truncated = "truncated" in str(error).lower()
    return UnreadableImageError("the file is cut short" if truncated else f"the file is damaged ({error})")


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters = warnings.catch_warnings()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Suppresses Pillow's warnings during the block: a file is readable or it is not.

    `warnings.catch_warnings` alone is not thread-safe: the thread that enters last may restore the filters of others. Here the
    first thread that enters sets the filter, and the last one that leaves removes it.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.__exit__(None, None, None)
