"""Checkpoints of strangers: what is read, what is refused, and that nothing in them runs."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cuts3d_cli.depth.kbr import rename_state
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.weights.state_files import fill, read_state
from tests.support.foreign import save_with_foreign_object

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = TENSORS) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


class TestRead:
    @pytest.mark.parametrize(
        "content",
        [
            TENSORS,
            OrderedDict(TENSORS),
            {"state_dict": TENSORS, "epoch": 3, "lr": 0.1},
            {"model": TENSORS, "optimizer": {"state": {}}},
            {**TENSORS, "note": "not a tensor"},
        ],
        ids=["plain", "ordered", "lightning", "with optimizer", "with text"],
    )
    def test_pickle(self, tmp_path: Path, content: dict) -> None:
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        assert same(read_state(path, name="net"))

    def test_safetensors(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        save_file(TENSORS, path)
        assert same(read_state(path, name="net"))

    def test_unknown_classes_become_plain_dicts(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.ckpt"
        save_with_foreign_object(path, {"state_dict": TENSORS})  # type: ignore[operator]
        with pytest.raises(Exception, match="their_config_package"):
            torch.load(path, weights_only=True)
        assert same(read_state(path, name="net"))

    @pytest.mark.parametrize("entry", ["hyper_parameters", "state_dict"])
    def test_nothing_in_a_pickle_runs(self, tmp_path: Path, entry: str) -> None:
        path, trace = tmp_path / "weights.ckpt", tmp_path / "trace"
        torch.save({"state_dict": TENSORS, entry: Malicious(trace)}, path)
        with pytest.raises(WeightsError, match="cannot be read safely") as caught:
            read_state(path, name="net")
        assert not trace.exists()
        assert "\n" not in str(caught.value)

    def test_refusal_says_how_to_convert(self, tmp_path: Path) -> None:
        """The command in the message works, for a file that the user trusts."""
        path = tmp_path / "weights.ckpt"
        torch.save({"state_dict": TENSORS, "extra": Malicious(tmp_path / "trace")}, path)
        with pytest.raises(WeightsError, match=r"if you trust it, convert it with python -c") as caught:
            read_state(path, name="net")
        command = str(caught.value).split("convert it with ")[1].split(" and pass the new file")[0]
        code = command.removeprefix('python -c "').removesuffix('"')
        exec(compile(code, "command", "exec"), {})
        assert same(read_state(tmp_path / "weights.safetensors", name="net"))

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_damaged(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"weights.{suffix}"
        if suffix == "pt":
            torch.save(TENSORS, path)
        else:
            save_file(TENSORS, path)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(WeightsError, match=str(path)) as caught:
            read_state(path, name="net")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [[torch.ones(2)], {"state_dict": {"a": 1}}, torch.ones(3)])
    def test_no_tensors_by_name(self, tmp_path: Path, content: object) -> None:
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        with pytest.raises(WeightsError, match="holds no tensors by name, so it cannot be the weights of net"):
            read_state(path, name="net")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="is a folder, but net loads a file"):
            read_state(tmp_path, name="net")


class TestFill:
    def test_every_tensor_is_taken(self) -> None:
        net = nn.ModuleDict({"a": nn.Linear(3, 2)})
        fill(net, TENSORS, path=Path("f"), name="net")
        assert same(net.state_dict())

    def test_counters_of_batch_norm_may_be_absent(self) -> None:
        norm = nn.BatchNorm2d(2)
        state = {key: value + 1 for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
        fill(norm, state, path=Path("f"), name="net")
        assert norm.running_mean is not None
        assert norm.running_mean.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"a.bias": None}, "1 tensors are missing, 0 have another shape, 0 are unknown, such as a.bias"),
            ({"a.bias": torch.ones(3)}, "0 tensors are missing, 1 have another shape, 0 are unknown, such as a.bias"),
            ({"b": torch.ones(3)}, "0 tensors are missing, 0 have another shape, 1 are unknown, such as b"),
        ],
    )
    def test_refused(self, change: dict, reason: str) -> None:
        state = {key: value for key, value in {**TENSORS, **change}.items() if value is not None}
        with pytest.raises(WeightsError, match=f"f does not hold net: {reason}"):
            fill(nn.ModuleDict({"a": nn.Linear(3, 2)}), state, path=Path("f"), name="net")


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
        renamed = rename_state({name: torch.ones(1) for name in names}, path=Path("f"))
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
            rename_state({name: torch.ones(1) for name in names}, path=Path("f"))
