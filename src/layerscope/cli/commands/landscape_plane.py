"""``layerscope landscape plane``: loss on a plane through three models or around one."""

from __future__ import annotations

from typing import Any

import click

from layerscope.choices import DIRECTION_NORMS
from layerscope.cli.landscape_output import (
    build_evaluator,
    check_metric,
    points_bar,
    print_result,
    write_files,
)
from layerscope.cli.options import engine_option, evaluation_options
from layerscope.cli.user_objects import import_object
from layerscope.errors import UsageError


@click.command()
@evaluation_options
@click.option(
    "--u",
    type=(float, float, int),
    help="First value, last value and number of points of the first axis.  [default: -0.5 1.5 21; around one: -1 1 21]",
)
@click.option(
    "--v",
    type=(float, float, int),
    help="First value, last value and number of points of the second axis.  [default: as --u]",
)
@click.option(
    "--store",
    metavar="FILE",
    help="Save each finished part to this file; the same call resumes from it after an interruption.",
)
@click.option("--metric", default="", help="Metric that the plot shows, e.g. loss.  [default: accuracy]")
@click.option(
    "--directions",
    type=click.Choice((*DIRECTION_NORMS, "hessian")),
    default="filter",
    show_default=True,
    help="Directions around one model: random ones scaled per filter, per layer, globally or not at all, or the two "
    "top eigenvectors of the Hessian.",
)
@click.option(
    "--coordinates",
    type=click.Choice(["affine", "orthonormal"]),
    default="affine",
    show_default=True,
    help="Axes of the plot: weights of the models (affine), or distances with true angles (orthonormal).",
)
@click.option("--surface", is_flag=True, help="Draw the plane as a three-dimensional surface.")
@engine_option
def plane(
    models: tuple[str, ...], u: Any, v: Any, store: str | None, metric: str, directions: str, coordinates: str,
    surface: bool, **options: Any,
) -> int:  # fmt: skip
    """Evaluate the loss on a plane through or around models.

    PACKAGE.MODULE:FUNCTION returns a PyTorch model of the architecture. Each MODEL is a file with weights for it.

    With three MODELs, the plane goes through all of them. With one, it extends from that model along two directions.
    Prints the best loss and accuracy on a grid of points. --output draws the plane, and --json prints all points.

    \b
    Examples:
      layerscope landscape plane mine:build a.pt b.pt c.pt --data mine:test -o plane.png
      layerscope landscape plane mine:build a.pt --data mine:test --directions hessian
    """
    from layerscope.lenses.landscape.geometry.directions import plane_around
    from layerscope.lenses.landscape.geometry.lines_and_planes import plane as evaluate_plane
    from layerscope.views import landscape as view

    if len(models) not in (1, 3):
        raise UsageError(f"a plane needs three models, or one to lie around, got {len(models)}")
    evaluate, names = build_evaluator(models, len(models), options)
    check_metric(metric, evaluate, models[0])
    u = u or ((-1.0, 1.0, 21) if len(models) == 1 else (-0.5, 1.5, 21))
    arguments: Any = {"u": u, "v": v or u, "store": store, "engine": options["engine"]}
    if len(models) == 1:
        axes = _steepest_directions(evaluate, models[0], options) if directions == "hessian" else directions
        with points_bar("plane", options["quiet"]) as tick:
            result = plane_around(models[0], evaluate, directions=axes, progress=tick, **arguments)
    else:
        with points_bar("plane", options["quiet"]) as tick:
            a, b, c = models
            result = evaluate_plane(a, b, c, evaluate, names=(names[0], names[1], names[2]), progress=tick, **arguments)
    print_result(result.to_dict(), view.plane_text(result), options)
    write_files(result, options, lambda: result.plot(metric, coordinates=coordinates, surface=surface))
    return 0


def _steepest_directions(evaluate: Any, model: str, options: dict[str, Any]) -> list[Any]:
    """Compute the two top eigenvectors of the Hessian at a model, each of length 1."""
    from copy import deepcopy

    from layerscope.lenses.learning_statistics.curvature import curvature
    from layerscope.sources.model_weights import load_into, weights_of

    net, loss = deepcopy(evaluate.model).requires_grad_(True), options["loss"]
    load_into(net, weights_of(model))
    data = evaluate.x.contiguous(), evaluate.y
    top_eigenpairs = curvature(net, data, import_object(loss) if ":" in loss else loss, k=2, vectors=True)
    return [evaluate.unflat(vector) for vector in top_eigenpairs.vectors]
