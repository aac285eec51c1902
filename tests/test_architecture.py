"""The house: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "src" / "layerscope"
RANKS = {
    "types": 0, "errors": 0, "conform": 0,
    "registry": 1, "report": 1, "settings": 1, "numerics": 1,
    "fits": 2, "sources": 2, "engines": 2, "history": 2,
    "metrics": 3, "selection": 3,
    "pipeline": 4, "rules": 4, "edit": 4,
    "comparison": 5,
    "landscape": 6,
    "api": 7, "views": 7,
    "learning": 8, "callbacks": 9, "experiments": 9, "weightwatcher": 8, "demo": 8,
    "cli": 10, "__main__": 11, "__init__": 11,
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_at_import_time(tree: ast.Module) -> list[str]:
    """Modules imported when the file is: not inside functions, not under TYPE_CHECKING."""
    found: list[str] = []

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.extend(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "imports are absolute"
                found.extend(
                    f"{node.module}.{alias.name}" if node.module == "layerscope" else str(node.module)
                    for alias in node.names
                )
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
                visit(node.body)

    visit(tree.body)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_strictly_downward(path: Path) -> None:
    here = room(path)
    for name in imports_at_import_time(ast.parse(path.read_text("utf-8"))):
        top, _, rest = name.partition(".")
        if top != "layerscope" or not rest:
            continue
        there = rest.split(".")[0]
        assert there in RANKS, f"{path}: imports {name}, which has no rank"
        assert there == here or RANKS[there] < RANKS[here], f"{path} ({here}) imports {name} ({there}): not downward"


def test_every_room_has_a_rank() -> None:
    assert {room(path) for path in FILES} <= set(RANKS)


def test_files_stay_small() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import layerscope", {"torch", "pandas", "matplotlib", "scipy", "numpy", "rich", "click"}),
        ("import layerscope.cli", {"torch", "pandas", "matplotlib", "scipy", "numpy", "rich"}),
        ("import layerscope; layerscope.analyze", {"torch", "pandas", "matplotlib", "scipy", "rich"}),
        (
            "import layerscope; layerscope.analyze({'w.weight': __import__('numpy').eye(60)})",
            {"torch", "pandas", "scipy"},
        ),
    ],
)
def test_import_budget(statement: str, forbidden: set[str]) -> None:
    assert not loaded_after(statement) & forbidden


def test_the_library_never_prints_nor_configures_logging() -> None:
    allowed = {ROOT / "cli" / "__init__.py"}
    for path in FILES:
        if path in allowed:
            continue
        names = {node.func.id for node in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
        assert "print" not in names, path
        assert "basicConfig" not in path.read_text("utf-8"), path
