"""What is no weight is not judged as one: optimizer state, second copies, buffers, lookup tables, adapter factors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UsageError
from layerscope.sources.inventory import not_weights
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
