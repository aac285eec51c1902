"""Was the model trained with enough data? Compare two language models, one trained on little text, one on enough.

After "How to tell if you have trained your model with enough data" (C. H. Martin, 2021; Nature Communications 12, 4122,
figure 6). There GPT, trained on little data, has α around 4 and some layers above 6. GPT-2, trained on more and better
data, has α around 3.5 and no layer above 6. The experiment compares two given models, or trains two small ones.
"""

from __future__ import annotations

import math
import statistics
import sysconfig
import time
from pathlib import Path
from typing import Any

from layerscope import analysis
from layerscope.errors import TargetNotFound, UsageError
from layerscope.experiments import repeated_runs as runs
from layerscope.experiments.outcome import Claim, Outcome, Table
from layerscope.views.plots.pictures import make_pictures

LITTLE_CHARACTERS, ENOUGH_CHARACTERS, TEST_CHARACTERS = 8_000, 1_000_000, 100_000
STEPS, BATCH, CONTEXT, WIDTH, HEADS, BLOCKS = 400, 16, 64, 128, 4, 4
PUBLISHED = {"GPT": (4.0, "several"), "GPT-2": (3.5, "none")}  # model → (peak of α, layers with α above 6)


def text_of(path: str | Path | None = None) -> str:
    """Read a text file; by default, the source code of Python's standard library.

    :raises TargetNotFound: the file does not exist.
    :raises UsageError: the text is too short.
    """
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise TargetNotFound(f"{path}: no such text file; give the path of a plain-text file")
        text = file.read_text("utf-8", "replace")
    else:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = "".join(file.read_text("utf-8", "replace") for file in files)[: 2 * ENOUGH_CHARACTERS]
    if len(text) < 4 * TEST_CHARACTERS:
        raise UsageError(
            f"the text has {len(text):,} characters; the experiment needs at least {4 * TEST_CHARACTERS:,}"
        )
    return text


def run(
    text: str | None = None, *, models: tuple[Any, Any] | None = None, seed: int = 0, steps: int = STEPS,
    engine: str | None = None, store: Any = None, progress: Any = None,
) -> Outcome:  # fmt: skip
    """Compare the α of two given models, or of two models trained here on little text and on enough text.

    :param text: text to train on; see :func:`text_of` for the default.
    :param models: (model trained on less data, model trained on more data), each a file, folder, hub id or live model.
    """
    start = time.perf_counter()
    if models is not None:
        names = ("less", "more")
        reports = [analysis.analyze(model) for model in models]
        losses: list[float] = []
        about = " and ".join(str(report.meta["target"])[-60:] for report in reports)
    else:
        text = text_of() if text is None else text
        cases = [
            {"characters": min(n, len(text) - TEST_CHARACTERS), "seed": seed, "steps": steps}
            for n in (LITTLE_CHARACTERS, ENOUGH_CHARACTERS)
        ]
        names = tuple(f"{case['characters']:,} characters" for case in cases)  # type: ignore[assignment]
        results = runs.run(measure, text, cases, engine=engine, store=store, progress=progress)
        reports = [analysis.analyze({k: _unpack(v) for k, v in result["weights"].items()}) for result in results]
        losses = [result["loss"] for result in results]
        about = f"text of {len(text):,} characters, {steps} steps of {BATCH} × {CONTEXT}"
    reports = [r.replace(meta={**r.meta, "target": name}) for r, name in zip(reports, names, strict=True)]
    return _build_outcome(about, seed, names, reports, losses, time.perf_counter() - start)


