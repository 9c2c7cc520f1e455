import json
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from studies import draw_studies

from catdog.comparison.analysis import analyse
from catdog.comparison.effects import differing_ingredients
from catdog.comparison.findings import sentences
from catdog.comparison.settings import read_settings
from catdog.comparison.variants import count_looks, group_by_variant
from catdog.search.decisions import require_one_precision
from catdog.system.errors import UserError
from catdog.system.wording import at_least, at_most, points
from catdog.tracking.tags import Tags

IMAGES = [f"{'cats' if index % 2 else 'dogs'}/{index}.jpg" for index in range(400)]
GROUPS = ("augmentation", "preprocessing", "backbone")
COMMAND = "python -m catdog.train model=cnn trainer.epochs=5 seed=0"


@pytest.fixture
def make_runs(make_record):
    """Runs of one variant from answers, bool (S, N)."""

    def make(name: str, right: np.ndarray, choices: tuple[str, ...] = (), command: str = COMMAND, **params: str):
        config = dict(zip((f"{group}.name" for group in GROUPS), choices, strict=False)) | params
        return [
            make_record(
                f"{name} seed={seed}", name, seed=seed, wrong=set(np.flatnonzero(~answers)), files=IMAGES[: len(answers)],
                params={"seed": str(seed), "study": "any", **config}, tags={"mlflow.source.name": command},
            )
            for seed, answers in enumerate(right)
        ]  # fmt: skip

    return make


def answers_of(*shares: float, seeds: int = 4, images: int = 400) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    hard = generator.random(images)
    return [(0.5 * hard + 0.5 * generator.random((seeds, images))) < np.quantile(hard, share) for share in shares]


def test_runs_are_grouped_by_config_not_by_name(make_record, make_comparison):
    digest = "catdog.variant_digest"
    records = [
        make_record("cnn", seed=1, tags={digest: "1" * 64}),
        make_record("cnn again", "cnn", seed=2, tags={digest: "1" * 64}),
        make_record("cnn other", "cnn", seed=1, tags={digest: "2" * 64}),
    ]
    variants = group_by_variant(make_comparison(*records))
    assert [(variant.name, variant.seeds) for variant in variants] == [("cnn 11111111", [1, 2]), ("cnn 22222222", [1])]


def test_a_repeated_seed_counts_once_as_copies_show_no_spread(make_record, make_comparison):
    records = [make_record(f"cnn {place}", "cnn", seed=7, wrong=range(place)) for place in (3, 5)]
    (variant,) = group_by_variant(make_comparison(*records))
    assert variant.seeds == [7]
    assert variant.accuracy == 0.95


def test_the_gap_is_clean_training_less_validation_accuracy(make_record, make_comparison):
    records = [make_record(f"a {seed}", "a", seed=seed, wrong=range(10 * seed)) for seed in (1, 2)]
    (variant,) = group_by_variant(make_comparison(*records))
    assert variant.gap == pytest.approx(0.99 - 0.85)
    assert variant.gaps.mean(axis=1) == pytest.approx([0.09, 0.19])
    assert variant.confusion.sum() == 200
    assert variant.representative.seed == 2


def test_verdicts_are_in_words(make_runs, make_analysis):
    good, bad = answers_of(0.95, 0.4)
    better = make_analysis(*make_runs("bad", bad), *make_runs("good", good)).verdicts
    assert [(v.first.name, v.second.name, v.kind) for v in better] == [("good", "bad", "better")]
    assert better[0].words.startswith("good is better by at least ")
    assert better[0].low < better[0].accuracy.estimate < better[0].high
    # The very same answers, and seeds that differ: no difference, or not enough to say.
    same = make_analysis(*make_runs("a", good), *make_runs("b", good[::-1]), margin=0.2).verdicts[0]
    assert (same.kind, same.words[:24]) == ("equivalent", "no difference of more th")
    undecided = make_analysis(*make_runs("a", good[:2]), *make_runs("b", good[2:]), margin=0.001).verdicts[0]
    assert undecided.kind == "undecided"
    assert undecided.words == "undecided; more seeds may decide it: decide trains as many as it takes"


