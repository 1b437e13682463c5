"""Every depth network through `load_depth`, with tiny random weights saved as the real ones are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.depth import kbr, midas
from cuts3d_cli.depth.base import DepthBackend
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.depth.maps import normalise
from cuts3d_cli.depth.torch_network import fit_input, target_size
from cuts3d_cli.errors import HubUnreachableError, SettingError, UsageError, WeightsError

TINY_ENCODER = "test_convnext"
NETWORKS = {
    "zoedepth": "zoedepth_folder",
    "depth-anything-v2-small": "depth_anything_folder",
    "midas-small": "midas_file",
    "marigold": "marigold_folder",
    "kbr": "kbr_file",
}
SPECS = {
    "zoedepth": ("distance", "metre"),
    "depth-anything-v2-small": ("disparity", "relative"),
    "depth-anything-v2-base": ("disparity", "relative"),
    "depth-anything-v2-large": ("disparity", "relative"),
    "depth-anything-v2-metric-indoor": ("distance", "metre"),
    "depth-anything-v2-metric-outdoor": ("distance", "metre"),
    "midas-small": ("disparity", "relative"),
    "marigold": ("distance", "relative"),
    "kbr": ("disparity", "relative"),
    "sensor": ("distance", "metre"),
}


class Exploit:
    """Would make a folder when unpickled by anything that runs code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, load: Any) -> DepthBackend:
    return load(request.param, request.getfixturevalue(NETWORKS[request.param]))


def test_declared_direction_and_unit() -> None:
    assert {name: (spec.direction, spec.unit) for name, spec in DEPTHS.items()} == SPECS


class TestPredict:
    def test_maps_cover_the_images(self, network: DepthBackend, images: list[np.ndarray]) -> None:
        maps = network.predict(images, max_side=64)
        assert [values.shape for values in maps] == [(38, 64), (64, 43), (38, 64)]
        for values in maps:
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
            assert values.std() > 0.01 * abs(values.mean())
        full = network.predict(images[:1], max_side=1000)
        assert full[0].shape == images[0].shape[:2]

    def test_an_image_does_not_depend_on_its_batch(self, network: DepthBackend, images: list[np.ndarray]) -> None:
        together = network.predict(images, max_side=64)
        for image, values in zip(images, together, strict=True):
            np.testing.assert_allclose(network.predict([image], max_side=64)[0], values, rtol=1e-4, atol=1e-4)

    def test_same_twice(self, network: DepthBackend, images: list[np.ndarray]) -> None:
        first, second = network.predict(images, max_side=64), network.predict(images, max_side=64)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_stored_map_is_larger_where_farther(self, network: DepthBackend, images: list[np.ndarray]) -> None:
        raw = network.predict(images[:1], max_side=64)[0]
        spec = network.spec
        depth = normalise(raw, direction=spec.direction, unit=spec.unit).depth
        sign = 1 if spec.direction == "distance" else -1
        assert np.corrcoef(sign * raw.ravel(), depth.ravel())[0, 1] > 0.999
        assert (depth.min(), depth.max()) == (0.0, 1.0)

    @pytest.mark.parametrize("shape", [(16, 16), (16, 1300), (1300, 16), (30, 2200)])
    def test_extreme_shapes(self, network: DepthBackend, shape: tuple[int, int]) -> None:
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
        values = network.predict([image], max_side=100)[0]
        assert values.shape == target_size(*shape, max_side=100)
        assert np.isfinite(values).all()

    def test_no_images(self, network: DepthBackend) -> None:
        assert network.predict([], max_side=64) == []


