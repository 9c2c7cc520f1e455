"""Metrics as values of single images: their means are scikit-learn's numbers, and their intervals cover the truth."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics

from catdog.statistics.contrasts import contrast
from catdog.statistics.metrics import NAMED, ModelAnswers, build_class_f1, build_cost, build_own, measure_top
from catdog.system.errors import UserError


def draw(classes: int, images: int = 300, seed: int = 0, skill: float = 1.0) -> ModelAnswers:
    """Answers to images of classes that differ much in size."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, classes + 1) ** 2
    labels = rng.choice(classes, images, p=shares / shares.sum())
    logits = rng.normal(size=(images, classes)) + skill * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return ModelAnswers.from_probabilities(labels, tuple("abcdefghij"[:classes]), probabilities)


def ask_sklearn(name: str, answers: ModelAnswers) -> float:
    labels, probabilities = answers.labels, answers.known
    predicted = probabilities.argmax(axis=1)
    scores = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return {
        "accuracy": lambda: sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": lambda: sklearn_metrics.balanced_accuracy_score(labels, predicted),
        "log_loss": lambda: sklearn_metrics.log_loss(labels, probabilities),
        "brier": lambda: sklearn_metrics.brier_score_loss(labels, scores),
        "auc": lambda: sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr"),
        "f1": lambda: sklearn_metrics.f1_score(labels, predicted, average="macro"),
        "top_5": lambda: sklearn_metrics.top_k_accuracy_score(labels, scores, k=5),
    }[name]()


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_the_mean_of_the_values_is_the_metric(name: str, classes: int) -> None:
    if name == "top_5" and classes < 6:
        pytest.skip("it needs more than 5 classes")
    answers = draw(classes)
    values = NAMED[name].values(answers)
    assert values.shape == (300,)
    assert values.mean() == pytest.approx(ask_sklearn(name, answers), abs=1e-9)


def test_equal_scores_count_one_half() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    of_second = np.array([0.5, 0.2, 0.5, 0.5, 0.9])
    answers = ModelAnswers.from_probabilities(labels, ("a", "b"), np.stack([1 - of_second, of_second], axis=1))
    # Of 6 pairs, 4 are in order and 2 are equal.
    assert NAMED["auc"].values(answers).mean() == pytest.approx(5 / 6)


def test_two_classes_need_no_probabilities() -> None:
    answers = draw(2)
    stored = ModelAnswers(answers.labels, answers.class_names, answers.right, answers.losses)
    for metric in NAMED.values():
        if metric.name != "top_5":
            assert metric.is_known(stored)
            assert metric.values(stored) == pytest.approx(metric.values(answers))


def test_three_classes_need_probabilities_unless_right_or_wrong_and_the_loss_are_enough() -> None:
    answers = draw(3)
    stored = ModelAnswers(answers.labels, answers.class_names, answers.right, answers.losses)
    known = {name for name, metric in NAMED.items() if metric.is_known(stored)}
    assert known == {"accuracy", "balanced_accuracy", "log_loss"}
    with pytest.raises(ValueError, match="needs probabilities"):
        NAMED["auc"].values(stored)


def test_the_f1_of_one_class() -> None:
    answers = draw(3)
    found = build_class_f1("f1:b", "b").values(answers).mean()
    assert found == pytest.approx(sklearn_metrics.f1_score(answers.labels, answers.predicted, average=None)[1])


def test_a_mean_cost_whatever_the_order_of_the_classes() -> None:
    answers = draw(3)
    costs = np.array([[0, 1, 2], [5, 0, 1], [10, 3, 0.5]])
    wanted = costs[answers.labels, answers.predicted].mean()
    order = [2, 0, 1]
    metric = build_cost("cost:c.csv", costs[np.ix_(order, order)], ("c", "a", "b"))
    assert metric.values(answers).mean() == pytest.approx(wanted)
    assert metric.margin == pytest.approx(0.2)
    assert metric.orient(3.0) == -3.0


def test_a_function_of_all_images_gets_values_by_leaving_images_out() -> None:
    answers = draw(2, images=400)

    def auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
        return float(sklearn_metrics.roc_auc_score(labels, probabilities[:, 1]))

    own = build_own("my:auc", auc)
    assert own.values_by_image(answers) is None
    found, wanted = own.values(answers), NAMED["auc"].values(answers)
    assert found.mean() == pytest.approx(wanted.mean())
    assert found.std() == pytest.approx(wanted.std(), rel=0.02)
    assert np.corrcoef(found, wanted)[0, 1] > 0.999


