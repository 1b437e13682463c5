from __future__ import annotations

import os
import re
import resource
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.detector.data import Batches, SampleStream, SkippedSample, training_shards
from cuts3d_cli.detector.maps import ConfidenceMaps
from cuts3d_cli.detector.order import Position, SampleOrder
from cuts3d_cli.detector.samples import Geometry, draw_geometry, resized_shape, training_sample
from cuts3d_cli.detector.transfer import packed, unpacked
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.shards.manifest import load_manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.masks import StoredMask
from tests.support.photos import write_shard
from tests.support.training_data import GRID, cut_of, make_shards, mask_of, photo_of

IMAGES = 13


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three shards of 13 images, of which two have no mask."""
    return make_shards(tmp_path_factory.mktemp("data"), images=IMAGES, shard_size=5, empty=(3, 9))


def config(**changes: Any) -> TrainConfig:
    return replace(PRESETS["tiny"].train, min_sizes=(48, 64), max_size=96, **changes)


def keys(batches: Batches, count: int) -> list[list[str]]:
    return [[sample["key"] for sample in batch] for batch in islice(batches, count)]


@pytest.mark.parametrize("window", [1, 6, 1000])
@pytest.mark.parametrize("counts", [[5, 5, 3], [1], [0, 4, 0, 7]])
def test_an_epoch_holds_every_sample_once(counts: list[int], window: int):
    order = SampleOrder(counts, seed=3, window=window)
    everything = sorted((shard, number) for shard, count in enumerate(counts) for number in range(count))
    epochs = [[order.at(epoch * order.total + place) for place in range(order.total)] for epoch in range(3)]
    for epoch, found in enumerate(epochs):
        assert {item[0] for item in found} == {epoch}
        assert sorted(item[1:] for item in found) == everything
    if len(everything) > 3:
        assert [item[1:] for item in epochs[0]] != [item[1:] for item in epochs[1]]
    # Any place can be asked for at any time.
    assert SampleOrder(counts, seed=3, window=window).at(order.total + 1 % order.total) == epochs[1][1 % order.total]


def test_masks_of_mixed_settings_are_told(tmp_path: Path):
    bases = make_shards(tmp_path, images=4, shard_size=2)
    path = manifest_path(sidecar(bases[0], "pseudo"))
    values = load_manifest(path)
    told: list[str] = []
    training_shards(bases, with_confidence=False, say=lambda line: told.append(str(line)))
    assert told == []
    save_manifest(path, replace(values, config={**values.config, "pseudo": {"n": 7}}, config_hash=""))
    training_shards(bases, with_confidence=False, say=lambda line: told.append(str(line)))
    assert len(told) == 1
    assert told[0].startswith(f"warning: {len(bases)} sidecars of stage pseudo were made with 2 different settings: ")


def test_masks_of_photos_that_the_shard_does_not_have_are_refused(tmp_path: Path):
    bases = make_shards(tmp_path, images=4, shard_size=2)
    shards = training_shards(bases, with_confidence=False)
    for base in bases:
        (first, *_) = read_shard(base)
        write_shard(base, {first.key: first.members})
    stream = SampleStream(shards, config=config(shuffle_window=1), rank=0, world_size=1, start=Position())
    # A loader hands errors over in place of samples, and the training raises them.
    (_, problem) = next(iter(stream))
    assert isinstance(problem, ShardError)
    assert re.search(r"\.pseudo\.tar has masks of .*, which .*\.tar has not", str(problem))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_and_workers_share_an_epoch_without_loss(bases: list[Path], world: int, workers: int):
    shards = training_shards(bases, with_confidence=True)
    seen: Counter[str] = Counter()
    for rank in range(world):
        mine = len(range(rank, 2 * IMAGES, world))  # of two epochs
        stream = SampleStream(shards, config=config(), rank=rank, world_size=world, start=Position())
        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)
        for place, item in islice(loader, mine):
            key = item.key if isinstance(item, SkippedSample) else item["key"]
            assert isinstance(item, SkippedSample) == (key in ("003", "009"))
            assert place < mine
            seen[key] += 1
    assert seen == {f"{number:03d}": 2 for number in range(IMAGES)}


def test_what_is_seen_does_not_depend_on_workers(bases: list[Path]):
    shards = training_shards(bases, with_confidence=True)
    runs = []
    for workers in (0, 2):
        batches = Batches(shards, config=config(loader_workers=workers), batch_size=2)
        runs.append(list(islice(batches, 8)))
    for first, second in zip(*runs, strict=True):
        for a, b in zip(first, second, strict=True):
            assert content(a) == content(b)


def content(sample: dict[str, Any]) -> dict[str, Any]:
    """All that a sample holds, as plain values."""
    instances = sample["instances"]
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes", "gt_masks", "gt_confidence", "gt_scores"}
    return {
        **{name: value for name, value in sample.items() if name not in ("image", "instances")},
        "image": sample["image"].tolist(),
        "size": instances.image_size,
        "boxes": instances.gt_boxes.tensor.tolist(),
        "classes": (instances.gt_classes.dtype, instances.gt_classes.tolist()),
        "masks": (instances.gt_masks.dense().dtype, instances.gt_masks.dense().tolist()),
        "confidence": instances.gt_confidence.gathered().tolist(),
        "scores": instances.gt_scores.tolist(),
    }


@pytest.mark.parametrize("shard_size", [13, 1])
def test_the_order_is_that_of_the_seed_for_any_number_of_processes_and_of_shards(tmp_path: Path, shard_size: int):
    """One shard is shared by all processes, place by place."""
    shards = training_shards(make_shards(tmp_path, images=13, shard_size=shard_size), with_confidence=True)
    setting = config(group_by_aspect=False, seed=4)
    order = SampleOrder([shard.samples for shard in shards], seed=4, window=setting.shuffle_window)
    names = [f"{number:03d}" for number in range(13)]
    starts = np.cumsum([0] + [shard.samples for shard in shards])
    expected = [names[starts[shard] + number] for _, shard, number in map(order.at, range(24))]
    for workers in (0, 1, 3, 5):
        found = keys(Batches(shards, config=replace(setting, loader_workers=workers), batch_size=2), 12)
        assert [key for batch in found for key in batch] == expected


def test_a_sample_that_was_packed_is_the_same(bases: list[Path]):
    (sample,) = next(iter(Batches(training_shards(bases, with_confidence=True), config=config(), batch_size=1)))
    sample["instances"].gt_confidence = ConfidenceMaps.ones(1, sample["instances"].image_size)
    item = packed(sample)
    found = unpacked(item)
    assert content(found) == content(sample)
    item.pixels.zero_()  # what is shared may go
    assert content(found) == content(sample)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_run_goes_on_as_if_it_had_not_stopped(bases: list[Path], stop: int, grouped: bool):
    shards = training_shards(bases, with_confidence=True)
    setting = config(group_by_aspect=grouped)
    whole = keys(Batches(shards, config=setting, batch_size=3), 12)
    first = Batches(shards, config=setting, batch_size=3)
    assert keys(first, stop) == whole[:stop]
    again = Batches(shards, config=setting, batch_size=3, start=first.position.copy())
    assert keys(again, 12 - stop) == whole[stop:]


def test_a_batch_holds_one_shape_and_nothing_is_lost(bases: list[Path]):
    shards = training_shards(bases, with_confidence=True)
    batches = Batches(shards, config=config(), batch_size=2)
    seen: Counter[str] = Counter()
    for batch in islice(batches, 22):
        lying = {sample["image"].shape[2] > sample["image"].shape[1] for sample in batch}
        assert len(lying) == 1
        seen.update(sample["key"] for sample in batch)
    # 44 samples of epochs of 11: each came 4 times, but for what waits or was drawn a little early.
    assert set(seen) == {f"{number:03d}" for number in range(IMAGES)} - {"003", "009"}
    assert max(seen.values()) - min(seen.values()) <= 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_waiting_samples_hold_no_files_open(bases: list[Path]):
    """A batch of many images from loader processes: what they share is let go of as it comes in."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    shards = training_shards(bases, with_confidence=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 120, before[1]))
    try:
        batches = Batches(shards, config=config(loader_workers=2), batch_size=40)
        assert [len(batch) for batch in islice(batches, 2)] == [40, 40]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_images_that_cannot_be_used_are_told_once(bases: list[Path], tmp_path: Path):
    made = make_shards(tmp_path, images=6, shard_size=6)
    shard = training_shards(made, with_confidence=True)
    data = bytearray(made[0].read_bytes())
    at = data.index(b"\x89PNG", 2000)
    data[at + 60 : at + 90] = bytes(30)
    made[0].write_bytes(bytes(data))
    told: list[SkippedSample] = []
    batches = Batches(shard, config=config(), batch_size=1, on_unusable=told.append)
    seen = {key for batch in keys(batches, 15) for key in batch}
    assert len(told) == 1
    assert "cannot be decoded" in (told[0].reason or "")
    assert len(seen) == 5


