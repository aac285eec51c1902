"""Auditing and planning quantization: predictions against exact Fisher matrices and brute force, and bad input."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.audits.live_data import LiveData
from layerscope.audits.quantization_audit import stored_bits
from layerscope.errors import TargetError, UnknownName, Unreadable, UsageError
from layerscope.lenses.learning_statistics.output_change import divergence, measure_changes
from layerscope.lenses.learning_statistics.output_damage import Change, predict_damage
from layerscope.live.examples import examples_of
from layerscope.live.losses import Loss
from layerscope.numerics.format_assignment import assign, assign_by_multiplier
from layerscope.numerics.quantization_error import quantization_error
from layerscope.records.layers import LayerRef
from layerscope.sources.quantization.weight_formats import FAMILIES, format_named
from layerscope.views import quantization as view
from layerscope.views.recipes import llama_cpp, llm_compressor
from tests.audits.model_files import write
from tests.command_line import cli
from tests.requirements import require
from tests.samples import HOSTILE

torch: Any = require("torch")


def network(width: int = 32) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.Tanh(), torch.nn.Linear(64, 6))


def data(count: int = 60, width: int = 32) -> Any:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def change_of(net: Any, name: str, *deltas: Any) -> Change:
    shape = tuple(net.get_parameter(name).shape)
    return Change(name, name, LayerRef(0, name, shape, "oi", "float32", "dense"), lambda: deltas, len(deltas))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_prediction_is_half_the_fisher_form(loss: str) -> None:
    """Against ½ Δᵀ F Δ with F = Jᵀ(diag p − ppᵀ)J, or JᵀJ, by torch.func in float64."""
    net, x = network().double(), data(12).double()
    name = "2.weight"
    delta = 0.1 * torch.randn(6, 64, generator=torch.Generator().manual_seed(2)).double()
    parameters = {key: value.detach() for key, value in net.named_parameters()}
    exact = []
    for row in x:
        outputs = lambda w: torch.func.functional_call(net, {**parameters, name: w}, (row[None],))[0]  # noqa: B023, E731
        value, moved = torch.func.jvp(outputs, (parameters[name],), (delta,))
        p = value.softmax(-1)
        metric = torch.diag(p) - torch.outer(p, p) if loss == "cross_entropy" else torch.eye(6).double()
        exact.append(0.5 * float(moved @ metric @ moved))
    change = change_of(net, name, delta.numpy(), np.zeros((6, 64)))
    found = predict_damage(net, examples_of(x), [change], loss=Loss.of(loss), draws=400)[name]
    assert found.mean[0] == pytest.approx(np.mean(exact), rel=0.08)
    assert found.mean[1] == 0
    assert np.corrcoef(found.samples[:, 0], exact)[0, 1] > 0.9
    assert found.error[0] == pytest.approx(np.std(found.samples[:, 0], ddof=1) / 12**0.5)


def test_predicted_and_measured_divergence_agree_and_the_model_is_left_as_it_was() -> None:
    net, x = network().train(), data()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net[0].weight.grad = torch.ones_like(net[0].weight)
    net[2].weight.requires_grad_(False)
    delta = 0.02 * np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    change = change_of(net, "0.weight", delta)
    predicted = predict_damage(net, examples_of(x), [change], loss=Loss.of("cross_entropy"), draws=30)["0.weight"]
    measured = measure_changes(net, examples_of(x), [[change]], loss=Loss.of("cross_entropy"))[0]
    assert predicted.mean[0] == pytest.approx(measured.mean, rel=0.15)
    assert net.training
    assert bool((net[0].weight.grad == 1).all())
    assert not net[2].weight.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_divergence_is_the_sum_over_classes() -> None:
    first, second = (torch.randn(3, 5, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    p, q = first.double().softmax(-1), second.double().softmax(-1)
    assert divergence(first, second, Loss.of("cross_entropy")) == pytest.approx(float((p * (p / q).log()).sum() / 3))
    assert divergence(first, second, Loss.of("mse")) == pytest.approx(
        float((first - second).square().sum()) / 6, rel=1e-6
    )


def test_sequences_are_divided_by_their_tokens_and_groups_do_not_matter() -> None:
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Embedding(11, 16), torch.nn.Linear(16, 11))
    x = torch.randint(11, (20, 8))
    deltas = {name: 0.05 * np.random.default_rng(4).standard_normal(tuple(p.shape)).astype(np.float32)
              for name, p in net.named_parameters() if p.dim() > 1}  # fmt: skip
    changes = [change_of(net, name, delta) for name, delta in deltas.items()]
    whole = predict_damage(net, examples_of(x), changes, loss=Loss.of("cross_entropy"), draws=40)
    split = predict_damage(net, examples_of(x), changes, loss=Loss.of("cross_entropy"), draws=40, memory=1)
    for change in changes:
        measured = measure_changes(net, examples_of(x), [[change]], loss=Loss.of("cross_entropy"))[0].mean
        assert whole[change.name].mean[0] == pytest.approx(measured, rel=0.25)
        assert np.allclose(whole[change.name].samples, split[change.name].samples)


def test_a_loss_that_is_no_likelihood_is_refused() -> None:
    with pytest.raises(UsageError, match="log-likelihood"):
        predict_damage(network(), examples_of(data()), [], loss=Loss.of(lambda output, labels: output.sum(1)))


@pytest.mark.parametrize("bad", [torch.empty(0, 32), [], [{}], ["text"], [(1, 2)]])
def test_data_of_another_form_are_refused(bad: Any) -> None:
    with pytest.raises(UsageError):
        examples_of(bad)


def test_padding_is_cut_off() -> None:
    batch = {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]])}
    assert [e.inputs["input_ids"].shape[1] for e in examples_of(batch)] == [6, 2]


# --- formats and assignment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES["llama.cpp"], *FAMILIES["int"], "int4", "int3-g64", "f16", "bf16", "f32"])
def test_rounding_again_changes_less_and_errors_follow_the_bits(name: str) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32)
    chosen = format_named(name)
    once = chosen.round(weight)
    error = float(np.linalg.norm(once - weight) / np.linalg.norm(weight))
    assert error < 0.6 * 2.0 ** (2 - chosen.code_bits) + 2e-3
    again = float(np.linalg.norm(chosen.round(once) - once) / np.linalg.norm(weight))
    assert again < 0.8 * error + 1e-6
    assert np.array_equal(chosen.round(np.zeros((2, 256), np.float32)), np.zeros((2, 256)))


def test_integer_codes_are_those_of_compressed_tensors() -> None:
    quantize = require("compressed_tensors.quantization.lifecycle.forward").fake_quantize
    scheme = require("compressed_tensors.quantization").QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=32
    )
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    scale = weight.reshape(16, 2, 32).abs().amax(2) * 2 / 15
    theirs = quantize(weight, scale, torch.zeros_like(scale), scheme)
    assert np.allclose(format_named("int4-g32").round(weight.numpy()), theirs.numpy(), atol=1e-5)


def test_an_unknown_format_is_named() -> None:
    for name in ("q4_m", "int9", "int4-g0", ""):
        with pytest.raises(UnknownName, match="format"):
            format_named(name)


def test_the_assignment_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        damages = rng.pareto(1, (5, 3))
        damages[rng.random((5, 3)) < 0.15] = np.inf
        damages[:, 0] = rng.pareto(1, 5)
        sizes = rng.integers(1, 50, (5, 1)) * np.array([2, 4, 8.0])
        budget = sizes[:, 0].sum() * (1 + 3 * rng.random())
        rows = np.arange(5)
        totals = [damages[rows, list(c)].sum() for c in product(range(3), repeat=5)
                  if sizes[rows, list(c)].sum() <= budget]  # fmt: skip
        chosen = assign(damages, sizes, budget)
        assert sizes[rows, chosen].sum() <= budget * (1 + 1e-8)
        assert damages[rows, chosen].sum() == pytest.approx(min(totals))
        assert sizes[rows, assign_by_multiplier(damages, sizes, budget)].sum() <= budget * (1 + 1e-8)
    with pytest.raises(UsageError, match="smallest"):
        assign(np.ones((2, 1)), np.ones((2, 1)), 1.9)


# --- audit ------------------------------------------------------------------------------------------------------


def quantized(net: Any, name: str = "int3-g32") -> dict[str, Any]:
    return {key: torch.from_numpy(format_named(name).round(value.numpy())) if value.dim() > 1 else value
            for key, value in net.state_dict().items()}  # fmt: skip


@pytest.fixture(scope="module")
def audit() -> Any:
    net = network()
    live = layerscope.live_data(net, data(80), loss="mse", examples=40)
    return layerscope.quantization(quantized(net), net.state_dict(), live=live, measure=2)


def test_the_numbers_of_a_tensor_are_those_of_dense_formulas() -> None:
    rng = np.random.default_rng(0)
    for shape in ((96, 40), (40, 96)):
        w = rng.standard_normal(shape).astype(np.float32)
        q = format_named("int3-g" + ("40" if shape[1] == 40 else "32")).round(w)
        found = quantization_error(w, q)
        assert found["relative_error"] == pytest.approx(np.linalg.norm(q - w) / np.linalg.norm(w), rel=1e-5)
        assert found["snr_db"] == pytest.approx(-20 * np.log10(found["relative_error"]))
        assert found["worst_error"] == pytest.approx(np.abs(q - w).max() / np.sqrt(np.mean(w**2)), rel=1e-5)
        (u0, s0, v0), (u, s, v) = (np.linalg.svd(m.astype(float), full_matrices=False) for m in (w, q))
        assert found["sigma_error"] == pytest.approx(np.abs(s - s0)[:10].max() / s0[0], rel=1e-3)
        shorter = (v0[:10], v[:10]) if shape[0] > shape[1] else (u0[:, :10].T, u[:, :10].T)
        assert found["subspace_overlap"] == pytest.approx(np.linalg.norm(shorter[0] @ shorter[1].T) / 10**0.5, rel=1e-3)
    clipped = np.clip(w, -0.5, 0.5)
    assert quantization_error(w, clipped)["clipped"] == pytest.approx(np.mean(np.abs(w) > 0.625), rel=0.05)
    assert quantization_error(w, np.full_like(w, np.nan)) == {"finite": 0.0}


def test_an_audit_predicts_and_measures(audit: Any) -> None:
    first, second = audit.by_damage()
    for tensor in (first, second):
        assert tensor.damage == pytest.approx(tensor.measured, rel=0.5)
    assert audit.together["predicted"] == pytest.approx(audit.together["measured"], rel=0.5)
    text = view.audit_text(audit)
    assert "Predicted damage of all tensors" in text
    assert json.loads(view.to_json(audit))["tensors"][0]["damage"] is not None


def test_without_data_nothing_is_ranked() -> None:
    net = network()
    result = layerscope.quantization(quantized(net), net.state_dict())
    assert result.by_damage() == []
    assert "cannot be seen in weights" in view.audit_text(result)


def test_another_model_a_destroyed_and_a_clipped_tensor_are_found() -> None:
    rng = np.random.default_rng(0)
    base = {f"{i}.weight": rng.standard_normal((64, 64)).astype(np.float32) for i in range(6)}
    good = {name: format_named("int4-g32").round(value) for name, value in base.items()}
    assert layerscope.quantization(good, base).findings == ()
    other = {name: rng.standard_normal((64, 64)).astype(np.float32) for name in base}
    assert "LS702" in {f.code for f in layerscope.quantization(other, base).findings}
    bad = {**good, "2.weight": 4 * good["2.weight"], "4.weight": np.clip(base["4.weight"], -1, 1)}
    found = {(f.code, f.layer) for f in layerscope.quantization(bad, base).findings}
    assert found == {("LS703", "2.weight"), ("LS704", "4.weight")}
    bad["1.weight"] = np.full((64, 64), np.nan, np.float32)
    assert ("LS703", "1.weight") in {(f.code, f.layer) for f in layerscope.quantization(bad, base).findings}


def test_a_few_costly_tensors_are_named() -> None:
    from dataclasses import replace

    from layerscope.rules.judging import judge_quantization
    from layerscope.settings import Settings

    base = {f"{i}.weight": np.random.default_rng(i).standard_normal((64, 64)).astype(np.float32) for i in range(9)}
    plain = layerscope.quantization(base, base)
    costly = replace(
        plain, tensors=tuple(replace(t, damage=10.0 if i == 3 else 1.0) for i, t in enumerate(plain.tensors))
    )
    (finding,) = judge_quantization(costly, Settings())
    assert (finding.code, finding.layer) == ("LS701", "3.weight")
    even = replace(plain, tensors=tuple(replace(t, damage=1.0) for t in plain.tensors))
    assert judge_quantization(even, Settings()) == ()


@pytest.mark.parametrize(
    ("how", "dtype", "expected"),
    [("decoded from Q4_K", "float32", ("Q4_K", 4.5)), ("", "bfloat16", ("bfloat16", 16.0)),
     ("dequantized from int8", "float32", ("int8", 8.125))],
)  # fmt: skip
def test_bits_per_weight(how: str, dtype: str, expected: tuple[str, float]) -> None:
    require("gguf")
    assert stored_bits(LayerRef(0, "a", (4, 4), "oi", dtype, "dense", how=how)) == expected


# --- plan and recipes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live() -> LiveData:
    return layerscope.live_data(network(), data(80), examples=40)


def test_a_plan_keeps_the_budget_and_continues_from_its_store(live: LiveData, tmp_path: Path) -> None:
    store = tmp_path / "damages.json"
    plan = layerscope.quantization_plan("net", live, bits=5, measure=True, store=store)
    assert plan.plan.bits <= 5
    assert plan.plan.damage <= min(point.damage for point in plan.uniform if point.bits <= 5)
    assert plan.plan.measured is not None
    assert [point.damage for point in plan.frontier] == sorted((point.damage for point in plan.frontier), reverse=True)
    again = layerscope.quantization_plan("net", live, bits=5, store=store)
    assert again.tensors == plan.tensors
    other = layerscope.live_data(network(), data(80) + 1, examples=40)
    with pytest.raises(UsageError, match="another model, other examples"):
        layerscope.quantization_plan("net", other, bits=5, store=store)
    for text in (view.plan_text(plan), repr(plan)):
        assert "bits per weight" in text


@pytest.mark.parametrize(("bits", "said"), [(1.0, "below the smallest"), (40.0, "above the largest")])
def test_budgets_that_nothing_meets(live: LiveData, bits: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        layerscope.quantization_plan("net", live, bits=bits)
    with pytest.raises(UsageError, match="one budget"):
        layerscope.quantization_plan("net", live)


def test_recipes_are_accepted_by_the_tools(live: LiveData) -> None:
    constants = require("gguf").constants
    names = {"0.weight": "model.layers.0.mlp.up_proj.weight", "2.weight": "model.layers.11.mlp.up_proj.weight"}
    from dataclasses import replace

    def renamed(plan: Any) -> Any:
        return replace(plan, tensors=tuple(replace(t, name=names[t.name]) for t in plan.tensors))

    plan = renamed(layerscope.quantization_plan("net", live, bits=5.5, formats=["q4_0", "q8_0"], layers=["*.weight"]))
    lines = llama_cpp.make(plan).splitlines()[1:]
    assert [line.partition("=")[0] for line in lines] == [
        f"--tensor-type ^blk\\.{i}\\.ffn_up\\.weight$" for i in (0, 11)
    ]
    assert all(line.rpartition("=")[2].upper() in constants.GGMLQuantizationType.__members__ for line in lines)
    with pytest.raises(UsageError, match="integer formats"):
        llm_compressor.make(plan)
    plan = renamed(layerscope.quantization_plan("net", live, bits=6, formats=["int4-g32", "int8-g32", "bf16"]))
    recipe = require("yaml").safe_load(llm_compressor.make(plan))
    modifier = recipe["quant_stage"]["quant_modifiers"]["QuantizationModifier"]
    schemes = require("compressed_tensors.quantization")
    for group in modifier["config_groups"].values():
        assert schemes.QuantizationScheme(**group).weights.group_size == 32
    chosen = {t.name: t.chosen for t in plan.tensors}
    import re

    for group in modifier["config_groups"].values():
        for target in group["targets"]:
            hits = [n for n in chosen if re.match(target.removeprefix("re:"), n.removesuffix(".weight"))]
            assert len(hits) == 1
    with pytest.raises(UsageError, match="formats of llama.cpp"):
        llama_cpp.make(plan)


def test_the_llm_compressor_recipe_and_llama_names_of_real_models() -> None:
    from layerscope.gguf_names import gguf_names_of

    require("gguf")
    names = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(3) for p in "qkvo"]
    assert (
        gguf_names_of([*names, "lm_head.weight"])["model.layers.2.self_attn.o_proj.weight"]
        == "blk.2.attn_output.weight"
    )
    assert gguf_names_of(["blk.0.attn_q.weight"]) == {"blk.0.attn_q.weight": "blk.0.attn_q.weight"}


# --- pages, command line and bad input -----------------------------------------------------------------------


def test_pages_show_names_as_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal((40, 40)).astype(np.float32) for name in HOSTILE}
    result = layerscope.quantization({k: v + 0.01 for k, v in base.items()}, base)
    result.html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<img" not in page
    assert "cannot be seen in weights" in page


MODULE = """
import torch
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 6))
def inputs():
    return torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