def test_seeds_that_are_added_after_a_look_have_to_show_more(make_runs, make_analysis):
    def looked_at(times: int, runs: list, first: int = 0) -> list:
        return [
            replace(run, tags=Tags({**run.tags, "catdog.compared": str(times)})) if place >= first else run
            for place, run in enumerate(runs)
        ]

    # Significant at 5%, and not at 0.5%, which the second look may spend.
    generator = np.random.default_rng(8)
    hard = generator.random(400)
    good, bad = [(0.6 * hard + 0.4 * generator.random((4, 400))) < share for share in (0.72, 0.665)]
    once = make_analysis(*make_runs("bad", bad), *make_runs("good", good))
    assert 0.006 < once.verdicts[0].p < 0.045
    assert once.verdicts[0].kind == "better"
    seen = make_analysis(*looked_at(1, make_runs("bad", bad)), *looked_at(1, make_runs("good", good)))
    assert seen.verdicts[0].kind == "better", "the same runs again are no new look"
    added = make_analysis(*looked_at(1, make_runs("bad", bad), 2), *make_runs("good", good))
    assert count_looks(added.comparison, added.variants) == 2
    assert added.verdicts[0].kind == "undecided"
    assert added.verdicts[0].low < once.verdicts[0].low
    assert [effect.caveat for effect in added.effects] == ["may be nothing"] * len(added.effects)
    # The looks of decide were planned, and its own statement is shown.
    decided = make_analysis(
        *looked_at(1, make_runs("bad", bad), 2),
        *make_runs("good", good),
        decided=["good \N{MINUS SIGN} bad: undecided"],
    )
    assert decided.verdicts[0].kind == "better"
    assert "good \N{MINUS SIGN} bad: undecided" in " ".join(sentences(decided))


def test_a_sentence_about_an_ingredient_follows_the_verdict_and_not_the_pairs_own_interval(make_runs, make_analysis):
    """Of four equal variants, a single pair's interval excludes 0 in one study of eight; the verdict allows for all six pairs."""
    claimed, studies = 0, 30
    for study in range(studies):
        generator = np.random.default_rng(study)
        hard = generator.random(400)
        runs = []
        for name in ("1", "2", "3", "4"):
            right = (0.6 * hard + 0.4 * generator.random((3, 400))) < 0.7
            runs += make_runs(name, right, **{"trainer.epochs": name})
        analysis = make_analysis(*runs)
        for effect in analysis.effects:
            decided = effect.verdict.kind == "better"
            assert (effect.caveat == "") == decided
        claimed += any(not effect.caveat for effect in analysis.effects)
    assert claimed <= 4


def test_runs_that_diverge_are_named_and_stay_in_every_mean(make_runs, make_analysis):
    good, other = answers_of(0.95, 0.9, seeds=5)
    guessed = good.copy()
    guessed[3] = np.random.default_rng(0).random(400) < 0.5
    analysis = make_analysis(*make_runs("fails", guessed), *make_runs("works", other), baseline=0.5)
    said = " ".join(sentences(analysis)).replace("\N{NO-BREAK SPACE}", " ")
    assert "1 of 5 runs of fails diverged (fails seed=3)" in said
    assert "at most 65.7 % of seeds" in said
    fails = next(variant for variant in analysis.variants if variant.name == "fails")
    assert fails.accuracy == pytest.approx(guessed.mean())


def test_a_verdict_on_few_seeds_says_what_a_hidden_failure_would_change(make_runs, make_analysis):
    good, other = answers_of(0.95, 0.91, seeds=5)
    analysis = make_analysis(*make_runs("good", good), *make_runs("other", other), baseline=0.5, margin=0.005)
    assert analysis.verdicts[0].kind == "better"
    assert "If one seed in ten failed" in " ".join(sentences(analysis))
    clear = make_analysis(*make_runs("good", good), *make_runs("bad", answers_of(0.95, 0.6, seeds=5)[1]), baseline=0.5)
    assert "If one seed in ten failed" not in " ".join(sentences(clear))
    beside = clear.verdicts[0].beside
    assert beside is not None
    assert beside.posterior.better > 0.99
    assert beside.superiority.probability == 1


