from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from cuts3d_cli.cli.app import app
from cuts3d_cli.cli.common import NETWORK_FIELDS, OUTPUT_FIELDS, RAY_FIELDS, SHARING_FIELDS, WORKER_FIELDS
from cuts3d_cli.cli.options import SomeFields, fields, with_config
from cuts3d_cli.cli.viz import VIZ_FIELDS
from cuts3d_cli.config import PAPER, PRESETS, Config, section_fields
from tests.support.running import Ran

NETWORK = (*NETWORK_FIELDS, *OUTPUT_FIELDS, *SHARING_FIELDS, *RAY_FIELDS)
COMMANDS = {
    "pack": ("pack", fields("run", *OUTPUT_FIELDS, *SHARING_FIELDS, "engine")),
    "depth": ("depth", fields("run", *NETWORK, *WORKER_FIELDS)),
    "features": ("features", fields("run", *NETWORK, *WORKER_FIELDS)),
    "pseudo": ("pseudo", "features", "run"),
    "confidence": ("confidence", fields("run", *WORKER_FIELDS, *OUTPUT_FIELDS, *SHARING_FIELDS, *RAY_FIELDS)),
    "viz": ("pseudo", "features", "depth", fields("run", *VIZ_FIELDS)),
    "train": ("train", fields("run", "device")),
    "selftrain": ("selftrain", fields("run", "device", "batch_size", "precision", "if_exists", "claim_timeout")),
    "predict": (
        "predict",
        fields("run", "device", "batch_size", "precision", "if_exists", *SHARING_FIELDS, *WORKER_FIELDS),
    ),
    "eval": ("eval", fields("run", "device", "batch_size", "precision")),
}

RENAMED = {(command, "depth", name): f"depth_{name}" for command in ("depth", "viz") for name in ("backend", "weights")}
CASES = [
    (command, section, item)
    for command, sections in COMMANDS.items()
    for wanted in sections
    for section in [wanted.section if isinstance(wanted, SomeFields) else wanted]
    for item, _ in section_fields(type(getattr(PAPER, section)))
    if not item.metadata["advanced"] and (not isinstance(wanted, SomeFields) or item.name in wanted.names)
]


def options_of(command: str) -> dict[str, Any]:
    group = typer.main.get_command(app)
    return {parameter.name: parameter for parameter in group.commands[command].params}  # type: ignore[attr-defined]


def words(help_page: str) -> str:
    """The text of a help page without its boxes and line breaks."""
    return re.sub(r"[\s│]+", " ", help_page)


def test_every_section_belongs_to_a_command():
    assert {section for _, section, _ in CASES} == {item.name for item in dataclasses.fields(Config)}


def test_the_switch_that_the_precision_has_replaced_is_hidden_and_still_works(cuts3d: Callable[..., Ran]):
    received: list[Config] = []
    small = typer.Typer()

    @small.command()
    @with_config(fields("run", "precision"))
    def only(*, config: Config) -> None:
        received.append(config)

    for line in (["--no-half"], ["--half"], ["--set", "half=off"], ["--set", "run.half=no"], []):
        small(args=line, standalone_mode=False)
    assert [config.run.precision for config in received] == ["float32", "auto", "float32", "float32", "auto"]
    page = cuts3d("features", "--help").out
    assert "--precision" in page
    assert "--half" not in page
    assert "--no-half" not in page
    ran = cuts3d("features", "none.tar", "--no-half", "--precision", "bfloat16")
    assert (ran.code, ran.line) == (2, "cuts3d: --half is now --precision: leave it out")


def test_a_round_of_self_training_has_its_own_section():
    received: list[Config] = []
    small = typer.Typer()

    @small.command()
    @with_config("train", redirect=lambda arguments: {"train": "selftrain"} if arguments["round"] else {})
    def only(round: int = 0, *, config: Config) -> None:
        received.append(config)

    small(args=["--round", "1", "--max-iter", "7", "--set", "seed=3"], standalone_mode=False)
    assert (received[0].selftrain.max_iter, received[0].selftrain.seed) == (7, 3)
    assert received[0].train == PAPER.train
    small(args=["--max-iter", "7"], standalone_mode=False)
    assert (received[1].train.max_iter, received[1].selftrain) == (7, PAPER.selftrain)


