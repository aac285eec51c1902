"""Models in a store: range reads, one tensor at a time, against an S3 server on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layerscope
from layerscope.errors import MissingExtra, TargetNotFound, Unreadable
from layerscope.sources.storage.extents import Extent
from layerscope.sources.storage.store_paths import store_path
from tests.command_line import cli as in_process
from tests.nets import FORMATS, Net
from tests.requirements import require

REMOTE = ["safetensors", "huggingface", "torch file", "legacy torch file", "torchscript", "torch export", "torch dcp",
          "npz", "gguf", "onnx", "keras", "keras weights", "msgpack", "tensorflow", "tflite"]  # fmt: skip


SECRETS = ("KEYOFTHESTORE", "SECRETOFTHESTORE", "TOKENOFTHESTORE", "TOKENOFTHEHUB")


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A file system on an S3 server that this test runs."""
    for name in ("moto", "s3fs", "upath"):
        require(name)
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for key, value in {"AWS_ACCESS_KEY_ID": SECRETS[0], "AWS_SECRET_ACCESS_KEY": SECRETS[1],
                       "AWS_SESSION_TOKEN": SECRETS[2], "HF_TOKEN": SECRETS[3], "AWS_DEFAULT_REGION": "us-east-1",
                       "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():  # fmt: skip
        patch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()  # one may be left that knows another server
    files = s3fs.S3FileSystem()
    files.makedirs("models", exist_ok=True)  # what this process put there stays, whichever server shows it
    yield files
    patch.undo()
    server.stop()


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "layerscope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", REMOTE)
def test_a_model_in_a_store_reads_as_on_the_disk(tmp_path: Path, store: Any, name: str) -> None:
    target = FORMATS[name][1](Net(), tmp_path)
    place = f"models/{name.replace(' ', '-')}/{target.name}"
    store.put(str(target), place, recursive=target.is_dir())
    here, there = layerscope.analyze(target), layerscope.analyze(f"s3://{place}")
    assert there.meta["target"] == f"s3://{place}"
    assert [(row.name, row.metrics) for row in there.rows] == [(row.name, row.metrics) for row in here.rows]


def test_only_what_is_asked_for_is_fetched(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    names = [f"w{i}.weight" for i in range(20)]
    save_file({name: np.ones((500, 500), np.float32) for name in names}, tmp_path / "m.safetensors")
    store.put(str(tmp_path / "m.safetensors"), "models/m.safetensors")
    fetched = []
    plain = type(store)._call_s3

    async def counted(self: Any, method: str, *args: Any, **named: Any) -> Any:
        if method == "get_object":
            first, last = named["Range"].removeprefix("bytes=").split("-")
            fetched.append(int(last) - int(first) + 1)
        return await plain(self, method, *args, **named)

    monkeypatch.setattr(type(store), "_call_s3", counted)
    layerscope.analyze("s3://models/m.safetensors", layers=["w7.*"])
    assert 500 * 500 * 4 <= sum(fetched) < 500 * 500 * 4 + 20_000


@pytest.mark.parametrize("url", ["s3://models/nothing.gguf", "s3://no-such-bucket/m.gguf", "nowhere://x/y"])
def test_what_is_not_there_is_said_in_one_line(store: Any, url: str) -> None:
    with pytest.raises(TargetNotFound):
        layerscope.analyze(url)
    done = subprocess.run(
        [sys.executable, "-m", "layerscope", "analyze", url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (3, 1, "")


def test_file_urls_are_local_paths(tmp_path: Path) -> None:
    require("upath")
    target = FORMATS["safetensors"][1](Net(), tmp_path)
    assert layerscope.describe(target.as_uri()).meta["target"] == str(target)


def test_another_process_opens_the_store_itself(tmp_path: Path, store: Any) -> None:
    target = FORMATS["safetensors"][1](Net(), tmp_path)
    store.put(str(target), "models/processes.safetensors")
    command = [
        sys.executable,
        "-m",
        "layerscope",
        "analyze",
        "s3://models/processes.safetensors",
        "--engine",
        "processes",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


EXTRAS = {"gguf": "gguf", "keras": "h5py", "onnx": "onnx", "orbax": "tensorstore", "tflite": "tflite"}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = FORMATS[name][1](Net(), tmp_path)
    for module in [m for m in sys.modules if m.partition(".")[0] == EXTRAS[name]]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, EXTRAS[name], None)
    with pytest.raises(MissingExtra, match=rf"pip install 'layerscope\[{name}\]'"):
        layerscope.analyze(target)


def test_without_the_remote_extra_a_url_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(MissingExtra, match=r"layerscope\[remote\]"):
        layerscope.analyze("s3://bucket/m.safetensors")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_credential_of_a_store_is_in_any_output(tmp_path: Path, store: Any) -> None:
    target = FORMATS["safetensors"][1](Net(), tmp_path)
    store.put(str(target), "models/secrets/net.safetensors")
    there, with_key = "s3://models/secrets/net.safetensors", f"s3://{SECRETS[0]}:{SECRETS[1]}@models/secrets/net.st"
    calls = [
        ("analyze", there, "-f", "json"), ("analyze", there, "--save", str(tmp_path / "r.layerscope")),
        ("analyze", there, "-o", str(tmp_path / "page.html")), ("describe", there), ("analyze", there, "--dry-run"),
        ("analyze", "s3://models/none.safetensors"), ("analyze", "s3://other/none.safetensors"),
        ("analyze", with_key), ("describe", with_key), ("analyze", "some/model"), ("history", there), ("watch", there),
    ]  # fmt: skip
    for words in calls:
        done = in_process(*words)
        assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr], (words, done.stderr)
    written = [path.read_bytes() for path in (tmp_path / "r.layerscope", tmp_path / "page.html")]
    assert not [secret for secret in SECRETS for raw in written if secret.encode() in raw]


def test_a_store_that_sends_more_than_was_asked_is_unreadable(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("models/more/m.safetensors", b"x" * 1000)
    path = store_path("s3://models/more/m.safetensors")
    monkeypatch.setattr(path.fs, "cat_file", lambda *arguments, **options: b"x" * 1000)
    with pytest.raises(Unreadable, match="sent 1,000 bytes where 8 were asked for"):
        Extent(path, 0, 1000).read(0, 8)
