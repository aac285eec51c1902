"""Targets made of targets: differences, adapters, products, stacks; heads and slices as rows of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import TargetError, Unreadable, UsageError
from tests.command_line import cli
from tests.requirements import require

Arrays = dict[str, np.ndarray]


def save(path: Path, arrays: Arrays) -> Path:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def evals(report: layerscope.Report, name: str) -> np.ndarray:
    spectrum = report.layers[name].spectrum
    assert spectrum is not None, report.layers[name].skipped
    return spectrum.evals


def squares(matrix: np.ndarray) -> np.ndarray:
    return np.sort(np.linalg.svd(matrix.astype(np.float64), compute_uv=False)) ** 2


# ---------------------------------------------------------------------------------------------------- differences


def test_a_difference_is_matched_by_name_and_everything_else_is_listed(weights: Arrays, rng: Any) -> None:
    tuned = {f"module.{name}": array + 0.01 for name, array in reversed(weights.items())}
    tuned["module.fc1.weight"] = weights["fc1.weight"]
    tuned["module.head.weight"] = rng.standard_normal((12, 64))
    tuned["module.new.weight"] = rng.standard_normal((70, 64))
    del tuned["module.embed.weight"]
    report = layerscope.analyze(tuned, base=weights)
    changed = evals(report, "module.conv.weight")
    difference = tuned["module.conv.weight"] - weights["conv.weight"]
    assert changed == pytest.approx(
        np.sort([squares(difference[:, :, i, j]) for i in range(3) for j in range(3)], axis=None)
    )
    reasons = {row.name: row.skipped for row in report.rows}
    assert reasons["module.fc1.weight"] == "unchanged from the base model"
    assert not report.layers["module.fc1.weight"].failed
    assert reasons["module.head.weight"] == "its shape is 12×64, but 10×64 in the base model"
    assert reasons["module.new.weight"] == "the base model has no layer with this name"
    assert reasons["embed.weight"] == "only in the base model"
    assert "minus" in report.meta["target"]


def test_models_without_a_common_layer_are_refused(weights: Arrays) -> None:
    other = {f"x{i}.weight": array for i, array in enumerate(weights.values())}
    with pytest.raises(Unreadable, match=r"no layer in common: x0\.weight.* against embed"):
        layerscope.analyze(other, base=weights)


def test_differences_travel_to_other_processes(tmp_path: Path, weights: Arrays) -> None:
    a = save(tmp_path / "a.safetensors", weights)
    b = save(tmp_path / "b.safetensors", {name: array + 0.1 for name, array in weights.items()})
    reports = [layerscope.analyze(b, base=a, engine=engine) for engine in ("serial", "processes")]
    assert [row.metrics for row in reports[0].rows] == [row.metrics for row in reports[1].rows]


# ---------------------------------------------------------------------------------------------------- adapters


@pytest.fixture
def base(rng: np.random.Generator) -> Arrays:
    return {"layers.0.q_proj.weight": rng.standard_normal((60, 80)).astype(np.float32),
            "layers.0.v_proj.weight": rng.standard_normal((60, 80)).astype(np.float32),
            "layers.0.norm.weight": np.ones(80, np.float32),
            "embed.weight": rng.standard_normal((300, 80)).astype(np.float32),
            "head.weight": rng.standard_normal((10, 80)).astype(np.float32)}  # fmt: skip


def adapter(folder: Path, rng: np.random.Generator, config: dict[str, Any] | None = None, rank: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    stem = "base_model.model.layers.0.q_proj"
    save(
        folder / "adapter_model.safetensors",
        {f"{stem}.lora_A.weight": rng.standard_normal((rank, 80)).astype(np.float32),
         f"{stem}.lora_B.weight": rng.standard_normal((60, rank)).astype(np.float32),
         "base_model.model.embed.lora_embedding_A": rng.standard_normal((4, 300)).astype(np.float32),
         "base_model.model.embed.lora_embedding_B": rng.standard_normal((80, 4)).astype(np.float32),
         "base_model.model.head.weight": rng.standard_normal((10, 80)).astype(np.float32)},
    )  # fmt: skip
    config = {"r": rank, "lora_alpha": 16} if config is None else config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def factors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from safetensors.numpy import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    stem = "base_model.model.layers.0.q_proj.lora_"
    return tensors[f"{stem}A.weight"], tensors[f"{stem}B.weight"]


@pytest.mark.parametrize(
    ("config", "scale"),
    [({"r": 8, "lora_alpha": 16}, 2.0), ({"r": 8, "lora_alpha": 16, "use_rslora": True}, 16 / 8**0.5),
     ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"q_proj": 4}}, 0.5),
     ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"proj": 2, "q_proj": 4, "layers.0.q_proj": 32}}, 0.5),
     ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"layers.0.q_proj": 32, "q_proj": 4}}, 4.0),
     ({"r": 4, "lora_alpha": 16, "rank_pattern": {"layers.0.q_proj": 8}}, 2.0)],
)  # fmt: skip
def test_an_adapter_alone_has_the_spectrum_of_the_product(
    tmp_path: Path, rng: np.random.Generator, config: dict[str, Any], scale: float
) -> None:
    folder = adapter(tmp_path / "a", rng, config)
    a, b = factors(folder)
    report = layerscope.analyze(folder)
    assert report.meta["format"] == "lora"
    expected = squares(scale * b.astype(np.float64) @ a)[-8:]
    layer = report.layers["layers.0.q_proj.lora"]
    assert evals(report, layer.name) == pytest.approx(expected)
    assert (layer.spectrum.n, layer.spectrum.m, layer.metrics["matrix_rank"]) == (80, 60, 8)
    assert layer.metrics["norm"] == pytest.approx(expected.sum())
    assert "no random bulk" in layer.absent["num_spikes"]
    assert layer.ref.how == f"{scale:.4g}·B·A of rank 8"
    assert len(evals(report, "embed.lora")) == 4


def test_an_adapter_on_its_base_is_the_whole_matrix(tmp_path: Path, rng: np.random.Generator, base: Arrays) -> None:
    folder = adapter(tmp_path / "a", rng)
    a, b = factors(folder)
    report = layerscope.analyze(folder, base=base)
    merged = base["layers.0.q_proj.weight"].astype(np.float64) + 2 * b.astype(np.float64) @ a
    assert evals(report, "layers.0.q_proj.weight") == pytest.approx(squares(merged))
    reasons = {row.name: row.skipped for row in report.rows}
    assert reasons["layers.0.v_proj.weight"] == "not adapted"
    assert reasons["embed.weight"] == ""
    assert report.layers["head.weight"].ref.how == "replaced by the adapter's weight"
    with pytest.raises(Unreadable, match="has none of the adapted modules"):
        layerscope.analyze(folder, base={"other.weight": np.eye(60)})


def test_dora_is_renormalised_row_by_row(tmp_path: Path, rng: np.random.Generator, base: Arrays) -> None:
    folder = tmp_path / "dora"
    folder.mkdir()
    a, b, m = rng.standard_normal((4, 80)), rng.standard_normal((60, 4)), rng.random(60) + 1
    stem = "base_model.model.layers.0.q_proj.lora_"
    save(
        folder / "adapter_model.safetensors", {f"{stem}A.weight": a, f"{stem}B.weight": b, f"{stem}magnitude_vector": m}
    )
    (folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
    whole = base["layers.0.q_proj.weight"].astype(np.float64) + b @ a
    whole *= (m / np.linalg.norm(whole, axis=1))[:, None]
    assert evals(layerscope.analyze(folder, base=base), "layers.0.q_proj.weight") == pytest.approx(squares(whole))
    assert "without DoRA" in layerscope.analyze(folder).layers["layers.0.q_proj.lora"].ref.how


def test_adapters_of_convolutions_and_of_too_high_a_rank(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    a, b = rng.standard_normal((4, 8, 3, 3)), rng.standard_normal((16, 4, 1, 1))
    tall_a, tall_b = rng.standard_normal((100, 30)), rng.standard_normal((60, 100))
    save(
        folder / "adapter_model.safetensors",
        {"m.conv.lora_A.weight": a, "m.conv.lora_B.weight": b, "m.fc.lora_A.weight": tall_a,
         "m.fc.lora_B.weight": tall_b,
         "m.half.lora_A.weight": a, "m.odd.lora_A.weight": tall_a, "m.odd.lora_B.weight": b[:, :, 0, 0],
         "m.none.lora_A.weight": np.zeros((0, 30)), "m.none.lora_B.weight": np.zeros((60, 0))},
    )  # fmt: skip
    (folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
    report = layerscope.analyze(folder)
    whole = np.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
    assert evals(report, "m.conv.lora") == pytest.approx(
        np.sort([squares(whole[:, :, i, j]) for i in range(3) for j in range(3)], axis=None), abs=1e-9
    )
    assert evals(report, "m.fc.lora") == pytest.approx(squares(tall_b @ tall_a * 4 / 100))
    assert "above the matrix's maximum (30)" in report.layers["m.fc.lora"].ref.how
    reasons = {row.name: row.skipped for row in report.rows}
    assert reasons["m.half.lora"] == "its factor B is missing"
    assert reasons["m.odd.lora"] == "A has rank 100, but B has rank 4"
    assert reasons["m.none.lora"] == "rank 0: an adapter without parameters"


@pytest.mark.parametrize(
    ("config", "message"),
    [(None, "has no adapter_config.json"), ("{", "is not JSON"), ("[]", "not a JSON object"), ("{}", "lora_alpha"),
     ('{"lora_alpha": "x"}', "lora_alpha"), ('{"lora_alpha": 1, "alpha_pattern": {"q_proj": "x"}}', "scale"),
     ('{"lora_alpha": 1, "alpha_pattern": {"layers.[0-9]+.q_proj": 2}}', "regular expression, which is not run"),
     ('{"lora_alpha": true}', "lora_alpha"), ('{"lora_alpha": 1, "use_rslora": "false"}', "use_rslora")],
)  # fmt: skip
def test_adapters_that_do_not_say_their_scale_are_refused(
    tmp_path: Path, rng: np.random.Generator, config: str | None, message: str
) -> None:
    folder = adapter(tmp_path / "a", rng)
    (folder / "adapter_config.json").unlink()
    if config is not None:
        (folder / "adapter_config.json").write_text(config)
    for target in (folder, folder / "adapter_model.safetensors"):
        with pytest.raises(TargetError, match=message):
            layerscope.analyze(target)


def test_patterns_of_a_stranger_are_not_run_as_patterns(tmp_path: Path, rng: np.random.Generator) -> None:
    evil = {"r": 8, "lora_alpha": 8, "rank_pattern": {"(a+)+$" * 50: 4}, "alpha_pattern": {".*q_proj": 16}}
    report = layerscope.analyze(adapter(tmp_path / "a", rng, evil))
    assert report.layers["layers.0.q_proj.lora"].ref.how.startswith("2·B·A")


# ---------------------------------------------------------------------------------------------------- products, stacks


def test_products_of_consecutive_layers(rng: np.random.Generator) -> None:
    a, b, c = rng.standard_normal((70, 60)), rng.standard_normal((80, 70)), rng.standard_normal((9, 3))
    report = layerscope.analyze({"a.weight": a, "b.weight": b, "c.weight": c}, intra=True)
    assert evals(report, "b.weight · a.weight") == pytest.approx(squares(b @ a))
    assert report.layers["c.weight · b.weight"].skipped == "b.weight has 80 outputs, but c.weight has 3 inputs"
    embedding = rng.standard_normal((200, 60))
    report = layerscope.analyze({"embed.weight": embedding, "a.weight": a}, intra=True)
    assert evals(report, "a.weight · embed.weight")[-60:] == pytest.approx(squares(a @ embedding.T)[-60:], rel=1e-6)
    with pytest.raises(Unreadable, match="fit together"):
        layerscope.analyze({"a.weight": a}, intra=True)


def test_all_layers_in_one_matrix(rng: np.random.Generator) -> None:
    a, conv = 100 * rng.standard_normal((70, 60)), 3 + rng.standard_normal((20, 5, 2, 2))
    report = layerscope.analyze({"a.weight": a, "conv.weight": conv}, stacked=True)
    blocks = [a, np.concatenate([conv[:, :, i, j] for i in range(2) for j in range(2)], axis=1)]
    scaled = [(w - np.median(w)) / np.median(np.abs(w - np.median(w))) for w in blocks]
    whole = np.concatenate([np.pad(w, ((0, 0), (0, 60 - w.shape[1]))) for w in scaled])
    assert evals(report, "all layers") == pytest.approx(squares(whole))
    assert {row.skipped for row in report.rows[1:]} == {"stacked in 'all layers'"}
    constant = layerscope.analyze({"a.weight": np.ones((60, 60))}, stacked=True)
    assert "its median absolute deviation is 0 or not finite" in constant.rows[0].skipped


# ---------------------------------------------------------------------------------------------------- slices, heads


def test_a_row_per_matrix_without_pooling(rng: np.random.Generator) -> None:
    conv = rng.standard_normal((64, 60, 2, 2))
    report = layerscope.analyze({"conv.weight": conv, "fc.weight": conv[:, :, 0, 0]}, pool=False, randomize=True)
    assert [row.name for row in report.rows] == [*(f"conv.weight[{i}]" for i in range(4)), "fc.weight"]
    for i in range(4):
        assert evals(report, f"conv.weight[{i}]") == pytest.approx(squares(conv[:, :, i // 2, i % 2]))
    again = layerscope.Report.from_json(report.to_json())
    assert [row.metrics for row in again.rows] == [row.metrics for row in report.rows]
    distances = [row.metrics["rand_distance"] for row in report.rows]
    assert len(set(distances)) == 5


def test_saved_rows_per_matrix_keep_their_spectra(tmp_path: Path, rng: np.random.Generator) -> None:
    report = layerscope.analyze({"conv.weight": rng.standard_normal((64, 60, 2, 2))}, pool=False)
    report.save(tmp_path / "r.layerscope")
    again = layerscope.load(tmp_path / "r.layerscope")
    for row, loaded in zip(report.rows, again.rows, strict=True):
        assert (row.spectrum.evals == loaded.spectrum.evals).all()


def test_attention_head_by_head(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {f"model.layers.0.self_attn.{x}_proj.weight": rng.standard_normal((n, 128)).astype(np.float32)
              for x, n in (("q", 128), ("k", 64), ("v", 64), ("o", 128))}  # fmt: skip
    arrays["model.layers.0.mlp.up_proj.weight"] = rng.standard_normal((256, 128)).astype(np.float32)
    save(tmp_path / "model.safetensors", arrays)
    config = {"model_type": "llama", "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = layerscope.analyze(tmp_path, per_head=True)
    counts = {row.name.split(".")[-2]: row.spectrum.k for row in report.rows}
    assert counts == {"q_proj": 8, "k_proj": 4, "v_proj": 4, "o_proj": 8, "up_proj": 1}
    rows = layerscope.analyze(tmp_path, per_head=True, pool=False)
    q, o = (arrays[f"model.layers.0.self_attn.{x}_proj.weight"] for x in "qo")
    assert evals(rows, "model.layers.0.self_attn.q_proj.weight[3]") == pytest.approx(squares(q[48:64]))
    assert evals(rows, "model.layers.0.self_attn.o_proj.weight[3]") == pytest.approx(squares(o[:, 48:64]))


def test_heads_of_a_live_attention() -> None:
    torch = require("torch")
    attention = torch.nn.MultiheadAttention(64, 4)
    report = layerscope.analyze(attention, per_head=True)
    assert [row.spectrum.k for row in report.rows if row.spectrum] == [4, 4, 4, 4]
    out = attention.out_proj.weight.detach().numpy()
    pooled = np.sort(np.concatenate([squares(out[:, 16 * i : 16 * i + 16]) for i in range(4)]))
    assert evals(report, "out_proj.weight") == pytest.approx(pooled)


# ---------------------------------------------------------------------------------------------------- other options


def test_the_inverse_spectrum(rng: np.random.Generator) -> None:
    w = rng.standard_normal((90, 60))
    report = layerscope.analyze({"w.weight": w, "low.weight": w[:, :55] @ w[:60, :55].T}, inverse=True)
    assert evals(report, "w.weight") == pytest.approx(np.sort(1 / squares(w)))
    assert len(evals(report, "low.weight")) == 55
    assert "no random bulk" in report.layers["w.weight"].absent["num_spikes"]


def test_limits_on_the_number_of_eigenvalues(weights: Arrays) -> None:
    report = layerscope.analyze(weights, max_evals=100)
    assert report.layers["conv.weight"].skipped == "144 eigenvalues, more than max_evals = 100"
    assert report.layers["fc1.weight"].skipped == ""


def test_negated_filters(weights: Arrays) -> None:
    def selected(*layers: Any) -> set[str]:
        report = layerscope.describe(weights, layers=list(layers))
        return {row.name.removesuffix(".weight") for row in report.rows if not row.skipped}

    assert selected("-embedding") == {"fc1", "conv", "head"}
    assert selected("!*c*", "-head") == {"embed"}
    assert selected(-1) == {"embed", "conv", "head"}
    assert selected("*", "-fc1", "-conv.weight") == {"embed", "head"}
    assert selected("conv2d") == {"conv"}
    with pytest.raises(UsageError, match="leave no layer"):
        selected("conv", "-conv2d")
    with pytest.raises(UsageError, match="match no layer"):
        selected("-nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"intra": True, "stacked": True}, "be combined"), ({"inverse": True, "randomize": True}, "be combined"),
     ({"max_evals": 10}, "smaller than min_evals"), ({"xmin_max": 3.0}, "xmin_peak"), ({"shuffles": -1}, "at least 0"),
     ({"spike_rate": 0.5}, "spike_rate"), ({"windw": 3}, "did you mean 'window'"), ({"window": -1}, "at least 0"),
     ({"fits": ("powerlaw",)}, "did you mean 'power_law'"),
     ({"drop_top": True}, "drop_top"), ({"fix_fingers": "clip"}, "fix_fingers"), ({"pool": 1}, "pool")],
)  # fmt: skip
def test_options_that_are_wrong_or_contradict_each_other(weights: Arrays, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layerscope.analyze(weights, **options)


def test_options_on_the_command_line(tmp_path: Path, weights: Arrays) -> None:
    a = save(tmp_path / "a.safetensors", weights)
    b = save(tmp_path / "b.safetensors", {name: array + 0.1 for name, array in weights.items()})

    done = cli("analyze", b, "--base", a, "--randomize", "--mp", "--window", 20, "--vectors", "--layers", "-embedding")
    assert done.returncode == 0, done.stderr
    assert "mp.sr" in done.stdout
    assert "traps" in done.stdout
    assert cli("analyze", a, "--stacked", "--dry-run").returncode == 0
    assert "[3]" in cli("describe", a, "--no-pool").stdout
    for wrong in (["--shuffles", "3"], ["--intra", "--stacked"], ["--fix-fingers", "x"], ["--base", "nowhere"]):
        done = cli("analyze", a, *wrong)
        assert done.returncode in (2, 3)
        assert len(done.stderr.strip().splitlines()) <= 1 or "Usage" in done.stderr
        assert "Traceback" not in done.stderr


def test_two_adapters_of_one_module_are_not_added_silently(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"m.q.lora_{x}.{name}.weight": rng.standard_normal((4, 60) if x == "A" else (50, 4))
               for x in "AB" for name in ("one", "my_default")}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
    save(tmp_path / "adapter_model.safetensors", tensors)
    assert [row.name for row in layerscope.analyze(tmp_path).rows] == ["m.q.lora.my_default", "m.q.lora.one"]
    with pytest.raises(Unreadable, match="analyze one adapter at a time"):
        layerscope.analyze(tmp_path, base={"m.q.weight": rng.standard_normal((50, 60))})


def test_adapters_are_compared_by_their_products(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 60)), rng.standard_normal((50, 8))
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    for name, (first, second) in {"x": (a, b), "y": (turn @ a, b @ turn.T)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 8}')
        save(tmp_path / name / "adapter_model.safetensors", {"q.lora_A.weight": first, "q.lora_B.weight": second})
    distances = layerscope.compare(tmp_path / "x", tmp_path / "y").layers[0].distances[1]
    assert distances["relative"] == pytest.approx(0, abs=1e-12)
    assert distances["overlap"] == pytest.approx(1)
    delta = layerscope.analyze(tmp_path / "x", base=tmp_path / "y", layers=["*"])
    assert float(delta.rows[0].metrics.get("norm", 0.0)) < 1e-20
