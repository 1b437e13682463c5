"""Pickles read as data: all that people keep in checkpoints as it was, and no code run, whatever a pickle says."""

from __future__ import annotations

import argparse
import collections
import contextlib
import enum
import io
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.weights.checkpoint import UnreadableError, read_checkpoint, read_tensors
from cuts3d_cli.weights.pickles import HostileError, plain, read_pickle

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


class Colour(enum.Enum):
    RED = 1


class Tag(str):
    """A text of a class of its own."""


def read(data: bytes) -> Any:
    def no_storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        raise AssertionError("no tensor is in it")

    return plain(read_pickle(io.BytesIO(data), find_storage=no_storage, read_packed=pytest.fail))


def same(found: Any, wanted: Any) -> bool:
    """Whether two values are of the same types and equal, tensors and arrays to the bit."""
    if isinstance(wanted, torch.Tensor):
        return (
            type(found) is torch.Tensor
            and (found.dtype, found.shape, found.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
            and torch.equal(found, wanted.detach())
        )
    if isinstance(wanted, np.ndarray):
        return found.dtype == wanted.dtype.newbyteorder("=") and np.array_equal(found, wanted)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, (list, tuple)):
        return type(found) is type(wanted) and len(found) == len(wanted) and all(map(same, found, wanted))
    return type(found) is type(wanted) and bool(found == wanted)


