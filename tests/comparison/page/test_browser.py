"""The page in a real browser: clicked, typed at, and read, on a desk and on a phone."""

import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from catdog.comparison.atlas import build_atlas
from catdog.comparison.cams import Cams, VariantCams
from catdog.comparison.page.render import render_page

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def written(make_record, make_analysis, tmp_path) -> str:
    """A page of two variants with five seeds and one with a name that is markup; mistakes in every list; maps of the first."""
    nasty = "dogs/</script><img src=x onerror=alert(1)>.jpg"
    files = [nasty, *(f"{'cats' if index % 2 else 'dogs'}/{index}.jpg" for index in range(1, 120))]
    wrong = {
        "cnn": [[0, *range(1, 60), 90 + seed] for seed in range(5)],
        "<i>augmented</i>": [[0, *range(1, 40), 80] for _ in range(5)],
        "mobilenet": [[0, 1, 70]] * 5,
    }
    records = [
        make_record(
            f"{name} seed={seed}",
            name,
            seed=seed,
            wrong=lost,
            files=files,
            params={"backbone.name": name},
            decades=6 if name == "mobilenet" else None,
        )
        for name, seeds in wrong.items()
        for seed, lost in enumerate(seeds)
    ]
    analysis = make_analysis(*records)
    atlas = build_atlas(analysis)
    count = 10
    ramp = np.linspace(0, 255, 25, dtype=np.uint8).reshape(5, 5)
    maps = np.stack([ramp] * count)
    cams = {
        answers.name: VariantCams(answers.variant.representative, maps, np.zeros_like(maps))
        for answers in atlas.answers
    }
    path = tmp_path / "comparison.html"
    path.write_text(render_page(analysis, atlas, Cams(count, cams)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=SIZES)
def page(request, chromium, written) -> Iterator:
    """The page, opened; afterwards nothing may have gone wrong in it, or been asked of the network."""
    width, height = SIZES[request.param]
    context = chromium.new_context(
        viewport={"width": width, "height": height}, has_touch=width < 500, reduced_motion="reduce"
    )
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(f"alert: {dialog.message}"))
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.set_default_timeout(5000)
    opened.goto(written)
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wrong == []
    assert [url for url in asked if not url.startswith("data:")] == [written]
    context.close()


def rows(page) -> int:
    return page.locator(".shots li").count()


def counts(page) -> dict[str, int]:
    return {label.split()[0]: int(label.split()[-1]) for label in page.locator(".lists label").all_inner_texts()}


def test_lists_filters_and_search(page):
    # 0 to 59, 70, 80 and 90 to 94.
    assert counts(page) == {"All": 67, "Nearly": 2, "Fixed": 58, "Broken": 2, "Seed": 5, "Suspect": 1}
    assert rows(page) == 48
    page.click("#more")
    assert rows(page) == 67
    page.get_by_role("radio", name="Broken 2").check()
    assert page.locator(".shots .file").all_inner_texts() == ["dogs/70.jpg", "dogs/80.jpg"]
    assert "Wrong in nearly all runs of a variant" in page.locator(".meaning").inner_text()
    page.get_by_role("radio", name="Fixed 58").check()
    page.select_option("[name=variant]", label="<i>augmented</i>")
    assert rows(page) == 20
    page.select_option("[name=label]", label="cats")
    assert rows(page) == 10
    page.fill("[name=file]", "41")
    assert page.locator(".shots .file").all_inner_texts() == ["cats/41.jpg"]
    page.fill("[name=file]", "nowhere")
    assert page.locator("output").inner_text() == "No such image."
    page.fill("[name=file]", "")
    page.select_option("[name=label]", "")
    page.select_option("[name=variant]", "")
    # Seen from the best variant, what it fixed is broken by the others.
    page.select_option("[name=reference]", label="mobilenet")
    assert counts(page) == {"All": 67, "Nearly": 2, "Fixed": 1, "Broken": 59, "Seed": 5, "Suspect": 1}
    page.get_by_role("radio", name="All 67").check()
    page.select_option("[name=variant]", label="mobilenet")
    assert rows(page) == 3
    assert "Every mistake of mobilenet" in page.locator(".meaning").inner_text()