def nothing():
    return []
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_quantize.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "base", network().state_dict())
    write(tmp_path, "small", quantized(network()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


LIVE = ("--model", "mine_quantize:net", "--data", "mine_quantize:inputs")


def test_the_commands_audit_and_plan(folder: Path) -> None:
    done = cli("quantize", "audit", "small.safetensors", "--base", "base.safetensors", *LIVE, "--measure", "1",
               "--html", "page.html")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Predicted damage" in done.stdout
    assert (folder / "page.html").stat().st_size > 10_000
    done = cli("quantize", "plan", "net", *LIVE, "--bits", "5", "-f", "json", "--html", "plan.html")
    assert json.loads(done.stdout)["plan"]["bits"] <= 5
    done = cli("quantize", "plan", "net", *LIVE, "--size", "1600B")
    assert "Plan for net" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "net", *LIVE), "one budget"),
        (("plan", "net", *LIVE, "--size", "12 bananas"), "--size takes"),
        (("plan", "net", *LIVE, "--bits", "5", "--formats", "q4_x"), "did you mean 'q4_k'"),
        (("plan", "net", *LIVE, "--bits", "1"), "below the smallest"),
        (("plan", "net", "--bits", "5"), "needs examples"),
        (("plan", "net", "--bits", "5", "--data", "mine_quantize:inputs"), "--model M:NET"),
        (
            ("plan", "net", "--bits", "5", "--model", "mine_quantize:net", "--data", "mine_quantize:nothing"),
            "no example",
        ),
        (("plan", ".", "--bits", "5", "--data", "mine_quantize.py"), "not a folder of transformers"),
        (("audit", "small.safetensors", "--base", "base.safetensors", "--measure", "2"), "--measure needs --data"),
        (("audit", "small.safetensors", "--base", "no.safetensors"), "does not exist"),
    ],
)
def test_wrong_input_is_one_line(folder: Path, words: tuple[str, ...], said: str) -> None:
    done = cli("quantize", *words)
    assert done.returncode not in (0, 1)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_models_without_common_tensors_are_refused() -> None:
    with pytest.raises(TargetError, match="no tensor in common"):
        layerscope.quantization({"a.weight": np.ones((40, 40))}, {"b.weight": np.ones((40, 50))})


