"""The order in which weights are looked for: the folder that was given, the cache, the hub."""

from __future__ import annotations

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


def test_cache_comes_before_the_hub(hub: list) -> None:
    load = Loader()
    assert load_pretrained(load, SPEC, weights=None) == "net"
    assert load.calls == [(SPEC.model, True)]
    assert hub == []


def test_hub_after_the_cache(hub: list) -> None:
    load = Loader(local=OSError("not cached"))
    assert load_pretrained(load, SPEC, weights=None) == "net"
    assert load.calls == [(SPEC.model, True), (SPEC.model, False)]
    assert hub == [("weights of zoedepth", SPEC.weights_hint)]


def test_hub_is_not_tried_where_it_does_not_answer() -> None:
    load = Loader(local=OSError("not cached"))
    with pytest.raises(HubUnreachableError, match=r"weights of zoedepth are not in the cache and .* switched off"):
        load_pretrained(load, SPEC, weights=None)
    assert load.calls == [(SPEC.model, True)]


def test_hub_without_the_model(hub: list) -> None:
    load = Loader(local=OSError("not cached"), hub=OSError("401 Client Error.\nmore\nlines"))
    with pytest.raises(
        WeightsError, match=r"cannot be fetched from Intel/.*: 401 Client Error: .*give depth\.weights"
    ) as caught:
        load_pretrained(load, SPEC, weights=None)
    assert "\n" not in str(caught.value)


def test_damaged_cache_is_not_fetched_again(hub: list) -> None:
    load = Loader(local=ValueError("incomplete metadata"))
    with pytest.raises(WeightsError, match="cached weights of zoedepth are damaged: incomplete metadata"):
        load_pretrained(load, SPEC, weights=None)
    assert len(load.calls) == 1
    assert hub == []
