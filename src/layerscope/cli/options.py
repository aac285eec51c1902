"""Options that several commands share, and their translation into arguments of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from layerscope.choices import BATCH_NORM_POLICIES, CONV_MATRICES

if TYPE_CHECKING:
    from layerscope.settings import Settings

FORMATS = ("table", "json", "jsonl", "csv", "md")
VERDICT_FORMATS = (*FORMATS, "sarif", "junit")  # for commands that report verdicts
COMPARISON_FORMATS = ("table", "json", "csv", "md", "sarif", "junit")
SEVERITIES = ("warn", "error")


class FormatChoice(click.Choice):  # type: ignore[type-arg]  # generic only in newer clicks
    """The formats of the result; ``html`` gets an error that names --html instead."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "html":
            self.fail("use --html FILE to write an HTML page; it can be combined with any --format", param, ctx)
        return super().convert(value, param, ctx)


target_argument = click.argument("target")
layers_option = click.option(
    "--layers",
    "-l",
    multiple=True,
    metavar="[-]GLOB|ID|KIND",
    help="Analyze only the layers with this name, glob, number in the table (#) or kind, e.g. conv2d. Repeat the "
    "option for more. With a leading -, leave these layers out: -l -embedding.",
)
matrix_options = (
    click.option(
        "--base",
        metavar="MODEL",
        help="Analyze the weight update W − W₀, with W₀ from this base model. If TARGET is a LoRA adapter, analyze "
        "the base model with the adapter added.",
    ),
    click.option(
        "--select",
        metavar="PART",
        help="Analyze only this part of a checkpoint, e.g. ema for the averaged copy that is skipped otherwise.",
    ),
    click.option(
        "--conv",
        type=click.Choice(CONV_MATRICES),
        help="Treat a convolution as one matrix per kernel position (slices), or as one matrix (flat).  "
        "[default: slices]",
    ),
    click.option(
        "--no-pool",
        is_flag=True,
        help="Give every kernel position, group, expert or head a row of its own, instead of one row per layer with "
        "all their eigenvalues.",
    ),
    click.option(
        "--per-head",
        is_flag=True,
        help="Split attention projections into one matrix per head (rows of their own with --no-pool).",
    ),
    click.option(
        "--intra",
        is_flag=True,
        help="Analyze the products of consecutive dense layers, W₂W₁, instead of single layers.",
    ),
    click.option(
        "--stacked",
        is_flag=True,
        help="Analyze the whole model as one matrix: its layers, each as (W − median) / median absolute deviation, "
        "padded with zeros to the same width and stacked.",
    ),
)
output_options = (
    click.option("--output", "-o", metavar="FILE", help="Write the result to this file instead of stdout."),
    click.option(
        "--columns", metavar="A,B,…", help="Show these columns in the table, CSV or Markdown. Use 'help' to list them."
    ),
)


def add_matrix_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose which matrices of a model are analyzed."""
    for option in reversed(matrix_options):
        command = option(command)
    return command


def add_output_options(formats: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that choose the format and the destination of the result."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(output_options):
            command = option(command)
        choice = FormatChoice(formats)
        option = click.option(
            "--format",
            "-f",
            "format_",
            type=choice,
            default="table",
            show_default=True,
            help="File format in which the result is printed.",
        )
        return option(command)

    return add


def settings_of(target: str, options: dict[str, Any]) -> Settings | None:
    """Build the settings from the options; a saved report keeps its own settings unless an option changes them."""
    from layerscope.persistence import report_file
    from layerscope.settings import Settings

    saved = report_file.load(target).settings if report_file.is_report(target) else None
    base = saved or Settings()
    if options["weightwatcher"]:
        base = Settings.weightwatcher()
    names = (
        "min_evals", "max_evals", "jobs", "seed", "max_cost", "shuffles", "window", "fix_fingers", "against",
        "optimizer",
    )  # fmt: skip
    changes = {name: options[name] for name in names if options.get(name) is not None}
    flags = ("randomize", "vectors", "inverse", "evidence")
    changes |= {name: True for name in flags if options[name]} | matrix_settings(options)
    if options["shuffles"] is not None and not (options["randomize"] or base.randomize):
        raise click.UsageError("--shuffles needs --randomize: add --randomize, or remove --shuffles")
    if saved is not None:
        saved.check_measured(changes)
    return base.changed(**changes)


def matrix_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Translate the options that ``add_matrix_options`` adds into settings."""
    changes: dict[str, Any] = {"conv": options["conv"]} if options["conv"] else {}
    if options["no_pool"]:
        changes["pool"] = False
    return changes | ({"per_head": True} if options["per_head"] else {})


