"""``layerscope analyze``: measure the weights of models and report problems."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from layerscope.choices import FINGER_FIXES
from layerscope.cli.options import (
    SEVERITIES,
    VERDICT_FORMATS,
    add_matrix_options,
    add_output_options,
    arrangement_options,
    layers_option,
    list_models,
    selectors,
    settings_of,
)  # fmt: skip
from layerscope.cli.output import (
    check_outputs,
    combine_reports,
    exit_code,
    parse_columns,
    progress_bar,
    save_report,
    write_reports,
)
from layerscope.errors import without_secrets

if TYPE_CHECKING:
    from layerscope.records.report import Report


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@layers_option
@add_matrix_options
@click.option(
    "--min-evals",
    type=int,
    metavar="N",
    help="Fit a power law only to layers with at least N eigenvalues.  [default: 50]",
)
@click.option("--max-evals", type=int, metavar="N", help="Skip layers with more than N eigenvalues, which take long.")
@click.option(
    "--evidence",
    is_flag=True,
    help="Extend the range of α by a bootstrap, test the goodness of fit, and compare the power "
    "law with an exponential, a lognormal and a truncated power law (slower).",
)
@click.option(
    "--randomize",
    is_flag=True,
    help="Compare each layer with random shuffles of its own entries. This finds outlier weights, which Martin and "
    "Mahoney call correlation traps, and layers that learned nothing.",
)
@click.option(
    "--shuffles",
    type=int,
    metavar="N",
    help="Number of shuffles of each layer for --randomize.  [default: 2 to 5, fewer for large layers]",
)
@click.option(
    "--mp",
    is_flag=True,
    help="Show how each spectrum differs from the Marchenko–Pastur law of a random matrix (columns mp.sr and spikes).",
)
@click.option(
    "--vectors", is_flag=True, help="Measure whether eigenvectors of WᵀW are localized in a few entries (slower)."
)
@click.option(
    "--window",
    type=int,
    metavar="N",
    help="Fit α also to windows of 2N×N entries, which removes the effect of the layer's shape (the FARMS method, "
    "whose paper uses N = 100).  [default: no windows]",
)
@click.option(
    "--canonical",
    is_flag=True,
    help="Also measure each layer in a canonical form that computes the same function: batch norms folded, hidden "
    "units balanced, WqᵀWk and WoWv of each head. Verdicts that this changes are withdrawn.",
)
@click.option(
    "--against",
    metavar="FILE",
    help="Take the usual ranges from this file, which layerscope baselines wrote for your own models.  "
    "[default: ranges of public models]",
)
@click.option(
    "--optimizer",
    metavar="NAME",
    help="Optimizer that trained the model, which chooses its usual ranges: sgd, adam, adamw or muon.",
)
@click.option(
    "--inverse",
    is_flag=True,
    help="Analyze the reciprocals 1/λ of the eigenvalues, i.e. the small ones, without verdicts.",
)
@click.option(
    "--fix-fingers",
    type=click.Choice(FINGER_FIXES),
    help="Isolated large eigenvalues (WeightWatcher's fingers) in the power-law fit: leave them out (clip_xmax), or "
    "start the fit near the peak of the histogram (xmin_peak).  [default: no special treatment]",
)
@click.option(
    "--engine", metavar="NAME", help="Engine that runs the layers: threads, serial or processes.  [default: threads]"
)
@click.option(
    "--jobs", "-j", type=int, metavar="N", help="Number of layers analyzed in parallel.  [default: one per core]"
)
@click.option("--seed", type=int, metavar="N", help="Seed for all random numbers.  [default: 0]")
@click.option(
    "--max-cost",
    type=float,
    metavar="GFLOP",
    help="Skip layers that need more than this many Gflop (see --dry-run).",
)
@click.option(
    "--weightwatcher",
    is_flag=True,
    help="Compute all metrics by the definitions of WeightWatcher 0.7.7; verdicts stay.",
)
@click.option(
    "--save",
    metavar="FILE.layerscope",
    help="Save the report to this file, which can be analyzed again without the model.",
)
@click.option("--html", metavar="FILE", help="Write the report as one HTML page; for several TARGETs, a comparison.")
@click.option(
    "--fail-on", type=click.Choice(SEVERITIES), help="Exit with code 1 if there are findings of this severity or above."
)
@click.option("--dry-run", is_flag=True, help="Show the cost and memory of each layer without measuring anything.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
@click.option("--verbose", "-v", is_flag=True, help="Show every finding, and every skipped tensor with the reason.")
@add_output_options(VERDICT_FORMATS)
def analyze(targets: tuple[str, ...], **options: Any) -> int:
    """Measure every layer of each TARGET and report problems.

    Prints a table with one row per layer (power-law exponent α, scale, training phase, verdicts), the medians over all
    layers, and every verdict with its evidence. For several TARGETs, prints an overview; add -v to list their layers.

    \b
    Examples:
      layerscope analyze model.safetensors
      layerscope analyze model.safetensors --evidence --html report.html
      layerscope analyze tuned.safetensors --base base.safetensors
    """
    columns = parse_columns(options["columns"])
    check_outputs(options, targets)
    if options["dry_run"]:
        _print_plan(targets, options)
        return 0
    if options["save"] and len(targets) > 1:
        raise click.UsageError(
            f"--save takes the report of one TARGET, got {len(targets)}; save each in a call of its own"
        )
    reports: list[Report] = []
    try:
        reports.extend(_analyze(model, options) for target in targets for model in list_models(target))
    except BaseException:
        if reports:  # keep the finished reports
            write_reports(reports, options, columns)
        raise
    if options["save"] and len(reports) > 1:
        write_reports(reports, options, columns)
        raise click.UsageError(
            f"--save takes the report of one model, but {targets[0]} has {len(reports)}; name one of its parts"
        )
    problem = save_report(reports[0].save, options["save"]) if options["save"] else None
    problem = (save_report(combine_reports(reports).html, options["html"]) if options["html"] else None) or problem
    write_reports(reports, options, columns)
    if problem is not None:
        raise problem
    return exit_code(reports, options["fail_on"])


def _analyze(target: str, options: dict[str, Any]) -> Report:
    from layerscope import analysis

    with progress_bar(target, options["quiet"]) as progress:
        return analysis.analyze(
            target,
            layers=selectors(options["layers"]),
            **arrangement_options(options),
            settings=settings_of(target, options),
            engine=options["engine"],
            progress=progress,
        )


def _print_plan(targets: tuple[str, ...], options: dict[str, Any]) -> None:
    from layerscope import analysis
    from layerscope.persistence import report_file
    from layerscope.views.listings import plan_table
    from layerscope.views.table import console_for

    console = console_for(sys.stdout)
    for model in [model for target in targets for model in list_models(target)]:
        if report_file.is_report(model):
            console.print(
                f"{without_secrets(model)}: a saved report, which is judged again without reading any weights"
            )
            continue
        settings = settings_of(model, options)
        jobs, idle = analysis.plan(
            model, layers=selectors(options["layers"]), **arrangement_options(options), settings=settings
        )
        console.print(plan_table(without_secrets(model), jobs, idle))
