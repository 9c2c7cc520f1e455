"""What of the code counts in a run's identity: what training does, not how it is written or where it lies."""

import ast
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PROJECT, TINY, run_python

from catdog.system.errors import UserError
from catdog.tracking import code_digest
from catdog.tracking.code_digest import CodeDigest, digest_code

FILES = {
    "__init__.py": "import os\nos.environ.setdefault('NOISE', '1')\n",
    "train.py": '''
"""Trains."""
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from catdog import plots
from catdog.config import option
from catdog.middle import build, table
from catdog.plots import Shown

if TYPE_CHECKING:
    from catdog.unused import Nothing

log = logging.getLogger(__name__)
RATE = 0.5


@dataclass
class Settings:
    epochs: int = 3
    rate: float = option("how fast", 0.1)
    other: int = field(default=1, metadata={"help": "the other"})


def train(epochs: int = 3, build_it=True) -> float:
    """Trains a model."""
    from catdog import deep
    import catdog.deep as again

    # The comment.
    log.info("begins %d", epochs)
    settings = Settings()
    plots.show(settings)
    if epochs > 5:
        log.warning("long")
    if epochs < 1:
        raise ValueError(f"epochs: 1 or more, received {epochs}")
    weights = [RATE * rate for rate in table.values() if rate]
    return np.mean(build(epochs) + deep.LAYERS[0](weights) + again.ONE) + Shown(epochs).value
''',
    "middle.py": """
from catdog.deep import scale as scaled

table = {"a": 1}
table["b"] = 2
unreached = 1


def build(epochs):
    return scaled(epochs, by=2)


def never_called():
    return 5
""",
    "deep.py": '''
import catdog.registered

ONE = 1


def scale(value, *, by=1):
    """Scales."""
    return value * by


def flat(weights):
    return sum(weights)


LAYERS = (flat,)
''',
    "registered.py": """
from catdog.shelf import shelf

@shelf.add
def entry():
    return 1

def plain():
    return 1
""",
    "shelf.py": "class Shelf:\n    def add(self, item):\n        return item\n\nshelf = Shelf()\n",
    "config.py": "def option(help, default):\n    return default\n",
    "plots.py": "class Shown:\n    pass\n\ndef show(settings):\n    print(settings)\n",
}

Digest = Callable[[dict[str, str]], CodeDigest]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Digest:
    """Writes a package and returns the digest of its train()."""
    folder = tmp_path / "catdog"
    monkeypatch.setattr(code_digest, "_find_package", lambda: folder)

    def write(files: dict[str, str]) -> CodeDigest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        code_digest._results.clear()
        return digest_code("catdog.train:train")

    return write


def replaced(file: str, old: str, new: str) -> dict[str, str]:
    assert FILES[file].count(old) == 1
    return FILES | {file: FILES[file].replace(old, new)}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("train.py", "# The comment.", "# Another one."),
        ("train.py", '"""Trains a model."""', '"""Says something else."""'),
        ("train.py", '    """Trains a model."""\n', ""),
        ("deep.py", "value * by", "(value\n        * by)"),
        ("train.py", "epochs: int = 3, build", "epochs: 'float' = 3, build"),
        ("train.py", "build_it=True) -> float:", "build_it: bool = True):"),
        ("train.py", "settings = Settings()", "settings: Settings = Settings()"),
        ("train.py", "    epochs: int = 3\n", "    epochs: float = 3\n"),
        ("train.py", "RATE = 0.5", "RATE: float = 0.5"),
        ("train.py", '"how fast"', '"how fast it learns"'),
        ("train.py", '"the other"', '"the other one"'),
        ("train.py", 'f"epochs: 1 or more, received {epochs}"', '"epochs: too few", epochs, "of them"'),
        ("train.py", 'log.info("begins %d", epochs)', 'log.debug("it begins"); print("begins")'),
        ("train.py", '        log.warning("long")', '        pass'),
        ("train.py", "    plots.show(settings)\n", "    plots.show(settings, weights=None)\n"),
        ("train.py", "from catdog.unused import Nothing", "from catdog.deep import flat"),
        ("train.py", "import numpy as np", "import numpy\nimport numpy as np\nfrom os import path"),
        ("train.py", "    from catdog import deep\n    import catdog.deep as again\n",
         "    from catdog import deep\n    from catdog import deep as again\n"),
        ("middle.py", "from catdog.deep import scale as scaled", "from .deep import scale as scaled"),
        ("middle.py", "unreached = 1", "unreached = 2"),
        ("middle.py", "return 5", "return 6"),
        ("registered.py", "def plain():\n    return 1", "def plain():\n    return 2"),
        ("plots.py", "print(settings)", "print('settings', settings)"),
        ("__init__.py", "'1'", "'2'"),
    ],
)  # fmt: skip
def test_what_changes_nothing(digest: Digest, file: str, old: str, new: str) -> None:
    assert digest(replaced(file, old, new)).digest == digest(FILES).digest


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("train.py", "RATE = 0.5", "RATE = 0.25"),
        ("train.py", "RATE = 0.5", "RATE = '0.5'"),
        ("train.py", "epochs: int = 3, build", "epochs: int = 4, build"),
        ("train.py", "    epochs: int = 3\n", "    epochs: int = 4\n"),
        ("train.py", "    epochs: int = 3\n", "    epochs: ClassVar[int] = 3\n"),
        ("train.py", "    epochs: int = 3\n", "    epochs = 3\n"),
        ("train.py", '"how fast", 0.1', '"how fast", 0.2'),
        ("train.py", "default=1", "default=2"),
        ("train.py", "epochs < 1", "epochs <= 1"),
        ("train.py", "if rate]", "if not rate]"),
        ("train.py", "np.mean", "np.median"),
        ("train.py", "import numpy as np", "import jax.numpy as np"),
        ("train.py", "ValueError", "RuntimeError"),
        ("train.py", "deep.LAYERS[0]", "deep.flat"),
        ("middle.py", '{"a": 1}', '{"a": 2}'),
        ("middle.py", 'table["b"] = 2', 'table["b"] = 3'),
        ("middle.py", "by=2", "by=3"),
        ("deep.py", "value * by", "value + by"),
        ("deep.py", "by=1", "by=2"),
        ("deep.py", "sum(weights)", "max(weights)"),
        ("deep.py", "ONE = 1", "ONE = 2"),
        # What is imported for what it does, without a name of it being used.
        ("registered.py", "def entry():\n    return 1", "def entry():\n    return 2"),
        ("registered.py", "@shelf.add\n", ""),
        ("shelf.py", "return item", "return None"),
    ],
)
def test_what_changes_the_digest(digest: Digest, file: str, old: str, new: str) -> None:
    changed, before = digest(replaced(file, old, new)), digest(FILES)
    assert changed.digest != before.digest
    files = changed.files.keys() | before.files.keys()
    assert f"catdog/{file}" in {name for name in files if changed.files.get(name) != before.files.get(name)}