def measure(text: str, *, characters: int, seed: int, steps: int) -> dict[str, Any]:
    """Train a model on the first ``characters`` of a text; return its packed weights and its loss on the text's end."""
    import torch
    from torch.nn import functional

    alphabet = {c: i for i, c in enumerate(sorted(set(text)))}
    tokens = torch.tensor([alphabet[c] for c in text])
    train_tokens, test_tokens = tokens[:characters], tokens[-TEST_CHARACTERS:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _build_network(len(alphabet))
    optimizer, generator = torch.optim.AdamW(net.parameters(), 2e-3), torch.Generator().manual_seed(seed)
    offsets = torch.arange(CONTEXT + 1)

    def batch(source: Any) -> tuple[Any, Any]:
        rows = source[torch.randint(len(source) - CONTEXT - 1, (BATCH,), generator=generator)[:, None] + offsets]
        return rows[:, :-1], rows[:, 1:]

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50)
        x, y = batch(train_tokens)
        optimizer.zero_grad()
        functional.cross_entropy(net(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    with torch.no_grad():
        losses = []
        for _ in range(20):
            x, y = batch(test_tokens)
            losses.append(float(functional.cross_entropy(net(x).flatten(0, 1), y.flatten())))
    weights = {name: _pack(p) for name, p in net.named_parameters() if p.dim() > 1}
    return {"characters": characters, "loss": statistics.fmean(losses), "weights": weights}


def _build_network(letters: int) -> Any:
    """Build a small decoder-only transformer."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):  # type: ignore[misc]
        """Attention and an MLP, each after a layer norm."""

        def __init__(self) -> None:
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            b, t, _ = x.shape
            q, k, v = (z.view(b, t, HEADS, -1).transpose(1, 2) for z in self.qkv(self.n1(x)).chunk(3, -1))
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(b, t, -1))
            return x + self.down(functional.gelu(self.up(self.n2(x))))

    class Net(nn.Module):  # type: ignore[misc]
        """Language model that predicts the next letter."""

        def __init__(self) -> None:
            super().__init__()
            self.emb, self.pos = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters)

        def forward(self, ids: Any) -> Any:
            x = self.emb(ids) + self.pos(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Net()


def _pack(tensor: Any) -> dict[str, Any]:
    import base64

    array = tensor.detach().numpy()
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}


def _unpack(packed: dict[str, Any]) -> Any:
    import base64

    import numpy as np

    return np.frombuffer(base64.b64decode(packed["float32"]), np.float32).reshape(packed["shape"])


def _build_outcome(
    about: str, seed: int, names: Any, reports: list[Any], losses: list[float], seconds: float
) -> Outcome:
    alphas = [[float(row.metrics["alpha"]) for row in r.rows if not row.skipped and "alpha" in row.metrics
               and row.ref.kind != "embedding"] for r in reports]  # fmt: skip
    if not all(alphas):
        raise UsageError(
            f"no layer of {names[0] if not alphas[0] else names[1]} has a power-law fit; give models with larger layers"
        )
    medians = [statistics.median(values) for values in alphas]
    high_shares = [sum(alpha > 6 for alpha in values) / len(values) for values in alphas]
    norms = [statistics.median(float(row.metrics["log_spectral_norm"]) for row in r.rows
                               if not row.skipped and "log_spectral_norm" in row.metrics) for r in reports]  # fmt: skip
    medians_text = " and ".join(f"{median:.2f}" for median in medians)
    shares_text = " and ".join(
        f"{share:.0%} of {len(values)}" for share, values in zip(high_shares, alphas, strict=True)
    )
    claims = [
        Claim("α", "The model with more data has the smaller α", f"medians {medians_text}", medians[1] < medians[0]),
        Claim("α > 6", "The model with more data has fewer layers with α above 6", shares_text,
              high_shares[1] < high_shares[0]),
    ]  # fmt: skip
    if losses:
        claims.insert(0, Claim("data", "The model with more data has the lower test loss",
                               " and ".join(f"loss {x:.2f}" for x in losses), losses[1] < losses[0]))  # fmt: skip
    columns = ("model", "layers", "median α", "α > 6", "median log₁₀λmax", "loss", "published")
    rows = [
        (name, len(values), median, share, norm, loss, f"{gpt}: α about {peak}, {outliers} above 6")
        for name, values, median, share, norm, loss, (gpt, (peak, outliers)) in zip(
            names, alphas, medians, high_shares, norms, losses or (None, None), PUBLISHED.items(), strict=True)
    ]  # fmt: skip
    series = (("median α", medians), ("α > 6", high_shares), ("spectral norm", norms), ("loss", losses))
    numbers = {
        f"{metric}, {label}": value
        for metric, values in series
        for label, value in zip(("less", "more"), values, strict=False)
    }
    numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
    plots = tuple(make_pictures("alpha_histogram", analysis.compare(reports[0], reports[1])))
    return Outcome("enough-data", about, seed, tuple(claims), numbers, seconds,
                   (Table("Little data and enough data", columns, tuple(rows)),), plots)  # fmt: skip
