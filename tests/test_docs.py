"""README and docs: links lead somewhere, commands compose, keys exist, examples run, and the reference is what the schema says.

A comment on the line before a block changes what is checked of it:

- `<!-- test: skip -->` nothing;
- `<!-- test: run -->` a Python block is run, with those before it on the same page, in the folder of a small study;
- `<!-- test: file NAME -->` a Python block is the file NAME there, for the examples and commands of its page.
"""

import ast
import csv
import dataclasses
import functools
import importlib
import io
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image, ImageOps
from support import PROJECT, TINY, Study, run_catdog, run_python

from catdog import reference, tune
from catdog.config import commands, schema
from catdog.config.commands import split_paths
from catdog.config.composition import bracket_list
from catdog.data.images import decode_image
from catdog.decide import OWN_KEYS
from catdog.search.space import read_space, split_overrides
from catdog.sweeps import options as launcher_options

README = PROJECT / "README.md"
DOCS = sorted((PROJECT / "docs").glob("*.md"))
PAGES = [README, *DOCS, *sorted(PROJECT.glob("experiments/**/README.md")), *sorted(PROJECT.glob("benchmarks/*.md"))]
NOTEBOOKS = sorted((PROJECT / "docs").glob("*.ipynb"))
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
# What stands for something of the reader's, where only some values would compose.
PLACEHOLDERS = {"VARIANT": "cnn"}
FLAGS = ("-m", "--multirun", "--help", "--cfg", "job")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page's file.
        line: where it begins, from 1.
        language: what follows the fence; "" for commands and their output.
        text: without the fences.
        marker: the comment on the line before it, or "".
    """

    page: Path
    line: int
    language: str
    text: str
    marker: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0, f"{page}: a block is not closed"
    blocks = []
    for first, last in zip(fences[::2], fences[1::2], strict=True):
        before = next((line for line in reversed(lines[:first]) if line.strip()), "")
        marker = before.strip() if before.startswith("<!--") else ""
        text = "\n".join(lines[first + 1 : last])
        blocks.append(Block(page, first + 1, lines[first][3:].strip(), text, marker))
    return blocks


def read_prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def read_spans(page: Path) -> list[str]:
    """Returns what stands between single backticks, line breaks as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", read_prose(page))]


