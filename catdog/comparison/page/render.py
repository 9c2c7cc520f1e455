"""The comparison as one self-contained HTML page."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from catdog.comparison import findings
from catdog.comparison.analysis import Analysis
from catdog.comparison.atlas import Atlas, build_atlas
from catdog.comparison.cams import NO_CAMS, Cams
from catdog.comparison.page.atlas_view import PICTURE_BYTES, build_view
from catdog.comparison.page.differences import build_heat_map, list_differences
from catdog.comparison.page.figures import build_charts
from catdog.comparison.page.quality import build_confusions, build_reliabilities
from catdog.comparison.page.svg import embed_svg
from catdog.comparison.page.thumbnails import build_gallery
from catdog.comparison.variants import Variant
from catdog.plots.style import PALETTE
from catdog.system import wording
from catdog.system.pages import build_environment

# Longer tables are better read in a spreadsheet; the CSV files have all rows.
MOST_RANKED, MOST_RUNS = 30, 200
# Figures that are folded on the page of a search, because the tables above have the same numbers.
FOLDED = ("differences", "effects", "seconds", "parameters")
# A shorter word fits into any column.
LONG_WORD = 16
# Rows of the error atlas that are shown before "Show more".
ATLAS_ROWS, ATLAS_ROWS_OF_SEARCH = 48, 8

CAPTIONS = {
    "accuracy": "Training accuracy is the running mean over an epoch with dropout and augmentation on, so it may be "
    "below validation accuracy.",
    "loss": "If validation loss rises while training loss falls, the model becomes more confident of its mistakes.",
    "gap": "Training minus validation accuracy of the same epoch. If it grows while validation accuracy stays the same, the "
    "model overfits.",
    "final_accuracy": "The kept models' interval is over seeds and images, or with one seed over images alone. For the last "
    "epoch's models over several seeds, only the mean is shown.",
    "score": "Of the kept models. The interval is over seeds and images, or with one seed over images alone. The strokes are the "
    "seeds.",
    "differences": "Differences in {compared}. Each interval is for its pair alone, over seeds and images, or over "
    "images alone if a variant has one seed. Blue: the interval excludes zero.",
    "effects": "What an ingredient adds to the {compared}, from pairs of variants that differ only in this "
    "ingredient. The variant that it is added to is in brackets.",
    "times": "Of whole runs, with start, validation and figures; of a run that was resumed, of all its parts. Without ensembles "
    "and runs of other tools.",
    "seconds": "The median over epochs, because the first epoch also compiles and fills caches.",
    "parameters": "A frozen backbone counts in all parameters, but not in the trainable ones.",
}
DESCRIPTIONS = {
    "accuracy": "Line chart: training and validation accuracy by epoch for every variant",
    "loss": "Line chart: training and validation loss by epoch for every variant",
    "gap": "Line chart: training minus validation accuracy by epoch for every variant",
    "final_accuracy": "Dot chart: last and kept accuracies of every variant with 95 percent intervals, as in the table",
    "score": "Dot chart: {metric} of every variant with its 95 percent interval, as in the table",
    "differences": "Dot chart: difference in {metric} of every pair with its interval, as in the table of pairs",
    "effects": "Dot chart: what each single ingredient adds to the {metric}, with its interval, as in the list of ingredients",
    "times": "Scatter chart: {metric} of every variant against the time of its runs",
    "seconds": "Bar chart: median seconds per epoch of every variant; the numbers are in the table",
    "parameters": "Dot chart: all and trainable parameters of every variant; the numbers are in the table",
}


def render_page(
    analysis: Analysis, atlas: Atlas | None = None, cams: Cams = NO_CAMS, figures: Mapping[str, Figure] | None = None
) -> str:
    """Returns the page as HTML: the findings in words, variants, pairs, figures, and the error atlas.

    Args:
        analysis: the analysis of the runs.
        atlas: the atlas of the same analysis; None builds it.
        cams: Grad-CAM for the atlas.
        figures: the figures of `build_figures`; None builds those that are shown.
    """
    comparison = analysis.comparison
    atlas = atlas or build_atlas(analysis)
    series = _series(analysis)
    view = build_view(atlas, cams, series) if atlas else None
    gallery = build_gallery(comparison.picture, view.files, PICTURE_BYTES) if view else None
    environment = build_environment(Path(__file__).parent)
    environment.filters["breakable"] = breakable
    drawn = {variant.name for variant in analysis.drawn}
    # Of a search, only the pairs among the best.
    pairs = [verdict for verdict in analysis.verdicts if {verdict.first.name, verdict.second.name} <= drawn]
    effects = [effect for effect in analysis.effects if effect.verdict in pairs]
    embedded = list(_embedded_figures(build_charts(analysis) if figures is None else figures, analysis))
    several = len(analysis.variants)
    return environment.get_template("page.html.j2").render(
        analysis=analysis,
        comparison=comparison,
        shown=analysis.ranked[:MOST_RANKED] if analysis.is_search else analysis.variants,
        drawn=drawn,
        configs={variant.name: _describe_config(variant) for variant in analysis.variants},
        best=analysis.best,
        metric=analysis.metric,
        balanced=comparison.shows_balanced,
        unfinished=analysis.unfinished,
        finished_names=[variant.name for variant in analysis.variants],
        pairs=pairs,
        verdicts_over_seeds=[verdict for verdict in pairs if verdict.beside],
        seed_summaries=[
            (variant, variant.summarize_seeds(comparison.baseline))
            for variant in analysis.drawn
            if len(variant.records) > 1 and comparison.same_data
        ],
        pair_count=several * (several - 1) // 2,
        effects=effects,
        stepped=[effect for effect in effects if effect.steps],
        atlas_rows=ATLAS_ROWS_OF_SEARCH if analysis.is_search else ATLAS_ROWS,
        runs=comparison.records[:MOST_RUNS],
        differing=list_differences(analysis.drawn),
        heat_map=build_heat_map(analysis),
        headline=findings.headline(analysis),
        sentences=findings.sentences(analysis),
        warnings=findings.warnings(comparison),
        figures=[figure for figure in embedded if not analysis.is_search or figure[0] not in FOLDED],
        folded=[figure for figure in embedded if analysis.is_search and figure[0] in FOLDED],
        series=series,
        view=view,
        gallery=gallery,
        calibrations=list(build_reliabilities(atlas, series)) if atlas else [],
        recalls={variant.name: analysis.recalls[variant.name] for variant in analysis.examined},
        confusions=list(build_confusions(atlas)) if atlas else [],
        p_value=wording.p_value,
        signed_interval=wording.signed_interval,
        missing=wording.MISSING,
    )


def breakable(name: str) -> Markup:
    """Returns a name as HTML. Long words of several parts stay whole, unless their column is narrower than they are."""
    return Markup(" ").join(
        Markup('<span class="word">{}</span>').format(Markup("<wbr>").join(parts)) if len(parts) > 1 else word
        for word in name.split(" ")
        for parts in [wording.name_parts(word) if len(word) >= LONG_WORD else [word]]
    )


def _describe_config(variant: Variant) -> str:
    """Returns the overrides that a variant was trained with; its name if they are not known."""
    overrides = variant.records[0].tags.overrides
    return " ".join(overrides) if overrides else variant.name


def _embedded_figures(figures: Mapping[str, Figure], analysis: Analysis) -> Iterator[tuple[str, Markup, str]]:
    """Yields name, SVG and caption of every chart. Figures that the page shows variant by variant are not among them."""
    said = {"compared": analysis.compared, "metric": analysis.metric.words}
    for name, figure in figures.items():
        if name in CAPTIONS:
            svg = embed_svg(figure, f"figure-{name}", DESCRIPTIONS[name].format(**said))
            yield name, svg, CAPTIONS[name].format(**said)


def _series(analysis: Analysis) -> dict[str, int]:
    """Returns run or variant name -> index of its variant's colour, as in the figures."""
    place = {name: number % len(PALETTE) for number, name in enumerate(analysis.colours)}
    return {record.name: place[variant.name] for variant in analysis.variants for record in variant.records} | place
