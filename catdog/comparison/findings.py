"""The findings of a comparison, in sentences that claim no more than the data supports."""

from collections import defaultdict

from catdog.comparison.analysis import Analysis
from catdog.comparison.likeness import measure_neighbours
from catdog.comparison.records import DELETED, FINISHED, PAUSED, ComparedRuns, RunRecord
from catdog.comparison.training_sets import has_training_sets
from catdog.comparison.variants import Variant
from catdog.comparison.verdicts import MORE_SEEDS, NoVerdict
from catdog.config.metrics import is_own
from catdog.statistics.judgements import Judgement
from catdog.statistics.metrics import Metric
from catdog.system.wording import (
    agree,
    in_groups,
    listed,
    percent_interval,
    percent_with_unit,
    plural,
    signed,
    signed_interval,
)

# If the accuracy counted from the kept model's predictions and the one tracked at its epoch differ by more than this, they do not
# belong to the same model. Smaller differences come from other batch boundaries and bfloat16, which change single answers.
TRACKED_TOLERANCE = 0.005
TRACKED_TOLERANCE_IMAGES = 2
NAMES_IN_HEADLINE = 4
# If many runs are in doubt, only this many are named.
MOST_WARNINGS = 5


def headline(analysis: Analysis) -> str:
    """The one line to remember."""
    comparison = analysis.comparison
    if not comparison.finished:
        return "No run has finished, so there is nothing to compare yet"
    if not analysis.variants:
        return "No finished run has predictions, so only the curves can be compared"
    if analysis.best is None and has_training_sets(comparison):
        return _headline_of_sets(analysis)
    if analysis.best is None:
        return "These runs saw different data: their accuracies cannot be compared"
    best = analysis.best
    score = _word_score(best, comparison.ranked[0].kept_images)
    if len(best.records) > 1:
        score += f", the mean of {plural(len(best.records), 'seed')}"
    if len(analysis.variants) == 1:
        return f"{'Incomplete; so far ' if comparison.is_partial else ''}{best.name} gets {score}"
    if not comparison.complete:
        return f"Incomplete, so no verdict; so far {best.name} leads: {score}"
    level = _level_with_best(analysis)
    if level:
        names = [best.name, *(variant.name for variant in level)]
        together = listed(names) if len(names) <= NAMES_IN_HEADLINE else f"{best.name} and {len(level)} others"
        if len(level) == len(analysis.variants) - 1:
            return f"This data does not separate {together}"
        return f"{together} lead, and this data does not separate them"
    if not analysis.seeds_varied:
        single = all(len(variant.records) == 1 for variant in analysis.variants)
        return f"{best.name} leads, {'with one seed' if single else 'though not all ran with several seeds'}: {score}"
    return f"{best.name} is the best: {score}"


def _headline_of_sets(analysis: Analysis) -> str:
    verdicts = analysis.set_verdicts
    decided = [verdict for verdict in verdicts if verdict.kind == Judgement.BETTER]
    if decided:
        return f"Over {decided[0].found.sets} training sets, {decided[0].words}"
    if verdicts:
        return "Over these training sets, no difference is decided"
    why = "runs are missing, or variants have fewer than two sets in common"
    return f"Nothing is decided over training sets: {why if analysis.metric.is_accuracy else 'they are compared by accuracy'}"


def _word_score(variant: Variant, images: int) -> str:
    """Returns a variant's score in words: "97.4 % of 800 validation images right", "a log loss of 0.412 nats on ..."."""
    on = plural(images, "validation image")
    if variant.metric.is_accuracy and variant.is_cross_fitted:
        # It is no share of images.
        return f"a fair accuracy of {percent_with_unit(variant.accuracy)} on {on}"
    if variant.metric.is_accuracy:
        return f"{percent_with_unit(variant.accuracy)} of {on} right"
    return f"{_article(variant.metric.words)} of {variant.metric.show_with_unit(variant.value)} on {on}"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiouAEIOUF' else 'a'} {words}"


def sentences(analysis: Analysis) -> list[str]:
    """Returns what supports the headline and what limits it, most important first."""
    comparison, said = analysis.comparison, []
    if analysis.best is not None:
        said += _about_the_best(analysis)
        said += _about_effects(analysis)
        said += _about_the_baseline(analysis)
        said += _about_balance(analysis)
    if analysis.variants:
        said.append(_about_seeds(analysis))
        said += _about_failures(analysis)
    if comparison.decided:
        said.append(
            f"decide trained these seeds, and its statements, by metric={comparison.decided_by}, allow for all of its looks: "
            f"{'; '.join(comparison.decided)}."
        )
    said += _about_groups(comparison)
    said += _about_training_sets(analysis)
    said += describe_ensembles(analysis)
    said += _about_the_choice(analysis)
    if comparison.looks:
        models = {look.run_id for look in comparison.looks}
        said.append(
            f"The ledger records {plural(len(comparison.looks), 'look')} at that test split, by {plural(len(models), 'model')}. No "
            "number on this page comes from it, and no choice was based on it."
        )
    return said