class TestZoeDepth:
    def test_outvoted_images_keep_their_own_head(
        self, zoedepth_folder: Path, load: Any, images: list[np.ndarray]
    ) -> None:
        """The model lets a batch vote on the indoor or outdoor head. The result must not show it."""
        network = load("zoedepth", zoedepth_folder)
        flat = np.full_like(images[0], 255)
        batch = [images[0], flat, images[2]]
        with torch.no_grad():
            inputs = torch.stack([network.prepare(image) for image in batch])
            logits = network.model(pixel_values=inputs).domain_logits
            lead = logits[:, 0] - logits[:, 1]
            others = lead[[0, 2]]
            assert (lead[1] < others.min()) or (lead[1] > others.max())
            nearest = others[(others - lead[1]).abs().argmin()]
            network.model.metric_head.mlp_classifier.linear2.bias[1] += (lead[1] + nearest) / 2
            votes = network.model(pixel_values=inputs).domain_logits.argmax(dim=-1)
            assert votes[0] == votes[2] != votes[1]
            voted = network.model(pixel_values=inputs).predicted_depth[1]
            alone = network.model(pixel_values=inputs[1:2]).predicted_depth[0]
            assert (voted - alone).abs().max() > 1e-3  # The model itself depends on the batch.
        together = network.predict(batch, max_side=64)
        for image, values in zip(batch, together, strict=True):
            np.testing.assert_allclose(network.predict([image], max_side=64)[0], values, rtol=1e-4, atol=1e-5)

    def test_padding_is_taken_away(self, zoedepth_folder: Path, load: Any) -> None:
        """A map that marks where the image lies in the padded input comes back as the image's own frame."""
        network = load("zoedepth", zoedepth_folder)
        height, width = 60, 80
        pad_rows, pad_columns = int((height / 2) ** 0.5 * 3), int((width / 2) ** 0.5 * 3)
        padded = torch.zeros(height + 2 * pad_rows, width + 2 * pad_columns)
        padded[pad_rows : pad_rows + height, pad_columns : pad_columns + width] = 1.0
        assert (network.finish(padded, size=(height, width)) == torch.ones(height, width)).all()


class TestDepthAnything:
    def test_metric_model_says_so(self, metric_depth_anything_folder: Path, load: Any) -> None:
        spec = load("depth-anything-v2-small", metric_depth_anything_folder).spec
        assert (spec.direction, spec.unit) == ("distance", "metre")


class TestMarigold:
    def test_seed_steps_and_ensemble_matter(self, marigold_folder: Path, load: Any, images: list[np.ndarray]) -> None:
        def run(**settings: int) -> np.ndarray:
            return load("marigold", marigold_folder, **settings).predict(images[:1], max_side=64)[0]

        base = run()
        np.testing.assert_array_equal(base, run())
        assert np.abs(base - run(seed=1)).max() > 1e-3
        assert np.abs(base - run(marigold_steps=1)).max() > 1e-3
        merged = run(marigold_ensemble=3)
        np.testing.assert_array_equal(merged, run(marigold_ensemble=3))
        assert np.abs(base - merged).max() > 1e-3

    def test_ensemble_of_a_batch(self, marigold_folder: Path, load: Any, images: list[np.ndarray]) -> None:
        network = load("marigold", marigold_folder, marigold_ensemble=3)
        together = network.predict(images, max_side=64)
        assert [values.shape for values in together] == [(38, 64), (64, 43), (38, 64)]
        np.testing.assert_array_equal(network.predict(images[2:], max_side=64)[0], together[2])

    def test_other_pipelines_are_refused(self, marigold_folder: Path, load: Any, tmp_path: Path) -> None:
        import shutil

        folder = tmp_path / "normals"
        shutil.copytree(marigold_folder, folder)
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace('"prediction_type": "depth"', '"prediction_type": "normals"'))
        with pytest.raises(WeightsError, match="no Marigold depth pipeline: its prediction_type is normals"):
            load("marigold", folder)

    @pytest.mark.parametrize("setting", ["marigold_steps", "marigold_ensemble"])
    def test_at_least_one(self, marigold_folder: Path, load: Any, setting: str) -> None:
        with pytest.raises(UsageError, match="at least 1"):
            load("marigold", marigold_folder, **{setting: 0})


