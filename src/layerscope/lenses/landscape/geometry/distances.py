"""How far models are from each other in parameter space, and how far fresh initialisation alone would put them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.landscape.alignment.canonical_form import canonical
from layerscope.lenses.landscape.alignment.weight_matching import align
from layerscope.lenses.landscape.geometry.expected_at_initialization import (
    INITS,
    expected_squared_distance,
    input_counts,
)
from layerscope.numerics import parameter_geometry
from layerscope.records.findings import Finding
from layerscope.records.landscape.distances import Distances
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Apart
from layerscope.sources.model_weights import learned_names
from layerscope.sources.several_models import Opened, named, pairs

if TYPE_CHECKING:
    from layerscope.array_types import Floats


def distances(
    models: Any,
    *,
    select: str = "learned",
    partial: bool = False,
    origin: Any = None,
    module: Any = None,
    x: Any = None,
) -> Distances:
    """Distances between any number of models, from files or live, in one pass and without a framework for files.

    :param models: two or more of what :func:`~layerscope.analyze` takes; a mapping gives them names.
    :param select: which tensors count: "learned", "weights" (two axes or more), "all" (statistics too), or a glob.
    :param partial: leave out tensors that not all have alike, and say which, instead of refusing.
    :param origin: the model that all others started from: distances from it, and cosines of the ways from it.
    :param module: a live module of the architecture, with a few inputs ``x``: distances without scale, and without
        scale and order of units, are added. All weights are held at once then.
    :raises UsageError: fewer than two models, or other tensors in them.
    """
    given = named(models)
    without = _without(given, module, x) if module is not None else {}
    count = len(given)
    every = given if origin is None else {**given, _apart_from(given): origin}
    total, drift, direct = (np.zeros((count, count)) for _ in range(3))
    by_tensor: dict[str, Floats] = {}
    lengths: dict[str, Floats] = {}
    params, expected, sizes = 0, dict.fromkeys(INITS, 0.0), {}
    with Opened(every, select, partial) as opened:
        fans = input_counts(opened.tensors)
        for name, read in opened.each():
            vectors = read[:count]
            with np.errstate(over="ignore", invalid="ignore"):
                whole = parameter_geometry.gram(read)
            if not np.isfinite(np.diagonal(whole)).all():  # a square tells without another pass
                bad = [model for model, v in zip(opened.names, read, strict=True) if not np.isfinite(_extreme(v))]
                why = f"of {', '.join(bad)} has values that are not finite" if bad else "has squares beyond float64"
                raise UsageError(f"{name} {why}")
            products = whole[:count, :count]
            squares = parameter_geometry.squared_distances(products)
            for i, j in parameter_geometry.lost(products):
                squares[i, j] = squares[j, i] = _direct(vectors[i], vectors[j])
            if origin is not None:
                drift += parameter_geometry.gram([np.asarray(v, np.float64) - read[-1] for v in vectors])
            total += products
            direct += squares
            by_tensor[name], lengths[name] = squares, np.diagonal(products).copy()
            params += vectors[0].size
            sizes[name] = opened.tensors[name].shape
            for init in INITS:
                expected[init] += expected_squared_distance(opened.tensors[name], init, fans)
        named_origin = "" if origin is None else str(origin) if isinstance(origin, str | PurePath) else "the origin"
        found = Distances(
            opened.names[:count], select, params, by_tensor, lengths, total, direct,
            {init: math.sqrt(value) for init, value in expected.items()}, opened.left_out, without, sizes,
            named_origin, drift,
        )  # fmt: skip
    return replace(found, findings=judge_distances(found))


def judge_distances(found: Distances) -> tuple[Finding, ...]:
    """LS306 and LS307."""
    symmetric = found.matrix("symmetric")
    apart = [
        Apart((a, b), float(symmetric[i, j]), found.parts(a, b)[0], found.share_above_chance(i, j))
        for i, j in pairs(len(found.names))
        for a, b in [(found.names[i], found.names[j])]
    ]
    return judge_landscape(apart=tuple(apart))


def _apart_from(given: Mapping[str, Any]) -> str:
    """A name that no model has."""
    name = "the origin"
    while name in given:
        name += "'"
    return name


def _without(given: Mapping[str, Any], module: Any, x: Any) -> dict[str, Floats]:
    """Symmetric distances of canonical forms, and of these aligned pair by pair: upper bounds of the true minimum."""
    if x is None:
        raise UsageError("distances without scale and order need a few inputs: x=…")
    forms = [canonical(module, model, x) for model in given.values()]
    found = {kind: np.zeros((len(forms), len(forms))) for kind in ("scale", "order")}
    for i, j in pairs(len(forms)):
        moved = align(module, forms[i], forms[j], x).weights
        for kind, other in (("scale", forms[j]), ("order", moved)):
            learned = learned_names(forms[i])
            vectors = [np.concatenate([form[name].reshape(-1) for name in learned]) for form in (forms[i], other)]
            products = parameter_geometry.gram(vectors)
            apart = _direct(vectors[0], vectors[1])
            found[kind][i, j] = found[kind][j, i] = math.sqrt(apart / max(float(np.trace(products)), 1e-300))
    return found


def _direct(a: Any, b: Any) -> float:
    """‖a − b‖², a block at a time."""
    total = 0.0
    for at in range(0, a.size, parameter_geometry.BLOCK):
        piece = slice(at, at + parameter_geometry.BLOCK)
        total += float(np.square(np.asarray(a[piece], np.float64) - np.asarray(b[piece], np.float64)).sum())
    return total


def _extreme(vector: Any) -> float:
    """A number that is finite where all entries are."""
    if not vector.size:
        return 0.0
    return sum(
        float(np.abs(np.asarray(vector[at : at + parameter_geometry.BLOCK], np.float64)).max())
        for at in range(0, vector.size, parameter_geometry.BLOCK)
    )