def may_need_seeds(analysis: Analysis) -> bool:
    """Returns whether a pair is undecided that more seeds may decide."""
    undecided = [verdict for verdict in analysis.verdicts if verdict.kind == Judgement.UNDECIDED]
    return any(verdict.words == MORE_SEEDS for verdict in undecided)


def _about_training_sets(analysis: Analysis) -> list[str]:
    """Returns what several training sets show, if the runs were trained on several."""
    if not has_training_sets(analysis.comparison):
        return []
    said = [
        "The runs were trained on several training sets, drawn anew by dataset.refresh, each with validation images of its own: so "
        "variants are compared set by set, and not image by image."
    ]
    for verdict in analysis.set_verdicts[:NAMES_IN_HEADLINE]:
        difference = f"{signed(verdict.found.estimate)} points {signed_interval(*verdict.found.interval())}"
        said.append(
            f"Over {verdict.found.sets} sets, {verdict.first} \N{MINUS SIGN} {verdict.second}: {difference}: {verdict.words}."
        )
    return said


def _about_the_choice(analysis: Analysis) -> list[str]:
    """Returns whether the validation images chose the kept models, and whether what is compared accounts for it."""
    comparison, metric, said = analysis.comparison, analysis.metric, []
    if analysis.is_fair:
        too = "high" if metric.higher_is_better else "low"
        said.append(
            "A kept model is that of the best epoch on these same validation images, so its plain "
            f"{metric.words} is too {too}. What is compared is fair: each image is counted at the epoch that the other half of the "
            "images chooses, over ten random halvings."
        )
    if comparison.flattered:
        some = _some([record.name for record in comparison.flattered])
        whose = "" if len(comparison.flattered) == len(comparison.ranked) else f" of {some}"
        said.append(
            f"The kept model{whose} is that of the best epoch, picked on these same validation images, so its {metric.words} is "
            f"slightly optimistic: {_why_flattered(comparison)} Only the test split, which training never reads, is free of this "
            "bias."
        )
    return said


def _about_groups(comparison: ComparedRuns) -> list[str]:
    """Returns what the intervals make of groups of images; nothing if every image is a group of its own."""
    if comparison.val_groups is None:
        return []
    who = (
        f"as dataset.groups={comparison.groups_by} names them"
        if comparison.are_groups_named
        else "the near-duplicates that were kept in one split"
    )
    return [
        f"The {comparison.shown_images} count by group, {who}: images of a group are no independent draws, so every interval is "
        "over groups."
    ]


def _why_flattered(comparison: ComparedRuns) -> str:
    """Returns why a score does not account for the choice of the epoch, and how to get one that does."""
    metric = comparison.metric
    if not any(record.score_by(metric).lacks_probabilities for record in comparison.flattered):
        return "the answers of the single epochs are not stored, as by earlier versions of catdog."
    if is_own(metric.name):
        return (
            "the probabilities of the single epochs are not stored, or the function gives one number for all images. Train with "
            "trainer.keep_probabilities=true, and let the function return one number for each image."
        )
    return (
        f"{metric.words} needs the probabilities of the single epochs, which are not stored. Train with "
        "trainer.keep_probabilities=true for a fair one."
    )


def describe_ensembles(analysis: Analysis) -> list[str]:
    """Returns a sentence for each ensemble that is compared, which names its members."""
    return [
        f"{variant.name}: one model, which answers with the mean probability of {listed([*variant.members.values()])}."
        for variant in analysis.variants
        if variant.members
    ]