def test_of_many_images_groups_are_left_out_and_the_spread_stays() -> None:
    rng = np.random.default_rng(0)
    answers = draw(2, images=3000)
    numbers = rng.normal(size=3000)
    places = {row.tobytes(): number for row, number in zip(answers.known, numbers, strict=True)}
    own = build_own("my:mean", lambda _, probabilities: np.mean([places[row.tobytes()] for row in probabilities]))
    found = own.values(answers)
    assert found.mean() == pytest.approx(numbers.mean())
    assert found.std() == pytest.approx(numbers.std(), rel=0.1)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda labels, probabilities: probabilities, r"my:own must return one finite number for each.*returned shape \(300, 2\)"),
        (lambda labels, probabilities: np.full(len(labels), np.nan), "my:own must return.*it returned NaN"),
        (lambda labels, probabilities: float("inf"), "my:own must return.*it returned an infinite number"),
        (lambda labels, probabilities: None, "my:own must return.*returned None"),
        (lambda labels, probabilities: "high", "my:own must return.*returned an object of type str"),
        (lambda labels: 1.0, "my:own failed: TypeError"),
        (lambda labels, probabilities: labels[1000], "my:own failed: IndexError"),
    ],
    ids=["shape", "nan", "infinite", "none", "text", "arguments", "raises"],
)  # fmt: skip
def test_a_function_that_is_wrong_is_named(function, said: str) -> None:
    with pytest.raises(UserError, match=f"(?s)metric: {said}"):
        build_own("my:own", function).values(draw(2))


def test_a_metric_that_is_not_possible_for_the_classes() -> None:
    with pytest.raises(UserError, match=r"metric: top_5 needs more than 5 classes, and there are 5\. Use accuracy"):
        NAMED["top_5"].require_classes("metric", tuple("abcde"))
    NAMED["top_5"].require_classes("metric", tuple("abcdef"))
    assert measure_top(draw(8)).mean() < 1


def test_values_and_differences_have_their_own_sign() -> None:
    loss, accuracy = NAMED["log_loss"], NAMED["accuracy"]
    # The first has a loss that is lower by 0.05: it is better by that.
    assert loss.show_difference(0.05) == "\N{MINUS SIGN}0.050"
    assert loss.show_difference_interval(0.01, 0.09) == "[\N{MINUS SIGN}0.090, \N{MINUS SIGN}0.010]"
    assert loss.at_least(0.0129) == "0.012\N{NO-BREAK SPACE}nats"
    assert loss.show_interval(0.4, 0.45) == "0.400 to 0.450\N{NO-BREAK SPACE}nats"
    assert accuracy.show_difference_interval(0.01, 0.09) == "[+1.0, +9.0]"
    assert accuracy.at_most(0.0121) == "1.3\N{NO-BREAK SPACE}points"
    assert NAMED["auc"].size(0.0204) == "0.020"


SHARE, IMAGES, SEEDS = 1 / 6, 300, 5
SKILLS, SEED_SD = (2.0, 2.2), 0.2
BIG = 20_000


def answer(rng: np.random.Generator, labels: np.ndarray, hard: np.ndarray, skill: float) -> ModelAnswers:
    margin = (2 * labels - 1) * skill + hard + rng.normal(size=len(labels))
    probability = 1 / (1 + np.exp(-1.5 * margin))
    return ModelAnswers.from_probabilities(labels, ("a", "b"), np.stack([1 - probability, probability], axis=1))


def test_intervals_of_differences_cover_the_truth_on_imbalanced_images() -> None:
    names = ("balanced_accuracy", "log_loss", "brier", "auc", "f1")
    rng = np.random.default_rng(1)
    labels = (np.arange(BIG) < SHARE * BIG).astype(int)
    truth = dict.fromkeys(names, 0.0)
    quantiles = norm.ppf((np.arange(15) + 0.5) / 15)
    for sign, skill in zip((1, -1), SKILLS, strict=True):
        for quantile in quantiles:
            one = answer(rng, labels, rng.normal(size=BIG), skill + SEED_SD * quantile)
            for name in names:
                truth[name] += sign * NAMED[name].values(one).mean() / len(quantiles)
    covered = dict.fromkeys(names, 0)
    studies = 300
    for _ in range(studies):
        labels = (rng.random(IMAGES) < SHARE).astype(int)
        hard = rng.normal(size=IMAGES)
        runs = [[answer(rng, labels, hard, rng.normal(skill, SEED_SD)) for _ in range(SEEDS)] for skill in SKILLS]
        for name in names:
            found = contrast(*(np.array([NAMED[name].values(run) for run in side]) for side in runs))
            covered[name] += bool(found.low <= truth[name] <= found.high)
    rates = {name: count / studies for name, count in covered.items()}
    assert all(0.92 <= rate <= 0.985 for rate in rates.values()), rates
