"""Canonical forms: equal for all weights that compute the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UsageError
from tests.requirements import require

Arrays = dict[str, np.ndarray]


def canonical_evals(report: layerscope.Report, name: str) -> np.ndarray:
    spectrum = report.layers[name].parts["canonical"].spectrum
    assert spectrum is not None
    return spectrum.evals


def chain(rng: np.random.Generator) -> Arrays:
    return {
        "conv.weight": rng.standard_normal((24, 8, 3, 3)),
        "fc1.weight": rng.standard_normal((80, 24 * 4)) * rng.random((80, 1)),
        "fc2.weight": rng.standard_normal((64, 80)),
        "fc3.weight": rng.standard_normal((60, 64)),
    }


def test_rescaled_hidden_units_have_one_canonical_form(rng: np.random.Generator) -> None:
    weights = chain(rng)
    scaled = {name: value.copy() for name, value in weights.items()}
    conv, first, second = (np.exp(rng.uniform(-2, 2, size)) for size in (24, 80, 64))
    scaled["conv.weight"] *= conv[:, None, None, None]
    scaled["fc1.weight"] *= first[:, None] / np.repeat(conv, 4)
    scaled["fc2.weight"] *= second[:, None] / first
    scaled["fc3.weight"] /= second
    reports = [layerscope.analyze(arrays, canonical=True, conv="flat") for arrays in (weights, scaled)]
    for name in weights:
        a, b = (canonical_evals(report, name) for report in reports)
        np.testing.assert_allclose(a, b, rtol=1e-4)
    stored = [report.layers["fc2.weight"].metrics["alpha"] for report in reports]
    assert abs(stored[0] - stored[1]) > 0.1
    assert reports[0].layers["fc2.weight"].metrics["alpha_canonical"] == pytest.approx(
        reports[1].layers["fc2.weight"].metrics["alpha_canonical"], rel=1e-4
    )


def test_balanced_units_have_equal_norms(rng: np.random.Generator) -> None:
    from layerscope.sources.composed.canonical import Canonical
    from layerscope.sources.opening import opened_source

    with opened_source(Canonical(chain(rng))) as source:
        forms = {ref.name: source.read(ref) for ref in source.layers() if ref.role == "canonical"}
    incoming = np.linalg.norm(forms["fc1.weight"], axis=1)
    np.testing.assert_allclose(incoming, np.linalg.norm(forms["fc2.weight"], axis=0), rtol=1e-4)
    channels = np.linalg.norm(forms["fc1.weight"].reshape(80, 24, 4), axis=(0, 2))
    np.testing.assert_allclose(np.sqrt(np.square(forms["conv.weight"]).sum((1, 2, 3))), channels, rtol=1e-4)


def test_a_folded_batch_norm_is_that_of_torch() -> None:
    torch = require("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
                              torch.nn.Conv2d(16, 20, 3), torch.nn.BatchNorm2d(20)).eval()  # fmt: skip
    for norm in (net[1], net[4]):
        torch.nn.init.uniform_(norm.weight, 0.1, 3)
        torch.nn.init.uniform_(norm.running_var, 0.1, 3)
    report = layerscope.analyze(net, canonical=True, conv="flat", min_evals=8, min_tail=4)
    for name, conv, norm in (("0.weight", net[0], net[1]), ("3.weight", net[3], net[4])):
        fused = torch.nn.utils.fuse_conv_bn_eval(conv, norm).weight.detach().numpy().reshape(conv.out_channels, -1)
        expected = np.sort(np.linalg.svd(fused.astype(np.float64), compute_uv=False)) ** 2
        np.testing.assert_allclose(canonical_evals(report, name), expected, rtol=1e-5)
    assert report.layers["0.weight"].parts["canonical"].ref.how == "batch norm folded"


def attention(heads: int, key_heads: int, size: int, model: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    wide, narrow = heads * size, key_heads * size
    shapes = {"q_proj": (wide, model), "k_proj": (narrow, model), "v_proj": (narrow, model), "o_proj": (model, wide)}
    return {f"layers.0.self_attn.{name}.weight": rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2)])
def test_attention_is_measured_by_the_products_of_each_head(tmp_path: Path, heads: int, key_heads: int) -> None:
    import json

    from safetensors.numpy import save_file

    size, model = 16, 48
    weights = attention(heads, key_heads, size, model, seed=1)
    save_file(weights, tmp_path / "model.safetensors")
    config = {"num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": size, "hidden_size": model}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    report = layerscope.analyze(tmp_path, canonical=True)
    q, k, v, o = (weights[f"layers.0.self_attn.{name}_proj.weight"] for name in "qkvo")
    share = heads // key_heads

    def sigma(matrix: np.ndarray, count: int) -> np.ndarray:
        return np.linalg.svd(matrix, compute_uv=False)[:count]

    rows = [slice(i * size, (i + 1) * size) for i in range(heads)]
    queries = np.concatenate([sigma(q[rows[i]].T @ k[rows[i // share]], size) for i in range(heads)])
    outputs = np.concatenate([sigma(o[:, rows[i]] @ v[rows[i // share]], size) for i in range(heads)])
    name = "layers.0.self_attn.{}_proj.weight"
    np.testing.assert_allclose(canonical_evals(report, name.format("q")), np.sort(queries), rtol=1e-6)
    np.testing.assert_allclose(canonical_evals(report, name.format("o")), np.sort(outputs), rtol=1e-6)
    groups = [range(j * share, (j + 1) * share) for j in range(key_heads)]
    keys = [sigma(np.concatenate([q[rows[i]].T @ k[rows[j]] for i in group]), size) for j, group in enumerate(groups)]
    np.testing.assert_allclose(canonical_evals(report, name.format("k")), np.sort(np.concatenate(keys)), rtol=1e-6)


def test_a_gated_mlp_is_balanced_and_a_plain_transformer_mlp_is_left_alone(rng: np.random.Generator) -> None:
    names = {"gate_proj": (96, 60), "up_proj": (96, 60), "down_proj": (60, 96)}
    weights = {f"layers.0.mlp.{name}.weight": rng.standard_normal(shape) for name, shape in names.items()}
    scaled, factors = dict(weights), np.exp(rng.uniform(-2, 2, 96))
    scaled["layers.0.mlp.up_proj.weight"] = weights["layers.0.mlp.up_proj.weight"] * factors[:, None]
    scaled["layers.0.mlp.down_proj.weight"] = weights["layers.0.mlp.down_proj.weight"] / factors
    reports = [layerscope.analyze(arrays, canonical=True) for arrays in (weights, scaled)]
    for name in ("up_proj", "down_proj"):
        a, b = (canonical_evals(report, f"layers.0.mlp.{name}.weight") for report in reports)
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert "canonical" not in reports[0].layers["layers.0.mlp.gate_proj.weight"].parts
    plain = {f"layers.0.mlp.{name}.weight": rng.standard_normal(names[name]) for name in ("up_proj", "down_proj")}
    plain["layers.0.norm.weight"] = np.ones(60)
    assert all("canonical" not in row.parts for row in layerscope.analyze(plain, canonical=True).rows)


def test_a_verdict_that_rescaling_makes_is_withdrawn(rng: np.random.Generator) -> None:
    weights = {"fc1.weight": rng.standard_normal((200, 160)), "fc2.weight": rng.standard_normal((150, 200))}
    scales = (1 - rng.random(200)) ** -3.0  # rows with heavy-tailed norms
    weights["fc1.weight"] *= scales[:, None]
    weights["fc2.weight"] /= scales
    before = layerscope.analyze(weights)
    codes = {finding.code for finding in before.findings if finding.layer == "fc1.weight"}
    assert "LS101" in codes
    after = layerscope.analyze(weights, canonical=True)
    findings = {finding.code: finding for finding in after.findings if finding.layer == "fc1.weight"}
    assert "LS101" not in findings
    assert "LS101" in findings["LS116"].message
    assert "canonical form" in findings["LS116"].message


@pytest.mark.parametrize("options", [{"intra": True}, {"stacked": True}, {"per_head": True}, {"pool": False}])
def test_what_has_no_canonical_form_is_refused(options: dict[str, Any], rng: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="canonical and .* cannot be combined"):
        layerscope.analyze(chain(rng), canonical=True, **options)