def warnings(comparison: ComparedRuns) -> list[str]:
    """Returns what a reader must know before believing any number on the page; usually nothing."""
    found: list[str] = []
    by_status: dict[str, list[str]] = defaultdict(list)
    for record in comparison.records:
        if not record.finished:
            by_status[record.status].append(record.name)
    deleted = by_status.pop(DELETED, [])
    paused = by_status.pop(PAUSED, [])
    if comparison.of_search:
        waiting = (
            f" {plural(len(paused), 'trial')} of it {agree(len(paused), 'is', 'are')} paused: {_some(paused)}."
            if paused
            else ""
        )
        found.append(
            f"These are the trials of a search, one seed each: the best of them is the luckiest too.{waiting} Its race, a sweep of "
            "its own with fresh seeds, decides whether the best are better than the default."
        )
    if deleted or comparison.removed:
        found.append(_about_deleted(comparison, deleted))
    for status, names in by_status.items():
        found.append(
            f"{plural(len(names), 'run')} did not finish ({status}): {_some(names)}. "
            f"{'It is' if len(names) == 1 else 'They are'} listed in the table, but left out of the figures and of every "
            f"comparison. There is no verdict without {'it' if len(names) == 1 else 'them'}. {_how_to_resume(comparison)}"
        )
    if comparison.untrained:
        found.append(
            f"The sweep is not finished ({comparison.sweep_status}): {comparison.describe_untrained()}, so there is no "
            f"verdict. {_how_to_resume(comparison)}"
        )
    elif not by_status and comparison.sweep_status != FINISHED and comparison.finished:
        found.append(
            f"The sweep is not finished ({comparison.sweep_status}): runs are missing, so there is no verdict. "
            f"{_how_to_resume(comparison)}"
        )
    if not comparison.same_data and not has_training_sets(comparison):
        found.append(
            "The runs are not comparable: their data digests, validation images or labels differ. Only the "
            f"{plural(len(comparison.outcomes), 'image')} that all of them answered under the same label "
            f"{'is' if len(comparison.outcomes) == 1 else 'are'} compared below."
        )
    found += _about_likeness(comparison)
    silent = [record.name for record in comparison.finished if not record.kept_images]
    if silent:
        found.append(f"No validation predictions are stored for {_some(silent)}, so only the curves show them.")
    doubtful = [warning for record in comparison.ranked if (warning := _doubt(record))]
    found += doubtful[:MOST_WARNINGS]
    if len(doubtful) > MOST_WARNINGS:
        found.append(f"The same holds for {plural(len(doubtful) - MOST_WARNINGS, 'more run')}.")
    return found


def _about_likeness(comparison: ComparedRuns) -> list[str]:
    """Returns a warning if images seem to belong together, and nobody named groups."""
    outcomes = comparison.outcomes
    if comparison.are_groups_named or len(outcomes) < 2:
        return []
    labels = comparison.ranked[0].answers["label"].reindex(outcomes.files)
    found = measure_neighbours(outcomes.right.T, outcomes.files, labels, comparison.groups_of_outcomes)
    return [f"{found.words}."] if found.is_significant else []


def _how_to_resume(comparison: ComparedRuns) -> str:
    if comparison.sweep_id and comparison.command:
        return f"The sweep's command resumes it: {comparison.command}"
    return "Run the sweep's command again to resume."


def _about_deleted(comparison: ComparedRuns, deleted: list[str]) -> str:
    words = []
    if deleted:
        words.append(
            f"{plural(len(deleted), 'run')} of the sweep {'was' if len(deleted) == 1 else 'were'} deleted in MLflow: "
            f"{_some(deleted)}. This restores {'it' if len(deleted) == 1 else 'them'}: {comparison.restore}."
        )
    if comparison.removed:
        words.append(
            f"{plural(comparison.removed, 'run')} of the sweep {'is' if comparison.removed == 1 else 'are'} not in the store: "
            "removed for good, or not delivered yet."
        )
    return (
        f"{' '.join(words)} There is no verdict on what is left. The sweep's command trains what is missing; runs=[ID,ID] compares "
        "chosen runs."
    )


def _doubt(record: RunRecord) -> str:
    tracked = record.kept_tracked_accuracy
    tolerance = max(TRACKED_TOLERANCE, (TRACKED_TOLERANCE_IMAGES + 0.5) / record.kept_images)
    if not abs(tracked - record.kept_accuracy) > tolerance:
        return ""
    return (
        f"{record.name}: its stored predictions are {percent_with_unit(record.kept_accuracy)} right, but the "
        f"accuracy tracked at epoch {record.kept_epoch} is {percent_with_unit(tracked)}. "
        "One of the two does not belong to the kept model."
    )


