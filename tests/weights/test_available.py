"""What is known of weights before anything is fetched."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cuts3d_cli.errors import HubUnreachableError, WeightsError
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.weights import sources
from cuts3d_cli.weights.cache import check_available
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
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds its weights in several files"):
        check_available(tiny, weights=tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    check_available(tiny, weights=tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        check_available(tiny, weights=tmp_path / "none.pth")
