"""The comparison as tables: DataFrames for CSV files, and tables for the terminal."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catdog.comparison.analysis import Analysis
from catdog.comparison.atlas import KINDS, Atlas
from catdog.comparison.findings import describe_ensembles, standing
from catdog.comparison.names import SHORTENED
from catdog.comparison.records import NO_INTERVAL, ComparedRuns, RunRecord
from catdog.comparison.variants import Variant
from catdog.statistics.contrasts import bootstrap_interval, bootstrap_means
from catdog.system.terminal import add_name_column, name_text
from catdog.system.wording import MISSING, compact_count, percent, plural, seconds, signed, signed_interval

TERMINAL_COLUMNS = 100
# The most variants of a search in the terminal.
MOST_RANKED = 10


def build_frame(comparison: ComparedRuns) -> pd.DataFrame:
    """Returns one row per run, for CSV: accuracies as fractions in [0, 1], an empty cell if nothing was measured.

    `last_` columns are of the last epoch; `kept_` columns are of the model of `kept_epoch`, usually the best epoch. `fair_` columns
    are of that model without the advantage that the validation images chose its epoch: comparisons go by them.
    `last_train_accuracy` is the running mean over the epoch with dropout and augmentation on. `kept_train_accuracy_clean` is
    measured afterwards without them.
    """
    return pd.DataFrame(
        [_row(record, comparison.interval_of(record)) for record in comparison.records], columns=list(_COLUMNS)
    ).astype(_COLUMNS)


_COLUMNS = {
    "run_id": "str",
    "name": "str",
    "variant": "str",
    "seed": "Int64",
    "status": "str",
    "epochs": "Int64",
    "last_train_accuracy": "float64",
    "last_val_accuracy": "float64",
    "last_val_loss": "float64",
    "last_gap_accuracy": "float64",
    "kept_epoch": "Int64",
    "fair_val_accuracy": "float64",
    "fair_val_low": "float64",
    "fair_val_high": "float64",
    "kept_val_accuracy": "float64",
    "kept_val_low": "float64",
    "kept_val_high": "float64",
    "kept_val_correct": "Int64",
    "kept_val_images": "Int64",
    "kept_train_accuracy_clean": "float64",
    "test_accuracy": "float64",
    "seconds_per_epoch": "float64",
    "run_seconds": "float64",
    "run_cpu_seconds": "float64",
    "parameters": "Int64",
    "trainable_parameters": "Int64",
}


def _row(record: RunRecord, interval: tuple[float, float]) -> dict[str, object]:
    low, high = record.kept_interval
    return {
        "run_id": record.run_id,
        "name": record.name,
        "variant": record.variant,
        "seed": record.seed,
        "status": record.status,
        "epochs": record.epochs,
        "last_train_accuracy": record.last("train/accuracy"),
        "last_val_accuracy": record.last("val/accuracy"),
        "last_val_loss": record.last("val/loss"),
        "last_gap_accuracy": record.last("gap/accuracy"),
        "kept_epoch": record.kept_epoch,
        "fair_val_accuracy": record.accuracy,
        "fair_val_low": interval[0],
        "fair_val_high": interval[1],
        "kept_val_accuracy": record.kept_accuracy,
        "kept_val_low": low,
        "kept_val_high": high,
        "kept_val_correct": record.kept_correct if record.kept_images else None,
        "kept_val_images": record.kept_images,
        "kept_train_accuracy_clean": record.clean_train_accuracy,
        "test_accuracy": record.metric("test/accuracy"),
        "seconds_per_epoch": record.seconds_per_epoch,
        "run_seconds": record.metric("run_seconds"),
        "run_cpu_seconds": record.metric("run_cpu_seconds"),
        "parameters": _whole(record.parameters),
        "trainable_parameters": _whole(record.trainable_parameters),
    }


def build_variants_frame(analysis: Analysis) -> pd.DataFrame:
    """Returns one row per variant, best first, for CSV: means over its seeds; accuracies as fractions in [0, 1].

    `score` columns are of the metric that is compared; for the accuracy they are the `fair_` ones. `balanced_` columns are empty
    unless the largest class has more than twice the images of the smallest.
    """
    rows = [
        {
            "variant": variant.name,
            "seeds": len(variant.records),
            "metric": analysis.metric.name,
            "score": variant.value,
            "score_low": variant.value_interval[0],
            "score_high": variant.value_interval[1],
            "score_seed_sd": variant.value_spread,
            "fair_val_accuracy": variant.accuracy,
            "fair_val_low": variant.interval[0],
            "fair_val_high": variant.interval[1],
            "fair_val_seed_sd": variant.spread,
            "fair_gap_accuracy": variant.gap,
            "kept_val_accuracy": variant.kept_accuracy,
            "balanced_val_accuracy": variant.balanced[0],
            "balanced_val_low": variant.balanced[1],
            "balanced_val_high": variant.balanced[2],
            "last_train_accuracy": variant.mean_of("train/accuracy"),
            "last_val_accuracy": variant.mean_of("val/accuracy"),
            "last_gap_accuracy": variant.mean_of("gap/accuracy"),
            "val_images": variant.right.shape[1],
            "val_groups": analysis.comparison.val_groups,
        }
        for variant in analysis.ranked
    ]
    return pd.DataFrame(rows, columns=list(VARIANT_COLUMNS))


VARIANT_COLUMNS = (
    "variant", "seeds", "metric", "score", "score_low", "score_high", "score_seed_sd", "fair_val_accuracy", "fair_val_low",
    "fair_val_high", "fair_val_seed_sd", "fair_gap_accuracy", "kept_val_accuracy", "balanced_val_accuracy", "balanced_val_low",
    "balanced_val_high", "last_train_accuracy", "last_val_accuracy", "last_gap_accuracy", "val_images", "val_groups",
)  # fmt: skip
PAIR_COLUMNS = (
    "first", "second", "seeds_first", "seeds_second", "images", "groups", "metric", "score_difference", "accuracy_difference",
    "low", "high", "simultaneous_low", "simultaneous_high", "bootstrap_low", "bootstrap_high", "p_holm", "gap_difference",
    "gap_low", "gap_high", "differs_in", "kind", "verdict",
)  # fmt: skip
EFFECT_COLUMNS = (
    "before", "after", "differs_in", "ingredients", "metric", "score_difference", "accuracy_difference", "low", "high",
    "gap_difference", "gap_low", "gap_high", "steps", "commands",
)  # fmt: skip


def build_pairs_frame(analysis: Analysis) -> pd.DataFrame:
    """Returns one row per judged pair, for CSV: differences are first minus second, as fractions.

    `score_difference` is that of the metric that is compared, with its own sign; all bounds, `p_holm` and the verdict belong to it.
    For the accuracy it is `accuracy_difference`. `low` and `high` are the 95% interval for the pair alone, `simultaneous_` the
    interval that holds for all pairs together, `bootstrap_` the plain percentiles of the pigeonhole bootstrap, missing if images
    come in groups; `p_holm` is
    corrected for the number of pairs.
    """
    rows = []
    judged = {variant.name: variant for verdict in analysis.verdicts for variant in (verdict.first, verdict.second)}
    drawn = dict(zip(judged, bootstrap_means([variant.merits for variant in judged.values()]), strict=True))
    for verdict in analysis.verdicts:
        # It resamples images, and has nothing to say of groups.
        is_grouped = verdict.accuracy.groups is not None
        of_both = (drawn[verdict.first.name], drawn[verdict.second.name])
        bootstrap = NO_INTERVAL if is_grouped else _turn(analysis, *bootstrap_interval(*of_both))
        low, high = _turn(analysis, verdict.accuracy.low, verdict.accuracy.high)
        together = _turn(analysis, verdict.low, verdict.high)
        ingredients = next((e.ingredients for e in analysis.effects if e.verdict is verdict), ())
        rows.append(
            {
                "first": verdict.first.name,
                "second": verdict.second.name,
                "seeds_first": len(verdict.first.records),
                "seeds_second": len(verdict.second.records),
                "images": verdict.accuracy.images,
                "groups": verdict.accuracy.groups,
                "metric": analysis.metric.name,
                "score_difference": analysis.metric.orient(verdict.accuracy.estimate),
                "accuracy_difference": _accuracy_difference(verdict.first, verdict.second, verdict.accuracy.estimate),
                "low": low,
                "high": high,
                "simultaneous_low": together[0],
                "simultaneous_high": together[1],
                "bootstrap_low": bootstrap[0],
                "bootstrap_high": bootstrap[1],
                "p_holm": verdict.p,
                "gap_difference": verdict.gap.estimate,
                "gap_low": verdict.gap.low,
                "gap_high": verdict.gap.high,
                "differs_in": "; ".join(ingredient.words for ingredient in ingredients),
                "kind": str(verdict.kind),
                "verdict": verdict.words.replace("\N{NO-BREAK SPACE}", " "),
            }
        )
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def _turn(analysis: Analysis, low: float, high: float) -> tuple[float, float]:
    """Returns the bounds of a difference in the metric's own sign, given those of what is better about the first."""
    return (low, high) if analysis.metric.higher_is_better else (-high, -low)


