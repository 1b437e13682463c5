"""Targets of the fuzzing: for each reader, a valid input, and how it is damaged."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from cuts3d_cli.cli.config import as_toml
from cuts3d_cli.config import resolve
from cuts3d_cli.cut.masks import decode_rle, encode_rle, rle_box
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.evaluation.datasets.coco import read_coco
from cuts3d_cli.evaluation.datasets.ground_truth import read_ground_truth
from cuts3d_cli.evaluation.datasets.kitti import read_kitti
from cuts3d_cli.evaluation.datasets.open_images import read_open_images
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, instances_in_pixels
from cuts3d_cli.evaluation.datasets.voc import read_voc
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.freshness import check_freshness
from cuts3d_cli.shards.manifest import Manifest, load_manifest, save_manifest
from cuts3d_cli.shards.names import expand
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.sidecars import KINDS, Known, kind_of, photos
from cuts3d_cli.sidecars.depth import decode_depth_png, encode_depth_png
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.sidecars.photos import decode_sensor_npy
from cuts3d_cli.stages.listing import list_source
from stress.fuzz_mutations import mutated_bytes, mutated_json, mutated_tar, mutated_text, odd_spec

Target = Callable[[Random, Path], None]
"""Damages an input in a folder, and reads it."""
HEIGHT, WIDTH = 24, 32


def shard(rng: Random, folder: Path) -> None:
    """Read tars: base shards and sidecars, with headers of all formats."""
    path = folder / rng.choice(["a-000.tar", "a-000.depth.tar"])
    path.write_bytes(mutated_tar(rng, rng.choice(_tars())))
    samples = None
    try:
        samples = sum(1 for _ in read_shard(path))
    finally:
        with SidecarReader(path) as reader:
            found = sum(reader.pick(key) is not None for key in reader.keys)
            assert samples is None or found == samples


def pattern(rng: Random, folder: Path) -> None:
    """Expand arguments of --shards, and lists of them."""
    for name in ("a-000.tar", "a-001.tar", "a-000.depth.tar", "[x]-000.tar", "b{1}.tar"):
        (folder / name).touch()
    specs = [odd_spec(rng) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.3:
        (folder / "list.txt").write_bytes(mutated_bytes(rng, "\n".join(specs).encode("utf-8", "surrogatepass")))
        specs = ["list.txt"]
    for path in expand(specs):
        assert path.is_file()


def manifest(rng: Random, folder: Path) -> None:
    """Read manifests of finished tars."""
    tar = folder / "m-000.depth.tar"
    tar.write_bytes(b"content")
    path = tar.with_suffix(".json")
    path.write_bytes(mutated_json(rng, _manifest(folder)))
    check_freshness(tar, stage="depth", config={"depth": {"backend": "sensor"}}, inputs={"base": tar})
    load_manifest(path)


def config(rng: Random, folder: Path) -> None:
    """Resolve a configuration from cuts3d.toml, variables and options."""
    text = as_toml(resolve(environment={}, folder=folder / "none"))
    lines = rng.sample(text.splitlines(), rng.randint(0, 12))
    (folder / "cuts3d.toml").write_bytes(mutated_text(rng, "\n".join(["[pseudo]", *lines])))
    section, field = rng.choice(["pseudo", "run", "train", "x"]), rng.choice(["beta", "workers", "min_sizes", "y"])
    value = rng.choice(["", "nan", "1e999", "-1", "0", "1,2", "٣", "x" * 2000, "None", "true", "9" * 5000])
    variable = {f"CUTS3D_{section}_{field}".upper(): value} if rng.random() < 0.3 else {}
    overrides: dict[str, dict[str, Any]] = {}
    if rng.random() < 0.3:
        overrides[section] = {field: rng.choice([value, None, 1.5, True, [], {}, (1, "x")])}
    resolve(environment=variable, folder=folder, overrides=overrides)


def record(rng: Random, folder: Path) -> None:
    """Read JSON members of sidecars, and the masks in them."""
    extension = rng.choice(list(_records()))
    sample = Sample(key="a", members={extension: mutated_json(rng, _records()[extension])}, file=Path("s-000.tar"))
    stage = extension.removesuffix(".json")
    if extension == photos.FACTS:
        photos.photo_facts(sample)
        return
    # The other members are whole, so that only the record can fail.
    kind = kind_of(stage)
    sample.members.update({name: _members()[name] for name in kind.MEMBERS if name != extension})
    stored = kind.decode(sample)
    for item in getattr(stored, "instances", ()):
        assert item.pixels().shape == stored.size
        rle_box(item.segmentation)
        for code in (item.cut.patch_mask, item.cut.bipartition) if item.cut else ():
            assert decode_rle(code).shape == stored.cut.grid


def member(rng: Random, folder: Path) -> None:
    """Read photos, maps and arrays. What `cuts3d verify` finds a flaw in, readers must refuse, and nothing else."""
    name = rng.choice(list(_members()))
    data = mutated_bytes(rng, _members()[name])
    members = {**_members(), name: data}
    known = Known(size=(HEIGHT, WIDTH), masks=2)
    for kind in KINDS.values():
        part = Sample(key="a", members={extension: members[extension] for extension in kind.MEMBERS})
        assert bool(kind.flaws(part, known)) == _is_refused(kind.decode, part, known)
    whole = Sample(key="a", members=members)
    assert bool(photos.flaws(whole)) == _is_refused(photos.decode, whole)
    decoders: Mapping[str, Callable[[bytes], Any]] = {
        "jpg": decode_image,
        "depth.png": decode_depth_png,
        "sensor.npy": decode_sensor_npy,
    }
    if name in decoders:
        decoders[name](data)
    elif name.endswith("npy"):
        try:
            decode_npy(data)
        except ValueError as error:
            raise SampleError(str(error)) from error


def _is_refused(decode: Callable[..., object], *words: object) -> bool:
    try:
        decode(*words)
    except (SampleError, ShardError):
        return True
    return False


def coco(rng: Random, folder: Path) -> None:
    """Read a ground truth of the user's own."""
    path = folder / "gt.json"
    path.write_bytes(mutated_json(rng, _coco()))
    read_ground_truth(path)


