"""What `decode_image` makes of every kind of file that a folder of photos holds."""

import os
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from catdog.data import images
from catdog.data.images import MAX_PIXELS, UnreadableImageError, decode_image, is_image_file

HEIGHT, WIDTH = 24, 32
RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 30), (30, 30, 210), (230, 220, 20)
QUADRANTS = {(6, 8): RED, (6, 24): GREEN, (18, 8): BLUE, (18, 24): YELLOW}  # centre in the decoded image: colour


def quadrants(width: int = 128, height: int = 96) -> Image.Image:
    image = Image.new("RGB", (width, height))
    for (row, column), colour in QUADRANTS.items():
        left, top = (0 if column < 16 else width // 2), (0 if row < 12 else height // 2)
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    return image


def photo_like(width: int = 300, height: int = 200) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(rows / (9 + i) + i) * np.cos(columns / (13 - i)) for i in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def assert_quadrants(pixels: np.ndarray, tolerance: int = 6) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    for (row, column), colour in QUADRANTS.items():
        np.testing.assert_allclose(pixels[row, column].astype(int), colour, atol=tolerance)


def header_only_png(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    "name",
    ["photo.jpg", "photo.JPEG", "photo.png", "photo.gif", "photo.webp", "a.b.tif", "ünïcode 猫.bmp", "photo.ppm"],
)
def test_image_names(name: str) -> None:
    assert is_image_file(Path("folder") / name)


@pytest.mark.parametrize(
    "name", [".DS_Store", "Thumbs.db", ".hidden.jpg", "._photo.jpg", "photo.jpg.part", "photo", "notes.txt", ".jpg"]
)
def test_other_names(name: str) -> None:
    assert not is_image_file(Path("folder") / name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".webp", ".tif", ".ppm"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    quadrants().save(tmp_path / f"photo{suffix}")
    assert_quadrants(decode_image(tmp_path / f"photo{suffix}", HEIGHT, WIDTH))


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "photo.jpg", "PNG")
    assert_quadrants(decode_image(tmp_path / "photo.jpg", HEIGHT, WIDTH), tolerance=0)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_not_inverted(tmp_path: Path, suffix: str) -> None:
    quadrants().convert("CMYK").save(tmp_path / f"photo{suffix}")
    assert_quadrants(decode_image(tmp_path / f"photo{suffix}", HEIGHT, WIDTH))


def test_palette(tmp_path: Path) -> None:
    quadrants().quantize(16).save(tmp_path / "photo.png")
    assert_quadrants(decode_image(tmp_path / "photo.png", HEIGHT, WIDTH))


def test_grey_and_one_bit_become_three_equal_channels(tmp_path: Path) -> None:
    half = np.zeros((96, 128), np.uint8)
    half[:, 64:] = 255
    Image.fromarray(half).save(tmp_path / "grey.jpg")
    Image.fromarray(half).convert("1").save(tmp_path / "bits.png")
    for name in ("grey.jpg", "bits.png"):
        pixels = decode_image(tmp_path / name, HEIGHT, WIDTH)
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert np.all(pixels[:, :12] == 0)
        assert np.all(pixels[:, -12:] == 255)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    columns = np.repeat(np.array([0, 1000, 32768, 65535], np.uint16), 8)
    Image.fromarray(np.tile(columns, (HEIGHT, 1))).save(tmp_path / f"scan{suffix}")
    pixels = decode_image(tmp_path / f"scan{suffix}", HEIGHT, WIDTH)
    assert pixels[0, ::8, 0].tolist() == [0, 4, 128, 255]


def test_16_bit_grey_is_scaled_in_bands_of_rows(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (150, 20), np.uint16)
    Image.fromarray(grey).save(tmp_path / "scan.png")
    expected = ((grey.astype(int) * 255 + 32767) // 65535)[..., None].repeat(3, axis=-1)
    np.testing.assert_array_equal(decode_image(tmp_path / "scan.png", 150, 20), expected)


def test_transparency_shows_white_and_hides_the_colour_below(tmp_path: Path) -> None:
    image = Image.new("RGBA", (WIDTH * 4, HEIGHT * 4), (255, 0, 0, 0))  # invisible red
    image.paste((0, 0, 255, 255), (WIDTH * 2, 0, WIDTH * 4, HEIGHT * 2))
    image.paste((0, 0, 0, 128), (WIDTH * 2, HEIGHT * 2, WIDTH * 4, HEIGHT * 4))
    image.save(tmp_path / "cut.png")
    pixels = decode_image(tmp_path / "cut.png", HEIGHT, WIDTH).astype(int)
    assert pixels[6, 4].tolist() == [255, 255, 255]
    assert pixels[6, 28].tolist() == [0, 0, 255]
    np.testing.assert_allclose(pixels[18, 28], 127, atol=1)
    red_fringe = pixels[:12, :, 0] - pixels[:12, :, 1]
    assert red_fringe.max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_transparent_palette_shows_white(tmp_path: Path, suffix: str) -> None:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([10, 200, 10, 20, 20, 200])
    image.paste(1, (16, 0, 32, 24))
    image.save(tmp_path / f"cut{suffix}", transparency=0)
    pixels = decode_image(tmp_path / f"cut{suffix}", HEIGHT, WIDTH)
    assert pixels[12, 4].tolist() == [255, 255, 255]
    assert pixels[12, 28].tolist() == [20, 20, 200]


def test_palette_with_opacities_in_bytes(tmp_path: Path) -> None:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([0, 0, 0, 20, 20, 200])
    image.save(tmp_path / "half.png", transparency=bytes([128, 255]))
    np.testing.assert_allclose(decode_image(tmp_path / "half.png", HEIGHT, WIDTH).astype(int), 127, atol=1)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    quadrants().save(path, exif=exif, lossless=True)  # only WebP knows the word
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(decode_image(path, HEIGHT, WIDTH).astype(int), np.asarray(upright).astype(int), atol=1)


def test_damaged_exif_costs_no_image_and_shows_no_warning(tmp_path: Path) -> None:
    broken_exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\xff\x00\x10\x27\0\0"
    quadrants().save(tmp_path / "photo.jpg", exif=broken_exif)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with Image.open(tmp_path / "photo.jpg") as image:
            image.getexif()
    assert seen, "Pillow does not mind this EXIF: the test needs a worse one"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_quadrants(decode_image(tmp_path / "photo.jpg", HEIGHT, WIDTH))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    second = Image.new("RGB", (128, 96), "white")
    for name in ("moving.gif", "moving.webp"):
        quadrants().save(tmp_path / name, save_all=True, append_images=[second], duration=50)
        assert_quadrants(decode_image(tmp_path / name, HEIGHT, WIDTH), tolerance=8)


def test_resampling_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((HEIGHT * 8, WIDTH * 8), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    np.testing.assert_allclose(decode_image(tmp_path / "stripes.png", HEIGHT, WIDTH).astype(int), 128, atol=6)


def test_photos_below_four_times_the_target_are_decoded_in_full(tmp_path: Path) -> None:
    photo_like().save(tmp_path / "photo.jpg")
    with Image.open(tmp_path / "photo.jpg") as image:
        expected = np.asarray(image.resize((80, 80), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode_image(tmp_path / "photo.jpg", 80, 80), expected)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory after exec"
)
def test_20000_pixel_wide_jpeg_takes_little_memory(tmp_path: Path) -> None:
    photo_like(2500, 250).resize((20_000, 2_000)).save(tmp_path / "panorama.jpg", quality=80)
    photo_like().save(tmp_path / "small.jpg")
    script = """
import re, sys
from pathlib import Path
from catdog.data.images import decode_image

def decode_and_print_peak_kb(path):
    decode_image(Path(path), 160, 160)
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

decode_and_print_peak_kb(sys.argv[1])
decode_and_print_peak_kb(sys.argv[2])
"""
    command = [sys.executable, "-c", script, str(tmp_path / "small.jpg"), str(tmp_path / "panorama.jpg")]
    before_kb, after_kb = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert after_kb - before_kb < 40_000, "decoded in full it takes 120 MB"


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_that_is_held_in_full_counts_as_large(tmp_path: Path, monkeypatch, progressive: bool) -> None:
    """Pillow decodes both in a smaller size, but libjpeg holds a progressive one in full."""
    photo_like().save(tmp_path / "photo.jpg", progressive=progressive)
    with Image.open(tmp_path / "photo.jpg") as image:
        monkeypatch.setattr(images, "LARGE_PIXELS", image.width * image.height - 1)
    alone = threading.Lock()
    monkeypatch.setattr(images, "_one_large_image", alone)
    with ThreadPoolExecutor(1) as pool:
        with alone:
            decoded = pool.submit(decode_image, tmp_path / "photo.jpg", HEIGHT, WIDTH)
            waits = not wait([decoded], timeout=0.5).done
        decoded.result()
    assert waits == progressive


def test_20000_pixel_wide_jpeg_is_right(tmp_path: Path) -> None:
    path = tmp_path / "panorama.jpg"
    photo_like(2500, 250).resize((20_000, 2_000)).save(path, quality=80)
    with Image.open(path) as image:
        expected = np.asarray(image.resize((160, 160), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode_image(path, 160, 160).astype(int) - expected).max() <= 6


def test_the_draft_of_a_turned_jpeg_leaves_twice_the_target(tmp_path: Path) -> None:
    # Its 400 stored rows become the columns, of which 100 are wanted: a draft at 1/8, right for 25, would leave 50.
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse_noise = np.random.default_rng(0).integers(0, 256, (100, 400, 3), dtype=np.uint8)
    Image.fromarray(coarse_noise).resize((1600, 400)).save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image).resize((100, 25), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode_image(tmp_path / "photo.jpg", 25, 100).astype(int) - expected).max() <= 6


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_too_many_pixels(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_PIXELS
    with pytest.raises(UnreadableImageError, match=r"pixels; the limit is 178,956,970"):
        decode_image(header_only_png(tmp_path / "bomb.png", side, side), HEIGHT, WIDTH)


def test_below_the_limit_pillow_does_not_warn_of_a_bomb(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImageError, match="cut short"):  # it gets as far as the missing pixels
            decode_image(header_only_png(tmp_path / "large.png", 10_000, 10_000), HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".webp", ".tif"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    photo_like().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImageError, match=r"cut short|damaged|not an image") as caught:
        decode_image(path, HEIGHT, WIDTH)
    assert caught.value.lasting


def test_a_truncated_jpeg_is_said_to_be_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo_like().save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UnreadableImageError, match="cut short"):
        decode_image(path, HEIGHT, WIDTH)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a photo\n" * 100)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    reasons = {
        "empty.jpg": ("the file is empty", True),
        "text.jpg": ("not an image in a supported format", True),
        "program.jpg": ("not an image in a supported format", True),
        "folder.jpg": ("a folder, not a file", False),
        "absent.jpg": ("no such file", False),
    }
    for name, (reason, lasting) in reasons.items():
        with pytest.raises(UnreadableImageError) as caught:
            decode_image(tmp_path / name, HEIGHT, WIDTH)
        assert (str(caught.value), caught.value.lasting) == (reason, lasting)


def test_no_permission(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").chmod(0)
    if os.access(tmp_path / "photo.jpg", os.R_OK):
        pytest.skip("this user, probably root, may read everything")
    with pytest.raises(UnreadableImageError, match="no permission") as caught:
        decode_image(tmp_path / "photo.jpg", HEIGHT, WIDTH)
    assert not caught.value.lasting


def test_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "depth.tif")
    with pytest.raises(UnreadableImageError, match="32-bit"):
        decode_image(tmp_path / "depth.tif", HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".webp", ".tif", ".ppm"])
def test_any_damage_gives_pixels_or_the_one_exception(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"photo{suffix}"
    quadrants().save(path)
    sound = path.read_bytes()
    chance = random.Random(suffix)
    unreadable = []
    for _ in range(150):
        damaged = bytearray(sound)
        for _ in range(chance.choice([1, 4, 30])):
            damaged[int(len(damaged) * chance.random() ** 3)] = chance.randrange(256)  # mostly in the headers
        path.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        try:
            assert decode_image(path, HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)
        except UnreadableImageError as error:
            unreadable.append(error)
    assert len(unreadable) > 10
    assert all(error.lasting for error in unreadable)
    assert capfd.readouterr() == ("", "")


def test_threads_agree_and_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    photo_like(700, 500).save(tmp_path / "photo.jpg")
    expected = decode_image(tmp_path / "photo.jpg", 60, 60)
    before = list(warnings.filters)
    start = threading.Barrier(8)

    def decode_often(_: int) -> bool:
        start.wait()
        return all(np.array_equal(decode_image(tmp_path / "photo.jpg", 60, 60), expected) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(decode_often, range(8)))
    assert list(warnings.filters) == before