@pytest.mark.parametrize(("command", "section", "item"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_field_is_an_option_with_its_help(command: str, section: str, item: Any):
    name = RENAMED.get((command, section, item.name), item.name)
    option = options_of(command)[name]
    flag = "--" + name.replace("_", "-")
    assert flag in option.opts
    assert set(item.metadata["flags"]) <= set(option.opts)
    if isinstance(item.default, bool):
        assert option.secondary_opts == [flag.replace("--", "--no-", 1)]
    assert option.help == item.metadata["help"]
    # The default is not the option's: a value that was not given leaves the environment and the file their say.
    assert option.default is None


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_page_shows_fields_and_defaults(cuts3d: Callable[..., Ran], command: str):
    page = cuts3d(command, "--help")
    assert page.code == 0
    text = words(page.out)
    for _, section, item in (case for case in CASES if case[0] == command):
        name = RENAMED.get((command, section, item.name), item.name).replace("_", "-")
        assert len(re.findall(rf"^│ +(?:\* +)?--{name}[ ,]", page.out, re.MULTILINE)) == 1, name
        if item.default is not None:
            plain = ",".join(map(str, item.default)) if isinstance(item.default, tuple) else str(item.default)
            shown = {"True": "on", "False": "off"}.get(plain, plain)
            row = re.search(rf"^│ +(?:\* +)?--{name}[ ,]", page.out, re.MULTILINE)
            assert row is not None
            described = words(page.out[row.end() :])
            # Where a command takes another preset with depth maps, both defaults are shown.
            default = re.compile(rf"\[default: \({re.escape(shown)}(; \S+ with --depth)?\)\]")
            assert default.match(described, described.find("[default: ")), name
            assert command == "viz" or " with --depth)" not in text
    assert "--preset" in text


@pytest.mark.parametrize(("command", "maps"), [("segment", "--depth-dir"), ("viz", "--depth")])
def test_help_pages_show_the_defaults_of_both_presets(command: str, maps: str, cuts3d: Callable[..., Ran]):
    text = words(cuts3d(command, "--help").out)
    assert f"[default: (objects with {maps}, else paper)]" in text
    for name, shown in {
        "--instances": f"3; all with {maps}",
        "--tau-knn": f"0.115; auto with {maps}",
        "--crf-failed": f"drop; keep with {maps}",
        "--knn": "16",  # the same in both
    }.items():
        described = text[re.search(rf" {name}[ ,]", text).start() :]  # type: ignore[union-attr]
        assert described.find(f"[default: ({shown})]") == described.find("[default: ") > 0, name


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("pseudo", ["--preset", "--instances", "--tau-knn", "--backbone"]),
        ("viz", ["--depth", "--out", "--preset", "--instances", "--tau-knn", "--backbone", "--depth-backend"]),
        ("segment", ["--out", "--depth-dir", "--preset", "--instances", "--tau-knn", "--backbone", "--depth-backend"]),
    ],
)
def test_help_begins_with_what_people_change_and_ends_with_sharing(
    cuts3d: Callable[..., Ran], command: str, first: list[str]
):
    page = cuts3d(command, "--help").out
    names = re.findall(r"^│ +(?:\* +)?(--[a-z-]+)", page, re.MULTILINE)
    assert names[: len(first)] == first
    panels = re.findall(r"^╭─ (.*?) ─", page, re.MULTILINE)
    if command == "pseudo":
        assert panels[-2:] == ["Running", "Sharing the work between processes and machines"]
        assert names[names.index("--engine") :] == ["--engine", "--ray-address"]
    else:
        assert panels[-1] == "Running"


def test_names_that_options_had_before_are_hidden_and_work(cuts3d: Callable[..., Ran], seen: Callable[..., Config]):
    page = cuts3d("depth", "--help").out
    assert re.findall(r"--depth-backend|--depth-weights", page) != []
    assert re.findall(r"[ │]--(?:backend|weights)\b", page) == []
    assert seen("--backend", "kbr", "--weights", "f").depth.backend == "kbr"
    assert seen("--depth-backend", "kbr", "--depth-weights", "f").depth.weights == Path("f")
    assert seen("--weights", "f").features.weights == Path("f")  # where the backbone's are called so
    depth = options_of("depth")
    assert (depth["backend"].hidden, depth["weights"].hidden) == (True, True)