def test_shards_without_masks_are_refused(tmp_path: Path):
    made = make_shards(tmp_path, images=3, shard_size=3, empty=(0, 1, 2))
    with pytest.raises(ShardError, match="no image of the shards has usable masks"):
        next(iter(Batches(training_shards(made, with_confidence=True), config=config(), batch_size=1)))


def test_what_is_missing_is_told_with_the_way_out(tmp_path: Path):
    made = make_shards(tmp_path, images=2, shard_size=2, confident=False)
    assert training_shards(made, with_confidence=False)[0].confidence is None
    with pytest.raises(ShardError, match=r"run `cuts3d confidence`, or .*soft_loss off"):
        training_shards(made, with_confidence=True)
    sidecar(made[0], "pseudo").unlink()
    with pytest.raises(ShardError, match=r"pseudo.tar is missing or unfinished: run `cuts3d pseudo"):
        training_shards(made, with_confidence=False)


def test_confidence_is_one_outside_of_an_instance(bases: list[Path]):
    shards = training_shards(bases, with_confidence=True)
    for sample in next(iter(Batches(shards, config=config(flip=0.0), batch_size=4))):
        instances = sample["instances"]
        mask, values = instances.gt_masks.dense()[0], instances.gt_confidence.dense()[0]
        number = int(sample["key"])
        size = sample["image"].shape[1:]
        geometry = Geometry(size=(size[0], size[1]))
        region = mask.numpy() | geometry.field(mask_of(number, (GRID, GRID)))
        assert np.allclose(values[region], 0.8, atol=1 / 255)
        assert (values.numpy()[~region] == 1).all()
        assert instances.gt_scores.tolist() == pytest.approx([0.8])
        assert torch.equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)
        # The mask lies on the bright square of the photo.
        bright = sample["image"].float().mean(dim=0) > 100
        assert (bright == mask).float().mean() > 0.95