# --- models of transformers -----------------------------------------------------------------------------------


def test_minilm_is_planned_from_a_text_file(minilm: Path, tmp_path: Path) -> None:
    require("transformers")
    texts = tmp_path / "texts.txt"
    texts.write_text(
        "\n".join(f"The {word} is in the house of the old man." for word in ["cat", "dog", "bird", "horse", "fish"])
    )
    live = layerscope.text_data(minilm, texts, texts, examples=5)
    assert live.loss.kind == "mse"
    layers = ["encoder.layer.0.*", "encoder.layer.5.*"]
    formats = ["int3-g32", "int4-g32", "int5-g32"]
    result = layerscope.quantization_plan(minilm, live, bits=4, formats=formats, layers=layers, measure=True)
    assert result.plan.damage == pytest.approx(result.plan.measured, rel=0.5)
    damages = {t.name: t.damages["int3-g32"] for t in result.tensors}
    assert (
        damages["encoder.layer.5.attention.self.value.weight"]
        > 3 * damages["encoder.layer.5.attention.self.query.weight"]
    )
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(Unreadable, match="empty"):
        layerscope.text_data(minilm, tmp_path / "empty.txt")
    with pytest.raises(UsageError, match="no line"):
        (tmp_path / "short.txt").write_text("a\nb")
        layerscope.text_data(minilm, tmp_path / "short.txt")


@pytest.mark.parametrize("content", ["", "[]", "3", '{"architectures": 5}', '{"architectures": {"a": 1}}', "[" * 99999])
def test_a_folder_with_a_wrong_configuration_is_refused(tmp_path: Path, content: str) -> None:
    require("transformers")
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "texts.txt").write_text("The old man is in the house of the dog.\n" * 9)
    with pytest.raises(Unreadable):
        layerscope.text_data(tmp_path, tmp_path / "texts.txt")
