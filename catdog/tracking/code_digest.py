"""The digest of the code that a training runs. It covers what the code means (its syntax trees), not how it is written.

The analysis starts at an entry such as `catdog.training.run:train`. It follows names through imports, also those inside functions,
to the functions, classes and constants of catdog that they stand for. Those definitions count. Comments, docstrings, formatting,
annotations, help texts, exception messages, log statements and the place of a definition do not. Nothing is imported or run.
"""

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from catdog.system.errors import UserError
from catdog.tracking.code_modules import (
    DEFINITIONS,
    Binding,
    Imported,
    SourceModule,
    is_main,
    is_type_checking,
    last_name,
    list_bound,
    read_import,
)

PACKAGE = "catdog"
# Where a training begins.
TRAINING = "catdog.training.run:train"
# Code that never changes a trained model. A statement that only calls such code does not count either.
WATCHERS = (
    # Rooms that read the config (its values have a digest of their own), that plan, watch, record and show runs, and that deal
    # with the machine.
    "catdog.config", "catdog.sweeps", "catdog.tracking", "catdog.registry", "catdog.plots", "catdog.system",
    "catdog.cli", "catdog.training_view", "catdog.study", "catdog.comparison", "catdog.training.run_logging",
    "catdog.training.progress",
    "catdog.training.preload", "catdog.training.check", "catdog.training.saved_code",
    # All of `catdog.statistics` but the metrics, of which one may choose the epoch that is kept.
    *(f"catdog.statistics.{name}" for name in (
        "calibration", "clusters", "contrasts", "failures", "judgements", "planning", "posterior", "proportions", "selection",
        "sequential", "summaries", "training_sets",
    )),
    # They bring images to disk and divide them into splits. The result is in the data digest, file by file.
    "catdog.data.download", "catdog.data.fetch", "catdog.data.splits", "catdog.data.groups", "catdog.data.duplicates",
    "catdog.data.candidates", "catdog.data.digests", "catdog.data.kept_manifest", "catdog.data.tables",
    "catdog.data.synthetic", "catdog.data.progress", "catdog.data.staging",
    # They hold the results of a training.
    "catdog.data.history", "catdog.data.predictions", "catdog.data.epoch_answers",
)  # fmt: skip
DIGITS = 12
# Fields of syntax trees that change no result, or that some versions of Python lack.
UNCOUNTED_FIELDS = {"ctx", "type_comment", "type_params", "kind", "annotation", "returns"}


@dataclass(frozen=True)
class CodeDigest:
    """What is known about the code that a training runs.

    Attributes:
        digest: sha256 of all definitions that count, 64 hexadecimal digits; it does not depend on where they are defined.
        files: a short digest of what counts in each file, such as "catdog/training/model.py" or "my_models.py"; for explanations.
        modules: catdog's modules that the training imports, without watchers, sorted.
        libraries: what the user's code imports, apart from catdog and the standard library, by import name, sorted.
        sources: the text of each of the user's own files.
    """

    digest: str
    files: Mapping[str, str]
    modules: tuple[str, ...]
    libraries: tuple[str, ...]
    sources: Mapping[str, str]


_Stamp = tuple[str, int, int]
_results: dict[tuple[str, ...], tuple[list[_Stamp], CodeDigest]] = {}


def digest_code(entry: str = TRAINING, user_references: Iterable[str] = ()) -> CodeDigest:
    """Returns the digest of the code that an entry reaches, together with the modules that a config's references name.

    A definition of catdog counts if it is reached. A user's module counts as a whole, together with the local modules it imports.

    Args:
        entry: one of catdog's functions.
        user_references: such as "my_models:resnet". Modules are looked up in the current folder first.

    Raises:
        UserError: a module does not exist or cannot be read.
    """
    references = sorted(user_references)
    key = (str(_find_package()), entry, *references, "", str(Path.cwd()), *sys.path)
    known = _results.get(key)
    if known and known[0] == [_stamp(path) for path, _, _ in known[0]]:
        return known[1]
    analysis = _Analysis()
    analysis.reach_entry(entry)
    if references:
        # Import caches may not know a file that was written a moment ago.
        importlib.invalidate_caches()
    for reference in references:
        analysis.reach_reference(reference)
    result = analysis.finish()
    _results[key] = (analysis.stamps, result)
    return result