def list_anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives the headings of a page."""
    anchors: set[str] = set()
    for title in re.findall(r"^#+ +(.+?) *$", read_prose(page), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        taken = (f"{slug}-{number}" for number in itertools.count(1))
        anchors.add(slug if slug not in anchors else next(name for name in taken if name not in anchors))
    return anchors


def find_commands(page: Path) -> Iterator[tuple[str, str]]:
    """Yields (where, command line) of every catdog command of a page, in blocks and in the text."""
    for block in read_blocks(page):
        if block.language or "test: skip" in block.marker:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if re.match(r"(\$ )?(\w+=\S+ )*(python -m catdog\.|catdog )", line):
                yield block.where, line.removeprefix("$ ")
    for span in read_spans(page):
        if span.startswith("python -m catdog."):
            yield str(page.relative_to(PROJECT)), span


def parse_command(line: str) -> tuple[str, list[str]]:
    """Returns (command, arguments) of a line of a shell, without comments, variables and redirection."""
    for placeholder, value in PLACEHOLDERS.items():
        line = line.replace(f"={placeholder}", f"={value}")
    words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    words = words[next(number for number, word in enumerate(words) if "=" not in word) :]
    if words[:2] == ["python", "-m"]:
        return words[2].removeprefix("catdog."), words[3:]
    return words[1], words[2:]


def compose_command(line: str) -> None:
    """Composes what a line of a shell asks for; each value of a sweep is composed at least once.

    Raises:
        Exception: what Hydra or the schema find wrong.
    """
    command, arguments = parse_command(line)
    if command.isupper():
        return
    if command == "tune":
        if arguments:
            compose_search(arguments)
        return
    sweeps = command == "decide" or any(word in ("-m", "--multirun") for word in arguments)
    if command == "predict":
        _, arguments = split_paths(arguments)
    root = "config" if command in ("train", "decide") else command
    arguments = [bracket_list(word, root) for word in arguments if word not in FLAGS]
    if command == "decide":
        own = [word for word in arguments if word.partition("=")[0] in OWN_KEYS]
        compose_once("decide", tuple(own))
        command, arguments = "train", [word for word in arguments if word not in own]
    sweeps = sweeps or any(word.startswith("experiment=") for word in arguments)
    values = []
    for override in OverridesParser.create().parse_overrides(arguments):
        several = list(override.sweep_string_iterator()) if override.is_sweep_override() else []
        if all(value.isdigit() for value in several):
            # Of many seeds, two will do.
            several = list(dict.fromkeys([*several[:1], *several[-1:]]))
        assert sweeps or not several, f"{override.input_line}: several values without -m"
        key = override.get_key_element()
        values.append([f"{key}={value}" for value in several] or [override.input_line])
    for number in range(max(map(len, values), default=1)):
        compose_once(root, tuple(some[number % len(some)] for some in values))


def compose_search(arguments: list[str]) -> None:
    """Composes what a search asks for, with both ends of each range, and each of the values."""
    own, rest = tune.split_arguments(arguments)
    compose_once("tune", tuple(own))
    fixed, varied = split_overrides(rest)
    for dimension in read_space(varied):
        for value in dimension.choices or (dimension.show(dimension.low), dimension.show(dimension.high)):
            compose_once("config", (*fixed, f"{dimension.key}={value}"))


@functools.cache
def compose_once(root: str, overrides: tuple[str, ...]) -> None:
    """Composes a command line that no other page has shown before."""
    reference.compose_command(root, overrides)


@pytest.fixture(scope="module")
def text() -> str:
    """The reference as the schema has it now."""
    return reference.render_reference()


def list_keys() -> set[str]:
    """Returns every key and group of every command, and those of the launcher."""
    keys = {key for kind in (schema.Config, *commands.ROOTS.values()) for key, _, _ in schema.list_options(kind)}
    kinds = [kind for kind, _ in launcher_options.KINDS.values()]
    launcher = {f"hydra.launcher.{field.name}" for kind in kinds for field in dataclasses.fields(kind)}
    return keys | launcher | {path.name for path in schema.CONF.iterdir() if path.is_dir()}


def test_the_reference_is_what_the_schema_says(text: str) -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == text, "run `make docs`"


def test_the_reference_names_every_key_and_every_choice(text: str) -> None:
    named = set(re.findall(r"^\| `([\w.]+)` \|", text, re.M))
    for key in list_keys():
        choices = [path.stem for path in (schema.CONF / key).glob("*.yaml")] if "." not in key else []
        if choices and key not in ("command", "hydra"):
            assert f"\n### {key}\n" in text
            assert all(f"[{choice}](../conf/{key}/{choice}.yaml)" in text for choice in choices)
        elif key not in ("command", "hydra"):
            assert key in named


def test_the_reference_says_what_a_key_may_be(text: str) -> None:
    assert "| `trainer.batch_size` | int: 1 or more | `32` |" in text
    assert "| `trainer.patience` | int: 1 or more, or null | `null` |" in text
    assert "| `preprocessing.image_size` | int: 8 to 4096 pixels, or 0 where preprocessing.max_size is set |" in text
    assert "| `trainer.keep` | one of best, last | `best` |" in text
    assert "| `hydra.launcher.on_error` | str: continue or stop |" in text


def test_the_page_is_the_last_thing_that_the_quickstart_names() -> None:
    """As the README says. A page that is written after the evaluation has its result."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in ("quickstart", "study"):
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
        assert re.findall(r"catdog\.(\w+)", recipe) == ["train", "evaluate", "compare"]


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_index_names_every_page() -> None:
    for page in (README, PROJECT / "docs" / "README.md"):
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(read_prose(page))}
        missing = [other.name for other in DOCS if other not in targets and other.name != "README.md"]
        assert not missing, f"{page} does not link to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(read_prose(page)):
        if re.match(r"(https?|mailto):", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_commands_compose(page: Path) -> None:
    wrong = []
    for where, line in find_commands(page):
        try:
            compose_command(line)
        except Exception as error:
            wrong.append(f"{where}: {line}\n  {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_is_found() -> None:
    for line in ("python -m catdog.train model=nonsense", "python -m catdog.train trainer.epoch=3",
                 "python -m catdog.train seed=0,1", "python -m catdog.train -m trainer.epochs=1,0",
                 "python -m catdog.compare seed=1", "python -m catdog.nonsense",
                 "python -m catdog.train hydra.launcher.job=2"):  # fmt: skip
        with pytest.raises(Exception):  # noqa: B017  of Hydra, of catdog, or a KeyError: any will do
            compose_command(line)


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: str(page.relative_to(PROJECT)))
def test_keys_and_targets_of_make_exist(page: Path) -> None:
    keys, groups = list_keys(), set(schema.GROUPS)
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.M))
    wrong = []
    for span in read_spans(page):
        key, has_value, value = span.partition("=")
        if value in ("True", "False", "None") or value.startswith('"'):
            # An argument in Python.
            continue
        is_key = bool(re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", key)) and (has_value or key.partition(".")[0] in groups)
        if is_key and ("." in key or has_value) and key not in keys and " " not in span and not _is_below(key, keys):
            wrong.append(span)
    for block in [*(block.text for block in read_blocks(page) if not block.language), *read_spans(page)]:
        wrong += [f"make {name}" for name in re.findall(r"^make ([a-z]+)", block, re.M) if name not in targets]
    assert not wrong


def _is_below(key: str, keys: set[str]) -> bool:
    """Whether a key lies in a mapping, such as a layer's argument in augmentation.layers."""
    return any(key.startswith(f"{known}.") for known in keys if known.endswith((".layers", ".options", ".callbacks")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_files_of_the_project_that_are_named_exist(page: Path) -> None:
    named = re.compile(r"(catdog|conf|tests|benchmarks|experiments|docs|hydra_plugins)/[a-z0-9_/.]*(\.\w+|/)")
    missing = [span for span in read_spans(page) if named.fullmatch(span) and not (PROJECT / span).exists()]
    # Files of the reader's, in an example.
    assert (
        set(missing) - {"conf/backbone/xception.yaml", "conf/backbone/small_resnet.yaml", "conf/loss/poly.yaml"}
        == set()
    )


def test_every_room_is_described() -> None:
    spans = read_spans(PROJECT / "docs" / "develop.md")
    folders = {path.parent for path in (PROJECT / "catdog").glob("*/*.py")} - {PROJECT / "catdog" / "weights"}
    assert {f"{folder.name}/" for folder in folders} <= set(spans)


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: str(page.relative_to(PROJECT)))
def test_python_compiles(page: Path) -> None:
    for block in read_blocks(page):
        if block.language == "python" and "test: skip" not in block.marker:
            compile(block.text, block.where, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_one_and_its_code_compiles(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), f"{path.name}:{cell['id']}", "exec")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Study:
    """The folder of a small study with a champion, and a photo.jpg that EXIF turns, as the examples have it."""
    folder = tmp_path_factory.mktemp("examples")
    sweep = run_catdog(folder, cache, "train", "model=drawn_mini", "study=first", *TINY)
    assert sweep.code == 0, sweep.text
    drawn = next(iter(sorted(cache.glob("drawn/*/train/cats/*.jpg"))))
    with Image.open(drawn) as photo:
        photo.save(folder / "photo.jpg", exif=turned_by(6))
    return Study(folder, cache, sweep)


def turned_by(orientation: int) -> Image.Exif:
    """Returns EXIF data with an orientation, 1 (upright) to 8."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


RUN = [page for page in DOCS if any("test: run" in block.marker for block in read_blocks(page))]


def write_files(page: Path, folder: Path) -> list[Path]:
    """Writes the files that a page shows, as `<!-- test: file NAME -->` says, and returns them."""
    files = []
    for block in read_blocks(page):
        named = re.fullmatch(r"<!-- test: file (\S+) -->", block.marker)
        if named:
            files.append(folder / named[1])
            files[-1].write_text(block.text + "\n", encoding="utf-8")
    return files


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_examples_run(page: Path, trained: Study) -> None:
    write_files(page, trained.folder)
    blocks = [block.text for block in read_blocks(page) if "test: run" in block.marker and block.language == "python"]
    script = trained.folder / f"{page.stem}_examples.py"
    script.write_text("\n\n".join(blocks), encoding="utf-8")
    done = run_python(trained.folder, str(script), CATDOG_CACHE=str(trained.cache), PYTHONPATH=str(PROJECT))
    assert done.code == 0, done.text
    if page.name == "use-a-model.md":
        predicted = trained.run("predict", "photo.jpg", "format=csv", "study=first")
        (answer,) = csv.DictReader(io.StringIO(predicted.out))
        expected = [float(answer[f"probability_{name}"]) for name in ("cats", "dogs")]
        printed = [float(number) for number in re.findall(r"\d\.[\de-]+", done.out)]
        assert printed == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def read_photo() -> Callable[[Path, int], np.ndarray]:
    """The function of docs/use-a-model.md that reads a photo."""
    (text,) = [b.text for b in read_blocks(PROJECT / "docs" / "use-a-model.md") if "def read_photo" in b.text]
    names: dict[str, Any] = {"np": np, "Image": Image, "ImageOps": ImageOps}
    (function,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    exec(compile(ast.Module([function], []), "use-a-model.md", "exec"), names)
    return names["read_photo"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_model_elsewhere_gets_the_pixels_that_predict_gets(read_photo, tmp_path: Path, orientation: int) -> None:
    """A photo that its camera stored turned or mirrored, large enough for JPEG's own halving; and one in grey."""
    rows, columns = np.mgrid[0:420, 0:560]
    picture = np.stack([rows % 256, columns % 256, (rows * columns) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.jpg", exif=turned_by(orientation), quality=90)
    Image.fromarray(picture[:90, :50]).convert("L").save(tmp_path / "grey.png", exif=turned_by(orientation))
    for name in ("photo.jpg", "grey.png"):
        assert np.array_equal(read_photo(tmp_path / name, 96), decode_image(tmp_path / name, 96, 96))


@pytest.mark.slow
def test_own_models_of_the_docs_are_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_files(PROJECT / "docs" / "own-models.md", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from catdog.training import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras

    models, layers, losses, callbacks = (importlib.import_module(file.stem) for file in files)
    assert models.resnet((48, 48, 3), depth=3).output_shape == (None, 6, 6, 64)
    assert models.classifier((48, 48, 3), 5).output_shape == (None, 5)
    images = np.full((2, 8, 8, 3), 128, np.float32)
    noise = layers.Noise(stddev=5.0, seed=1)
    assert np.array_equal(noise(images), images)
    assert 3 < np.std(noise(images, training=True)) < 7
    assert layers.Noise.from_config(noise.get_config()).stddev == 5.0
    found = keras.ops.convert_to_numpy(losses.poly(np.array([0, 1, 1]), np.zeros((3, 2), np.float32)))
    assert np.allclose(found, np.log(2) + 0.5)
    callback = callbacks.Patience()
    callback.set_state({"best": 0.5, "waited": 1})
    assert callback.get_state() == {"best": 0.5, "waited": 1}
