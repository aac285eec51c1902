"""Layers whose units the tracing knows by name: fused attention, recurrent layers and group norms.

A unit of attention is a head; a unit of a recurrent layer has a row in each gate; the channels of a group norm move
within its groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerscope.lenses.landscape.alignment.hidden_units import labels_on_axis

if TYPE_CHECKING:
    from layerscope.array_types import Ints
    from layerscope.lenses.landscape.alignment.index_tracing import Call
    from layerscope.lenses.landscape.alignment.permutation_groups import UnitTrace

LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS = tuple(f"{name}_cell" for name in LAYERS)


class RecurrentLayer(NamedTuple):
    """One layer in one direction."""

    level: int  # from the inputs
    weights: Sequence[Any]  # weight_ih (gates·units, inputs), weight_hh (gates·units, units), and the biases, if any


def _recurrent_layers(call: Call) -> list[RecurrentLayer]:
    """Return the layers in the order in which they run; [] for other functions and for layers with a projection."""
    if call.name in CELLS:
        return [RecurrentLayer(0, [weight for weight in call.args[2:6] if weight is not None])]
    if call.name not in LAYERS:
        return []
    # (x, hx, weights, has_biases, layers, …, bidirectional, batch_first), or (x, batch_sizes, hx, weights, …)
    place = next((i for i, argument in enumerate(call.args) if i > 1 and isinstance(argument, list | tuple)
                  and isinstance(call.args[i + 1], bool)), None)  # fmt: skip
    if place is None:
        return []
    weights, has_biases, count = call.args[place : place + 3]
    per_layer = 4 if has_biases else 2
    directions = len(weights) // (per_layer * count)
    if len(weights) != per_layer * count * directions or not 1 <= directions <= 2:
        return []
    starts = range(0, len(weights), per_layer)
    return [RecurrentLayer(i // directions, weights[s : s + per_layer]) for i, s in enumerate(starts)]


def trace_recurrent_layers(trace: UnitTrace, call: Call) -> bool:
    """Trace the layers of an LSTM, GRU or RNN, or one cell; a unit has a row in each gate. False for others."""
    layers = _recurrent_layers(call)
    if not layers or not all(trace.is_state(weight) for layer in layers for weight in layer.weights):
        return False
    inputs: dict[int, list[Ints]] = {0: [trace.labels_along(call.args[0], -1)]}
    for layer in layers:
        hidden = _trace_layer(trace, layer, np.concatenate(inputs[layer.level]))
        inputs.setdefault(layer.level + 1, []).append(hidden)
    outputs = np.concatenate(inputs[layers[-1].level + 1])
    states = np.stack([hidden for level in sorted(inputs)[1:] for hidden in inputs[level]])
    for result in call.results:
        is_state = result.shape[-1] != len(outputs) or (len(layers) > 1 and result.shape[0] == len(states))
        labels = labels_on_axis(outputs, result.dim(), -1)
        if is_state and result.dim() > 1:  # the last states of all layers
            labels = states.reshape(len(states), *(1,) * (result.dim() - 2), -1)
        trace.set_labels(result, labels)
    return True


def _trace_layer(trace: UnitTrace, layer: RecurrentLayer, inputs: Ints) -> Ints:
    """Place the units of one layer and direction, and return the id of each unit."""
    names = [trace.names[id(weight)] for weight in layer.weights]
    units = layer.weights[1].shape[1]
    trace.units.place(names[0], 1, inputs)
    ids = trace.units.number_outputs(names[0], 0, layer.weights[0].shape[0])
    trace.units.tie_or_fix([ids.reshape(-1, units).T], "a recurrent layer")
    trace.units.mark_scale_sensitive(ids)
    for name in names[1:]:  # the recurrent weight and the biases have the same rows
        trace.units.place(name, 0, ids)
    trace.units.place(names[1], 1, ids[:units])
    return ids[:units]


def trace_group_norm(trace: UnitTrace, call: Call) -> bool:
    """Trace a group norm, within whose groups the channels may be permuted; False for other functions."""
    if call.name != "group_norm":
        return False
    x, count = call.args[0], int(call.argument(1, "num_groups"))
    labels = trace.labels_along(x, 1)
    codes = trace.units.unit_codes(labels)
    if (labels < 0).any() or len(np.unique(codes)) < len(codes):
        return False
    trace.units.mark_scale_sensitive(labels)
    if 1 < count < len(labels):
        for channels in labels.reshape(count, -1):
            trace.units.tie_or_fix([channels[:, None]], "a group norm")
    for parameter in (call.argument(2, "weight"), call.argument(3, "bias")):
        trace.place_bias(parameter, labels)
    trace.set_labels(call.results[0], labels_on_axis(labels, x.dim(), 1))
    return True


def trace_attention_heads(trace: UnitTrace, call: Call) -> bool:
    """Trace fused attention (torch.nn.MultiheadAttention), with one unit per head; False for other functions."""
    if call.name != "multi_head_attention_forward":
        return False
    arguments = inspect.signature(call.func).bind(*call.args, **call.kwargs).arguments
    in_weight, in_bias = arguments.get("in_proj_weight"), arguments.get("in_proj_bias")
    out_weight, out_bias = arguments.get("out_proj_weight"), arguments.get("out_proj_bias")
    query, width, heads = arguments["query"], arguments["embed_dim_to_check"], arguments["num_heads"]
    is_self_attention = query is arguments["key"] is arguments["value"]
    has_extra_keys = arguments.get("bias_k") is not None or arguments.get("add_zero_attn")
    if not is_self_attention or has_extra_keys or not trace.is_state(in_weight) or not trace.is_state(out_weight):
        return False
    in_name, out_name = trace.names[id(in_weight)], trace.names[id(out_weight)]
    trace.units.place(in_name, 1, trace.labels_along(query, -1))
    ids = trace.units.number_outputs(in_name, 0, 3 * width)
    trace.place_bias(in_bias, ids)
    trace.units.tie([ids.reshape(3, heads, -1).transpose(1, 0, 2)])
    trace.units.mark_scale_sensitive(ids)
    trace.units.place(out_name, 1, ids[:width])
    output_ids = trace.units.number_outputs(out_name, 0, width)
    trace.place_bias(out_bias, output_ids)
    trace.set_labels(call.results[0], labels_on_axis(output_ids, call.results[0].dim(), -1))
    return True


SPECIAL_LAYERS = (trace_attention_heads, trace_recurrent_layers, trace_group_norm)
