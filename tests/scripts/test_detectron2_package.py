from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "detectron2"


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detectron2_backend", FOLDER / "backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(backend: ModuleType, **changed: str) -> bytes:
    """A source archive with every file that is adapted, each holding just the texts that are replaced."""
    files = {
        name: "".join(old for old, _ in backend.REPLACEMENTS.get(name, ()))
        + ("x = np.int\n" if name in backend.ALIASES else "")
        for name in {*backend.REPLACEMENTS, *backend.ALIASES}
    }
    files |= {"__init__.py": "", "model_zoo/configs/Base.yaml": "A: 1\n", "layers/csrc/x.cpp": "", **changed}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in [*((f"detectron2/{name}", text) for name, text in files.items()), ("LICENSE", "Apache")]:
            info = tarfile.TarInfo(f"some-1.0/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_equal_sources_make_equal_wheels(backend: ModuleType):
    first, second = (backend.wheel(backend.package_files(archive(backend))) for _ in range(2))
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as wheel:
        names = wheel.namelist()
        record = wheel.read(f"{backend.INFO}/RECORD").decode()
        assert wheel.testzip() is None
    assert "detectron2/model_zoo/configs/Base.yaml" in names
    assert f"{backend.INFO}/LICENSE" in names
    assert not [name for name in names if name.endswith(".cpp")]
    assert len(record.splitlines()) == len(names)


def test_changed_files_say_so_and_others_are_left_alone(backend: ModuleType):
    files = backend.package_files(archive(backend))
    for name in {*backend.REPLACEMENTS, *backend.ALIASES}:
        assert files[f"detectron2/{name}"].decode().startswith(backend.HEADER), name
    assert files["detectron2/__init__.py"] == b""
    assert b"_C = None" in files["detectron2/layers/deform_conv.py"]
    assert b"x = int" in files["detectron2/data/build.py"]


@pytest.mark.parametrize("name", ["layers/deform_conv.py", "structures/masks.py", "export/__init__.py"])
def test_other_sources_are_refused(backend: ModuleType, name: str):
    with pytest.raises(backend.BuildError, match=name):
        backend.package_files(archive(backend, **{name: "something = 'else'\n"}))


def test_an_archive_with_another_hash_is_refused(backend: ModuleType, monkeypatch: pytest.MonkeyPatch):
    class Done:
        returncode = 0
        stderr = ""

    def download(command: list[str], **_: object) -> Done:
        Path(command[-1], "pb1-detectron2-0.6.tar.gz").write_bytes(b"other")
        return Done()

    monkeypatch.setattr(backend.subprocess, "run", download)
    with pytest.raises(backend.BuildError, match="another sha256"):
        backend.fetch()
    assert hashlib.sha256(b"other").hexdigest() != backend.SHA256


def test_the_installed_package_is_what_the_builder_makes():
    from importlib.metadata import version

    import detectron2

    if "pyonly" not in version("detectron2"):
        pytest.skip("another detectron2 is installed")
    from detectron2.layers import deform_conv

    assert deform_conv._C is None
    assert detectron2.__version__ == "0.6"
