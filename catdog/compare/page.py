"""The comparison as one HTML page that needs nothing but itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from catdog import wording
from catdog.compare import findings
from catdog.compare.figures import build_charts
from catdog.compare.images import Disagreement, Gallery, confident_mistakes, disagreements
from catdog.compare.records import Comparison
from catdog.compare.svg import embed_svg
from catdog.plots import plot_confusion
from catdog.plots.style import PALETTE

MISTAKES_PER_RUN = 8
# The page stays below 10 MB: pictures take most of it, the words beside the divided images most of the rest.
PICTURE_BYTES = 7_000_000
CARD_BYTES = 2_000_000

CAPTIONS = {
    "accuracy": "Training accuracy is the running mean over an epoch with dropout and augmentation on, so it may lie "
    "below validation accuracy.",
    "loss": "Validation loss that rises while training loss falls: the model grows surer of its mistakes.",
    "gap": "Training minus validation accuracy of the same epoch. Where it grows while validation stands still, the "
    "model overfits.",
    "final_accuracy": "Wilson intervals from the number of images: they hold the noise of having drawn these images, "
    "not that of the seed.",
    "seconds": "The median over epochs; the first epoch also compiles and fills caches.",
    "parameters": "A frozen backbone counts among all parameters, and not among the trainable ones.",
}
DESCRIPTIONS = {
    "accuracy": "Line chart: training and validation accuracy by epoch for every run",
    "loss": "Line chart: training and validation loss by epoch for every run",
    "gap": "Line chart: training minus validation accuracy by epoch for every run",
    "final_accuracy": "Dot chart: last and kept accuracies of every run with 95 percent intervals, as in the table",
    "seconds": "Bar chart: median seconds per epoch of every run; the numbers are in the table",
    "parameters": "Dot chart: all and trainable parameters of every run; the numbers are in the table",
}


@dataclass(frozen=True)
class Pattern:
    """One choice of the filter: the code that the page's script understands, what it says, how many images it finds."""

    code: str
    words: str
    images: int


def render_page(comparison: Comparison) -> str:
    """The page as HTML: what was seen in words, table, figures, mistakes, and every image that divides the runs."""
    gallery = Gallery(comparison.picture, PICTURE_BYTES)
    mistakes = [
        (
            record,
            [(row, gallery.show(str(row.Index))) for row in confident_mistakes(record, MISTAKES_PER_RUN).itertuples()],
        )
        for record in comparison.finished
        if record.kept_images
    ]
    divided = disagreements(comparison)
    listed = divided[: _cards_within(CARD_BYTES, divided)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        # Always: file and class names come from the user's disk and may hold markup.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=wording.percent,
        percent_unit=wording.percent_with_unit,
        compact=wording.compact_count,
        seconds=wording.seconds,
        plural=wording.plural,
    )
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        headline=findings.headline(comparison),
        sentences=findings.sentences(comparison),
        warnings=findings.warnings(comparison),
        duels=findings.duels_with_best(comparison),
        over_seeds=findings.over_seeds(comparison),
        figures=list(_embedded_figures(comparison)),
        confusions=list(_embedded_confusions(comparison)),
        series=_series(comparison),
        mistakes=mistakes,
        divided=divided,
        cards=[(image, gallery.show(image.file)) for image in listed],
        patterns=_patterns(divided),
        gallery=gallery,
        p_value=wording.p_value,
        missing=wording.MISSING,
    )


def _embedded_figures(comparison: Comparison) -> Iterator[tuple[str, Markup, str]]:
    """Name, SVG and caption of every chart; the confusion matrices are single, to be laid out by the page's width."""
    for name, figure in build_charts(comparison).items():
        yield name, embed_svg(figure, f"figure-{name}", DESCRIPTIONS[name]), CAPTIONS[name]


def _embedded_confusions(comparison: Comparison) -> Iterator[Markup]:
    for position, record in enumerate(record for record in comparison.finished if record.kept_images):
        figure = plot_confusion(record.confusion, record.class_names, record.name)
        described = f"Confusion matrix of {record.name}: {record.kept_correct} of {record.kept_images} on the diagonal"
        yield embed_svg(figure, f"confusion-{position}", described)


def _cards_within(budget_bytes: int, images: list[Disagreement]) -> int:
    """How many of the images, from the first, fit a budget of HTML, by what the template writes around the names."""
    spent = 0
    for number, image in enumerate(images):
        names = 3 * len(escape(image.file).encode()) + 2 * len(escape(image.label).encode())
        lines = (
            2 * len(escape(answer.run).encode()) + len(escape(answer.predicted).encode()) for answer in image.answers
        )
        spent += 300 + names + sum(190 + line for line in lines)
        if spent > budget_bytes:
            return number
    return len(images)


def _series(comparison: Comparison) -> dict[str, int]:
    """Run name -> number of its variant's colour, as in the figures."""
    variants = list(dict.fromkeys(comparison.variants.values()))
    return {name: variants.index(variant) % len(PALETTE) for name, variant in comparison.variants.items()}


def _patterns(divided: list[Disagreement]) -> list[Pattern]:
    """Who alone is right, and who alone is wrong; the latter says nothing new about two runs."""
    if not divided:
        return []
    names = [answer.run for answer in divided[0].answers]
    rights = [set(image.right) for image in divided]
    everyone = set(range(len(names)))
    patterns = [
        Pattern(f"right-{position}", f"only {name} is right", rights.count({position}))
        for position, name in enumerate(names)
    ]
    if len(names) > 2:
        patterns += [
            Pattern(f"wrong-{position}", f"only {name} is wrong", rights.count(everyone - {position}))
            for position, name in enumerate(names)
        ]
    return patterns
