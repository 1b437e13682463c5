"""Depth networks of transformers by their folders, and files of Depth Anything's own code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth import any_transformers, depth_anything
from cuts3d_cli.depth.catalogue import check_available, depth_spec, unread
from cuts3d_cli.errors import HubUnreachableError, SettingError, UsageError, WeightsError
from tests.support.depth_networks import SMALL_DEPTH_ANYTHING, depth_anything_names, released_depth_anything, saved

transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")


@pytest.mark.parametrize(
    ("folder", "gives"),
    [
        ("depth_anything_folder", ("disparity", "relative")),
        ("metric_depth_anything_folder", ("distance", "metre")),
        ("zoedepth_folder", ("distance", "metre")),
    ],
)
def test_the_type_says_what_a_network_gives(
    folder: str, gives: tuple[str, str], load: Any, images: list[np.ndarray], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    network = load(f"hf:{path}", None)
    assert (network.spec.direction, network.spec.unit) == gives
    assert network.spec.name == f"hf:{path.name}"
    own = "zoedepth" if folder == "zoedepth_folder" else "depth-anything-v2-small"
    expected = load(own, path).predict(images, max_side=64)
    for ours, theirs in zip(network.predict(images, max_side=64), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert {file.name for file in network.files} == {file.name for file in path.iterdir()}


def test_what_no_type_says_must_be_said(
    depth_anything_folder: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"hf:{depth_anything_folder}"
    with pytest.raises(SettingError, match="is known to give relative-disparity: leave it out"):
        load(name, None, gives="metres")
    assert load(name, None, gives="relative-disparity").spec.direction == "disparity"
    monkeypatch.setattr(any_transformers, "KINDS", {})
    with pytest.raises(SettingError, match=r"must say what hf:.* gives, a network of type depth_anything: metres, "):
        load(name, None)
    assert load(name, None, gives="inverse-metres").spec.unit == "metre"


def test_a_network_for_something_else(load: Any, tmp_path: Path) -> None:
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="holds a network of type vit, which estimates no depth"):
        load(f"hf:{tmp_path}", None)


def test_names(tmp_path: Path, zoedepth_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hf:", "hf:alone", "hf:a/b/c", "hf:/nowhere/at"):
        with pytest.raises(UsageError, match="is no folder and names no repository: write it as hf:OWNER/NAME"):
            depth_spec(name)
    with pytest.raises(WeightsError, match=rf"^{tmp_path} cannot be loaded as hf:{tmp_path.name}: "):
        check_available(DepthConfig(backend=f"hf:{tmp_path}"))
    check_available(DepthConfig(backend=f"hf:{zoedepth_folder}"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match="weights of hf:nobody/has-this are not in the cache"):
        check_available(DepthConfig(backend="hf:nobody/has-this"))


def test_settings_without_effect() -> None:
    assert unread(DepthConfig(backend="hf:some/body")).keys() == {"marigold_steps", "marigold_ensemble", "seed"}
    assert {"gives", "marigold_steps", "seed"} <= unread(DepthConfig()).keys()
    assert "zoedepth_flip" not in unread(DepthConfig())
    assert "zoedepth_flip" in unread(DepthConfig(backend="kbr"))


def test_zoedepth_of_a_mirrored_photo(zoedepth_folder: Path, load: Any, images: list[np.ndarray]) -> None:
    def predict(image: np.ndarray, **settings: Any) -> np.ndarray:
        return load("zoedepth", zoedepth_folder, **settings).predict([image], max_side=1000)[0]

    mirrored = np.ascontiguousarray(images[0][:, ::-1])
    averaged = predict(images[0], zoedepth_flip=True)
    np.testing.assert_allclose(averaged, predict(mirrored, zoedepth_flip=True)[:, ::-1], rtol=1e-3, atol=1e-4)
    assert np.abs(averaged - predict(images[0])).max() > 1e-3


@pytest.mark.parametrize(
    ("backend", "prefix", "gives"),
    [
        ("depth-anything-v2-small", "", ("disparity", "relative")),
        ("depth-anything-v2-metric-indoor", "module.", ("distance", "metre")),
    ],
)
def test_files_of_depth_anythings_own_code(
    backend: str, prefix: str, gives: tuple[str, str], load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor of the file lies in its place. Names are those of its public code."""
    monkeypatch.setattr(depth_anything, "_SIZES", SMALL_DEPTH_ANYTHING)
    model = released_depth_anything()
    state = saved(model, tmp_path / "theirs")
    own = depth_anything_names(state)
    assert "pretrained.blocks.3.attn.qkv.bias" in own
    torch.save({prefix + name: tensor for name, tensor in own.items()}, tmp_path / "authors.pth")
    network = load(backend, tmp_path / "authors.pth")
    assert (network.spec.direction, network.spec.unit) == gives
    loaded = saved(network.model, tmp_path / "ours")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    # What is missing is said
    del own["depth_head.scratch.refinenet2.out_conv.bias"]
    torch.save(own, tmp_path / "authors.pth")
    with pytest.raises(WeightsError, match="1 parameter is missing or of another shape"):
        load(backend, tmp_path / "authors.pth")


def test_the_shorter_side_is_at_least_518() -> None:
    assert depth_anything.lower_bound(480, 640) == (518, 686)
    assert depth_anything.lower_bound(640, 480) == (686, 518)
    assert depth_anything.lower_bound(1000, 1000) == (518, 518)


def test_positions_are_resampled_as_the_authors_do() -> None:
    positions = torch.randn(1, 1 + 4 * 4, 8)
    resample = depth_anything.resample_positions
    assert torch.equal(resample(positions, rows=4, columns=4), positions)
    other = resample(positions, rows=5, columns=7)
    assert other.shape == (1, 1 + 5 * 7, 8)
    assert torch.equal(other[:, 0], positions[:, 0])
    # The scale is that of 4.1 x 8.1 patches. A slow reference for one row, where all rows are alike.
    row = torch.tensor([0.0, 3.0, 1.0, 2.0])
    grid = row.expand(4, 4).reshape(1, 16, 1)
    resampled = resample(torch.cat([torch.zeros(1, 1, 1), grid], dim=1), rows=4, columns=8)[0, 1:9, 0]
    expected = []
    for column in range(8):
        centre = (column + 0.5) * 4 / 8.1 - 0.5
        first = int(np.floor(centre)) - 1
        taps = [(cubic(centre - tap), row[min(max(tap, 0), 3)].item()) for tap in range(first, first + 4)]
        expected.append(sum(weight * value for weight, value in taps))
    np.testing.assert_allclose(resampled, expected, atol=1e-5)


def cubic(distance: float, *, a: float = -0.75) -> float:
    """Keys' cubic kernel, as torch has it."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4)


def test_a_folder_beside_another_is_refused(depth_anything_folder: Path, zoedepth_folder: Path, load: Any) -> None:
    for check in (
        lambda name, path: load(name, path),
        lambda name, path: check_available(DepthConfig(backend=name, weights=path)),
    ):
        with pytest.raises(SettingError, match=r"depth.weights is .*, but hf:.* is the network in .*: leave one out"):
            check(f"hf:{depth_anything_folder}", zoedepth_folder)


def test_a_pointer_in_place_of_weights_is_told(depth_anything_folder: Path, load: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(depth_anything_folder, tmp_path / "network")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        WeightsError, match=r"model.safetensors cannot be read: it is a Git LFS pointer .*; run `git lfs"
    ):
        load(f"hf:{folder}", None)
