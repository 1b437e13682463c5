from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest

from cuts3d_cli.cli.config import as_toml, everything
from cuts3d_cli.config import (
    MAX_IMAGE_PIXELS,
    PAPER,
    PRESETS,
    Config,
    RunConfig,
    as_dict,
    named_here,
    output_dict,
    recorded_limits,
    recorded_precision,
    resolve,
    section_fields,
    words_of,
)
from cuts3d_cli.errors import UsageError

SECTIONS = [item.name for item in dataclasses.fields(Config)]
FIELDS = [(section, item, kind) for section in SECTIONS for item, kind in section_fields(type(getattr(PAPER, section)))]
LIMITS = {(section, item.name): item.metadata["limits"] for section, item, _ in FIELDS if item.metadata["limits"]}


def found(tmp_path: Path, *, toml: str | None = None, **arguments: Any) -> Config:
    if toml is not None:
        (tmp_path / "cuts3d.toml").write_text(toml, encoding="utf-8")
    return resolve(**{"environment": {}, "folder": tmp_path, **arguments})


def refusal(tmp_path: Path, **arguments: Any) -> str:
    with pytest.raises(UsageError) as caught:
        found(tmp_path, **arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_default_is_the_paper(tmp_path: Path):
    assert found(tmp_path) == PAPER == Config()
    paper = PAPER.pseudo
    assert (paper.instances, paper.tau_knn, paper.beta, PAPER.features.backbone) == (3, 0.115, 0.45, "dino-vitb8")


def test_option_beats_variable_beats_file_beats_preset(tmp_path: Path):
    toml = "[pseudo]\ntau_knn = 0.2\nmethod = 'cuts3d'\n"
    variable = {"CUTS3D_PSEUDO_TAU_KNN": "0.3"}
    option = {"pseudo": {"tau_knn": 0.4}}
    assert found(tmp_path, preset="maskcut").pseudo.tau_knn == 0.115
    assert found(tmp_path, preset="maskcut", toml=toml).pseudo.tau_knn == 0.2
    assert found(tmp_path, preset="maskcut").pseudo.method == "cuts3d"  # the file's word
    assert found(tmp_path, environment=variable).pseudo.tau_knn == 0.3
    assert found(tmp_path, environment=variable, overrides=option).pseudo.tau_knn == 0.4
    # One field that is given leaves the others to those below.
    assert found(tmp_path, preset="maskcut", overrides={"pseudo": {"beta": 0.1}}).pseudo.tau_knn == 0.2


def test_the_preset_itself_comes_from_option_variable_or_file(tmp_path: Path):
    variable = {"CUTS3D_PRESET": "offline"}
    assert found(tmp_path, toml="preset = 'maskcut'").pseudo.method == "maskcut"
    assert found(tmp_path, environment=variable) == PRESETS["offline"]
    assert found(tmp_path, environment=variable, preset="paper") == PAPER


def test_what_variables_and_the_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert named_here() == frozenset()
    (tmp_path / "cuts3d.toml").write_text('preset = "best"\n[depth]\nbackend = "midas"\n[run]\nhalf = true\n')
    monkeypatch.setenv("CUTS3D_FEATURES_BACKBONE", "dino-vits8")
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path))
    # A former switch counts as the field that has replaced it.
    assert named_here() == {"preset", "depth.backend", "run.precision", "features.backbone"}
    (tmp_path / "cuts3d.toml").unlink()
    monkeypatch.setenv("CUTS3D_PRESET", "best")
    assert named_here() == {"preset", "features.backbone"}


def test_presets_differ_from_the_paper_where_they_say_and_nowhere_else():
    def changes(name: str) -> dict[str, Any]:
        new, old = everything(PRESETS[name]), everything(Config())
        return {f"{s}.{key}": value for s in new for key, value in new[s].items() if value != old[s][key]}

    assert changes("paper") == {}
    assert changes("maskcut") == {"pseudo.method": "maskcut"}
    assert changes("offline") == {"features.backbone": "dinov2-vits14-pypi", "depth.backend": "sensor"}