class TestData:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_model_zoo_pickles(self, tmp_path: Path, protocol: int) -> None:
        """As CutLER and detectron2's model zoo write them: arrays by name, an author, a flag."""
        model = {"stem.conv1.weight": np.random.default_rng(0).standard_normal((4, 3, 7, 7)).astype(np.float32)}
        model["turned"] = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))
        model["swapped"] = np.arange(3, dtype=">f4")
        model["half"] = np.ones(2, np.float16)
        model["flags"] = np.array([True, False])
        content = {"model": model, "__author__": "someone", "matching_heuristics": True}
        (tmp_path / "d2_format.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        assert same(read_checkpoint(tmp_path / "d2_format.pkl"), content)
        tensors = read_tensors(tmp_path / "d2_format.pkl")
        assert list(tensors) == list(model)
        for name, value in model.items():
            assert torch.equal(tensors[name], torch.from_numpy(value.astype(value.dtype.newbyteorder("="))))

    def test_pickles_of_python_2(self) -> None:
        """Its texts are bytes, among them those of arrays."""
        data = (
            b"\x80\x02}U\x01ac" + b"numpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            b"\x89U\x08" + np.array([1.5, -2], "<f4").tobytes() + b"tbs."
        )
        assert same(read(data), {"a": np.array([1.5, -2], np.float32)})

    def test_a_full_checkpoint_of_dinos_training(self, tmp_path: Path) -> None:
        """Its learning rate, from a schedule in NumPy, is a number of NumPy in the optimizer's state."""
        net = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(net.parameters())
        net(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = np.float64(0.25)
        teacher = {f"backbone.{name}": value for name, value in net.state_dict().items()}
        content = {
            "student": {f"module.{name}": value + 1 for name, value in teacher.items()},
            "teacher": teacher,
            "optimizer": optimizer.state_dict(),
            "epoch": 3,
            "args": argparse.Namespace(arch="vit_small"),
            "dino_loss": collections.OrderedDict(center=torch.zeros(1, 4)),
            "fp16_scaler": {"scale": 65536.0},
        }
        for new in (True, False):
            torch.save(content, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=new)
            found = read_checkpoint(tmp_path / "checkpoint.pth")
            assert found["args"] == {}
            wanted = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
            wanted["optimizer"]["param_groups"][0]["lr"] = 0.25
            assert same({**found, "args": None}, {**wanted, "args": None})
            assert same(read_tensors(tmp_path / "checkpoint.pth"), teacher)

    @pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
    def test_tensors_of_every_kind(self, tmp_path: Path, new: bool) -> None:
        base = torch.arange(12.0)
        content = {
            **{str(dtype): torch.ones(2, 3).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
            **{str(dtype): torch.ones(2, 3).to(dtype) for dtype in (torch.uint8, torch.int8, torch.int16, torch.bool)},
            **{str(dtype): torch.ones(2, 3).to(dtype) for dtype in (torch.int32, torch.int64, torch.complex64)},
            "parameter": torch.nn.Parameter(torch.ones(2)),
            "turned": base.reshape(3, 4).t(),
            "part": base[2:5],
            "every second": base[1::2],
            "wide": torch.ones(1).expand(3, 2),
            "empty": torch.zeros(0, 3),
            "number": torch.tensor(3.0),
            "size": torch.Size([1, 2]),
            "dtype": torch.float16,
        }
        torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=new)
        content["size"] = (1, 2)  # a plain tuple
        found = read_checkpoint(tmp_path / "w")
        assert same(found, content)
        assert found["part"].untyped_storage().data_ptr() == found["turned"].untyped_storage().data_ptr()

    def test_tensors_of_types_without_a_storage_of_their_own(self, tmp_path: Path) -> None:
        content = {"a": torch.ones(3, dtype=torch.uint16), "b": torch.ones(3, dtype=torch.float8_e4m3fn)}
        torch.save(content, tmp_path / "w")
        found = read_checkpoint(tmp_path / "w")
        assert {name: value.dtype for name, value in found.items()} == {name: content[name].dtype for name in content}
        assert found["b"].float().tolist() == [1, 1, 1]

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_a_state_dict_by_pickle_alone(self, tmp_path: Path, protocol: int) -> None:
        state = torch.nn.Linear(3, 2).state_dict()
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(state, protocol=protocol))
        assert same(read_checkpoint(tmp_path / "w.pkl"), dict(state))

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_other_values(self, protocol: int) -> None:
        content = {
            "texts": ["a", b"b", ("c", None)],
            "numbers": [1, -(2**70), 0.5, True, 1j],
            "numpy": [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("x")],
            "sets": [{1, 2}, frozenset({3})],
            1: {None: collections.OrderedDict(a=1), (1, "b"): collections.Counter("aa")},
        }
        wanted = {**content, "numpy": [0.5, 3, True, "x"]}
        wanted[1] = {None: {"a": 1}, (1, "b"): {"a": 2}}
        found = read(pickle.dumps(content, protocol=protocol))
        assert same(found, wanted)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_foreign_objects_are_inert(self, protocol: int) -> None:
        content = [
            Colour.RED,
            Path("runs/1"),
            argparse.Namespace(lr=1),
            np.array([None, {}], dtype=object),
            np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
            np.random.default_rng(0),
            Tag("x"),
            collections.defaultdict(list, a=[1]),
            collections.deque([1]),
            os.path.join,
            Colour,
        ]
        found = read(pickle.dumps(content, protocol=protocol))
        assert found == [{}, {}, {}, {}, {}, {}, {}, {"a": [1]}, {}, {}, {}]
        assert read(pickle.dumps({Colour.RED: 1, "a": 2}, protocol=protocol))["a"] == 2

    def test_what_occurs_twice_stays_one(self) -> None:
        shared = [1]
        circle: dict[str, Any] = {"a": shared, "b": shared}
        circle["self"] = circle
        found = read(pickle.dumps(circle))
        assert found["a"] is found["b"]
        assert found["self"] is found

    def test_a_bomb_of_references_stays_small(self) -> None:
        content: list[Any] = []
        for _ in range(60):
            content = [content, content]
        assert len(read(pickle.dumps(content))) == 2


def stream(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def call(module: str, name: str, argument: bytes) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode() + argument + b"\x85R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


class TestHostile:
    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("os", "system"),
            ("posix", "system"),
            ("nt", "system"),
            ("builtins", "eval"),
            ("builtins", "exec"),
            ("__builtin__", "eval"),
            ("builtins", "__import__"),
            ("builtins", "open"),
            ("subprocess", "Popen"),
            ("os.path", "join"),
            ("importlib", "import_module"),
            ("runpy", "run_path"),
            ("shutil", "rmtree"),
            ("sys", "modules"),
        ],
    )
    def test_what_weights_have_no_use_for_is_refused(self, module: str, name: str) -> None:
        with pytest.raises(HostileError, match=name):
            read(stream(call(module, name, text("touch mark"))))

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("builtins", "getattr"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch.serialization", "os.system"),
            ("numpy.testing._private.utils", "runstring"),
            ("torch._utils", "_import_dotted_name"),
            ("timeit", "timeit"),
            ("cuts3d_cli.files", "atomic_write_bytes"),
            ("no_such_module", "no_such_name"),
        ],
    )
    def test_any_other_name_is_inert(self, module: str, name: str) -> None:
        assert read(stream(call(module, name, text("mark")))) == {}
        assert read(stream(call(module, name, text("mark")), text("x"), b"\x85R")) == {}  # its result is called, too

    def test_reduce_and_setstate_of_classes_that_are_there(self, tmp_path: Path) -> None:
        """A class that could be imported, whose methods would do harm."""

        def mark(self: object, *_: object) -> tuple[Any, ...]:
            (tmp_path / "mark").touch()
            return ()

        for method in ("__setstate__", "__init__", "__setitem__", "extend"):
            setattr(Harmful, method, mark)
        item = object.__new__(Harmful)
        item.__dict__["a"] = 1
        data = pickle.dumps([item])
        assert not (tmp_path / "mark").exists()
        assert read(data) == [{}]
        assert read(stream(b"c", f"{__name__}\nHarmful\n".encode(), b")R", text("k"), b"K\x01s")) == {"k": 1}
        assert not (tmp_path / "mark").exists()
        pickle.loads(data)
        assert (tmp_path / "mark").exists()

    def test_attributes_of_tensors_and_dictionaries_are_not_set(self, tmp_path: Path) -> None:
        """A state could put anything under the names of their methods."""
        found = read(stream(b"ccollections\nOrderedDict\n)R}", text("items"), b"K\x01sb"))
        assert (found, list(found.items())) == ({}, [])

    @pytest.mark.parametrize(
        ("size", "stride", "offset"), [((100,), (1,), 0), ((4,), (1,), 1), ((4,), (-1,), 3), ((2, 2), (3, 1), 0)]
    )
    def test_tensors_do_not_reach_beyond_their_storage(
        self, tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int
    ) -> None:
        class Beyond:
            def __reduce__(self) -> Any:
                storage = torch.storage.TypedStorage(wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32)
                arguments = (storage, offset, size, stride, False, {})
                return torch._utils._rebuild_tensor_v2, arguments

        torch.save({"a": Beyond()}, tmp_path / "w")
        with pytest.raises(UnreadableError, match="damaged"):
            read_checkpoint(tmp_path / "w")

    @pytest.mark.parametrize("width", [1 << 20, 1 << 21, 1 << 40])
    def test_tensors_that_repeat_few_numbers_many_times(self, tmp_path: Path, width: int) -> None:
        torch.save({"a": torch.ones(4).as_strided((width,), (0,))}, tmp_path / "w")
        if width == 1 << 20:
            found = read_checkpoint(tmp_path / "w")["a"]
            assert (found.shape, found.stride()) == ((width,), (0,))
            return
        with pytest.raises(UnreadableError, match="a tensor has more elements than its storage"):
            read_checkpoint(tmp_path / "w")

    def test_compressed_archives_are_not_unpacked(self, tmp_path: Path) -> None:
        torch.save({"a": torch.zeros(1000)}, tmp_path / "whole")
        with (
            zipfile.ZipFile(tmp_path / "whole") as whole,
            zipfile.ZipFile(tmp_path / "w", "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in whole.namelist():
                packed.writestr(name, whole.read(name))
        with pytest.raises(UnreadableError, match="its records are compressed"):
            read_checkpoint(tmp_path / "w")

    @pytest.mark.parametrize(
        "data",
        [
            stream(b"\x8e" + struct.pack("<Q", 1 << 60)),  # a text longer than the file
            stream(b"(" * 1000),
            b"\x80\xff.",
            stream(b"\x82\x01"),  # an extension
            stream(b"P1\n"),
        ],
    )
    def test_damaged_pickles_end_in_one_line(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "w").write_bytes(data)
        with pytest.raises(UnreadableError, match=r"w cannot be read: as a file of torch\.save it is damaged"):
            read_checkpoint(tmp_path / "w")

    def test_numbers_of_places_that_are_made_up_take_no_memory(self) -> None:
        assert read(stream(b"K\x01r\xff\xff\xff\xff")) == 1

    def test_a_deep_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "w").write_bytes(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".")
        with pytest.raises(UnreadableError, match="damaged"):
            read_checkpoint(tmp_path / "w")

    def test_storages_larger_than_the_file(self, tmp_path: Path) -> None:
        torch.save({"a": torch.ones(3)}, tmp_path / "w", _use_new_zipfile_serialization=False)
        data = (tmp_path / "w").read_bytes()
        count = data.index(b"K\x03N")  # the number of elements
        (tmp_path / "w").write_bytes(data[:count] + b"J\xff\xff\xff\x7f" + data[count + 2 :])
        with pytest.raises(UnreadableError, match="it ends early"):
            read_checkpoint(tmp_path / "w")

    def test_a_flipped_bit_in_an_archive_is_noticed(self, tmp_path: Path) -> None:
        torch.save({"a": torch.ones(1000)}, tmp_path / "w")
        with zipfile.ZipFile(tmp_path / "w") as archive:
            record = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        data = bytearray((tmp_path / "w").read_bytes())
        data[record.header_offset + 2000] ^= 4
        (tmp_path / "w").write_bytes(data)
        with pytest.raises(UnreadableError, match="Bad CRC-32"):
            read_checkpoint(tmp_path / "w")

    @pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
    def test_any_byte_may_be_wrong(self, tmp_path: Path, new: bool) -> None:
        torch.save(
            {"model": {"a": torch.ones(3)}, "lr": np.float64(1)}, tmp_path / "w", _use_new_zipfile_serialization=new
        )
        whole, random = (tmp_path / "w").read_bytes(), np.random.default_rng(0)
        for at in random.integers(0, len(whole), 150):
            data = bytearray(whole)
            data[at] = random.integers(256)
            (tmp_path / "x").write_bytes(data)
            with contextlib.suppress(UnreadableError):
                read_checkpoint(tmp_path / "x")

    def test_names_in_the_streams_here_are_what_python_sees(self) -> None:
        names = [argument for _, argument, _ in pickletools.genops(stream(call("os", "system", text("x"))))]
        assert "os system" in names


class Harmful:
    """Gets harmful methods in a test."""
