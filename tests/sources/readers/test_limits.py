"""Files that exceed a limit are unreadable, and many parts of a file are read in linear time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable
from layerscope.sources.opening import open_target
from layerscope.sources.readers import safetensors
from layerscope.sources.storage import zip_archive


def test_a_member_that_unpacks_to_far_more_than_is_stored_is_unreadable(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(zip_archive, "MAX_UNPACKED_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "zeros.npz", w=np.zeros((600, 600)))
    with pytest.raises(Unreadable, match=r"w.npy has .* bytes, which unpack to 2,880,128"):
        layerscope.describe(tmp_path / "zeros.npz")
    np.savez_compressed(tmp_path / "small.npz", w=np.zeros((100, 100)))
    assert len(layerscope.describe(tmp_path / "small.npz").layers) == 1


def test_every_member_of_an_npz_is_read_without_its_table_of_members(tmp_path: Path, monkeypatch: Any) -> None:
    np.savez(tmp_path / "m.npz", **{f"w{i}": np.full((2, 2), i) for i in range(50)})
    source = open_target(tmp_path / "m.npz")
    monkeypatch.setattr("zipfile.ZipFile", None)
    assert source.read(next(iter(source.layers()))).shape[-2:] == (2, 2)


def test_an_index_of_too_many_files_is_unreadable(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(safetensors, "MAX_FILES", 10)
    files = {f"h.{i}.weight": f"m-{i}.safetensors" for i in range(11)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(Unreadable, match="names 11 files; the limit is 10"):
        layerscope.describe(tmp_path)
