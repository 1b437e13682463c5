"""Files that hold the camera of all photos, or one a photo. Believes nothing that they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuts3d_cli.depth.intrinsics import Intrinsics, is_camera, parse_camera
from cuts3d_cli.errors import SettingError
from cuts3d_cli.json_reading import JsonError, parse_json
from cuts3d_cli.lookalikes import lookalike
from cuts3d_cli.paths import file_of, plain_path
from cuts3d_cli.wording import absence, first_line

_LISTS = {"images": "file_name", "frames": "file_path"}
"""Lists of photos: COCO's, nerfstudio's; and what names a photo there."""
_MAX_TEXT_BYTES = 1 << 20
"""A longer text that is no JSON is not parsed: it holds one camera."""


@dataclass(frozen=True, kw_only=True)
class CameraFile:
    """The cameras in a file.

    Attributes:
        path: of the file.
        common: the camera of all photos that have none of their own; None if the file has none.
        of_photos: the name or number of a photo, as the file has it in plain form -> its camera.
    """

    path: Path
    common: Intrinsics | None = None
    of_photos: Mapping[str, Intrinsics] = field(default_factory=dict)


def read_cameras(path: Path) -> CameraFile:
    """Read a file of cameras; its content decides what it is.

    It may be a JSON or YAML of one camera, as `depth.intrinsics.parse_camera` takes it; four, 9, 12 or 16 numbers in a
    text; or cameras by the names or numbers of photos: a JSON object, BOP's `scene_camera.json`, a COCO JSON or a
    `transforms.json` whose images have cameras.

    Args:
        path: of the file.

    Raises:
        SettingError: it cannot be read, or holds no camera, or an impossible one; the line names the file and the
            photo.
    """
    content = _content(path)
    if isinstance(content, Mapping):
        entries = list(_entries(content))
        common = content if is_camera(content) else None
    else:
        entries, common = [], content
    cameras: dict[str, Intrinsics] = {}
    for name, value in entries:
        cameras[name] = _camera(value, path=path, whose=f"the camera of {name}")
    if common is None and not cameras:
        raise SettingError("intrinsics", f"{path} holds no camera: give fx and fy, or a matrix K")
    return CameraFile(
        path=path,
        common=None if common is None else _camera(common, path=path, whose="it"),
        of_photos=cameras,
    )


def _camera(value: Any, *, path: Path, whose: str) -> Intrinsics:
    try:
        return parse_camera(value)
    except ValueError as error:
        raise SettingError("intrinsics", f"{path}: {whose} {error}") from error


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names of photos, in plain form, with what should be their cameras."""
    for name, of_name in _LISTS.items():
        items = content.get(name)
        if isinstance(items, list):
            for item in items:
                if is_camera(item):
                    text = item.get(of_name)
                    file = file_of(item) if name == "images" else plain_path(text) if isinstance(text, str) else ""
                    if file:
                        yield file, item
            return
    if is_camera(content):
        return
    for key, value in content.items():
        if is_camera(value) or isinstance(value, list):
            yield plain_path(str(key)), value


def _content(path: Path) -> Any:
    """Return what a file holds, as plain JSON values."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SettingError("intrinsics", f"is {path}, which {absence(path)}") from error
    except OSError as error:
        reason = absence(path) if path.is_dir() else f"cannot be read: {error.strerror}"
        raise SettingError("intrinsics", f"is {path}, which {reason}") from error
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        try:
            return parse_json(data, lenient=True)  # NaN is refused by name where it stands for a number
        except JsonError as error:
            raise SettingError("intrinsics", f"{path} {error}") from error
    return _content_of_text(data, path=path)


def _content_of_text(data: bytes, *, path: Path) -> Any:
    if other := lookalike(data):
        raise SettingError("intrinsics", f"{path} is {other.what}: {other.way_out}")
    problem = f"{path} is no camera: give JSON, YAML, or the numbers fx, fy, cx, cy"
    if len(data) > _MAX_TEXT_BYTES:
        raise SettingError("intrinsics", problem)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingError("intrinsics", problem) from error
    lines = [line.partition("#")[0] for line in text.splitlines() if not line.startswith("%")]
    try:
        return [float(word) for word in " ".join(lines).replace(",", " ").split()] or _refuse(problem)
    except ValueError:
        return _of_yaml("\n".join(lines), path=path, problem=problem)


def _of_yaml(text: str, *, path: Path, problem: str) -> Any:
    import yaml

    try:
        content = yaml.safe_load(text.replace("!!opencv-matrix", ""))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingError("intrinsics", f"{problem} ({first_line(error)})") from error
    return content if isinstance(content, dict) else _refuse(problem)


def _refuse(problem: str) -> Any:
    raise SettingError("intrinsics", problem)
