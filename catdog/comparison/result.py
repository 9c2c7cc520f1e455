"""The result of a comparison for users: tables, figures, verdicts, and the page."""

import base64
import html
import io
import logging
import shlex
import shutil
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.comparison import findings
from catdog.comparison.analysis import Analysis
from catdog.comparison.atlas import Atlas, build_atlas
from catdog.comparison.page.tables import (
    build_classes_frame,
    build_effects_frame,
    build_frame,
    build_images_frame,
    build_pairs_frame,
    build_variants_frame,
    list_set_verdicts,
)
from catdog.comparison.single import suggest_partners
from catdog.config.digest import hash_text
from catdog.system.errors import UserError
from catdog.system.saving import save_page, saving_folder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FIGURE_DPI = 150
SMALL_DPI = 80
MOST_ROWS = 20
# Matplotlib's settings are global to the process: whoever builds or saves figures holds this lock.
DRAWING = threading.Lock()


class Comparison:
    """The runs of one question, side by side: what was measured, what is decided, and what made the difference.

    Accuracies are fractions in [0, 1], differences in [-1, 1]. Tables and figures are made when they are first used.

    Args:
        client: a client of the tracking store.
        analysis: the analysis of the runs.
        gradcam: "auto" computes Grad-CAM for the page if it is not stored yet; "never" does not.
    """

    def __init__(self, client: "MlflowClient", analysis: Analysis, gradcam: str = "auto") -> None:
        self._client = client
        self._gradcam = gradcam
        self.analysis = analysis

    @property
    def study(self) -> str:
        """The study's name."""
        return self.analysis.comparison.study

    @property
    def sweep_id(self) -> str:
        """The run id of the sweep that is compared; "" if single runs are compared."""
        return self.analysis.comparison.sweep_id

    @property
    def complete(self) -> bool:
        """Whether every run has finished; if not, there are no verdicts."""
        return self.analysis.comparison.complete

    @cached_property
    def headline(self) -> str:
        """The one line to remember."""
        return _with_spaces(findings.headline(self.analysis))

    @cached_property
    def sentences(self) -> list[str]:
        """The sentences that support the headline, and those that limit it."""
        return [_with_spaces(text) for text in findings.sentences(self.analysis)]

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before believing any number; usually nothing."""
        return [_with_spaces(text) for text in findings.warnings(self.analysis.comparison)]

    @cached_property
    def runs(self) -> "pd.DataFrame":
        """One row per run; columns as in `catdog.comparison.page.tables.build_frame`."""
        return build_frame(self.analysis.comparison)

    @cached_property
    def variants(self) -> "pd.DataFrame":
        """One row per variant, the best first; columns as in `catdog.comparison.page.tables.build_variants_frame`.

        variant, seeds (how many), metric (what is compared), score (the mean over seeds) with the interval from score_low to
        score_high, score_seed_sd, fair_val_accuracy (the mean over seeds) with the interval from fair_val_low to fair_val_high,
        fair_val_seed_sd, fair_gap_accuracy, kept_val_accuracy, last_train_accuracy, last_val_accuracy, last_gap_accuracy,
        val_images.
        """
        return build_variants_frame(self.analysis)

    @cached_property
    def pairs(self) -> "pd.DataFrame":
        """One row per pair of variants, the largest difference first; none if the runs saw different data.

        first, second, metric, score_difference (first minus second) with its own 95% interval from low to high, the simultaneous
        interval for all pairs (simultaneous_low, simultaneous_high), p_holm, gap_difference, differs_in, kind ("better",
        "equivalent", "undecided", "futile", "one seed", "incomplete", "search"), verdict (in words), and more:
        `catdog.comparison.page.tables.build_pairs_frame`.
        """
        return build_pairs_frame(self.analysis)

    @cached_property
    def effects(self) -> "pd.DataFrame":
        """One row per pair of variants, with what changes from one to the other; pairs with one ingredient first.

        before, after, differs_in, ingredients (how many), metric, score_difference (after minus before), low, high, gap_difference,
        gap_low, gap_high, steps, commands: `catdog.comparison.page.tables.build_effects_frame`.
        """
        return build_effects_frame(self.analysis)

    @cached_property
    def classes(self) -> "pd.DataFrame":
        """One row per variant and class: variant, class, images, recall with the interval from low to high.

        The intervals hold for all rows together: `catdog.comparison.page.tables.build_classes_frame`.
        """
        return build_classes_frame(self.analysis)

    @cached_property
    def images(self) -> "pd.DataFrame":
        """One row per validation image that all runs answered: file, label, kind, by, suspect, and right_NAME for each variant.

        As in `catdog.comparison.page.tables.build_images_frame`.
        """
        return build_images_frame(self._atlas)

    @property
    def figure_names(self) -> list[str]:
        """The names that `figure` accepts: the figures that these runs allow."""
        return list(self._figures)

    def figure(self, name: str) -> "Figure":
        """Returns a figure: "accuracy", "loss", "gap", "final_accuracy", "differences", "effects" and so on.

        Raises:
            UserError: there is no such figure for these runs.
        """
        if name not in self._figures:
            raise UserError(f"figure: must be one of {', '.join(self._figures)}, received {name!r}.")
        return self._figures[name]

    def verdicts(self) -> list[dict[str, Any]]:
        """Returns the decision on each pair: first, second, kind, verdict (in words), metric, score_difference, low, high.

        There is `accuracy_difference` as well; unless the accuracy is compared, low and high are not its bounds.
        """
        columns = [
            "first",
            "second",
            "kind",
            "verdict",
            "metric",
            "score_difference",
            "accuracy_difference",
            "low",
            "high",
        ]
        return [{str(key): value for key, value in row.items()} for row in self.pairs[columns].to_dict("records")]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything except images and figures as lists, numbers and texts, as `format=json` prints it."""
        compared = self.analysis.comparison
        return {
            "study": self.study,
            "sweep": self.sweep_id or None,
            "complete": self.complete,
            "planned_runs": compared.planned or len(compared.records),
            "untrained_runs": compared.untrained,
            "same_data": compared.same_data,
            "metric": self.analysis.metric.name,
            "higher_is_better": self.analysis.metric.higher_is_better,
            "margin": self.analysis.margin,
            "val_images": compared.val_images,
            "val_groups": compared.val_groups,
            "overrides": self.analysis.common,
            "baseline": compared.baseline,
            "class_counts": compared.class_counts,
            "test_looks": len(compared.looks),
            "headline": self.headline,
            "sentences": self.sentences,
            "warnings": self.warnings,
            "runs": self.runs.to_dict("records"),
            "variants": self.variants.to_dict("records"),
            "pairs": self.pairs.to_dict("records"),
            "effects": self.effects.to_dict("records"),
            "training_sets": list_set_verdicts(self.analysis),
            "classes": self.classes.to_dict("records"),
        }

    def suggest_partners(self, uri: str) -> list[str]:
        """Returns commands that get another variant to compare with, if there is only one.

        Args:
            uri: the tracking address, for the commands.
        """
        return suggest_partners(self._client, self.analysis, uri) if len(self.analysis.variants) < 2 else []

    def suggest_decision(self, uri: str) -> list[str]:
        """Returns the command that trains seeds until every pair is decided, if a pair is undecided that seeds may decide.

        Args:
            uri: the tracking address, for the command.
        """
        from catdog.config.command_lines import next_command

        compared = self.analysis.comparison
        words = shlex.split(compared.command)
        if not findings.may_need_seeds(self.analysis) or words[1:3] != ["-m", "catdog.train"]:
            return []
        own = ("-m", "--multirun", "seed=", "study=", "tracking.uri=", "hydra.launcher.")
        seeds = max(len(variant.records) for variant in self.analysis.variants)
        metric = self.analysis.metric
        more = [] if metric.is_accuracy else [f"metric={metric.name}"]
        more += [] if self.analysis.margin == metric.margin else [f"margin={self.analysis.margin:g}"]
        more += [f"first_seeds={seeds}", f"max_seeds={max(12, 2 * seeds)}"]
        overrides = [word for word in words[3:] if not word.startswith(own)]
        return [next_command("decide", compared.study, uri, *overrides, *more)]

    def save(self, path: str | Path) -> Path:
        """Writes the page, one self-contained HTML file, and returns its path.

        If Grad-CAM is wanted and not stored yet, it is computed first and stored with the runs.

        Raises:
            UserError: the file cannot be written.
        """
        return save_page(path, self._page)

    def save_folder(self, parent: str | Path) -> Path:
        """Writes page, tables (CSV) and figures (PNG) to this comparison's own folder, and stores them with its sweep.

        Args:
            parent: where that folder is made; it is named after the sweep or the runs.

        Returns:
            The folder: comparison.html, table.csv, variants.csv, pairs.csv, classes.csv, figures/.

        Raises:
            UserError: the folder cannot be written.
        """
        from catdog.plots import make_legible

        folder = Path(parent) / self._key
        # Before the PNGs: in the page the reader's browser chooses the fonts, and no text is replaced.
        page = self._page
        tables = {"table": self.runs, "variants": self.variants, "pairs": self.pairs, "classes": self.classes}
        with saving_folder(folder):
            for name, frame in tables.items():
                # If there are no pairs, no table is written, and one from an earlier comparison must not stay.
                (folder / f"{name}.csv").unlink(missing_ok=True)
                if len(frame):
                    frame.to_csv(folder / f"{name}.csv", index=False)
            (folder / "comparison.html").write_text(page, encoding="utf-8")
            # An earlier comparison may have left other figures.
            shutil.rmtree(folder / "figures", ignore_errors=True)
            (folder / "figures").mkdir(exist_ok=True)
            with DRAWING:
                for name, figure in self._figures.items():
                    make_legible(figure).savefig(folder / "figures" / f"{name}.png", dpi=FIGURE_DPI)
        if self.sweep_id:
            self._store(folder)
        return folder

    def _store(self, folder: Path) -> None:
        from catdog import tracking

        if tracking.is_writable(self._client.tracking_uri):
            self._client.log_artifacts(
                self.sweep_id, str(folder), "comparison" + folder.name.removeprefix(self.sweep_id)
            )
        else:
            log.info("the tracking store cannot be written, so the comparison is in its own folder only")

    def __repr__(self) -> str:
        return f"Comparison({self.study!r}: {self.headline})"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the headline, the tables of variants and pairs, and the accuracy figure."""
        from catdog.plots import make_legible

        parts = [f"<p><strong>{html.escape(self.headline)}</strong></p>"]
        parts += [f"<p>{html.escape(text)}</p>" for text in self.warnings]
        parts += [_as_html(_shorten_variants(self.analysis)), _as_html(_shorten_pairs(self.analysis))]
        if "accuracy" in self._figures:
            buffer = io.BytesIO()
            with DRAWING:
                make_legible(self._figures["accuracy"]).savefig(buffer, format="png", dpi=SMALL_DPI)
            encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
            parts.append(f'<img alt="accuracy by epoch" src="data:image/png;base64,{encoded}">')
        return "\n".join(parts)

    @property
    def _key(self) -> str:
        """The name of this comparison's folder."""
        run_ids = [record.run_id for record in self.analysis.comparison.records]
        if self.sweep_id and self.analysis.comparison.has_lost_runs:
            # The page with the verdicts on the whole sweep stays.
            return f"{self.sweep_id}-incomplete"
        return self.sweep_id or (run_ids[0] if len(run_ids) == 1 else hash_text(" ".join(run_ids))[:32])

    @cached_property
    def _atlas(self) -> Atlas | None:
        return build_atlas(self.analysis)

    @cached_property
    def _figures(self) -> "dict[str, Figure]":
        from catdog.comparison.page.figures import build_figures

        with DRAWING:
            return build_figures(self.analysis, self._atlas)

    @cached_property
    def _page(self) -> str:
        from catdog.comparison.cams import collect_cams
        from catdog.comparison.page.render import render_page

        cams = collect_cams(self._client, self._atlas, self._gradcam)
        figures = self._figures
        with DRAWING:
            return render_page(self.analysis, self._atlas, cams, figures)


