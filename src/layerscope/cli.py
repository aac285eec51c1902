"""The command line: click → api → views → exit code.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 fine, 1 findings at or above --fail-on, 2 usage,
3 target unreadable or refused, 4 done but some layers failed, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from layerscope.errors import LayerscopeError, OutputError

if TYPE_CHECKING:
    from layerscope.api import Progress
    from layerscope.settings import Settings
    from layerscope.types import LayerReport, Report

FORMATS = ("table", "json", "jsonl", "csv", "md")
COMPARED = ("table", "json", "csv", "md")
SEVERITIES = ("warn", "error")
CONV = ("slices", "flat")
FINGERS = ("clip_xmax", "xmin_peak")
INTERRUPTED = 130
LAYERS_FAILED = 4

target_argument = click.argument("target")
layers_option = click.option(
    "--layers", "-l", multiple=True, metavar="[-]GLOB|ID|KIND", help="Only these layers, or with - not these; repeatable."
)
matrix_options = (
    click.option("--base", metavar="MODEL", help="Analyse W − W₀; of a LoRA adapter the base it is added to."),
    click.option("--conv", type=click.Choice(CONV), help="Convolutions by kernel position, or as one flat matrix."),
    click.option("--no-pool", is_flag=True, help="A row per kernel position, group, expert or head."),
    click.option("--per-head", is_flag=True, help="Attention projections head by head."),
    click.option("--intra", is_flag=True, help="Products of consecutive layers."),
    click.option("--stacked", is_flag=True, help="All layers in one matrix."),
)
output_options = (
    click.option("--format", "-f", "format_", type=click.Choice(FORMATS), default="table", show_default=True),
    click.option("--output", "-o", metavar="FILE", help="Write there instead of to stdout."),
    click.option("--columns", metavar="A,B,…", help="Columns of the table, CSV or Markdown ('help' lists them)."),
)


def with_matrices(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which matrices are meant."""
    for option in reversed(matrix_options):
        command = option(command)
    return command


