"""Adapters on their base, merged and not: PEFT is the oracle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import layerscope
from tests.audits.model_files import codes, facts, write
from tests.command_line import cli
from tests.requirements import require

torch = require("torch")


class Block(torch.nn.Module):
    """A module whose tensors have the names of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)
        self.down_proj = torch.nn.Linear(64, 48, bias=False)

    def forward(self, x: Any) -> Any:
        return self.down_proj(torch.relu(self.v_proj(self.q_proj(x))))


class Net(torch.nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([Block(), Block()])

    def forward(self, x: Any) -> Any:
        return x


@pytest.fixture(params=["lora", "rslora", "dora", "pissa"])
def adapted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, str, str]:
    """Files of a base, its adapter and the merged model, and the kind of the adapter."""
    peft = require("peft")
    net = Net()
    base = write(tmp_path, "base", net.state_dict())
    config = peft.LoraConfig(r=6, lora_alpha=12, target_modules=["q_proj", "v_proj"], lora_dropout=0.0,
                             use_rslora=request.param == "rslora", use_dora=request.param == "dora",
                             init_lora_weights="pissa" if request.param == "pissa" else True)  # fmt: skip
    model = peft.get_peft_model(net, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn_like(parameter))
                if "v_proj" in name:
                    parameter[:, 2:] = 0  # v_proj uses two of its six directions
    model.save_pretrained(tmp_path / "adapter")
    merged = write(tmp_path, "merged", model.merge_and_unload().state_dict())
    return base, str(tmp_path / "adapter"), merged, request.param


def test_a_merged_adapter_is_recognized_with_its_rank_and_scale(adapted: tuple[str, str, str, str]) -> None:
    base, adapter, merged, kind = adapted
    report = layerscope.diff(base, merged, adapter=adapter)
    changed = {row.name: facts(report, row.name) for row in report.rows if not row.skipped}
    assert set(changed) == {f"layers.{i}.{name}.weight" for i in range(2) for name in ("q_proj", "v_proj")}
    assert [numbers["merge_scale"] for numbers in changed.values()] == pytest.approx([1] * 4, abs=1e-3)
    assert not codes(report) & {"LS502", "LS503"}
    if kind in ("lora", "rslora"):  # DoRA's magnitudes change every row; PiSSA changes the base too
        ranks = {name: numbers["exact_rank"] for name, numbers in changed.items()}
        assert ranks == {name: 6 if "q_proj" in name else 2 for name in changed}


def test_an_adapter_that_was_not_merged_or_at_another_scale_is_an_error(
    adapted: tuple[str, str, str, str], tmp_path: Path
) -> None:
    base, adapter, merged, _ = adapted
    report = layerscope.diff(base, base, adapter=adapter)
    assert "is not merged" in next(f.message for f in report.findings if f.code == "LS502")
    load = require("safetensors.torch").load_file
    before, after = load(base), load(merged)
    twice = {name: value + (value - before[name]) for name, value in after.items()}
    twice["layers.0.down_proj.weight"] = twice["layers.0.down_proj.weight"] + 0.1
    report = layerscope.diff(base, write(tmp_path, "twice", twice), adapter=adapter)
    assert "merged at 2.00 times" in next(f.message for f in report.findings if f.code == "LS502")
    assert "layers.0.down_proj.weight" in next(f.message for f in report.findings if f.code == "LS503")


def test_an_adapter_on_its_base_is_measured_without_forming_the_product(adapted: tuple[str, str, str, str]) -> None:
    base, adapter, merged, kind = adapted
    report = layerscope.diff(base, adapter)
    rows = [row for row in report.rows if not row.skipped]
    assert len(rows) == 4
    load = require("safetensors.torch").load_file
    before, after = load(base), load(merged)
    for row in rows:
        name = row.name.removesuffix(".lora") + ".weight"
        name = name[name.index("layers.") :]
        change = float((after[name] - before[name]).norm() / before[name].norm())
        assert row.metrics["relative_change"] == pytest.approx(change, rel=1e-4)
        if kind in ("lora", "rslora"):  # the update of the others is more than s·B·A, so it is measured merged
            assert row.metrics["adapter_rank"] == 6
            assert row.metrics["rank_99"] <= (6 if "q_proj" in name else 2)


def test_an_untrained_adapter_is_dead(tmp_path: Path) -> None:
    peft = require("peft")
    net = Net()
    base = write(tmp_path, "base", net.state_dict())
    model = peft.get_peft_model(net, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    report = layerscope.diff(base, str(tmp_path / "adapter"))
    assert [finding.code for finding in report.findings] == ["LS501", "LS501"]


def test_an_adapter_of_another_model_is_one_line(adapted: tuple[str, str, str, str], tmp_path: Path) -> None:
    _, adapter, _, _ = adapted
    other = write(tmp_path, "other", {"encoder.weight": torch.randn(8, 8)})
    result = cli("diff", other, adapter, "-q")
    assert result.returncode != 0
    assert len(result.stderr.strip().splitlines()) == 1


def test_peft_accepts_the_config_and_the_ranks_are_those_needed(adapted: tuple[str, str, str, str]) -> None:
    base, _, merged, kind = adapted
    peft = require("peft")
    written = json.loads(cli("diff", base, merged, "-q", "--emit", "peft").stdout)
    config = peft.LoraConfig(**{key: value for key, value in written.items() if key != "peft_type"})
    model = peft.get_peft_model(Net(), config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if "lora_A" in name}
    ranks = {name.split("layers.")[1][:8]: shape[0] for name, shape in shapes.items()}
    needed = {f"{i}.{name}": rank for i in range(2) for name, rank in (("q_proj", 6), ("v_proj", 2))}
    assert ranks.keys() == needed.keys()
    assert ranks == needed or kind in ("dora", "pissa")  # their updates have other ranks than their factors


def test_the_unfrozen_parameters_are_those_that_changed(adapted: tuple[str, str, str, str]) -> None:
    base, _, merged, _ = adapted
    text = cli("diff", base, merged, "-q", "--emit", "unfreeze").stdout
    patterns = [json.loads(line.removeprefix("  - ")) for line in text.splitlines()[1:]]
    matched = {name for name in Net().state_dict() if any(re.match(pattern, name) for pattern in patterns)}
    assert matched == {f"layers.{i}.{name}.weight" for i in range(2) for name in ("q_proj", "v_proj")}
