"""Tables on terminals of any width: rows keep their labels, numbers are whole, long texts do not shorten the names."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

import layerscope
from layerscope.records.report import Report
from layerscope.views import comparison, landscape, side_by_side, table

WIDTHS = [60, 80, 120, 200]
CUT_NUMBER = re.compile(r"\d…|…\d*\.\d")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def convolutions(seed: int = 0) -> dict[str, np.ndarray]:
    layers = {f"features.{2 * i}.weight": random(12, 12, 3, 3, seed=seed + i) for i in range(30)}
    return {**layers, "classifier.weight": random(10, 12, seed=seed)}


def transformer() -> dict[str, np.ndarray]:
    modules = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
               "mlp.up_proj", "mlp.down_proj")  # fmt: skip
    blocks = {f"model.decoder_stack.layers.{i}.{m}.weight": random(12, 10, seed=i) for i in range(24) for m in modules}
    return {"model.embed_tokens.weight": random(60, 12), **blocks, "lm_head.weight": random(60, 12)}


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return {
        "cnn": layerscope.analyze(convolutions(), min_evals=5),
        "transformer": layerscope.analyze(transformer(), min_evals=5),
    }


@pytest.fixture(scope="module")
def checkpoints() -> list[Report]:
    found = []
    for i in range(14):
        report = layerscope.analyze(convolutions(seed=i), min_evals=5)
        found.append(report.replace(meta={**report.meta, "target": f"runs/checkpoint_epoch_{i:03d}.pt"}))
    return found


def console_of(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, color_system=None, highlight=False, emoji=False, markup=False)


def lines_of(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("model", ["cnn", "transformer"])
def test_the_table_of_layers(reports: dict[str, Report], model: str, width: int) -> None:
    console, report = console_of(width), reports[model]
    table.print_report(report, console)
    lines = lines_of(console)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if re.match(r" *\d+ [\w…]", line) and ("×" in line or "–" in line)]
    analyzed = [row for row in report.rows if not row.skipped]
    numbers = [str(row.ref.index) for row in analyzed]
    assert [line.split()[0] for line in rows[: len(analyzed)]] == numbers
    names = [line.split()[1] for line in rows[: len(analyzed)]]
    assert len(set(names)) == len(analyzed)
    for name, row in zip(names, analyzed, strict=True):
        words = set(re.split(r"[._]", row.name))
        assert all(piece in words for piece in re.split(r"[._…]", name) if piece)
    assert not [line for line in rows if CUT_NUMBER.search(line.split(maxsplit=2)[2])]
    fitted = [(row, line) for row, line in zip(analyzed, rows, strict=False) if "alpha" in row.metrics]
    assert fitted
    for row, line in fitted:
        shown = re.search(r"(\d+\.\d+) \(\d+\.\d–\d+(\.\d)?\)", line)
        assert shown
        assert float(shown[1]) == pytest.approx(row.metrics["alpha"], abs=0.051)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_with_chosen_columns_goes_on_below(reports: dict[str, Report], width: int) -> None:
    console = console_of(width)
    columns = ["name", "alpha", "D", "log_norm", "stable_rank", "num_evals", "xmin", "entropy", "N", "M", "lambda_max"]
    table.print_report(reports["cnn"], console, columns=columns)
    lines = lines_of(console)
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if line.startswith("layer ")]
    assert len(heads) == (1 if width >= 100 else 2)
    assert all(table.column_head(column) in " ".join(heads) for column in columns)
    assert sum(line.startswith("features.58") for line in lines) == len(heads)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_note_shortens_no_name(width: int) -> None:
    weights = {
        **{f"layers.{i}.weight": random(12, 10) for i in range(3)},
        "mask.indices": np.arange(600).reshape(20, 30),
    }
    console = console_of(width)
    table.print_description(layerscope.describe(weights), console)
    lines = lines_of(console)
    assert max(map(len, lines)) <= width
    assert all(any(name in line for line in lines) for name in weights)


@pytest.mark.parametrize("width", WIDTHS)
def test_fourteen_checkpoints_side_by_side(checkpoints: list[Report], width: int) -> None:
    console = console_of(width)
    side_by_side.print_overview(checkpoints, console)
    lines = lines_of(console)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("14 models side by side")
    for i, report in enumerate(checkpoints):
        (row,) = [line for line in lines if f"{i:03d}" in line.split()[0]]
        assert f"{report.summary['metrics']['alpha']['median']:.2f}" in row.split()


@pytest.mark.parametrize("width", WIDTHS)
def test_fourteen_checkpoints_compared_and_their_distances(checkpoints: list[Report], width: int) -> None:
    console = console_of(width)
    compared = layerscope.compare(*checkpoints)
    comparison.print_comparison(compared, console)
    lines = lines_of(console)
    assert max(map(len, lines)) <= width
    blocks = sum(line.startswith("layer ") for line in lines)
    assert sum(line.startswith("features.58") for line in lines) == blocks > 0
    heads = " ".join(line for line in lines if line.startswith("layer "))
    assert all(f"α {letter}" in heads for letter in compared.letters)
    matrix = console_of(width)
    landscape.print_matrix(matrix, compared.names, 1e3 * np.random.default_rng(0).random((14, 14)), "l2")
    lines = lines_of(matrix)
    assert max(map(len, lines)) <= width
    assert len({sum(name in line for line in lines) for name in compared.names}) == 1
    assert not [line for line in lines if CUT_NUMBER.search(line.partition(".pt")[2])]


def test_the_layers_that_look_random_are_named(reports: dict[str, Report]) -> None:
    weights = {f"{i}.weight": random(120, 100, seed=i) ** 3 for i in range(3)}
    console = console_of(120)
    table.print_report(layerscope.analyze({**weights, "head.weight": random(120, 100)}), console)
    lines = lines_of(console)
    assert "  LS103 looks untrained: 1 layer" in lines
    assert lines[lines.index("  LS103 looks untrained: 1 layer") + 1] == "    head.weight"
