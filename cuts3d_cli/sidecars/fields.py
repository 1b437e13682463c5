"""The JSON members of shards: read, and checked before anything believes them.

A damaged run-length code would have pycocotools write past its memory; a damaged number would come out as a wrong mask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import check_rle, rle_area
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.names import base_of
from cuts3d_cli.shards.reader import Sample

Check = Callable[[Mapping[str, Any]], None]


def read_json(sample: Sample, extension: str) -> dict[str, Any]:
    """A JSON member of a sample. What one of our stages wrote is checked field by field.

    Args:
        sample: of a base shard or sidecar.
        extension: "json", "pseudo.json", ...

    Raises:
        ShardError: it is missing, no JSON object, or a field is missing or impossible. The line names file and member.
    """
    where = f"{sample.file or 'a sample'}: member {sample.key}.{extension}"
    way_out = f": check it with `cuts3d verify {base_of(sample.file)}`" if sample.file else ""
    if extension not in sample.members:
        raise ShardError(f"{where} is missing{way_out}")
    try:
        return parse_record(sample.members[extension], extension)
    except ValueError as error:
        raise ShardError(f"{where} is damaged: {error}{way_out}") from error


def parse_record(data: bytes, extension: str) -> dict[str, Any]:
    """The content of a JSON member.

    Args:
        data: the member.
        extension: "json", "pseudo.json", ...; it tells what fields there must be.

    Raises:
        ValueError: it is no JSON object, or a field is missing or impossible.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    _CHECKS.get(extension, _no_check)(value)
    return value


def _no_check(value: Mapping[str, Any]) -> None:
    """Facts that users may have written."""


def _check_depth(value: Mapping[str, Any]) -> None:
    _sides(value)
    for name in ("min", "max"):
        _need(_is_number(value.get(name)), value, name)
    for name in ("unit", "direction", "conversion", "backend"):
        _need(isinstance(value.get(name), str), value, name)


def _check_features(value: Mapping[str, Any]) -> None:
    for name in ("backbone", "tensor"):
        _need(isinstance(value.get(name), str), value, name)
    _need(_is_whole(value.get("size")) and value["size"] > 0, value, "size")


def _check_pseudo(value: Mapping[str, Any]) -> None:
    size = _sides(value)
    grid = value.get("grid")
    _need(grid is None or (_are_whole(grid, 2) and min(grid) > 0), value, "grid")
    _need(isinstance(value.get("method", ""), str), value, "method")
    _need(isinstance(value.get("stopped"), str | None), value, "stopped")
    _need(isinstance(value.get("dropped", []), list), value, "dropped")
    for item in value.get("dropped", []):
        good = isinstance(item, dict) and _is_whole(item.get("iteration")) and isinstance(item.get("reason"), str)
        _need(good, value, "dropped")
    for place, item in enumerate(_instances(value)):
        where = f"instance {place}: "
        _check_instance(item, size, where)
        for name in ("patch_mask", "bipartition"):
            if item.get(name) is not None:
                _need(grid is not None, value, "grid")
                _check_mask(item, name, tuple(grid or ()), where)
        for name in ("source", "sink"):
            _need(item.get(name) is None or _is_inside(item[name], grid), item, name, where)
        for name in ("crf_iou", "score"):
            _need(item.get(name) is None or _is_share(item[name]), item, name, where)


def _check_predict(value: Mapping[str, Any]) -> None:
    size = _sides(value)
    for place, item in enumerate(_instances(value)):
        _check_instance(item, size, f"instance {place}: ")
        _need(_is_share(item.get("score")), item, "score", f"instance {place}: ")


def _check_confidence(value: Mapping[str, Any]) -> None:
    _need(_is_whole(value.get("levels")) and 1 <= value["levels"] <= 255, value, "levels")
    _need(_is_share(value.get("floor")), value, "floor")
    scores = value.get("scores")
    _need(isinstance(scores, list) and all(map(_is_share, scores)), value, "scores")


_CHECKS: Mapping[str, Check] = {
    "depth.json": _check_depth,
    "features.json": _check_features,
    "pseudo.json": _check_pseudo,
    "predict.json": _check_predict,
    "confidence.json": _check_confidence,
}


def _instances(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = value.get("instances")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        _need(False, value, "instances")
        return []
    return found


def _check_instance(item: Mapping[str, Any], size: tuple[int, int], where: str) -> None:
    _check_mask(item, "segmentation", size, where)
    box = item.get("bbox")
    _need(box is None or (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))), item, "bbox", where)
    if "area" in item and item["area"] != rle_area(item["segmentation"]):
        raise ValueError(f"{where}its area is not that of its mask, {rle_area(item['segmentation'])}")


def _check_mask(item: Mapping[str, Any], name: str, size: tuple[int, ...], where: str) -> None:
    try:
        code = check_rle(item.get(name))
    except ValueError as error:
        raise ValueError(f"{where}its {name} {error}") from error
    if tuple(code["size"]) != size:
        raise ValueError(f"{where}its {name} has the size (height, width) {code['size']}, not {list(size)}")


def _sides(value: Mapping[str, Any]) -> tuple[int, int]:
    for name in ("height", "width"):
        _need(_is_whole(value.get(name)) and 0 < value[name] <= MAX_IMAGE_PIXELS, value, name)
    _need(value["height"] * value["width"] <= MAX_IMAGE_PIXELS, value, "height")
    return value["height"], value["width"]


def _is_inside(node: Any, grid: Sequence[int] | None) -> bool:
    return grid is not None and _are_whole(node, 2) and 0 <= node[0] < grid[0] and 0 <= node[1] < grid[1]


def _need(good: bool, value: Mapping[str, Any], name: str, where: str = "") -> None:
    if not good:
        text = json.dumps(value.get(name, "(missing)"))
        raise ValueError(f"{where}its {name} is {text if len(text) <= 40 else text[:37] + '...'}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_whole(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_whole, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
