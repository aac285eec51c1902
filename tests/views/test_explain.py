"""Everything that layerscope prints by name is explained; the names are collected from the code."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from rich.markdown import Markdown

from layerscope import choices, registry
from layerscope.errors import UsageError
from layerscope.lenses.landscape.geometry import basins, function_distance
from layerscope.lenses.landscape.geometry import distances as distances_of_models
from layerscope.metrics import phase as phases
from layerscope.numerics import parameter_geometry, similarity
from layerscope.records.landscape.basins import Sharpness
from layerscope.records.landscape.distances import Distances
from layerscope.rules import tail_evidence
from layerscope.views import comparison, explain, history, landscape, report_rows, table
from layerscope.views.glossary import TERMS

EVALUATORS = Path(inspect.getfile(basins)).parent.parent / "evaluation"


def returned_strings(function: object) -> Iterator[str]:
    """Strings that a function may return."""
    tree = ast.parse(inspect.getsource(function).lstrip())  # type: ignore[arg-type]
    results = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    while results:
        result = results.pop()
        if isinstance(result, ast.IfExp):
            results += [result.body, result.orelse]
        elif isinstance(result, ast.Constant) and isinstance(result.value, str) and result.value:
            yield result.value


def constants(source: str, inside: str) -> Iterator[str]:
    """Strings anywhere in the functions and calls of that name."""
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef) and node.name == inside
        is_call = isinstance(node, ast.Call) and getattr(node.func, "id", "") == inside
        if is_function or is_call:
            body = node.body[1:] if isinstance(node, ast.FunctionDef) else [node]
            for part in (part for each in body for part in ast.walk(each)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def columns() -> Iterator[str]:
    yield from report_rows.columns()
    yield from (name for names in vars(table).items() if names[0].endswith("_COLUMNS") for name in names[1])
    yield from map(table.column_head, {*report_rows.columns(), "size", "note"})
    yield from report_rows.COLUMN_ALIASES
    yield from (label for _, label in table.SUMMARY_METRICS)
    yield from (name for column in history.COLUMNS for name in column[:2])
    yield from (head for _, head, _ in comparison.DISTANCE_COLUMNS)
    yield from (*comparison.METRICS, *(f"{name}_1" for name in comparison.METRICS), "target", "step")
    yield from (column.header for column in landscape.sharpness_table({}).columns)  # type: ignore[misc]
    yield from (field.name for field in fields(Sharpness) if field.name not in ("findings", "sigma"))


def distances() -> Iterator[str]:
    yield from choices.DISTANCE_KINDS
    yield from (*comparison.DISTANCES, *(f"{name}_2" for name in comparison.DISTANCES))
    yield from constants(inspect.getsource(inspect.getmodule(Distances)), "kinds")  # type: ignore[arg-type]
    yield from constants(inspect.getsource(similarity), "distances")
    yield from function_distance.DISTANCE_NAMES
    source = inspect.getsource(distances_of_models)
    yield from filter(str.isidentifier, constants(source, "_distances_of_canonical_forms"))


def barriers() -> Iterator[str]:
    yield from parameter_geometry.BARRIER_KINDS
    yield from constants(inspect.getsource(basins), "Stage")
    yield from set(constants(inspect.getsource(basins), "getattr")) - {"barrier_policies"}
    for path in EVALUATORS.glob("*_evaluator.py"):
        yield from constants(path.read_text("utf-8"), "barrier_policies")


def values_of_options() -> Iterator[str]:
    yield from (value for values in vars(choices).values() if isinstance(values, tuple) for value in values)


NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "columns": columns,
    "phases": lambda: returned_strings(phases.phase),
    "reasons for doubt": lambda: returned_strings(tail_evidence.doubt),
    "distances": distances,
    "barriers": barriers,
    "values of options": values_of_options,
    "fits": lambda: registry.plugins("fits"),
    "verdicts": lambda: registry.plugins("rules"),
}


@pytest.mark.parametrize("what", NAMES)
def test_every_name_that_is_printed_is_explained(what: str) -> None:
    names = set(NAMES[what]())
    assert len(names) >= 4
    missing = set()
    for name in names:
        try:
            assert isinstance(explain.explain(name), Markdown)
        except UsageError:
            missing.add(name)
    assert not missing


def test_six_phases_are_collected() -> None:
    assert set(NAMES["phases"]()) == {
        "random-like", "bleeding-out", "bulk+spikes", "bulk-decay", "heavy-tailed", "rank-collapse",
    }  # fmt: skip


def test_an_unknown_name_lists_close_matches() -> None:
    with pytest.raises(UsageError, match="no verdict, column or term called 'alhpa'; close matches: alpha"):
        explain.explain("alhpa")
    with pytest.raises(UsageError, match="try a code, a column or a term"):
        explain.explain("☃☃☃")


def test_names_are_found_whatever_their_case_and_hyphens() -> None:
    texts = {explain.explain(name).markup for name in ("loss barrier", "Loss-Barrier", "loss_barrier")}
    assert len(texts) == 1
    assert "# N\n" in explain.explain("N").markup


def test_the_glossary_has_no_name_twice_and_each_meaning_is_a_sentence() -> None:
    names = [name.casefold() for term in TERMS for name in dict.fromkeys((term.name, *term.aliases))]
    repeated = {name for name in names if names.count(name) > 1}
    assert repeated <= {"fisher", "hessian"}  # a value of an option and the name of the matrix
    for term in TERMS:
        assert term.meaning.endswith(".")
        assert not term.reading or term.reading.endswith(".")
