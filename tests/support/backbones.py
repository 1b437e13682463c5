from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer

from cuts3d_cli.features import catalogue
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.weights import hub
from cuts3d_cli.weights.specs import HubSource

SIZE = 48


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights cache and an empty cache of the hub's client; no variable of the user's is left."""
    from huggingface_hub import constants

    for name in (*hub.OFFLINE_VARIABLES, "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub._probe.cache_clear()
    return tmp_path / "cache" / "weights"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    """timm's test_vit (64 wide, 6 blocks, 2 heads, patch 16) as a backbone named "tiny" with a source on the hub."""
    spec = dataclasses.replace(
        catalogue.BACKBONES["dino-vits16"],
        name="tiny",
        architecture="test_vit",
        dim=64,
        size=SIZE,
        source=HubSource(repo="someone/tiny", filename="model.safetensors"),
    )
    monkeypatch.setitem(catalogue.BACKBONES, spec.name, spec)
    return spec


@pytest.fixture
def tiny_state(tiny: BackboneSpec) -> dict[str, torch.Tensor]:
    """Random weights for "tiny" with a positional embedding of 4x4."""
    return {name: tensor.clone() for name, tensor in _random_vit(img_size=64).state_dict().items()}


@pytest.fixture
def random_vit() -> Callable[..., VisionTransformer]:
    """Makes small ViTs in which every weight is random."""
    return _random_vit


def _random_vit(*, img_size: int, seed: int = 0, **changes: object) -> VisionTransformer:
    settings: dict[str, object] = {
        "patch_size": 16,
        "embed_dim": 64,
        "depth": 6,
        "num_heads": 2,
        "mlp_ratio": 3,
        "num_classes": 0,
        "img_size": img_size,
    }
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(**{**settings, **changes})  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


class FakeHub:
    """A hub on this machine with one file, someone/tiny/model.safetensors, and what it answers to a probe."""

    def __init__(self) -> None:
        self.content = b"pretend weights"
        self.declared_sha256: str | None = None
        self.root_status = 200

    def headers(self) -> dict[str, str]:
        sha256 = self.declared_sha256 or hashlib.sha256(self.content).hexdigest()
        return {
            "X-Repo-Commit": "c" * 40,
            "ETag": f'"{sha256}"',
            "Content-Length": str(len(self.content)),
        }


@pytest.fixture
def fake_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A running `FakeHub`, which HF_ENDPOINT points to."""
    state = FakeHub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            if self.answer():
                self.wfile.write(state.content)

        def answer(self) -> bool:
            found = self.path == "/someone/tiny/resolve/main/model.safetensors"
            self.send_response(state.root_status if self.path == "/" else 200 if found else 404)
            lost = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "c" * 40, "Content-Length": "0"}
            for name, value in (state.headers() if found else lost).items():
                self.send_header(name, value)
            self.end_headers()
            return found

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def dinov2_arrays() -> dict[str, NDArray[np.float32]]:
    """Random weights of a DINOv2 with 2 layers, 8 wide, patch 14, 2x2 positions, by transformers' names."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 8),
        "embeddings.position_embeddings": (1, 5, 8),
        "embeddings.patch_embeddings.projection.weight": (8, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (8,),
        "layernorm.weight": (8,),
        "layernorm.bias": (8,),
    }
    for layer in ("encoder.layer.0.", "encoder.layer.1."):
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[layer + name] = (8,)
        for name in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
            shapes[layer + name] = (8,)
        for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= {f"{layer}attention.{name}.weight": (8, 8), f"{layer}attention.{name}.bias": (8,)}
        shapes |= {f"{layer}mlp.fc1.weight": (32, 8), f"{layer}mlp.fc1.bias": (32,)}
        shapes |= {f"{layer}mlp.fc2.weight": (8, 32), f"{layer}mlp.fc2.bias": (8,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def onnx_vit() -> Callable[[dict[str, NDArray[np.float32]]], bytes]:
    """Writes weights of a Dinov2Model as torch's exporter does: folded, transposed, unnamed matrices."""
    return _onnx_vit


def _onnx_vit(arrays: dict[str, NDArray[np.float32]]) -> bytes:
    from onnx import helper, numpy_helper

    initializers, nodes = [], []

    def fold(operator: str, node: str, array: NDArray[np.generic]) -> None:
        hidden = f"onnx::{operator}_{len(initializers)}"
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), hidden))
        nodes.append(helper.make_node(operator, [f"{node}_input", hidden], [f"{node}_output_0"], name=node))

    for name, array in arrays.items():
        if name == "embeddings.position_embeddings":
            fold("Concat", "/backbone/embeddings/Concat_6", array[:, :1])
            fold("Reshape", "/backbone/embeddings/Reshape_1", array[:, 1:])
        elif array.ndim == 2 and name.endswith(".weight"):
            module = name.removesuffix(".weight").replace("encoder.layer.", "encoder/layer#").replace(".", "/")
            fold("MatMul", f"/backbone/{module.replace('#', '.')}/MatMul", array.T)
        else:
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), f"backbone.{name}"))
    # What an export holds besides: integer constants inside the encoder, and another network.
    fold("Unsqueeze", "/backbone/embeddings/Unsqueeze_1", np.array([0]))
    fold("MatMul", "/decoder/linear/MatMul", np.ones((2, 2), np.float32))
    initializers.append(numpy_helper.from_array(np.ones(3, np.float32), "decoder.linear.bias"))
    return helper.make_model(helper.make_graph(nodes, "model", [], [], initializers)).SerializeToString()
