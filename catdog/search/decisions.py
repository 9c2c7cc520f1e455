"""Sequential decisions: seeds are trained in rounds until it is clear which variant is better."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.table import Table
from rich.text import Text

from catdog.comparison.analysis import choose_margin
from catdog.config.command_lines import next_command
from catdog.config.commands import DecideConfig
from catdog.config.composition import compose_sweep, explained
from catdog.config.schema import TrackingConfig
from catdog.data.metrics import load_metric
from catdog.statistics.failures import answer_noise
from catdog.statistics.judgements import Judgement, judge
from catdog.statistics.metrics import ACCURACY, Metric
from catdog.statistics.planning import plan_comparison
from catdog.statistics.sequential import RESERVE, level_of_looks, plan_looks
from catdog.system.errors import UserError
from catdog.system.terminal import add_name_column, name_text
from catdog.system.wording import in_groups, plural
from catdog.tracking import tags as tag
from catdog.tracking.records import log_decision

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from catdog.comparison.variants import Variant
    from catdog.config.composition import ComposedRun
    from catdog.statistics.contrasts import Contrast
    from catdog.statistics.planning import Plan
    from catdog.sweeps.launch import SweepResult
    from catdog.sweeps.options import LauncherOptions

log = logging.getLogger(__name__)


@dataclass
class Pair:
    """Two variants, and the state of the decision between them.

    Attributes:
        first: name of the variant that comes first in the sweep.
        second: name of the other variant.
        outcome: the judgement of the first variant against the second.
        seeds: number of seeds at the last look.
        found: the difference at the last look, in the metric that is compared: above 0 if the first is better.
        interval: its bounds; the intervals of all pairs at all looks hold simultaneously.
        metric: what is compared.
    """

    first: str
    second: str
    outcome: Judgement = Judgement.UNDECIDED
    seeds: int = 0
    found: "Contrast | None" = None
    interval: tuple[float, float] = field(default=(float("nan"), float("nan")))
    metric: Metric = ACCURACY

    @property
    def words(self) -> str:
        """The decision as a sentence."""
        low, high = self.interval
        if self.outcome in (Judgement.BETTER, Judgement.WORSE):
            better, by = (self.first, low) if self.outcome == Judgement.BETTER else (self.second, -high)
            return f"{better} is better by at least {self.metric.at_least(by)}"
        if self.outcome == Judgement.EQUIVALENT:
            return f"no difference of more than {self.metric.at_most(max(-low, high))}"
        if self.outcome == Judgement.FUTILE:
            assert self.found is not None
            return f"cannot be decided by more seeds: {in_groups(self.found.images, self.found.groups)} are too few"
        return "undecided"

    @property
    def is_open(self) -> bool:
        """Whether more seeds may decide it."""
        return self.outcome == Judgement.UNDECIDED


@dataclass
class Decision:
    """The result of a comparison, or its current state.

    Attributes:
        pairs: all pairs of variants.
        config: metric, error and numbers of seeds.
        margin: differences up to this are as good as none.
        seeds: number of seeds trained of the variants that stayed open longest.
        sweep_id: the sweep of the last round.
        study: its study.
        uri: address of the tracking store.
        error: highest probability that any statement is wrong: the config's, or what earlier looks of `compare` have left of it.
        plans: for each pair, in their order, what more seeds and images would find; only with `plan`.
    """

    pairs: list[Pair]
    config: DecideConfig
    margin: float
    seeds: int
    sweep_id: str
    study: str
    uri: str
    error: float
    plans: "list[list[Plan]]" = field(default_factory=list)

    def __repr__(self) -> str:
        pairs = [f"{pair.first} \N{MINUS SIGN} {pair.second}: {pair.words}" for pair in self.pairs]
        head = f"Decision({self.study!r}, {plural(self.seeds, 'seed')}, sweep_id={self.sweep_id!r})"
        return "\n  ".join([head, *pairs]).replace("\N{NO-BREAK SPACE}", " ")

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the table of pairs."""
        return str(self.to_frame().to_html(index=False, border=0, float_format="{:.3f}".format))

    @property
    def is_open(self) -> bool:
        """Whether more seeds might still decide a pair."""
        return any(pair.is_open for pair in self.pairs)

    def next_commands(self) -> list[str]:
        """Returns the commands to type next."""
        if self.plans:
            return []
        metric = self.pairs[0].metric
        more = [] if metric.is_accuracy else [f"metric={metric.name}"]
        more += [] if self.margin == metric.margin else [f"margin={self.margin:g}"]
        return [next_command("compare", self.study, self.uri, f"sweep={self.sweep_id}", *more)]

    def describe_plans(self) -> list[dict[str, Any]]:
        """Returns one mapping for each pair, number of images and number of seeds: what they would find, in its unit."""
        return [
            {"first": pair.first, "second": pair.second, **asdict(plan)}
            for pair, plans in zip(self.pairs, self.plans, strict=True)
            for plan in plans
        ]

    def to_frame(self) -> "pd.DataFrame":
        """Returns one row per pair: first, second, outcome, seeds, metric, difference, low, high, words.

        The difference is first minus second, in the metric's own sign; shares are fractions, not points.
        """
        import pandas as pd

        return pd.DataFrame(self.describe())

    def describe(self) -> list[dict[str, Any]]:
        """Returns the rows of `to_frame` as a list of mappings."""
        return [
            {
                "first": pair.first, "second": pair.second, "outcome": pair.outcome, "seeds": pair.seeds,
                "metric": pair.metric.name,
                "difference": float(pair.metric.orient(pair.found.estimate)) if pair.found else None,
                "low": min(turned := [float(pair.metric.orient(bound)) for bound in pair.interval]), "high": max(turned),
                "words": pair.words.replace("\N{NO-BREAK SPACE}", " "),
            }
            for pair in self.pairs
        ]  # fmt: skip


