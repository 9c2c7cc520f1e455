"""One source file: what its top level binds, imports and does, read from the syntax tree without running it."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from catdog.system.errors import UserError

# Decorators whose only effect is on what they decorate. Any other decorator may register it somewhere.
PLAIN_DECORATORS = {"dataclass", "cache", "lru_cache", "contextmanager", "final", "runtime_checkable", "total_ordering"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
COMPOUND = tuple(
    getattr(ast, name) for name in ("If", "Try", "TryStar", "With", "AsyncWith", "For", "AsyncFor", "While", "Match")
)


@dataclass(frozen=True)
class Imported:
    """What a name stands for: a module, or something in it."""

    module: str
    name: str | None = None


@dataclass
class Binding:
    """What a module's top level binds to a name: an import, or the statements that define it."""

    imported: Imported | None = None
    statements: list[ast.stmt] = field(default_factory=list)


class SourceModule:
    """A source file, and what its top level binds.

    Args:
        name: its dotted name.
        path: the file.
        is_own: whether it belongs to catdog; of a user's module everything counts.
        shown: the file's name in the plan.
        script: the text of a script or a notebook cell, whose `__main__` block counts; None: the file is read.
    """

    def __init__(self, name: str, path: Path, *, is_own: bool, shown: str, script: str | None = None) -> None:
        self.name = name
        self.is_own = is_own
        self.shown = shown
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        content = path.read_bytes() if script is None else script.encode()
        self.text = content.decode("utf-8", errors="replace")
        try:
            self.body = ast.parse(content).body
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise UserError(f"{shown}{line}: not valid Python: {error.args[0]}.") from error
        if script is not None:
            self.body = [inner for each in self.body for inner in (each.body if is_main(each) else [each])]
        self.has_walrus = ":=" in self.text
        self.table: dict[str, Binding] = {}
        # Statements that do something at import besides binding names.
        self.effects: list[ast.stmt] = []
        self.imports: list[Imported] = []
        for statement in self.body:
            self._index(statement)

    def _bind(self, name: str) -> Binding:
        return self.table.setdefault(name, Binding())

    def _index(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._index_import(statement)
        elif isinstance(statement, DEFINITIONS):
            self._bind(statement.name).statements.append(statement)
            if any(last_name(item) not in PLAIN_DECORATORS for item in statement.decorator_list):
                self.effects.append(statement)
        elif isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign):
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                self._index_target(target, statement)
        elif is_type_checking(statement):
            for inner in statement.orelse:
                self._index(inner)
        elif isinstance(statement, COMPOUND) and not is_main(statement):
            self._index_compound(statement)
        elif isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant):
            self.effects.append(statement)

    def _index_compound(self, statement: ast.stmt) -> None:
        if not _binds_alone(statement):
            self.effects.append(statement)
        for name, imported in list_bound([statement], self.package, self.has_walrus).items():
            if imported is None:
                self._bind(name).statements.append(statement)
        # `try: import x`, with `x = None` on failure, binds x in both ways.
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._index_import(node)

    def _index_import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for name, imported, touched in read_import(statement, self.package):
            self.imports.append(touched)
            self._bind(name).imported = imported

    def _index_target(self, target: ast.expr, statement: ast.stmt) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self._index_target(item, statement)
            return
        base = target
        while isinstance(base, ast.Attribute | ast.Subscript | ast.Starred):
            base = base.value
        if isinstance(base, ast.Name) and (base is target or self.table.get(base.id, Binding()).statements):
            self._bind(base.id).statements.append(statement)
        else:
            self.effects.append(statement)


def last_name(node: ast.expr) -> str:
    """Returns "dataclass" for `dataclass`, `dataclasses.dataclass` and `dataclass(frozen=True)`; "" for what has no name."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_type_checking(node: ast.AST) -> TypeGuard[ast.If]:
    """Returns whether this is `if TYPE_CHECKING:`, whose body never runs."""
    return isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING"


def is_main(node: ast.stmt) -> TypeGuard[ast.If]:
    """Returns whether this is `if __name__ == "__main__":`, whose body never runs in a training."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.ops[0], ast.Eq)
        and {ast.unparse(node.test.left), ast.unparse(node.test.comparators[0])} == {"__name__", "'__main__'"}
    )


def _binds_alone(statement: ast.stmt) -> bool:
    """Returns whether a compound statement only binds names, as `try: import x` with `x = None` does."""
    if not isinstance(statement, ast.If | ast.Try):
        return False
    blocks = [statement.body, statement.orelse, *(item.body for item in getattr(statement, "handlers", []))]
    blocks.append(getattr(statement, "finalbody", []))
    plain = (ast.Import, ast.ImportFrom, ast.Pass, *DEFINITIONS)
    return all(
        isinstance(inner, plain)
        or (isinstance(inner, ast.Assign) and all(isinstance(target, ast.Name) for target in inner.targets))
        or _binds_alone(inner)
        for block in blocks
        for inner in block
    )


def read_import(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Imported, Imported]]:
    """Yields for each name that an import binds: the name, what it stands for, and what is imported for it."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            whole = Imported(alias.name)
            yield (alias.asname, whole, whole) if alias.asname else (
                (top := alias.name.partition(".")[0]), Imported(top), whole)  # fmt: skip
        return
    module = statement.module or ""
    if statement.level:
        base = package.split(".")[: len(package.split(".")) - statement.level + 1]
        module = ".".join([*base, module] if module else base)
    if module == "__future__":
        return
    for alias in statement.names:
        imported = Imported(module, alias.name)
        yield alias.asname or alias.name, imported, imported


def list_bound(body: Sequence[ast.AST], package: str, has_walrus: bool) -> dict[str, Imported | None]:
    """Returns the names that these statements bind in their scope: what an import stands for, or None for other names."""
    bound: dict[str, Imported | None] = {}
    outer: set[str] = set()
    stack = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                bound[node.id] = None
        elif isinstance(node, DEFINITIONS):
            bound[node.name] = None
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, imported, _ in read_import(node, package):
                bound.setdefault(name, imported)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            # A comprehension keeps its names to itself, except those that := binds.
            if has_walrus:
                targets = (inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
                bound.update((target.id, None) for target in targets)
        elif isinstance(node, ast.Assign) and not has_walrus:
            stack.extend(node.targets)
        else:
            stack.extend(_descend(node, bound, has_walrus))
    return {name: imported for name, imported in bound.items() if name not in outer}


def _descend(node: ast.AST, bound: dict[str, Imported | None], has_walrus: bool) -> Iterable[ast.AST]:
    """Binds the name that a node itself gives, as in `except ... as name`; returns the children that may bind others."""
    named = getattr(node, "rest", None) or getattr(node, "name", None)
    if isinstance(named, str) and isinstance(node, ast.ExceptHandler | ast.pattern):
        bound[named] = None
    if isinstance(node, ast.Lambda):
        return ()
    is_read = isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), ast.Store)
    if not has_walrus and (is_read or isinstance(node, ast.Expr | ast.Return)):
        return ()
    return ast.iter_child_nodes(node)