def test_resolving_changes_no_preset(tmp_path: Path):
    before = {name: everything(preset) for name, preset in PRESETS.items()}
    for name in PRESETS:
        found(tmp_path, preset=name, overrides={"pseudo": {"method": "maskcut", "beta": 0.9}})
    assert {name: everything(preset) for name, preset in PRESETS.items()} == before


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("PSEUDO_INSTANCES", "5", 5),
        ("PSEUDO_TAU_NCUT", "0.2", 0.2),
        ("PSEUDO_TAU_NCUT", "none", None),
        ("PSEUDO_TAU_NCUT", "", None),
        ("PSEUDO_CRF", "off", False),
        ("PSEUDO_CRF", "TRUE", True),
        ("PSEUDO_CUT", "component", "component"),
        ("FEATURES_SIZE", "224", 224),
        ("FEATURES_WEIGHTS", "a b/w.pth", Path("a b/w.pth")),
        ("FEATURES_WEIGHTS", "none", None),
        ("RUN_IF_EXISTS", "fail", "fail"),
        ("RUN_WORKERS", "0", 0),
    ],
)
def test_variables_are_read_as_their_fields_type(tmp_path: Path, variable: str, text: str, value: object):
    config = found(tmp_path, environment={f"CUTS3D_{variable}": text})
    section, _, key = variable.lower().partition("_")
    got = getattr(getattr(config, section), key)
    assert (got, type(got)) == (value, type(value))


def test_a_home_folder_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert found(tmp_path, toml="[features]\nweights = '~/w.pth'").features.weights == Path("/home/someone/w.pth")
    assert found(tmp_path, toml="[features]\nweights = '~nobody-of-that-name/w'").features.weights is not None


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[pseudo]\ntau_kn = 1", ["cuts3d.toml", "section 'pseudo' has no field 'tau_kn'", "tau_knn"]),
        ("[pseud]\ntau_knn = 1", ["cuts3d.toml", "no section 'pseud'", "pseudo"]),
        ("tau_knn = 1", ["cuts3d.toml", "'tau_knn' must be a section"]),
        ("preset = 'papper'", ["no preset 'papper'", "paper, best, objects, maskcut, offline"]),
        ("preset = ['paper']", ["no preset"]),
        ("[pseudo]\ncut = 'locl'", ["pseudo.cut is 'locl'", "local, component"]),
        ("[pseudo]\ncut = ['local']", ["pseudo.cut", "choose one of"]),
        ("[pseudo]\nmethod = ['cuts3d']", ["pseudo.method", "text"]),
        ("[pseudo]\ncrf = 'perhaps'", ["pseudo.crf is 'perhaps'", "true or false"]),
        ("[pseudo]\ncrf = 1", ["pseudo.crf is '1'", "true or false"]),
        ("[pseudo]\ninstances = 2.5", ["pseudo.instances is '2.5'", "a whole number"]),
        ("[pseudo]\ninstances = true", ["pseudo.instances is 'True'", "a whole number"]),
        ("[pseudo]\ninstances = [3]", ["pseudo.instances", "a whole number"]),
        ("[pseudo]\nbeta = 'high'", ["pseudo.beta is 'high'", "a number"]),
        ("[pseudo]\nbeta = false", ["pseudo.beta is 'False'", "a number"]),
        ("[features]\nbackbone = 8", ["features.backbone is '8'", "text"]),
        ("[features]\nweights = 8", ["features.weights is '8'", "a path"]),
        ("[pseudo]\nbeta = nan", ["pseudo.beta is nan", "between 0.0 and 1.0"]),
        ("[pseudo\n", ["cuts3d.toml", "not valid TOML"]),
        ("[train]\nmin_sizes = 240", ["train.min_sizes is '240'", "a list of numbers"]),
        ("[train]\nmin_sizes = [240, 'x']", ["train.min_sizes is 'x'", "a whole number"]),
        ("[train]\nmin_sizes = []", ["train.min_sizes is empty"]),
        ("[train]\nanchor_sizes = [16, 32]", ["train.anchor_sizes has 2 sizes", "5 levels"]),
        ("[train]\ncopy_paste_min = 0.9\ncopy_paste_max = 0.5", ["copy_paste_min 0.9 is over"]),
    ],
)
def test_mistakes_in_the_file_are_told_in_a_line(tmp_path: Path, toml: str, words: list[str]):
    line = refusal(tmp_path, toml=toml)
    for word in words:
        assert word in line


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "cuts3d.toml").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("CUTS3D_PSEUDO_TAUKNN", ["CUTS3D_PSEUDO_TAUKNN", "no field 'tauknn'"]),
        ("CUTS3D_TAU_KNN", ["CUTS3D_TAU_KNN", "no section 'tau'"]),
        ("CUTS3D_PSEUDO_INSTANCES", ["CUTS3D_PSEUDO_INSTANCES", "a whole number"]),
        ("CUTS3D_PRESET", ["no preset 'much'"]),
    ],
)
def test_mistakes_in_variables_are_told_in_a_line(tmp_path: Path, variable: str, words: list[str]):
    line = refusal(tmp_path, environment={variable: "much"})
    for word in words:
        assert word in line


