import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from catdog.comparison.page.thumbnails import build_gallery


def noise(file: str) -> np.ndarray:
    return np.random.default_rng(sum(map(ord, file))).integers(0, 256, (160, 160, 3), dtype=np.uint8)


def test_every_picture_is_embedded_once_and_opens():
    gallery = build_gallery(noise, ["a", "b"], 1_000_000)
    assert gallery.shown == 2
    assert gallery.show("a") != gallery.show("b")
    assert gallery.show("a") == gallery.show("a")
    encoded = re.findall(r"base64,([^)]+)\)", gallery.rules)
    assert [Image.open(io.BytesIO(base64.b64decode(one))).size for one in encoded] == [(160, 160)] * 2


@pytest.mark.parametrize("budget", [2_000_000, 600_000, 250_000])
def test_many_pictures_are_coarser_rather_than_fewer(budget):
    files = [f"{index}" for index in range(100)]
    gallery = build_gallery(noise, files, budget)
    assert gallery.shown == 100
    assert gallery.left_out == 0
    assert 0.3 * budget < len(gallery.rules) <= budget or budget == 2_000_000


def test_what_does_not_even_fit_coarsely_is_counted():
    gallery = build_gallery(lambda file: None if file == "gone" else noise(file), ["gone", "a", "b", "c"], 1)
    assert [gallery.show(file) is None for file in ("gone", "a", "b", "c")] == [True, False, True, True]
    assert (gallery.unavailable, gallery.left_out) == (1, 2)


def test_no_pictures_at_all():
    gallery = build_gallery(lambda _: None, ["a", "b"], 100_000)
    assert (gallery.shown, gallery.unavailable, gallery.rules) == (0, 2, "")