def coco_listing(rng: Random, folder: Path) -> None:
    """List the photos of a COCO JSON for packing."""
    path = folder / "listing.json"
    path.write_bytes(mutated_json(rng, _coco()))
    list_source(path, images=None)


def published(rng: Random, folder: Path) -> None:
    """Read COCO's own JSON and those of LVIS, which has URLs instead of names."""
    path = folder / "published.json"
    path.write_bytes(mutated_json(rng, _coco()))
    _placed(read_coco(path, masks=rng.random() < 0.5, chosen=rng.choice([None, {"1.jpg"}])))


def voc(rng: Random, folder: Path) -> None:
    """Read Pascal VOC's XML and lists."""
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9.0</xmax><ymax>8</ymax></bndbox>"
    text = (
        f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        f"<object><name>dog</name><difficult>1</difficult>{box}</object><object>{box}</object></annotation>"
    )
    if rng.random() < 0.1:  # a short text that would expand to gigabytes
        entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 10}">' for n in range(12))
        text = f"<!DOCTYPE a [{entities}]>" + text.replace("dog", "&e11;").replace("9.0", "&e11;")
    (folder / "list.lst").write_bytes(mutated_text(rng, "a 1\nb -1\n") if rng.random() < 0.3 else b"a\n")
    (folder / "a.xml").write_bytes(mutated_text(rng, text))
    _placed(read_voc(folder, folder / "list.lst"))


def kitti(rng: Random, folder: Path) -> None:
    """Read KITTI's label files."""
    labels = folder / "labels"
    labels.mkdir(exist_ok=True)
    line = "Car 0.00 0 -0.20 1.0 2.0 9.5 8.5 1.89 0.48 1.20 1.84 1.47 8.41 0.01\n"
    (labels / "000000.txt").write_bytes(mutated_text(rng, line + line.replace("Car", "DontCare")))
    _placed(read_kitti(labels))


def open_images(rng: Random, folder: Path) -> None:
    """Read the CSV of Open Images."""
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    path = folder / "boxes.csv"
    path.write_bytes(mutated_text(rng, head + "0a,x,/m/0,1,0.1,0.9,0.2,0.8,0,0,1\n0b,x,/m/0,1,0,1,0,1,0,0,0\n"))
    _placed(read_open_images(path))


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        shard,
        pattern,
        manifest,
        config,
        record,
        member,
        coco,
        coco_listing,
        published,
        voc,
        kitti,
        open_images,
    )
}


