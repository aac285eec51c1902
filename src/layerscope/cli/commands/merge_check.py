"""``layerscope merge-check``: how the updates of fine-tuned models relate, and whether their mean works."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.options import SEVERITIES, layers_option, selectors
from layerscope.cli.output import check_outputs, destination

FORMATS = ("table", "json")


@click.command("merge-check")
@click.argument("base")
@click.argument("tuned", nargs=-1, required=True, metavar="A B…")
@layers_option
@click.option(
    "--no-spectra", is_flag=True, help="Leave out the overlap of singular vectors, and run at the speed of reading."
)
@click.option(
    "--model",
    metavar="M:NET",
    help="Function of a Python module that returns a PyTorch model of the architecture; needs --data.",
)
@click.option(
    "--data",
    metavar="M:TEST",
    help="Function of a Python module that returns inputs and labels: measure the loss of the base, of every model and "
    "of their mean on them.",
)
@click.option(
    "--emit",
    type=click.Choice(["mergekit"]),
    help="Print a configuration for mergekit instead of the result: a linear mean, or TIES if many signs conflict.",
)
@click.option(
    "--fail-on", type=click.Choice(SEVERITIES), help="Exit with code 1 if there are findings of this severity or above."
)
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
@click.option("--output", "-o", metavar="FILE", help="Write the result to this file instead of stdout.")
@click.option("--format", "-f", "format_", type=click.Choice(FORMATS), default="table", show_default=True,
              help="File format in which the result is printed.")  # fmt: skip
def merge_check(base: str, tuned: tuple[str, ...], **options: Any) -> int:
    """Report how the updates of fine-tuned models relate, and with data whether their mean works.

    BASE is the model from which A, B and so on were fine-tuned. Prints the cosines of their updates, the share of
    entries with conflicting signs, and how much of the updates remains in the mean, for the model and by block.

    \b
    Examples:
      layerscope merge-check base.safetensors a.safetensors b.safetensors
      layerscope merge-check base/ a/ b/ --emit mergekit -o merge.yaml
      layerscope merge-check base.pt a.pt b.pt --model mine:build --data mine:test
    """
    from layerscope.audits import merge_check as audit
    from layerscope.records.findings import SEVERITIES as ORDER
    from layerscope.views import merge_check as view
    from layerscope.views import table
    from layerscope.views.recipes import mergekit

    check_outputs(options, (base, *tuned))
    if bool(options["model"]) != bool(options["data"]):
        raise click.UsageError("--model and --data belong together: give both, or neither")
    evaluate = _make_evaluator(options) if options["model"] else None
    result = audit.merge_check(
        base, *tuned, layers=selectors(options["layers"]), spectra=not options["no_spectra"], evaluate=evaluate
    )
    with destination(options["output"]) as stream:
        if options["emit"]:
            stream.write(mergekit.make(result))
        elif options["format_"] == "json":
            stream.write(view.to_json(result))
        else:
            view.print_merge(result, table.console_for(stream))
    limit = options["fail_on"]
    return int(bool(limit) and any(ORDER.index(f.severity) >= ORDER.index(limit) for f in result.findings))


def _make_evaluator(options: dict[str, Any]) -> Any:
    from layerscope.cli.user_objects import call_or_get
    from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator

    return TorchEvaluator(call_or_get(options["model"]), call_or_get(options["data"]))