def test_more_seeds_will_not_do_is_said_only_where_no_estimate_could_be_decided(make_runs, make_analysis):
    """Where the seeds' own noise may still move the estimate, more of them may decide it, and the words do not deny it."""
    generator = np.random.default_rng(3)
    hard = generator.random(400) < 0.7
    spread = np.stack([hard ^ (generator.random(400) < share) for share in (0.05, 0.3, 0.2, 0.1)])
    open_pair = make_analysis(*make_runs("a", spread[:2]), *make_runs("b", spread[2:]), margin=0.001).verdicts[0]
    assert "will not help" not in open_pair.words


def test_bounds_are_rounded_to_the_safe_side():
    assert [at_least(value) for value in (0.0199, 0.02, 0.0003)] == [points(0.019), points(0.02), points(0.0)]
    assert [at_most(value) for value in (0.0121, 0.012)] == [points(0.013), points(0.012)]


def test_alike_answers_to_few_images_are_not_alike_for_sure(make_runs, make_analysis):
    """Two variants that answer 100 images alike may differ on a kind of image that is not among them."""
    same = np.ones((5, 100), dtype=bool)
    same[:, :9] = False
    verdict = make_analysis(*make_runs("a", same), *make_runs("b", same), margin=0.02).verdicts[0]
    assert verdict.kind == "futile"
    assert verdict.high > 0.03


def test_runs_of_different_code_are_different_variants(make_record, make_comparison):
    tags = {"catdog.variant_digest": "1" * 64, "catdog.libraries": "{}"}
    records = [make_record(f"cnn {code}", "cnn", seed=1, tags=tags | {"catdog.code_digest": code}) for code in "ab"]
    variants = group_by_variant(make_comparison(*records))
    assert len(variants) == 2
    assert len({variant.name for variant in variants}) == 2


def test_runs_of_different_precision_are_different_variants(make_record, make_comparison):
    """The config says auto, the machines said otherwise."""
    tags = {"catdog.variant_digest": "1" * 64}
    words = ("float32", "mixed_bfloat16")
    records = [make_record(f"cnn {word}", "cnn", seed=1, tags=tags | {"catdog.precision": word}) for word in words]
    assert len(group_by_variant(make_comparison(*records))) == 2
    (ingredient,) = differing_ingredients(*map(read_settings, records))
    assert ingredient.words == "trainer.precision float32 \N{RIGHTWARDS ARROW} mixed_bfloat16"
    with pytest.raises(
        UserError, match=r"the seeds of cnn were trained in several precisions \(float32, mixed_bfloat16\)"
    ):
        require_one_precision(group_by_variant(make_comparison(*records)))


def test_code_and_libraries_are_ingredients_which_no_command_separates(make_record, make_analysis):
    def record(name, augmentation, code, tensorflow):
        return make_record(
            name, wrong=range(len(name)), params={"augmentation.name": augmentation},
            tags={
                "catdog.variant_digest": name, "catdog.code_digest": code * 64, "mlflow.source.name": COMMAND,
                "catdog.libraries": json.dumps({"tensorflow": tensorflow, "keras": "3.15.1"}),
            },
        )  # fmt: skip

    (effect,) = make_analysis(record("old", "none", "a", "2.20"), record("newer", "flip_rotate", "b", "2.21")).effects
    assert [one.key for one in effect.ingredients] == ["augmentation", "code", "libraries.tensorflow"]
    assert effect.commands == ()


def test_no_value_is_null_on_the_command_line(make_runs, make_analysis):
    a, b = answers_of(0.6, 0.9)
    first, second = (
        {"trainer.patience": "5", "trainer.epochs": "5"},
        {"trainer.patience": "None", "trainer.epochs": "9"},
    )
    (effect,) = make_analysis(*make_runs("x", a, **first), *make_runs("y", b, **second)).effects
    assert any("trainer.epochs=9" in command for command in effect.commands)
    (turned,) = make_analysis(
        *make_runs("x", a, **first, **{"trainer.warmup_epochs": "0"}),
        *make_runs("y", b, **second, **{"trainer.warmup_epochs": "1"}),
    ).effects
    assert "trainer.patience=null" in " ".join(turned.commands)


