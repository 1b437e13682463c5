"""`cuts3d inspect`: prints what is inside a shard, a sidecar or a manifest."""

from __future__ import annotations

import dataclasses
import itertools
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cuts3d_cli.cli.common import Json
from cuts3d_cli.cli.console import print_line, stdout
from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.cli.tables import print_json, print_words
from cuts3d_cli.errors import Cuts3dError, ShardError
from cuts3d_cli.json_reading import Fields, JsonError, as_object, parse_json
from cuts3d_cli.wording import counted, first_line

if TYPE_CHECKING:
    from cuts3d_cli.shards.manifest import Manifest


def inspect(
    path: Annotated[Path, typer.Argument(help="A shard, a sidecar, or a manifest.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-l", help="Samples to show.", min=0)] = 10,
    json: Json = False,
) -> None:
    """Print what is inside a shard, sidecar or manifest."""
    print_content(path, limit=limit, json=json)


def print_content(path: Path, *, limit: int, json: bool) -> None:
    """Print the content of a shard or manifest on stdout.

    Args:
        path: a base shard, a sidecar, or a manifest.
        limit: samples to show.
        json: print JSON.

    Raises:
        Cuts3dError: there is no such file, it is neither, or it is damaged.
    """
    from cuts3d_cli.shards.manifest import load_manifest
    from cuts3d_cli.shards.names import stage_of
    from cuts3d_cli.shards.reader import read_shard

    # A manifest
    if path.is_dir():
        tars = [item for item in path.iterdir() if item.suffix == ".tar" and not item.name.startswith(".")]
        shown = min(tars, key=lambda tar: (stage_of(tar) is not None, tar), default=None)
        such_as = f", such as {shown}" if shown else ", of which it has none"
        raise Cuts3dError(f"{path} is a folder: name one shard, sidecar or manifest{such_as}")
    if not path.is_file():
        raise Cuts3dError(f"{path}: no such file")
    if path.suffix == ".json":
        try:
            manifest = load_manifest(path)
        except ShardError as error:
            raise Cuts3dError(f"{path} is no manifest that can be read: ", *error.parts) from error
        _print_manifest(manifest, path, json=json)
        return
    # A tar: its manifest and its first samples
    if path.suffix != ".tar":
        raise Cuts3dError(f"{path} is neither a shard (.tar) nor a manifest (.json)")
    found, problem = _manifest_beside(path)
    samples = {
        sample.key: {
            name: describe(name, data, first=0 if json else 1) for name, data in sorted(sample.members.items())
        }
        for sample in itertools.islice(read_shard(path, whole=False), limit)
    }
    if json:
        print_json(
            {
                "file": str(path),
                "stage": stage_of(path) or "base",
                "samples": [{"key": key, "members": members} for key, members in samples.items()],
                "manifest": dataclasses.asdict(found) if found else None,
            }
        )
        return
    if found:
        _print_manifest(found, path, json=False)
    else:
        print_line(f"{path}: {problem}")
    rows = [
        (key if number == 0 else "", name, content)
        for key, members in samples.items()
        for number, (name, content) in enumerate(members.items())
    ]
    title = f"the first {counted(len(samples), 'sample')}"
    print_words([("key", "member", "content"), *rows], title=title, head=True, console=stdout)


def _manifest_beside(path: Path) -> tuple[Manifest | None, str]:
    """Return the manifest of a tar, or why there is none to show."""
    from cuts3d_cli.shards.manifest import load_manifest
    from cuts3d_cli.shards.names import manifest_path

    beside = manifest_path(path)
    if not beside.exists():
        return None, "no manifest beside it"
    try:
        return load_manifest(beside), ""
    except ShardError as error:
        return None, f"its manifest cannot be read: {spelled(error)}"


def describe(name: str, data: bytes, *, first: int = 1) -> str:
    """Return what a member holds, in a few words.

    Args:
        name: its extension, such as "jpg" or "depth.png".
        data: its bytes.
        first: number of the first iteration: 1 as in pictures and reports, or 0 as it is stored.
    """
    from PIL import Image, UnidentifiedImageError

    from cuts3d_cli.images import open_image
    from cuts3d_cli.sidecars.npy import decode_npy

    kind = name.rsplit(".", 1)[-1]
    try:
        if kind in ("jpg", "jpeg", "png", "webp"):
            with open_image(data) as image:
                return f"{image.width}x{image.height} {image.mode}, {len(data):,} bytes"
        if kind == "npy":
            array = decode_npy(data)
            return f"{array.dtype} {array.shape}, {len(data):,} bytes"
        if kind == "json":
            value = parse_json(data)
            return _masks(Fields(as_object(value)), first=first) if name == "pseudo.json" else _shortened(value)
    except JsonError as error:
        return f"{len(data):,} bytes, damaged: it {error}"
    except (UnidentifiedImageError, Image.DecompressionBombError, ValueError, OSError, EOFError) as error:
        return f"{len(data):,} bytes, damaged: {first_line(error)}"
    return f"{len(data):,} bytes"


def _masks(record: Fields, *, first: int) -> str:
    """Return how many masks there are, and how large; raises ValueError where a field is of another kind."""
    instances, dropped = record.objects("instances", each="instance"), record.objects("dropped", each="cut", missing=())
    areas = ", ".join(f"{item.whole('area'):,} px" for item in instances)
    parts = [counted(len(instances), "mask") + (f" ({areas})" if areas else "")]
    if dropped:
        reasons = "; ".join(f"iteration {item.whole('iteration') + first} {item.text('reason')}" for item in dropped)
        parts.append(f"dropped: {reasons}")
    if record.has("stopped"):
        parts.append(f"stopped: {record.text('stopped')}")
    return ", ".join(parts)


def _shortened(value: Any) -> str:
    text = json_module.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 200 else text[:197] + "..."


def _print_manifest(manifest: Manifest, path: Path, *, json: bool) -> None:
    if json:
        print_json(dataclasses.asdict(manifest))
        return
    rows = []
    for section, values in manifest.config.items():
        shown = (
            ", ".join(f"{key} {value}" for key, value in values.items()) if isinstance(values, dict) else str(values)
        )
        rows.append((f"config: {section}", shown))
    for role, digest in manifest.inputs.items():
        rows.append((f"made from: {role}", f"{digest.file}, sha256 {digest.sha256[:12]}..."))
    rows.append(("counts", ", ".join(f"{key} {value}" for key, value in manifest.counts.items())))
    for item in manifest.failed:
        rows.append(("failed", f"{item.get('key') or item.get('file')}: {item['reason']}"))
    rows.append(("seconds", ", ".join(f"{key} {value:g}" for key, value in manifest.seconds.items())))
    rows.append(("versions", ", ".join(f"{key} {value}" for key, value in manifest.versions.items())))
    rows.append(("sha256", manifest.sha256))
    print_words(rows, title=f"{path}: stage {manifest.stage}", console=stdout)
