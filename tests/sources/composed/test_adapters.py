"""Adapters in files and live models: PEFT's own merge is the oracle."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable
from layerscope.sources import opening
from layerscope.sources.adapters.adapted_model import Merged
from tests.requirements import require

torch: Any = require("torch")
peft: Any = require("peft")
safetensors: Any = require("safetensors.torch")


def values(target: Any) -> dict[str, np.ndarray]:
    with opening.opened_source(target) as source:
        return {ref.name: np.asarray(source.read(ref)) for ref in source.layers() if not ref.skipped}


def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 64))


def trained(model: Any, config: Any) -> Any:
    """The model with an adapter whose parameters are no longer the initial ones."""
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return adapted


def merged(adapted: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in copy.deepcopy(adapted).merge_and_unload().state_dict().items()}


@pytest.mark.parametrize("form", [True, "gaussian", "orthogonal", "pissa", "olora"])
@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"rank_pattern": {"2": 4}}])
def test_initializations_that_change_the_base(tmp_path: Path, form: Any, more: dict[str, Any]) -> None:
    safetensors.save_file(net().state_dict(), tmp_path / "base.safetensors")
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["0", "2"], init_lora_weights=form, **more)
    adapted = trained(net(), config)
    adapted.save_pretrained(tmp_path / "adapter")
    found, expected = values(Merged(tmp_path / "adapter", tmp_path / "base.safetensors")), merged(adapted)
    assert set(found) == {"0.weight", "2.weight"}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=2e-6)
    alone = layerscope.describe(tmp_path / "adapter").rows
    assert all(bool(row.skipped) == (form in ("pissa", "olora")) for row in alone)
    assert all("--base" in row.skipped for row in alone if row.skipped)


def test_an_untrained_pissa_adapter_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    model = net()
    safetensors.save_file(model.state_dict(), tmp_path / "base.safetensors")
    weight = model[0].weight.detach().numpy().copy()
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["0"], init_lora_weights="pissa")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    [found] = values(Merged(tmp_path / "adapter", tmp_path / "base.safetensors")).values()
    np.testing.assert_allclose(found, weight, atol=3e-6)


@pytest.mark.parametrize("form", ["pissa_niter_4", "corda", "loftq", "lora_ga", "a new one"])
def test_initializations_that_cannot_be_computed_again_are_refused(tmp_path: Path, form: str) -> None:
    trained(net(), peft.LoraConfig(r=4, target_modules=["0"])).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": form}))
    with pytest.raises(Unreadable, match=f"init_lora_weights='{form}' changed the base model"):
        layerscope.analyze(tmp_path)


def other_configs() -> dict[str, Any]:
    targets: dict[str, Any] = {"target_modules": ["0"]}
    return {
        "LoHa": peft.LoHaConfig(r=4, **targets),
        "LoKr": peft.LoKrConfig(r=4, **targets),
        "IA3": peft.IA3Config(feedforward_modules=[], **targets),
        "VeRA": peft.VeraConfig(r=8, **targets),
        "OFT": peft.OFTConfig(r=4, oft_block_size=0, **targets),
        "FourierFT": peft.FourierFTConfig(n_frequency=100, **targets),
        "layer norm tuning": peft.LNTuningConfig(**targets),
    }


@pytest.mark.parametrize("kind", list(other_configs()))
def test_other_kinds_are_refused_by_name_as_files_and_formed_live(tmp_path: Path, kind: str) -> None:
    adapted = trained(net(), other_configs()[kind])
    adapted.save_pretrained(tmp_path)
    for options in ({}, {"base": net()}):
        with pytest.raises(Unreadable, match=f"an adapter of the kind {kind}, .*merge_and_unload"):
            layerscope.analyze(tmp_path, **options)
    found, expected = values(adapted), merged(adapted)
    for name, place in (("0.weight", "0.weight"), ("2.weight", "2.weight")):
        [value] = [value for full, value in found.items() if full.endswith(name)]
        np.testing.assert_array_equal(value, expected[place])


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "ADALORA", "TRAINABLE_TOKENS"])
def test_kinds_that_are_no_product_are_refused(tmp_path: Path, kind: str) -> None:
    trained(net(), peft.LoraConfig(r=4, target_modules=["0"])).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "peft_type": kind}))
    with pytest.raises(Unreadable, match="adapter"):
        layerscope.analyze(tmp_path)


def test_trained_tokens_beside_factors_are_no_layer(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(50, 64), "fc": torch.nn.Linear(64, 64)})
    model.forward = lambda x: model["fc"](model["embed"](x))
    config = peft.LoraConfig(r=4, target_modules=["fc"], trainable_token_indices={"embed": [1, 2, 3]})
    trained(model, config).save_pretrained(tmp_path)
    rows = {row.name: row.skipped for row in layerscope.describe(tmp_path).rows}
    assert rows["fc.lora"] == ""
    [reason] = [skipped for name, skipped in rows.items() if "trainable_tokens" in name]
    assert "trained tokens" in reason


@pytest.mark.parametrize("dora", [False, True])
def test_a_live_adapted_model_has_one_weight_and_stays_as_it_is(dora: bool) -> None:
    config = peft.LoraConfig(r=4, target_modules=["0"], modules_to_save=["2"], use_dora=dora, lora_bias=not dora)
    adapted = trained(net(), config)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    found, expected = values(adapted), merged(adapted)
    assert list(found) == ["base_model.model.0.weight", "base_model.model.2.modules_to_save.default.weight"]
    np.testing.assert_array_equal(found["base_model.model.0.weight"], expected["0.weight"])
    np.testing.assert_array_equal(found["base_model.model.2.modules_to_save.default.weight"], expected["2.weight"])
    assert all(torch.equal(before[name], value) for name, value in adapted.state_dict().items())
    distance = layerscope.distances({"a": adapted, "b": net()}, select="weights", partial=True).matrix("l2")[0, 1]
    start = net().state_dict()
    square = sum(float(np.square(expected[name] - start[name].numpy()).sum()) for name in ("0.weight", "2.weight"))
    assert distance == pytest.approx(square**0.5, rel=1e-5)


def test_a_switched_off_adapter_and_a_merged_one() -> None:
    adapted = trained(net(), peft.LoraConfig(r=4, target_modules=["0"]))
    expected = merged(adapted)["0.weight"]
    with adapted.disable_adapter():
        found = values(adapted)["base_model.model.0.weight"]
    np.testing.assert_array_equal(found, net()[0].weight.detach().numpy())
    adapted.merge_adapter()
    np.testing.assert_array_equal(values(adapted)["base_model.model.0.weight"], expected)


def test_a_state_dict_of_an_adapted_model_is_not_read_without_the_scale(tmp_path: Path) -> None:
    adapted = trained(net(), peft.LoraConfig(r=4, target_modules=["0"]))
    torch.save(adapted.state_dict(), tmp_path / "net.pt")
    assert list(values(tmp_path / "net.pt")) == ["base_model.model.2.weight"]
    reasons = {row.name: row.skipped for row in layerscope.describe(tmp_path / "net.pt").rows}
    assert "merge_and_unload" in reasons["base_model.model.0.base_layer.weight"]


class Experts(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(4, 96, 64))
        self.down_proj = torch.nn.Parameter(torch.randn(4, 64, 48))

    def forward(self, x: Any) -> Any:
        return (x @ self.gate_up_proj[0].T)[..., :48] @ self.down_proj[0].T


class Mixture(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.mlp = torch.nn.Module()
        self.mlp.experts = Experts()
        self.fc = torch.nn.Linear(64, 64)

    def forward(self, x: Any) -> Any:
        return self.fc(self.mlp.experts(x))


def test_adapters_of_stacked_experts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixture()
    safetensors.save_file(model.state_dict(), tmp_path / "base.safetensors")
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapted = trained(model, peft.LoraConfig(r=2, lora_alpha=6, target_modules=["fc"], target_parameters=names))
    adapted.save_pretrained(tmp_path / "adapter")
    expected = merged(adapted)
    found = values(Merged(tmp_path / "adapter", tmp_path / "base.safetensors"))
    assert len(found) == 4 * 3 + 1
    for expert in range(4):
        gate, up = np.split(expected["mlp.experts.gate_up_proj"][expert], 2)
        parts = {"gate_proj": gate, "up_proj": up, "down_proj": expected["mlp.experts.down_proj"][expert]}
        for part, value in parts.items():
            np.testing.assert_allclose(found[f"mlp.experts.{expert}.{part}.weight"], value, atol=2e-6)
    alone = layerscope.analyze(tmp_path / "adapter", min_evals=2)
    start = safetensors.load_file(tmp_path / "base.safetensors")
    for expert in range(4):
        spectrum = alone.layers[f"mlp.experts.{expert}.down_proj.lora"].spectrum
        assert spectrum is not None
        update = expected["mlp.experts.down_proj"][expert] - start["mlp.experts.down_proj"][expert].numpy()
        largest = np.linalg.svd(update.astype(np.float64), compute_uv=False)[:2] ** 2
        np.testing.assert_allclose(np.sort(spectrum.evals)[::-1][:2], largest, rtol=1e-4)


@pytest.mark.parametrize("change", [{"r": 3}, {"target_parameters": ["mlp.experts.gate_up_proj"]}])
def test_stacked_factors_that_do_not_fit_their_configuration(tmp_path: Path, change: dict[str, Any]) -> None:
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapted = trained(Mixture(), peft.LoraConfig(r=2, target_modules=["fc"], target_parameters=names))
    adapted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(Unreadable, match=r"adapter_config\.json: (r is 3|target_parameters names 1)"):
        layerscope.analyze(tmp_path)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("unet.a.to_q.lora_A.weight", "unet.a.to_q.lora_B.weight"),
        ("unet.a.to_q.lora.down.weight", "unet.a.to_q.lora.up.weight"),
        ("unet.a.processor.to_q_lora.down.weight", "unet.a.processor.to_q_lora.up.weight"),
        ("text.q_proj.lora_linear_layer.down.weight", "text.q_proj.lora_linear_layer.up.weight"),
    ],
)
@pytest.mark.parametrize("alpha", [None, 24])
def test_diffusers_adapters(tmp_path: Path, down: str, up: str, alpha: int | None) -> None:
    a, b = torch.randn(8, 64), torch.randn(96, 8)
    component = down.partition(".")[0]
    settings = {f"{component}.r": 8, f"{component}.lora_alpha": alpha, "other.lora_alpha": 99}
    metadata = {"lora_adapter_metadata": json.dumps(settings)} if alpha else None
    safetensors.save_file({down: a, up: b}, tmp_path / "pytorch_lora_weights.safetensors", metadata)
    for target in (tmp_path, tmp_path / "pytorch_lora_weights.safetensors"):
        [(name, core)] = values(target).items()
        assert name.endswith(".lora") or name.endswith("_lora.lora")
        expected = np.linalg.svd((b @ a * ((alpha or 8) / 8)).numpy(), compute_uv=False)[:8]
        np.testing.assert_allclose(np.linalg.svd(core, compute_uv=False), expected, rtol=1e-5)


def test_mlx_adapters_are_stored_transposed_with_their_scale(tmp_path: Path) -> None:
    a, b = torch.randn(64, 8), torch.randn(8, 96)
    stem = "model.layers.0.self_attn.q_proj"
    safetensors.save_file({f"{stem}.lora_a": a, f"{stem}.lora_b": b}, tmp_path / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for target in (tmp_path, tmp_path / "adapters.safetensors"):
        [core] = values(target).values()
        expected = np.linalg.svd(20 * (a @ b).numpy(), compute_uv=False)[:8]
        np.testing.assert_allclose(np.linalg.svd(core, compute_uv=False), expected, rtol=1e-5)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_parameters": {"rank": 8}}))
    with pytest.raises(Unreadable, match="with a scale"):
        layerscope.analyze(tmp_path)


@pytest.mark.parametrize("alpha", [None, 4.0])
def test_kohya_convolutions_and_other_names_of_the_factors(tmp_path: Path, alpha: float | None) -> None:
    down, up = torch.randn(8, 32, 3, 3), torch.randn(64, 8, 1, 1)
    tensors = {"lora_unet_c.lora_down.weight": down, "lora_unet_c.lora_up.weight": up}
    if alpha is not None:
        tensors["lora_unet_c.alpha"] = torch.tensor(alpha)
    flux_down, flux_up = torch.randn(8, 64), torch.randn(96, 8)
    stem = "double_blocks.0.processor.qkv_lora1"
    tensors |= {f"{stem}.down.weight": flux_down, f"{stem}.up.weight": flux_up}
    safetensors.save_file(tensors, tmp_path / "lora.safetensors")
    found = values(tmp_path / "lora.safetensors")
    scale = 1.0 if alpha is None else alpha / 8
    expected = scale * torch.einsum("or,rihw->oihw", up[:, :, 0, 0].double(), down.double())
    assert set(found) == {"lora_unet_c.lora", f"{stem}.lora"}
    np.testing.assert_allclose(found["lora_unet_c.lora"], expected.numpy(), rtol=1e-6, atol=1e-9)
    singular = np.linalg.svd((flux_up @ flux_down).numpy(), compute_uv=False)[:8]
    np.testing.assert_allclose(np.linalg.svd(found[f"{stem}.lora"], compute_uv=False), singular, rtol=1e-5)


def test_what_a_product_leaves_out_is_said(tmp_path: Path) -> None:
    factors = {"lora_te_q.lora_down.weight": torch.randn(8, 64), "lora_te_q.lora_up.weight": torch.randn(64, 8)}
    safetensors.save_file({**factors, "lora_te_q.dora_scale": torch.rand(64, 1)}, tmp_path / "dora.safetensors")
    rows = {row.name: row for row in layerscope.describe(tmp_path / "dora.safetensors").rows}
    assert "without DoRA magnitudes" in rows["lora_te_q.lora"].ref.how


def test_the_bias_of_a_factor_is_listed_as_a_bias(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained(net(), peft.LoraConfig(r=4, target_modules=["0"], lora_bias=True)).save_pretrained(tmp_path)
    rows = {row.name: row.skipped for row in layerscope.describe(tmp_path).rows}
    assert rows == {"0.lora": "", "base_model.model.0.lora_B.bias": "1-D"}
