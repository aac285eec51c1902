"""Distances between models in weight space, compared with the distance expected between untrained models."""

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
from layerscope.sources.model_weights import trainable_names
from layerscope.sources.several_models import OpenedModels, index_pairs, name_models

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
    """Measure the distances between all pairs of models, reading each tensor once; files need no framework.

    :param models: two or more models, each in any form that :func:`~layerscope.analyze` accepts; a mapping names them.
    :param select: tensors to compare: "learned", "weights" (two or more axes), "all" (also running statistics), or a
        glob pattern.
    :param partial: skip tensors that some model lacks or has in another shape, and list them, instead of raising.
    :param origin: the model from which all others were trained. Adds the distances from it, and the cosines between the
        weight updates.
    :param module: a module of the architecture. Adds distances without scale, and without scale and permutation of the
        hidden units. This holds all weights in memory at once.
    :param x: a batch of inputs for ``module``; required with it.
    :raises UsageError: if there are fewer than two models, or their tensors differ.
    """
    targets = name_models(models)
    without = _distances_of_canonical_forms(targets, module, x) if module is not None else {}
    count = len(targets)
    with_origin = targets if origin is None else {**targets, _unused_name(targets): origin}
    products, drift, squares = (np.zeros((count, count)) for _ in range(3))
    squares_by_tensor: dict[str, Floats] = {}
    lengths_by_tensor: dict[str, Floats] = {}
    params, expected, shapes = 0, dict.fromkeys(INITS, 0.0), {}
    with OpenedModels(with_origin, select, partial) as opened:
        fans = input_counts(opened.tensors)
        for name, read in opened.each():
            vectors = read[:count]
            with np.errstate(over="ignore", invalid="ignore"):
                full_gram = parameter_geometry.gram(read)
            if not np.isfinite(np.diagonal(full_gram)).all():  # the squared norms reveal NaN and infinity
                bad = [model for model, v in zip(opened.names, read, strict=True) if not np.isfinite(_sum_of_maxima(v))]
                reason = (
                    f"of {', '.join(bad)} has values that are not finite" if bad
                    else "has values too large to square in float64"
                )  # fmt: skip
                raise UsageError(f"{name} {reason}; exclude the tensor with select=")
            tensor_products = full_gram[:count, :count]
            tensor_squares = parameter_geometry.squared_distances(tensor_products)
            for i, j in parameter_geometry.unresolved_pairs(tensor_products):
                tensor_squares[i, j] = tensor_squares[j, i] = _squared_distance(vectors[i], vectors[j])
            if origin is not None:
                drift += parameter_geometry.gram([np.asarray(v, np.float64) - read[-1] for v in vectors])
            products += tensor_products
            squares += tensor_squares
            squares_by_tensor[name] = tensor_squares
            lengths_by_tensor[name] = np.diagonal(tensor_products).copy()
            params += vectors[0].size
            shapes[name] = opened.tensors[name].shape
            for init in INITS:
                expected[init] += expected_squared_distance(opened.tensors[name], init, fans)
        result = Distances(
            names=opened.names[:count],
            select=select,
            params=params,
            tensors=squares_by_tensor,
            lengths=lengths_by_tensor,
            products=products,
            squares=squares,
            expected={init: math.sqrt(value) for init, value in expected.items()},
            unlike=opened.left_out,
            without=without,
            shapes=shapes,
            origin=_origin_name(origin),
            drift=drift,
        )
    return replace(result, findings=judge_distances(result))


def _origin_name(origin: Any) -> str:
    if origin is None:
        return ""
    return str(origin) if isinstance(origin, str | PurePath) else "the origin"


def judge_distances(distances: Distances) -> tuple[Finding, ...]:
    """Apply the rules LS306 and LS307 to a set of distances."""
    symmetric = distances.matrix("symmetric")
    apart = [
        Apart((a, b), float(symmetric[i, j]), distances.parts(a, b)[0], distances.share_above_chance(i, j))
        for i, j in index_pairs(len(distances.names))
        for a, b in [(distances.names[i], distances.names[j])]
    ]
    return judge_landscape(apart=tuple(apart))


def _unused_name(targets: Mapping[str, Any]) -> str:
    """Return a name for the origin that no model has."""
    name = "the origin"
    while name in targets:
        name += "'"
    return name


def _distances_of_canonical_forms(targets: Mapping[str, Any], module: Any, x: Any) -> dict[str, Floats]:
    """Return symmetric distances of canonical forms, before and after alignment; both are upper bounds."""
    if x is None:
        raise UsageError("module= was given without x=: pass a batch of inputs as x= to run the module on")
    forms = [canonical(module, model, x) for model in targets.values()]
    matrix_by_kind = {kind: np.zeros((len(forms), len(forms))) for kind in ("scale", "order")}
    for i, j in index_pairs(len(forms)):
        aligned = align(module, forms[i], forms[j], x).weights
        trainable = trainable_names(forms[i])
        for kind, second in (("scale", forms[j]), ("order", aligned)):
            vectors = [np.concatenate([form[name].reshape(-1) for name in trainable]) for form in (forms[i], second)]
            squared_lengths = float(np.trace(parameter_geometry.gram(vectors)))
            distance = math.sqrt(_squared_distance(vectors[0], vectors[1]) / max(squared_lengths, 1e-300))
            matrix_by_kind[kind][i, j] = matrix_by_kind[kind][j, i] = distance
    return matrix_by_kind


def _squared_distance(a: Any, b: Any) -> float:
    """Compute ‖a − b‖² in float64, one block at a time to save memory."""
    total = 0.0
    for start in range(0, a.size, parameter_geometry.BLOCK_ENTRIES):
        block = slice(start, start + parameter_geometry.BLOCK_ENTRIES)
        total += float(np.square(np.asarray(a[block], np.float64) - np.asarray(b[block], np.float64)).sum())
    return total


def _sum_of_maxima(vector: Any) -> float:
    """Return a number that is finite if and only if all entries are finite."""
    if not vector.size:
        return 0.0
    return sum(
        float(np.abs(np.asarray(vector[start : start + parameter_geometry.BLOCK_ENTRIES], np.float64)).max())
        for start in range(0, vector.size, parameter_geometry.BLOCK_ENTRIES)
    )