class TestMidas:
    def test_names_and_shapes_of_the_released_checkpoint(self) -> None:
        state = {name: tuple(tensor.shape) for name, tensor in midas.MidasSmallNet().state_dict().items()}
        for name, shape in {
            "pretrained.layer1.0.weight": (32, 3, 3, 3),
            "pretrained.layer1.1.running_mean": (32,),
            "pretrained.layer1.3.0.conv_dw.weight": (32, 1, 3, 3),
            "pretrained.layer1.4.0.conv_pwl.weight": (32, 144, 1, 1),
            "pretrained.layer2.0.0.conv_pw.weight": (192, 32, 1, 1),
            "pretrained.layer3.1.4.bn3.bias": (136,),
            "pretrained.layer4.1.0.conv_pwl.weight": (384, 1392, 1, 1),
            "scratch.layer1_rn.weight": (64, 32, 3, 3),
            "scratch.layer4_rn.weight": (512, 384, 3, 3),
            "scratch.refinenet1.resConfUnit1.conv1.weight": (64, 64, 3, 3),
            "scratch.refinenet1.out_conv.weight": (64, 64, 1, 1),
            "scratch.refinenet4.out_conv.weight": (256, 512, 1, 1),
            "scratch.output_conv.0.weight": (32, 64, 3, 3),
            "scratch.output_conv.2.weight": (32, 32, 3, 3),
            "scratch.output_conv.4.weight": (1, 32, 1, 1),
        }.items():
            assert state[name] == shape, name
        parameters = sum(parameter.numel() for parameter in midas.MidasSmallNet().parameters())
        assert 21_000_000 < parameters < 22_000_000

    @pytest.mark.parametrize(
        ("size", "expected"),
        [((480, 640), (192, 256)), ((640, 480), (256, 192)), ((100, 100), (256, 256)), ((100, 400), (64, 256))],
    )
    def test_input_size(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        assert midas.input_size(*size) == expected

    def test_safetensors_and_pickle_agree(self, midas_file: Path, load: Any, tmp_path: Path, images: list) -> None:
        from safetensors.torch import save_file

        path = tmp_path / "midas.safetensors"
        save_file(torch.load(midas_file, weights_only=True), path)
        one, other = (load("midas-small", file).predict(images[:1], max_side=64)[0] for file in (midas_file, path))
        np.testing.assert_array_equal(one, other)

    def test_cache_of_torch_hub_is_looked_at(
        self, midas_file: Path, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        with pytest.raises(WeightsError, match=r"are not in .*checkpoints: .*midas_v21_small_256.pt"):
            load("midas-small", None)
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "model-small-70d6b9c8.pt").symlink_to(midas_file)
        assert load("midas-small", None).spec.name == "midas-small"


class TestKbr:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [((480, 640), (480, 640)), ((375, 1242), (192, 640)), ((640, 480), (384, 288)), ((16, 64), (160, 640))],
    )
    def test_input_size(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        assert kbr.input_size(*size) == expected

    def test_decoder_of_the_real_size(self) -> None:
        with torch.device("meta"):
            net = kbr.KbrNet("convnext_base")
        shapes = [tuple(layer.weight.shape[:2]) for layer in net.decoder]  # type: ignore[operator, union-attr]
        assert shapes == [
            (256, 1024),
            (256, 256 + 512),
            (128, 256),
            (128, 128 + 256),
            (64, 128),
            (64, 64 + 128),
            (32, 64),
            (32, 32),
            (16, 32),
            (16, 16),
            (1, 16),
            (1, 32),
            (1, 64),
            (1, 128),
        ]

    def test_disparity_is_a_sigmoid_at_full_size(self, kbr_file: Path, load: Any) -> None:
        network = load("kbr", kbr_file)
        with torch.no_grad():
            disparity = network.net.eval()(torch.randn(2, 3, 64, 96))
        assert disparity.shape == (2, 64, 96)
        assert ((disparity > 0) & (disparity < 1)).all()

    def test_weights_are_asked_for(self, load: Any) -> None:
        with pytest.raises(WeightsError, match=r"give depth\.weights='kbr\.ckpt'"):
            load("kbr", None)


class TestKbrNames:
    def test_renamed(self) -> None:
        names = [
            "nets.depth.encoder.stem_0.weight",
            "nets.depth.decoders.disp.decoder.0.conv.conv.weight",
            "nets.depth.decoders.disp.decoder.0.conv.conv.bias",
            "nets.depth.decoders.disp.decoder.10.conv.weight",
            "nets.depth.decoders.other.decoder.0.weight",
            "nets.pose.encoder.conv1.weight",
            "losses.weight",
        ]
        renamed = kbr.rename_state({name: torch.ones(1) for name in names}, path=Path("f"))
        assert list(renamed) == ["encoder.stem_0.weight", "decoder.0.weight", "decoder.0.bias", "decoder.10.weight"]

    @pytest.mark.parametrize(
        "names",
        [
            ["a.weight"],
            ["nets.depth.encoder.a"],
            ["nets.depth.decoders.disp.decoder.0.weight"],
            ["nets.depth.encoder.a", "nets.depth.other.a", "nets.depth.decoders.disp.decoder.0.weight"],
            [
                "nets.depth.encoder.a",
                "nets.depth.decoders.disp.decoder.0.x.weight",
                "nets.depth.decoders.disp.decoder.0.y.weight",
            ],
        ],
        ids=["foreign", "no decoder", "no encoder", "two encoders", "two convolutions in a layer"],
    )
    def test_refused(self, names: list[str]) -> None:
        with pytest.raises(WeightsError, match="f is not kbr"):
            kbr.rename_state({name: torch.ones(1) for name in names}, path=Path("f"))


class TestWeights:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_missing_path(self, name: str, load: Any, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="no such file or folder") as caught:
            load(name, tmp_path / "nothing")
        assert "\n" not in str(caught.value)

    def test_file_for_a_folder(self, load: Any, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"")
        with pytest.raises(WeightsError, match=r"is a file, but marigold loads a folder: .*hf download"):
            load("marigold", path)

    @pytest.mark.parametrize("name", ["zoedepth", "depth-anything-v2-small", "marigold"])
    def test_empty_folder(self, name: str, load: Any, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="cannot be loaded as") as caught:
            load(name, tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["zoedepth", "depth-anything-v2-small", "marigold"])
    def test_not_cached_and_offline(self, name: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(DEPTHS, name, replace(DEPTHS[name], model="nobody/has-this-in-a-cache"))
        with pytest.raises(
            HubUnreachableError, match=rf"{name}.*switched off by HF_HUB_OFFLINE: .*give depth\.weights"
        ) as caught:
            load(name, None)
        assert "\n" not in str(caught.value)

    def test_incomplete_weights_are_refused(self, depth_anything_folder: Path, load: Any, tmp_path: Path) -> None:
        """The library would fill what is missing with random numbers and only warn."""
        from safetensors.torch import load_file, save_file

        for file in depth_anything_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        state = load_file(tmp_path / "model.safetensors")
        removed = next(key for key in state if key.startswith("neck."))
        del state[removed]
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsError, match="1 parameter is missing or of another shape, such as neck"):
            load("depth-anything-v2-small", tmp_path)

    def test_pickles_are_read_as_data(
        self, depth_anything_folder: Path, load: Any, tmp_path: Path, images: list[np.ndarray]
    ) -> None:
        """By the one reader of checkpoints: transformers, which would run them, sees tensors alone."""
        from safetensors.torch import load_file

        for file in depth_anything_folder.glob("*.json"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        torch.save(load_file(depth_anything_folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
        of_pickle = load("depth-anything-v2-small", tmp_path).predict(images[:1], max_side=64)[0]
        expected = load("depth-anything-v2-small", depth_anything_folder).predict(images[:1], max_side=64)[0]
        np.testing.assert_array_equal(of_pickle, expected)
        torch.save({"a": Exploit(tmp_path / "mark")}, tmp_path / "pytorch_model.bin")
        with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
            load("depth-anything-v2-small", tmp_path)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize("ending", ["safetensors", "bin"])
    def test_weights_in_several_files(
        self, ending: str, depth_anything_folder: Path, load: Any, tmp_path: Path, images: list[np.ndarray]
    ) -> None:
        from safetensors.torch import load_file, save_file

        for file in depth_anything_folder.glob("*.json"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        state = load_file(depth_anything_folder / "model.safetensors")
        whole = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
        names = [f"{whole.split('.')[0]}-0000{part}-of-00002.{ending}" for part in (1, 2)]
        for part, name in enumerate(names):
            held = {key: tensor for number, (key, tensor) in enumerate(state.items()) if number % 2 == part}
            if ending == "safetensors":
                save_file(held, tmp_path / name, metadata={"format": "pt"})
            else:
                torch.save(held, tmp_path / name)
        places = {key: names[number % 2] for number, key in enumerate(state)}
        index = tmp_path / f"{whole}.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        network = load("depth-anything-v2-small", tmp_path)
        assert {file.name for file in network.files} >= {*names, index.name}
        expected = load("depth-anything-v2-small", depth_anything_folder).predict(images[:1], max_side=64)[0]
        np.testing.assert_array_equal(network.predict(images[:1], max_side=64)[0], expected)
        (tmp_path / names[1]).rename(tmp_path / "elsewhere")
        with pytest.raises(WeightsError, match=rf"{names[1]} is missing, which {index.name} names: fetch it again"):
            load("depth-anything-v2-small", tmp_path)

    @pytest.mark.parametrize("name", ["zoedepth", "marigold"])
    def test_missing_package(self, name: str, load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, {"zoedepth": "transformers", "marigold": "diffusers"}[name], None)
        with pytest.raises(WeightsError, match=rf"pip install 'cuts3d\[{DEPTHS[name].extra}\]'"):
            load(name, tmp_path)

    def test_unknown_name(self, load: Any) -> None:
        with pytest.raises(UsageError, match="no depth source is named 'zoe': choose one of zoedepth"):
            load("zoe", None)

    def test_sensor_is_no_network(self, load: Any) -> None:
        with pytest.raises(UsageError, match="packed with the images"):
            load("sensor", None)


def test_catalogue_imports_no_network() -> None:
    code = (
        "import sys; import cuts3d_cli.depth.catalogue, cuts3d_cli.depth.maps; "
        "print([name for name in ('torch', 'timm', 'transformers', 'diffusers') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[]"


class TestSizes:
    def test_target_size(self) -> None:
        assert target_size(480, 640, max_side=640) == (480, 640)
        assert target_size(480, 640, max_side=320) == (240, 320)
        assert target_size(8000, 100, max_side=40) == (40, 1)
        with pytest.raises(ValueError, match="max_side"):
            target_size(10, 10, max_side=0)

    def test_most_images_are_left_alone(self) -> None:
        image = np.zeros((480, 640, 3), np.uint8)
        assert fit_input(image) is image

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ((100, 8000), (100, 400)),
            ((8000, 100), (400, 100)),
            ((1000, 20000), (512, 2048)),
            ((3000, 4000), (1536, 2048)),
            ((100, 400), (100, 400)),
        ],
    )
    def test_strips_and_giants(self, shape: tuple[int, int], expected: tuple[int, int]) -> None:
        assert fit_input(np.zeros((*shape, 3), np.uint8)).shape[:2] == expected


def test_the_default_on_a_cpu_is_float32(midas_file: Path, images: list[np.ndarray], load: Any) -> None:
    first, second = (
        load("midas-small", midas_file, precision=precision).predict(images[:1], max_side=64)[0]
        for precision in ("auto", "float32")
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_what_is_for_cuda_is_refused_on_a_cpu(midas_file: Path, load: Any, precision: str) -> None:
    with pytest.raises(SettingError, match=f"run.precision is {precision}, which is for CUDA: on cpu take"):
        load("midas-small", midas_file, precision=precision)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_on_a_cpu_is_close(
    name: str, request: pytest.FixtureRequest, load: Any, images: list[np.ndarray]
) -> None:
    weights = request.getfixturevalue(NETWORKS[name])
    full = load(name, weights).predict(images[:1], max_side=64)[0]
    values = load(name, weights, precision="bfloat16").predict(images[:1], max_side=64)[0]
    assert values.dtype == np.float32
    assert not np.array_equal(values, full)
    assert np.abs(values - full).mean() < 0.05 * (full.max() - full.min())


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_on_cuda(name: str, request: pytest.FixtureRequest, load: Any, images: list[np.ndarray]) -> None:
    weights = request.getfixturevalue(NETWORKS[name])
    on_cpu = load(name, weights).predict(images, max_side=64)
    on_cuda = load(name, weights, device="cuda", precision="float16").predict(images, max_side=64)
    for expected, values in zip(on_cpu, on_cuda, strict=True):
        assert np.abs(values - expected).mean() < 0.05 * (expected.max() - expected.min())