def _placed(parsed: ParsedDataset) -> None:
    for image in parsed.images.values():
        instances_in_pixels(image, image.size or (WIDTH, HEIGHT))


@functools.cache
def _tars() -> list[bytes]:
    tars = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
            for key in ("a", "x/b", "c" * 80 + ("/" + "d" * 40 if kind != tarfile.USTAR_FORMAT else "")):
                for extension in ("depth.json", "depth.png"):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = 700 if extension == "depth.png" else 3
                    tar.addfile(info, io.BytesIO(b"{}\n" if info.size == 3 else bytes(700)))
        # Without the padding to a whole record, damage more often hits what matters.
        tars.append(buffer.getvalue()[: tar.offset + 1024])
    return tars


@functools.cache
def _manifest(folder: Path) -> dict[str, Any]:
    tar = folder / "m-000.depth.tar"
    values = Manifest(
        stage="depth",
        config={"depth": {"backend": "sensor"}},
        inputs={},
        counts={"samples_in": 2, "samples_out": 1, "failed": 1},
        failed=[{"key": "a", "reason": "why"}],
        sha256="0" * 64,
        size=tar.stat().st_size,
    )
    path = tar.with_suffix(".json")
    save_manifest(path, values)
    content: dict[str, Any] = json.loads(path.read_text())
    digest = {"file": "m-000.tar", "size": 7, "mtime_ns": 5, "sha256": "1" * 64}
    return content | {"inputs": {"base": digest}}


@functools.cache
def _records() -> dict[str, dict[str, Any]]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[3:9, 4:20] = True
    code, small = encode_rle(mask), encode_rle(mask[:12, :16])
    box = [4.0, 3.0, 16.0, 6.0]
    instance = {"segmentation": code, "bbox": box, "area": 96, "iteration": 0, "crf_iou": 0.9, "source": [3, 4]}
    instance |= {"patch_mask": small, "bipartition": small, "sink": None}
    size = {"height": HEIGHT, "width": WIDTH}
    return {
        photos.FACTS: {"id": 1, "source": "a.jpg", **size, "depth": {"scale": 0.001, "unit": "metre"}},
        "depth.json": {
            **size,
            **{"min": 0.5, "max": 2.5, "unit": "metre", "direction": "distance"},
            **{"conversion": "none", "backend": "sensor", "model": "sensor"},
        },
        "features.json": {"backbone": "dino-vits16", "size": 224, "tensor": "keys"},
        "pseudo.json": {
            **size,
            **{"method": "cuts3d", "grid": [12, 16], "stopped": None},
            "dropped": [{"iteration": 1, "reason": "too small"}],
            "instances": [instance, instance],
        },
        "predict.json": {**size, "instances": [{"segmentation": code, "bbox": box, "area": 96, "score": 0.5}]},
        "confidence.json": {"source": "depth", "levels": 6, "floor": 0.5, "scores": [0.5, 1.0]},
    }


@functools.cache
def _members() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    members = {name: json.dumps(value).encode() for name, value in _records().items()}
    for name, kind in (("jpg", "JPEG"), ("other.png", "PNG"), ("other.webp", "WEBP")):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        members[name] = buffer.getvalue()
    members["depth.png"] = encode_depth_png(pixels[..., 0].astype(np.float32) / np.float32(255))
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "features.npy": np.zeros((4, 3, 5), np.float16),
        "confidence.npy": np.ones((2, 12, 16), np.uint8),
        "sensor.npy": np.ones((HEIGHT, WIDTH), np.float32),
    }
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[name] = buffer.getvalue()
    return members


@functools.cache
def _coco() -> dict[str, Any]:
    outline = [2, 2, 12, 2, 12.5, 9, 2, 9]
    code = encode_rle(np.ones((HEIGHT, WIDTH), dtype=bool))
    segmentations: list[Any] = [
        [outline, outline],
        {"size": [HEIGHT, WIDTH], "counts": [5, 7, HEIGHT * WIDTH - 12]},
        code,
        None,
    ]
    return {
        "info": {"description": "made"},
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "coco_url": f"http://x/val/{n}.jpg", "width": WIDTH, "height": HEIGHT}
            for n in (1, 2)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": 1 + n % 2,
                "category_id": 1,
                "bbox": [2, 2, 10, 7],
                "area": 70,
                "iscrowd": int(n == 2),
                "segmentation": segmentation,
            }
            for n, segmentation in enumerate(segmentations, start=1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
