"""Heads of attention, experts' gates, concatenations: their units are found, whatever form the code takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UsageError
from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
from layerscope.lenses.landscape.alignment.weight_matching import permute
from layerscope.sources.model_weights import weights_of
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

WIDTH, HEADS = 24, 4


def rotated(x: Any) -> Any:
    """Rotary embedding, halves paired."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / 100 ** (torch.arange(half, dtype=x.dtype) / half)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Grouped(nn.Module):
    """LLaMA's block: RMS norms, rotary positions, fewer heads of keys and values, a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.n1, self.n2 = nn.Embedding(30, WIDTH), nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, n, bias=False) for n in (WIDTH, WIDTH // 2, WIDTH // 2))
        self.o, self.gate, self.up = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 40), nn.Linear(WIDTH, 40)
        self.down, self.head = nn.Linear(40, WIDTH), nn.Linear(WIDTH, 30, bias=False)

    def forward(self, ids: Any) -> Any:
        x = self.emb(ids)
        y = self.n1(x)
        b, t, _ = y.shape
        q, k, v = (m(y).view(b, t, -1, WIDTH // HEADS).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = rotated(q), rotated(k)
        k, v = (z[:, :, None].expand(b, 2, 2, t, -1).reshape(b, HEADS, t, -1) for z in (k, v))
        a = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1))
        y = self.n2(x)
        return self.head(x + self.down(functional.silu(self.gate(y)) * self.up(y)))


class Fused(nn.Module):
    """GPT-2's block: one matrix for three projections, positions, a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.n = nn.Embedding(30, WIDTH), nn.LayerNorm(WIDTH)
        self.pos = nn.Parameter(torch.randn(1, 9, WIDTH))
        self.attn, self.bias = nn.Parameter(torch.randn(WIDTH, 3 * WIDTH) / 5), nn.Parameter(torch.randn(3 * WIDTH))
        self.proj, self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)

    def forward(self, ids: Any) -> Any:
        x = self.emb(ids) + self.pos[:, : ids.shape[1]]
        y = self.n(x)
        b, t, _ = y.shape
        made = torch.addmm(self.bias, y.reshape(-1, WIDTH), self.attn).view(b, t, -1)
        q, k, v = (z.view(b, t, HEADS, -1).transpose(1, 2) for z in made.split(WIDTH, 2))
        scores = (q @ k.transpose(-1, -2) / 3).masked_fill(torch.ones(t, t).triu(1).bool(), -1e9).softmax(-1)
        x = x + self.proj((scores @ v).transpose(1, 2).contiguous().view(b, t, -1))
        x = x + self.down(functional.gelu(self.up(x)))
        return functional.linear(x, self.emb.weight)


class Vision(nn.Module):
    """A vision transformer: patches, a class token, three projections as one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(1, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos, self.qkv, self.proj = nn.Parameter(torch.randn(1, 5, WIDTH)), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(
            WIDTH, WIDTH)  # fmt: skip
        self.scale, self.head = nn.Parameter(torch.rand(WIDTH)), nn.Linear(WIDTH, 5)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        q, k, v = self.qkv(x).reshape(len(x), 5, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        a = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.scale * self.proj(a))[:, 0])


class Encoder(nn.Module):
    """Torch's own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 40, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, ids: Any) -> Any:
        return self.head(self.layer(self.emb(ids)).mean(1))