def _with_spaces(text: str) -> str:
    # Non-breaking spaces are only needed in a page, and a script would search for ordinary ones.
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _shorten_variants(analysis: Analysis) -> "pd.DataFrame":
    import pandas as pd

    metric, rows = analysis.metric, analysis.ranked[:MOST_ROWS]
    head = f"{analysis.compared}, %" if metric.is_in_percent else analysis.compared
    return pd.DataFrame({
        "variant": [variant.name for variant in rows],
        "seeds": [len(variant.records) for variant in rows],
        head: [metric.show(variant.value) for variant in rows],
        "95 %": [f"[{', '.join(metric.show(bound) for bound in variant.value_interval)}]" for variant in rows],
        "sd": [metric.show(variant.value_spread) for variant in rows],
    })  # fmt: skip


def _shorten_pairs(analysis: Analysis) -> "pd.DataFrame":
    import pandas as pd

    metric, rows = analysis.metric, analysis.verdicts[:MOST_ROWS]
    head = f"difference, {metric.unit}" if metric.unit else "difference"
    return pd.DataFrame({
        "pair": [f"{verdict.first.name} \N{MINUS SIGN} {verdict.second.name}" for verdict in rows],
        head: [metric.show_difference(verdict.accuracy.estimate) for verdict in rows],
        "95 %": [metric.show_difference_interval(verdict.accuracy.low, verdict.accuracy.high) for verdict in rows],
        "verdict": [verdict.words.replace("\N{NO-BREAK SPACE}", " ") for verdict in rows],
    })  # fmt: skip


def _as_html(frame: "pd.DataFrame") -> str:
    return str(frame.to_html(index=False, border=0)) if len(frame) else ""
