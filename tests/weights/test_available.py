"""What is known of weights before anything is fetched."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cuts3d_cli.errors import HubUnreachableError, WeightsError
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.weights import sources
from cuts3d_cli.weights.cache import check_available
from cuts3d_cli.weights.kinds import weights_files
from cuts3d_cli.weights.specs import HubSource

pytestmark = pytest.mark.usefixtures("cache")


def test_either_file_of_a_repository_is_enough(tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    source = HubSource(repo="someone/tiny", filename="model.safetensors", otherwise="pytorch_model.bin")
    spec = dataclasses.replace(tiny, source=source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match="weights of tiny are not in the cache"):
        check_available(spec, weights=None)
    monkeypatch.setattr(sources, "hub_cached", lambda repo, name: Path(name) if name.endswith(".bin") else None)
    check_available(spec, weights=None)


def test_a_folder_of_transformers(tiny: BackboneSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is a folder without model\.safetensors or pytorch_model\.bin"):
        check_available(tiny, weights=tmp_path)
    for part in (1, 2):
        (tmp_path / f"model-{part}.safetensors").write_bytes(b"weights")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    with pytest.raises(WeightsError, match="holds its weights in several files: save it again with max_shard_size"):
        check_available(tiny, weights=tmp_path)
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}')
    check_available(tiny, weights=tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    check_available(tiny, weights=tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        check_available(tiny, weights=tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "names no files of weights: fetch it again"),
        ('{"weight_map": []}', "names no files of weights: fetch it again"),
        ("not JSON", "is not JSON.*: fetch it again"),
        (
            '{"weight_map": {"a": "../b.safetensors"}}',
            r"names '../b.safetensors', which is no .safetensors file beside",
        ),
        ('{"weight_map": {"a": "b.bin"}}', r"names 'b.bin', which is no .safetensors file beside it"),
        ('{"weight_map": {"a": 3}}', "names '3', which is no"),
        (
            '{"weight_map": {"a": "b.safetensors"}}',
            "b.safetensors is missing, which model.safetensors.index.json names",
        ),
    ],
)
def test_an_index_of_several_files(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    (tmp_path / "b.bin").write_bytes(b"weights")
    with pytest.raises(WeightsError, match=told) as caught:
        weights_files(tmp_path)
    assert "\n" not in str(caught.value)
