"""Help pages, and values that no option takes: in our own words, whatever typer's validators say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cuts3d_cli.cli.spelling import COMMANDS
from tests.support.running import Ran


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "pseudo --preset papper",
            "--preset is 'papper': choose one of paper, best, objects, maskcut, offline, cutler, tiny, ",
        ),
        ("pseudo --preset papper", "(did you mean paper?)"),
        ("pseudo --cut locl", "--cut is 'locl': choose one of local, component (did you mean local?)"),
        ("pseudo --method mascut", "(did you mean maskcut?)"),
        ("depth --backend zoe", "(did you mean zoedepth?)"),
        ("pseudo --tau-knn near", "--tau-knn is 'near': it must be a number"),
        ("pseudo -n 2.5", "--instances is '2.5': it must be a whole number"),
        ("pseudo --set tau_kn=0.1", "(did you mean tau_knn?)"),
        ("pseudo --set psuedo.tau_knn=0.1", "(did you mean pseudo?)"),
        ("pseudo --set pseudo.tau_kn=0.1", "(did you mean tau_knn?)"),
        ("weights pull dino-vitb", "(did you mean dino-vitb8?)"),
        ("train --gpus 0", "--gpus is '0': it must be at least 1"),
        ("eval --compare papr", "(did you mean paper?)"),
        ("eval -c d.pth -d coc", "(did you mean coco?)"),
        ("inspect a.tar --limit few", "--limit is 'few': it must be a whole number"),
    ],
)
def test_an_impossible_value_is_told_in_a_line(cuts3d: Callable[..., Ran], line: str, said: str):
    ran = cuts3d(*line.split())
    assert ran.code == 2
    assert said in ran.line
    for foreign in ("Value error", "Input should", "valid integer", "is not one of"):
        assert foreign not in ran.line


def test_help_pages_show_brackets_and_all_exit_codes(cuts3d: Callable[..., Ran]):
    assert "with a section [recipe]" in cuts3d("run", "--help").out
    assert "instances_val2017.json [--predicted]" in cuts3d("eval", "--help").out
    for name in ("", *COMMANDS):
        page = " ".join(cuts3d(*name.split(), "--help").out.split())
        for code in ("0 done", "1 failure", "2 usage", "3 finished with failed samples", "129 ", "130 ", "143 "):
            assert code in page, name