def test_the_intervals_behind_verdicts_widen_with_the_number_of_pairs(make_runs, make_analysis):
    answers = answers_of(0.9, 0.8, 0.7, 0.6)
    runs = [run for name, right in zip("abcd", answers, strict=True) for run in make_runs(name, right)]
    two, four = make_analysis(*runs[:8]).verdicts[0], make_analysis(*runs).verdicts
    assert len(four) == 6
    same = next(v for v in four if {v.first.name, v.second.name} == {"a", "b"})
    assert same.accuracy.low == two.accuracy.low
    assert same.low < two.low == pytest.approx(two.accuracy.low)
    assert same.p >= two.p
    # Of many variants only the pairs with the best are shown, and all are counted.
    crowd = [run for number in range(10) for run in make_runs(f"v{number}", answers[number % 4][:, ::-1])]
    many = make_analysis(*crowd).verdicts
    assert len(many) == 9
    assert max(v.p for v in many) <= 1


def test_under_no_difference_hardly_any_study_of_several_pairs_says_better(make_runs, make_comparison):
    wrong = 0
    generator = np.random.default_rng(4)
    studies = 25
    for _ in range(studies):
        first, second = draw_studies(2, 3, 80, generator=generator)
        runs = [run for name, right in zip("abcd", (*first, *second), strict=True) for run in make_runs(name, right)]
        wrong += any(verdict.kind == "better" for verdict in analyse(make_comparison(*runs), 0.02).verdicts)
    # 5% of 25 are 1 or 2; 5 or more would happen in less than 1 of 100 such tests by chance.
    assert wrong <= 4


def test_effects_isolate_one_ingredient_and_name_what_is_confounded(make_runs, make_analysis):
    a, b, c = answers_of(0.6, 0.7, 0.9)
    cnn, flipped = ("none", "unit_range", "conv3"), ("flip_rotate", "unit_range", "conv3")
    both = ("flip_rotate", "mobilenet_v2", "conv3")
    analysis = make_analysis(
        *make_runs("cnn", a, cnn), *make_runs("augmented", b, flipped), *make_runs("both", c, both)
    )
    single = [effect for effect in analysis.effects if effect.is_single]
    assert [effect.ingredients[0].key for effect in single] == ["augmentation", "preprocessing"]
    gained, low, high = single[0].difference
    assert gained == pytest.approx(b.mean() - a.mean())
    assert low < gained < high
    assert single[0].gap_difference[0] == pytest.approx(a.mean() - b.mean())
    (pair,) = [effect for effect in analysis.effects if not effect.is_single]
    assert pair.steps == ("cnn", "augmented", "both")
    assert pair.commands == ()
    # Without the variant in between, the pair is confounded, and the command trains what is missing.
    alone = make_analysis(*make_runs("cnn", a, cnn), *make_runs("both", c, both)).effects
    assert [len(effect.ingredients) for effect in alone] == [2]
    assert alone[0].commands == (
        "python -m catdog.train -m model=cnn trainer.epochs=5 augmentation=flip_rotate seed=0,1,2,3",
    )


def test_a_way_by_single_ingredients_is_found_wherever_there_is_one(make_record, make_analysis):
    keys = ("augmentation.name", "backbone.name", "trainer.epochs")
    for left_out in range(8):
        configs = [config for config in product("01", repeat=3) if int("".join(config), 2) not in (left_out, 5)]
        records = [
            make_record(
                "".join(config),
                wrong=range(number),
                # What a choice sets goes with it, and is no ingredient of its own.
                params=dict(zip(keys, config, strict=True)) | {"augmentation.layers.flip.mode": config[0]},
                tags={"catdog.variant_digest": "".join(config)},
            )
            for number, config in enumerate(configs)
        ]
        effects = make_analysis(*records).effects
        assert len(effects) == len(configs) * (len(configs) - 1) // 2
        for effect in effects:
            start, end = tuple(effect.before.name), tuple(effect.after.name)
            ways = []
            for order in permutations([place for place in range(3) if start[place] != end[place]]):
                changed = [set(order[:count]) for count in range(len(order) + 1)]
                ways.append(tuple("".join((end if k in c else start)[k] for k in range(3)) for c in changed))
            ways = [way for way in ways if all(tuple(step) in configs for step in way)]
            assert len(effect.ingredients) == sum(a != b for a, b in zip(start, end, strict=True))
            assert (effect.steps in ways) if ways and len(effect.ingredients) > 1 else effect.steps == ()