@pytest.mark.parametrize(("switch", "precision"), [("true", "auto"), ("off", "float32")])
def test_the_switch_of_older_versions_is_a_precision(tmp_path: Path, switch: str, precision: str):
    assert found(tmp_path, environment={"CUTS3D_RUN_HALF": switch}).run.precision == precision
    assert found(tmp_path, overrides={"run": {"half": switch}}).run.precision == precision
    on = "true" if switch == "true" else "false"
    assert found(tmp_path, toml=f"[run]\nhalf = {on}").run.precision == precision
    # What goes before the file does so under either name.
    environment = {"CUTS3D_RUN_PRECISION": "bfloat16"}
    assert found(tmp_path, environment=environment).run.precision == "bfloat16"


def test_mistakes_with_the_precision_are_told_in_a_line(tmp_path: Path):
    assert refusal(tmp_path, overrides={"run": {"precision": "half"}}).startswith("run.precision is 'half': choose one")
    assert "run.half is 'much': it must be true or false" in refusal(tmp_path, environment={"CUTS3D_RUN_HALF": "much"})
    both = refusal(tmp_path, toml="[run]\nhalf = false\nprecision = 'float32'")
    assert both.endswith("cuts3d.toml: run.half is now run.precision: leave it out")


def test_a_precision_makes_nothing_stale():
    assert recorded_limits(RunConfig(precision="bfloat16")) == {}
    assert recorded_precision(RunConfig(precision="bfloat16")) == {"precision": "bfloat16"}
    assert recorded_precision(RunConfig()) == {}


def test_lists_may_be_words_with_commas(tmp_path: Path):
    assert found(tmp_path, environment={"CUTS3D_TRAIN_MIN_SIZES": "240, 320"}).train.min_sizes == (240, 320)
    assert found(tmp_path, toml="[train]\ndecay_steps = []").train.decay_steps == ()
    assert found(tmp_path, overrides={"train": {"decay_steps": ""}}).train.decay_steps == ()


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path):
    environment = {"CUTS3D_CACHE": "/somewhere", "CUTS3D_TEST_DATA": "/data", "HOME": "/root", "PSEUDO_BETA": "x"}
    assert found(tmp_path, environment=environment) == PAPER


def test_mistakes_on_the_command_line_are_told_in_a_line(tmp_path: Path):
    assert "pseudo.beta is 1.5" in refusal(tmp_path, overrides={"pseudo": {"beta": 1.5}})
    assert "pseudo.beta is 'x': it must be a number" in refusal(tmp_path, overrides={"pseudo": {"beta": "x"}})