def arrangement_options(options: dict[str, Any]) -> dict[str, Any]:
    """Select the options that ``analyze``, ``describe`` and ``plan`` take as arguments (base, select, …)."""
    return {
        name: options[name]
        for name in ("base", "select", "intra", "stacked", "canonical")
        if options.get(name) not in (None, False)
    }


def selectors(layers: tuple[str, ...]) -> list[str] | None:
    """Turn the values of --layers into the library's argument; None selects every layer."""
    return list(layers) or None


def list_models(target: str) -> list[str]:
    """List the models in a target: the target itself, or its parts if it contains several models."""
    from layerscope.persistence import report_file
    from layerscope.sources import opening

    saved = report_file.is_report(target) or report_file.is_history(target)
    return [target] if saved else [str(part) for part in opening.models(target).values()]


def evaluation_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the arguments and options of every command that evaluates a loss."""
    for option in reversed(
        (
            click.argument("build", metavar="PACKAGE.MODULE:FUNCTION"),
            click.argument("models", nargs=-1, required=True, metavar="MODEL…"),
            click.option(
                "--data",
                required=True,
                metavar="PACKAGE.MODULE:NAME",
                help="Evaluation data: a pair (x, y), batches of pairs, or a function that returns either.",
            ),
            click.option(
                "--loss",
                default="cross_entropy",
                show_default=True,
                help="Loss function: cross_entropy, mse (½‖f − y‖², summed over the outputs), or a function "
                "PACKAGE.MODULE:FUNCTION of (outputs, labels) that returns the loss of each example.",
            ),
            click.option(
                "--bn",
                type=click.Choice(BATCH_NORM_POLICIES),
                default="recompute",
                show_default=True,
                help="Batch-norm statistics between models: recomputed on the inputs of --calibrate, taken from each "
                "batch, interpolated like weights, or kept from the model at the start of the line.",
            ),
            click.option(
                "--calibrate",
                metavar="PACKAGE.MODULE:NAME",
                help="Inputs x, if possible from the training data, on which --bn recompute recomputes the "
                "statistics.  [default: the first 512 examples of --data]",
            ),
            click.option(
                "--repair",
                is_flag=True,
                help="Between models, rescale the hidden units of layers without a batch norm to the mean and "
                "standard deviation that they have in the two models (REPAIR, Jordan et al. 2022).",
            ),
            click.option(
                "--forward",
                metavar="PACKAGE.MODULE:FUNCTION",
                help="Function (model, x) → output, for models that are not called as model(x).",
            ),
            click.option(
                "--examples",
                type=int,
                metavar="N",
                help="Evaluate on N random examples, the same share of each class.  [default: all]",
            ),
            click.option(
                "--device", metavar="NAME", help="Torch device that runs the evaluation, e.g. cuda.  [default: cpu]"
            ),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
            click.option("--html", metavar="FILE", help="Write the result as one HTML page."),
            click.option("--output", "-o", metavar="FILE", help="Draw the result into a .png, .svg or .pdf file."),
            click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar."),
        )
    ):
        function = option(function)
    return function


def engine_option(function: Callable[..., int]) -> Callable[..., int]:
    """Add the option that chooses the engine for independent points."""
    help_ = "Engine that evaluates points in parallel: threads or processes.  [default: one point after another]"
    return click.option("--engine", metavar="NAME", help=help_)(function)