def test_separating_commands_add_one_ingredient_after_the_other(make_runs, make_analysis):
    a, b = answers_of(0.6, 0.9)
    first, second = ("none", "unit_range", "conv3"), ("flip_rotate", "mobilenet_v2", "mobilenet_v2")
    (effect,) = make_analysis(*make_runs("cnn", a, first), *make_runs("mobilenet", b, second)).effects
    start = "python -m catdog.train -m model=cnn trainer.epochs=5"
    assert effect.commands == (
        f"{start} augmentation=flip_rotate seed=0,1,2,3",
        f"{start} augmentation=flip_rotate preprocessing=mobilenet_v2 seed=0,1,2,3",
    )
    unknown = make_analysis(*make_runs("cnn", a, first, command="notebook"), *make_runs("m", b, second)).effects[0]
    assert unknown.commands == ()


def test_ingredients_are_choices_and_single_keys(make_record):
    def record(**params: str):
        return make_record(params={key.replace("__", "."): value for key, value in params.items()})

    before = record(
        backbone__name="conv3", backbone__weights="", trainer__epochs="5", seed="1", speed__keep_features_mb="9"
    )
    after = record(backbone__name="xception", backbone__weights="imagenet", trainer__epochs="9", seed="2")
    assert [(i.key, i.before, i.after) for i in differing_ingredients(read_settings(before), read_settings(after))] == [
        ("backbone", "conv3", "xception"),
        ("trainer.epochs", "5", "9"),
    ]
    # The same choice with another value inside.
    changed = record(backbone__name="conv3", backbone__weights="file.h5", trainer__epochs="5")
    assert [i.key for i in differing_ingredients(read_settings(before), read_settings(changed))] == ["backbone.weights"]
    assert differing_ingredients(read_settings(before), read_settings(before)) == ()
    # A layer, and a mapping, is one, however many keys it has.
    more = {
        "augmentation__layers__crop__layer": "RandomCrop",
        "augmentation__layers__crop__height": "8",
        "trainer__sizes": "null",
    }
    cropped = record(**more)
    smaller = record(trainer__sizes__0="0.6", trainer__sizes__1="0.8")
    assert [
        (i.key, i.before, i.after) for i in differing_ingredients(read_settings(cropped), read_settings(smaller))
    ] == [
        ("augmentation.layers.crop", "RandomCrop", ""),
        ("trainer.sizes", "null", "{0: 0.6, 1: 0.8}"),
    ]


def test_a_variant_without_a_layer_does_not_hide_what_differs_in_it(make_record, make_analysis):
    def layer(factor: str, fill: str) -> dict[str, str]:
        content = {"layer": "RandomRotation", "factor": factor, "fill": fill}
        return {f"augmentation.layers.turn.{key}": value for key, value in content.items()}

    configs = {
        "a": layer("0.1", "reflect"),
        "b": layer("0.2", "reflect"),
        "c": layer("0.2", "nearest"),
        "none": {"augmentation.layers": "{}"},
    }
    records = [
        make_record(name, wrong=range(number), params=params, tags={"catdog.variant_digest": name})
        for number, (name, params) in enumerate(configs.items())
    ]
    effects = {(effect.before.name, effect.after.name): effect for effect in make_analysis(*records).effects}
    factor, fill = "augmentation.layers.turn.factor", "augmentation.layers.turn.fill"
    found = {pair: [each.key for each in effect.ingredients] for pair, effect in effects.items()}
    assert found["a", "b"] == [factor]
    assert found["a", "c"] == [factor, fill]
    assert effects["a", "c"].steps == ("a", "b", "c")
    assert found["a", "none"] == ["augmentation.layers.turn"]
    assert effects["a", "none"].ingredients[0].before == "RandomRotation"


def test_variants_of_one_config_have_no_effect_between_them(make_runs, make_analysis):
    a, b = answers_of(0.6, 0.9)
    analysis = make_analysis(*make_runs("x", a), *make_runs("y", b))
    assert len(analysis.verdicts) == 1
    assert analysis.effects == []