def test_a_definition_that_moves_and_a_file_that_is_renamed_change_nothing(digest: Digest) -> None:
    before = digest(FILES)
    scale = 'def scale(value, *, by=1):\n    """Scales."""\n    return value * by\n'
    moved = FILES | {
        "deep.py": FILES["deep.py"].replace(scale, ""),
        "arithmetic.py": scale,
        "middle.py": FILES["middle.py"].replace("catdog.deep", "catdog.arithmetic"),
    }
    assert digest(moved).digest == before.digest
    assert "catdog/arithmetic.py" in digest(moved).files
    renamed = {name: text.replace("catdog.middle", "catdog.centre") for name, text in FILES.items()}
    renamed["centre.py"] = renamed.pop("middle.py")
    assert digest(renamed).digest == before.digest
    assert before.modules == (
        "catdog",
        "catdog.deep",
        "catdog.middle",
        "catdog.registered",
        "catdog.shelf",
        "catdog.train",
    )


def test_a_name_of_a_function_s_own_is_not_that_of_its_module(digest: Digest) -> None:
    """Otherwise a definition would count where it lies beside an unrelated one of the same name, and not elsewhere."""
    files = FILES | {"middle.py": FILES["middle.py"] + "\n\ndef epochs():\n    return 1\n\n\nvalue = by = 1\n"}
    assert digest(files).digest == digest(FILES).digest