@pytest.mark.parametrize(("place", "limits"), LIMITS.items(), ids=lambda item: ".".join(map(str, item)))
def test_limits_hold_on_both_sides(tmp_path: Path, place: tuple[str, str], limits: tuple[float, float]):
    section, key = place
    default = getattr(getattr(PAPER, section), key)
    copies = max(len(default), 1) if isinstance(default, tuple) else None
    # The scales of what is pasted have an order of their own.
    others = {"copy_paste_max": {"copy_paste_min": 0.01}, "copy_paste_min": {"copy_paste_max": 1.0}}.get(key, {})
    for limit in limits:
        value = limit if copies is None else (limit,) * copies
        config = found(tmp_path, overrides={section: {**others, key: value}})
        assert getattr(getattr(config, section), key) == value
    for limit in (limits[0] - 1, limits[1] + 1):
        value = limit if copies is None else (limit,) * copies
        line = refusal(tmp_path, overrides={section: {**others, key: value}})
        assert f"{section}.{key} is {limit}" in line
        assert f"between {limits[0]} and {limits[1]}" in line


def test_every_number_has_limits():
    def is_number(kind: Any) -> bool:
        return bool({kind, *get_args(kind)} & {int, float})

    assert {(section, item.name) for section, item, kind in FIELDS if is_number(kind)} == set(LIMITS)


@pytest.mark.parametrize(("section", "item", "kind"), FIELDS, ids=lambda value: getattr(value, "name", None))
def test_every_field_explains_itself(section: str, item: Any, kind: Any):
    text = item.metadata["help"]
    assert text.endswith(".")
    assert len(text) > 10


def test_how_the_work_is_done_stays_out_of_manifests():
    assert output_dict(PAPER.run) == {"max_image_pixels": MAX_IMAGE_PIXELS}  # which decides what images fail
    assert recorded_limits(PAPER.run) == {}
    changed = dataclasses.replace(PAPER.run, workers=3, max_image_pixels=9999)
    assert recorded_limits(changed) == {"run": {"max_image_pixels": 9999}}
    for section in ("pack", "depth", "features", "pseudo"):
        # What `edge_share` chooses is recorded, as `tau_ncut`; what came later is, where it is no default.
        left_out = {item.name for owner, item, _ in FIELDS if owner == section and item.metadata["later"]}
        assert (section == "pseudo") == bool(left_out)
        everything_else = {
            name: value
            for name, value in as_dict(getattr(PAPER, section)).items()
            if name != "edge_share" and name not in left_out
        }
        assert output_dict(getattr(PAPER, section)) == everything_else
    assert output_dict(dataclasses.replace(PAPER.pseudo, crf_backend="lattice"))["crf_backend"] == "lattice"


@pytest.mark.parametrize("name", ["predict.test_settings", "depth.gives", "features.tensor"])
def test_a_choice_that_may_be_unset_is_one_of_its_words(tmp_path: Path, name: str):
    section, field = name.split(".")
    kind = next(kind for owner, item, kind in FIELDS if (owner, item.name) == (section, field))
    assert words_of(kind) == ()  # which are those in place of a number
    assert refusal(tmp_path, overrides={section: {field: "other"}}).startswith(f"{name} is 'other': choose one of ")


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_shown_can_be_put_into_the_file(tmp_path: Path, preset: str):
    config = found(
        tmp_path,
        preset=preset,
        overrides={
            "features": {"weights": 'C:\\data\\"new"/\u00e9\U0001f600 \x7f#.pth', "size": 224},
            "pseudo": {"min_area": 1e-7, "crf": False, "background_level": -1.0},
            "run": {"workers": 0},
        },
    )
    assert found(tmp_path, toml=as_toml(config)) == config
    assert found(tmp_path, toml=as_toml(config), preset="maskcut") == config  # everything set is in it
    for item in (line for line in as_toml(config).splitlines() if line.startswith("# ")):
        assert len(item) > 2
