import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from catdog.comparison.page import atlas_view, render
from catdog.comparison.page.render import render_page
from catdog.data.history import History
from catdog.data.predictions import Predictions

VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Page(HTMLParser):
    """What a browser would make of a page, as far as the tests ask."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.html = html
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words).replace("\N{NO-BREAK SPACE}", " "))

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(value in (found.get(key) or "").split() for key, value in attributes.items())
        ]


@pytest.fixture
def two(make_record, make_analysis):
    return make_analysis(
        make_record("cnn", wrong=range(30), params={"backbone.name": "conv3", "seed": "1"}),
        make_record("mobilenet", wrong=[2, 60], params={"backbone.name": "mobilenet_v2", "seed": "1"}),
    )


def test_page_needs_nothing_but_itself(two):
    parsed = Page(render_page(two))
    assert parsed.open == []
    for _, attributes in parsed.elements:
        for key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:")), (key, value[:60])
    assert not re.search(r"https?://|@import|url\((?!#|data:)", parsed.html)


def test_ids_are_unique_and_every_reference_has_its_target(two):
    parsed = Page(render_page(two))
    ids = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', parsed.html))
    assert any(name.startswith("figure-accuracy-") for name in wanted)
    assert wanted <= set(ids)


def test_page_says_what_is_seen_and_how_to_get_it_again(two):
    parsed = Page(render_page(two))
    text = parsed.text
    assert "mobilenet leads, with one seed: 98.0 % of 100 validation images right" in text
    assert "seeds were not varied" in text
    assert "93.0 to 99.4" in text  # Wilson, 98 of 100
    assert "60.4 to 78.1" in text  # Wilson, 70 of 100
    assert two.comparison.command in text
    assert two.comparison.data_digest in text
    assert all(record.run_id in text for record in two.comparison.records)
    assert len(parsed.all("td", **{"class": "best"})) == 1
    assert "backbone.name conv3 mobilenet_v2" in text
    # The seed is the same in both runs, so it is no difference.
    assert "seed 1 1" not in text
    assert "on these images mobilenet is better; other seeds may differ, as mobilenet and cnn ran with one" in text
    assert "backbone conv3 → mobilenet_v2 : +28.0 points" in text


def test_seeds_are_grouped_and_every_run_is_still_there(make_record, make_analysis):
    runs = [
        make_record(f"{name} seed={seed}", name, seed=seed, wrong=range(count + seed), params={"trainer.epochs": name})
        for name, count in (("a", 5), ("b", 40))
        for seed in (1, 2, 3)
    ]
    parsed = Page(render_page(make_analysis(*runs)))
    assert "a is the best: 93.0 % of 100 validation images right, the mean of 3 seeds" in parsed.text
    assert "a is better by at least" in parsed.text
    assert len(parsed.all("details")) == 2, "beside the verdicts, and every run"
    assert all(record.run_id in parsed.text for record in runs)
    assert "over seeds and images both" in parsed.text


def test_a_confounded_pair_comes_with_the_command_that_separates_it(make_record, make_analysis):
    tags = {"mlflow.source.name": "python -m catdog.train model=cnn seed=1"}
    first = make_record("cnn", tags=tags, params={"augmentation.name": "none", "trainer.epochs": "5"})
    second = make_record("b", wrong=range(9), params={"augmentation.name": "flip_rotate", "trainer.epochs": "9"})
    parsed = Page(render_page(make_analysis(first, second)))
    assert "cnn → b is confounded" in parsed.text
    assert "python -m catdog.train -m model=cnn augmentation=flip_rotate seed=1" in parsed.text


def test_every_figure_is_there_and_follows_the_page(two):
    parsed = Page(render_page(two))
    drawings = parsed.all("svg")
    # Differences of the pair and the effect of its one ingredient are among the charts.
    assert len(drawings) == 8 + 2
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    assert "<metadata" not in parsed.html
    # A style element of matplotlib's inside would reach the whole page.
    assert len(parsed.all("style")) == 2
    inside = re.search(r"<svg.*?</svg>", parsed.html, re.DOTALL)[0]
    assert "var(--series-0)" in inside
    assert "#0072b2" not in inside


def test_numbers_and_colours_in_a_name_survive_the_drawing(make_record, make_analysis):
    html = render_page(make_analysis(make_record("v0.123456 #0072b2")))
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 7
    assert all(">v0.123456 #0072b2</text>" in drawing for drawing in drawings)


def test_nasty_names_are_shown_and_never_run(make_record, make_analysis):
    nasty = [
        "cats/\"><img src=x onerror=alert(1)>\n'é猫.jpg",
        "dogs/</style><script>alert(2)</script>.jpg",
        "cats/{{ 7*7 }}.jpg",
    ]
    files = [*nasty, *(f"cats/{index}.jpg" for index in range(20))]
    records = [make_record("<b>a</b>", files=files, wrong=[0, 1]), make_record("b & c", files=files, wrong=[2])]
    parsed = Page(render_page(make_analysis(*records, study="</title><script>alert(3)</script>", command="x && <y>")))
    # The data and the script that reads it.
    assert len(parsed.all("script")) == 2
    assert parsed.all("img") == []
    assert parsed.all("b", onerror="alert(1)") == []
    titles = [attributes.get("title") for attributes in parsed.all("span", **{"class": "file"})]
    assert [titles.count(name) for name in nasty] == [1, 1, 1]
    data = json.loads(re.search(r'id="atlas-data">(.*?)</script>', parsed.html, re.DOTALL)[1])
    assert sorted(data["files"]) == sorted(nasty)
    assert "<b>a</b>" in parsed.text
    assert "x && <y>" in parsed.text


def test_the_atlas_stands_without_its_script(two):
    parsed = Page(render_page(two))
    # cnn is wrong on 0 to 29, mobilenet on 2 and 60: image 2 is wrong in both, 60 broken.
    assert (
        "31 validation images of 100 that some kept model got wrong; all models are right on the other 69"
        in parsed.text
    )
    assert len(parsed.all("span", **{"class": "cell"})) == 2 * 31
    assert parsed.text.count("fixed by mobilenet") == 29
    assert parsed.text.count("broken by mobilenet") == 1
    assert parsed.text.count("nearly always wrong") == 1
    assert parsed.text.count("1 of 1 right") == 30
    assert "so seed noise cannot be seen here" in parsed.text
    assert parsed.all("form", **{"class": "filters"})[0].keys() >= {"hidden"}


def test_page_says_why_no_label_is_suspect_and_what_it_would_take(make_record, make_analysis):
    weak = Page(render_page(make_analysis(make_record("cnn", wrong=range(0, 100, 3)))))
    assert "No label is suspect: the mistakes that cnn, the best variant, is expected to make explain" in weak.text
    assert "If 2 % of the labels were wrong, it would find about 0 % of those" in weak.text
    assert "(at an accuracy of 95 %, two thirds)" in weak.text
    sure = Page(render_page(make_analysis(make_record("cnn", wrong=[1, 95], decades=6))))
    assert "No label is suspect" not in sure.text
    assert "more likely wrong than right" in sure.html
    assert sure.text.count("label? perhaps") == 1


def test_calibration_and_confusion_are_in_words_and_numbers(two):
    parsed = Page(render_page(two))
    # Of 100 answers with 94.5 % on average, 70 and 98 are right.
    assert re.search(r"cnn 29\.\d 2\d\.\d to 3\d\.\d % 94\.5 70\.0 overconfident", parsed.text)
    assert "94.5 98.0" in parsed.text
    assert len(parsed.all("table", **{"class": "counts"})) == 2
    assert "cats 35 15 dogs 15 35" in parsed.text


def test_a_picture_is_embedded_once(two):
    parsed = Page(render_page(two))
    used = [attributes["class"] for attributes in parsed.all("div", **{"class": "picture"})]
    assert len(used) == len(set(used)) == parsed.html.count("data:image/jpeg") == 31
    assert "no picture" not in parsed.text


def test_a_page_without_pictures_says_so(two, make_analysis):
    comparison = make_analysis(*two.comparison.records, picture=lambda _: None)
    parsed = Page(render_page(comparison))
    assert "data:image/jpeg" not in parsed.html
    assert "31 pictures were not available when the page was made" in parsed.text


def test_pictures_and_rows_beyond_the_limits_are_left_out_in_words(two, monkeypatch):
    monkeypatch.setattr(render, "PICTURE_BYTES", 5_000)
    monkeypatch.setattr(atlas_view, "ROW_BYTES", 15_000)
    parsed = Page(render_page(two))
    rows = len(parsed.all("span", **{"class": "cell"})) // 2
    assert 5 < rows < 25
    assert f"{31 - rows} images of these are not listed" in parsed.text
    assert 2 < parsed.html.count("data:image/jpeg") < 10
    assert re.search(r"below 10 MB, \d+ pictures were left out", parsed.text)


@pytest.mark.parametrize(("runs", "classes"), [(2, 2), (12, 2), (12, 3)])
def test_the_limits_keep_the_largest_page_below_ten_megabytes(make_record, make_analysis, runs, classes):
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    names = ("cats", "dogs", "eels")[:classes]
    files = [f"cats/'a folder' with a long name/{index}.jpg" for index in range(6000)]
    records = [
        make_record(f"run {i}", files=files, wrong=range(i, 6000, runs), history=History.empty(), classes=names)
        for i in range(runs)
    ]
    parsed = render_page(make_analysis(*records, picture=lambda _: noise, class_names=names))
    assert "are not listed" in parsed
    assert 3.5e6 < len(parsed.encode()) < 10e6


def test_failed_runs_stand_in_the_table_and_in_the_warning_only(two, make_record, make_analysis):
    nothing = make_record(
        "broken", status="FAILED", predictions=Predictions.empty(), history=History.empty(), metrics={}
    )
    parsed = Page(render_page(make_analysis(*two.comparison.records, nothing)))
    assert len(parsed.all("div", role="note")) == 1
    assert "1 run did not finish (FAILED): broken" in parsed.text
    # Among the variants, and among the runs.
    assert len(parsed.all("tr", **{"class": "unfinished"})) == 2
    drawn = "".join(re.findall(r"<svg.*?</svg>", parsed.html, re.DOTALL))
    assert "mobilenet" in drawn
    assert "broken" not in drawn


def test_no_warning_where_there_is_nothing_to_warn_of(make_record, make_analysis):
    analysis = make_analysis(make_record("cnn", wrong=range(0, 90, 3)), make_record("mobilenet", wrong=[2, 60]))
    assert Page(render_page(analysis)).all("div", role="note") == []


def test_images_that_are_wrong_together_are_warned_of_at_the_top_unless_they_are_named_groups(
    two, make_record, make_analysis
):
    parsed = Page(render_page(two))
    assert parsed.all("div", role="note")
    assert parsed.text.index("name the groups: dataset.groups") < parsed.text.index("Variants")
    params = {"backbone.name": "conv3", "seed": "1", "dataset.groups": "x"}
    groups = {f"{label}/{number}.jpg": str(number // 4) for label in ("cats", "dogs") for number in range(100)}
    named = make_analysis(make_record("cnn", wrong=range(30), params=params), groups=groups, groups_by="x")
    parsed = Page(render_page(named))
    assert parsed.all("div", role="note") == []
    assert "100 in 25 groups, named by" in parsed.text
    low, high = named.variants[0].interval
    assert high - low > 1.5 * np.diff(named.comparison.finished[0].kept_interval)[0]


def test_runs_on_different_data_are_announced_at_the_top(make_record, make_analysis):
    other = [f"dogs/other {index}.jpg" for index in range(50)]
    parsed = Page(render_page(make_analysis(make_record("a"), make_record("b", files=other, wrong=[1]))))
    assert parsed.text.index("The runs are not comparable") < parsed.text.index("Variants")
    assert "Pairs" not in parsed.text
    assert parsed.all("td", **{"class": "best"}) == []


def test_runs_with_other_classes_have_their_own_matrices(make_record, make_analysis):
    birds = ("birds", "cats", "dogs")
    first, second = make_record("a", wrong=[1]), make_record("b", classes=birds, wrong=[1])
    parsed = Page(render_page(make_analysis(first, second)))
    assert len(parsed.all("svg")) == 7 + 2
    assert "birds" in parsed.text


@pytest.mark.parametrize(
    "case", ["one run", "one epoch", "all failed", "no predictions", "no history", "perfect", "no metrics", "running"]
)
def test_page_stands_with_little(make_record, make_analysis, case):
    nothing = {"predictions": Predictions.empty(), "history": History.empty(), "metrics": {}}
    records = {
        "one run": [make_record("solo", wrong=[1])],
        "one epoch": [make_record("solo", wrong=[1], epochs=1), make_record("b", epochs=1)],
        "all failed": [make_record("solo", status="FAILED", **nothing)],
        "no predictions": [make_record("solo", predictions=Predictions.empty()), make_record("b")],
        "no history": [make_record("solo", wrong=[1], history=History.empty())],
        "perfect": [make_record("solo"), make_record("b")],
        "no metrics": [make_record("solo", wrong=[1], metrics={})],
        "running": [make_record("solo", wrong=[1], status="RUNNING")],
    }[case]
    parsed = Page(render_page(make_analysis(*records)))
    assert parsed.open == []
    assert "solo" in parsed.text
    assert "nan" not in re.findall(r"\w+", parsed.text)


@pytest.mark.parametrize(("classes", "runs"), [(3, 12), (10, 2), (14, 2)])
def test_many_classes_and_twelve_runs(make_record, make_analysis, classes, runs):
    names = tuple(f"class {index}" for index in range(classes))
    files = [f"{names[index % classes]}/{index}.png" for index in range(60)]
    records = [
        make_record(f"a variant with quite a long name {i}", files=files, classes=names, wrong=range(i))
        for i in range(runs)
    ]
    parsed = Page(render_page(make_analysis(*records, class_names=names, baseline=1 / classes)))
    # Of more than 8 variants, the answers of the best 4 are shown.
    shown = min(runs, 4)
    assert len(parsed.all("svg")) == 7 + shown
    # In three lists to choose from: reference, variant and true class.
    options = [option for option in parsed.all("option") if (option.get("value") or "").isdigit()]
    assert len(options) == 2 * shown + classes
    assert ("predicted as" in parsed.text) == (classes > 12)
