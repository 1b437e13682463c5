"""Targets of the fuzzing: for each reader, a valid input, and how it is damaged."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from cuts3d_cli.cli.config import as_toml
from cuts3d_cli.config import output_dict, resolve
from cuts3d_cli.config.recipe import read_recipe
from cuts3d_cli.cut.masks import decode_rle, rle_box
from cuts3d_cli.engine.claims import Claim, claim
from cuts3d_cli.errors import Cuts3dError, SampleError, ShardError
from cuts3d_cli.evaluation.datasets.coco import read_coco
from cuts3d_cli.evaluation.datasets.ground_truth import GroundTruth, read_ground_truth
from cuts3d_cli.evaluation.datasets.kitti import read_kitti
from cuts3d_cli.evaluation.datasets.open_images import read_open_images
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, instances_in_pixels
from cuts3d_cli.evaluation.datasets.voc import read_voc
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.freshness import check_freshness
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import expand
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.sidecars import KINDS, Known, kind_of, photos
from cuts3d_cli.sidecars.depth import decode_depth_png
from cuts3d_cli.sidecars.finished import FinishedSidecar
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.sidecars.photos import decode_sensor_npy
from cuts3d_cli.stages import pack
from cuts3d_cli.stages.listing import list_source
from stress import fuzz_samples as valid
from stress.fuzz_mutations import mutated_bytes, mutated_json, mutated_tar, mutated_text, odd_spec
from stress.fuzz_samples import HEIGHT, WIDTH

Target = Callable[[Random, Path], None]
"""Damages an input in a folder, and reads it."""


class UnnamedError(Exception):
    """An error does not name the file that it is about."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make sure that the errors of a block name a file.

    Raises:
        UnnamedError: in place of one that does not.
    """
    try:
        yield
    except Cuts3dError as error:
        if path.name not in str(error):
            raise UnnamedError(f"the error does not name {path.name}: {error}") from error
        raise


def shard(rng: Random, folder: Path) -> None:
    """Read tars: base shards and sidecars, with headers of all formats."""
    path = folder / rng.choice(["a-000.tar", "a-000.depth.tar"])
    path.write_bytes(mutated_tar(rng, rng.choice(valid.tars())))
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
    # None begins at the root: to list a whole file system takes its time.
    specs = [odd_spec(rng).lstrip("/") for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.3:
        (folder / "list.txt").write_bytes(mutated_bytes(rng, "\n".join(specs).encode("utf-8", "surrogatepass")))
        specs = ["list.txt"]
    for path in expand(specs):
        assert path.is_file()


def manifest(rng: Random, folder: Path) -> None:
    """Read manifests of finished tars, and use what they say."""
    tar = folder / "m-000.depth.tar"
    tar.write_bytes(b"content")
    path = tar.with_suffix(".json")
    path.write_bytes(mutated_json(rng, valid.manifest(folder)))
    with naming(path):
        check_freshness(tar, stage="depth", config={"depth": {"backend": "sensor"}}, inputs={"base": tar})
        found = load_manifest(path)
    assert all(isinstance(word, str) for pair in FinishedSidecar(tar, found).failures.items() for word in pair)
    assert all(isinstance(count, int) for count in found.counts.values())
    assert all(isinstance(item.get("reason"), str) for item in [*found.failed, *found.dropped])
    assert all(isinstance(value, int | float) for value in found.seconds.values())


def config(rng: Random, folder: Path) -> None:
    """Resolve a configuration from cuts3d.toml, variables and options."""
    lines = rng.sample(_settings(), rng.randint(0, 12))
    (folder / "cuts3d.toml").write_bytes(mutated_text(rng, "\n".join(["[pseudo]", *lines])))
    section, field = rng.choice(["pseudo", "run", "train", "x"]), rng.choice(["beta", "workers", "min_sizes", "y"])
    value = rng.choice(["", "nan", "1e999", "-1", "0", "1,2", "٣", "x" * 2000, "None", "true", "9" * 5000])
    variable = {f"CUTS3D_{section}_{field}".upper(): value} if rng.random() < 0.3 else {}
    overrides: dict[str, dict[str, Any]] = {}
    if rng.random() < 0.3:
        overrides[section] = {field: rng.choice([value, None, 1.5, True, [], {}, (1, "x")])}
    resolve(environment=variable, folder=folder, overrides=overrides)


def recipe(rng: Random, folder: Path) -> None:
    """Read recipes, whose paths lead to files that are there or not."""
    for name in ("photos", "maps"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "truth.json").write_text("{}")
    path = folder / "recipe.toml"
    path.write_bytes(mutated_text(rng, valid.RECIPE))
    assignments = [
        f"{rng.choice(['pseudo.beta', 'run.workers', 'x.y', 'pseudo'])}={rng.choice(['0.1', 'x', '', '-1'])}"
    ]
    given = assignments if rng.random() < 0.2 else []
    with naming(path) if not given else contextlib.nullcontext():
        read_recipe(path, assignments=given, environment={})


def record(rng: Random, folder: Path) -> None:
    """Read JSON members of sidecars, and the masks in them."""
    extension = rng.choice(list(valid.records()))
    sample = Sample(key="a", members={extension: mutated_json(rng, valid.records()[extension])}, file=Path("s-000.tar"))
    stage = extension.removesuffix(".json")
    if extension == photos.FACTS:
        photos.photo_facts(sample)
        return
    # The other members are whole, so that only the record can fail.
    kind = kind_of(stage)
    sample.members.update({name: valid.members()[name] for name in kind.MEMBERS if name != extension})
    stored = kind.decode(sample)
    for item in getattr(stored, "instances", ()):
        assert item.pixels().shape == stored.size
        rle_box(item.segmentation)
        for code in (item.cut.patch_mask, item.cut.bipartition) if item.cut else ():
            assert decode_rle(code).shape == stored.cut.grid


def member(rng: Random, folder: Path) -> None:
    """Read photos, maps and arrays. What `cuts3d verify` finds a flaw in, readers must refuse, and nothing else."""
    name = rng.choice(list(valid.members()))
    data = mutated_bytes(rng, valid.members()[name])
    members = {**valid.members(), name: data}
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


def base(rng: Random, folder: Path) -> None:
    """Read a sample of a base shard, whose JSON anybody may have written."""
    members, name = valid.base_members(), rng.choice([photos.FACTS, "json"])
    members[name] = mutated_json(rng, json.loads(members[photos.FACTS]))
    sample = Sample(key="a", members=members, file=Path("s-000.tar"))
    assert bool(photos.flaws(sample)) == _is_refused(photos.decode, sample)
    with contextlib.suppress(SampleError):
        photos.sensor_map(sample)
    with naming(Path("s-000.tar")):
        facts = photos.photo_facts(sample)
    assert isinstance(facts, Mapping)


def packing(rng: Random, folder: Path) -> None:
    """Pack a photo with a depth map. Each is damaged, or another file under its name; it is packed, or listed."""
    known = {**valid.members(), **valid.depth_files(), **valid.foreign_files()}
    photo, depth = rng.choice(["jpg", "other.png", "other.webp"]), rng.choice(list(valid.depth_files()))
    files = {f"images/p.{photo.rpartition('.')[2]}": photo, f"depth/p.{depth.rpartition('.')[2]}": depth}
    for name, kind in files.items():
        data = known[kind] if rng.random() < 0.7 else rng.choice(list(known.values()))
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(mutated_bytes(rng, data))
    # A damaged header may give a photo any size: the largest that is allowed takes 700 MB.
    run = {"if_exists": "overwrite", "max_image_pixels": 10_000_000}
    try:
        result = pack.run(
            pack.Packing(source=folder / "images", out=folder / "packed", name="p", depth_dir=folder / "depth"),
            config=resolve(overrides={"run": run}, environment={}, folder=folder / "none"),
        )
        for sample in read_shard(folder / "packed" / "p-000.tar") if result.count("samples_out") else ():
            photos.decode(sample)
        assert result.count("samples_out") + len(result.failed) == 1
    finally:
        for name in files:
            (folder / name).unlink()


def checkpoint(rng: Random, folder: Path) -> None:
    """Read detectors. A damaged file is refused, or gives the same weights; so is one with a damaged digest."""
    from cuts3d_cli.detector.checkpoints import read_trained

    files = valid.detector_files()
    path = folder / rng.choice([name for name in files if not name.endswith(".sha256")])
    damaged = rng.choice([path.name, path.name, f"{path.name}.sha256"])
    for name, data in files.items():
        (folder / name).write_bytes(data if name != damaged else mutated_bytes(rng, data))
    with naming(path):
        found, settings = read_trained(path)
    weights, expected = valid.detector()
    assert settings is not None, "no configuration"
    assert output_dict(settings) == output_dict(expected), "another configuration"
    same = {key: value.tobytes() for key, value in weights.items()}
    assert {key: value.numpy().tobytes() for key, value in found.items()} == same, "other weights"


def own_json(rng: Random, folder: Path) -> None:
    """Read the small files that the package writes for itself: claims and journals of detections."""
    kind = rng.choice(["claim", "journal"])
    if kind == "claim":
        tar = folder / "c-000.depth.tar"
        path = folder / f".{tar.name}.0.claim"
        path.write_bytes(mutated_json(rng, valid.CLAIM))
        found = claim(tar, timeout=60.0)
        if isinstance(found, Claim):
            found.release()
        path.unlink(missing_ok=True)
        return
    from cuts3d_cli.evaluation.journal import DetectionJournal, PhotoState

    path = folder / "journal.jsonl"
    lines = [mutated_json(rng, line) if rng.random() < 0.7 else json.dumps(line).encode() for line in valid.JOURNAL]
    path.write_bytes(b"\n".join(lines))
    with DetectionJournal(path) as journal:
        for line in valid.JOURNAL:
            state = PhotoState(**dict(zip(PhotoState.__dataclass_fields__, line["photo"], strict=True)))
            if journal.has(state) and (kept := journal.get(state)) is not None:
                assert len(kept.boxes) == len(kept.scores)


def coco(rng: Random, folder: Path) -> None:
    """Read a ground truth of the user's own."""
    path = folder / "gt.json"
    path.write_bytes(mutated_json(rng, valid.coco()))
    with naming(path):
        read_ground_truth(path)


