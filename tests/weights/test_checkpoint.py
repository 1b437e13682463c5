"""Weight files of strangers: what is read, what is refused, that nothing in them runs, and what fits a network."""

from __future__ import annotations

import argparse
import datetime
import os
import pickle
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.weights.checkpoint import (
    UnreadableError,
    fit,
    is_safetensors,
    load_into,
    own_tensors,
    read_checkpoint,
    read_metadata,
    read_tensors,
)
from tests.support.foreign import save_with_foreign_object

State = dict[str, torch.Tensor]
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(state: State, expected: State = TENSORS) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


class Exploit:
    """Would make a folder when unpickled by anything that runs code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


class TestRead:
    @pytest.mark.parametrize(
        "content",
        [
            TENSORS,
            OrderedDict(TENSORS),
            {"state_dict": TENSORS, "epoch": 3, "lr": 0.1},
            {"model": TENSORS, "optimizer": {"state": {}}, "step": torch.ones(())},
            {"student": {"a.weight": torch.zeros(1)}, "teacher": TENSORS},
            {"model": {"state_dict": TENSORS}},
            {**TENSORS, "note": "not a tensor"},
            {"epoch": 1, "student_weights": TENSORS, "optimizer": {"state": {0: {"step": torch.ones(())}}}},
            {"teacher": {}, "model": TENSORS},
        ],
        ids=["plain", "ordered", "lightning", "with optimizer", "teacher", "nested", "with text", "own nest", "empty"],
    )
    @pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
    def test_pickle(self, tmp_path: Path, content: dict, new: bool) -> None:
        path = tmp_path / "weights.pt"
        torch.save(content, path, _use_new_zipfile_serialization=new)
        assert same(read_tensors(path))

    def test_the_content_decides_not_the_name(self, tmp_path: Path) -> None:
        safetensors, pickled = tmp_path / "weights.pth", tmp_path / "weights.safetensors"
        save_file(TENSORS, safetensors)
        torch.save(TENSORS, pickled)
        assert same(read_tensors(safetensors))
        assert same(read_tensors(pickled))
        assert (is_safetensors(safetensors), is_safetensors(pickled), is_safetensors(tmp_path)) == (True, False, False)

    def test_metadata(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "a", metadata={"made": "here"})
        save_file(TENSORS, tmp_path / "b")
        assert read_metadata(tmp_path / "a") == {"made": "here"}
        assert read_metadata(tmp_path / "b") == {}
        (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:20])
        with pytest.raises(UnreadableError, match="as safetensors it is damaged"):
            read_metadata(tmp_path / "b")

    def test_other_values_are_as_they_were(self, tmp_path: Path) -> None:
        content = {"iteration": 3, "losses": [0.5, None], "model": TENSORS}
        torch.save(content, tmp_path / "w")
        read = read_checkpoint(tmp_path / "w")
        assert {key: read[key] for key in ("iteration", "losses")} == {"iteration": 3, "losses": [0.5, None]}

    @pytest.mark.parametrize("name", ["moco_v2_800ep_pretrain.pth.tar", "pytorch_model.bin", "w.pkl", "w"])
    @pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
    def test_names_do_not_matter(self, tmp_path: Path, name: str, new: bool) -> None:
        torch.save({"state_dict": TENSORS}, tmp_path / name, _use_new_zipfile_serialization=new)
        assert same(read_tensors(tmp_path / name))

    @pytest.mark.parametrize("data", [b"", b"not weights at all", b"PK\x03\x04 cut short", b"\x80\x02 no pickle"])
    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.onnx"])
    def test_damaged_files_are_one_line(self, tmp_path: Path, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableError, match="cannot be read") as caught:
            read_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)

    @pytest.mark.parametrize("kind", ["pt", "safetensors", "with a configuration"])
    def test_truncated(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "w"
        if kind == "safetensors":
            save_file(TENSORS, path)
        elif kind == "pt":
            torch.save(TENSORS, path)
        else:
            save_with_foreign_object(path, {"state_dict": TENSORS})
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(UnreadableError, match=r"w cannot be read: as .* it is damaged \(") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)

    def test_a_damaged_archive_is_not_taken_for_code(self, tmp_path: Path) -> None:
        path = tmp_path / "w"
        save_with_foreign_object(tmp_path / "whole", {"state_dict": TENSORS})
        with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(path, "w") as archive:
            for name in whole.namelist():
                if not name.endswith("data/0"):
                    archive.writestr(name, whole.read(name))
        with pytest.raises(UnreadableError, match=r"as a file of torch\.save it is damaged"):
            read_tensors(path)

    @pytest.mark.parametrize("content", [[torch.ones(2)], {"state_dict": {"a": 1}}, torch.ones(3), {"epoch": 1}])
    def test_no_tensors_by_name(self, tmp_path: Path, content: object) -> None:
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        with pytest.raises(WeightsError, match=r"weights\.pt holds no tensors by name: give a state dict"):
            read_tensors(path)

    def test_folders_and_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="is a folder, not a file of weights"):
            read_tensors(tmp_path)
        with pytest.raises(WeightsError, match="is not a file"):
            read_tensors(tmp_path / "none.pth")


class TestPickles:
    def test_unknown_classes_become_plain_dicts(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.ckpt"
        save_with_foreign_object(path, {"state_dict": TENSORS})
        with pytest.raises(Exception, match="their_config_package"):
            torch.load(path, weights_only=True)
        assert same(read_tensors(path))
        assert read_checkpoint(path)["hyper_parameters"]["cfg"]["net"]["depth"] == {"enc_name": "convnext_base"}

    def test_objects_that_are_made_by_a_call(self, tmp_path: Path) -> None:
        content = {"model": TENSORS, "args": argparse.Namespace(lr=1), "out": Path("runs/1")}
        torch.save({**content, "date": datetime.date(2024, 1, 2)}, tmp_path / "w")
        assert same(read_tensors(tmp_path / "w"))

    def test_two_threads(self, tmp_path: Path) -> None:
        """The names that torch accepts are kept for the whole process."""
        path = tmp_path / "weights.ckpt"
        save_with_foreign_object(path, {"state_dict": TENSORS})
        found: list[bool] = []
        before = torch.serialization.get_safe_globals()
        threads = [
            threading.Thread(target=lambda: found.extend(same(read_tensors(path)) for _ in range(20))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 80
        assert set(torch.serialization.get_safe_globals()) == set(before)

    @pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
    @pytest.mark.parametrize("entry", ["extra", "state_dict"])
    def test_code_is_refused_and_not_run(self, tmp_path: Path, how: str, entry: str) -> None:
        path, target = tmp_path / "evil.pth", tmp_path / "pwned"
        content = {"model": {"patch_embed.proj.weight": torch.zeros(1)}, entry: Exploit(target)}
        if how == "pickle":
            path.write_bytes(pickle.dumps({entry: Exploit(target)}, protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
        with pytest.raises(UnreadableError, match=r"evil\.pth") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)
        assert "mkdir" in str(caught.value)
        assert "never run" in str(caught.value)
        assert not target.exists()

    def test_a_pickled_network_is_its_state_dict(self, tmp_path: Path) -> None:
        net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm2d(3)))
        net.register_buffer("passing", torch.ones(1), persistent=False)
        for new in (True, False):
            torch.save({"model": net, "epoch": 1}, tmp_path / "module.pt", _use_new_zipfile_serialization=new)
            assert same(read_tensors(tmp_path / "module.pt"), net.state_dict())


class TestOwnTensors:
    def test_prefixes(self) -> None:
        own, others = own_tensors(
            {"module.net.a.weight": torch.ones(1), "module.net.b": torch.ones(2), "module.head.b": torch.ones(3)},
            anchor="a.weight",
            what="net",
            path=Path("f"),
        )
        assert (list(own), others) == (["a.weight", "b"], ["module.head.b"])

    def test_of_two_it_is_not_the_follower(self) -> None:
        tensors = {"k.a": torch.zeros(1), "q.a": torch.ones(1)}
        own, others = own_tensors(tensors, anchor="a", what="net", path=Path("f"), followers=("k",))
        assert (own["a"], others) == (torch.ones(1), [])
        alone = {"module.k.a": torch.zeros(1)}
        assert own_tensors(alone, anchor="a", what="net", path=Path("f"), followers=("k",)) == (
            {"a": torch.zeros(1)},
            [],
        )

    @pytest.mark.parametrize(
        ("names", "reason"),
        [
            (["conv1.weight"], "it holds no a.weight; its first tensors are conv1.weight"),
            (["l.a.weight", "r.a.weight"], r"it holds 2 such networks \(l\., r\.\)"),
            (["extra.weight"], "it holds"),
        ],
    )
    def test_refused(self, names: list[str], reason: str) -> None:
        tensors = {name: torch.full((1,), float(index)) for index, name in enumerate(names)}
        with pytest.raises(WeightsError, match=f"f does not fit net: {reason}"):
            own_tensors(tensors, anchor="a.weight", what="net", path=Path("f"))

    def test_a_network_under_two_names_is_one(self) -> None:
        net = {"a": torch.ones(2), "b": torch.zeros(1)}
        tensors = {f"{prefix}{name}": tensor for prefix in ("x.", "y.0.", "z.") for name, tensor in net.items()}
        own, others = own_tensors({**tensors, "y.1.b": torch.ones(1)}, anchor="a", what="net", path=Path("f"))
        assert (own.keys(), others) == (net.keys(), ["y.1.b"])
        for other in ({**tensors, "z.b": torch.ones(1)}, {**tensors, "z.c": torch.ones(1)}):
            with pytest.raises(WeightsError, match=r"it holds 2 such networks \(x\., z\.\)"):
                own_tensors(other, anchor="a", what="net", path=Path("f"))


class TestFit:
    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_weights_that_are_no_numbers_are_refused(self, value: float) -> None:
        """As a training leaves them that has diverged."""
        net = nn.ModuleDict({"a": nn.Linear(3, 2)})
        told = r"^f holds NaN or infinite weights, in 1 tensor of net \(a\.bias\): take an earlier"
        with pytest.raises(WeightsError, match=told):
            load_into(net, {**TENSORS, "a.bias": torch.tensor([1, value])}, what="net", path=Path("f"))

    def test_every_tensor_is_taken(self) -> None:
        net = nn.ModuleDict({"a": nn.Linear(3, 2)})
        load_into(net, TENSORS, what="net", path=Path("f"))
        assert same(net.state_dict())

    def test_counters_of_batch_norm_may_be_missing(self) -> None:
        norm = nn.BatchNorm2d(2)
        state = {key: value + 1 for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
        load_into(norm, state, what="net", path=Path("f"))
        assert norm.running_mean is not None
        assert norm.running_mean.tolist() == [1.0, 1.0]

    def test_numbers_keep_their_kind(self) -> None:
        norm = nn.BatchNorm2d(2)
        expected = {name: value.shape for name, value in norm.state_dict().items()}
        fitted = fit(
            {k: v.half() if v.dim() else v for k, v in norm.state_dict().items()}, expected, what="", path=Path()
        )
        assert {value.dtype for value in fitted.values()} == {torch.float32, torch.int64}
        assert list(fitted) == list(expected)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"a.bias": None}, r"1 tensor missing \(a\.bias\)$"),
            ({"a.bias": torch.ones(3)}, r"1 tensor of another shape \(a\.bias 3 instead of 2\)$"),
            ({"a.bias": torch.ones(())}, r"1 tensor of another shape \(a\.bias scalar instead of 2\)$"),
            ({"b": torch.ones(3)}, r"1 tensor unknown \(b\)$"),
            (
                {**{f"x{n}": torch.ones(1) for n in range(4)}, "a.weight": None},
                r"1 tensor missing \(a\.weight\); 4 tensors unknown \(x0, x1, x2, \.\.\.\)$",
            ),
        ],
    )
    def test_refused(self, change: dict, reason: str) -> None:
        state = {key: value for key, value in {**TENSORS, **change}.items() if value is not None}
        net = nn.ModuleDict({"a": nn.Linear(3, 2)})
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with pytest.raises(WeightsError, match=f"^f does not fit net: {reason}"):
            load_into(net, state, what="net", path=Path("f"))
        assert same(net.state_dict(), before)

    def test_what_is_harmless_may_be_there(self) -> None:
        expected = {name: value.shape for name, value in TENSORS.items()}
        tensors = {**TENSORS, "head.weight": torch.ones(1)}
        kept = fit(tensors, expected, what="net", path=Path("f"), ignored=lambda name: name.startswith("head."))
        assert same(kept)
        with pytest.raises(WeightsError, match=r"1 tensor unknown \(other\)"):
            fit(TENSORS, expected, what="net", path=Path("f"), unknown=["other"])
