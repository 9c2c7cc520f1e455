"""Entry: seeds are trained until a comparison is decided. `python -m catdog.decide --help` explains it."""

import json
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from rich import box
from rich.table import Table
from rich.text import Text

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import DecideConfig
from catdog.config.schema import TrackingConfig
from catdog.statistics.decisions import Decision, judge
from catdog.statistics.sequential import level_of_looks, plan_looks
from catdog.system import interrupts
from catdog.system.errors import EXIT_INTERRUPTED, InterruptedRunError, UserError
from catdog.system.terminal import console, show_next
from catdog.system.wording import at_least, at_most, plural, signed, signed_interval
from catdog.tracking.identity import PRECISION_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.comparison.variants import Variant
    from catdog.statistics.contrasts import Contrast

log = logging.getLogger(__name__)


@dataclass
class Pair:
    """Two variants, and how far the decision between them has come.

    Attributes:
        first: name of the variant that comes first in the sweep.
        second: the other's.
        outcome: from the first variant's view.
        seeds: at the last look.
        found: the difference in accuracy at the last look, first less second.
        interval: its bounds, which hold together with those of all other pairs and looks.
    """

    first: str
    second: str
    outcome: Decision = Decision.UNDECIDED
    seeds: int = 0
    found: "Contrast | None" = None
    interval: tuple[float, float] = field(default=(float("nan"), float("nan")))

    @property
    def words(self) -> str:
        """The decision as a sentence."""
        low, high = self.interval
        if self.outcome in (Decision.BETTER, Decision.WORSE):
            better, by = (self.first, low) if self.outcome == Decision.BETTER else (self.second, -high)
            return f"{better} is better by at least {at_least(by)}"
        if self.outcome == Decision.EQUIVALENT:
            return f"no difference of more than {at_most(max(-low, high))}"
        if self.outcome == Decision.FUTILE:
            assert self.found is not None
            return f"cannot be decided by more seeds: {self.found.images:,} images are too few"
        return "undecided"

    @property
    def is_open(self) -> bool:
        """Whether more seeds may decide it."""
        return self.outcome == Decision.UNDECIDED


def decide(config: DecideConfig, overrides: Sequence[str]) -> list[Pair]:
    """Trains rounds of seeds until every pair of variants is decided, cannot be, or `max_seeds` have been trained.

    The looks are at numbers of seeds fixed beforehand. The error is divided among the pairs (Bonferroni), and for each pair spent
    over the looks, so that all intervals of all pairs at all looks hold together in all but `error` of studies.

    Args:
        config: margin, error and numbers of seeds.
        overrides: for `catdog.train -m`, without seeds.

    Raises:
        UserError: the overrides make fewer than two variants.
        InterruptedRunError: Ctrl-C in a round.
    """
    if not _makes_a_sweep(overrides):
        raise _too_few(overrides)
    looks = plan_looks(config.first_seeds, config.max_seeds)
    pairs: list[Pair] | None = None
    only: list[str] | None = None
    for number, seeds in enumerate(looks, 1):
        wanted = ", ".join(only) if only else "all variants"
        console.print(Text(f"\nround {number} of at most {len(looks)}: {seeds} seeds of {wanted}", style="bold"))
        result = _train(overrides, seeds, only)
        client, variants = _load_variants(result)
        if pairs is None:
            names = [variant.name for variant in variants]
            if len(names) < 2:
                raise _too_few(overrides)
            pairs = [Pair(*both) for both in combinations(names, 2)]
        levels = level_of_looks(looks, config.error / len(pairs))
        _look(pairs, {variant.name: variant for variant in variants}, seeds, levels[number - 1], config.margin)
        console.print(build_table(pairs, config))
        _record(client, result["sweep_id"], config, pairs)
        place = (result["study"], result["tracking"]["uri"], f"sweep={result['sweep_id']}")
        still = [pair for pair in pairs if pair.is_open]
        if not still:
            break
        only = list(dict.fromkeys(name for pair in still for name in (pair.first, pair.second)))
    assert pairs is not None
    if still:
        log.info(
            "%s not decided after %d seeds: more validation images would help, or a wider margin. To begin again with a larger "
            "max_seeds would be a second test of the same question, with an error of its own",
            plural(len(still), "pair"), config.max_seeds,
        )  # fmt: skip
    show_next(next_command("compare", *place))
    return pairs


