"""The command line: click → api → views → exit code.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 fine, 1 findings at or above --fail-on, 2 usage,
3 target unreadable or refused, 4 done but some layers failed, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import click

from layerscope.cli.conditioning import conditioning
from layerscope.cli.experiment import experiment
from layerscope.cli.history import history
from layerscope.cli.landscape import distances, landscape
from layerscope.cli.options import (
    COMPARED,
    FINGERS,
    FORMATS,
    JUDGED,
    SEVERITIES,
    arrangement,
    each_model,
    layers_option,
    matrix_settings,
    selectors,
    settings_of,
    target_argument,
    with_matrices,
    with_output,
)  # fmt: skip
from layerscope.cli.output import (
    check_outputs,
    chosen_columns,
    destination,
    exit_code,
    progress_bar,
    save_report,
    together,
    write_reports,
)
from layerscope.cli.plot import plot
from layerscope.cli.watch import watch
from layerscope.errors import LayerscopeError, UnknownName, UsageError

if TYPE_CHECKING:
    from layerscope.report import Report

INTERRUPTED = 130


class Commands(click.Group):
    """The commands; a target given in their place is told where it belongs."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        asked = args[0]
        if ctx.resilient_parsing or asked.startswith("-") or self.get_command(ctx, asked):
            return super().resolve_command(ctx, args)
        if "://" in asked or os.path.exists(asked):
            raise UsageError(f"{asked} is no command; did you mean: layerscope analyze {shlex.quote(asked)}")
        raise UnknownName("command", asked, self.list_commands(ctx))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="layerscope")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """What is wrong with a neural network, layer by layer, without its data.

    \b
    TARGET is a model's file or folder (safetensors, torch, GGUF, Keras, ONNX, TensorFlow, Flax, …), a saved report,
    a hub id in the local cache, or a URL of a store.
    First steps:   layerscope demo
                   layerscope analyze model.safetensors
    """


@cli.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@layers_option
@with_matrices
@click.option("--min-evals", type=int, metavar="N", help="Fewest eigenvalues for a tail fit.  [default: 50]")
@click.option("--max-evals", type=int, metavar="N", help="Skip layers with more, and say so.")
@click.option("--evidence", is_flag=True, help="Bootstrap interval, goodness of fit, likelihood ratios (slower).")
@click.option("--randomize", is_flag=True, help="Compare with shuffles of each layer: rand_distance, traps.")
@click.option("--shuffles", type=int, metavar="N", help="How many.  [default: 2 to 5]")
@click.option("--mp", is_flag=True, help="Show the Marchenko–Pastur columns.")
@click.option("--vectors", is_flag=True, help="Localisation of the eigenvectors (slower).")
@click.option("--window", type=int, metavar="N", help="FARMS: α over 2N×N windows; 100 in the paper.")
@click.option("--inverse", is_flag=True, help="The spectrum of 1/λ.")
@click.option("--fix-fingers", type=click.Choice(FINGERS), help="Clip fingers, or search xmin at the histogram's peak.")
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
@with_output(JUDGED)
def analyze(targets: tuple[str, ...], **options: Any) -> int:
    """Measure and judge every layer of each TARGET."""
    columns = chosen_columns(options["columns"])
    check_outputs(options, targets)
    if options["dry_run"]:
        _dry_run(targets, options)
        return 0
    if options["save"] and len(targets) > 1:
        raise click.UsageError("--save takes the report of one TARGET")
    reports: list[Report] = []
    try:
        reports.extend(_analyze(model, options) for target in targets for model in each_model(target))
    except BaseException:
        if reports:  # what is done is not lost
            write_reports(reports, options, columns)
        raise
    if options["save"] and len(reports) > 1:
        write_reports(reports, options, columns)
        raise click.UsageError(f"--save takes the report of one model, {targets[0]} has {len(reports)}")
    problem = save_report(reports[0].save, options["save"]) if options["save"] else None
    problem = (save_report(together(reports).html, options["html"]) if options["html"] else None) or problem
    write_reports(reports, options, columns)
    if problem is not None:
        raise problem
    return exit_code(reports, options["fail_on"])


@cli.command()
@click.argument("targets", nargs=-1, required=True, metavar="A B [C…]")
@layers_option
@click.option("--no-distances", is_flag=True, help="Only spectra; do not read both models' weights again.")
@click.option("--min-evals", type=int, metavar="N", help="Fewest eigenvalues for a tail fit.  [default: 50]")
@click.option("--engine", metavar="NAME", help="threads, serial or processes.  [default: threads]")
@click.option("--jobs", "-j", type=int, metavar="N", help="Layers at once.  [default: one per core]")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no messages.")
@click.option("--verbose", "-v", is_flag=True, help="Name every layer that only one model has.")
@click.option("--format", "-f", "format_", type=click.Choice(COMPARED), default="table", show_default=True)
@click.option("--output", "-o", metavar="FILE", help="Write there instead of to stdout.")
@click.option("--html", metavar="FILE", help="Write the comparison as one HTML page.")
def compare(targets: tuple[str, ...], **options: Any) -> int:
    """Several models side by side. Layers are matched by name."""
    from layerscope import api
    from layerscope.views import comparison, markdown, table

    check_outputs(options, targets)
    settings = {name: options[name] for name in ("min_evals", "jobs") if options[name] is not None}
    with progress_bar(" ".join(targets), options["quiet"]) as progress:
        found = api.compare(
            *targets,
            layers=selectors(options["layers"]),
            distances=not options["no_distances"],
            engine=options["engine"],
            progress=progress,
            **settings,
        )
    problem = save_report(found.html, options["html"]) if options["html"] else None
    with destination(options["output"]) as stream:
        if options["format_"] == "table":
            comparison.show(found, table.console_for(stream), verbose=options["verbose"])
        else:
            write = {"json": comparison.to_json, "csv": comparison.to_csv, "md": markdown.comparison_to_markdown}
            stream.write(write[options["format_"]](found))
    if problem is not None:
        raise problem
    return exit_code(list(found.reports), None)