def same_truth(rng: Random, folder: Path) -> None:
    """Write a ground truth in another way: with other ids and in another order, it means the same."""
    path = folder / "same.json"
    content = copy.deepcopy(valid.coco())
    content["annotations"] = content["annotations"][:3]  # the last one has no mask
    path.write_text(json.dumps(content))
    expected = _meaning(read_ground_truth(path))
    first = rng.choice([0, 1, 7, 10**6])
    numbers = {
        kind: {item["id"]: n for n, item in enumerate(rng.sample(content[kind], len(content[kind])), first)}
        for kind in ("images", "annotations", "categories")
    }
    for kind in numbers:
        for item in content[kind]:
            item["id"] = numbers[kind][item["id"]]
        rng.shuffle(content[kind])
    for item in content["annotations"]:
        item["image_id"], item["category_id"] = (
            numbers["images"][item["image_id"]],
            numbers["categories"][item["category_id"]],
        )
        item |= rng.choice([{}, {"attributes": {"occluded": False}}, {"area": float(item["area"])}])
    content["categories"] += rng.choice([[], [{"id": 10**7, "name": "nobody's"}]])
    for item in content["images"]:
        item |= rng.choice([{}, {"license": 1}, {"file_name": "./" + item["file_name"]}])
    path.write_text(json.dumps(content))
    try:
        found = _meaning(read_ground_truth(path))
    except Cuts3dError as error:
        raise AssertionError(f"what means the same is refused: {error}") from error
    assert found == expected, "another meaning"


