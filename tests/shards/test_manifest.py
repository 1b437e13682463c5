from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli import __version__
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards import manifest as manifest_module
from cuts3d_cli.shards.freshness import check_freshness
from cuts3d_cli.shards.manifest import (
    FORMAT_VERSION,
    InputDigest,
    Manifest,
    config_hash,
    digest_file,
    load_manifest,
    package_versions,
    save_manifest,
)
from cuts3d_cli.shards.names import manifest_path
from cuts3d_cli.shards.writer import ShardWriter

CONFIG: dict[str, Any] = {"pseudo": {"tau_knn": 0.115, "n": 3}, "method": "cuts3d", "sizes": [1, 2]}


class Stage:
    """A finished sidecar, made from one base shard."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "a-000.tar"
        self.tar = folder / "a-000.pseudo.tar"
        self.manifest = manifest_path(self.tar)
        for path in (self.base, self.tar):
            with ShardWriter(path) as self.writer:
                self.writer.write("a", {"txt": b"1"})
        self.save()

    def save(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "stage": "pseudo",
            "config": CONFIG,
            "inputs": {"base": digest_file(self.base)},
            "counts": {"samples_in": 2, "samples_out": 1, "failed": 1},
            "failed": [{"key": "b", "reason": "the image is empty"}],
            "dropped": [{"key": "a", "iteration": 2, "reason": "crf"}],
            "sha256": self.writer.sha256,
            "size": self.writer.size,
        }
        save_manifest(self.manifest, Manifest(**values | changes))

    def reason(self, config: dict[str, Any] = CONFIG, **inputs: Path | InputDigest) -> str:
        verdict = check_freshness(self.tar, stage="pseudo", config=config, inputs={"base": self.base} | inputs)
        assert verdict.is_current == (verdict.reason == "up to date")
        return verdict.reason


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_saved_and_loaded(stage: Stage) -> None:
    loaded = load_manifest(stage.manifest)
    assert loaded.format_version == FORMAT_VERSION == 1
    assert loaded.config == CONFIG
    assert loaded.config_hash == config_hash(CONFIG)
    assert loaded.inputs["base"] == digest_file(stage.base)
    assert loaded.failed == [{"key": "b", "reason": "the image is empty"}]
    assert loaded.dropped == [{"key": "a", "iteration": 2, "reason": "crf"}]
    assert loaded.versions["cuts3d"] == __version__
    assert (loaded.size, loaded.mtime_ns) == (stage.tar.stat().st_size, stage.tar.stat().st_mtime_ns)
    assert loaded.sha256 == hashlib.sha256(stage.tar.read_bytes()).hexdigest()


def test_a_manifest_needs_its_tar(stage: Stage) -> None:
    with pytest.raises(ShardError, match=r"a-000\.pseudo\.tar has 10240 bytes, not the 5 written"):
        stage.save(size=5)
    stage.tar.unlink()
    with pytest.raises(ShardError, match=r"a-000\.pseudo\.tar cannot be read"):
        stage.save()


def test_config_hash_is_of_canonical_json() -> None:
    assert config_hash({"b": 1, "a": [True, None, 0.5, "é"]}) == config_hash({"a": (True, None, 0.5, "é"), "b": 1})
    assert config_hash({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert config_hash({"a": 1}) != config_hash({"a": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        config_hash({"a": float("nan")})
    with pytest.raises(TypeError):
        config_hash({"a": Path("x")})


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3)))
def test_config_hash_ignores_order_alone(config: dict[str, Any]) -> None:
    assert config_hash(dict(reversed(config.items()))) == config_hash(config)
    assert config_hash(json.loads(json.dumps(config))) == config_hash(config)
    assert config_hash(config | {"more": 1}) != config_hash(config | {"more": 2})


def test_digest_takes_over_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * (3 << 20))
    digest = digest_file(path)
    assert digest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (digest.file, digest.size, digest.mtime_ns) == ("a", 3 << 20, path.stat().st_mtime_ns)
    pretended = InputDigest(file="a", size=digest.size, mtime_ns=digest.mtime_ns, sha256="known")
    assert digest_file(path, known=pretended).sha256 == "known"
    os.utime(path, ns=(0, 5))
    assert digest_file(path, known=pretended) == InputDigest(file="a", size=3 << 20, mtime_ns=5, sha256=digest.sha256)
    with pytest.raises(ShardError, match="none cannot be read"):
        digest_file(tmp_path / "none")


def test_up_to_date(stage: Stage) -> None:
    assert stage.reason() == "up to date"


def test_up_to_date_after_a_copy_that_loses_times(stage: Stage) -> None:
    for path in (stage.base, stage.tar):
        os.utime(path, ns=(1, 1))
    assert stage.reason() == "up to date"


def test_unfinished(stage: Stage) -> None:
    stage.manifest.unlink()
    assert stage.reason() == "unfinished: it has no manifest"
    stage.tar.unlink()
    assert stage.reason() == "not there yet"


def test_a_manifest_without_its_tar_is_nothing(stage: Stage) -> None:
    stage.tar.unlink()
    assert stage.reason() == "not there yet"


def test_config_changed(stage: Stage) -> None:
    changed = CONFIG | {"pseudo": {"tau_knn": 0.05, "n": 3}}
    assert stage.reason(changed) == "config changed: pseudo.tau_knn 0.115 -> 0.05"
    assert stage.reason({"method": "cuts3d"}) == (
        "config changed: pseudo.n 3 -> (unset), pseudo.tau_knn 0.115 -> (unset), sizes [1, 2] -> (unset)"
    )
    assert stage.reason({"x": 1}).endswith("and 2 more")


def test_inputs_changed(stage: Stage) -> None:
    digest = digest_file(stage.base)
    assert stage.reason(base=digest) == "up to date"
    assert stage.reason(depth=stage.tar) == "inputs changed: base -> base+depth"
    with ShardWriter(stage.base) as writer:
        writer.write("a", {"txt": b"2"})
    assert stage.reason() == "input changed: base (a-000.tar)"
    stage.base.unlink()
    with pytest.raises(ShardError, match=r"a-000\.tar cannot be read"):
        stage.reason()


def test_the_tar_changed(stage: Stage) -> None:
    data = stage.tar.read_bytes()
    stage.tar.write_bytes(data[:-512])
    assert stage.reason() == "damaged: 9728 bytes, 10240 were written"
    stage.tar.write_bytes(data[:512] + b"2" + data[513:])
    os.utime(stage.tar, ns=(7, 7))
    assert stage.reason() == "changed since it was written"


def test_of_another_stage(stage: Stage) -> None:
    stage.save(stage="depth")
    assert stage.reason() == "written by stage depth, not pseudo"


def edited(stage: Stage, **changes: Any) -> None:
    values = json.loads(stage.manifest.read_bytes())
    stage.manifest.write_text(json.dumps(values | changes))


def test_unknown_fields_are_passed_over(stage: Stage) -> None:
    edited(stage, mood="good")
    assert stage.reason() == "up to date"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": 3}, "its counts is 3"),
        ({"size": "3"}, 'its size is "3"'),
        ({"inputs": {"base": 3}}, "inputs: its base is 3"),
        ({"inputs": {"base": {"file": "a"}}}, "base: it has no size"),
        ({"inputs": {"base": {"file": "a", "size": "b", "mtime_ns": 0, "sha256": ""}}}, 'base: its size is "b"'),
        ({"config": {}}, "edited by hand"),
    ],
)
def test_damaged(stage: Stage, changes: dict[str, Any], message: str) -> None:
    edited(stage, **changes)
    with pytest.raises(ShardError, match=rf"a-000\.pseudo\.json is damaged \(.*{message}.*move it away and run"):
        load_manifest(stage.manifest)
    assert stage.reason().startswith("its manifest is unreadable: ")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"[" * 100_000])
def test_not_a_manifest(stage: Stage, content: bytes) -> None:
    stage.manifest.write_bytes(content)
    with pytest.raises(ShardError, match=r"a-000\.pseudo\.json is (not|nested|empty) .*move it away and run") as caught:
        load_manifest(stage.manifest)
    assert "\n" not in str(caught.value)
    assert stage.reason().startswith("its manifest is unreadable: ")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="does not exist: its tar is not finished"):
        load_manifest(tmp_path / "a.json")


def test_another_format_version_is_never_overwritten_unasked(stage: Stage) -> None:
    edited(stage, format_version=2)
    for action in (lambda: load_manifest(stage.manifest), stage.reason):
        with pytest.raises(
            ShardError, match=r"format version 2, this cuts3d reads 1: .* run `cuts3d pseudo` with run.if_exists="
        ):
            action()


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL

    versions = package_versions()
    assert versions["pillow"] == PIL.__version__
    assert set(versions) >= {"cuts3d", "python"}
    monkeypatch.setattr(manifest_module, "_PACKAGES", {"PIL": "installed-under-another-name", "no_such_module": "x"})
    assert package_versions()["installed-under-another-name"] == PIL.__version__
    assert "x" not in package_versions()