def digest_script(texts: Mapping[Path, str]) -> CodeDigest:
    """Returns the digest of scripts, of the modules beside them that they import, and of the parts of catdog that they use.

    Args:
        texts: the text of each script or notebook cell, by its file. The file need not exist.

    Raises:
        UserError: a script is not valid Python.
    """
    analysis = _Analysis([str(path.parent) for path in texts])
    for path, text in texts.items():
        analysis.touch(SourceModule(f"{path.stem} ", path, is_own=False, shown=path.name, script=text))
    return analysis.finish()


def _stamp(path: str) -> _Stamp:
    try:
        found = Path(path).stat()
    except OSError:
        return path, 0, 0
    return path, found.st_mtime_ns, found.st_size


class _Analysis:
    """What has been reached so far, and what remains to be followed.

    Args:
        folders: where a user's modules are looked up before the current folder.
    """

    def __init__(self, folders: Sequence[str] = ()) -> None:
        self.folders = folders
        self.root = _find_package()
        self.loaded: dict[str, SourceModule | None] = {}
        self.touched: dict[str, SourceModule] = {}
        self.stamps: list[_Stamp] = []
        self.libraries: set[str] = set()
        # The text of what counts, by the file that contains it.
        self.texts: dict[str, set[str]] = {}
        self.reached: set[tuple[str, str]] = set()
        self.unresolved: set[str] = set()
        self.queue: list[tuple[SourceModule, list[ast.stmt]]] = []
        self.specs: dict[str, ModuleSpec | None] = {}

    def reach_entry(self, entry: str) -> None:
        """Follows one of catdog's own functions."""
        module, _, name = entry.partition(":")
        self.resolve(None, Imported(module, name.partition(".")[0]), [])

    def reach_reference(self, reference: str) -> None:
        """Counts the module of a user's function."""
        name = reference.partition(":")[0]
        if name.partition(".")[0] == PACKAGE:
            self.reach_entry(reference)
            return
        spec = self._find_spec(name)
        if spec is None:
            raise UserError(
                f"{reference}: there is no module {name} in the current folder ({Path.cwd()}), and none is installed. Write "
                "module:object for an object of your own, or the name of a Keras object."
            )
        if _is_installed(spec):
            self.libraries.add(name.partition(".")[0])
        module = self._load_file(name, spec)
        if module:
            self.touch(module)

    def finish(self) -> CodeDigest:
        """Follows everything that has not been followed yet, and returns the result."""
        while self.queue:
            module, statements = self.queue.pop()
            writer = _Writer(self, module)
            text = "\n".join(filter(None, map(writer.write_statement, statements)))
            if text:
                self.texts.setdefault(module.shown, set()).add(text)
        everything = sorted(set().union(*self.texts.values()))
        return CodeDigest(
            _hash(everything),
            {shown: _hash(sorted(texts))[:DIGITS] for shown, texts in sorted(self.texts.items())},
            tuple(sorted(module.name for module in self.touched.values() if module.is_own)),
            tuple(sorted(self.libraries)),
            {each.shown: each.text for each in self.touched.values() if not each.is_own and not _in_site(each.shown)},
        )

    def resolve(
        self, importer: SourceModule | None, imported: Imported, attributes: list[str], *, quiet: bool = False
    ) -> tuple[str, list[str], bool]:
        """Follows an imported name to what it stands for, and marks that as reached.

        Args:
            importer: the module that contains the name.
            imported: what the name stands for.
            attributes: the attributes that follow the name, such as ["ops", "mean"].
            quiet: only look up; mark nothing as reached.

        Returns:
            The name as it is written into the digest, the remaining attributes, and whether it belongs to a watcher.
        """
        target = imported.module
        rest = [imported.name, *attributes] if imported.name else attributes
        module = self.load(importer, target)
        while True:
            if is_watcher(target):
                return self._resolve_watched(target, rest)
            if module is None:
                return ".".join([target, *rest]), [], False
            if not quiet:
                self.touch(module)
            if not rest:
                for each in () if quiet else module.table:
                    self.reach(module, each)
                return "module", [], False
            name = rest[0]
            binding = module.table.get(name)
            if binding is not None:
                if not quiet:
                    self.reach(module, name)
                if binding.imported:
                    return self.resolve(module, binding.imported, rest[1:], quiet=quiet)
                return name, rest[1:], False
            inner = self.load(importer, f"{target}.{name}")
            if inner is None and not is_watcher(f"{target}.{name}"):
                if module.is_own and not name.startswith("__"):
                    self.unresolved.add(f"{target}:{name}")
                return name, rest[1:], False
            target, rest, module = f"{target}.{name}", rest[1:], inner

    def _resolve_watched(self, target: str, rest: list[str]) -> tuple[str, list[str], bool]:
        """Returns what `resolve` returns for a name in a watcher, or in a module below it."""
        while rest and self._is_module(f"{target}.{rest[0]}"):
            target, rest = f"{target}.{rest[0]}", rest[1:]
        return (rest[0] if rest else "module"), rest[1:], True

    def reach(self, module: SourceModule, name: str) -> None:
        """Makes a top-level name of a module count."""
        if module.is_own and (module.name, name) not in self.reached:
            self.reached.add((module.name, name))
            statements = module.table[name].statements
            if statements:
                self.queue.append((module, statements))

    def touch(self, module: SourceModule) -> None:
        """Counts what importing a module does: its side effects and those of its imports. Of a user's module everything counts."""
        if module.name in self.touched:
            return
        self.touched[module.name] = module
        if not module.is_own:
            definitions = [each for each in module.body if isinstance(each, DEFINITIONS)]
            self.queue += [(module, [each]) for each in definitions]
            # These statements stay in their order, which may matter.
            self.queue.append((module, [each for each in module.body if not isinstance(each, DEFINITIONS)]))
        elif module.effects and module.name != PACKAGE:
            # The package itself only configures libraries: where messages go, how long a tracking server may take.
            self.queue.append((module, module.effects))
        for imported in [*map(Imported, _list_parents(module.name)), *module.imports]:
            self.touch_import(module, imported)

    def touch_import(self, importer: SourceModule, imported: Imported) -> None:
        """Touches what an import statement imports."""
        for name in [imported.module] + ([f"{imported.module}.{imported.name}"] if imported.name else []):
            module = self.load(importer, name)
            if module:
                self.touch(module)

    def load(self, importer: SourceModule | None, name: str) -> SourceModule | None:
        """Returns a module that may count; None for a watcher, or if it is neither catdog's nor beside the user's code."""
        top = name.partition(".")[0]
        if top != PACKAGE and (importer is None or importer.is_own or top in sys.stdlib_module_names):
            return None
        if name not in self.loaded:
            if top == PACKAGE:
                path = None if is_watcher(name) else self._locate(name)
                shown = path.relative_to(self.root.parent).as_posix() if path else ""
                self.loaded[name] = self._read(name, path, shown, is_own=True)
            else:
                self.loaded[name] = self._load_local(name)
        return self.loaded[name]

    def _load_local(self, name: str) -> SourceModule | None:
        top = self._find_spec(name.partition(".")[0])
        if top is not None and _is_installed(top):
            self.libraries.add(top.name)
            return None
        spec = self._find_spec(name)
        return self._load_file(name, spec) if spec else None

    def _load_file(self, name: str, spec: ModuleSpec) -> SourceModule | None:
        if not spec.origin or not spec.origin.endswith(".py"):
            return None
        path = Path(spec.origin)
        shown = name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
        return self._read(name, path, f"{SITE}/{shown}" if _is_installed(spec) else shown, is_own=False)

    def _read(self, name: str, path: Path | None, shown: str, *, is_own: bool) -> SourceModule | None:
        if path is None:
            return None
        self.stamps.append(_stamp(str(path)))
        try:
            return SourceModule(name, path, is_own=is_own, shown=shown)
        except OSError as error:
            raise UserError(f"{shown}: cannot be read: {error}.") from error

    def _locate(self, name: str) -> Path | None:
        base = self.root.joinpath(*name.split(".")[1:])
        candidates = (base / "__init__.py", base.with_suffix(".py"))
        return next((path for path in candidates if path.is_file()), None)

    def _is_module(self, name: str) -> bool:
        return self._locate(name) is not None

    def _find_spec(self, name: str) -> ModuleSpec | None:
        """Returns the location of a user's module, without importing it or its packages."""
        if name not in self.specs:
            parent, _, _ = name.rpartition(".")
            if not parent:
                self.specs[name] = _find_top_level(name, self.folders)
            else:
                outer = self._find_spec(parent)
                places = outer.submodule_search_locations if outer else None
                self.specs[name] = PathFinder.find_spec(name, list(places)) if places else None
        return self.specs[name]