@dataclass(frozen=True)
class Round:
    """The trained runs of one look: a number of seeds of every variant that is still open.

    Attributes:
        client: of the tracking store.
        tracking: that store.
        sweep_id: the MLflow run id of the sweep that these runs form.
    """

    client: "MlflowClient"
    tracking: TrackingConfig
    sweep_id: str


class Trainer(Protocol):
    """Trains rounds, as sweeps of catdog's own runs or with functions that record runs."""

    def __call__(self, seeds: int, only: list[str] | None) -> Round:
        """Trains the seeds 0 to `seeds` - 1 of the variants in `only`, or of all variants; existing runs are reused."""


def decide(
    config: DecideConfig,
    train: Trainer,
    *,
    against: str | None = None,
    luck: "Callable[[Sequence[Contrast]], float]" = lambda _: 0.0,
    on_round: Callable[[str], None] = lambda _: None,
    on_look: Callable[[Decision], None] = lambda _: None,
) -> Decision:
    """Trains rounds of seeds until every pair of variants is decided or futile, or `max_seeds` have been trained.

    The numbers of seeds at which the looks take place are fixed in advance. The error is divided among the pairs (Bonferroni),
    and each pair's part is spent over the looks. All intervals of all pairs at all looks then hold simultaneously with a
    probability of at least 1 - `error`.

    Args:
        config: metric, margin, error and numbers of seeds.
        train: trains a round.
        against: the variant that each other one is compared with; None: every pair.
        luck: returns how much of the first sides' advantage may be luck, because these images chose them, given the differences of
            all pairs; lower bounds are lowered by it.
        on_round: called before each round with a description of it.
        on_look: called with the current state after each look.

    Raises:
        UserError: there are fewer than two variants, or they cannot be compared, or not by this metric.
        KeyboardInterrupt: Ctrl-C during a round.
    """
    metric = load_metric(config.metric)
    margin = choose_margin(metric, config.margin)
    looks = plan_looks(config.first_seeds, config.max_seeds)
    decision: Decision | None = None
    only: list[str] | None = None
    for number, seeds in enumerate(looks, 1):
        wanted = ", ".join(only) if only else "all variants"
        on_round(f"round {number} of at most {len(looks)}: {seeds} seeds of {wanted}")
        trained = train(seeds, only)
        study, variants = _load_variants(trained, metric)
        if decision is None:
            names = [variant.name for variant in variants]
            if len(names) < 2:
                raise too_few([])
            compared = [(name, against) for name in names if name != against] if against else combinations(names, 2)
            pairs = [Pair(*both, metric=metric) for both in compared]
            error = _spare_error(config.error, variants)
            decision = Decision(pairs, config, margin, seeds, trained.sweep_id, study, trained.tracking.uri, error)
        decision.seeds, decision.sweep_id = seeds, trained.sweep_id
        levels = level_of_looks(looks, decision.error / len(decision.pairs))
        _look(decision.pairs, {variant.name: variant for variant in variants}, seeds, levels[number - 1], margin, luck)
        if config.plan:
            # Nothing is decided, so nothing is recorded.
            decision.plans = _plan_pairs(decision.pairs, {variant.name: variant for variant in variants})
            on_look(decision)
            return decision
        _record(trained.client, decision)
        on_look(decision)
        if not decision.is_open:
            break
        only = list(dict.fromkeys(name for p in decision.pairs if p.is_open for name in (p.first, p.second)))
    assert decision is not None
    if decision.is_open:
        log.info(
            "%s not decided after %d seeds: more validation images would help, or a wider margin. Starting again with more "
            "seeds would be a second test of the same question, with an error of its own",
            plural(sum(pair.is_open for pair in decision.pairs), "pair"), config.max_seeds,
        )  # fmt: skip
    return decision