def _about_the_best(analysis: Analysis) -> list[str]:
    best, metric = analysis.ranked[0], analysis.metric
    images = len(analysis.comparison.outcomes)
    right = f"95\N{NO-BREAK SPACE}% interval {metric.show_interval(*best.value_interval)}"
    shown = in_groups(images, analysis.comparison.val_groups, "validation image")
    of_images = f"of {shown} right"
    if not metric.is_accuracy:
        seeds = f", the mean of {plural(len(best.records), 'seed')}" if len(best.records) > 1 else ""
        fair = "fair " if best.is_fair else ""
        value = f"{_article(fair + metric.words)} of {metric.show_with_unit(best.value)}"
        said = [
            f"{best.name} has {value} on {shown}{seeds}, {right}; {metric.direction}. Its accuracy is "
            f"{percent_with_unit(best.accuracy)}."
        ]
    elif len(best.records) == 1:
        record = best.records[0]
        said = [
            f"The kept model of {best.name} gets {record.kept_correct:,} {of_images}: {percent_with_unit(best.kept_accuracy)}"
            f"{_fairly(best)}, {right}."
        ]
    else:
        seeds = plural(len(best.records), "seed")
        said = [
            f"The kept models of {best.name} get {percent_with_unit(best.kept_accuracy)} {of_images}, the mean of {seeds}"
            f"{_fairly(best)}, {right}."
        ]
    if analysis.is_search:
        return [*said, *standing(analysis)]
    against = [verdict for verdict in analysis.verdicts if verdict.first is best]
    if not against or not analysis.comparison.complete:
        return said
    nearest = max(against, key=lambda verdict: verdict.second.merit)
    found = nearest.accuracy
    said.append(
        f"Next is {nearest.second.name} with {metric.show_with_unit(nearest.second.value)}. The difference, image by image, is "
        f"{_in_unit(metric.show_difference(found.estimate), metric)}, 95\N{NO-BREAK SPACE}% interval "
        f"{metric.show_difference_interval(found.low, found.high)}: "
        f"{nearest.words}."
    )
    level = [variant.name for variant in _level_with_best(analysis) if variant is not nearest.second]
    if level:
        said.append(f"Nor does it separate {best.name} from {_some(level)}.")
    return said


def _in_unit(text: str, metric: Metric) -> str:
    return f"{text} {metric.unit}" if metric.unit else text


def _fairly(variant: Variant) -> str:
    return f"; its fair accuracy is {percent_with_unit(variant.accuracy)}" if variant.is_cross_fitted else ""


def standing(analysis: Analysis) -> list[str]:
    """Returns what is decided about the best variant of a search, in a few sentences."""
    best, count = analysis.best, len(analysis.verdicts)
    if best is None or not count:
        return []
    if analysis.comparison.of_search:
        return [
            f"There is no verdict on {best.name}: trials were chosen by these scores. The race of the search decides."
        ]
    if not analysis.comparison.complete:
        return [f"There is no verdict on {best.name}: the sweep is incomplete."]
    names: dict[str, list[str]] = defaultdict(list)
    for verdict in sorted(analysis.verdicts, key=lambda verdict: -verdict.second.merit):
        kind = str(verdict.kind) if verdict.is_difference or verdict.kind == Judgement.EQUIVALENT else "open"
        names[kind].append(verdict.second.name)
    alike, level = names[Judgement.EQUIVALENT], names["open"]
    clauses = []
    if better := len(names[Judgement.BETTER]):
        clauses.append(f"is better than {better} of the {count} others")
    if better := len(names[NoVerdict.ONE_SEED]):
        clauses.append(f"is better than {better} of the {count} others on these images; other seeds may differ")
    if alike:
        clauses.append(f"differs by no more than {analysis.metric.size(analysis.margin)} from {_count(alike, count)}")
    if level:
        clauses.append(f"is not told apart from {_count(level, count)}")
    return [f"{'It' if number else best.name} {clause}." for number, clause in enumerate(clauses)]


def _count(names: list[str], others: int) -> str:
    """Returns how many variants these are and the names of the first of them, or that they are all others."""
    return f"all {others} others" if len(names) == others else f"{len(names)}: {_some(names, NAMES_IN_HEADLINE)}"


def _about_effects(analysis: Analysis) -> list[str]:
    # The best variant of a search differs from the others in everything that was varied.
    if not analysis.comparison.complete or analysis.is_search:
        return []
    said, metric = [], analysis.metric
    for effect in [effect for effect in analysis.effects if effect.is_single][:NAMES_IN_HEADLINE]:
        gained, low, high = effect.difference
        undecided = f", which {effect.caveat}" if effect.caveat else ""
        said.append(
            f"{effect.ingredients[0].words}: {_in_unit(metric.show_difference(gained), metric)} "
            f"{metric.show_difference_interval(low, high)}{undecided} "
            f"({effect.before.name} \N{RIGHTWARDS ARROW} {effect.after.name})."
        )
    return [f"What each ingredient adds to the {metric.words}: " + " ".join(said)] if said else []


