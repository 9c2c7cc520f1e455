"""Measures what `audit photos=` can tell: on simulated answers, on halves of validation answers, and on photos that are spoiled.

`python benchmarks/drift.py` prints the table of simulated answers in benchmarks/drift.md. `python benchmarks/drift.py STORE
[STUDY]` takes the champion of a study: random halves of its validation answers, and copies of its test photos, as they are and
spoiled on purpose. It reads labels of the test split without the ledger: use a store that serves for nothing else.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from labels import draw_answers

from catdog import Study
from catdog.data.dataset import fetch_images
from catdog.statistics.drift import estimate_accuracy
from catdog.tracking.records import find_run
from catdog.tracking.study_data import read_dataset_config

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _darken(factor: float) -> Change:
    return lambda image, _: (image * factor).astype(np.uint8)


def _blur(share: float) -> Change:
    return lambda image, _: cv2.GaussianBlur(image, (0, 0), share * min(image.shape[:2]))


def _add_noise(spread: float) -> Change:
    def change(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return np.clip(image + generator.normal(0, spread, image.shape), 0, 255).astype(np.uint8)

    return change


def draw_letters(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns letters on a coloured ground of the same size: a class that the model does not know."""
    drawn = np.full_like(image, generator.integers(0, 256, 3))
    for _ in range(6):
        letter = chr(int(generator.integers(65, 91)))
        place = tuple(int(generator.integers(0, side)) for side in image.shape[1::-1])
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        cv2.putText(drawn, letter, place, cv2.FONT_HERSHEY_DUPLEX, float(generator.uniform(2, 8)), colour, 12)
    return drawn


def _some(change: Change, share: float) -> Change:
    return lambda image, generator: change(image, generator) if generator.random() < share else image


CHANGES: dict[str, Change] = {
    "as they are": lambda image, _: image,
    "brightness x 0.5": _darken(0.5),
    "brightness x 0.2": _darken(0.2),
    "brightness x 0.07": _darken(0.07),
    "blur, 1% of the side": _blur(0.01),
    "blur, 2% of the side": _blur(0.02),
    "blur, 4% of the side": _blur(0.04),
    "noise of 40": _add_noise(40),
    "noise of 90": _add_noise(90),
    "upside down": lambda image, _: image[::-1, ::-1].copy(),
    "a third are letters": _some(draw_letters, 1 / 3),
    "all are letters": draw_letters,
}


def measure_coverage(confidence: np.ndarray, right: np.ndarray, former: int, new: int, repeats: int) -> str:
    """Returns a row of numbers: random parts of these answers, one as validation images, the other as photos of the same kind."""
    generator = np.random.default_rng([former, new])
    covered, lower, widths, errors = 0, 0, [], []
    for _ in range(repeats):
        drawn = generator.permutation(len(confidence))
        a, b = drawn[:former], drawn[former : former + new]
        found = estimate_accuracy(confidence[a], right[a], confidence[b], draws=300)
        true = right[b].mean()
        covered += found.low - 1e-9 <= true <= found.high + 1e-9
        lower += found.change_high < 0
        widths.append(100 * (found.high - found.low))
        errors.append((100 * (found.estimate - true), 100 * (found.by_confidence - true)))
    threshold, difference = np.sqrt((np.array(errors) ** 2).mean(axis=0))
    return (
        f"| {former} | {new} | {covered / repeats:.3f} | {lower / repeats:.3f} | {np.mean(widths):.1f} | {threshold:.1f} "
        f"| {difference:.1f} |"
    )


HEAD = "validation images | photos | coverage | called lower | width | error of ATC | error of DoC |"


def print_simulated(repeats: int = 300) -> None:
    """Prints coverage for models of known accuracy; answers are drawn anew for every repetition, from a pool of 200,000."""
    print(f"| classes | accuracy | overconfident | {HEAD}\n|{10 * '---|'}")
    few, many = ((100, 50), (400, 100)), ((100, 50), (400, 100), (400, 400), (800, 1000))
    for classes, accuracy, sharpness, sizes in (
        (2, 0.7, 1.0, many), (2, 0.97, 1.0, many), (2, 0.97, 3.0, few), (10, 0.8, 3.0, few[:1]),
    ):  # fmt: skip
        probabilities, labels, _ = draw_answers(
            np.random.default_rng(0), classes=classes, accuracy=accuracy, wrong=0.0, sharpness=sharpness, images=200_000
        )
        confidence, right = probabilities.max(axis=1).astype(float), probabilities.argmax(axis=1) == labels
        for former, new in sizes:
            row = measure_coverage(confidence, right, former, new, repeats)
            print(f"| {classes} | {accuracy} | {'yes' if sharpness > 1 else 'no'} {row}", flush=True)


def print_champion(store: str, study_name: str, repeats: int = 300) -> None:
    study = Study(study_name, tracking_uri=store)
    model = study.champion()
    run = find_run(model.client, model.run_id)
    answers = run.load_predictions()
    confidence, right = answers.probabilities.max(axis=1), answers.right
    print(f"| {HEAD}\n|{7 * '---|'}")
    for former, new in ((len(answers) // 2, len(answers) // 2), (len(answers) // 2, 100), (len(answers) // 4, 50)):
        print(measure_coverage(confidence, right, former, new, repeats), flush=True)
    root, splits = fetch_images(read_dataset_config(run)), run.load_splits()
    rows = splits[splits["split"] == "test"]
    print("\n| photos | counted | accuracy | ATC | interval | DoC | differs | verdict |\n|" + 8 * "---|")
    for name, change in CHANGES.items():
        print(check_changed(study, root, rows, name, change), flush=True)
    one = rows[rows["label"] == rows["label"].iloc[0]]
    print(check_changed(study, root, one, f"only {one['label'].iloc[0]}", CHANGES["as they are"]), flush=True)
    print(check_changed(study, root, rows[:25], "25 photos as they are", CHANGES["as they are"]), flush=True)


def check_changed(study: Study, root: Path, rows, name: str, change: Change) -> str:
    """Returns a row of numbers: what the check says of photos that are changed, and how many the model gets right."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(rows["file"]):
            image = cv2.imread(str(root / file))
            cv2.imwrite(f"{folder}/{number:04}.jpg", change(image, generator), [cv2.IMWRITE_JPEG_QUALITY, 95])
        found = study.audit_photos(folder)
    labels = {f"{number:04}.jpg": label for number, label in enumerate(rows["label"])}
    if change is draw_letters:
        labels = dict.fromkeys(labels, "none of the classes")
    if name == "a third are letters":
        again = np.random.default_rng(0)
        for number, file in enumerate(rows["file"]):
            # The same draws as above.
            if again.random() < 1 / 3:
                labels[f"{number:04}.jpg"] = "none of the classes"
                draw_letters(cv2.imread(str(root / file)), again)
    counted = found.counted
    true = np.mean([labels[file] == answer for file, answer in zip(counted["file"], counted["class"], strict=True)])
    traits = found.traits[found.traits["size"].isin(["moderate", "strong"])]["trait"].str.replace("_", " ").tolist()
    differs = ", ".join(traits) or "-"
    guess = found.expected
    numbers = (
        f"{guess.estimate:.3f} | {guess.low:.3f} to {guess.high:.3f} | {guess.by_confidence:.3f}"
        if guess
        else "- | - | -"
    )
    return f"| {name} | {len(counted)} | {true:.3f} | {numbers} | {differs} | {found.verdict.kind} |"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_champion(sys.argv[1], *sys.argv[2:3] or ["cats_vs_dogs"])
    else:
        print_simulated()