def _plan_pairs(pairs: Sequence[Pair], variants: "Mapping[str, Variant]") -> "list[list[Plan]]":
    from catdog.comparison.variants import compare_merits

    plans = []
    for pair in pairs:
        sides = (variants[pair.first], variants[pair.second])
        noise = [float(answer_noise(variant.merits)) for variant in sides]
        plans.append(plan_comparison(compare_merits(*sides), noise))
    return plans


def _spare_error(error: float, variants: "Sequence[Variant]") -> float:
    """Returns what is left of the error, if `compare` has judged seeds of these variants before."""
    if not any(record.tags.compared for variant in variants for record in variant.records):
        return error
    left = RESERVE * error
    log.info(
        "compare has judged seeds of these variants before, which might have ended the question as well. So that all looks "
        "together are seldom wrong, those of decide share %g of error=%g. A question that starts with decide keeps all of it",
        left, error,
    )  # fmt: skip
    return left


def require_sweep(overrides: Sequence[str]) -> None:
    """Raises a UserError unless a key has several values. Only the command line is checked: an experiment may bring more values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with explained():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    if not any(item.is_sweep_override() or item.key_or_group == "experiment" for item in parsed):
        raise too_few(overrides)


def too_few(overrides: Sequence[str]) -> UserError:
    """Returns the error for a comparison with only one side."""
    return UserError(
        f"decide: a comparison needs two variants or more, received {' '.join(overrides) or 'one'}. Give a key several "
        "values: model=cnn,augmented."
    )


def _require_classes(metric: Metric, runs: "Sequence[ComposedRun]") -> None:
    """Raises a UserError if the classes of a data set of these runs do not allow a metric."""
    from catdog.data.dataset import load_dataset

    for dataset in {repr(run.config.dataset): run.config.dataset for run in runs}.values():
        metric.require_classes("metric", load_dataset(dataset).classes)


class SweepTrainer:
    """Trains each round as a sweep of catdog's own runs.

    Args:
        overrides: the overrides that define the variants, without seeds: "model=cnn,augmented".
        run: trains a sweep, given its runs, options and arguments, and returns the result.
        metric: by which they will be compared; whether the classes allow it is checked before anything is trained.
    """

    def __init__(
        self,
        overrides: Sequence[str],
        run: "Callable[[list[ComposedRun], LauncherOptions, list[str]], SweepResult]",
        metric: str = ACCURACY.name,
    ) -> None:
        require_sweep(overrides)
        self.overrides = list(overrides)
        self.run = run
        self.metric = load_metric(metric)

    def __call__(self, seeds: int, only: list[str] | None) -> Round:
        """Trains the seeds 0 to `seeds` - 1 of the variants in `only`, or of all variants; existing runs are reused.

        Raises:
            UserError: the classes do not allow the metric, a run failed, or the tracking store does not have all runs.
            KeyboardInterrupt: Ctrl-C.
        """
        from catdog import tracking
        from catdog.sweeps.options import build_options, require_attached

        words = [*self.overrides, f"seed={','.join(map(str, range(seeds)))}"]
        runs, launcher = compose_sweep(words)
        options = build_options(launcher, {"only": only})
        require_attached(options)
        if not self.metric.is_accuracy:
            _require_classes(self.metric, runs)
        result = self.run(runs, options, ["-m", *words])
        if result.interrupted:
            raise KeyboardInterrupt
        if result.undelivered:
            raise UserError(result.undelivered)
        if not result.is_complete:
            failed = [f"{job.name}: {job.error or 'not started'}" for job in result.jobs if not job.outcome]
            raise IncompleteRoundError(
                f"a round needs all of its runs, and {'; '.join(failed)}. Fix that, and repeat the command."
            )
        return Round(tracking.connect(result.tracking, create=False), result.tracking, result.sweep_id)


class IncompleteRoundError(UserError):
    """A run of a round failed, so the round cannot be evaluated."""


def _load_variants(trained: Round, metric: Metric) -> "tuple[str, list[Variant]]":
    from catdog.comparison.load import load_comparison
    from catdog.comparison.variants import group_by_variant

    # The next round names its variants as the sweep does.
    comparison = load_comparison(trained.client, sweep_id=trained.sweep_id, stored_names=True, metric=metric)
    if not comparison.same_data:
        raise UserError("decide: the variants saw different data, so their accuracies cannot be compared.")
    variants = group_by_variant(comparison)
    require_one_precision(variants)
    return comparison.study, variants


def require_one_precision(variants: "Sequence[Variant]") -> None:
    """Raises a UserError if seeds of one variant were trained in several precisions, as `auto` may do on different machines."""
    precisions: dict[str, tuple[str, set[str]]] = {}
    for variant in variants:
        first = variant.records[0]
        key = first.tags.variant_key(without=(tag.PRECISION, tag.DEVICE)) or first.variant
        words = " on the ".join(first.tags.runtime.values())
        precisions.setdefault(key, (first.variant, set()))[1].add(words or "unknown")
    for name, found in precisions.values():
        if len(found) > 1:
            raise UserError(
                f"decide: the seeds of {name} were trained in several precisions ({', '.join(sorted(found))}), because "
                "trainer.precision=auto chose differently. Set one for all, such as trainer.precision=float32."
            )


def _look(
    pairs: list[Pair],
    variants: "dict[str, Variant]",
    seeds: int,
    level: float,
    margin: float,
    luck: "Callable[[Sequence[Contrast]], float]",
) -> None:
    from catdog.comparison.variants import compare_merits

    looked_at = [pair for pair in pairs if pair.is_open]
    for pair in looked_at:
        pair.found, pair.seeds = compare_merits(variants[pair.first], variants[pair.second]), seeds
    lucky = luck([pair.found for pair in pairs if pair.found is not None])
    for pair in looked_at:
        assert pair.found is not None
        low, high = (float(bound) for bound in pair.found.interval(1 - level))
        pair.interval, pair.outcome = (low - lucky, high), judge(pair.found, margin, 1 - level)
        lowered = {Judgement.BETTER: low > lucky, Judgement.EQUIVALENT: low - lucky > -margin}
        if not lowered.get(pair.outcome, True):
            pair.outcome = Judgement.UNDECIDED


def build_table(decision: Decision) -> Table:
    """Returns the state of the decision as a table for the terminal."""
    pairs = decision.pairs
    metric = pairs[0].metric
    unit = f", in {metric.unit}" if metric.unit else ""
    direction = "" if metric.higher_is_better else f"; {metric.direction}"
    together = f"all intervals hold together in {100 * (1 - decision.error):g} %"
    table = Table(
        title=f"difference in fair val {metric.words}{unit}{direction}; {together}",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    add_name_column(table, "pair", [name for pair in pairs for name in (pair.first, pair.second)])
    for head in ("seeds", "difference", "decision"):
        table.add_column(head, justify="left" if head == "decision" else "right", overflow="fold")
    for pair in pairs:
        estimate = pair.found.estimate if pair.found else float("nan")
        table.add_row(
            name_text(f"{pair.first} \N{MINUS SIGN} {pair.second}"), str(pair.seeds),
            Text(f"{metric.show_difference(estimate)} {metric.show_difference_interval(*pair.interval)}"), Text(pair.words),
        )  # fmt: skip
    return table


def build_plans_table(decision: Decision) -> Table:
    """Returns what more seeds and more images would find, for the terminal, in points."""
    table = Table(
        title="What more seeds or more validation images would find, if these seeds are typical",
        caption="\N{PLUS-MINUS SIGN}: half the 95% interval of the pair alone. found: the smallest true difference that is found "
        "in 80% of studies; in brackets, if seeds spread more than these few show.",
        title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    add_name_column(table, "pair", [name for pair in decision.pairs for name in (pair.first, pair.second)])
    for head in ("images", "seeds", "\N{PLUS-MINUS SIGN}", "found"):
        table.add_column(head, justify="right", no_wrap=True)
    for pair, plans in zip(decision.pairs, decision.plans, strict=True):
        for place, plan in enumerate(plans):
            name = "" if place else f"{pair.first} \N{MINUS SIGN} {pair.second}"
            numbers = [pair.metric.size(value) for value in (plan.half_width, plan.detectable, plan.cautious)]
            table.add_row(
                name_text(name), f"{plan.images:,}", str(plan.seeds), numbers[0], f"{numbers[1]} [{numbers[2]}]"
            )
    return table


def _record(client: "MlflowClient", decision: Decision) -> None:
    """Stores the state of the decision on the sweep, where MLflow shows it."""
    config = decision.config
    state = {
        "metric": config.metric,
        "margin": decision.margin,
        "error": decision.error,
        "max_seeds": config.max_seeds,
        "pairs": decision.describe(),
    }
    log_decision(client, decision.sweep_id, state)