def _makes_a_sweep(overrides: Sequence[str]) -> bool:
    """Returns whether a key has several values, as far as that can be seen without composing: an experiment may bring some."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(cli.explain(error, "config")) from error
    return any(item.is_sweep_override() or item.key_or_group == "experiment" for item in parsed)


def _too_few(overrides: Sequence[str]) -> UserError:
    return UserError(
        f"decide: a comparison needs two variants or more, received {' '.join(overrides) or 'nothing'}. Give a key several "
        "values: model=cnn,augmented."
    )


def _train(overrides: Sequence[str], seeds: int, only: list[str] | None) -> dict:
    """Trains a sweep of so many seeds of the variants named, or of all, and returns what the launcher says of it.

    In a process of its own: a sweep's logging, signals and global state are made for one sweep.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [
            sys.executable, "-m", "catdog.train", "-m", *overrides, f"seed={','.join(map(str, range(seeds)))}",
            f"hydra.launcher.result_file={file}",
        ]  # fmt: skip
        if only:
            command.append(f"hydra.launcher.only=[{','.join(json.dumps(name) for name in only)}]")
        code = _wait_for(command)
        if code == EXIT_INTERRUPTED:
            raise InterruptedRunError
        if code:
            # The sweep has said what was wrong.
            sys.exit(code)
        return json.loads(file.read_text(encoding="utf-8"))


def _wait_for(command: list[str]) -> int:
    """Runs a command to its end, and returns its exit code; an interruption reaches it, and it has the time to close its runs."""
    interrupts.listen(once=False)
    child = subprocess.Popen(command)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            # In a terminal it has had the signal already; of two, the second ends it at once, as with a sweep of its own.
            if not sys.stdin.isatty():
                child.send_signal(signal.SIGINT)


def _load_variants(result: dict) -> "tuple[MlflowClient, list[Variant]]":
    from catdog import tracking
    from catdog.comparison.load import load_comparison
    from catdog.comparison.variants import group_by_variant

    store = TrackingConfig(**result["tracking"])
    client = tracking.connect(store, create=False)
    comparison = load_comparison(client, sweep_id=result["sweep_id"])
    if not comparison.same_data:
        raise UserError("decide: the variants saw different data, so their accuracies cannot be compared.")
    variants = group_by_variant(comparison)
    require_one_precision(variants)
    return client, variants


def require_one_precision(variants: "Sequence[Variant]") -> None:
    """Raises a UserError if seeds of one variant were trained in several precisions, as `auto` on several machines does."""
    precisions: dict[str, set[str]] = {}
    for variant in variants:
        first = variant.records[0]
        precisions.setdefault(first.variant, set()).add(first.tags.get(PRECISION_TAG, "unknown"))
    for name, found in precisions.items():
        if len(found) > 1:
            raise UserError(
                f"decide: the seeds of {name} were trained in several precisions ({', '.join(sorted(found))}), where "
                "trainer.precision=auto was not the same. Name one, such as trainer.precision=float32: all seeds are then alike."
            )


def _look(pairs: list[Pair], variants: "dict[str, Variant]", seeds: int, level: float, margin: float) -> None:
    from catdog.comparison.variants import compare_accuracy

    for pair in pairs:
        if pair.is_open:
            pair.found = compare_accuracy(variants[pair.first], variants[pair.second])
            low, high = pair.found.interval(1 - level)
            pair.interval, pair.seeds = (float(low), float(high)), seeds
            pair.outcome = judge(pair.found, margin, 1 - level)


def build_table(pairs: Sequence[Pair], config: DecideConfig) -> Table:
    """Returns how far the decision has come, for a terminal."""
    table = Table(
        title=f"difference in kept val accuracy, in points; all intervals hold together in {100 * (1 - config.error):g} %",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for head in ("pair", "seeds", "difference", "decision"):
        table.add_column(head, justify="right" if head in ("seeds", "difference") else "left", overflow="fold")
    for pair in pairs:
        estimate = pair.found.estimate if pair.found else float("nan")
        table.add_row(
            Text(f"{pair.first} \N{MINUS SIGN} {pair.second}"), str(pair.seeds),
            Text(f"{signed(estimate)} {signed_interval(*pair.interval)}"), Text(pair.words),
        )  # fmt: skip
    return table


def _record(client: "MlflowClient", sweep_id: str, config: DecideConfig, pairs: Sequence[Pair]) -> None:
    """Keeps the state of the decision on the sweep, where MLflow shows it."""
    decision = {
        "margin": config.margin, "error": config.error, "max_seeds": config.max_seeds,
        "pairs": [
            {"first": pair.first, "second": pair.second, "seeds": pair.seeds, "low": pair.interval[0],
             "high": pair.interval[1], "outcome": pair.outcome, "words": pair.words.replace("\N{NO-BREAK SPACE}", " ")}
            for pair in pairs
        ],
    }  # fmt: skip
    client.set_tag(sweep_id, "catdog.decision", json.dumps(decision))
