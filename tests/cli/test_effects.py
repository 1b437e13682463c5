"""Settings that have no effect where they are given: refused, or warned of, or, from files, passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import Ran


@pytest.mark.parametrize(
    ("line", "said"),
    [
        # Of a section that the command does not read, or of a field
        ("eval --set train.test_min_size=320", "train.test_min_size has no effect on `cuts3d eval`"),
        ("pseudo --shards s.tar --set depth.backend=kbr", "depth.backend has no effect on `cuts3d pseudo`"),
        ("eval --set run.max_image_pixels=1000", "--set run.max_image_pixels has no effect on `cuts3d eval`"),
        ("train --round 1 --set selftrain.rounds=3", "--set selftrain.rounds has no effect on `cuts3d train`"),
        ("train --set selftrain.max_iter=3", "--max-iter has no effect on `cuts3d train`"),
        # Beside an argument
        ("viz a.jpg -c d.pth --tau-knn 0.1", "--tau-knn has no effect with --checkpoint"),
        ("viz --shards s.tar --key a -n 9", "--instances has no effect with --shards, which draws what is stored"),
        ("viz a.jpg --depth a.png --backend kbr", "--depth-backend has no effect with --depth"),
        ("pack photos -o out --depth-scale 0.1", "--depth-scale has no effect without --depth-dir"),
        ("train --init d.pth --backbone-weights random", "--backbone-weights has no effect with --init"),
        ("train --round 2 --backbone-weights random", "--backbone-weights has no effect with --round 2"),
        ("confidence --shards s.tar --max-image-pixels 900", "--max-image-pixels has no effect with --source depth"),
    ],
)
def test_what_would_shape_a_result_is_refused(cuts3d: Callable[..., Ran], line: str, said: str):
    ran = cuts3d(*line.split())
    assert ran.code == 2
    assert ran.line == f"cuts3d: {said}: leave it out"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pseudo --method maskcut --tau-knn 0.1", "--tau-knn has no effect with --method maskcut"),
        ("pseudo --no-sharpen --beta 0.1", "--beta has no effect with --no-sharpen"),
        ("pseudo --cut component --set core_share=0.2", "--set pseudo.core_share has no effect with --cut component"),
        ("pseudo --set core_share=0.2", "--set pseudo.core_share has no effect with --source seed"),
        ("pseudo --method maskcut --depth-clip 2", "--depth-clip has no effect with --method maskcut"),
        ("pseudo --no-crf --crf-iterations 3", "--crf-iterations has no effect with --no-crf"),
        ("depth --backend sensor --max-side 100", "--max-side has no effect with --depth-backend sensor"),
        ("depth --backend kbr --marigold-steps 2", "--marigold-steps has no effect with --depth-backend kbr"),
        ("confidence --source crf --tau-knn-min 0.1", "--tau-knn-min has no effect with --source crf"),
        ("confidence --device cpu", "--device has no effect on `cuts3d confidence`"),
        ("confidence --precision tf32", "--precision has no effect on `cuts3d confidence`"),
        ("confidence --no-half", "--precision has no effect on `cuts3d confidence`"),
        ("depth --backend sensor --precision float32", "--precision has no effect with --depth-backend sensor"),
        ("depth --ray-address auto", "--ray-address has no effect with --engine local"),
        ("verify -j 3", "--workers has no effect without --fix"),
        ("train --no-copy-paste --alpha none", "--alpha has no effect with --no-copy-paste"),
        ("confidence --preset tiny", "preset 'tiny' changes nothing that `cuts3d confidence` reads"),
    ],
)
def test_what_is_switched_off_or_for_speed_is_warned_of(cuts3d: Callable[..., Ran], line: str, said: str):
    command, *rest = line.split()
    ran = cuts3d(command, *rest, "--shards", "none.tar")
    assert ran.err.splitlines()[0] == f"warning: {said}"
    assert "none.tar" in ran.err.splitlines()[-1]


def test_files_variables_and_presets_are_for_all_commands(
    cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch
):
    (alone / "cuts3d.toml").write_text("preset = 'maskcut'\n[pseudo]\ntau_knn = 0.2\n[run]\nworkers = 3\n")
    monkeypatch.setenv("CUTS3D_TRAIN_TEST_MIN_SIZE", "320")
    for command in ("pseudo", "eval", "depth", "verify"):
        assert "has no effect" not in cuts3d(command, "--shards", "none.tar").err
    assert "warning" not in cuts3d("pseudo", "--preset", "offline", "--shards", "none.tar").err


def test_options_without_effect_are_not_on_the_help_page(cuts3d: Callable[..., Ran]):
    page = cuts3d("confidence", "--help").out
    assert "--workers" in page
    assert "--device" not in page
