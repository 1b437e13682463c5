from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cuts3d_cli.cli.progress import StageProgress
from cuts3d_cli.cli.pseudo import mask_rows
from cuts3d_cli.cli.tables import SHOWN_FAILURES, print_failures, print_stage, print_words
from cuts3d_cli.engine.results import ShardResult, StageResult


def console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=120, force_terminal=terminal, color_system=None), text


def shard(status: str, *, masks: int = 5, **counts: int) -> ShardResult:
    return ShardResult(
        shard=Path("a[b].tar"),
        status=status,  # type: ignore[arg-type]
        counts={"samples_in": 3, "samples_out": 2, "failed": 1, "masks": masks, "without_mask": 1, **counts},
        failed=[{"key": "k[/x]", "reason": "it is [red]broken"}],
        dropped=[{"key": "k", "iteration": 1, "reason": "too small"}],
        seconds={"total": 8.0, "cut": 3.0},
    )


def rows(text: str) -> dict[str, str]:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_rates_are_those_of_the_work_that_was_done():
    out, shown = console()
    errors, told = console()
    result = StageResult(stage="pseudo", shards=[shard("done"), shard("skipped", masks=7)], seconds=6.0)
    print_stage(result, rows=mask_rows(result), console=out, errors=errors)
    found = rows(shown.getvalue())
    assert (found["shards"], found["images"], found["failed"]) == ("2 (1 finished before)", "6", "2")
    assert (found["masks"], found["masks per image"], found["images without a mask"]) == ("12", "3.00", "2")
    assert found["dropped: too small"] == "2"
    assert (found["seconds"], found["images per second"], found["cut, seconds per image"]) == ("6.0", "0.50", "1.000")
    assert told.getvalue() == "failed: a[b].tar: k[/x]: it is [red]broken\n" * 2


def test_where_nothing_was_done_there_is_no_rate():
    out, shown = console()
    print_stage(StageResult(stage="pseudo", shards=[shard("skipped")], seconds=0.0), console=out, errors=console()[0])
    assert "images per second" not in rows(shown.getvalue())
    out, shown = console()
    empty = StageResult(stage="pseudo", shards=[], seconds=0.0)
    print_stage(empty, rows=mask_rows(empty), console=out, errors=console()[0])
    assert rows(shown.getvalue())["masks per image"] == "-"


def test_every_count_of_the_manifests_is_shown():
    out, shown = console()
    result = StageResult(stage="merge", shards=[shard("done", masks=4, taken_over=1)], seconds=1.0)
    print_stage(result, console=out, errors=console()[0])
    found = rows(shown.getvalue())
    assert (found["masks"], found["taken over"]) == ("4", "1")


def test_many_failures_are_cut_short():
    errors, told = console()
    print_failures([{"key": str(n), "reason": "bad"} for n in range(SHOWN_FAILURES + 5)], errors=errors)
    lines = told.getvalue().splitlines()
    assert len(lines) == SHOWN_FAILURES + 1
    assert lines[-1] == "... and 5 more: see `failed` in the manifests"


PATH = "/a folder/that lies deep/below/" + "folder/" * 8 + "weights.safetensors"


@pytest.mark.parametrize("width", [20, 60, 80, 100, 140, 300])
def test_no_word_is_broken_in_a_table_of_words(width: int):
    text = io.StringIO()
    out = Console(file=text, width=width, color_system=None, markup=False)
    rows = [("name", "here"), ("one[/x]", PATH), ("two", "not here: cuts3d weights pull two, and some more words")]
    print_words(rows, title=f"cache: {PATH}", head=True, console=out)
    shown = text.getvalue()
    lines = shown.splitlines()
    assert lines[0] == f"cache: {PATH}"
    assert PATH in "".join(lines[1:])
    assert any(PATH in line for line in lines[1:])
    for word in " ".join(" ".join(row) for row in rows).split():
        assert any(word in line for line in lines[1:])
    # With a border where it fits, else in plain columns, one line a row.
    if width >= 140:
        assert max(map(len, lines[1:])) <= width
        assert "│ two" in shown
    else:
        assert [line.split()[0] for line in lines[1:]] == ["name", "one[/x]", "two"]
        assert len({line.index(word) for line, word in zip(lines[1:], ("here", PATH, "not"), strict=True)}) == 1


def walk(progress: StageProgress) -> None:
    first, second, third = (Path(f"{name}[b].tar") for name in "xyz")
    with progress:
        progress.begin([(first, 2), (second, 2), (third, None)])
        progress.skip(first)
        progress.start(second, why="redone, it [/was] stale")
        progress.advance(failed=False)
        progress.advance(failed=True)
        progress.finish(second)
        progress.start(third, why="")
        progress.finish(third)


def test_progress_without_a_terminal_is_a_line_a_shard():
    errors, told = console()
    walk(StageProgress(errors, name="pseudo"))
    lines = told.getvalue().splitlines()
    assert lines[:2] == ["x[b].tar: finished before, skipped", "y[b].tar: redone, it [/was] stale"]
    assert lines[2].startswith("y[b].tar: 2 images, ")
    assert lines[2].endswith(" images/s, 1 shard to go, 1 failed")
    assert lines[3].startswith("z[b].tar: 0 images, ")
    assert lines[3].endswith("images/s, 1 failed")


def test_progress_on_a_terminal_shows_a_bar_a_shard_and_one_overall():
    errors, told = console(terminal=True)
    walk(StageProgress(errors, name="pseudo"))
    shown = told.getvalue()
    for words in ("y[b].tar", "pseudo: all", "images/s", "1 failed", "redone, it [/was] stale"):
        assert words in shown


@pytest.mark.parametrize("width", range(40, 121))
def test_a_table_of_words_is_never_wider_than_the_console(width: int):
    text = io.StringIO()
    out = Console(file=text, width=width, color_system=None, markup=False)
    rows = [
        ("config: features", " ".join(f"value_{n}" for n in range(60))),
        ("sha256", "0123456789abcdef" * 4),
        ("a longer name of a row, which may be wrapped", "word " * 30),
    ]
    print_words(rows, console=out)
    shown = text.getvalue()
    assert all(len(line) <= width for line in shown.splitlines() if line[0] in "┌│└")
    for word in " ".join(" ".join(row) for row in rows).split():
        assert word in shown
