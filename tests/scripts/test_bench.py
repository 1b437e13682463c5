"""The benchmarks on tiny inputs: what is paired with what, what a ratio means, and that both ways cut the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from bench import __main__ as bench
from bench import common as bench_common
from bench import data as bench_data
from bench import device as bench_device
from bench import peer as bench_peer
from bench import pseudo as bench_pseudo
from bench import quality as bench_quality
from bench import scale as bench_scale
from bench import selftrain as bench_selftrain
from bench import speed as bench_speed
from bench.data import Photo
from bench.quality import Variant
from cuts3d_cli.config import Config
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.cut.ncut import solve_ncut
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.metrics import Instance
from tests.support.photos import encoded, two_boxes

SIDE = 16
"""Of the grid."""


class MadeFeatures(bench_data.Features):
    """Features by colour, on a small grid whatever the size asked for: boxes are alike, and unlike what is behind."""

    def extractor(self, config: Config) -> Any:
        return SimpleNamespace(
            spec=SimpleNamespace(tau_ncut=0.5), grid=(SIDE, SIDE), extract=lambda images: [vectors_of(images[0])]
        )

    def of(self, photos: Sequence[Photo], config: Config) -> Iterator[NDArray[np.float16]]:
        yield from (vectors_of(photo.image) for photo in photos)


def vectors_of(image: Image.Image) -> NDArray[np.float16]:
    """(3, SIDE, SIDE): the average colour of each patch, centred so that red and blue point in opposite directions."""
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    return np.moveaxis(small - 100.0, -1, 0).astype(np.float16)


def photo_of(seed: int, *, name: str = "mosd", with_depth: bool = True) -> Photo:
    scene = two_boxes(seed=seed)
    metres = np.where(scene.depth > 0, scene.depth / 1000, np.nan).astype(np.float32)
    return Photo(
        name=f"{name}/{seed}",
        image=Image.fromarray(scene.image),
        metres=metres if with_depth else None,
        instances=[Instance.of_mask(encode_rle(box)) for box in scene.boxes],
    )


@pytest.fixture(scope="module")
def features() -> MadeFeatures:
    return MadeFeatures()


def test_actions_run_in_turn_and_their_figures_stay_paired():
    calls: list[str] = []

    def action(name: str) -> Any:
        return lambda: calls.append(name) or len(calls)

    timed = bench_common.interleaved({"a": action("A"), "b": action("B")}, repeats=3)
    assert "".join(calls) == "ABABAB"
    assert timed.results == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert [len(seconds) for seconds in timed.seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_over_the_pairs_not_the_ratio_of_medians():
    # pairs 2, 10, 3; medians 10 and 2 would give 5
    found = bench_common.ratios([2.0, 10.0, 30.0], [1.0, 1.0, 10.0])
    assert found == {"ratio": 3.0, "lowest": 2.0, "highest": 10.0}
    with pytest.raises(ValueError, match="zip"):
        bench_common.ratios([1.0, 2.0], [1.0])


def test_the_peer_is_given_the_faster_of_its_two_ways_in_each_round():
    assert bench_common.faster([3.0, 1.0], [2.0, 5.0]) == [2.0, 1.0]


def test_two_empty_masks_agree():
    empty, full = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    assert bench_common.agreement(empty, empty) == 1.0
    assert bench_common.agreement(empty, full) == 0.0
    assert bench_common.agreement(full, full) == 1.0


def test_a_report_prints_and_is_plain_json():
    rows = [{"what": "x", "seconds": 1234.5678901, "share": None, "good": True, "count": 3}]
    report = bench_common.Report(name="n", tables=[bench_common.Table("t", rows)], notes=["[note]"], skipped=["s"])
    assert json.loads(json.dumps(report.to_json()))["tables"]["t"] == [{**rows[0], "seconds": 1234.57}]
    console = Console(width=120)
    with console.capture() as captured:
        bench_common.print_report(report, console)
        bench_common.print_machine(bench_common.machine(load_before=0.5), console)
    text = captured.get()
    for part in ("n: t", "1235", "yes", "[note]", "skipped: s", "cores", f"python {sys.version.split()[0]}"):
        assert part in text


def test_the_dense_solver_of_the_peer_and_ours_agree_with_and_without_nodes():
    edges = bench_peer.semantic_edges(vectors_of(photo_of(0).image).astype(np.float32), tau_ncut=0.5)
    assert np.array_equal(edges, edges.T)
    for removed in (np.zeros(SIDE**2, dtype=bool), np.arange(SIDE**2) < 40):
        left = edges & ~removed[:, None] & ~removed[None, :]
        dense, ours = bench_peer.dense_ncut(left), solve_ncut(edges, removed=removed).vector
        assert dense[~removed] == pytest.approx(ours[~removed], abs=1e-6)


def test_ncut_pairs_both_solvers_at_every_stage(features: MadeFeatures):
    report = bench_speed.ncut([photo_of(0), photo_of(1)], sizes=(490,), features=features, repeats=2)
    rows = report.tables[0].rows
    assert [row["stage"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["removed"] == 0
    for row in rows:
        assert row["K"] == SIDE**2
        assert row["IoU least"] == 1.0
        assert row["same seed"] == row["graphs"]
        assert 0 < row["lowest"] <= row["ratio"] <= row["highest"]


def test_crf_compares_the_same_masks(features: MadeFeatures):
    report = bench_speed.crf([photo_of(0)], features=features, repeats=1)
    one, every = report.tables[0].rows
    assert one["masks"] == every["masks"] >= 1
    assert one["IoU least"] > 0.98
    assert {**one, "photo": "all"} == every


def test_pseudo_gives_every_method_its_steps_and_the_peer_finds_what_our_maskcut_finds(features: MadeFeatures):
    report = bench_pseudo.pseudo([photo_of(0)], features=features, repeats=2)
    steps, figures, shares, counts = (table.rows for table in report.tables)
    by_step = {row["step"]: row for row in steps}
    assert {"features", "affinity", "eigen", "cut", "crf", "encode", "confidence", "all but features"} <= set(by_step)
    assert by_step["features"]["peer, all threads"] == by_step["features"]["cuts3d"]
    assert by_step["eigen"]["peer, one thread"] > 0
    assert by_step["confidence"]["maskcut"] is None
    assert by_step["sharpen"]["maskcut"] is None
    assert by_step["sharpen"]["cuts3d"] > 0
    assert all(row["lowest"] <= row["ratio"] <= row["highest"] for row in figures)
    assert shares[-1]["step"] == "all"
    assert shares[-1]["seconds"] == pytest.approx(sum(row["seconds"] for row in shares[:-1]))
    by_method = {row["method"]: row for row in counts}
    assert by_method["peer"]["masks an image"] == by_method["maskcut"]["masks an image"] >= 1
    assert by_method["maskcut"]["IoU with the peer's least"] > 0.99
    assert by_method["cuts3d"]["masks an image"] >= 1


def test_throughput_says_how_busy_each_part_was(weights: Path):
    config = bench_data.offline(
        {
            "pseudo": {"tau_knn": 0.2, "crf_size": 160},
            "features": {"backbone": "dino-vits16", "size": 224, "weights": weights},
            "run": {"workers": 0, "batch_size": 2},
        }
    )
    table = bench_device.throughput([photo_of(0), photo_of(1)], config=config, device="cpu", images=3, repeats=1)
    device, workers = table.rows
    assert (device["graphs"], workers["graphs"]) == ("device", "workers")
    assert device["masks"] == workers["masks"] >= 3
    for row in table.rows:
        assert row["images a second"] > 0
        shares = {name: row[f"{name} busy"] for name in ("device", "workers", "reader")}
        assert all(0 < share < 1.5 for share in shares.values())
        assert shares[row["limit"]] == max(shares.values())
        assert row["peak device memory, MB"] is None


SMALL = {"pseudo": {"tau_knn": 0.15, "crf": False}, "confidence": {"tau_knn_min": 0.1}}
VARIANTS = {
    "maskcut": Variant(changes={"pseudo": {"method": "maskcut", "crf": False}}),
    "+ LocalCut": Variant(changes={**SMALL, "pseudo": {**SMALL["pseudo"], "sharpen": False}}),
    "+ sharpening": Variant(changes=SMALL),
    "+ confidence": Variant(changes=SMALL, ranked=True),
}


def test_quality_cuts_sets_without_depth_by_maskcut_alone(features: MadeFeatures):
    sets = {"mosd": [photo_of(0), photo_of(1)], "voc": [photo_of(2, name="voc", with_depth=False)]}
    report = bench_quality.quality(sets, features=features, variants=VARIANTS, sweeps={})
    rows, order = (table.rows for table in report.tables)
    assert [(row["set"], row["variant"]) for row in rows] == [
        *(("mosd", name) for name in VARIANTS),
        ("voc", "maskcut"),
    ]
    figures = {row["variant"]: row for row in rows if row["set"] == "mosd"}
    assert {row["objects"] for row in figures.values()} == {4}
    # The two boxes look alike and touch: 2D takes them for one, and each is half of it.
    assert figures["maskcut"]["recall@0.5"] <= 0.5
    assert figures["+ sharpening"]["recall@0.5"] == 1.0
    assert figures["maskcut"]["x recall"] in (1.0, None)
    assert figures["+ confidence"]["recall@0.5"] == figures["+ sharpening"]["recall@0.5"]
    assert [row["set"] for row in order] == ["mosd"]


def test_quality_reports_a_half_and_pools_sets_with_depth(features: MadeFeatures):
    sets = {"mosd": [photo_of(n) for n in range(3)], "ycbv": [photo_of(n, name="ycbv") for n in range(2)]}
    variants = {name: VARIANTS[name] for name in ("maskcut", "+ sharpening")}
    report = bench_quality.quality(sets, features=features, half="odd", variants=variants, sweeps={})
    photos = {(row["set"], row["variant"]): row["photos"] for row in report.tables[0].rows}
    assert photos["mosd", "maskcut"] == photos["ycbv", "maskcut"] == 1
    assert photos["mosd + ycbv", "+ sharpening"] == 2
    assert report.tables[1].rows == []  # LocalCut was left out, so there is no order to tell


def test_halves_are_disjoint_and_whole():
    photos = [photo_of(n) for n in range(5)]
    even, odd = (bench_quality.half_of(photos, half) for half in ("even", "odd"))
    assert [photo.name for photo in even] == ["mosd/0", "mosd/2", "mosd/4"]
    assert [photo.name for photo in odd] == ["mosd/1", "mosd/3"]
    assert bench_quality.half_of(photos, "all") == photos


@pytest.mark.parametrize(
    ("recalls", "holds"), [((0.1, 0.2, 0.3), True), ((0.1, 0.3, 0.3), False), ((0.2, 0.1, 0.3), False)]
)
def test_the_order_holds_only_if_every_step_is_better(recalls: tuple[float, ...], holds: bool):
    rows = [
        {"set": "s", "variant": name, "recall@0.5": value, "AP50": value, "AP": value}
        for name, value in zip(bench_quality.ORDERED, recalls, strict=True)
    ]
    (row,) = bench_quality._order(rows)
    assert [row[figure] for figure in ("recall@0.5", "AP50", "AP")] == [holds] * 3
    shares = [row["x recall"] for row in bench_quality._against_baseline(rows)]
    assert shares == pytest.approx([value / recalls[0] for value in recalls])


def test_later_settings_of_a_variant_win():
    config = Variant(changes={"pseudo": {"tau_knn": 0.07}}).config()
    assert (config.pseudo.tau_knn, config.confidence.tau_knn_min) == (0.07, 0.032)
    assert (config.features.size, config.depth.backend) == (644, "sensor")
    assert Variant().config().pseudo.tau_knn == 0.035
    assert Variant(table_top=False).config().pseudo.tau_knn == Config().pseudo.tau_knn
    assert Variant(preset="maskcut").config().pseudo.method == "maskcut"


def test_all_variants_and_sweeps_are_settings_that_exist():
    for variant in bench_quality.VARIANTS.values():
        variant.config()
    for item, values in bench_quality.SWEEPS.items():
        for value in values:
            assert getattr(Variant(changes={"pseudo": {item: value}}).config().pseudo, item) == value


def test_variants_from_the_command_line(capsys: pytest.CaptureFixture[str]):
    words = ["mine", "pseudo.sink=background", "pseudo.knn=8", "pseudo.crf=false", "ranked=true", "preset=paper"]
    name, variant = bench_quality.parse_variant(words)
    assert name == "mine"
    assert variant.changes == {"pseudo": {"sink": "background", "knn": 8, "crf": False}}
    assert (variant.ranked, variant.preset, variant.table_top) == (True, "paper", True)
    for word in ("knn=3", "pseudo.knn", "ranked=yes"):
        with pytest.raises(ValueError, match=word):
            bench_quality.parse_variant(["mine", word])
    with pytest.raises(SystemExit, match="2"):
        bench.main(["quality", "--variant", "mine", "pseudo.no_such_field=1"])
    assert "no_such_field" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["ncut", "--repeats", "0"], ["ncut", "--sizes", "14,x"]])
def test_impossible_arguments_are_refused(arguments: list[str]):
    with pytest.raises(SystemExit, match="2"):
        bench.main(arguments)


def write_set(folder: Path, name: str, count: int, *, with_depth: bool = True) -> None:
    (folder / name / "images").mkdir(parents=True)
    (folder / name / "depth").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        scene = two_boxes(seed=number)
        (folder / name / f"images/p{number}.png").write_bytes(encoded(scene.image, "PNG"))
        if with_depth:
            (folder / name / f"depth/p{number}.png").write_bytes(encoded(scene.depth, "PNG"))
        images.append({"id": number, "file_name": f"p{number}.png", "width": 80, "height": 60})
        for box in scene.boxes:
            code = encode_rle(box)
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append({**place, "segmentation": code})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}
    (folder / name / "annotations.json").write_text(json.dumps(content))


def test_a_set_is_read_with_depth_as_the_depth_stage_stores_it(tmp_path: Path):
    write_set(tmp_path, "mosd", 2)
    photos = bench_data.read_set(tmp_path, "mosd")
    assert photos is not None
    assert [photo.name for photo in photos] == ["mosd/p1", "mosd/p2"]
    depth = photos[0].depth()
    assert depth is not None
    assert photos[0].size == depth.shape == (60, 80)
    assert np.isnan(depth[0, 0])
    assert depth[30, 20] == 0.0  # the left box, at 1 m, is nearest
    assert depth[30, 50] == pytest.approx(0.5, abs=1e-4)
    assert depth[59, 79] == 1.0
    assert len(photos[0].instances) == 2


def test_some_photos_come_from_all_sets_and_from_all_over_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_data, "rendered", lambda seed: photo_of(seed, name="rendered"))
    write_set(tmp_path, "mosd", 4)
    write_set(tmp_path, "coco", 2, with_depth=False)
    assert bench_data.read_set(tmp_path, "voc") is None
    names = [photo.name for photo in bench_data.some_photos(tmp_path, 3, sets=("mosd", "coco"))]
    assert names == ["mosd/p1", "coco/p1", "mosd/p3"]
    names = [photo.name for photo in bench_data.some_photos(tmp_path, 2, sets=("voc",))]
    assert names == ["rendered/0", "rendered/1"]


def test_a_missing_set_is_skipped_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: MadeFeatures, capsys: pytest.CaptureFixture[str]
):
    write_set(tmp_path, "mosd", 1)
    monkeypatch.setattr(bench, "Features", lambda folder: features)
    monkeypatch.setattr(bench_quality, "VARIANTS", {"maskcut": VARIANTS["maskcut"]})
    bench.main(["quality", "--data", str(tmp_path), "--sets", "mosd,voc", "--no-sweeps", "--workers", "0", "--json"])
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [row["set"] for row in result["quality"]["tables"]["masks against the ground truth"]] == ["mosd"]
    (line,) = result["quality"]["skipped"]
    assert line.startswith("voc: there is no ")
    assert f"skipped: {line}" in err
    assert result["machine"]["cores"] >= 1


def test_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = tmp_path / "weights"
    weights.write_bytes(b"12345")
    seen: list[int] = []

    def extract(images: Sequence[Image.Image]) -> list[NDArray[np.float16]]:
        seen.append(len(images))
        return [vectors_of(images[0])]

    fake = SimpleNamespace(spec=SimpleNamespace(name="made"), size=14, weights=weights, extract=extract)
    config = bench_data.offline({})
    photos = [photo_of(0), photo_of(1), replace(photo_of(0), name="other")]
    for _ in range(2):
        features = bench_data.Features(tmp_path / "cache")
        monkeypatch.setattr(features, "extractor", lambda config: fake)
        found = list(features.of(photos, config))
        assert np.array_equal(found[0], vectors_of(photos[0].image))
        assert np.array_equal(found[0], found[2])
    assert seen == [1, 1]


def test_damaged_annotations_are_refused(tmp_path: Path):
    (tmp_path / "mosd").mkdir()
    (tmp_path / "mosd/annotations.json").write_text("{}")
    with pytest.raises(UsageError, match=r"annotations\.json"):
        bench_data.read_set(tmp_path, "mosd")


@pytest.mark.slow
def test_scale_runs_the_executable_on_made_images(tmp_path: Path):
    if not Path(sys.executable).with_name("cuts3d").is_file():
        pytest.skip("the package is not installed beside this Python")
    base = bench_scale.made_shard(tmp_path, 3)
    run = bench_scale.pseudo(base, workers=1)
    assert run.seconds > 0
    assert run.masks >= 3
    if Path("/proc/self/status").is_file():
        assert run.main > 10
        assert run.worker > 10
    with pytest.raises(RuntimeError, match="nowhere"):
        bench_scale.pseudo(tmp_path / "nowhere.tar", workers=1)


def test_scale_rows_say_how_memory_grows(monkeypatch: pytest.MonkeyPatch):
    made = iter([(10, 100.0, 50.0), (40, 103.0, 49.0)])

    def pseudo(base: Path, *, workers: int) -> bench_scale.Run:
        seconds, main, worker = next(made)
        return bench_scale.Run(seconds=seconds, masks=7, main=main, worker=worker)

    def made_shard(folder: Path, images: int) -> Path:
        folder.mkdir()
        return folder / "made-000.tar"

    monkeypatch.setattr(bench_scale, "pseudo", pseudo)
    monkeypatch.setattr(bench_scale, "made_shard", made_shard)
    monkeypatch.setattr(bench_scale, "_speed", lambda *arguments, **options: [])
    report = bench_scale.scale(counts=(100, 800), workers=(1, 2), repeats=1, speed_images=1)
    if report.skipped:
        pytest.skip("no /proc here")
    rows = report.tables[1].rows
    assert [row["growth, MB"] for row in rows] == [0.0, 3.0]
    assert [row["growth of it, MB"] for row in rows] == [0.0, -1.0]
    assert [row["images a second"] for row in rows] == [10.0, 20.0]
    assert {row["workers"] for row in rows} == {2}


# ---------------------------------------------------------------------------------------------- selftrain


class MadeExecutable:
    """Says what the commands would say: AP grows by a tenth a round, more with the second seed; no process runs."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []
        self.detector = ""

    def __call__(self, *arguments: object) -> str:
        words = [str(argument) for argument in arguments]
        self.lines.append(words)
        options = dict(pairwise(words))
        if words[0] == "train":
            Path(options["--out"]).mkdir(parents=True)
            (Path(options["--out"]) / "model-final.safetensors").touch()
        if words[0] == "selftrain":
            weights = f"{options['--out']}/detector-st1/model-final.safetensors"
            return json.dumps(
                [{"name": "st1", "weights": weights, "images": 4, "masks": 8, "predicted": 3, "failed": 0}]
            )
        if words[0] == "predict":
            self.detector = options["--checkpoint"]
        if words[0] == "eval":
            ap = 0.9
            if "--predicted" in words:
                ap = 0.5 if "initial" in self.detector else 0.55 if "longer" in self.detector else 0.6
                ap += 0.1 * ("seed-1" in self.detector and "st1" in self.detector)
            return json.dumps({kind: {"ap": ap, "ap50": ap, "ap75": ap} for kind in ("box", "mask")})
        return ""