def test_masks_confidence_and_photo_are_cut_alike():
    from PIL import Image

    rng = np.random.default_rng(0)
    for _ in range(40):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        new = (int(rng.integers(16, 80)), int(rng.integers(16, 80)))
        rows, columns = int(rng.integers(8, new[0] + 1)), int(rng.integers(8, new[1] + 1))
        top, left = int(rng.integers(0, new[0] - rows + 1)), int(rng.integers(0, new[1] - columns + 1))
        geometry = Geometry(size=new, crop=(top, left, rows, columns), flip=bool(rng.random() < 0.5))
        mask = mask_of(int(rng.integers(3)), size)
        masks = [StoredMask.of(encode_rle(mask), cut=cut_of(mask))]
        # A confidence map that is the mask itself, at the photo's resolution.
        counts = np.where(mask, 1, 2).astype(np.uint8)[None]
        confidence = StoredConfidence(counts=counts, scores=[0.5], levels=2, floor=0.5, source="depth")
        photo = Image.fromarray(photo_of(1, size))
        sample = training_sample(photo, masks, confidence, geometry=geometry)
        instances = sample["instances"]
        assert tuple(sample["image"].shape) == (3, rows, columns)
        if len(instances):
            inside = instances.gt_masks.dense()[0]
            assert torch.equal(instances.gt_confidence.dense()[0] < 1, inside)
            assert torch.equal(inside, torch.from_numpy(geometry.field(mask)))
        else:
            assert not geometry.field(mask).any()


def test_draws_depend_on_the_seed_alone():
    drawn = [draw_geometry((48, 64), config=config(), seed=(0, epoch, 5)) for epoch in range(30)]
    assert drawn == [draw_geometry((48, 64), config=config(), seed=(0, epoch, 5)) for epoch in range(30)]
    assert {item.flip for item in drawn} == {True, False}
    assert {min(item.size) for item in drawn} == {48, 64}
    assert resized_shape((100, 300), shorter=80, longest=120) == (40, 120)


def test_masks_of_another_photo_are_refused():
    from PIL import Image

    masks = [StoredMask.of(encode_rle(mask_of(0, (20, 20))))]
    with pytest.raises(SampleError, match="a mask is 20x20, the photo 30x20"):
        training_sample(Image.new("RGB", (30, 20)), masks, None, geometry=Geometry(size=(20, 30)))