@pytest.mark.parametrize("flag", ["-n", "--instances", "--max-instances"])
def test_the_number_of_instances_has_three_names(seen: Callable[..., Config], flag: str):
    assert seen(flag, "7").pseudo.instances == 7


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("pseudo --backbone dino-vitb", ["dino-vitb8"]),
        ("depth --depth-backend midas", ["midas-small"]),
        ("viz --depth-backend zoe", ["zoedepth"]),
        ("pseudo --method mask", ["maskcut"]),
        ("weights pull dinov2-vits14-p", ["dinov2-vits14-pypi"]),
    ],
)
def test_completion(line: str, found: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    words = ["cuts3d", *line.split()]
    monkeypatch.setenv("_CUTS3D_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        app(args=[], prog_name="cuts3d")
    assert sorted(capsys.readouterr().out.split()) == sorted(found)


@pytest.fixture
def seen(alone: Path) -> Callable[..., Config]:
    """Resolves the options of a command with all sections as the command line does."""
    received: list[Config] = []
    small = typer.Typer()

    @small.command()
    @with_config("pseudo", "features", "depth", "run")
    def only(name: str = "x", *, config: Config) -> None:
        received.append(config)

    def run(*arguments: str) -> Config:
        small(args=list(arguments), standalone_mode=False)
        return received.pop()

    return run


def test_options_become_fields(seen: Callable[..., Config]):
    line = "--tau-knn 0.2 -n 5 --no-crf --cut component --size 224 --weights w.pth --depth-weights d.pt -j 0 --name y"
    config = seen(*line.split(), "--backend", "kbr", "--if-exists", "overwrite")
    assert config.pseudo == dataclasses.replace(PAPER.pseudo, tau_knn=0.2, instances=5, crf=False, cut="component")
    assert config.features == dataclasses.replace(PAPER.features, size=224, weights=Path("w.pth"))
    assert config.depth == dataclasses.replace(PAPER.depth, weights=Path("d.pt"), backend="kbr")
    assert (config.run.workers, config.run.if_exists) == (0, "overwrite")


def test_no_option_is_the_default(seen: Callable[..., Config]):
    assert seen() == PAPER
    assert seen("--preset", "offline") == PRESETS["offline"]


def test_an_option_beats_variable_and_file(seen: Callable[..., Config], alone: Path, monkeypatch: pytest.MonkeyPatch):
    (alone / "cuts3d.toml").write_text("preset = 'maskcut'\n[pseudo]\nbeta = 0.1\ntau_knn = 0.2\nsharpen = false\n")
    monkeypatch.setenv("CUTS3D_PSEUDO_TAU_KNN", "0.3")
    monkeypatch.setenv("CUTS3D_PSEUDO_CRF", "false")
    config = seen("--crf", "--sharpen")
    assert (config.pseudo.method, config.pseudo.beta, config.pseudo.tau_knn) == ("maskcut", 0.1, 0.3)
    assert config.pseudo.crf
    assert config.pseudo.sharpen
    assert seen("--tau-knn", "0.4", "--preset", "paper").pseudo.tau_knn == 0.4
    assert seen("--preset", "paper").pseudo.method == "cuts3d"


def test_set_reaches_every_field(seen: Callable[..., Config]):
    line = "--set tau_knn=0.2 --set run.workers=0 --set run.graphs=device --set crf=no"
    config = seen(*line.split())
    assert (config.pseudo.tau_knn, config.pseudo.crf, config.run.workers) == (0.2, False, 0)
    assert config.run.graphs == "device"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("tau_knn", "write it as FIELD=VALUE"),
        ("tau_kn=1", "'tau_kn' is no field here"),
        ("weights=w.pth", "'weights' is in "),
        ("pseudo.tau_kn=1", "has no field 'tau_kn'"),
        ("nowhere.tau_knn=1", "no section 'nowhere'"),
        ("tau_knn=near", "it must be a number"),
    ],
)
def test_mistakes_in_set_are_told_in_a_line(cuts3d: Callable[..., Ran], assignment: str, said: str):
    ran = cuts3d("viz", "a.jpg", "--set", assignment)
    assert ran.code == 2
    assert said in ran.line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "papper"], "papper"),
        (["--method", "cut3d"], "cut3d"),
        (["--tau-knn", "near"], "--tau-knn"),
        (["-n", "2.5"], "--instances"),
        (["--tau-kn", "0.1"], "--tau-kn"),
    ],
)
def test_bad_options_are_usage_errors(cuts3d: Callable[..., Ran], arguments: list[str], said: str):
    ran = cuts3d("pseudo", "--shards", "s.tar", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""


def test_options_outside_the_limits_are_told_in_a_line(cuts3d: Callable[..., Ran]):
    ran = cuts3d("pseudo", "--shards", "s.tar", "--beta", "1.5")
    assert ran.code == 2
    assert "--beta is 1.5: it must lie between 0.0 and 1.0" in ran.line


def test_an_option_and_set_for_the_same_field_are_refused(cuts3d: Callable[..., Ran]):
    """Whichever of the two won, the other would have no effect, and nothing would say so."""
    for assignment in ("tau_knn=0.2", "pseudo.tau_knn=0.1"):
        ran = cuts3d("pseudo", "a.tar", "--tau-knn", "0.1", "--set", assignment)
        assert (ran.code, ran.line) == (2, f"cuts3d: --tau-knn stands beside --set {assignment}: leave one out")