def coco_listing(rng: Random, folder: Path) -> None:
    """List the photos of a COCO JSON for packing."""
    path = folder / "listing.json"
    path.write_bytes(mutated_json(rng, valid.coco()))
    with naming(path):
        list_source(path, images=None)


def published(rng: Random, folder: Path) -> None:
    """Read COCO's own JSON and those of LVIS, which has URLs instead of names."""
    path = folder / "published.json"
    path.write_bytes(mutated_json(rng, valid.coco()))
    with naming(path):
        _placed(read_coco(path, masks=rng.random() < 0.5, chosen=rng.choice([None, {"1.jpg"}])))


def voc(rng: Random, folder: Path) -> None:
    """Read Pascal VOC's XML and lists."""
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9.0</xmax><ymax>8</ymax></bndbox>"
    text = (
        f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        f"<object><name>dog</name><difficult>1</difficult>{box}</object><object>{box}</object></annotation>"
    )
    if rng.random() < 0.01:  # a short text that would expand to gigabytes
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


TARGETS: dict[str, tuple[Target, int]] = {
    target.__name__: (target, share)
    for target, share in (
        (shard, 120),
        (pattern, 20),
        (manifest, 120),
        (config, 15),
        (recipe, 15),
        (record, 160),
        (member, 40),
        (base, 60),
        (packing, 8),
        (checkpoint, 20),
        (own_json, 40),
        (coco, 100),
        (same_truth, 20),
        (coco_listing, 80),
        (published, 80),
        (voc, 40),
        (kitti, 50),
        (open_images, 50),
    )
}
"""Targets by name, each with its share of all cases, in parts: the slow ones have fewer."""


def _placed(parsed: ParsedDataset) -> None:
    for image in parsed.images.values():
        instances_in_pixels(image, image.size or (WIDTH, HEIGHT))


def _meaning(truth: GroundTruth) -> Any:
    """Return what does not depend on ids and order: the instances of each file."""
    return {
        image.file: sorted(str((item.box, item.mask, item.crowd)) for item in truth.instances[number])
        for number, image in truth.images.items()
    }


@functools.cache
def _settings() -> list[str]:
    """Return the lines of a whole cuts3d.toml."""
    return as_toml(resolve(environment={}, folder=Path("/nonexistent"))).splitlines()
