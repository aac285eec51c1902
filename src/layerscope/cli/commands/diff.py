"""``layerscope diff``: what changed between a model and its base."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.options import SEVERITIES, VERDICT_FORMATS, FormatChoice, layers_option, selectors
from layerscope.cli.output import check_outputs, destination, exit_code, progress_bar, save_report, write_reports

EMITTED = ("peft", "unfreeze")


@click.command()
@click.argument("base")
@click.argument("tuned", nargs=-1, required=True, metavar="TUNED…")
@layers_option
@click.option(
    "--adapter", metavar="FOLDER", help="A LoRA adapter that should be merged into TUNED: measure whether it is."
)
@click.option(
    "--no-spectra",
    is_flag=True,
    help="Measure only the size of each change, at the speed of reading: no ranks, no intruder dimensions.",
)
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
              help="Number of changed tensors that are listed.")  # fmt: skip
@click.option("--all", "all_", is_flag=True, help="List every changed tensor instead of the first ones.")
@click.option(
    "--sort",
    type=click.Choice(["change", "model", "rank", "intruders"]),
    default="change",
    show_default=True,
    help="Order of the list: by relative change, as in the model, by rank, or by intruder dimensions.",
)
@click.option(
    "--emit",
    type=click.Choice(EMITTED),
    help="Print a file for another tool instead of the result: peft writes a LoraConfig with the ranks that the update "
    "needs, unfreeze a list of the parameters that changed.",
)
@click.option(
    "--model", metavar="M:NET", help="Function of a Python module that returns a PyTorch model of the architecture."
)
@click.option("--data", metavar="M:TRAIN", help="Function that returns training inputs and labels: measure the loss "
              "of BASE and TUNED on them; needs --model.")  # fmt: skip
@click.option("--held-out", metavar="M:TEST", help="Function that returns held-out inputs and labels: measure the loss "
              "on them too.")  # fmt: skip
@click.option(
    "--by-block",
    is_flag=True,
    help="With --data, put back the tensors of each block to those of BASE, one block at a time, and measure the loss.",
)
@click.option("--engine", default="threads", show_default=True, metavar="NAME",
              help="Engine that runs the tensors: threads, serial or processes.")  # fmt: skip
@click.option(
    "--jobs", "-j", type=int, metavar="N", help="Number of tensors compared in parallel.  [default: one per core]"
)
@click.option("--save", metavar="FILE.layerscope", help="Save the result of one TUNED to this file.")
@click.option("--html", metavar="FILE", help="Write the result of one TUNED as one HTML page.")
@click.option(
    "--fail-on", type=click.Choice(SEVERITIES), help="Exit with code 1 if there are findings of this severity or above."
)
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
@click.option("--output", "-o", metavar="FILE", help="Write the result to this file instead of stdout.")
@click.option("--format", "-f", "format_", type=FormatChoice(VERDICT_FORMATS), default="table", show_default=True,
              help="File format in which the result is printed.")  # fmt: skip
def diff(base: str, tuned: tuple[str, ...], **options: Any) -> int:
    """Report what changed between BASE and each TUNED model, tensor by tensor.

    TUNED is a fine-tuned, merged, pruned, quantized or edited model, or a LoRA adapter of BASE, in any format. Prints
    what is identical, the size and rank of the update by role, the tensors that changed most, and findings such as a
    dead adapter or a merge that changed nothing.

    \b
    Examples:
      layerscope diff base.safetensors tuned.safetensors
      layerscope diff base/ adapter/ --emit peft
      layerscope diff base/ merged/ --adapter adapter/ --fail-on error
    """
    from layerscope.audits import model_diff as audit
    from layerscope.views import model_diff, table
    from layerscope.views.recipes import peft, unfreeze

    check_outputs(options, (base, *tuned))
    for name in ("save", "html", "emit"):
        if options[name] and len(tuned) > 1:
            raise click.UsageError(f"--{name} takes one TUNED, got {len(tuned)}; run the command once for each")
    evaluate = _make_evaluators(options)
    settings = {"jobs": options["jobs"]} if options["jobs"] is not None else {}
    with progress_bar(tuned[0], options["quiet"]) as progress:
        reports = audit.diff_several(
            base,
            tuned,
            layers=selectors(options["layers"]),
            adapter=options["adapter"],
            spectra=not options["no_spectra"],
            evaluate=evaluate,
            by_block=options["by_block"],
            engine=options["engine"],
            progress=progress,
            **settings,
        )
    problems = [save_report(getattr(reports[0], name), options[name]) for name in ("save", "html") if options[name]]
    if options["emit"]:
        with destination(options["output"]) as stream:
            stream.write({"peft": peft, "unfreeze": unfreeze}[options["emit"]].make(reports[0]))
    elif options["format_"] == "table":
        with destination(options["output"]) as stream:
            console = table.console_for(stream)
            if len(reports) > 1:
                model_diff.print_overview(reports, console)
            for report in reports:
                if len(reports) > 1:
                    console.print()
                top = len(report.rows) if options["all_"] else options["top"]
                model_diff.print_diff(report, console, top=top, sort=options["sort"])
    else:
        write_reports(reports, options, [])
    for problem in filter(None, problems):
        raise problem
    return exit_code(reports, options["fail_on"], may_be_empty=True)


def _make_evaluators(options: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluator for each data set that the options name."""
    named = {"train": options["data"], "held out": options["held_out"]}
    named = {name: value for name, value in named.items() if value}
    if bool(named) != bool(options["model"]) or (options["by_block"] and not named):
        raise click.UsageError("--model, --data or --held-out, and --by-block belong together: give a model and data")
    if not named:
        return {}
    from layerscope.cli.user_objects import call_or_get
    from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator

    return {name: TorchEvaluator(call_or_get(options["model"]), call_or_get(value)) for name, value in named.items()}
