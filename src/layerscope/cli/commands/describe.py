"""``layerscope describe``: the tensors of a model, from its headers."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.options import (
    FORMATS,
    add_matrix_options,
    add_output_options,
    arrangement_options,
    layers_option,
    list_models,
    matrix_settings,
    selectors,
    target_argument,
)  # fmt: skip
from layerscope.cli.output import (
    check_outputs,
    destination,
    parse_columns,
    write_reports,
)


@click.command()
@target_argument
@layers_option
@add_matrix_options
@add_output_options(FORMATS)
def describe(target: str, layers: tuple[str, ...], **options: Any) -> int:
    """List every tensor of TARGET without reading its weights.

    Prints the kind, matrix size and number of eigenvalues of each tensor, how it is read, and why it is skipped if it
    is not analyzed.

    \b
    Example:
      layerscope describe model.safetensors
    """
    from layerscope import analysis
    from layerscope.records import layer_sizes
    from layerscope.views import table

    columns = parse_columns(options["columns"])
    check_outputs(options, [target])
    chosen: dict[str, Any] = {"layers": selectors(layers), **arrangement_options(options), **matrix_settings(options)}
    reports = [analysis.describe(part, **chosen) for part in list_models(target)]
    if options["format_"] == "table":
        with destination(options["output"]) as stream:
            for report in reports:
                table.print_description(report, table.console_for(stream), columns=columns)
    else:
        write_reports(reports, options, columns or [*layer_sizes.SIZE_COLUMNS, "how"])
    return 0
