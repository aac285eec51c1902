"""What is no weight is not judged as one: optimizer state, second copies, buffers, lookup tables, adapter factors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable, UsageError
from layerscope.records.layers import UNSURE
from layerscope.sources.inventory import not_weights
from layerscope.views.rerun_command import report_command
from tests.command_line import cli
from tests.requirements import require


def analyzed(target: Any, **options: Any) -> list[str]:
    return [row.name for row in layerscope.analyze(target, min_evals=5, **options).rows if not row.skipped]


def kinds(*names: str, shape: tuple[int, ...] = (60, 50)) -> dict[str, str]:
    return {name: kind for name, (kind, _) in not_weights(dict.fromkeys(names, shape)).items()}


def test_optimizer_state_beside_the_model(tmp_path: Path) -> None:
    torch: Any = require("torch")
    start = torch.nn.Linear(64, 128)
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = copy.deepcopy(start)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(3):
            (net(torch.randn(8, 64)) * 100).pow(2).mean().backward()
            optimizer.step()
        state = {
            "net_g": net.state_dict(),
            "g_optim": optimizer.state_dict(),
            "actor_optimizer": optimizer.state_dict(),
        }
        torch.save(state, tmp_path / f"{seed}.pt")
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]).numpy())
    assert [row.name for row in layerscope.describe(tmp_path / "1.pt").rows] == ["net_g.weight", "net_g.bias"]
    found = layerscope.distances([tmp_path / "1.pt", tmp_path / "2.pt"]).matrix("l2")[0, 1]
    assert found == pytest.approx(float(np.linalg.norm(weights[0] - weights[1])), rel=1e-5)


@pytest.mark.parametrize(
    "name",
    ["opt.state.0.exp_avg", "g_optim.state.3.exp_avg_sq", "sgd/state/1/momentum_buffer", "rms.state.0.square_avg"],
)
def test_leaves_of_optimizers_in_any_format(name: str) -> None:
    assert kinds("model.fc.weight", name) == {name: "optimizer"}


def test_two_trees_of_optax() -> None:
    names = ["params.Dense_0.kernel", "1.0.mu.Dense_0.kernel", "1.0.nu.Dense_0.kernel"]
    assert kinds(*names) == {names[1]: "optimizer", names[2]: "optimizer"}
    assert kinds("mu.weight", "fc.nu.weight") == {}  # names of layers


def test_a_second_copy_is_skipped_and_can_be_chosen(tmp_path: Path) -> None:
    torch: Any = require("torch")
    weight = torch.randn(96, 80)
    name, ema = "model.diffusion_model.a.to_q.weight", "model_ema.diffusion_modelato_qweight"
    torch.save({"state_dict": {name: weight, ema: 2 * weight}}, tmp_path / "sd.ckpt")
    report = layerscope.analyze(tmp_path / "sd.ckpt")
    assert [row.name for row in report.rows if not row.skipped] == [name]
    assert "--select model_ema" in report.layers[ema].skipped
    chosen = layerscope.analyze(tmp_path / "sd.ckpt", select="ema")
    assert [row.name for row in chosen.rows] == [ema]
    ratio = chosen.layers[ema].metrics["lambda_max"] / report.layers[name].metrics["lambda_max"]
    assert ratio == pytest.approx(4.0, rel=1e-5)
    chosen.save(tmp_path / "r.layerscope")
    again = layerscope.load(tmp_path / "r.layerscope")
    assert report_command(again).endswith("--select=ema")
    others = layerscope.analyze(tmp_path / "sd.ckpt", select="ema", engine="processes")
    assert [row.metrics for row in others.rows] == [row.metrics for row in again.rows]
    done = cli("analyze", tmp_path / "sd.ckpt", "--select", "model_ema", "-f", "csv")
    assert ema in done.stdout
    wrong = cli("analyze", tmp_path / "sd.ckpt", "--select", "emma")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "--select 'emma' matches no tensor; the checkpoint has the parts model, model_ema" in wrong.stderr


@pytest.mark.parametrize(
    ("original", "second"),
    [
        ("g.conv.weight", "g_ema.conv.weight"), ("student.fc.weight", "teacher.fc.weight"),
        ("params/Dense_0/kernel", "ema_params/Dense_0/kernel"), ("encoder_q.fc.weight", "encoder_k.fc.weight"),
        ("module.encoder.fc.weight", "module.momentum_encoder.fc.weight"), ("q.fc.weight", "target_network.fc.weight"),
        ("model.fc.weight", "callbacks.ema.fc.weight"),
    ],
)  # fmt: skip
def test_copies_under_any_of_their_names(original: str, second: str) -> None:
    assert kinds(original, second) == {second: "copy"}
    assert kinds(second) == {}  # alone in the file it is the model


def test_what_only_looks_like_a_copy_is_a_model() -> None:
    assert kinds("source.fc.weight", "target.fc.weight") == {}
    shapes = {"net.fc.weight": (60, 50), "ema.fc.weight": (60, 40)}
    assert not_weights(shapes) == {}
    assert kinds("schema.fc.weight", "x.fc.weight", "cinema.y.weight") == {}


def test_buffers_of_a_pickled_module_and_of_a_state_dict(tmp_path: Path) -> None:
    torch: Any = require("torch")
    net = torch.nn.Linear(40, 60)
    net.register_buffer("causal_mask", torch.tril(torch.ones(60, 60)))
    net.register_buffer("unusual", torch.randn(50, 40))
    torch.save(net, tmp_path / "whole.pt")
    assert analyzed(tmp_path / "whole.pt") == analyzed(net) == ["weight"]
    assert kinds("module.queue", "encoder.pe", "attn.causal_mask") == {
        "module.queue": "buffer", "encoder.pe": "buffer", "attn.causal_mask": "buffer"
    }  # fmt: skip


def test_state_space_parameters_and_adapter_factors() -> None:
    assert kinds("l.0.mixer.A_log", "l.0.mixer.in_proj.weight") == {"l.0.mixer.A_log": "state space"}
    factors = ["u.lora_down.weight", "u.lora_up.weight", "v.hada_w1_a", "v.hada_w2_b", "w.lokr_w1", "w.lokr_w2_a"]
    assert set(kinds(*factors)) == set(factors)


def test_select_needs_tensors_by_name() -> None:
    with pytest.raises(UsageError, match="matches no tensor; the checkpoint has the parts a, b"):
        layerscope.analyze({"a.w": np.ones((3, 3)), "b.w": np.ones((3, 3))}, select="c")
    report = layerscope.describe({"a.w": np.ones((3, 3)), "b.w": np.ones((3, 3))}, select="b")
    assert [row.name for row in report.rows] == ["b.w"]


@pytest.mark.parametrize("names", [("lora_down.weight", "lora_up.weight"), ("lora.down.weight", "lora.up.weight")])
def test_kohya_s_adapters_are_formed(tmp_path: Path, names: tuple[str, str]) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    down, up = rng.standard_normal((16, 80)).astype(np.float32), rng.standard_normal((60, 16)).astype(np.float32)
    tensors = {f"lora_unet_x_to_q.{names[0]}": down, f"lora_unet_x_to_q.{names[1]}": up}
    save_file({**tensors, "lora_unet_x_to_q.alpha": np.array(8.0, np.float32)}, tmp_path / "kohya.safetensors")
    report = layerscope.analyze(tmp_path / "kohya.safetensors", min_evals=5)
    (row,) = [row for row in report.rows if not row.skipped]
    assert (row.name, row.ref.shape, row.ref.rank) == ("lora_unet_x_to_q.lora", (60, 80), 16)
    expected = np.linalg.svd(8 / 16 * up.astype(np.float64) @ down, compute_uv=False)[:16] ** 2
    np.testing.assert_allclose(np.sort(row.spectrum.evals), np.sort(expected), rtol=1e-6)
    save_file(tensors, tmp_path / "plain.safetensors")
    plain = layerscope.analyze(tmp_path / "plain.safetensors", min_evals=5)
    assert plain.layers[row.name].metrics["lambda_max"] == pytest.approx(4 * row.metrics["lambda_max"])
    assert "states no alpha" in plain.layers[row.name].ref.how


def test_gguf_adapters_are_formed_and_imatrix_files_named(tmp_path: Path) -> None:
    gguf = require("gguf")
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 40)).astype(np.float32), rng.standard_normal((30, 4)).astype(np.float32)
    for kind in ("adapter", "imatrix"):
        writer = gguf.GGUFWriter(tmp_path / f"{kind}.gguf", "llama")
        writer.add_string("general.type", kind)
        writer.add_float32("adapter.lora.alpha", 8.0)
        writer.add_tensor("blk.0.attn_q.weight.lora_a", a)
        writer.add_tensor("blk.0.attn_q.weight.lora_b", b)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    report = layerscope.analyze(tmp_path / "adapter.gguf", min_evals=2)
    (row,) = [row for row in report.rows if not row.skipped]
    expected = np.linalg.svd(8 / 4 * b.astype(np.float64) @ a, compute_uv=False)[0] ** 2
    assert row.metrics["lambda_max"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(Unreadable, match="an importance matrix"):
        layerscope.describe(tmp_path / "imatrix.gguf")


def test_bfloat16_in_npz(tmp_path: Path) -> None:
    ml_dtypes: Any = require("ml_dtypes")
    weight = np.random.default_rng(0).standard_normal((60, 50)).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "m.npz", **{"fc.weight": weight})
    report = layerscope.analyze(tmp_path / "m.npz")
    assert report.layers["fc.weight"].ref.dtype == "bfloat16"
    expected = np.linalg.svd(weight.astype(np.float64), compute_uv=False)[0] ** 2
    assert report.layers["fc.weight"].metrics["lambda_max"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["fc.keep", "m", "attn.allowed", "conv.sparsity"])
def test_a_matrix_of_zeros_and_ones_is_a_mask_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random((60, 50)) > 0.5).astype(np.float32)
    weight = rng.normal(size=(60, 50)).astype(np.float32)
    for save in (np.savez, lambda path, **arrays: require("torch").save(_as_tensors(arrays), path)):
        path = tmp_path / f"model{'.npz' if save is np.savez else '.pt'}"
        save(path, **{"fc.weight": weight, name: mask})
        rows = {row.name: row for row in layerscope.describe(path).rows}
        assert rows[name].ref.kind == "mask"
        assert "by its values" in rows[name].skipped
        assert not rows["fc.weight"].skipped


def _as_tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    torch: Any = require("torch")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_almost_a_mask_is_a_matrix() -> None:
    almost = np.ones((3000, 500), np.float32)
    almost[0, 0], almost[-1, -1] = 0, 0.5
    assert analyzed({"m": almost}) == ["m"]
    assert analyzed({"zero": np.zeros((60, 50)), "one": np.ones((60, 50))}) == ["zero", "one"]


def test_a_name_that_does_not_say_weight_is_shown_as_unsure() -> None:
    rng = np.random.default_rng(0)
    report = layerscope.analyze({"fc.weight": rng.normal(size=(60, 50)), "bank": rng.normal(size=(60, 50))})
    assert {row.name: row.ref.how for row in report.rows} == {"fc.weight": "", "bank": UNSURE}
    assert "Unsure whether it is a weight, by name: bank" in repr(report)
    alone = layerscope.describe({"a": rng.normal(size=(60, 50)), "second": rng.normal(size=(60, 50))})
    assert not any(row.ref.how == UNSURE for row in alone.rows if row.name == "a")


@pytest.mark.parametrize("fill", [-1e4, -1e9, -np.inf])
def test_a_mask_that_is_added_to_scores(fill: float) -> None:
    mask = np.triu(np.full((60, 60), fill, np.float32), 1)
    model = {"fc.weight": np.random.default_rng(0).normal(size=(60, 50)), "attn.m2": mask}
    assert analyzed(model) == ["fc.weight"]
    assert {row.name: row.ref.kind for row in layerscope.describe(model).rows}["attn.m2"] == "mask"
    assert analyzed({"fc.weight": model["fc.weight"], "low": mask.clip(-2e3, 0) * np.arange(1, 61)}) != ["fc.weight"]


def test_copies_of_training_helpers(tmp_path: Path) -> None:
    torch: Any = require("torch")
    net = torch.nn.Linear(64, 96)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    shadow = [parameter.detach() + 1 for parameter in net.parameters()]
    files = {
        "ema_v2": {"model": net.state_dict(), "model_ema": averaged.state_dict()},
        "swa": {"model": net.state_dict(), "swa": averaged.state_dict()},
        "torch_ema": {"model": net.state_dict(), "ema": {"decay": 0.99, "shadow_params": shadow}},
        "shadow": {"state_dict": net.state_dict(), "shadow_params": shadow},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pt")
        assert analyzed(tmp_path / f"{name}.pt") == ["weight"], name
    whole = torch.nn.ModuleDict({"net": net, "ema": copy.deepcopy(net)})
    assert analyzed(whole) == ["net.weight"]
    assert "--select ema" in {row.name: row.skipped for row in layerscope.describe(whole).rows}["ema.weight"]


def test_live_state_space_parameters_are_skipped_as_in_files() -> None:
    torch: Any = require("torch")
    net = torch.nn.Module()
    net.in_proj, net.A_log = torch.nn.Linear(256, 512), torch.nn.Parameter(torch.randn(512, 64))
    assert analyzed(net) == analyzed(net.state_dict()) == ["in_proj.weight"]


def test_the_state_of_an_optimizer_alone_is_named(tmp_path: Path) -> None:
    torch: Any = require("torch")
    parameter = torch.nn.Parameter(torch.randn(64, 32))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.rand(64, 32)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    with pytest.raises(Unreadable, match="the state of an optimizer, not a model"):
        analyzed(tmp_path / "o.pt")
