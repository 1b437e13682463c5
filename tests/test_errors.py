from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cuts3d_cli.engine.pool import WorkerDiedError
from cuts3d_cli.errors import Command, Cuts3dError, Message, Setting, SettingError, ShardError, parts_of

FIRST = Command("depth", shards=Path("s.tar"), settings=(Setting("depth.backend", "sensor"),))
ERRORS = [
    ShardError("s.depth.tar is missing: run ", FIRST, " first"),
    SettingError("pseudo.tau_knn", "0.02 is under 0.03: raise it, or enlarge ", Setting("features.size")),
    SettingError("pseudo.beta", "is 1.5", where="cuts3d.toml"),
    WorkerDiedError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes(error: Cuts3dError):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.parts) == (str(error), error.parts)


def test_in_python_messages_name_settings_and_commands():
    assert [str(error) for error in ERRORS[:3]] == [
        "s.depth.tar is missing: run `cuts3d depth` with depth.backend='sensor' first",
        "pseudo.tau_knn 0.02 is under 0.03: raise it, or enlarge features.size",
        "cuts3d.toml: pseudo.beta is 1.5",
    ]
    assert ERRORS[1].setting == "pseudo.tau_knn"
    assert not any("--" in str(error) for error in ERRORS)


def test_settings_can_be_named_otherwise():
    error = SettingError("pseudo.tau_knn", "0.02 is under 0.03: enlarge ", Setting("features.size", 96))
    inner = ShardError("a: ", Setting("depth.weights"))
    for item in (error, inner):
        item.rename(lambda name: name.replace(".", "__"))
    assert str(error) == "pseudo__tau_knn 0.02 is under 0.03: enlarge features__size=96"
    assert error.setting == "pseudo__tau_knn"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(inner) == "a: depth__weights"
    # In a file it goes by its own name.
    in_file = SettingError("pseudo.beta", "is 1.5", where="cuts3d.toml")
    in_file.rename(str.upper)
    assert str(in_file) == "cuts3d.toml: pseudo.beta is 1.5"


def test_a_message_is_one_line_whatever_is_in_it():
    assert str(Cuts3dError("a\nb.tar: ", Setting("x\ny"))) == "a b.tar: x y"
    assert str(Message("a\n", "b")) == "a b"


def test_an_error_that_adds_to_another_keeps_its_parts():
    outer = ShardError("recipe.toml: ", *ERRORS[1].parts)
    assert str(outer) == f"recipe.toml: {ERRORS[1]}"
    assert Setting("features.size") in outer.parts
    assert parts_of(outer) == outer.parts
    assert parts_of(Message("a", FIRST)) == ("a", FIRST)
    assert parts_of("plain") == ("plain",)