# A module of an installed package that a config names is listed below this folder name.
SITE = "site-packages"


def _in_site(shown: str) -> bool:
    return shown.startswith(f"{SITE}/")


def _find_package() -> Path:
    return Path(next(iter(sys.modules[PACKAGE].__path__))).resolve()


def _find_top_level(name: str, folders: Sequence[str] = ()) -> ModuleSpec | None:
    spec = PathFinder.find_spec(name, [*folders, str(Path.cwd()), *sys.path])
    if spec is not None:
        return spec
    # Packages installed in editable mode may have a finder of their own.
    for finder in sys.meta_path:
        if finder is not PathFinder and hasattr(finder, "find_spec"):
            found = finder.find_spec(name, None)
            if found is not None:
                return found
    return None


def _is_installed(spec: ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)


def is_watcher(name: str) -> bool:
    """Returns whether a module belongs to the watchers, whose code does not count."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in WATCHERS)


def _list_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


class _Writer:
    """Writes what counts of one module's statements as text, and marks the names that they use as reached.

    Args:
        analysis: receives the names that lead to other definitions.
        module: the module that contains the statements.
    """

    def __init__(self, analysis: _Analysis, module: SourceModule) -> None:
        self.analysis = analysis
        self.module = module
        self.parts: list[str] = []
        # For each function or class being written, outermost first: whether it is a class, and the names that it binds.
        self.scopes: list[tuple[bool, dict[str, Imported | None]]] = []
        self.quiet = False

    def write_statement(self, statement: ast.stmt) -> str:
        """Returns the text of one top-level statement; "" if nothing in it counts."""
        if is_main(statement):
            return ""
        self.parts = []
        self._body([statement])
        return "".join(self.parts)

    def _visit(self, node: Any) -> None:
        if isinstance(node, ast.AST):
            method = getattr(self, "_" + type(node).__name__.lower(), None)
            if method:
                method(node)
            else:
                self._generic(node)
        elif isinstance(node, list):
            self.parts.append("[")
            for item in node:
                # In a dictionary display, a missing key stands for `**`.
                self.parts.append("**") if item is None else self._visit(item)
                self.parts.append(",")
            self.parts.append("]")
        else:
            self.parts.append(repr(node))

    def _generic(self, node: ast.AST) -> None:
        self.parts.append(type(node).__name__ + "(")
        for name in node._fields:
            # A newer Python may have fields that an older one lacks, so empty fields are left out.
            value = None if name in UNCOUNTED_FIELDS else getattr(node, name, None)
            if value is None or value == []:
                continue
            self.parts.append(f" {name}=")
            if name in ("body", "orelse", "finalbody") and isinstance(value, list):
                self._body(value)
            else:
                self._visit(value)
        self.parts.append(")")

    # Statements.

    def _body(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                if self.scopes and not self.quiet:
                    for _, _, touched in read_import(statement, self.module.package):
                        self.analysis.touch_import(self.module, touched)
            elif is_type_checking(statement):
                self._body(statement.orelse)
            elif not self._is_idle(statement):
                self._visit(statement)
                self.parts.append(";\n")

    def _is_idle(self, statement: ast.stmt) -> bool:
        """Returns whether a statement cannot change a result: it only reports something, or does nothing."""
        if isinstance(statement, ast.Pass | ast.Global | ast.Nonlocal):
            return True
        if isinstance(statement, ast.AnnAssign):
            return statement.value is None and not self._makes_fields()
        if isinstance(statement, ast.If):
            return not any(map(_acts, ast.walk(statement.test))) and all(
                map(self._is_idle, [*statement.body, *statement.orelse])
            )
        if not isinstance(statement, ast.Expr):
            return False
        value = statement.value
        if isinstance(value, ast.Constant):
            return True
        return isinstance(value, ast.Call) and self._only_watches(value.func)

    def _only_watches(self, node: ast.expr) -> bool:
        """Returns whether the called function logs, prints, or belongs to a watcher."""
        attributes = _read_chain(node)
        if not attributes:
            return False
        name, *rest = attributes
        imported, is_local, binding = self._look_up(name)
        if imported:
            written, _, watches = self.analysis.resolve(self.module, imported, rest, quiet=True)
            return watches or written.startswith("logging.")
        if is_local:
            return False
        if binding:
            return bool(rest) and all(map(_makes_logger, binding.statements))
        return name == "print"

    def _makes_fields(self) -> bool:
        """Returns whether an annotation in the class being written may define a field, as in a dataclass."""
        return bool(self.scopes) and self.scopes[-1][0] and "" in self.scopes[-1][1]

    def _annassign(self, node: ast.AnnAssign) -> None:
        if self._makes_fields():
            kinds = [word for word in ("ClassVar", "InitVar") if word in ast.unparse(node.annotation)]
            self.parts.append(f"Field{''.join(kinds)}(")
            self._visit(node.target)
            if node.value is not None:
                self.parts.append(" value=")
                self._visit(node.value)
            self.parts.append(")")
        else:
            assert node.value is not None  # _is_idle leaves out the others
            self._write_assign([node.target], node.value)

    def _assign(self, node: ast.Assign) -> None:
        self._write_assign(node.targets, node.value)

    def _write_assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        self.parts.append("Assign(")
        self._visit(targets)
        self.parts.append(" value=")
        self._visit(value)
        self.parts.append(")")

    def _raise(self, node: ast.Raise) -> None:
        """Only the exception's name counts, not what builds its message: a message ends a run, but changes no result."""
        self.parts.append("Raise(")
        former, self.quiet = self.quiet, True
        if node.exc is not None:
            self._visit(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        self.quiet = former
        self.parts.append(")")

    def _assert(self, node: ast.Assert) -> None:
        self.parts.append("Assert(")
        self._visit(node.test)
        self.parts.append(")")

    # Scopes.

    def _functiondef(self, node: Any) -> None:
        self.parts.append(f"{type(node).__name__}({node.name} ")
        self._visit(node.decorator_list)
        self._function(node.args, node.body)

    _asyncfunctiondef = _functiondef

    def _lambda(self, node: ast.Lambda) -> None:
        self.parts.append("Lambda(")
        self._function(node.args, node.body)

    def _function(self, arguments: ast.arguments, body: Any) -> None:
        self._visit(arguments)
        names: dict[str, Imported | None] = {}
        statements = body if isinstance(body, list) else [body]
        names.update(list_bound(statements, self.module.package, self.module.has_walrus))
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        names.update((each.arg, None) for each in named if each)
        self.scopes.append((False, names))
        self.parts.append(" body=")
        if isinstance(body, list):
            self._body(body)
        else:
            self._visit(body)
        self.scopes.pop()
        self.parts.append(")")

    def _classdef(self, node: ast.ClassDef) -> None:
        self.parts.append(f"ClassDef({node.name} ")
        for part in (node.decorator_list, node.bases, node.keywords):
            self._visit(part)
        names = list_bound(node.body, self.module.package, self.module.has_walrus)
        if node.decorator_list or node.bases:
            # "" is not a name. It records that an annotation may define a field here.
            names[""] = None
        self.scopes.append((True, names))
        self.parts.append(" body=")
        self._body(node.body)
        self.scopes.pop()
        self.parts.append(")")

    def _comprehension_scope(self, node: Any) -> None:
        first = node.generators[0]
        self.parts.append(type(node).__name__ + "(")
        self._visit(first.iter)
        targets = [each.target for each in node.generators]
        self.scopes.append((False, list_bound(targets, self.module.package, self.module.has_walrus)))
        for each in node.generators:
            self.parts.append(" async for " if each.is_async else " for ")
            self._visit(each.target)
            if each is not first:
                self._visit(each.iter)
            self._visit(each.ifs)
        for name in ("key", "elt", "value"):
            if hasattr(node, name):
                self.parts.append(f" {name}=")
                self._visit(getattr(node, name))
        self.scopes.pop()
        self.parts.append(")")

    _listcomp = _setcomp = _dictcomp = _generatorexp = _comprehension_scope

    # Names.

    def _look_up(self, name: str) -> tuple[Imported | None, bool, Binding | None]:
        """Returns what the name imports, whether it is local to a scope, and its binding at the module's top level."""
        for depth, (is_class, names) in enumerate(reversed(self.scopes)):
            # Methods do not see the names in their class body.
            if name in names and (not is_class or depth == 0):
                return names[name], names[name] is None, None
        binding = self.module.table.get(name)
        return (binding.imported if binding else None), False, binding

    def _reference(self, name: str, attributes: list[str]) -> None:
        imported, is_local, binding = self._look_up(name)
        written = name
        if not is_local and binding and not self.quiet:
            self.analysis.reach(self.module, name)
        if imported:
            written, attributes, _ = self.analysis.resolve(self.module, imported, attributes, quiet=self.quiet)
        self.parts.append(".".join([written, *attributes]))

    def _name(self, node: ast.Name) -> None:
        self._reference(node.id, [])

    def _attribute(self, node: ast.Attribute) -> None:
        attributes = _read_chain(node)
        if attributes:
            self._reference(attributes[0], attributes[1:])
        else:
            self._visit(node.value)
            self.parts.append(f".{node.attr}")

    # Expressions.

    def _call(self, node: ast.Call) -> None:
        self.parts.append("Call(")
        self._visit(node.func)
        # The first argument of `catdog.config.option` is a help text.
        has_help = last_name(node.func) == "option"
        self._visit(node.args[1:] if has_help else node.args)
        keywords = [each for each in map(_without_help, node.keywords) if each]
        self._visit([each for each in keywords if not (has_help and each.arg == "help")])
        self.parts.append(")")

    def _constant(self, node: ast.Constant) -> None:
        self.parts.append(repr(node.value))

    def _joinedstr(self, node: ast.JoinedStr) -> None:
        """Writes an f-string with adjacent plain text joined: versions of Python divide it differently."""
        self.parts.append("JoinedStr(")
        plain = ""
        for value in node.values:
            if isinstance(value, ast.Constant):
                plain += str(value.value)
                continue
            self.parts.append(repr(plain) if plain else "")
            plain = ""
            self._visit(value)
        self.parts.append((repr(plain) if plain else "") + ")")


def _read_chain(node: ast.expr) -> list[str]:
    """Returns ["keras", "ops", "mean"] for `keras.ops.mean`; empty for an expression that does not begin with a name."""
    found: list[str] = []
    while isinstance(node, ast.Attribute):
        found.append(node.attr)
        node = node.value
    return [node.id, *reversed(found)] if isinstance(node, ast.Name) else []


def _makes_logger(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and last_name(statement.value) == "getLogger"


def _acts(node: ast.AST) -> bool:
    return isinstance(node, ast.Call | ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom)


def _without_help(keyword: ast.keyword) -> ast.keyword | None:
    """Returns a call's keyword without the help text in `metadata={"help": ...}`; None if nothing is left."""
    if keyword.arg != "metadata" or not isinstance(keyword.value, ast.Dict):
        return keyword
    pairs = [
        (key, value)
        for key, value in zip(keyword.value.keys, keyword.value.values, strict=True)
        if not (isinstance(key, ast.Constant) and key.value == "help")
    ]
    if not pairs:
        return None
    return ast.keyword(
        arg="metadata", value=ast.Dict(keys=[key for key, _ in pairs], values=[value for _, value in pairs])
    )