class Dense(nn.Module):
    """Concatenated features, channel by channel convolutions, squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 10, 3, padding=1)
        self.each, self.c = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.squeeze, self.excite, self.head = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        one = functional.relu(self.a(x))
        x = functional.relu(self.each(torch.cat([one, functional.relu(self.b(one))], 1)))
        x = functional.silu(self.c(x))
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).amax((2, 3)))


def ids(seed: int = 0) -> Any:
    return torch.randint(30, (6, 7), generator=torch.Generator().manual_seed(seed))


CASES: dict[str, tuple[Any, Any, list[int]]] = {
    "grouped queries": (Grouped, ids, [2, WIDTH, 40]),
    "fused projections": (Fused, ids, [HEADS, WIDTH, 40]),
    "vision": (Vision, lambda: torch.randn(6, 1, 8, 8), [HEADS, WIDTH]),
    "torch's encoder": (Encoder, ids, [HEADS, WIDTH, 40]),
    "concatenated": (Dense, lambda: torch.randn(6, 1, 8, 8), [4, 6, 8, 10]),
}


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("case", CASES)
def test_planted_heads_and_streams_are_recovered(case: str, method: str) -> None:
    make, inputs, units = CASES[case]
    torch.manual_seed(0)
    net, x = make().eval(), inputs()
    before = weights_of(net)
    free = [group for group in trace_groups(net, x[:2]) if not group.fixed]
    assert sorted(group.units for group in free) == units
    rng = np.random.default_rng(0)
    planted = permute(before, free, [rng.permutation(group.units) for group in free])
    assert sum(not np.array_equal(before[name], planted[name]) for name in before) > len(before) / 2
    found = layerscope.align(net, before, planted, x, method=method, restarts=4)
    assert found.output_change < 1e-6
    assert found.after == pytest.approx(0, abs=1e-5)
    assert all(np.array_equal(before[name], value) for name, value in weights_of(net).items())


def test_declared_groups_are_taken_at_their_word_and_checked() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(9, 6)
    before = weights_of(net)
    right = [{"0.weight": 0, "0.bias": 0, "2.weight": 1}]
    (group,) = [each for each in trace_groups(net, x) if not each.fixed]
    planted = permute(before, [group], [np.random.default_rng(0).permutation(8)])
    assert layerscope.align(net, before, planted, x, groups=right).after == pytest.approx(0, abs=1e-6)
    for wrong, said in (
        ([{"0.weight": 0, "2.weight": 1}], "changed its outputs"),
        ([{"0.weight": 2}], "no tensor '0.weight' with an axis 2"),
        ([{"0.weight": 0, "2.weight": 0}], "each axis size must be a multiple of"),
        ([{}], "empty group"),
    ):
        with pytest.raises(UsageError, match=said):
            layerscope.align(net, before, planted, x, groups=wrong)


def test_a_wrapped_output_takes_a_forward() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return {"logits": self.b(self.a(x).relu())}

    torch.manual_seed(0)
    a, b, x = Wrapped(), Wrapped(), torch.randn(9, 6)
    for forward in (None, lambda net, inputs: net(inputs)["logits"]):
        found = layerscope.align(a, a, b, x, forward=forward)
        assert (found.groups, found.after <= found.before) == (1, True)


def pretrained(kind: str) -> Any:
    transformers: Any = require("transformers")
    small = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "llama":
        config = transformers.LlamaConfig(**small, intermediate_size=48, num_key_value_heads=2)
        return transformers.LlamaForCausalLM(config)
    if kind == "bert":
        return transformers.BertForSequenceClassification(transformers.BertConfig(**small, intermediate_size=48))
    names = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, **names))


@pytest.mark.parametrize(
    ("kind", "units"),
    [("llama", [2, 2, 32, 48, 48]), ("gpt2", [4, 4, 32, 128, 128]), ("bert", [4, 4, 32, 32, 48, 48])],
)
def test_transformers_of_the_library_people_use(kind: str, units: list[int]) -> None:
    torch.manual_seed(0)
    net, x = pretrained(kind).eval(), torch.randint(50, (4, 9))
    before, rng = weights_of(net), np.random.default_rng(0)
    free = [group for group in trace_groups(net, x, logits) if not group.fixed]
    assert sorted(group.units for group in free) == units
    planted = permute(before, free, [rng.permutation(group.units) for group in free])
    found = layerscope.align(net, before, planted, x, forward=logits, restarts=3)
    assert found.output_change < 1e-6
    assert found.after == pytest.approx(0, abs=1e-5)


def logits(model: Any, x: Any) -> Any:
    return model(input_ids=x).logits
