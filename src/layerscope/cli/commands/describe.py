"""``layerscope describe``."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.options import (
    FORMATS,
    arrangement,
    each_model,
    layers_option,
    matrix_settings,
    selectors,
    target_argument,
    with_matrices,
    with_output,
)  # fmt: skip
from layerscope.cli.output import (
    check_outputs,
    chosen_columns,
    destination,
    write_reports,
)


@click.command()
@target_argument
@layers_option
@with_matrices
@with_output(FORMATS)
def describe(target: str, layers: tuple[str, ...], **options: Any) -> int:
    """Every tensor of TARGET: sizes, and analysed or why not."""
    from layerscope import analysis
    from layerscope.records import layer_sizes
    from layerscope.views import table

    columns = chosen_columns(options["columns"])
    check_outputs(options, [target])
    chosen: dict[str, Any] = {"layers": selectors(layers), **arrangement(options), **matrix_settings(options)}
    reports = [analysis.describe(part, **chosen) for part in each_model(target)]
    if options["format_"] == "table":
        with destination(options["output"]) as stream:
            for report in reports:
                table.show_description(report, table.console_for(stream), columns=columns)
    else:
        write_reports(reports, options, columns or [*layer_sizes.SIZES, "how"])
    return 0
