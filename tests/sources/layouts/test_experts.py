"""Mixtures of experts: one name for a file with many tensors and a live model with one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope import edit
from layerscope.records.sources import SourceSpec
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import StateDict

LAYER = "model.layers.0"
SPEC = SourceSpec("test", "test", True, "test")


@pytest.fixture
def experts(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """gate (e, f, h), up (e, f, h) and down (e, h, f) of four experts."""
    return {
        "gate": rng.standard_normal((4, 70, 60)), "up": rng.standard_normal((4, 70, 60)),
        "down": rng.standard_normal((4, 60, 70)),
    }  # fmt: skip


def live(experts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As transformers 5 keeps them: two tensors."""
    both = np.concatenate([experts["gate"], experts["up"]], axis=1)
    return {f"{LAYER}.mlp.experts.gate_up_proj": both, f"{LAYER}.mlp.experts.down_proj": experts["down"]}


def as_files(experts: dict[str, np.ndarray], style: str) -> dict[str, np.ndarray]:
    """As files keep them: three tensors per expert."""
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    if style == "mixtral":
        names = {"gate": "w1", "up": "w3", "down": "w2"}
    block = "block_sparse_moe" if style == "mixtral" else "mlp"
    return {
        f"{LAYER}.{block}.experts.{i}.{names[role]}.weight": array
        for role, stack in experts.items()
        for i, array in enumerate(stack)
    }


@pytest.mark.parametrize("style", ["qwen", "mixtral"])
def test_files_and_live_models_have_the_same_rows(experts: dict[str, np.ndarray], style: str) -> None:
    live_metrics = {row.name: dict(row.metrics) for row in layerscope.analyze(live(experts)).rows}
    file_metrics = {row.name: dict(row.metrics) for row in layerscope.analyze(as_files(experts, style)).rows}
    assert live_metrics == file_metrics
    assert f"{LAYER}.mlp.experts.3.gate_proj.weight" in live_metrics
    changed = layerscope.analyze(live(experts), base=as_files(experts, style))
    assert {row.skipped for row in changed.rows} == {"unchanged from the base model"}


@pytest.mark.parametrize(
    ("config", "interleaved"), [({"model_type": "llama4"}, False), ({"model_type": "gpt_oss"}, True), ({}, False)]
)
def test_transposed_and_interleaved_experts(
    experts: dict[str, np.ndarray], config: dict[str, Any], interleaved: bool
) -> None:
    gate, up, down = (experts[role].transpose(0, 2, 1) for role in ("gate", "up", "down"))
    both = np.stack([gate, up], axis=-1).reshape(4, 60, 140) if interleaved else np.concatenate([gate, up], axis=2)
    arrays = {"mlp.experts.gate_up_proj": both, "mlp.experts.down_proj": down}
    infos = [TensorInfo(name, array.shape, "float64") for name, array in arrays.items()]
    source = StateDict(SPEC, infos, arrays.__getitem__, config)
    refs = {ref.name: ref for ref in source.layers()}
    ref = refs["mlp.experts.2.up_proj.weight"]
    assert ref.axes == "io"
    np.testing.assert_array_equal(source.read(ref), experts["up"][2].T)
    np.testing.assert_array_equal(source.read(refs["mlp.experts.0.down_proj.weight"]), experts["down"][0].T)


def test_editing_one_expert_leaves_the_others(experts: dict[str, np.ndarray]) -> None:
    arrays = live(experts)
    name = f"{LAYER}.mlp.experts.gate_up_proj"
    changed = edit.smooth(arrays, layers=["*experts.1.up_proj*"], keep=20)
    assert list(changed) == [name]
    same = np.isclose(changed[name], arrays[name])
    assert same[[0, 2, 3]].all()
    assert same[1, :70].all()
    assert not same[1, 70:].all()


def test_traps_say_which_expert_they_are_in(experts: dict[str, np.ndarray]) -> None:
    arrays = live(experts)
    name = f"{LAYER}.mlp.experts.down_proj"
    arrays[name][2, 5, 7] = 300.0
    report = layerscope.analyze(arrays, layers=["*experts.2.down*"], randomize=True)
    parts = report.layers[f"{LAYER}.mlp.experts.2.down_proj.weight"].parts
    assert parts["shuffle1"].modes[0].entry == (2, 5, 7)


def test_a_tensor_of_very_many_experts_stays_one_row() -> None:
    from layerscope.sources.layouts.torch_names import layers_of

    assert len(layers_of([TensorInfo("mlp.experts.w.weight", (5000, 8, 8), "float32")])) == 1
