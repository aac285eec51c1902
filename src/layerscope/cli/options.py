"""The options that several commands share, and what they mean for the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from layerscope.choices import BATCH_NORM_POLICIES, CONV_MATRICES

if TYPE_CHECKING:
    from layerscope.settings import Settings

FORMATS = ("table", "json", "jsonl", "csv", "md")
VERDICT_FORMATS = (*FORMATS, "sarif", "junit")  # of what has verdicts
COMPARISON_FORMATS = ("table", "json", "csv", "md")
SEVERITIES = ("warn", "error")


class FormatChoice(click.Choice):  # type: ignore[type-arg]  # generic only in newer clicks
    """Formats of the result; pages and pictures are told where they are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "html":
            self.fail("a page is written beside the result: --html FILE", param, ctx)
        return super().convert(value, param, ctx)


target_argument = click.argument("target")
layers_option = click.option(
    "--layers",
    "-l",
    multiple=True,
    metavar="[-]GLOB|ID|KIND",
    help="Only these layers, or with - not these; repeatable.",
)
matrix_options = (
    click.option("--base", metavar="MODEL", help="Analyse W − W₀; of a LoRA adapter the base it is added to."),
    click.option(
        "--conv", type=click.Choice(CONV_MATRICES), help="Convolutions by kernel position, or as one flat matrix."
    ),
    click.option("--no-pool", is_flag=True, help="A row per kernel position, group, expert or head."),
    click.option("--per-head", is_flag=True, help="Attention projections head by head."),
    click.option("--intra", is_flag=True, help="Products of consecutive layers."),
    click.option("--stacked", is_flag=True, help="All layers in one matrix."),
)
output_options = (
    click.option("--output", "-o", metavar="FILE", help="Write there instead of to stdout."),
    click.option("--columns", metavar="A,B,…", help="Columns of the table, CSV or Markdown ('help' lists them)."),
)


def add_matrix_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which matrices are meant."""
    for option in reversed(matrix_options):
        command = option(command)
    return command


def add_output_options(formats: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that say how and where the result is written."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(output_options):
            command = option(command)
        choice = FormatChoice(formats)
        return click.option("--format", "-f", "format_", type=choice, default="table", show_default=True)(command)

    return add


def settings_of(target: str, options: dict[str, Any]) -> Settings | None:
    """The settings of the options; a saved report keeps its own where nothing else is asked."""
    from layerscope.persistence import report_file
    from layerscope.settings import Settings

    saved = report_file.load(target).settings if report_file.is_report(target) else None
    base = saved or Settings()
    if options["weightwatcher"]:
        base = Settings.weightwatcher()
    names = ("min_evals", "max_evals", "jobs", "seed", "max_cost", "shuffles", "window", "fix_fingers")
    changes = {name: options[name] for name in names if options[name] is not None}
    flags = ("randomize", "vectors", "inverse", "evidence")
    changes |= {name: True for name in flags if options[name]} | matrix_settings(options)
    if options["shuffles"] is not None and not (options["randomize"] or base.randomize):
        raise click.UsageError("--shuffles says how many for --randomize, which is not there")
    if saved is not None:
        saved.check_measured(changes)
    return base.changed(**changes)


def matrix_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings among the options of ``with_matrices``."""
    changes: dict[str, Any] = {"conv": options["conv"]} if options["conv"] else {}
    if options["no_pool"]:
        changes["pool"] = False
    return changes | ({"per_head": True} if options["per_head"] else {})


def arrangement_options(options: dict[str, Any]) -> dict[str, Any]:
    """What analyze, describe and plan are to make of the target."""
    return {name: options[name] for name in ("base", "intra", "stacked") if options[name] not in (None, False)}


def selectors(layers: tuple[str, ...]) -> list[str] | None:
    return list(layers) or None


def list_models(target: str) -> list[str]:
    """The target, or the parts of one that holds several models."""
    from layerscope.persistence import report_file
    from layerscope.sources import opening

    saved = report_file.is_report(target) or report_file.is_history(target)
    return [target] if saved else [str(part) for part in opening.models(target).values()]


def evaluation_options(function: Callable[..., int]) -> Callable[..., int]:
    """Arguments and options that every evaluation has."""
    for option in reversed([
        click.argument("build", metavar="PACKAGE.MODULE:FUNCTION"),
        click.argument("models", nargs=-1, required=True, metavar="MODEL…"),
        click.option("--data", required=True, metavar="PACKAGE.MODULE:NAME", help="(x, y) to evaluate, or batches."),
        click.option("--loss", default="cross_entropy", show_default=True,
                     help="cross_entropy, mse (½‖f − y‖²), or PACKAGE.MODULE:FUNCTION."),
        click.option("--bn", type=click.Choice(BATCH_NORM_POLICIES), default="recompute", show_default=True,
                     help="Statistics of batch norms at each point."),
        click.option("--calibrate", metavar="PACKAGE.MODULE:NAME", help="Training inputs that recompute them."),
        click.option("--repair", is_flag=True, help="Give units without a norm back their means and spreads (REPAIR)."),
        click.option("--forward", metavar="PACKAGE.MODULE:FUNCTION",
                     help="(model, x) → output, where it is not model(x)."),
        click.option("--examples", type=int, metavar="N", help="So many of the data, class by class."),
        click.option("--device", metavar="NAME", help="cpu, cuda, …  [default: cpu]"),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--html", metavar="FILE", help="Write one HTML page."),
        click.option("--output", "-o", metavar="FILE", help="Draw it: .png, .svg or .pdf."),
        click.option("--quiet", "-q", is_flag=True, help="No progress."),
    ]):  # fmt: skip
        function = option(function)
    return function


def engine_option(function: Callable[..., int]) -> Callable[..., int]:
    """Which engine runs the points."""
    help_ = "Pieces of it at once: threads, processes, …  [default: point after point]"
    return click.option("--engine", metavar="NAME", help=help_)(function)