@cli.command()
@target_argument
@layers_option
@with_matrices
@with_output(FORMATS)
def describe(target: str, layers: tuple[str, ...], **options: Any) -> int:
    """Every tensor of TARGET: sizes, and analysed or why not."""
    from layerscope import api
    from layerscope.views import frame, table

    columns = chosen_columns(options["columns"])
    check_outputs(options, [target])
    chosen: dict[str, Any] = {"layers": selectors(layers), **arrangement(options), **matrix_settings(options)}
    reports = [api.describe(part, **chosen) for part in each_model(target)]
    if options["format_"] == "table":
        with destination(options["output"]) as stream:
            for report in reports:
                table.show_description(report, table.console_for(stream), columns=columns)
    else:
        write_reports(reports, options, columns or [*frame.SIZES, "how"])
    return 0


@cli.command()
@click.argument("code")
def explain(code: str) -> int:
    """What a verdict (LS101) or a column (alpha) means."""
    from layerscope import registry
    from layerscope.errors import UnknownName

    known = {**registry.plugins("metrics"), **registry.plugins("rules")}
    labels = {plugin.meta["label"]: plugin for plugin in registry.plugins("metrics").values()}
    from layerscope.views.frame import ALIASES

    code = ALIASES.get(code, code)
    plugin = known.get(code) or known.get(code.upper()) or labels.get(code)
    if plugin is None:
        raise UnknownName("verdict or column", code, known)
    from layerscope.views.explain import explanation
    from layerscope.views.table import console_for

    console_for(sys.stdout).print(explanation(plugin))
    return 0


@cli.command()
def plugins() -> int:
    """Every source, fit, metric, rule and engine, with its file."""
    from layerscope import registry
    from layerscope.views.table import console_for, plugin_table

    console = console_for(sys.stdout)
    for kind in registry.PACKAGES:
        console.print(plugin_table(kind, list(registry.plugins(kind).values())))
    return 0


cli.add_command(plot)
cli.add_command(conditioning)
cli.add_command(history)
cli.add_command(distances)
cli.add_command(landscape)
cli.add_command(watch)
cli.add_command(experiment)


@cli.command()
@click.pass_context
def demo(context: click.Context) -> int:
    """Analyse two small networks that the package carries."""
    from layerscope import api
    from layerscope.demo import NETWORKS, STORY, closing
    from layerscope.views import table

    console = table.console_for(sys.stdout)
    console.print(STORY)
    reports = []
    for path in NETWORKS:
        report = api.analyze(path)
        reports.append(report)
        table.show(report, console)
        console.print()
    table.side_by_side(reports, console)
    console.print(closing(reports))
    return 0


def main() -> None:
    """Run the command line and exit: the one seam from errors to messages and codes."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    sys.warnoptions.append("ignore:resource_tracker")  # workers interrupted as they start; the system frees the rest
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no α shows ? instead of failing
    try:
        with cli.make_context("layerscope", sys.argv[1:] or ["--help"]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        code = _complain(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        code = _complain("interrupted; nothing is still running", INTERRUPTED)
        sys.stdout.flush()
        if any(thread.daemon for thread in threading.enumerate()):
            os._exit(code)  # a thread inside LAPACK would outlive the library that it computes with
    except LayerscopeError as error:
        if debug:
            traceback.print_exc()
        code = _complain(str(error), error.exit_code)
    except OSError as error:
        gone = isinstance(error, BrokenPipeError)  # the reader has gone: no more to say
        code = 0 if gone else _complain(f"cannot write to stdout: {error.strerror or error}", 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError:
        code = _complain("not enough memory; try --jobs 1, or --max-cost", 3)
    except Exception as error:
        if debug:
            raise
        code = _complain(f"a bug in layerscope: {type(error).__name__}: {error} (--debug shows where)", 70)
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    from layerscope.views.text import printable

    print(f"layerscope: {printable(message, 500)}", file=sys.stderr)
    return code


def _analyze(target: str, options: dict[str, Any]) -> Report:
    from layerscope import api

    with progress_bar(target, options["quiet"]) as progress:
        return api.analyze(
            target,
            layers=selectors(options["layers"]),
            **arrangement(options),
            settings=settings_of(target, options),
            engine=options["engine"],
            progress=progress,
        )


def _dry_run(targets: tuple[str, ...], options: dict[str, Any]) -> None:
    from layerscope import api
    from layerscope.views import store
    from layerscope.views.table import console_for, plan_table

    console = console_for(sys.stdout)
    for target in [model for each in targets for model in each_model(each)]:
        if store.is_report(target):
            console.print(f"{target}: a saved report; judging it again touches no matrix")
            continue
        settings = settings_of(target, options)
        jobs, idle = api.plan(target, layers=selectors(options["layers"]), **arrangement(options), settings=settings)
        console.print(plan_table(target, jobs, idle))


if __name__ == "__main__":
    main()