def _accuracy_difference(first: Variant, second: Variant, estimate: float) -> float:
    return estimate if first.metric.is_accuracy else float(first.scores.mean() - second.scores.mean())


def build_effects_frame(analysis: Analysis) -> pd.DataFrame:
    """Returns one row per judged pair, with what changes between its variants: differences are after minus before, as fractions.

    `low` and `high` are the bounds of `score_difference`, as in `build_pairs_frame`. `ingredients` counts what changes. If it is 1,
    the difference is what this ingredient adds. If it is more, the pair is confounded: `steps` are the variants that lead from one
    to the other by one ingredient at a time, or `commands` train them.
    """
    rows = []
    for effect in analysis.effects:
        gained, *bounds = effect.difference
        low, high = _turn(analysis, *bounds)
        difference = _accuracy_difference(effect.after, effect.before, gained)
        gap, gap_low, gap_high = effect.gap_difference
        differs_in = "; ".join(ingredient.words for ingredient in effect.ingredients)
        rows.append(
            {
                "before": effect.before.name, "after": effect.after.name, "differs_in": differs_in,
                "ingredients": len(effect.ingredients), "metric": analysis.metric.name,
                "score_difference": analysis.metric.orient(gained), "accuracy_difference": difference, "low": low, "high": high,
                "gap_difference": gap, "gap_low": gap_low, "gap_high": gap_high,
                "steps": list(effect.steps), "commands": list(effect.commands),
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def build_classes_frame(analysis: Analysis) -> pd.DataFrame:
    """Returns one row per variant and class, for CSV: variant, class, images, recall (the mean over seeds), low, high.

    The recall is fair, as the accuracy is. The intervals are over seeds and images. They hold for all rows together in 95% of
    studies (Bonferroni). Empty if the runs do not know the same classes.
    """
    rows = [
        {
            "variant": variant.name,
            "class": one.name,
            "images": one.images,
            "recall": one.recall,
            "low": one.low,
            "high": one.high,
        }
        for variant in analysis.drawn
        for one in analysis.recalls[variant.name]
    ]
    return pd.DataFrame(rows, columns=["variant", "class", "images", "recall", "low", "high"])


def build_images_frame(atlas: Atlas | None) -> pd.DataFrame:
    """Returns one row per validation image that all runs answered, sorted as in the error atlas for the first variant.

    Columns file, label, kind ("nearly always wrong", "fixed", "broken", "seed noise", "always right"), by (the variants that fixed
    or broke it, or whose seeds disagree), suspect (the class that the label should perhaps be, "" if it is not suspect), then
    right_NAME for each variant: the fraction of its seeds that are right, in [0, 1].
    """
    columns = ["file", "label", "kind", "by", "suspect"]
    if atlas is None:
        return pd.DataFrame(columns=columns)
    sorting = atlas.sort()
    order = np.lexsort((sorting.rank, sorting.kinds))
    names = np.array([*atlas.class_names, ""], dtype=object)
    variants = [answers.name for answers in atlas.answers]
    by = [", ".join(name for name, does in zip(variants, row, strict=True) if does) for row in sorting.by.T]
    frame = pd.DataFrame(
        {
            "file": np.array(atlas.files, dtype=object), "label": names[atlas.labels],
            "kind": np.array(KINDS, dtype=object)[sorting.kinds],
            "by": by, "suspect": names[atlas.suspects],
            **{f"right_{answers.name}": answers.fraction_right for answers in atlas.answers},
        }
    )  # fmt: skip
    return frame.iloc[order].reset_index(drop=True)


def _empty_table(title: str, caption: str | None = None) -> Table:
    """Returns an empty table in the terminal's style."""
    return Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip


def build_table(analysis: Analysis) -> Table:
    """Returns the variants for a terminal of 100 columns: means over seeds, accuracies in percent, the best in bold."""
    comparison = analysis.comparison
    table = _empty_table(
        f"{comparison.study}: {comparison.shown_images}, accuracies in %",
        f"Means over seeds. last: last epoch. {_explain_kept(analysis)} sd: from seed to seed. "
        f"Always answering the most common class: {percent(comparison.baseline)}.",
    )
    unfinished = analysis.unfinished
    add_name_column(table, "variant", [*(variant.name for variant in analysis.variants), *unfinished])
    # Another column takes the place of what the page has as well.
    wide = comparison.shows_balanced + (not analysis.metric.is_accuracy)
    heads = [
        "seeds", "last\ntrain", "last\nval", *(["last\ngap"] if wide < 2 else []), *_kept_heads(analysis, "\n"), "sd",
        "s per\nepoch", "params", *(["train-\nable"] if not wide else []),
    ]  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for variant in analysis.variants:
        shown = variant.representative
        table.add_row(
            _name_cell(variant.name, unfinished),
            variant.shown_seeds,
            percent(variant.mean_of("train/accuracy")),
            percent(variant.mean_of("val/accuracy")),
            *([percent(variant.mean_of("gap/accuracy"))] if wide < 2 else []),
            *_kept_cells(variant, analysis),
            seconds(variant.seconds_per_epoch),
            compact_count(shown.parameters),
            *([compact_count(shown.trainable_parameters)] if not wide else []),
        )
    for lost in _unmeasured(analysis):
        table.add_row(_name_cell(lost, unfinished), "0", *[MISSING] * (len(heads) - 1), style="dim")
    return table


def build_ranking(analysis: Analysis) -> Table:
    """Returns the best variants of a search for a terminal of 100 columns, the best first."""
    comparison = analysis.comparison
    shown = analysis.ranked[:MOST_RANKED]
    table = _empty_table(
        f"{comparison.study}: the best {len(shown)} of {len(analysis.variants)} variants, {comparison.shown_images}, "
        "accuracies in %",
        f"Means over seeds. {_explain_kept(analysis)} sd: from seed to seed. last: last epoch. "
        f"Always answering the most common class: {percent(comparison.baseline)}.",
    )
    table.add_column("rank", justify="right")
    add_name_column(table, "variant", [variant.name for variant in shown])
    for head in ("seeds", *_kept_heads(analysis, " "), "sd", "last train", "last val"):
        table.add_column(head, justify="right", no_wrap=True)
    for rank, variant in enumerate(shown, 1):
        table.add_row(
            str(rank),
            _name_cell(variant.name, analysis.unfinished),
            variant.shown_seeds,
            *_kept_cells(variant, analysis),
            percent(variant.mean_of("train/accuracy")),
            percent(variant.mean_of("val/accuracy")),
        )
    return table


def _name_cell(name: str, unfinished: Mapping[str, list[RunRecord]]) -> Text:
    cell = name_text(name)
    if name in unfinished:
        cell.append(f" ({_describe_unfinished(unfinished[name])})", style="bold red")
    return cell


def _kept_heads(analysis: Analysis, gap: str) -> list[str]:
    """Returns the heads of the columns about the kept models that `_kept_cells` fills, without that of the spread."""
    balanced = [f"balanced{gap}val"] if analysis.comparison.shows_balanced else []
    if not analysis.metric.is_accuracy:
        fair = "fair val" if analysis.is_cross_fitted else "kept val"
        return [fair.replace(" ", gap), *balanced, f"{analysis.metric.words}{gap}[95 %]"]
    if analysis.is_cross_fitted:
        return [f"kept{gap}val", *balanced, f"fair val{gap}[95 %]"]
    return [*balanced, f"kept val{gap}[95 %]"]


def _kept_cells(variant: Variant, analysis: Analysis) -> list[Text]:
    """Returns the cells of a variant: its plain accuracy, or of another metric its accuracy; the metric; its spread over seeds."""
    metric = analysis.metric
    before = []
    if not metric.is_accuracy:
        before.append(percent(variant.accuracy))
    elif analysis.is_cross_fitted:
        before.append(percent(variant.kept_accuracy))
    if analysis.comparison.shows_balanced:
        before.append(percent(variant.balanced[0]))
    kept = Text(metric.show(variant.value), style="bold" if variant is analysis.best else "")
    bounds = ", ".join(metric.show(bound) for bound in variant.value_interval)
    kept.append(f" [{bounds}]", style="not bold")
    return [*map(Text, before), kept, Text(metric.show(variant.value_spread))]


def _explain_kept(analysis: Analysis) -> str:
    """Returns what the columns about the kept models mean, as one or more sentences."""
    metric = analysis.metric
    if analysis.is_fair:
        said = "fair: each image counted at the epoch that the other images choose."
        if metric.is_accuracy:
            said = (
                "kept: the model of the kept epoch, on the images that chose the epoch, so it is a little too high. "
                + said
            )
    else:
        said = "kept: the model of the kept epoch."
    if not metric.is_accuracy:
        unit = "in %, " if metric.is_in_percent else f"in {metric.unit}, " if metric.unit else ""
        said = f"{metric.words}: {'fair, ' if analysis.is_fair else ''}{unit}{metric.direction}. {said}"
    if analysis.comparison.shows_balanced:
        said += " balanced: the mean of the classes' recalls, because the classes differ much in size."
    return said


def _unmeasured(analysis: Analysis) -> list[str]:
    """Returns the names of the variants of which no run has finished with predictions."""
    measured = {variant.name for variant in analysis.variants}
    return [name for name in analysis.unfinished if name not in measured]


def build_pairs_table(analysis: Analysis) -> Table:
    """Returns the verdicts for a terminal of 100 columns; differences in percentage points."""
    images = len(analysis.comparison.outcomes)
    table = _empty_table(
        f"Pairs, on the same {images:,} images: difference in {analysis.compared}{_in_unit(analysis)} [95 %]",
        "Each interval is for its pair alone; the verdict allows for "
        f"{plural(len(analysis.variants) * (len(analysis.variants) - 1) // 2, 'pair')}.",
    )
    add_name_column(table, "pair", [variant.name for variant in analysis.variants])
    table.columns[0].ratio = 3
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", ratio=4)
    for verdict in analysis.verdicts:
        found = verdict.accuracy
        table.add_row(
            name_text(f"{verdict.first.name} \N{MINUS SIGN} {verdict.second.name}"),
            Text(_show_difference(analysis, found.estimate, found.low, found.high)),
            Text(verdict.words),
        )
    return table


def build_effects_table(analysis: Analysis) -> Table:
    """Returns what single ingredients add, for a terminal of 100 columns; shares in percentage points."""
    metric = analysis.metric
    unit = "" if metric.is_in_percent else f" ({metric.unit or metric.direction}), gaps"
    table = _empty_table(f"What one ingredient adds{unit}, in points [95 %]")
    single = [effect for effect in analysis.effects if effect.is_single]
    names = [f"{effect.ingredients[0].words} ({effect.before.name})" for effect in single]
    add_name_column(table, "ingredient", names)
    table.add_column(analysis.compared, justify="right", no_wrap=True)
    # What is said about the accuracy stands beside it, not behind the gap.
    table.add_column("", no_wrap=True)
    table.add_column("gap of the kept models", justify="right", no_wrap=True)
    for name, effect in zip(names, single, strict=True):
        gap, low, high = effect.gap_difference
        gaps = f"{signed(gap)} {signed_interval(low, high)}"
        cells = [_show_difference(analysis, *effect.difference), effect.caveat, gaps]
        table.add_row(name_text(name), *map(Text, cells))
    return table


def build_sets_table(analysis: Analysis) -> Table:
    """Returns the verdicts over training sets for a terminal of 100 columns; differences in percentage points."""
    table = _empty_table(
        f"Pairs, over training sets: difference in {analysis.compared}, in points [95 %]",
        "The interval covers other training sets of this kind, seeds and images. The verdict allows for "
        f"{plural(len(analysis.set_verdicts), 'pair')}.",
    )
    names = [f"{verdict.first} \N{MINUS SIGN} {verdict.second}" for verdict in analysis.set_verdicts]
    add_name_column(table, "pair", names)
    table.add_column("sets", justify="right")
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", ratio=4)
    for name, verdict in zip(names, analysis.set_verdicts, strict=True):
        difference = f"{signed(verdict.found.estimate)} {signed_interval(*verdict.found.interval())}"
        table.add_row(name_text(name), str(verdict.found.sets), Text(difference), Text(verdict.words))
    return table


def list_set_verdicts(analysis: Analysis) -> list[dict[str, object]]:
    """Returns one mapping for each verdict over training sets: differences are first minus second, as fractions."""
    return [
        {
            "first": verdict.first, "second": verdict.second, "sets": verdict.found.sets,
            "accuracy_difference": verdict.found.estimate, "low": verdict.found.interval()[0],
            "high": verdict.found.interval()[1], "p_holm": verdict.p, "kind": str(verdict.kind),
            "verdict": verdict.words.replace("\N{NO-BREAK SPACE}", " "),
        }
        for verdict in analysis.set_verdicts
    ]  # fmt: skip


def _show_difference(analysis: Analysis, estimate: float, low: float, high: float) -> str:
    metric = analysis.metric
    return f"{metric.show_difference(estimate)} {metric.show_difference_interval(low, high)}"


def _in_unit(analysis: Analysis) -> str:
    """Returns the unit of differences in words, and the direction where lower is better."""
    metric = analysis.metric
    unit = f", in {metric.unit}" if metric.unit else ""
    return unit if metric.higher_is_better else f"{unit}, {metric.direction}"


CLEAN = (
    "Training accuracy of runs with augmentation.mix or trainer.train_accuracy=clean: on a fixed sample of training images as they "
    "are; of other runs: on what training saw."
)


def print_tables(analysis: Analysis, console: Console | None = None) -> None:
    """Writes the tables to the terminal, or as plain text of 100 columns to a pipe or a file.

    Of a search, which has many variants, it is a ranking of the best, and what is decided about the first.
    """
    console = console or Console(markup=False)
    if not console.is_terminal:
        # Without a terminal rich assumes 80 columns and would fold names for no reason.
        console = Console(file=console.file, width=TERMINAL_COLUMNS, markup=False)
    width = min(console.width, TERMINAL_COLUMNS)
    tables = (build_table, build_pairs_table, build_effects_table)
    for table in [
        *(build(analysis) for build in ((build_ranking,) if analysis.is_search else tables)), build_sets_table(analysis)
    ]:  # fmt: skip
        if table.row_count:
            console.print(table, width=width)
    said = _describe_search(analysis) if analysis.is_search else []
    if len(analysis.variants) == 1:
        said.append("There is nothing to compare: these are runs of one variant." if len(analysis.variants[0].records) > 1
                    else "There is nothing to compare: this is one run.")  # fmt: skip
    if any(variant.name.endswith(SHORTENED) for variant in analysis.variants):
        said.append(f"A name that ends with {SHORTENED.strip()} is shortened: the page says what else differs.")
    said += describe_ensembles(analysis)
    if any(record.has_clean_accuracy for record in analysis.comparison.records):
        said.append(CLEAN)
    if analysis.common:
        said.append(f"all: {' '.join(analysis.common)}")
    for text in said:
        console.print(Text(text.replace("\N{NO-BREAK SPACE}", " ")), width=width)


def _describe_search(analysis: Analysis) -> list[str]:
    """Returns what is decided about the best variant, and what the ranking does not show."""
    said = [" ".join(standing(analysis))] if analysis.verdicts else []
    if lost := _unmeasured(analysis):
        said.append(f"No finished run: {', '.join(lost[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}.")
    left_out = len(analysis.variants) - MOST_RANKED
    more = f"{plural(left_out, 'more variant')} and every pair" if left_out > 0 else "Every pair"
    return [*said, f"{more} with the best: in the tables and on the page."]


def _describe_unfinished(records: list[RunRecord]) -> str:
    counts = Counter(record.status if not record.finished else "no predictions" for record in records)
    return ", ".join(status if number == 1 else f"{number} {status}" for status, number in counts.items())


def _whole(value: float) -> int | None:
    return None if pd.isna(value) else int(value)
