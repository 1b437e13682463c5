"""Messages in the words of the command that has been typed."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cuts3d_cli import Detector, Segmenter, coco_dataset
from cuts3d_cli.cli.app import app  # noqa: F401 - registers the commands
from cuts3d_cli.cli.flags import flag_of
from cuts3d_cli.cli.spelling import COMMANDS, command_line, set_running, spelled
from cuts3d_cli.config import Config, section_fields, section_types
from cuts3d_cli.errors import Command, Cuts3dError, Message, Setting, SettingError, ShardError
from tests.support.running import Ran

PACKAGE = Path(__file__).resolve().parents[2] / "cuts3d_cli"


@pytest.fixture(autouse=True)
def _none_is_running() -> Iterator[None]:
    yield
    set_running(None)


@pytest.mark.parametrize(
    ("command", "setting", "option"),
    [
        ("pseudo", Setting("pseudo.tau_knn"), "--tau-knn"),
        ("pseudo", Setting("pseudo.crf", False), "--no-crf"),
        ("pseudo", Setting("pseudo.crf", True), "--crf"),
        ("pseudo", Setting("pseudo.method", "maskcut"), "--method maskcut"),
        ("pseudo", Setting("features.weights", "my file.pth"), "--weights 'my file.pth'"),
        ("pseudo", Setting("run.graphs"), "--set run.graphs"),
        ("pseudo", Setting("run.graphs", "workers"), "--set run.graphs=workers"),
        # Two sections of viz have weights.
        ("viz", Setting("features.weights"), "--weights"),
        ("viz", Setting("depth.weights"), "--depth-weights"),
        ("depth", Setting("depth.weights"), "--depth-weights"),
        ("doctor", Setting("features.weights", "FILE", command="features"), "--weights FILE"),
        ("weights pull", Setting("features.weights", "FILE", command="features"), "--from FILE"),
        ("weights pull", Setting("depth.weights", "FOLDER", command="depth"), "--from FOLDER"),
        # Its options fill section selftrain from round 1 on.
        ("train", Setting("selftrain.images_per_batch"), "--images-per-batch"),
        ("train", Setting("selftrain.rounds", 2), "--set selftrain.rounds=2"),
        # Arguments that are no settings
        ("pack", Setting("depth_dir"), "--depth-dir"),
        ("run", Setting("assignments"), "--set"),
        ("eval", Setting("list_datasets", True), "--list"),
        # What a command does not take keeps its name; a recipe holds sections and fields.
        ("confidence", Setting("pseudo.method", "maskcut"), "pseudo.method='maskcut'"),
        ("run", Setting("pseudo.tau_knn"), "pseudo.tau_knn"),
        ("run", Setting("run.if_exists", "replace"), "--set run.if_exists=replace"),
        ("weights", Setting("pseudo.tau_knn"), "pseudo.tau_knn"),
        (None, Setting("pseudo.tau_knn"), "pseudo.tau_knn"),
        # Manifests record facts of a detector that nobody can set.
        ("predict", Setting("predict.pixel_mean"), "predict.pixel_mean"),
        ("predict", Setting("predict.test_max_size"), "--set predict.test_max_size"),
    ],
)
def test_a_setting_is_named_as_the_command_takes_it(command: str | None, setting: Setting, option: str):
    set_running(command)
    assert spelled(Message(setting)) == option


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("pseudo", "pack with --intrinsics FILE"),
        ("segment", "--intrinsics FILE"),
        ("viz", "--intrinsics FILE"),
        (None, "pack with --intrinsics FILE"),
    ],
)
def test_another_command_is_named_only_where_the_option_is_its(command: str | None, line: str):
    set_running(command)
    setting = Setting("intrinsics", "FILE", command="pack", elsewhere="pack with ")
    assert spelled(Message(setting)) == line
    assert str(setting) == "pack with intrinsics='FILE'"


def test_a_command_can_be_typed():
    again = Setting("run.if_exists", "overwrite")
    command = Command("depth", shards=Path("a b.tar"), settings=(again, Setting("depth.backend", "sensor")))
    assert command_line(command) == "cuts3d depth --shards 'a b.tar' --if-exists overwrite --depth-backend sensor"
    set_running("confidence")
    assert spelled(ShardError("x is missing: run ", Command("depth", shards=Path("s.tar")), " first")) == (
        "x is missing: run `cuts3d depth --shards s.tar` first"
    )
    pull = Command("weights pull", arguments=("dino-resnet50",), settings=(Setting("source", "FILE"),))
    assert command_line(pull) == "cuts3d weights pull dino-resnet50 --from FILE"


def test_plain_text_stays_as_it_is():
    assert spelled("shards: a  to b") == "shards: a  to b"
    assert spelled(Cuts3dError("a\nb")) == "a b"


def test_a_wrong_value_is_told_with_its_option_or_its_file(
    cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch
):
    problem = "is 3.0: it must lie between 0.0 and 1.0"
    assert cuts3d("pseudo", "a.tar", "--beta", 3).line == f"cuts3d: --beta {problem}"
    assert cuts3d("pseudo", "a.tar", "--set", "core_share=3").line == f"cuts3d: --set pseudo.core_share {problem}"
    monkeypatch.setenv("CUTS3D_PSEUDO_BETA", "3")
    assert cuts3d("pseudo", "a.tar").line == f"cuts3d: variable CUTS3D_PSEUDO_BETA: pseudo.beta {problem}"
    monkeypatch.delenv("CUTS3D_PSEUDO_BETA")
    (alone / "cuts3d.toml").write_text("[pseudo]\nbeta = 3.0\n")
    assert cuts3d("pseudo", "a.tar").line == f"cuts3d: {alone / 'cuts3d.toml'}: pseudo.beta {problem}"
    # An option goes before the file, whose value is then not in force.
    assert "pseudo.beta" not in cuts3d("pseudo", "a.tar", "--beta", 0.5).line


def calls_of(name: str) -> list[ast.Call]:
    """All calls of a class in the package."""
    return [
        node
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def text_of(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def test_messages_name_settings_that_exist():
    """A field that is renamed must not live on in messages."""
    known = {f"{name}.{item.name}" for name, section in section_types().items() for item, _ in section_fields(section)}
    recipe = {"recipe.out", "recipe.gpus", "recipe.depth_dir"}
    names = {
        text
        for kind in (Setting, SettingError)
        for call in calls_of(kind.__name__)
        if (text := text_of(call.args[0])) is not None
    }
    assert len(names) > 10
    assert {name for name in names if "." in name} <= known | recipe
    # Arguments of commands, and of the Python API.
    api = {
        name
        for function in (Segmenter.__init__, Segmenter.__call__, Segmenter.batch, Detector.__init__, coco_dataset)
        for name in inspect.signature(function).parameters
    } | {"method", "backend", "backbone"}
    arguments = {name for name in names if "." not in name} - api
    assert {name for name in arguments if not any(flag_of(name, command) for command in COMMANDS.values())} == set()


def test_messages_name_commands_that_exist():
    names = {text for call in calls_of("Command") if call.args and (text := text_of(call.args[0])) is not None}
    assert names
    assert names <= set(COMMANDS)


def test_every_stage_that_is_named_in_a_message_is_a_command():
    for name, section in section_types().items():
        if section.sidecar:
            assert name in COMMANDS
    assert Config.__dataclass_fields__.keys() == section_types().keys()
