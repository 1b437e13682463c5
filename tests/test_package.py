"""What people install: the wheel holds the types, the licence and the code, and says whose it is."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.version import Version

from cuts3d_cli import __version__

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the sources without a network."""
    try:
        found = Version(importlib.metadata.version("setuptools"))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("setuptools is not installed, so that no wheel can be built without a package index")
    if found < Version("77"):
        pytest.skip(f"setuptools {found} is older than 77, so that no wheel can be built without a package index")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "cuts3d_cli", source / "cuts3d_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*command, "--wheel-dir", folder, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("cuts3d-*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return BytesParser().parsebytes(wheel.read(name))


def test_the_wheel_holds_all_modules_the_types_and_the_licence(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cuts3d_cli").rglob("*.py")}
    assert modules <= names
    assets = {str(path.relative_to(ROOT)) for path in (ROOT / "cuts3d_cli/reports/assets").iterdir()}
    assert len(assets) == 3
    assert assets <= names
    assert "cuts3d_cli/py.typed" in names
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert {name.split("/")[0] for name in names} == {"cuts3d_cli", licence.split("/")[0]}


def test_metadata(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("cuts3d", __version__)
    assert metadata["Author"] == "The cuts3d developers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "instance segmentation" in metadata["Keywords"].split(",")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Project-URL") is None  # left out until there are some


def test_the_executable(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "cuts3d = cuts3d_cli.__main__:main" in wheel.read(name).decode()


def test_the_changelog_has_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{__version__}] - " in changelog
