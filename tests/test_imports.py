"""Packages import only what CONTRIBUTING.md allows, and imports form no cycle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsr_testing.paths import ROOT

PACKAGES = {
    "rsr_formats": ROOT / "formats" / "rsr_formats",
    "rsr_runtime": ROOT / "runtime" / "rsr_runtime",
    "rsrc": ROOT / "rsrc",
}
ROW = re.compile(r"^\| `([a-z_.]+)` \| (.*?) \|", re.MULTILINE)
NAME = re.compile(r"`([a-z_.]+)`")


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported(module: str) -> Iterator[str]:
    """Yield the full names that a module imports from the three packages, wherever it does so."""
    package = module.split(".")
    if MODULES[module].name != "__init__.py":
        package.pop()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in PACKAGES)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            if name.split(".")[0] in PACKAGES:
                yield from (f"{name}.{a.name}" for a in node.names)


def module_of(name: str) -> str:
    """Return the module that an imported name denotes or belongs to."""
    return name if name in MODULES else name.rpartition(".")[0]


# Extension modules and the version import nothing.
LEAF = re.compile(r"(rsr_runtime|rsrc)\.(_native|_version)(\..*)?")
GRAPH = {
    module: {module_of(name) for name in imported(module) if not LEAF.fullmatch(name)} - {module}
    for module in MODULES
}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ALLOWED = {room: set(NAME.findall(others)) for room, others in ROW.findall(CONTRIBUTING)}


def room_of(module: str) -> str:
    """Return the row of CONTRIBUTING.md's table that a module belongs to."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(name for name in names if name in ALLOWED)


def test_imports_form_no_cycle() -> None:
    """Lazy imports and those for type checkers count: they only hide a cycle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail(" -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            for other in sorted(GRAPH[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_rooms_import_what_contributing_allows() -> None:
    assert len(ALLOWED) > 10
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in sorted(others)
        if room_of(other) not in ALLOWED[room_of(module)] | {room_of(module)}
    ]
    assert not wrong


def test_the_compiler_uses_the_public_runtime_only() -> None:
    public = {f"rsr_runtime{room}" for room in ("", ".llm", ".serve", ".evaluation")}
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if module.startswith("rsrc")
        for name in imported(module)
        if name.startswith("rsr_runtime") and not {name, name.rpartition(".")[0]} & public
    ]
    assert not wrong


def test_rooms_hold_all_modules_of_the_compiler() -> None:
    beside = {path.name for path in PACKAGES["rsrc"].glob("*.py")}
    assert beside == {"__init__.py", "__main__.py", "_version.py"}


def test_private_names_stay_in_their_module() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imported(module)
        if name.rpartition(".")[2].startswith("_")
        and name.rpartition(".")[2] not in ("_native", "_version", "__version__")
    ]
    assert not wrong


def test_private_attributes_stay_in_their_class() -> None:
    wrong = []
    for module, tree in TREES.items():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        inside: dict[ast.AST, set[str | None]] = {}  # of each node: attributes of its class
        for owner in classes:
            attributes = {_attribute(node) for node in ast.walk(owner)}
            inside |= dict.fromkeys(ast.walk(owner), attributes)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not re.match("_[a-z]", node.attr):
                continue
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os", "sys"):
                continue
            if node.attr not in inside.get(node, set()):
                wrong.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong


def _attribute(node: ast.AST) -> str | None:
    """Return the name of a method, or of an attribute of self, where a class defines one."""
    if isinstance(node, ast.FunctionDef):
        return node.name
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    return None