def with_output(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how and where the result is written."""
    for option in reversed(output_options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="layerscope")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """What is wrong with a neural network, layer by layer, without its data.

    \b
    TARGET is a file (safetensors, torch checkpoint, npz, saved report), a folder, or a hub id in the local cache.
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
@click.option("--shuffles", type=int, metavar="N", help="How many.  [default: 3]")
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
@click.option("--fail-on", type=click.Choice(SEVERITIES), help="Exit with 1 on findings of this severity or above.")
@click.option("--dry-run", is_flag=True, help="Show the plan with its cost and memory; measure nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no messages.")
@click.option("--verbose", "-v", is_flag=True, help="Every finding, and skipped tensors too.")
@with_output
def analyze(targets: tuple[str, ...], **options: Any) -> int:
    """Measure and judge every layer of each TARGET."""
    columns = _columns(options["columns"])
    for name in ("output", "save"):
        _check_output(options[name])
    if options["dry_run"]:
        _dry_run(targets, options)
        return 0
    if options["save"] and len(targets) > 1:
        raise click.UsageError("--save takes the report of one TARGET")
    reports: list[Report] = []
    try:
        reports.extend(_analyze(target, options) for target in targets)
    except BaseException:
        if reports:  # what is done is not lost
            _write(reports, options, columns)
        raise
    problem = _save(reports[0], options["save"]) if options["save"] else None
    _write(reports, options, columns)
    if problem is not None:
        raise problem
    return _exit_code(reports, options["fail_on"])


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
def compare(targets: tuple[str, ...], **options: Any) -> int:
    """Several models side by side: layers matched by name, their distances, and what it says."""
    from layerscope import api
    from layerscope.views import comparison, table

    _check_output(options["output"])
    settings = {name: options[name] for name in ("min_evals", "jobs") if options[name] is not None}
    with _progress(" ".join(targets), options["quiet"]) as progress:
        found = api.compare(
            *targets,
            layers=_selectors(options["layers"]),
            distances=not options["no_distances"],
            engine=options["engine"],
            progress=progress,
            **settings,
        )
    with _stdout(options["output"]) as stream:
        if options["format_"] == "table":
            comparison.show(found, table.console_for(stream), verbose=options["verbose"])
        else:
            write = {"json": comparison.to_json, "csv": comparison.to_csv, "md": comparison.to_markdown}
            stream.write(write[options["format_"]](found))
    return _exit_code(list(found.reports), None)


@cli.command()
@target_argument
@layers_option
@with_matrices
@with_output
def describe(target: str, layers: tuple[str, ...], **options: Any) -> int:
    """Every tensor of TARGET: sizes, and analysed or why not."""
    from layerscope import api
    from layerscope.views import frame, table

    columns = _columns(options["columns"])
    _check_output(options["output"])
    report = api.describe(target, layers=_selectors(layers), **_arrangement(options), **_matrix_settings(options))
    if options["format_"] == "table":
        with _stdout(options["output"]) as stream:
            table.show_description(report, table.console_for(stream), columns=columns)
    else:
        _write([report], options, columns or [*frame.SIZES, "how"])
    return 0


@cli.command()
@click.argument("code")
def explain(code: str) -> int:
    """What a verdict (LS101) or a column (alpha) means: evidence, caveats, reference."""
    from layerscope import registry
    from layerscope.errors import UnknownName

    known = {**registry.plugins("metrics"), **registry.plugins("rules")}
    labels = {plugin.meta["label"]: plugin for plugin in registry.plugins("metrics").values()}
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
    for kind in registry.KINDS:
        console.print(plugin_table(kind, list(registry.plugins(kind).values())))
    return 0


@cli.command()
@click.pass_context
def demo(context: click.Context) -> int:
    """Analyse two small networks that the package carries, and say what is seen."""
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no α shows ? instead of failing
    try:
        with cli.make_context("layerscope", sys.argv[1:]) as context:
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

    with _progress(target, options["quiet"]) as progress:
        return api.analyze(
            target,
            layers=_selectors(options["layers"]),
            **_arrangement(options),
            settings=_settings(target, options),
            engine=options["engine"],
            progress=progress,
        )


def _settings(target: str, options: dict[str, Any]) -> Settings | None:
    """The settings of the options; a saved report keeps its own where nothing else is asked."""
    from layerscope.settings import Settings
    from layerscope.views import store

    base = store.load(target).settings if store.is_report(target) else Settings()
    if options["weightwatcher"]:
        base = Settings.weightwatcher()
    names = ("min_evals", "max_evals", "jobs", "seed", "max_cost", "shuffles", "window", "fix_fingers")
    changes = {name: options[name] for name in names if options[name] is not None}
    flags = ("randomize", "vectors", "inverse", "evidence")
    changes |= {name: True for name in flags if options[name]} | _matrix_settings(options)
    if options["shuffles"] is not None and not (options["randomize"] or base.randomize):
        raise click.UsageError("--shuffles says how many for --randomize, which is not there")
    return base.changed(**changes)


def _matrix_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings among the options of ``with_matrices``."""
    changes: dict[str, Any] = {"conv": options["conv"]} if options["conv"] else {}
    if options["no_pool"]:
        changes["pool"] = False
    return changes | ({"per_head": True} if options["per_head"] else {})


def _arrangement(options: dict[str, Any]) -> dict[str, Any]:
    """What analyze, describe and plan are to make of the target."""
    return {name: options[name] for name in ("base", "intra", "stacked") if options[name]}


def _selectors(layers: tuple[str, ...]) -> list[str] | None:
    return list(layers) or None


def _columns(text: str | None) -> list[str]:
    from layerscope.views import frame

    if text == "help":
        click.echo("\n".join(frame.columns()))
        raise click.exceptions.Exit(0)
    return frame.chosen([name.strip() for name in text.split(",") if name.strip()]) if text else []


def _check_output(path: str | None) -> None:
    if path is not None:
        from layerscope.views.files import check_writable

        check_writable(path)


def _save(report: Report, path: str) -> OutputError | None:
    try:
        report.save(path)
    except OutputError as error:
        return error
    return None


def _write(reports: list[Report], options: dict[str, Any], columns: list[str]) -> None:
    """Write the result; a result that cannot be written to its file goes to stdout rather than nowhere."""
    from layerscope.views import flat, json, table

    format_, output = options["format_"], options["output"]
    if format_ == "table":
        with _stdout(output) as stream:
            console = table.console_for(stream)
            for i, report in enumerate(reports):
                if i:
                    console.print()
                verbose, bulk = int(options.get("verbose", False)), bool(options.get("mp"))
                table.show(report, console, columns=columns, verbose=verbose, bulk=bulk)
            if len(reports) > 1:
                console.print()
                table.side_by_side(reports, console)
        return
    if format_ == "json":
        texts = [json.to_json(report, indent=2) for report in reports]
        text = texts[0] + "\n" if len(texts) == 1 else "[" + ",\n".join(texts) + "]\n"
    elif format_ == "jsonl":
        text = "".join(f"{line}\n" for report in reports for line in json.to_jsonl(report))
    elif format_ == "csv":
        text = flat.to_csv(reports, columns)
    else:
        text = "\n".join(flat.to_markdown(report, columns) for report in reports)
    with _stdout(output) as stream:
        stream.write(text)


@contextmanager
def _stdout(output: str | None) -> Iterator[Any]:
    """Standard output, or a buffer that becomes the file when the block ends."""
    if output is None:
        yield sys.stdout
        return
    from layerscope.views.files import write_whole

    buffer = io.StringIO()
    yield buffer
    try:
        write_whole(output, buffer.getvalue().encode("utf-8"))
    except OutputError:
        sys.stdout.write(buffer.getvalue())
        raise


def _exit_code(reports: list[Report], fail_on: str | None) -> int:
    from layerscope.types import SEVERITIES as ORDER

    if any(layer.failed for report in reports for layer in report.rows):
        return LAYERS_FAILED
    if fail_on and any(ORDER.index(f.severity) >= ORDER.index(fail_on) for report in reports for f in report.findings):
        return 1
    return 0


def _dry_run(targets: tuple[str, ...], options: dict[str, Any]) -> None:
    from layerscope import api
    from layerscope.views import store
    from layerscope.views.table import console_for, plan_table

    console = console_for(sys.stdout)
    for target in targets:
        if store.is_report(target):
            console.print(f"{target}: a saved report; judging it again touches no matrix")
            continue
        settings = _settings(target, options)
        jobs, idle = api.plan(target, layers=_selectors(options["layers"]), **_arrangement(options), settings=settings)
        console.print(plan_table(target, jobs, idle))


@contextmanager
def _progress(target: str, quiet: bool) -> Iterator[Progress | None]:
    """A bar by layer on a terminal, weighted by cost; none in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from layerscope.views.text import printable

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[layer]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", layer=printable(target, 40), total=None)

        def update(layer: LayerReport | None, cost: float, total: float) -> None:
            if layer is None:
                bar.update(task, total=total)
            else:
                bar.update(task, advance=cost, layer=printable(layer.name, 40))

        yield update


if __name__ == "__main__":
    main()
