"""Count intruder dimensions after LoRA and after full fine-tuning of one small transformer on characters.

    python benchmarks/intruders.py --text tinyshakespeare.txt [--seeds 5] [--write docs/intruders.md]

The base learns the first half of a text; both fine-tunes learn the second half with upper and lower case exchanged.
Then the singular values of the intruders are scaled down, and the losses on both texts are measured again.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
from safetensors.torch import save_file
from torch.nn import functional

import layerscope
from layerscope.numerics.weight_change import INTRUDER_COSINE, TOP

CONTEXT, BATCH, WIDTH, BLOCKS, HEADS = 64, 16, 128, 3, 4
BASE_STEPS, TUNE_STEPS = 500, 200
RATES = {"LoRA, r = 8": 1e-3, "LoRA, r = 32": 1e-3, "full": 3e-4}
SCALES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the singular values of intruder dimensions
TARGETS = ["query", "key", "value", "out", "up", "down"]


class Block(torch.nn.Module):
    """A transformer block with separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention and MLP, each added to the stream."""
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Net(torch.nn.Module):
    """A language model of characters."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(symbols, WIDTH), torch.nn.Embedding(CONTEXT, WIDTH)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next character."""
        y = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


def batch_of(codes: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw windows of the text and their next characters."""
    starts = torch.from_numpy(rng.integers(len(codes) - CONTEXT - 1, size=BATCH))[:, None] + torch.arange(CONTEXT + 1)
    windows = codes[starts]
    return windows[:, :-1], windows[:, 1:]


def train(net: torch.nn.Module, codes: torch.Tensor, steps: int, rate: float, seed: int) -> None:
    """Train with AdamW."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        x, y = batch_of(codes, rng)
        loss = functional.cross_entropy(net(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def loss_of(net: torch.nn.Module, codes: torch.Tensor) -> float:
    """Return the loss on a text that was held out."""
    rng = np.random.default_rng(99)
    with torch.no_grad():
        losses = [functional.cross_entropy(net(x).flatten(0, 1), y.flatten()) for x, y in
                  (batch_of(codes, rng) for _ in range(10))]  # fmt: skip
    return float(torch.stack(losses).mean())


def scale_intruders(
    state: dict[str, torch.Tensor], base: dict[str, torch.Tensor], scale: float
) -> dict[str, torch.Tensor]:
    """Return the weights with the singular values of all intruder dimensions multiplied by a factor."""
    scaled = dict(state)
    for name, tuned in state.items():
        if name.startswith("blocks.") and tuned.dim() == 2:
            u, values, v = torch.linalg.svd(tuned.double(), full_matrices=False)
            u0 = torch.linalg.svd(base[name].double(), full_matrices=False)[0]
            cosines = (u0.T @ u[:, :TOP]).abs().amax(0)
            for i in (cosines < INTRUDER_COSINE).nonzero()[:, 0]:
                scaled[name] = scaled[name] + ((scale - 1) * values[i] * torch.outer(u[:, i], v[i])).float()
    return scaled


def main() -> None:
    """Run all seeds, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text = options.text.read_text("utf-8")[:1_000_000]
    symbols = sorted(set(text) | set(text.swapcase()))
    half, hold = len(text) // 2, len(text) // 20

    def encode(part: str) -> torch.Tensor:
        return torch.tensor([symbols.index(c) for c in part])

    old, new = encode(text[: half - hold]), encode(text[half + hold :].swapcase())
    old_test, new_test = encode(text[half - hold : half]), encode(text[half : half + hold].swapcase())
    rows: dict[str, list[list[float]]] = {name: [] for name in RATES}
    by_scale: dict[str, list[list[float]]] = {name: [] for name in RATES}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        base = Net(len(symbols))
        train(base, old, BASE_STEPS, 1e-3, seed)
        start = {name: value.clone() for name, value in base.state_dict().items()}
        before = loss_of(base, old_test)
        for name, rate in RATES.items():
            torch.manual_seed(100 + seed)
            net: torch.nn.Module = Net(len(symbols))
            net.load_state_dict(start)
            if name != "full":
                r = int(name.rpartition(" ")[2])
                net = peft.get_peft_model(net, peft.LoraConfig(r=r, lora_alpha=2 * r, target_modules=TARGETS))
            train(net, new, TUNE_STEPS, rate, 100 + seed)
            merged = net if name == "full" else net.merge_and_unload()
            with tempfile.TemporaryDirectory() as folder:
                files = [str(Path(folder) / f"{key}.safetensors") for key in ("base", "tuned")]
                save_file(start, files[0])
                save_file({k: v.contiguous() for k, v in merged.state_dict().items()}, files[1])
                report = layerscope.diff(*files, layers=["blocks.*.weight"])
            changed = [row.metrics for row in report.rows if "intruders" in row.metrics]
            counts = [float(m["intruders"]) for m in changed]
            size = float(np.median([float(m["relative_change"]) for m in changed]))
            rows[name].append([sum(counts), sum(c > 0 for c in counts), len(counts), size,
                               loss_of(merged, new_test), loss_of(merged, old_test) - before])  # fmt: skip
            state = {key: value.detach().clone() for key, value in merged.state_dict().items()}
            losses = []
            for scale in SCALES:
                merged.load_state_dict(scale_intruders(state, start, scale))
                losses += [loss_of(merged, new_test), loss_of(merged, old_test) - before]
            by_scale[name].append(losses)
            print(seed, name, [f"{value:.3g}" for value in rows[name][-1]], flush=True)
    lines = ["| fine-tuning | intruder dimensions | matrices with one | median change | loss on the new text "
             "| rise of the loss on the old text |", "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, values in rows.items():
        mean, spread = np.mean(values, 0), np.std(values, 0, ddof=1)
        cells = [f"{mean[0]:.1f} ± {spread[0]:.1f}", f"{mean[1]:.1f} of {mean[2]:.0f}", f"{100 * mean[3]:.0f} %",
                 f"{mean[4]:.3f} ± {spread[4]:.3f}", f"{mean[5]:.3f} ± {spread[5]:.3f}"]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| fine-tuning | singular values of intruders × | loss on the new text "
              "| rise of the loss on the old text |", "| --- | --- | --- | --- |"]  # fmt: skip
    for name, values in by_scale.items():
        mean, spread = np.mean(values, 0), np.std(values, 0, ddof=1)
        for i, scale in enumerate(SCALES):
            new, old = (f"{mean[2 * i + j]:.3f} ± {spread[2 * i + j]:.3f}" for j in (0, 1))
            lines.append(f"| {name} | {scale:g} | {new} | {old} |")
    print("\n".join(lines))
    if options.write:
        page = (Path(__file__).parent / "intruders.md.in").read_text("utf-8")
        table = "\n".join(lines)
        options.write.write_text(page.format(seeds=options.seeds, table=table), "utf-8")


if __name__ == "__main__":
    main()
