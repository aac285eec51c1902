"""``layerscope quantize audit``: what quantization did to every tensor, and what it costs."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.live_options import live_of, live_options
from layerscope.cli.options import SEVERITIES, layers_option, selectors
from layerscope.cli.output import check_outputs, destination, steps_bar


@click.command("audit")
@click.argument("quantized")
@click.option("--base", required=True, metavar="ORIGINAL", help="The model before quantization, in any format.")
@live_options
@click.option(
    "--measure",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Also quantize the N tensors with the largest predicted damage one at a time, and all at once, and measure "
    "the damage.",
)
@layers_option
@click.option("--no-spectra", is_flag=True, help="Do not compare singular values: runs at the speed of reading.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
              help="Number of tensors that are listed.")  # fmt: skip
@click.option("--all", "all_", is_flag=True, help="List every tensor instead of the first ones.")
@click.option(
    "--sort",
    type=click.Choice(["damage", "error", "model"]),
    help="Order of the list: by damage, by relative error, or as in the model.  [default: damage with --data, "
    "otherwise error]",
)
@click.option(
    "--fail-on", type=click.Choice(SEVERITIES), help="Exit with code 1 if there are findings of this severity or above."
)
@click.option("--html", metavar="FILE", help="Write the result as one HTML page.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the random draws of labels.")
@click.option("--output", "-o", metavar="FILE", help="Write the result to this file instead of stdout.")
@click.option("--format", "-f", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="File format in which the result is printed.")  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
def audit(quantized: str, base: str, **options: Any) -> int:
    """Compare QUANTIZED with its original, tensor by tensor, in any two formats.

    Without --data it reports bits, errors and singular values, and ranks nothing: errors of weights do not tell which
    tensors cost quality. With --data it predicts the damage of each tensor.

    \b
    Examples:
      layerscope quantize audit model-Q4_K_M.gguf --base folder/
      layerscope quantize audit int8/ --base folder/ --data texts.txt --measure 5
    """
    from layerscope.audits.quantization_audit import quantization
    from layerscope.records.findings import SEVERITIES as ORDER
    from layerscope.settings import Settings
    from layerscope.views import quantization as view
    from layerscope.views import table

    check_outputs(options, (quantized, base))
    if options["measure"] and not options["data"]:
        raise click.UsageError("--measure needs --data: give examples, e.g. --data texts.txt")
    live = live_of(base, options)
    with steps_bar("quantize", options["quiet"]) as progress:
        result = quantization(
            quantized, base, live=live, measure=options["measure"], draws=options["draws"],
            layers=selectors(options["layers"]), spectra=not options["no_spectra"],
            settings=Settings(seed=options["seed"]), progress=progress,
        )  # fmt: skip
    if options["html"]:
        result.html(options["html"])
    with destination(options["output"]) as stream:
        if options["format_"] == "json":
            stream.write(view.to_json(result))
        else:
            top = len(result.tensors) if options["all_"] else options["top"]
            view.print_audit(result, table.console_for(stream), top=top, sort=options["sort"] or "")
    limit = options["fail_on"]
    return int(bool(limit) and any(ORDER.index(f.severity) >= ORDER.index(limit) for f in result.findings))