def test_an_image_by_keyboard(page):
    page.locator(".shots .picture").first.focus()
    page.keyboard.press("ArrowDown")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    dialog = page.locator("#shot")
    assert dialog.is_visible()
    assert page.evaluate("document.querySelector('#shot').contains(document.activeElement)")
    title = page.locator("#shot-title").inner_text()
    assert second == f"{title.split(' ', 1)[1]}, {title.split(' ', 1)[0]}"
    # Every run, with a probability and the class that it took.
    answers = page.locator(".answers li")
    assert answers.count() == 15
    assert "seed 0" in answers.first.inner_text()
    assert page.locator(".answers .said.wrong").count() > 0
    page.keyboard.press("ArrowRight")
    assert page.locator("#shot-title").inner_text() != title
    page.keyboard.press("ArrowLeft")
    assert page.locator("#shot-title").inner_text() == title
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == second


def test_an_image_by_touch_with_its_maps(page):
    second = page.locator(".shots li").nth(1)
    second.tap() if page.viewport_size["width"] < 500 else second.click()
    assert "</script><img" in page.locator("#shot-title").inner_text()
    assert "Nearly always wrong." in page.locator(".facts").inner_text()
    maps = page.locator(".cams canvas")
    assert maps.count() == 3
    drawn = "document.querySelector('.cams canvas').getContext('2d').getImageData(4, 4, 1, 1).data[3]"
    assert page.evaluate(drawn) > 150
    page.get_by_text("the true class", exact=True).click()
    assert page.evaluate(drawn) == 0
    assert "no evidence for dogs" in page.locator(".cams").inner_text()
    page.get_by_text("off", exact=True).click()
    assert maps.count() == 0
    assert page.evaluate("document.querySelector('#shot').scrollWidth <= innerWidth")
    page.get_by_role("button", name="Close").click()
    assert not page.locator("#shot").is_visible()
    # An image far down the list has none, and the page says why.
    page.click("#more")
    page.locator(".shots li").last.click()
    assert "highest in each list" in page.locator(".cams").inner_text()
    page.get_by_role("button", name="Previous image").click()
    page.keyboard.press("Escape")


def test_without_script_the_list_is_there(chromium, written):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    opened = context.new_page()
    opened.goto(written)
    assert opened.locator(".shots li").count() == 67
    assert not opened.locator(".filters").is_visible()
    assert not opened.locator("#more").is_visible()
    context.close()


def test_a_search_of_20_variants_fits_on_a_few_screens(chromium, make_record, make_analysis, tmp_path):
    names = [
        f"cnn learning_rate={rate} head.dropout={drop}"
        for rate in ("0.01", "0.001", "0.0003", "0.003")
        for drop in range(5)
    ]
    records = [
        make_record(f"{name} seed={seed}", name, seed=seed, wrong=[37 * at % 100 for at in range(seed, seed + 10 + 2 * place)],
                    params=dict(zip(("trainer.learning_rate", "head.dropout"), re.findall(r"=([\d.]+)", name), strict=True)))
        for place, name in enumerate(names)
        for seed in range(2)
    ]  # fmt: skip
    path = tmp_path / "comparison.html"
    path.write_text(render_page(make_analysis(*records)), encoding="utf-8")
    for size, most in {"desk": 8000, "phone": 16000}.items():
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height})
        opened = context.new_page()
        opened.goto(path.as_uri())
        assert opened.evaluate("document.documentElement.scrollHeight") < most
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert opened.locator("#table table.ranking").first.locator("tbody tr").count() == 20
        assert opened.locator("#heat-map").count() == 1
        assert rows(opened) == 8
        opened.click("#more")
        assert rows(opened) == 16
        context.close()
