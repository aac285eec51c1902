"""What changed between two models: planted updates with a known answer, and PEFT as the oracle for adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable
from tests.audits.model_files import Weights, codes, facts, write
from tests.command_line import cli
from tests.requirements import require

torch = require("torch")
PROJECTIONS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
NOISY = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def transformer(blocks: int = 4, size: int = 96) -> Weights:
    draw = torch.Generator().manual_seed(1)
    weights = {"model.embed_tokens.weight": 0.05 * torch.randn(300, size, generator=draw)}
    for i in range(blocks):
        for name in PROJECTIONS:
            rows = 3 * size if "up" in name else size
            weights[f"model.layers.{i}.{name}.weight"] = 0.05 * torch.randn(rows, size, generator=draw)
        weights[f"model.layers.{i}.input_layernorm.weight"] = torch.ones(size)
    return weights


def update(shape: tuple[int, int], rank: int, size: float, seed: int) -> Any:
    """A random matrix of a rank whose singular values are all ``size``."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, rank)))[0] for n in shape)
    return torch.from_numpy(size * left @ right.T).float()


@pytest.mark.parametrize("dtype", NOISY)
@pytest.mark.parametrize("rank", [1, 4, 16, 40])
def test_planted_ranks_are_found_above_the_rounding_of_the_format(tmp_path: Path, dtype: str, rank: int) -> None:
    base = transformer()
    tuned, name = dict(base), "model.layers.2.self_attn.q_proj.weight"
    tuned[name] = base[name] + update((96, 96), rank, 0.3, seed=rank)
    report = layerscope.diff(write(tmp_path, "b", base, NOISY[dtype]), write(tmp_path, "t", tuned, NOISY[dtype]))
    numbers = facts(report, name)
    assert abs(numbers["rank_above"] - rank) <= 1
    assert numbers["exact_rank"] == numbers["rank_above"]
    expected = 0.3 * rank**0.5 / float(base[name].norm())
    assert numbers["relative_change"] == pytest.approx(expected, rel=0.02)
    assert codes(report) == {"LS506"}
    assert sum(row.skipped == "identical to the base" for row in report.rows) == len(report.rows) - 1


