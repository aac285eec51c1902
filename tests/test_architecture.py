"""The architecture: who may import whom, how modules are named, and what importing costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from layerscope import registry
from tests.requirements import require

ROOT = Path(__file__).resolve().parent.parent / "src" / "layerscope"
RANKS = {
    "array_types": 0, "choices": 0, "errors": 0, "text": 0, "validation": 0,
    "registry": 1, "settings": 1, "numerics": 1,
    "records": 2,
    "gguf_names": 2, "tensor_roles": 2, "baseline_tables": 2, "tensor_names": 3, "progress_bars": 3,
    "sources": 4, "fits": 4, "engines": 4,
    "live": 5, "metrics": 5,
    "pipeline": 6, "rules": 6, "edit": 6, "persistence": 6,
    "report_comparison": 7, "baseline_making": 7, "layer_jobs": 7,
    "analysis": 8,
    "lenses": 9,
    "audits": 10,
    "views": 11,
    "api": 12,
    "monitor": 13, "demo": 13,
    "experiments": 14, "callbacks": 14, "weightwatcher": 14,
    "cli": 15, "__main__": 16, "__init__": 16,
    "types": 16, "report": 16, "learning": 16,  # former names, kept for one release
}  # fmt: skip
FORMER = ("types.py", "report.py", "learning")  # modules of former names, kept for one release
UPWARD = {"records/viewable.py"}  # how records show themselves: the one file that imports what stands above it
FILES = sorted(ROOT.rglob("*.py"))


def package(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> list[str]:
    """Modules imported anywhere in a file, inside functions too; not under TYPE_CHECKING."""
    modules: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            modules.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules.extend(
                f"{node.module}.{alias.name}" if node.module == "layerscope" else str(node.module)
                for alias in node.names
            )
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            modules.extend(name for other in node.orelse for name in imported_modules(other))
        else:
            modules.extend(imported_modules(node))
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_strictly_downward(path: Path) -> None:
    here = package(path)
    for name in imported_modules(ast.parse(path.read_text("utf-8"))):
        top, _, rest = name.partition(".")
        if top != "layerscope" or not rest or str(path.relative_to(ROOT)) in UPWARD:
            continue
        there = rest.split(".")[0]
        assert there in RANKS, f"{path}: imports {name}, which has no rank"
        assert there == here or RANKS[there] < RANKS[here], f"{path} ({here}) imports {name} ({there}): not downward"


def test_every_package_has_a_rank() -> None:
    assert {package(path) for path in FILES} <= set(RANKS)


def test_a_folder_holds_at_least_three_files() -> None:
    folders = {path.parent for path in FILES if package(path) not in FORMER}
    small = [
        str(f.relative_to(ROOT))
        for f in folders
        if len([x for x in f.iterdir() if x.suffix == ".py" or (x / "__init__.py").exists()]) < 3
    ]
    assert not small


def test_no_module_is_called_like_one_of_the_standard_library_or_a_public_function() -> None:
    from layerscope import api

    taken = {*sys.stdlib_module_names}
    clashes = {str(p.relative_to(ROOT)) for p in FILES if p.stem in taken and p.name not in FORMER}
    packages = {package(path) for path in FILES}
    assert not clashes
    assert not packages & {*api.MODULES, *api.RENAMED}


def test_no_logic_lives_in_the_init_of_a_package() -> None:
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
    for path in FILES:
        if path.name == "__init__.py" and path.parent != ROOT:
            nodes = ast.parse(path.read_text("utf-8")).body
            assert all(isinstance(node, allowed) for node in nodes), path


def test_files_stay_small() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long


def test_every_module_says_in_its_first_line_what_it_contains() -> None:
    first_lines = {p: (ast.get_docstring(ast.parse(p.read_text("utf-8"))) or "").partition("\n")[0] for p in FILES}
    assert not [path for path, line in first_lines.items() if len(line.split()) < 3 and path.parent.name != "commands"]


def test_plugins_of_each_kind_are_found_by_their_mark_alone() -> None:
    for kind, facts in registry.KINDS.items():
        for plugin in registry.plugins(kind).values():
            assert not facts.attribute or hasattr(plugin.target, facts.attribute)


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import layerscope", {"torch", "pandas", "matplotlib", "scipy", "numpy", "rich", "click"}),
        ("import layerscope.cli.main", {"torch", "pandas", "matplotlib", "scipy", "numpy", "rich"}),
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
    allowed = {ROOT / "cli" / "main.py"}
    for path in FILES:
        if path in allowed:
            continue
        names = {node.func.id for node in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
        assert "print" not in names, path
        assert "basicConfig" not in path.read_text("utf-8"), path


@pytest.mark.parametrize("name", ["types", "report", "learning.models"])
def test_former_modules_still_work_and_warn(name: str) -> None:
    if name == "learning.models":
        require("torch")
    sys.modules.pop(f"layerscope.{name}", None)
    with pytest.warns(DeprecationWarning, match=f"layerscope.{name} is deprecated"):
        module = importlib.import_module(f"layerscope.{name}")
    assert all(hasattr(module, public) for public in module.__all__)
