"""One file -> pixels, whatever its format, or the reason why not."""

import errno
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)

# Part of the key of every decoded cache. Count up when `decode_image` gives other pixels for any file.
DECODER_VERSION = f"1/pillow-{PIL.__version__.split('.')[0]}"

# What Pillow itself refuses as a decompression bomb: 13,377 x 13,377, or 20,000 x 8,947.
MAX_PIXELS = 178_956_970

# Pillow tells the format from the content and knows 40: some run other programs (EPS: Ghostscript), others take nearly
# any bytes for an image (TGA).
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

# Decoded one at a time, so that memory is not the number of threads times the largest image (4 bytes a pixel, twice).
_LARGE_PIXELS = 16_000_000
_one_large_image = threading.Lock()

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
    """A file that gives no image; the message is a short reason without the path.

    Attributes:
        lasting: whether the reason lies in the file's content, so that it holds until the content changes. A missing
            file or a lack of permission or memory may be mended without that.
    """

    def __init__(self, reason: str, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


def is_image_file(path: Path) -> bool:
    """Returns whether the name of `path` is an image's; the disk is not looked at.

    Hidden files are not, and so neither are `.DS_Store` and the `._photo.jpg` that macOS leaves beside `photo.jpg`.
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def decode_image(path: Path, height: int, width: int) -> np.ndarray:
    """Returns the image in `path` as the model sees it, before any preprocessing.

    The first frame is turned upright as its EXIF orientation says, stretched to the size (the aspect ratio is not kept)
    with antialiased bilinear resampling, and laid on white where it is transparent, as viewers show it. 16-bit grey
    is scaled to 8 bits by its range, 0 to 65535. Colour profiles are ignored. The same file gives the same pixels
    on every call. Safe to call from several threads.

    Args:
        path: an image file; its format is told by its content.
        height: rows of the result.
        width: columns of the result.

    Returns:
        uint8 (height, width, 3), RGB in [0, 255].

    Raises:
        UnreadableImageError: the file cannot be read, is no image, is damaged, or has more than MAX_PIXELS.
    """
    try:
        with _quiet_pillow(), Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"{image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
            # JPEG only: decodes at 1/2, 1/4 or 1/8 where that still leaves twice the target for the resampling.
            # The longer side serves both, because the image may yet be turned.
            image.draft(None, (2 * max(height, width), 2 * max(height, width)))
            with _one_large_image if image.width * image.height > _LARGE_PIXELS else nullcontext():
                image.load()
                return np.array(_upright_rgb(image, height, width))
    except UnreadableImageError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: ValueError, struct.error, KeyError
        raise _unreadable(path, error) from error


def _upright_rgb(image: Image.Image, height: int, width: int) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    size = (width, height)
    if turn is not None:  # turned after the resampling, when there is less to turn
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
    """Returns `image` as L, RGB or RGBA in `size`; RGBA is resampled with its colours weighted by their opacity."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # Pillow's own conversion to 8 bits clips at 255 instead of scaling.
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UnreadableImageError("32-bit pixels, which have no agreed range; 8 and 16 bits are read")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.resize(size, Image.Resampling.BILINEAR)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF is common in photos whose pixels are fine
        return 1


def _unreadable(path: Path, error: Exception) -> UnreadableImageError:
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
            empty = path.stat().st_size == 0
            return UnreadableImageError("the file is empty" if empty else "not an image in a format that is read")
        case Image.DecompressionBombError():
            return UnreadableImageError(f"too many pixels; the limit is {MAX_PIXELS:,}")
        case OSError(errno=int()) if error.errno != errno.EINVAL:  # EINVAL: a seek to where the damage points
            return UnreadableImageError(f"cannot be read: {error.strerror}", lasting=False)
    truncated = "truncated" in str(error).lower()
    return UnreadableImageError("the file is cut short" if truncated else f"the file is damaged ({error})")


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters = warnings.catch_warnings()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Drops Pillow's warnings during the block: a file is readable or it is not.

    `warnings.catch_warnings` alone is not safe in threads: the one that enters last may restore the others' filters.
    Here the first thread in sets the filter and the last one out takes it away.
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
