"""``layerscope analyze``."""

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

if TYPE_CHECKING:
    from layerscope.records.report import Report


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@layers_option
@add_matrix_options
@click.option("--min-evals", type=int, metavar="N", help="Fewest eigenvalues for a tail fit.  [default: 50]")
@click.option("--max-evals", type=int, metavar="N", help="Skip layers with more, and say so.")
@click.option("--evidence", is_flag=True, help="Bootstrap interval, goodness of fit, likelihood ratios (slower).")
@click.option("--randomize", is_flag=True, help="Compare with shuffles of each layer: rand_distance, traps.")
@click.option("--shuffles", type=int, metavar="N", help="How many.  [default: 2 to 5]")
@click.option("--mp", is_flag=True, help="Show the Marchenko–Pastur columns.")
@click.option("--vectors", is_flag=True, help="Localisation of the eigenvectors (slower).")
@click.option("--window", type=int, metavar="N", help="FARMS: α over 2N×N windows; 100 in the paper.")
@click.option("--inverse", is_flag=True, help="The spectrum of 1/λ.")
@click.option(
    "--fix-fingers", type=click.Choice(FINGER_FIXES), help="Clip fingers, or search xmin at the histogram's peak."
)
@click.option("--engine", metavar="NAME", help="threads, serial or processes.  [default: threads]")
@click.option("--jobs", "-j", type=int, metavar="N", help="Layers at once.  [default: one per core]")
@click.option("--seed", type=int, metavar="N", help="Of every random draw.  [default: 0]")
@click.option("--max-cost", type=float, metavar="GFLOP", help="Skip layers that cost more, and say so.")
@click.option("--weightwatcher", is_flag=True, help="The definitions of weightwatcher 0.7.7.")
@click.option("--save", metavar="FILE.layerscope", help="Save the report; it can be analysed again without the model.")
@click.option("--html", metavar="FILE", help="Write the report as one HTML page; of several TARGETs a comparison.")
@click.option("--fail-on", type=click.Choice(SEVERITIES), help="Exit with 1 on findings of this severity or above.")
@click.option("--dry-run", is_flag=True, help="Show the plan with its cost and memory; measure nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no messages.")
@click.option("--verbose", "-v", is_flag=True, help="Every finding, and skipped tensors too.")
@add_output_options(VERDICT_FORMATS)
def analyze(targets: tuple[str, ...], **options: Any) -> int:
    """Measure and judge every layer of each TARGET."""
    columns = parse_columns(options["columns"])
    check_outputs(options, targets)
    if options["dry_run"]:
        _print_plan(targets, options)
        return 0
    if options["save"] and len(targets) > 1:
        raise click.UsageError("--save takes the report of one TARGET")
    reports: list[Report] = []
    try:
        reports.extend(_analyze(model, options) for target in targets for model in list_models(target))
    except BaseException:
        if reports:  # what is done is not lost
            write_reports(reports, options, columns)
        raise
    if options["save"] and len(reports) > 1:
        write_reports(reports, options, columns)
        raise click.UsageError(f"--save takes the report of one model, {targets[0]} has {len(reports)}")
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
    from layerscope.views.table import console_for, plan_table

    console = console_for(sys.stdout)
    for model in [model for target in targets for model in list_models(target)]:
        if report_file.is_report(model):
            console.print(f"{model}: a saved report; judging it again touches no matrix")
            continue
        settings = settings_of(model, options)
        jobs, idle = analysis.plan(
            model, layers=selectors(options["layers"]), **arrangement_options(options), settings=settings
        )
        console.print(plan_table(model, jobs, idle))