def test_seeds_are_paired_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = MadeExecutable()
    monkeypatch.setattr(bench_selftrain, "cuts3d", made)
    plan = bench_selftrain.Plan(train_scenes=2, test_scenes=1, height=64, width=80, iterations=10, further=5)
    first = bench_selftrain.selftrain(out=tmp_path, seeds=[0], plan=plan)
    assert first.tables[0].rows[1]["box AP spread"] is None
    trained = len([line for line in made.lines if line[0] == "train"])
    report = bench_selftrain.selftrain(out=tmp_path, seeds=[0, 1], plan=plan)
    assert [line[0] for line in made.lines].count("train") == 2 * trained == 4  # the first seed is not trained again
    means = {row[""]: row["mask AP"] for row in report.tables[0].rows}
    assert means == pytest.approx({"pseudo-masks": 90, "initial": 50, "initial, trained longer": 55, "st1": 65})
    assert report.tables[0].rows[-1]["mask AP spread"] == pytest.approx(50**0.5)
    change = report.tables[1].rows[-1]
    assert [change[name] for name in ("box AP", "box AP least", "box AP most")] == pytest.approx([15, 10, 20])
    assert [row["predicted"] for row in report.tables[2].rows] == [3, 3]
    # The control is the first round on the pseudo-masks: its settings, its iterations, its start.
    control = next(line for line in made.lines if line[0] == "train" and "longer" in line[line.index("--out") + 1])
    assert control[control.index("--max-iter") + 1] == "5"
    assert control[control.index("--init") + 1].endswith("seed-0/detector-initial/model-final.safetensors")
    assert {"--set=alpha=none", "--set=soft_loss=False", "--set=learning_rate=0.002", "--set=decay_steps="} <= set(
        control
    )
    with pytest.raises(SystemExit, match="is of other sizes"):
        bench_selftrain.selftrain(out=tmp_path, seeds=[0], plan=replace(plan, further=6))