def test_fields_of_syntax_trees_that_newer_versions_of_python_have_change_nothing(
    digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(FILES).digest
    parse = ast.parse

    def parse_newer(content: bytes) -> ast.Module:
        tree = parse(content)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                node._fields = (*type(node)._fields, "type_params", "novelty")
                node.type_params, node.novelty = [], None  # type: ignore[attr-defined]
        return tree

    monkeypatch.setattr(ast, "parse", parse_newer)
    assert digest(FILES).digest == before


def test_an_f_string_is_the_same_however_its_text_is_divided(digest: Digest) -> None:
    one, two = (
        FILES | {"deep.py": FILES["deep.py"] + f"\nONE = {text}\n"} for text in ("f'a{1}bc'", "f'a{1}' 'b' f'c'")
    )
    assert digest(one).digest == digest(two).digest != digest(FILES).digest


class _Plainer(ast.NodeTransformer):
    """Takes docstrings and annotations of functions away."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        for each in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            each.annotation = None
        if ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
        return node


def test_catdog_itself_may_be_written_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its real tree, without comments, docstrings, annotations and the formatting."""
    before = digest_code()
    shutil.copytree(PROJECT / "catdog", tmp_path / "catdog", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "catdog").rglob("*.py"):
        path.write_text(ast.unparse(_Plainer().visit(ast.parse(path.read_text()))))
    monkeypatch.setattr(code_digest, "_find_package", lambda: tmp_path / "catdog")
    code_digest._results.clear()
    after = digest_code()
    code_digest._results.clear()
    assert after.digest == before.digest
    assert after.files == before.files


def test_every_name_of_catdog_leads_somewhere() -> None:
    analysis = code_digest._Analysis()
    analysis.reach_entry(code_digest.TRAINING)
    analysis.finish()
    assert analysis.unresolved == set()


def test_it_is_quick() -> None:
    """Every plan pays for it once; later ones look at the files' times of change alone. The measure is parsing all of catdog."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((PROJECT / "catdog").rglob("*.py"))]
    began = time.process_time()
    for text in texts:
        ast.parse(text)
    parsing_s = time.process_time() - began
    times = []
    for _ in range(8):
        code_digest._results.clear()
        began = time.process_time()
        digest_code()
        times.append(time.process_time() - began)
    assert min(times) < 0.6 * parsing_s
    began = time.process_time()
    digest_code()
    assert time.process_time() - began < 0.01


@pytest.mark.slow
def test_a_training_loads_no_module_that_is_neither_reached_nor_a_watcher(tmp_path: Path, cache: Path) -> None:
    """So that no code that trains gets past the analysis."""
    code = (
        "import runpy, sys\n"
        "runpy.run_module('catdog.train', run_name='__main__')\n"
        "print('LOADED', *(name for name in sys.modules if name.split('.')[0] == 'catdog'))\n"
    )
    words = ("model=drawn_mini", "augmentation=flip_rotate", *TINY, f"dataset.cache={cache}")
    done = run_python(tmp_path, "-c", code, *words, PYTHONPATH=str(PROJECT))
    assert done.code == 0, done.text
    (line,) = (line for line in done.out.splitlines() if line.startswith("LOADED "))
    loaded = set(line.split()[1:]) - {"catdog"}
    assert "catdog.training.model" in loaded
    strangers = {name for name in loaded if not code_digest.is_watcher(name)} - set(digest_code().modules)
    assert strangers == set()


# Code of the user's.


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CodeDigest]:
    """Writes files into the current folder and returns the digest with a reference into them."""
    monkeypatch.chdir(tmp_path)
    # Another test of this process may have imported one of that name.
    monkeypatch.delitem(sys.modules, "my_models", raising=False)

    def write(reference: str = "my_models:resnet", **files: str) -> CodeDigest:
        for name, text in files.items():
            path = tmp_path / (name.replace("_in_", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        code_digest._results.clear()
        return digest_code(user_references=[reference])

    return write


MODELS = '''
"""Mine."""
import json

import keras
import my_parts
from sklearn import svm


def resnet(shape):
    return my_parts.block(2)
'''
PARTS = "import numpy as np\nBY = 2\n\ndef block(n):\n    return n * BY\n"


def test_a_user_s_module_counts_with_those_beside_it(own) -> None:
    before = own(my_models=MODELS, my_parts=PARTS)
    assert before.digest != digest_code().digest
    assert {"my_models.py", "my_parts.py", "catdog/training/model.py"} <= before.files.keys()
    assert before.sources == {"my_models.py": MODELS, "my_parts.py": PARTS}
    assert before.libraries == ("keras", "numpy", "sklearn")
    assert "my_models" not in sys.modules
    assert own(my_models=MODELS + "# mine\n\nif __name__ == '__main__':\n    resnet(1)\n").digest == before.digest
    changed = own(my_models=MODELS, my_parts=PARTS.replace("BY = 2", "BY = 3"))
    assert changed.digest != before.digest
    assert [name for name in changed.files if changed.files[name] != before.files[name]] == ["my_parts.py"]
    # Not called, and it counts all the same: who knows what the module does with it.
    assert own(my_models=MODELS + "\ndef other():\n    return 1\n", my_parts=PARTS).digest != before.digest


def test_a_user_s_file_may_be_renamed(own) -> None:
    before = own(my_models=MODELS, my_parts=PARTS).digest
    renamed = own("my_nets:resnet", my_nets=MODELS.replace("my_parts", "pieces"), pieces=PARTS)
    assert renamed.digest == before


def test_packages_of_the_user_s_and_relative_imports(own) -> None:
    files = {
        "lab_in___init__": "",
        "lab_in_nets": "from .parts import block\n\ndef resnet(s):\n    return block(s)\n",
        "lab_in_parts": PARTS,
    }
    before = own("lab.nets:resnet", **files)
    assert {"lab/nets.py", "lab/parts.py"} <= before.sources.keys()
    assert own("lab.nets:resnet", lab_in_parts=PARTS + "X = 1\n").digest != before.digest


def test_catdog_s_code_that_a_user_s_uses_is_reached(own) -> None:
    text = "from catdog.auditing.notebook import build\n\ndef resnet(s):\n    return build\n"
    assert "catdog/auditing/notebook.py" in own(my_models=text).files


def test_what_is_wrong_with_a_user_s_module_is_said(own) -> None:
    with pytest.raises(UserError, match="nowhere:model: there is no module nowhere in the current folder"):
        own("nowhere:model")
    with pytest.raises(UserError, match=r"my_models\.py, line 2: not valid Python"):
        own(my_models="\ndef resnet(:\n")


def test_an_installed_module_counts_with_the_version_of_its_package(own) -> None:
    found = own("rich.table:Table")
    assert found.libraries == ("rich",)
    assert found.sources == {}
    assert found.digest != digest_code().digest
