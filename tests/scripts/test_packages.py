"""The packages of the scripts: their names, and their command lines."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import executable
from stress.__main__ import TESTS, main

SCRIPTS = Path(executable.__file__).parent


def test_no_installed_package_has_the_name_of_one():
    names = {path.parent.name for path in SCRIPTS.glob("*/__init__.py")} | {path.stem for path in SCRIPTS.glob("*.py")}
    assert {"bench", "demo", "executable", "scenes", "stress"} <= names
    assert names.isdisjoint(packages_distributions())
    assert names.isdisjoint(sys.stdlib_module_names)


@pytest.mark.parametrize("test", TESTS)
def test_every_stress_test_has_a_command_line(test: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main([test, "--help"])
    assert f"usage: stress {test}" in capsys.readouterr().out


def test_a_failed_command_is_told_in_one_line(tmp_path: Path):
    with pytest.raises(executable.CommandError, match=r"^`cuts3d depth` ended with exit code \d: .*nowhere") as caught:
        executable.cuts3d("depth", "--shards", "nowhere.tar", folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_commands_run_without_the_users_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUTS3D_PSEUDO_BETA", "0.1")
    monkeypatch.setenv("CUTS3D_CACHE", "/somewhere")
    found = executable.neutral_environment(COLUMNS="200")
    assert "CUTS3D_PSEUDO_BETA" not in found
    assert (found["CUTS3D_CACHE"], found["COLUMNS"]) == ("/somewhere", "200")


def test_a_python_that_is_not_here_is_skipped_with_a_word():
    command = ["bash", str(SCRIPTS / "installs.sh"), "9.9"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "skipped Python 9.9: it is not on this machine\n"


def test_the_installed_package_brings_the_builder_of_detectron2():
    from cuts3d_cli.config.resolving import read_toml
    from cuts3d_cli.detector.train import DETECTRON2_PACKAGE

    brought = read_toml(SCRIPTS.parent / "pyproject.toml")["tool"]["setuptools"]["package-data"]["cuts3d_cli"]
    assert "detector/detectron2_package/*" in brought
    assert (SCRIPTS / "detectron2").resolve() == DETECTRON2_PACKAGE.resolve()
    assert sorted(path.name for path in DETECTRON2_PACKAGE.glob("*.*")) == ["backend.py", "pyproject.toml"]
