"""Plants copies among the images of a folder, and counts how many the search finds, and how many false pairs.

`python benchmarks/planted.py FOLDER [COUNT]` plants altered copies of COUNT (200) random images, one for each kind of change.
"""

import hashlib
import io
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from catdog.data.duplicates import find_pairs
from catdog.data.images import is_image_file


def compress(image: Image.Image, quality: int) -> Image.Image:
    """Returns the image after JPEG compression at a quality of 1 to 95."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Returns the image with these fractions of its width and height cut off."""
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def halve(image: Image.Image) -> Image.Image:
    """Returns the image at half its size."""
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "half the size": halve,
    "JPEG quality 30": lambda image: compress(image, 30),
    "5% cut off each side": lambda image: crop(image, 0.05, 0.05, 0.05, 0.05),
    "5% cut off, around": lambda image: crop(image, 0.025, 0.025, 0.025, 0.025),
    "5% cut off right and bottom": lambda image: crop(image, 0, 0, 0.05, 0.05),
    "5% cut off left and right": lambda image: crop(image, 0.05, 0, 0.05, 0),
    "10% cut off the top": lambda image: crop(image, 0, 0.1, 0, 0),
    "10% cut off left and top": lambda image: crop(image, 0.1, 0.1, 0, 0),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180 degrees, half the size": lambda image: halve(image.transpose(Image.Transpose.ROTATE_180)),
    "mirrored and turned by 90 degrees": lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    "in grey": lambda image: image.convert("L"),
    "half the saturation": lambda image: ImageEnhance.Color(image).enhance(0.5),
    "warmer": lambda image: Image.merge(
        "RGB",
        [
            band.point(lambda v, f=f: round(min(255, v * f)))
            for band, f in zip(image.split(), (1.2, 1.0, 0.8), strict=True)
        ],
    ),
    "mirrored, half the size, quality 30": lambda image: compress(halve(ImageOps.mirror(image)), 30),
}


def main(folder: str, count: int = 200) -> None:
    paths = sorted(path for path in Path(folder).rglob("*") if is_image_file(path))
    chosen = random.Random(0).sample(paths, min(count, len(paths)))
    with tempfile.TemporaryDirectory() as temporary:
        planted: dict[Path, tuple[Path, str]] = {}
        for number, (change, apply) in enumerate(CHANGES.items()):
            for place, original in enumerate(chosen):
                path = Path(temporary, f"{number}-{place}.jpg")
                apply(Image.open(original).convert("RGB")).convert("RGB").save(path, quality=90)
                planted[path] = (original, change)
        every = [*paths, *planted]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in every]
        pairs = find_pairs(every, digests, Path(temporary, "cache"))
    found, other = Counter(), []
    for pair in pairs:
        first, second = every[pair.first], every[pair.second]
        origins = [planted.get(path, (path, ""))[0] for path in (first, second)]
        if origins[0] != origins[1]:
            other.append((origins[0], origins[1], pair.similarity))
        elif first in paths and second in planted:
            found[planted[second][1]] += 1
    print(f"{len(paths):,} images, {len(chosen)} of them changed\n\n| change | found |\n|---|---|")
    for change in CHANGES:
        print(f"| {change} | {found[change]} of {len(chosen)} |")
    print(f"\npairs of other images: {len(set(map(frozenset, (pair[:2] for pair in other))))}")
    for first, second in sorted({tuple(sorted(map(str, pair[:2]))) for pair in other}):
        print(f"  {first}  {second}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
