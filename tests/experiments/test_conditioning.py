"""The figures of the layer-wise conditioning paper, run again on the 8×8 digits."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require

torch: Any = require("torch")
require("sklearn")
from layerscope.errors import TargetNotFound, UnknownName, Unreadable  # noqa: E402
from layerscope.experiments import conditioning  # noqa: E402
from layerscope.experiments.conditioning import run  # noqa: E402
from layerscope.experiments.image_data import digits, idx  # noqa: E402


def test_shallow_networks_show_what_the_figures_show() -> None:
    found = run(figures=["F1", "F2", "F4", "F5"])
    own = [
        claim for claim in found.claims if not claim.says.startswith("During training, λmax of a block follows")
    ]  # of one run, no law
    assert not [claim for claim in own if not claim.holds], found
    n = found.numbers
    assert n["F2 plain random x"] == pytest.approx(13.5, abs=1.5)  # 14 decades over 19 layers of a half each
    assert 1 < n["F2 bn random d"] < 4  # random nets with norms amplify gradients by a third and more per layer
    assert {picture.name for picture in found.pictures} == {"full_and_sub"}
    again = run(figures=["F5"])
    assert {k: v for k, v in n.items() if k.startswith("F5")} == again.numbers


def test_the_residual_network_overshoots_and_the_last_norm_cures_it() -> None:
    """At 44 of the published 110 layers, which takes a fifth of the time; benchmarks/experiments.py runs ResNet-110."""
    data = digits()
    x, y = torch.from_numpy(data.x.copy()), torch.from_numpy(data.y.copy())
    task = conditioning.Task(x[500:], y[500:], x[:500], y[:500], 0, [])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        claims, _ = conditioning.residual_network(task, depth=44, steps=40)
    of_one_run = ("The loss then stays at", "Inputs of the last layer are large", "LS206 reports")  # chaotic
    sure = [claim for claim in claims if not claim.says.startswith(of_one_run)]
    assert not [claim for claim in sure if not claim.holds], claims
    assert len(sure) == 8
    assert {claim.figure for claim in claims} == {"F6", "F7"}


def test_idx_files_are_read_and_others_refused(tmp_path: Path, shared: Path) -> None:
    real = idx(shared / "data" / "mnist", pool=2)
    assert real.x.shape == (10_000, 14, 14)
    assert sorted(set(real.y.tolist())) == list(range(10))
    assert 0 <= real.x.min() < real.x.max() <= 1
    images, labels = tmp_path / "t10k-images-idx3-ubyte.gz", tmp_path / "t10k-labels-idx1-ubyte"
    with pytest.raises(TargetNotFound, match="t10k-images"):
        idx(tmp_path)
    labels.write_bytes(struct.pack(">HBBI", 0, 8, 1, 3) + bytes([0, 1, 2]))
    whole = struct.pack(">HBBIII", 0, 8, 3, 3, 2, 2) + bytes(range(12))
    for content in (b"", b"x" * 40, whole[:-1], whole + b"x", struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**31, 9)):
        images.write_bytes(gzip.compress(content))
        with pytest.raises(Unreadable):
            idx(tmp_path)
    images.write_bytes(gzip.compress(whole))
    assert idx(tmp_path).x.shape == (3, 2, 2)
    labels.write_bytes(struct.pack(">HBBI", 0, 8, 1, 2) + bytes([0, 1]))
    with pytest.raises(Unreadable, match="labels of"):
        idx(tmp_path)


def test_a_figure_that_there_is_not() -> None:
    with pytest.raises(UnknownName, match="F9"):
        run(figures=["F9"])
    assert len(digits().y) == 1797
