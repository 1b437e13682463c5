"""The benchmark of quality on tiny photos: what each variant cuts, and what it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import quality
from bench.quality import Variant
from cuts3d_cli.config import Config
from tests.support.benchmarks import photo_of, write_set
from tests.support.running import Ran


@pytest.fixture
def variants(weights: Path) -> dict[str, Variant]:
    """The paper's Table 4 with a network of random weights, on a small grid, without a CRF."""
    features = {"backbone": "dino-vits16", "size": 224, "weights": str(weights)}
    pseudo = {"tau_knn": 0.15, "crf": False}
    common = {"features": features, "confidence": {"tau_knn_min": 0.12}}
    return {
        "maskcut": Variant(changes={"features": features, "pseudo": {"method": "maskcut", "crf": False}}),
        "+ LocalCut": Variant(changes={**common, "pseudo": {**pseudo, "sharpen": False}}),
        "+ sharpening": Variant(changes={**common, "pseudo": pseudo}),
        "+ confidence": Variant(changes={**common, "pseudo": pseudo}, ranked=True),
    }


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, cuts3d: Callable[..., Ran]) -> list[str]:
    """Runs the commands of the benchmark in this process; their names."""
    names: list[str] = []

    def run(*arguments: object, folder: Path, environment: object) -> str:
        names.append(str(arguments[0]))
        monkeypatch.chdir(folder)
        ran = cuts3d(*arguments)
        assert ran.code == 0, ran.err
        return ran.out

    monkeypatch.setattr(quality, "cuts3d", run)
    return names


def test_sets_without_depth_are_cut_by_maskcut_alone(variants: dict[str, Variant], commands: list[str], tmp_path: Path):
    sets = {"mosd": [photo_of(0), photo_of(1)], "voc": [photo_of(2, name="voc", with_depth=False)]}
    report = quality.quality(sets, folder=tmp_path, variants=variants, sweeps={})
    rows, order = (table.rows for table in report.tables)
    assert [(row["set"], row["variant"]) for row in rows] == [
        *(("mosd", name) for name in variants),
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
    assert commands.count("confidence") == 1
    assert not list(tmp_path.glob("*/shards/*.confidence.*"))  # the next variant is not ranked by it


def test_a_half_is_reported_and_sets_with_depth_are_pooled(
    variants: dict[str, Variant], commands: list[str], tmp_path: Path
):
    sets = {"mosd": [photo_of(n) for n in range(3)], "ycbv": [photo_of(n, name="ycbv") for n in range(2)]}
    some = {name: variants[name] for name in ("maskcut", "+ sharpening")}
    report = quality.quality(sets, folder=tmp_path, half="odd", variants=some, sweeps={})
    photos = {(row["set"], row["variant"]): row["photos"] for row in report.tables[0].rows}
    assert photos["mosd", "maskcut"] == photos["ycbv", "maskcut"] == 1
    assert photos["mosd + ycbv", "+ sharpening"] == 2
    assert report.tables[1].rows == []  # LocalCut was left out, so there is no order to tell


def test_equal_settings_are_cut_once(variants: dict[str, Variant], commands: list[str], tmp_path: Path):
    packed = quality.PackedSets(tmp_path, {"mosd": [photo_of(0)]}, workers=0)
    first = packed.figures(variants["maskcut"])
    again = packed.figures(Variant(changes=variants["maskcut"].changes))
    assert first == again
    assert commands == ["pack", "features", "pseudo", "eval"]


def test_halves_are_disjoint_and_whole():
    photos = [photo_of(n) for n in range(5)]
    even, odd = (quality.half_of(photos, half) for half in ("even", "odd"))
    assert [photo.name for photo in even] == ["mosd/0", "mosd/2", "mosd/4"]
    assert [photo.name for photo in odd] == ["mosd/1", "mosd/3"]
    assert quality.half_of(photos, "all") == photos


@pytest.mark.parametrize(
    ("recalls", "holds"), [((0.1, 0.2, 0.3), True), ((0.1, 0.3, 0.3), False), ((0.2, 0.1, 0.3), False)]
)
def test_the_order_holds_only_if_every_step_is_better(recalls: tuple[float, ...], holds: bool):
    rows = [
        {"set": "s", "variant": name, "recall@0.5": value, "AP50": value, "AP": value}
        for name, value in zip(quality.ORDERED, recalls, strict=True)
    ]
    (row,) = quality._order(rows)
    assert [row[figure] for figure in ("recall@0.5", "AP50", "AP")] == [holds] * 3
    shares = [row["x recall"] for row in quality._against_baseline(rows)]
    assert shares == pytest.approx([value / recalls[0] for value in recalls])


def test_later_settings_of_a_variant_win():
    config = Variant(changes={"pseudo": {"tau_knn": 0.07}}).config()
    assert (config.pseudo.tau_knn, config.confidence.tau_knn_min) == (0.07, 0.032)
    assert (config.features.size, config.depth.backend) == (644, "sensor")
    assert Variant().config().pseudo.tau_knn == 0.035
    assert Variant(table_top=False).config().pseudo.tau_knn == Config().pseudo.tau_knn
    assert Variant(preset="maskcut").config().pseudo.method == "maskcut"


def test_all_variants_and_sweeps_are_settings_that_exist():
    for variant in quality.VARIANTS.values():
        variant.config()
    for item, values in quality.SWEEPS.items():
        for value in values:
            assert getattr(Variant(changes={"pseudo": {item: value}}).config().pseudo, item) == value


def test_variants_from_the_command_line(capsys: pytest.CaptureFixture[str]):
    words = ["mine", "pseudo.sink=background", "pseudo.knn=8", "pseudo.crf=false", "ranked=true", "preset=paper"]
    name, variant = quality.parse_variant(words)
    assert name == "mine"
    assert variant.changes == {"pseudo": {"sink": "background", "knn": 8, "crf": False}}
    assert (variant.ranked, variant.preset, variant.table_top) == (True, "paper", True)
    for word in ("knn=3", "pseudo.knn", "ranked=yes"):
        with pytest.raises(ValueError, match=word):
            quality.parse_variant(["mine", word])
    with pytest.raises(SystemExit, match="2"):
        command.main(["quality", "--variant", "mine", "pseudo.no_such_field=1"])
    assert "no_such_field" in capsys.readouterr().err


def test_a_missing_set_is_skipped_with_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variants: dict[str, Variant],
    commands: list[str],
    capsys: pytest.CaptureFixture[str],
):
    write_set(tmp_path, "mosd", 1)
    monkeypatch.setattr(quality, "VARIANTS", {"maskcut": variants["maskcut"]})
    logged: list[str] = []
    monkeypatch.setattr(command, "log", logged.append)
    short = ("--no-robustness", "--workers", "0", "--json")
    command.main(["quality", "--data", str(tmp_path), "--sets", "mosd,voc", "--no-sweeps", *short])
    result = json.loads(capsys.readouterr().out)
    assert [row["set"] for row in result["quality"]["tables"]["masks against the ground truth"]] == ["mosd"]
    (line,) = result["quality"]["skipped"]
    assert line.startswith("voc: there is no ")
    assert f"skipped: {line}" in logged
    assert result["machine"]["cores"] >= 1
