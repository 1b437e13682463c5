"""Every kind of member: what is encoded is decoded again, and `decode` refuses exactly what `flaws` reports."""

from __future__ import annotations

import dataclasses
import io
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cuts3d_cli import sidecars
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.shards.names import stage_names
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.shards.writer import ShardWriter
from cuts3d_cli.sidecars import KINDS, Known, StoredPhoto, kind_of, photos
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.depth import PNG_STEPS, StoredDepth
from cuts3d_cli.sidecars.detections import StoredDetections
from cuts3d_cli.sidecars.features import StoredFeatures
from cuts3d_cli.sidecars.masks import DroppedCut, ImageCut, InstanceCut, StoredMask, StoredMasks
from cuts3d_cli.sidecars.npy import encode_npy
from cuts3d_cli.sidecars.photos import FACTS, SensorFile

Members = dict[str, bytes]
SIZE, GRID = (24, 32), (6, 8)
FILE = Path("s-000.pseudo.tar")
SETTINGS = settings(deadline=None, max_examples=60)


def sample(members: Mapping[str, bytes]) -> Sample:
    return Sample(key="a", members=dict(members), file=FILE)


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal, arrays by value and type."""
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# ---------------------------------------------------------------------------------------------- contents

seeds = st.integers(0, 2**32 - 1)
texts = st.text(max_size=12)
shares = st.floats(0, 1)
numbers = st.floats(-1e300, 1e300)


def rle_of(seed: int, size: tuple[int, int]) -> Any:
    return encode_rle(np.random.default_rng(seed).random(size) < 0.4)


def map_of(seed: int) -> np.ndarray:
    """A map whose values are steps of the PNG, with holes."""
    rng = np.random.default_rng(seed)
    depth = (rng.integers(0, PNG_STEPS + 1, SIZE) / PNG_STEPS).astype(np.float32)
    depth[rng.random(SIZE) < 0.1] = np.nan
    return depth


def vectors_of(seed: int, channels: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *GRID)).astype(np.float16)


depths = st.builds(
    StoredDepth,
    depth=seeds.map(map_of),
    minimum=numbers,
    maximum=numbers,
    unit=texts,
    direction=texts,
    conversion=texts,
    model=texts,
    backend=texts,
)
vectors = st.builds(
    StoredFeatures,
    features=st.builds(vectors_of, seeds, st.integers(1, 5)),
    backbone=texts,
    size=st.integers(1, 2000),
    tensor=texts,
)
grid_codes = seeds.map(lambda seed: rle_of(seed, GRID))
nodes = st.tuples(st.integers(0, GRID[0] - 1), st.integers(0, GRID[1] - 1))
instance_cuts = st.builds(
    InstanceCut,
    iteration=st.integers(0, 9),
    patch_mask=grid_codes,
    bipartition=grid_codes,
    source=nodes,
    sink=st.none() | nodes,
    core=st.none() | grid_codes,
    crf_iou=st.none() | shares,
)
plain_masks = seeds.map(lambda seed: StoredMask.of(rle_of(seed, SIZE)))
cut_masks = st.builds(lambda mask, cut: dataclasses.replace(mask, cut=cut), plain_masks, instance_cuts)
merged_masks = st.builds(
    lambda mask, score, origin: dataclasses.replace(mask, score=score, origin=origin),
    plain_masks,
    st.none() | shares,
    st.sampled_from(["prediction", "previous"]),
)
masks_of_a_cut = st.builds(
    StoredMasks,
    size=st.just(SIZE),
    method=texts,
    instances=st.lists(cut_masks, max_size=3),
    cut=st.builds(
        ImageCut,
        grid=st.just(GRID),
        stopped=st.none() | texts,
        dropped=st.lists(st.builds(DroppedCut, iteration=st.integers(0, 9), reason=texts), max_size=2),
    ),
)
nothing_cut = st.builds(
    StoredMasks,
    size=st.just(SIZE),
    method=texts,
    instances=st.just(()),
    cut=st.builds(ImageCut, grid=st.none(), stopped=texts, dropped=st.just(())),
)
masks_of_a_round = st.builds(
    StoredMasks, size=st.just(SIZE), method=texts, instances=st.lists(merged_masks, max_size=3), cut=st.none()
)
found = st.builds(
    StoredDetections,
    size=st.just(SIZE),
    instances=st.lists(
        st.builds(lambda mask, score: dataclasses.replace(mask, score=score), plain_masks, shares), max_size=3
    ),
)


@st.composite
def confidences(draw: st.DrawFn) -> StoredConfidence:
    count, levels = draw(st.integers(0, 3)), draw(st.integers(1, 255))
    counts = np.random.default_rng(draw(seeds)).integers(0, levels + 1, (count, *GRID)).astype(np.uint8)
    scores = draw(st.lists(shares, min_size=count, max_size=count))
    return StoredConfidence(counts=counts, scores=scores, levels=levels, floor=draw(shares), source=draw(texts))


CONTENTS: Mapping[str, st.SearchStrategy[Any]] = {
    "depth": depths,
    "features": vectors,
    "pseudo": masks_of_a_cut | nothing_cut | masks_of_a_round,
    "confidence": confidences(),
    "predict": found,
}


def test_the_kinds_are_those_of_the_stages():
    assert tuple(KINDS) == stage_names() == tuple(CONTENTS)
    for stage, kind in KINDS.items():
        assert all(member.startswith(f"{stage}.") for member in kind.MEMBERS)
        assert kind.FOLLOWS is None or kind.FOLLOWS in stage_names()[: stage_names().index(stage)]
    assert kind_of("pseudo.st2") is KINDS["pseudo"]
    assert kind_of("predict.initial") is KINDS["predict"]


@pytest.mark.parametrize("stage", stage_names())
def test_what_is_encoded_is_decoded_again(stage: str):
    kind = KINDS[stage]

    @SETTINGS
    @given(CONTENTS[stage])
    def check(content: Any) -> None:
        members = kind.encode(content)
        assert sorted(members) == sorted(kind.MEMBERS)
        assert kind.flaws(sample(members)) == []
        decoded = kind.decode(sample(members))
        assert same(decoded, content)
        assert kind.encode(decoded) == members

    check()


# ---------------------------------------------------------------------------------------------- damage

JUNK: Sequence[Any] = (
    *(None, True, -1, 0, 1, 2, 300, 10**30, 1.5, -0.5, float("nan"), float("inf"), 1e301),
    *("", "x", "prediction", [], [1], [1, 2], [-1, 2], [1, 2, 3, 4], [None], {}, {"size": [24, 32], "counts": "0"}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON value but its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in ((*path, key), *places(item, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of a JSON value with a change at a path."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return copy


def delete(holder: Any, key: Any) -> None:
    del holder[key]


@st.composite
def damaged(draw: st.DrawFn, members: Members, names: Sequence[str]) -> Members:
    """Members of which one is missing, cut off, changed in a byte, of another type, or one too many."""
    name = draw(st.sampled_from(sorted(names)))
    data = members[name]
    ways = ["missing", "stray", "cut off", "bytes", "other"]
    way = draw(st.sampled_from(ways + ["field"] * 6 * name.endswith("json") + ["array"] * 3 * name.endswith("npy")))
    if way == "missing":
        return {key: value for key, value in members.items() if key != name}
    if way == "stray":
        return {**members, draw(st.sampled_from(["txt", "depth.jpg", "other.json"])): data}
    if way == "cut off":
        data = data[: draw(st.integers(0, len(data) - 1))]
    elif way == "bytes":
        changed = bytearray(data)
        for _ in range(draw(st.integers(1, 3))):
            changed[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        data = bytes(changed)
    elif way == "other":
        data = draw(st.sampled_from([b"", b"[]", b"{}", b"null", b"[" * 50_000, *members.values()]))
    elif way == "field":
        value = json.loads(data)
        path = draw(st.sampled_from(places(value)))
        junk = draw(st.sampled_from(JUNK))
        changes = [delete, lambda holder, key: holder.__setitem__(key, junk)]
        data = json.dumps(put(value, path, draw(st.sampled_from(changes)))).encode()
    else:
        array = np.load(io.BytesIO(data))
        data = encode_npy(draw(st.sampled_from(list(odd_arrays(array)))))
    return {**members, name: data}


def odd_arrays(array: np.ndarray) -> list[np.ndarray]:
    """Arrays of other types and shapes than they should be, or with other values."""
    return [
        array.astype(np.float32),
        array.astype(np.int64),
        array.astype(complex),
        array.astype(">f2"),
        array[:0],
        array[..., :0],
        array.reshape(-1),
        array[None],
        np.asfortranarray(array),
        np.concatenate([array, array]),
        np.full_like(array, 255),
        np.full(array.shape, np.nan, np.float16),
        np.full(array.shape, np.inf, np.float16),
    ]


def is_refused(decode: Callable[..., Any], *words: Any) -> bool:
    try:
        decode(*words)
    except (SampleError, ShardError):
        return True
    return False


knowledge = st.builds(Known, size=st.sampled_from([None, SIZE, (32, 24)]), masks=st.sampled_from([None, 0, 1, 2, 3]))


@pytest.mark.parametrize("stage", stage_names())
def test_what_has_a_flaw_is_refused_and_nothing_else(stage: str):
    kind = KINDS[stage]

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        members = kind.encode(data.draw(CONTENTS[stage]))
        if data.draw(st.booleans()):
            members = data.draw(damaged(members, kind.MEMBERS))
        known = data.draw(knowledge)
        flaws = kind.flaws(sample(members), known)
        assert bool(flaws) == is_refused(kind.decode, sample(members), known)
        assert all(flaw.reason and "\n" not in flaw.reason for flaw in flaws)
        if not flaws:  # what is taken can be written again, and is then the same
            content = kind.decode(sample(members), known)
            assert same(kind.decode(sample(kind.encode(content)), known), content)

    check()


BOX, CODE, PATCH = [0.0, 0.0, 4.0, 4.0], rle_of(0, SIZE), rle_of(1, GRID)
WHOLE: Mapping[str, Any] = {
    "depth": StoredDepth(
        depth=map_of(0),
        minimum=0.5,
        maximum=2.0,
        unit="metre",
        direction="distance",
        conversion="none",
        model="sensor",
        backend="sensor",
    ),
    "features": StoredFeatures(features=vectors_of(0, 3), backbone="dino-vits16", size=96, tensor="keys"),
    "pseudo": StoredMasks(
        size=SIZE,
        method="cuts3d",
        instances=[
            StoredMask.of(
                CODE,
                cut=InstanceCut(
                    iteration=0,
                    patch_mask=PATCH,
                    bipartition=PATCH,
                    source=(1, 2),
                    sink=(5, 7),
                    core=PATCH,
                    crf_iou=0.5,
                ),
            )
        ],
        cut=ImageCut(grid=GRID, stopped="why", dropped=[DroppedCut(iteration=1, reason="too small")]),
    ),
    "confidence": StoredConfidence(
        counts=np.full((2, *GRID), 3, np.uint8), scores=[0.5, 1.0], levels=6, floor=0.5, source="depth"
    ),
    "predict": StoredDetections(size=SIZE, instances=[dataclasses.replace(StoredMask.of(CODE), score=0.75)]),
}
NUMBER = (None, "1", True, [1], float("nan"), float("inf"), 1e301)
SHARE = (*NUMBER, -0.1, 1.1)
SIDE = (*NUMBER, 0, -3, 1.5, 10**6)
TEXT = (None, 1, ["x"], {})
SIZES = ([32, 24], [24, 33], [0, 0], [-1, -1], [24.0, 32], [True, 32], [10**9, 10**9])
RLE = (
    *(None, "0", [], {}, {"size": [24, 32]}, {"counts": "0"}, {"size": [24], "counts": "0"}),
    *({"size": [24, 32], "counts": counts} for counts in ("", "0", "o", "PPPP", "\u0100", 5, [1, 2])),
    *({**CODE, "size": size} for size in SIZES),
)
INSTANCE = ("instances", 0)
BAD: Mapping[tuple[str, str], Mapping[tuple[Any, ...], Sequence[Any]]] = {
    ("depth", "depth.json"): {
        **{(name,): SIDE for name in ("height", "width")},
        **{(name,): NUMBER for name in ("min", "max")},
        **{(name,): TEXT for name in ("unit", "direction", "conversion", "model", "backend")},
    },
    ("features", "features.json"): {("size",): SIDE[:-1], ("backbone",): TEXT, ("tensor",): TEXT},
    ("pseudo", "pseudo.json"): {
        **{(name,): SIDE for name in ("height", "width")},
        ("method",): TEXT,
        ("stopped",): (1, [], {}, True),
        ("grid",): ("x", [6], [6, 8, 1], [6.0, 8], [0, 8], [6, -8], [True, 8], [8, 6], None),
        ("instances",): (None, {}, "x", [1], [None], [[]]),
        ("dropped",): ("x", {}, [1], [{}], [{"iteration": 0}], [{"iteration": "0", "reason": "x"}]),
        (*INSTANCE, "segmentation"): RLE,
        (*INSTANCE, "area"): (*NUMBER, 0, -1, 1.5),
        (*INSTANCE, "bbox"): (None, [], [1, 2, 3], [1, 2, 3, "4"], [0, 0, float("inf"), 1], {}),
        (*INSTANCE, "iteration"): (None, "0", 0.5, -1, True),
        (*INSTANCE, "patch_mask"): RLE,
        (*INSTANCE, "bipartition"): RLE,
        (*INSTANCE, "source"): (None, 3, [1], [1, 2, 3], [-1, 0], [6, 0], [0, 8], [1.0, 2], [True, 2]),
        (*INSTANCE, "sink"): (3, [1], [1, 2, 3], [-1, 0], [6, 0], [0, 8], [1.0, 2]),
        (*INSTANCE, "core"): RLE[1:],
        (*INSTANCE, "crf_iou"): SHARE[1:],
    },
    ("confidence", "confidence.json"): {
        ("levels",): (*SIDE, 256, 2),
        ("floor",): SHARE,
        ("source",): TEXT,
        ("scores",): (None, 0.5, {}, [], [0.5], [0.5, 1.1], [0.5, None], [0.5, float("nan")], [0.1, 0.2, 0.3]),
    },
    ("predict", "predict.json"): {
        **{(name,): SIDE for name in ("height", "width")},
        ("instances",): (None, {}, "x", [1], [None], [{}]),
        (*INSTANCE, "segmentation"): RLE,
        (*INSTANCE, "area"): (*NUMBER, 0, -1, 1.5),
        (*INSTANCE, "bbox"): (None, [], [1, 2, 3], [1, 2, 3, "4"], {}),
        (*INSTANCE, "score"): SHARE,
    },
}
OPTIONAL = {("method",), ("stopped",), ("dropped",), (*INSTANCE, "sink"), (*INSTANCE, "core"), (*INSTANCE, "crf_iou")}
"""Fields of masks that may be missing."""


@pytest.mark.parametrize(("stage", "member"), BAD)
def test_every_field_is_checked(stage: str, member: str):
    kind = KINDS[stage]
    members = kind.encode(WHOLE[stage])
    value = json.loads(members[member])
    # No field is forgotten here.
    first = value["instances"][0] if "instances" in value else {}
    assert set(BAD[stage, member]) == {*((name,) for name in value), *((*INSTANCE, name) for name in first)}
    for path, values in BAD[stage, member].items():
        changed = [put(value, path, lambda holder, key, bad=bad: holder.__setitem__(key, bad)) for bad in values]
        changed += [] if path in OPTIONAL else [put(value, path, delete)]
        for record in changed:
            bad = sample({**members, member: json.dumps(record).encode()})
            assert kind.flaws(bad), (path, record)
            assert is_refused(kind.decode, bad)


@pytest.mark.parametrize("stage", stage_names())
def test_members_that_are_missing_cut_off_or_strangers_are_flaws(stage: str):
    kind = KINDS[stage]
    members = kind.encode(WHOLE[stage])
    for name, data in members.items():
        for changed in (
            {key: value for key, value in members.items() if key != name},
            {**members, name: b""},
            {**members, name: data[: len(data) // 2]},
            {**members, name: data[: len(data) * 3 // 4]},
            {**members, "txt": b"x"},
        ):
            assert kind.flaws(sample(changed)), (name, changed.keys())
            assert is_refused(kind.decode, sample(changed))


ARRAYS: Mapping[str, Sequence[tuple[np.ndarray, str]]] = {
    "features": [
        (np.zeros((2, 3, 4), np.float32), "it holds float32 of shape (2, 3, 4), not float16 (C, H, W)"),
        (np.zeros((3, 4), np.float16), "it holds float16 of shape (3, 4), not float16 (C, H, W)"),
        (np.zeros((0, 3, 4), np.float16), "it holds float16 of shape (0, 3, 4), not float16 (C, H, W)"),
        (np.full((2, 3, 4), np.nan, np.float16), "it holds NaN or infinite values"),
        (np.full((2, 3, 4), -np.inf, np.float16), "it holds NaN or infinite values"),
    ],
    "confidence": [
        (np.zeros((2, 3, 4), np.int64), "it holds int64 of shape (2, 3, 4), not uint8 (M, H, W)"),
        (np.zeros((3, 4), np.uint8), "it holds uint8 of shape (3, 4), not uint8 (M, H, W)"),
        (np.full((2, 3, 4), 7, np.uint8), "it holds 7, more than the 6 of its JSON"),
        (np.zeros((3, 3, 4), np.uint8), "it has 3 maps for 2 scores"),
    ],
}


@pytest.mark.parametrize("stage", ARRAYS)
def test_arrays_of_another_type_shape_or_range_are_flaws(stage: str):
    kind = KINDS[stage]
    for array, reason in ARRAYS[stage]:
        bad = sample(kind.encode(WHOLE[stage]) | {f"{stage}.npy": encode_npy(array)})
        assert [flaw.reason for flaw in kind.flaws(bad)] == [reason]
        with pytest.raises(SampleError, match=f"the stored {stage} cannot be read: {stage}.npy: it h") as caught:
            kind.decode(bad)
        assert str(caught.value).endswith(reason)


def test_what_contradicts_other_tars_is_a_flaw():
    other = Known(size=(32, 24))
    for stage in ("pseudo", "predict"):
        bad = sample(KINDS[stage].encode(WHOLE[stage]))
        assert KINDS[stage].flaws(bad, Known(size=SIZE)) == []
        assert [flaw.reason for flaw in KINDS[stage].flaws(bad, other)] == ["it is of a photo of 32x24, not 24x32"]
        with pytest.raises(ShardError, match=f"member a.{stage}.json is damaged: it is of a photo of 32x24, not 24x32"):
            KINDS[stage].decode(bad, other)
    bad = sample(KINDS["confidence"].encode(WHOLE["confidence"]))
    assert KINDS["confidence"].flaws(bad, Known(masks=2)) == []
    assert [flaw.reason for flaw in KINDS["confidence"].flaws(bad, Known(masks=3))] == ["it has 2 maps for 3 masks"]
    small = dataclasses.replace(WHOLE["depth"], depth=map_of(0)[:9])
    members = KINDS["depth"].encode(WHOLE["depth"]) | {"depth.png": KINDS["depth"].encode(small)["depth.png"]}
    assert [flaw.reason for flaw in KINDS["depth"].flaws(sample(members))] == ["it is 32x9, its JSON says otherwise"]


def test_a_damaged_record_is_named_with_its_file_and_the_way_out():
    members = KINDS["pseudo"].encode(WHOLE["pseudo"])
    for data, reason in (
        (b"{", "it is not JSON"),
        (b"[" * 100_000, "it is nested deeper than 100 levels"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "it has no height"),
        (members["pseudo.json"].replace(b'"iteration": 0', b'"iteration": null'), "instance 0: its iteration is null"),
        (members["pseudo.json"].replace(b'"area": ', b'"area": 1'), "instance 0: its area is not that of its mask"),
    ):
        with pytest.raises(ShardError) as caught:
            KINDS["pseudo"].decode(sample({"pseudo.json": data}))
        assert str(caught.value).startswith(f"{FILE}: member a.pseudo.json is damaged: {reason}")
        assert str(caught.value).endswith(": check it with `cuts3d verify s-000.tar`")
    with pytest.raises(ShardError, match=r"member a\.pseudo\.json is missing: check it"):
        KINDS["pseudo"].decode(sample({}))


# ---------------------------------------------------------------------------------------------- base shards


def photo_file(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def sensor_png(seed: int) -> SensorFile:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 4000, SIZE).astype(np.uint16)).save(buffer, "PNG")
    return SensorFile(data=buffer.getvalue(), kind="png", scale=0.001)


def sensor_npy(seed: int) -> SensorFile:
    return SensorFile(data=encode_npy(np.random.default_rng(seed).random(SIZE, np.float32)), kind="npy", scale=0.001)


sensors = st.none() | seeds.map(sensor_png) | seeds.map(sensor_npy)


def packed(seed: int, sensor: SensorFile | None) -> Members:
    return photos.encode(photo_file(seed), extension="png", id=seed, source="d/a.png", size=SIZE, sensor=sensor)


@SETTINGS
@given(seeds, sensors)
def test_a_photo_is_decoded_as_it_was_packed(seed: int, sensor: SensorFile | None):
    members = packed(seed, sensor)
    assert set(members) <= set(photos.MEMBERS)
    assert photos.flaws_and_size(sample(members)) == ([], SIZE)
    found = photos.decode(sample(members))
    pixels = np.asarray(Image.open(io.BytesIO(members["png"])))
    np.testing.assert_array_equal(np.asarray(found.image), pixels)
    np.testing.assert_array_equal(photos.photo_pixels(sample(members)), pixels)
    expected = {"id": seed, "source": "d/a.png", "width": SIZE[1], "height": SIZE[0]}
    if sensor is None:
        assert found == StoredPhoto(image=found.image, facts=expected, sensor=None)
    else:
        assert found.facts == {**expected, "depth": {"scale": {"png": 0.001, "npy": 1.0}[sensor.kind], "unit": "metre"}}
        assert found.sensor is not None
        np.testing.assert_array_equal(found.sensor, photos.sensor_map(sample(members)).metres)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_photo_with_a_flaw_is_refused_and_no_other(data: st.DataObject):
    members = packed(data.draw(seeds), data.draw(sensors))
    members = data.draw(damaged(members, list(members)))
    assert bool(photos.flaws(sample(members))) == is_refused(photos.decode, sample(members))


def test_members_of_the_users_own_and_photos_without_facts_are_no_flaws():
    members = {"jpg": photo_file(0, "JPEG"), "txt": b"x", "cls": b"7"}
    assert photos.flaws(sample(members)) == []
    assert photos.decode(sample(members)).facts == photos.photo_facts(sample(members)) == {"source": "a.jpg"}
    for text in (b'{"source": "laion", "id": 7}', b'["a caption"]', b'{"path": "M\xf6bel"}', b"{", b"[" * 10**6):
        assert photos.flaws(sample({**members, "json": text})) == []
        assert photos.photo_facts(sample({**members, "json": text})) == {"source": "a.jpg"}


@pytest.mark.parametrize("depth", [{}, {"depth": {"scale": 0.001, "unit": "metre"}}])
def test_facts_as_version_0_1_wrote_them_are_read(depth: Mapping[str, Any]):
    facts = {"id": 3, "source": "b/A.JPG", "width": 32, "height": 24, **depth}
    members = {"jpg": photo_file(0, "JPEG")}
    assert photos.photo_facts(sample({**members, "json": json.dumps(facts).encode()})) == facts
    for other in ({**facts, "url": "x"}, {**facts, "source": "laion"}, {**facts, "id": "3"}, {**facts, "width": -1}):
        assert photos.photo_facts(sample({**members, "json": json.dumps(other).encode()})) == {"source": "a.jpg"}


def test_the_name_of_a_photo_is_the_one_it_has_in_its_tar():
    stored = Sample(key="x/a", members={"jpeg": b"", "cls": b""}, names={"jpeg": "x/a.JPEG", "cls": "x/a.cls"})
    assert photos.photo_facts(stored) == {"source": "x/a.JPEG"}
    assert photos.photo_facts(Sample(key="x/a", members={"txt": b""})) == {"source": "x/a"}


FLAWS_OF_PHOTOS: Sequence[tuple[Members, str | None, str]] = [
    ({"txt": b"x"}, None, "the sample has no image, only txt"),
    ({"jpg": photo_file(0), "png": photo_file(0)}, None, "the sample has several images: jpg, png"),
    ({"jpg": b""}, "jpg", "the image file is empty"),
    ({"jpg": photo_file(0)[:200]}, "jpg", "the image cannot be decoded"),
    (
        {"a.png": b"", "b.png": b""},
        None,
        "the sample has no image, only a.png, b.png: WebDataset ends a key at its first",
    ),
    ({"": b"x"}, None, "the sample has no image, only a file without an extension"),
    ({"png": photo_file(0), FACTS: b"["}, FACTS, "it is not JSON"),
    ({"png": photo_file(0), FACTS: b'{"width": 9, "height": 24}'}, FACTS, "it says 9x24, the photo is 32x24"),
    ({"png": photo_file(0), "sensor.npy": b"x"}, "sensor.npy", "the depth map is not a whole .npy file"),
    ({**packed(0, sensor_png(0)), "sensor.png": b"x"}, "sensor.png", "the depth map is not a PNG file"),
    *(
        (
            {"png": photo_file(0), "sensor.png": sensor_png(0).data, **facts},
            FACTS,
            "the sample's JSON does not say what a unit of its sensor map stands for",
        )
        for facts in (
            {},
            {"json": json.dumps({"depth": {"scale": 0.001}}).encode()},
            {FACTS: json.dumps({"depth": None}).encode()},
        )
    ),
    *(
        ({"png": photo_file(0), FACTS: json.dumps(facts).encode()}, FACTS, reason)
        for facts, reason in (
            ({"depth": 1}, "its depth is 1"),
            ({"depth": {}}, "depth: it has no scale"),
            *(({"depth": {"scale": scale}}, "depth: its scale is ") for scale in (-1, 0, 1e301, True, "1", [1])),
            ({"id": "7"}, 'its id is "7"'),
            ({"source": 5}, "its source is 5"),
            ({"width": 5}, "it has no height"),
        )
    ),
]


@pytest.mark.parametrize("case", range(len(FLAWS_OF_PHOTOS)))
def test_what_is_wrong_with_a_photo_is_found(case: int):
    members, extension, reason = FLAWS_OF_PHOTOS[case]
    (flaw,) = photos.flaws(sample(members))
    assert flaw.extension == extension
    assert flaw.reason.startswith(reason)
    assert is_refused(photos.decode, sample(members))


def test_the_public_face_is_what_its_docstring_says(tmp_path: Path):
    with ShardWriter(tmp_path / "s-000.pseudo.tar") as writer:
        writer.write("a", KINDS["pseudo"].encode(WHOLE["pseudo"]))
    assert all(hasattr(sidecars, name) for name in sidecars.__all__)
    lines = (sidecars.__doc__ or "").split("own:\n\n")[1].split("\n\n`decode`")[0]
    code = textwrap.dedent(lines).replace('"in1k-000', f'"{tmp_path}/s-000')
    code = code.replace("instance.pixels()", "shapes.append(instance.pixels().shape)")
    shapes: list[tuple[int, ...]] = []
    exec(code, {"shapes": shapes})
    assert shapes == [SIZE]