def _about_the_baseline(analysis: Analysis) -> list[str]:
    metric = analysis.metric
    if metric.is_accuracy:
        baseline = analysis.comparison.baseline
        always = f"what always answering the most common class scores ({percent_with_unit(baseline)})"
    elif metric.chance is not None:
        baseline = metric.chance(len(analysis.comparison.class_names))
        always = f"what a model that knows nothing scores ({metric.show_with_unit(baseline)})"
    else:
        return []
    lost = [variant.name for variant in analysis.variants if variant.value_interval[0] <= baseline]
    if lost and analysis.is_search:
        return [f"The intervals of {len(lost)} of {len(analysis.variants)} variants do not exclude {always}."]
    if lost:
        return [f"{_some(lost)}: the interval does not exclude {always}."]
    if len(analysis.variants) > 1:
        return [f"Every variant's interval lies above {always}."]
    return [f"That is above {always}."]


def _about_balance(analysis: Analysis) -> list[str]:
    """Returns what the accuracy hides where classes differ much in size: the baseline, and the balanced accuracies."""
    comparison = analysis.comparison
    if not comparison.is_imbalanced:
        return []
    counts = comparison.class_counts
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    said = (
        f"The classes are imbalanced: {counts[largest]:,} validation images of {largest}, {counts[smallest]:,} of {smallest}. "
        f"Always answering {largest} scores an accuracy of {percent_with_unit(comparison.baseline)}."
    )
    if comparison.shows_balanced:
        each = [
            f"{variant.name} {percent_with_unit(value)} [{percent_interval(low, high)}]"
            for variant in analysis.drawn
            for value, low, high in [variant.balanced]
        ]
        said += (
            f" The balanced accuracy, the mean of the classes' recalls, is 1/{len(counts)} then; here it is: {_some(each)}. "
            "metric=balanced_accuracy compares by it."
        )
    return [said]


def _about_seeds(analysis: Analysis) -> str:
    numbers = [len(variant.records) for variant in analysis.variants]
    if max(numbers) == 1:
        alone = "Each variant ran with one seed" if len(numbers) > 1 else "It ran with one seed"
        return (
            f"{alone}: seeds were not varied, so every interval here is over images alone. Another seed would have trained "
            "another model, and how far that moves the result is unknown. Add seed=0,1,2,3,4 to the command."
        )
    if min(numbers) == 1:
        single = [variant.name for variant in analysis.variants if len(variant.records) == 1]
        return f"Seeds were varied, but not for {_some(single)}: the seed noise there is unknown, and no verdict includes it."
    spread = max(analysis.variants, key=lambda variant: variant.value_spread)
    count = f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
    return (
        f"Every variant ran with {count} seeds. From seed to seed the {analysis.metric.words} of {spread.name} varies "
        f"most, with a standard deviation of {analysis.metric.size(spread.value_spread)}; the intervals allow for that and "
        "for the choice of images."
    )


def _about_failures(analysis: Analysis) -> list[str]:
    """Returns which runs diverged, and whether failures that nobody has seen would overturn a verdict."""
    if not analysis.comparison.same_data:
        return []
    said = []
    for variant in [variant for variant in analysis.drawn if len(variant.records) > 1]:
        seeds = variant.summarize_seeds(analysis.comparison.baseline)
        if seeds.failed:
            names = [record.name for record, failed in zip(variant.records, seeds.diverged, strict=True) if failed]
            said.append(
                f"{seeds.failed} of {plural(len(variant.records), 'run')} of {variant.name} diverged ({_some(names)}): near what "
                "always answering the most common class scores, or far below the other seeds. With 95\N{NO-BREAK SPACE}% "
                f"confidence it happens to at most {percent_with_unit(seeds.failure_bound)} of seeds. The mean counts every run; "
                f"the median is {percent_with_unit(seeds.median)}."
            )
    overturned = [verdict for verdict in analysis.verdicts if verdict.beside and verdict.beside.hidden.overturned]
    if overturned:
        verdicts = plural(len(analysis.verdicts), "verdict")
        which = f'the verdict "{overturned[0].words}"' if len(overturned) == 1 else f"{len(overturned)} of {verdicts}"
        said.append(
            f"If one seed in ten failed, and none of these happened to, it would change {which}. Few seeds cannot exclude that: "
            "verdicts are about training that does not fail."
        )
    return said


def _level_with_best(analysis: Analysis) -> list[Variant]:
    """Returns the variants that are not told apart from the best one."""
    best = analysis.ranked[0]
    return [verdict.second for verdict in analysis.verdicts if verdict.first is best and not verdict.is_difference]


def _some(names: list[str], most: int = 2 * NAMES_IN_HEADLINE) -> str:
    """Returns the names as a list in words; of very many only the first."""
    shown = names[:most]
    return listed(shown) if len(shown) == len(names) else f"{', '.join(shown)} and {len(names) - len(shown)} more"