def test_an_update_below_the_rounding_of_the_format_is_none(tmp_path: Path) -> None:
    base = transformer()
    tuned = {name: value + 1e-6 * torch.randn_like(value) for name, value in base.items()}
    report = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", tuned, torch.bfloat16))
    assert codes(report) == {"LS509"}
    assert all(row.skipped for row in report.rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_copy_in_another_format_is_the_same_model(tmp_path: Path, dtype: Any) -> None:
    base = transformer()
    report = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", base, dtype))
    assert codes(report) == {"LS509"}
    floors = [facts(report, row.name) for row in report.rows if "embed" in row.name]
    assert floors[0]["relative_change"] == pytest.approx(floors[0]["rounding_floor"], rel=0.2)


def test_a_gguf_copy_in_eight_bits_is_the_same_model(tmp_path: Path) -> None:
    gguf = require("gguf")
    names = {"blk.0.attn_q.weight": (96, 96), "blk.0.ffn_up.weight": (192, 96), "token_embd.weight": (300, 96)}
    weights = {
        name: np.random.default_rng(1).standard_normal(shape).astype(np.float32) for name, shape in names.items()
    }
    writer = gguf.GGUFWriter(tmp_path / "copy.gguf", "llama")
    for name, weight in weights.items():
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    report = layerscope.diff(write(tmp_path, "b", tensors), str(tmp_path / "copy.gguf"))
    assert codes(report) == {"LS509"}
    assert {row.name: row.skipped for row in report.rows} == dict.fromkeys(names, "equal to the base up to rounding")


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_0"])
@pytest.mark.parametrize("rank", [4, 16, 64])
def test_planted_ranks_are_found_after_quantization(tmp_path: Path, kind: str, rank: int) -> None:
    gguf = require("gguf")
    name, base = "blk.0.attn_q.weight", 0.05 * np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    tuned = base + update((256, 256), rank, 1.0, seed=rank).numpy()
    for file, weight in (("plain", base), ("tuned", tuned)):
        writer, code = gguf.GGUFWriter(tmp_path / f"{file}.gguf", "llama"), getattr(gguf.GGMLQuantizationType, kind)
        writer.add_tensor(name, gguf.quants.quantize(weight, code), raw_dtype=code)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    report = layerscope.diff({name: base}, str(tmp_path / "tuned.gguf"))
    assert abs(facts(report, name)["exact_rank"] - rank) <= 1
    copy = layerscope.diff({name: base}, str(tmp_path / "plain.gguf"))
    numbers = facts(copy, name)
    assert codes(copy) == {"LS509"}
    assert numbers["relative_change"] == pytest.approx(numbers["rounding_floor"], rel=0.15)


def test_the_same_file_twice_is_identical_and_no_failure(tmp_path: Path) -> None:
    path = write(tmp_path, "b", transformer())
    result = cli("diff", path, path, "-q")
    assert result.returncode == 0
    assert "17 of 17 tensors are identical" in result.stdout
    assert cli("diff", path, path, "-q", "--fail-on", "warn").returncode == 1


def test_full_updates_have_no_exact_rank_and_vectors_are_compared(tmp_path: Path) -> None:
    base = transformer()
    tuned = {name: value + 0.005 * torch.randn_like(value) for name, value in base.items()}
    report = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", tuned))
    numbers = facts(report, "model.layers.0.mlp.up_proj.weight")
    assert "exact_rank" not in numbers
    assert numbers["rank_95"] > 48
    assert facts(report, "model.layers.0.input_layernorm.weight")["relative_change"] == pytest.approx(0.005, rel=0.3)
    assert not codes(report) & {"LS506", "LS509"}


def test_singular_values_ranks_and_subspaces_are_those_of_a_dense_svd(tmp_path: Path) -> None:
    base = transformer()
    name = "model.layers.1.mlp.up_proj.weight"
    tuned = {**base, name: base[name] + update((288, 96), 12, 1.5, seed=3)}
    numbers = facts(layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", tuned)), name)
    before, after = (value.double().numpy() for value in (base[name], tuned[name]))
    u0, s0, vt0 = np.linalg.svd(before, full_matrices=False)
    u, _, vt = np.linalg.svd(after, full_matrices=False)
    sigma = np.linalg.svd(after - before, compute_uv=False)
    assert numbers["relative_spectral_change"] == pytest.approx(sigma[0] / s0[0], rel=1e-6)
    energy = np.cumsum(sigma**2) / (sigma**2).sum()
    assert numbers["rank_95"] == np.searchsorted(energy, 0.95) + 1
    assert numbers["overlap_left"] == pytest.approx(np.linalg.norm(u0[:, :10].T @ u[:, :10]) / 10**0.5, rel=1e-5)
    assert numbers["overlap_right"] == pytest.approx(np.linalg.norm(vt0[:10] @ vt[:10].T) / 10**0.5, rel=1e-5)
    assert numbers["intruders"] == (np.abs(u0.T @ u[:, :10]).max(0) < 0.5).sum() > 0


def test_a_tensor_that_changed_most_and_rows_that_changed_alone_are_named(tmp_path: Path) -> None:
    base = transformer(blocks=6)
    tuned = {name: value + 1e-3 * torch.randn_like(value) for name, value in base.items() if "embed" not in name}
    odd = "model.layers.4.self_attn.q_proj.weight"
    tuned[odd] = torch.randn_like(base[odd])
    tuned["model.embed_tokens.weight"] = base["model.embed_tokens.weight"].clone()
    tuned["model.embed_tokens.weight"][[3, 200]] += 1
    report = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", tuned))
    named = {(finding.code, finding.layer) for finding in report.findings}
    assert ("LS504", odd) in named
    assert ("LS505", "model.embed_tokens.weight") in named
    assert "2 of 300 rows" in next(f.message for f in report.findings if f.code == "LS505")


def test_an_independent_model_is_named_as_such_and_a_tuned_one_is_not(tmp_path: Path) -> None:
    base = transformer()
    torch.manual_seed(7)
    other = {name: 0.05 * torch.randn_like(value) for name, value in base.items()}
    near = {name: value + 0.01 * torch.randn_like(value) for name, value in base.items()}
    path = write(tmp_path, "b", base)
    assert "LS510" in codes(layerscope.diff(path, write(tmp_path, "o", other)))
    assert "LS510" not in codes(layerscope.diff(path, write(tmp_path, "n", near)))


def test_what_does_not_fit_is_listed_and_the_rest_compared(tmp_path: Path) -> None:
    base, tuned = transformer(), transformer()
    tuned["model.embed_tokens.weight"] = torch.randn(310, 96)
    tuned["extra.weight"] = torch.randn(20, 20)
    del tuned["model.layers.0.mlp.up_proj.weight"]
    tuned["model.layers.1.mlp.up_proj.weight"] = tuned["model.layers.1.mlp.up_proj.weight"].clone()
    tuned["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    report = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", tuned))
    skipped = {row.name: row.skipped for row in report.rows}
    assert skipped["model.embed_tokens.weight"] == "its shape is 310×96, but 300×96 in the base model"
    assert skipped["extra.weight"] == "the base model has no tensor with this name"
    assert skipped["model.layers.0.mlp.up_proj.weight"] == "only in the base model"
    assert "NaN" in skipped["model.layers.1.mlp.up_proj.weight"]
    assert report.layers["model.layers.1.mlp.up_proj.weight"].failed
    with pytest.raises(Unreadable, match="no tensor in common"):
        layerscope.diff(write(tmp_path, "b", base), {"other.weight": np.ones((4, 4))})


@pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
def test_every_engine_and_a_saved_report_give_the_same(tmp_path: Path, engine: str) -> None:
    base = transformer(blocks=2)
    tuned = {name: value + 0.01 * torch.randn_like(value) for name, value in base.items()}
    files = write(tmp_path, "b", base), write(tmp_path, "t", tuned)
    reference, report = layerscope.diff(*files, engine="serial"), layerscope.diff(*files, engine=engine)
    report.save(tmp_path / "diff.layerscope")
    loaded = layerscope.load(tmp_path / "diff.layerscope")
    for row, other, again in zip(reference.rows, report.rows, loaded.rows, strict=True):
        assert row.name == other.name == again.name
        assert dict(row.metrics) == dict(other.metrics)
        assert {k: v for k, v in again.metrics.items() if not isinstance(v, str)} == pytest.approx(
            {k: v for k, v in row.metrics.items() if not isinstance(v, str)}
        )
    assert loaded.findings == report.findings


def test_without_spectra_only_sizes_are_measured(tmp_path: Path) -> None:
    base = transformer(blocks=2)
    tuned = {name: value + 0.01 * torch.randn_like(value) for name, value in base.items()}
    report = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", tuned), spectra=False)
    assert all(row.spectrum is None for row in report.rows)
    assert all("relative_change" in row.metrics and "rank_95" not in row.metrics for row in report.rows)


# --- losses ------------------------------------------------------------------------------------------------------


def test_losses_with_paired_errors_and_blocks_that_are_put_back(tmp_path: Path) -> None:
    from torch.nn import functional

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    x, y = torch.randn(80, 12), torch.randint(3, (80,))
    base = {name: value.clone() for name, value in net.state_dict().items()}
    tuned = {name: value + 0.3 * torch.randn_like(value) for name, value in base.items()}
    files = write(tmp_path, "b", base), write(tmp_path, "t", tuned)

    def losses(state: Weights) -> Any:
        net.load_state_dict(state)
        return functional.cross_entropy(net(x), y, reduction="none").detach().double().numpy()

    evaluators = {"train": layerscope.TorchEvaluator(net, (x, y))}
    report = layerscope.diff(*files, evaluate=evaluators, by_block=True)
    result = report.meta["diff"]["losses"]["train"]
    before, after = losses(base), losses(tuned)
    assert result["base"]["loss"] == pytest.approx(before.mean(), rel=1e-5)
    assert result["change"]["loss"] == pytest.approx((after - before).mean(), rel=1e-4)
    assert result["change"]["error"] == pytest.approx((after - before).std(ddof=1) / 80**0.5, rel=1e-4)
    mixed = {name: base[name] if name.startswith("0.") else value for name, value in tuned.items()}
    back = losses(mixed) - after
    assert result["blocks"]["block 0"]["loss"] == pytest.approx(back.mean(), rel=1e-4)
    assert result["blocks"]["block 0"]["error"] == pytest.approx(back.std(ddof=1) / 80**0.5, rel=1e-4)
    assert set(result["blocks"]) == {"block 0", "block 2"}


def test_the_command_measures_losses_on_training_and_held_out_data(tmp_path: Path) -> None:
    (tmp_path / "tuned_net.py").write_text(
        "import torch\n"
        "def build():\n    return torch.nn.Linear(8, 3)\n"
        "def train():\n    return torch.ones(20, 8), torch.zeros(20, dtype=torch.long)\n"
        "test = train\n"
    )
    files = [str(tmp_path / f"{seed}.pt") for seed in range(2)]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        torch.save(torch.nn.Linear(8, 3).state_dict(), file)
    words = ("--model", "tuned_net:build", "--data", "tuned_net:train", "--held-out", "tuned_net:test", "--by-block")
    done = cli("diff", *files, "-q", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "held out" in done.stdout
    assert "outside blocks put back" in done.stdout
    wrong = cli("diff", *files, "-q", "--by-block")
    assert wrong.returncode == 2
    assert "belong together" in wrong.stderr


# --- views -------------------------------------------------------------------------------------------------------


def test_every_view_shows_a_diff(tmp_path: Path) -> None:
    base = transformer()
    tuned, name = dict(base), "model.layers.2.self_attn.q_proj.weight"
    tuned[name] = base[name] + update((96, 96), 4, 0.5, seed=1)
    files = write(tmp_path, "b", base), write(tmp_path, "t", tuned)
    for width in ("60", "100"):
        text = cli("diff", *files, "-q", COLUMNS=width).stdout
        assert "16 of 17 tensors are identical, and 1 changed." in text
        assert "rank 4 in 1 tensor (attention query): a merged LoRA" in " ".join(text.split())
    page = tmp_path / "page.html"
    for format_ in ("json", "csv", "md", "sarif", "junit"):
        result = cli("diff", *files, "-q", "-f", format_, "--html", str(page))
        assert result.returncode == 0, result.stderr
        assert "LS506" in result.stdout or format_ == "csv"
    html = page.read_text("utf-8")
    assert "16 of 17 tensors are identical" in html
    assert "What changed" in html
    assert "layerscope diff" in html


def test_several_models_stand_side_by_side(tmp_path: Path) -> None:
    base = transformer()
    files = [write(tmp_path, "b", base)]
    for size in (0.01, 0.02):
        tuned = {name: value + size * torch.randn_like(value) for name, value in base.items()}
        files.append(write(tmp_path, f"t{size}", tuned))
    lines = cli("diff", *files, "-q", COLUMNS="100").stdout.splitlines()
    row = next(line.split() for line in lines if line.startswith("attention query"))
    assert float(row[4]) == pytest.approx(2 * float(row[2]), rel=0.15)
    assert sum(line.startswith("17 of 17") or "0 of 17 tensors are identical" in line for line in lines) == 2


def test_a_saved_diff_is_judged_and_shown_as_a_diff(tmp_path: Path) -> None:
    base = transformer()
    tuned, name = dict(base), "model.layers.2.self_attn.q_proj.weight"
    tuned[name] = base[name] + update((96, 96), 4, 0.5, seed=1)
    report = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", tuned))
    report.save(tmp_path / "d.layerscope")
    assert layerscope.analyze(tmp_path / "d.layerscope").findings == report.findings
    text = cli("analyze", tmp_path / "d.layerscope", "-q").stdout
    assert "16 of 17 tensors are identical" in text
    assert "LS506" in text
    assert "16 of 17 tensors are identical" in repr(report)


LOSSES = {"train": {"base": 1}}  # without numbers


@pytest.mark.parametrize(
    "pair",
    [[], {"base": "b"}, {"base": "b", "tuned": 3}, {"base": "b", "tuned": "t", "losses": 1},
     {"base": "b", "tuned": "t", "losses": LOSSES}],
)  # fmt: skip
def test_a_tampered_diff_is_unreadable(tmp_path: Path, pair: Any) -> None:
    from layerscope.persistence import report_json

    base = transformer(blocks=1)
    text = layerscope.diff(write(tmp_path, "b", base), write(tmp_path, "t", base)).to_json()
    assert report_json.from_json(text).meta["diff"]["base"].endswith("b.safetensors")
    plain = json.loads(text)
    plain["meta"]["diff"] = pair
    with pytest.raises(Unreadable, match="damaged"):
        report_json.from_json(json.dumps(plain))
