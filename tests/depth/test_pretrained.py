"""The order in which weights are looked for: the folder that was given, the cache, the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cuts3d_cli.depth import pretrained
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.depth.pretrained import load_pretrained
from cuts3d_cli.errors import HubUnreachableError, WeightsError

SPEC = DEPTHS["zoedepth"]


class Loader:
    """Remembers its calls; fails as told, first for local files, then for the hub."""

    def __init__(self, *, local: Exception | None = None, hub: Exception | None = None) -> None:
        self.failures = {True: local, False: hub}
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, source: str, local: bool) -> str:
        self.calls.append((source, local))
        failure = self.failures[local]
        if failure is not None:
            raise failure
        return "net"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A hub that answers; holds what was asked of it."""
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(pretrained, "require_hub", lambda what, way_out: asked.append((what, way_out)))
    return asked


def test_folder(tmp_path: Path, hub: list) -> None:
    load = Loader()
    assert load_pretrained(load, SPEC, weights=tmp_path) == "net"
    assert load.calls == [(str(tmp_path), True)]
    assert hub == []


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the cache of the hub's client, whole by the names of its files."""
    monkeypatch.setattr(pretrained, "find_pretrained", lambda spec: tmp_path)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "hub_problem", lambda: None)


def test_cache_comes_before_the_hub(hub: list, cached: Path) -> None:
    load = Loader()
    assert load_pretrained(load, SPEC, weights=None) == "net"
    assert load.calls == [(str(cached), True)]
    assert hub == []


def test_hub_after_the_cache(hub: list) -> None:
    load = Loader()
    assert load_pretrained(load, SPEC, weights=None) == "net"
    assert load.calls == [(SPEC.model, False)]
    assert hub == [("weights of zoedepth", SPEC.way_out)]


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize("absent", ["preprocessor_config.json", "model.safetensors"])
def test_a_cache_that_lacks_a_file_is_completed_by_the_hub(cached: Path, absent: str) -> None:
    (cached / absent).unlink()
    load = Loader(local=OSError("no such file"))
    assert load_pretrained(load, SPEC, weights=None) == "net"
    assert load.calls == [(str(cached), True), (SPEC.model, False)]


@pytest.mark.usefixtures("answers")
def test_a_pipeline_of_which_a_part_is_missing_is_completed_by_the_hub(cached: Path) -> None:
    index = {"_class_name": "MarigoldDepthPipeline", "unet": ["diffusers", "UNet"], "none": [None, None]}
    (cached / "model_index.json").write_text(json.dumps(index))
    load = Loader(local=OSError("no such file"))
    assert load_pretrained(load, SPEC, weights=None) == "net"
    (cached / "unet").mkdir()
    with pytest.raises(WeightsError, match="no such file"):
        load_pretrained(load, SPEC, weights=None)


def test_a_cache_that_lacks_a_file_is_named_where_the_hub_does_not_answer(cached: Path) -> None:
    (cached / "preprocessor_config.json").unlink()
    load = Loader(local=OSError("no preprocessor_config.json"))
    with pytest.raises(WeightsError) as caught:
        load_pretrained(load, SPEC, weights=None)
    assert str(caught.value) == (
        f"{cached} cannot be loaded as zoedepth: no preprocessor_config.json: replace it by"
        " `cuts3d weights pull zoedepth --from FOLDER`"
    )
    assert load.calls == [(str(cached), True)]


def test_hub_is_not_tried_where_it_does_not_answer() -> None:
    load = Loader()
    with pytest.raises(HubUnreachableError, match=r"weights of zoedepth are not in the cache and .* switched off"):
        load_pretrained(load, SPEC, weights=None)
    assert load.calls == []


def test_hub_without_the_model(hub: list) -> None:
    load = Loader(hub=OSError("401 Client Error.\nmore\nlines"))
    with pytest.raises(
        WeightsError, match=r"cannot be fetched from Intel/.*: 401 Client Error: .*give depth\.weights"
    ) as caught:
        load_pretrained(load, SPEC, weights=None)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("answers")
def test_damaged_cache_is_not_fetched_again(hub: list, cached: Path) -> None:
    load = Loader(local=ValueError("incomplete metadata"))
    with pytest.raises(WeightsError, match=rf"{cached} cannot be loaded as zoedepth: incomplete metadata: replace it"):
        load_pretrained(load, SPEC, weights=None)
    assert len(load.calls) == 1
    assert hub == []
