"""``layerscope quantize plan``: the format of every tensor under a budget."""

from __future__ import annotations

import re
from typing import Any

import click

from layerscope.cli.live_options import live_of, live_options
from layerscope.cli.options import layers_option, selectors
from layerscope.cli.output import check_outputs, destination, steps_bar

SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kMGT]?B)$", re.IGNORECASE)
UNITS = {"b": 1e-9, "kb": 1e-6, "mb": 1e-3, "gb": 1.0, "tb": 1e3}
EMITTED = ("llama.cpp", "llm-compressor", "json")


@click.command("plan")
@click.argument("model_path", metavar="MODEL")
@live_options
@click.option("--bits", type=float, metavar="B", help="Budget: mean bits per weight, with all scales.")
@click.option("--size", metavar="2.1GB", help="Budget: size of the planned tensors.")
@click.option(
    "--formats",
    metavar="A,B,…",
    help="Candidate formats: q2_k to q6_k, q4_0, q5_0, q8_0, int2 to int8 (groups of 128, or int4-g32), f16, bf16.  "
    "[default: those of --emit, otherwise int2-g32 to int8-g32]",
)
@layers_option
@click.option(
    "--measure",
    is_flag=True,
    help="Also measure the damage of the plan and of each single format, on held-out examples.",
)
@click.option(
    "--store",
    metavar="FILE",
    help="Keep the predicted damages in this file: another budget or an interrupted run continues from it.",
)
@click.option("--emit", type=click.Choice(EMITTED), help="Print a file for another tool instead of the result.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
              help="Number of tensors that are listed.")  # fmt: skip
@click.option("--html", metavar="FILE", help="Write the result as one HTML page.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the random draws of labels.")
@click.option("--output", "-o", metavar="FILE", help="Write the result to this file instead of stdout.")
@click.option("--format", "-f", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="File format in which the result is printed.")  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
def plan(model_path: str, **options: Any) -> int:
    """Choose a format for every weight of MODEL so that the predicted damage is smallest under a budget.

    MODEL is a folder of transformers, a GGUF file, or a name for the model that --model returns.

    \b
    Examples:
      layerscope quantize plan folder/ --data texts.txt --bits 4.5 --measure
      layerscope quantize plan folder/ --data texts.txt --size 2.1GB --emit llama.cpp -o types.txt
    """
    from layerscope.audits.quantization_plan import quantization_plan
    from layerscope.settings import Settings
    from layerscope.sources.quantization.weight_formats import FAMILIES, format_named
    from layerscope.views import quantization as view
    from layerscope.views import table
    from layerscope.views.recipes import llama_cpp, llm_compressor

    check_outputs(options, (model_path,))
    if (options["bits"] is None) == (options["size"] is None):
        raise click.UsageError("give one budget: --bits 4.5 or --size 2.1GB")
    gigabytes = _gigabytes(options["size"]) if options["size"] else None
    family = FAMILIES.get(options["emit"] or "", FAMILIES["int"])
    formats = [word.strip() for word in options["formats"].split(",")] if options["formats"] else family
    for name in formats:
        format_named(name)
    live = live_of(model_path, options)
    if live is None:
        raise click.UsageError("a plan needs examples: give --data texts.txt, or --model M:NET and --data M:BATCHES")
    with steps_bar("quantize", options["quiet"]) as progress:
        result = quantization_plan(
            model_path, live, bits=options["bits"], gigabytes=gigabytes, formats=formats,
            layers=selectors(options["layers"]), draws=options["draws"], measure=options["measure"],
            store=options["store"], settings=Settings(seed=options["seed"]), progress=progress,
        )  # fmt: skip
    if options["html"]:
        result.html(options["html"])
    recipes: dict[str, Any] = {"llama.cpp": llama_cpp.make, "llm-compressor": llm_compressor.make, "json": view.to_json}
    with destination(options["output"]) as stream:
        if options["emit"] or options["format_"] == "json":
            stream.write(recipes[options["emit"] or "json"](result))
        else:
            view.print_plan(result, table.console_for(stream), top=options["top"])
    return 0


def _gigabytes(text: str) -> float:
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise click.UsageError(f"--size takes a number and a unit, such as 2.1GB or 800MB, not {text!r:.40}")
    return float(match["number"]) * UNITS[match["unit"].lower()]
