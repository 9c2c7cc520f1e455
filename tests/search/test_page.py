"""The page of a search, from searches that never were."""

import shutil
from html.parser import HTMLParser

import pytest

from catdog.search.trials import TrialState
from catdog.search.tuned import build_table
from catdog.system.terminal import console

BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)


class Text(HTMLParser):
    """The text of a page, without styles and drawings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.hidden += tag in ("style", "svg")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "svg")

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(tuning) -> str:
    return Text(tuning.files["search.html"].decode()).text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_says_what_was_found_and_how_to_train_it(make_tuning) -> None:
    tuning = make_tuning(40)
    text = read(tuning)
    assert f"{tuning.winner.name} is better by at least" in text
    assert "which is the best of many noisy scores: corrected for that" in text
    assert "python -m catdog.train model=cnn trainer.epochs=20" in text
    assert "the search needed" in text
    assert set(tuning.files) >= {
        "search.html",
        "trials.csv",
        "figures/history.png",
        "figures/slices.png",
        "figures/race.png",
    }
    assert "http" not in text.replace("sqlite:", "")


def test_without_evidence_the_default_is_kept(make_tuning) -> None:
    text = read(make_tuning(40, wins=False))
    assert "Nothing is shown to be better than the default" in text
    assert "keep the default" in text


@pytest.mark.parametrize(
    ("count", "states"),
    [(1, {}), (2, {0: TrialState.PAUSED, 1: TrialState.DIVERGED}), (3, {1: TrialState.FAILED, 2: TrialState.RUNNING})],
)
def test_a_search_of_any_size_and_luck_has_a_page(make_tuning, count, states) -> None:
    tuning = make_tuning(count, states=states, raced=False)
    text = read(tuning)
    assert "Trials" in text
    if TrialState.DIVERGED in states.values():
        assert "No trial was trained to the end" in text
        assert "the loss of epoch 2 is not a number" in text
    console.print(build_table(tuning))


def test_a_metric_whose_lower_values_are_better_is_shown_in_its_own_sign(make_tuning, log_loss) -> None:
    tuning = make_tuning(12, metric=log_loss)
    assert "log loss" in read(tuning)
    assert "nats" in tuning.sentences()[0]
    assert tuning.to_frame()["score"].dropna().gt(0).all()


def test_names_with_markup_stay_text(make_tuning) -> None:
    tuning = make_tuning(6)
    tuning.trials[1].why = "<script>alert(1)</script>"
    assert "<script>alert" not in tuning.files["search.html"].decode()


def test_a_folder_has_page_table_and_figures(make_tuning, tmp_path) -> None:
    folder = make_tuning(6).save_folder(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "search.html", "trials.csv"]
    assert (folder / "figures" / "curves.png").stat().st_size > 1000


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_on_a_phone_nothing_is_wider_than_the_screen(make_tuning, tmp_path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    page = make_tuning(40).save(tmp_path / "search.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        for width in (390, 1280):
            opened = browser.new_page(viewport={"width": width, "height": 900})
            opened.goto(page.as_uri())
            assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert opened.locator("table.trials tbody tr").count() == 40
            assert opened.locator("figure svg").count() >= 6
        browser.close()
