"""Model cards: beside a detector, what it learned from, how, and how well it does; as JSON and Markdown.

A card is made from what is on disk: the manifests of the shards, the training's log, and the weights. It holds neither
times nor folders of this machine, so that equal trainings have equal cards, apart from the versions of packages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config import as_dict
from cuts3d_cli.detector import CARD, FINAL_WEIGHTS, METRICS, READABLE_CARD
from cuts3d_cli.errors import ShardError
from cuts3d_cli.files import atomic_write_bytes, atomic_write_json
from cuts3d_cli.json_reading import as_object, parse_json, read_json
from cuts3d_cli.shards.manifest import Manifest, digest_file, load_manifest, package_versions
from cuts3d_cli.shards.names import generation_of, manifest_path, masks_of
from cuts3d_cli.wording import counted, percent

if TYPE_CHECKING:
    from cuts3d_cli.detector.data import TrainingShard
    from cuts3d_cli.detector.task import Task

FORMAT = 1
_SHOWN_SHARDS = 10
_FIGURES = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "AR@100": "ar100"}


def write_card(task: Task, *, round: int) -> Path:
    """Write the card of a finished training; `record_results` adds results of evaluations.

    Args:
        task: the training.
        round: 0 learned from the pseudo-masks.

    Returns:
        The JSON file; the Markdown file is beside it.

    Raises:
        ShardError: a manifest or the training's log is missing or damaged.
        FileError: the card cannot be written.
    """
    weights = task.out / FINAL_WEIGHTS
    last = _last_step(task.out / METRICS)
    card = {
        "format": FORMAT,
        "detector": generation_of(round),
        "weights": _identity(weights),
        "began_with": {"detector": _identity(task.init)}
        if task.init is not None
        else {"backbone": task.config.backbone_weights},
        "learned_from": _learned_from(task.shards, stage=masks_of(round)),
        "config": as_dict(task.config),
        "training": {"iterations": task.config.max_iter, "device": task.device, "losses": last.get("losses")},
        "results": {},
        "versions": package_versions(),
    }
    return _save(task.out, card)


def record_results(weights: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write evaluation results into the card of a detector, in place of earlier ones of the same names.

    Args:
        weights: the detector's final weights; the card is beside them.
        results: name of an evaluation set -> plain JSON values.

    Raises:
        ShardError: there is no card, or it describes other weights.
        FileError: the card cannot be written.
    """
    if not describes(weights):
        raise ShardError(f"{weights.with_name(CARD)} is missing, or of other weights: `cuts3d train` writes it")
    card = read_json(weights.with_name(CARD))
    merged = with_results(card, results)
    if merged["results"] != card["results"]:
        _save(weights.parent, merged)


def with_results(card: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a card with results added, in place of earlier ones of the same names; sorted by name."""
    return {**card, "results": dict(sorted({**card["results"], **results}.items()))}


def describes(weights: Path) -> bool:
    """Return whether the card beside some weights exists, is readable, and describes these weights."""
    try:
        card = read_json(weights.with_name(CARD))
        same: bool = card["format"] == FORMAT and card["weights"]["sha256"] == digest_file(weights).sha256
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return same and weights.with_name(READABLE_CARD).is_file()


def as_markdown(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown."""
    # Head: weights, origin, data, training.
    learned, training, weights = card["learned_from"], card["training"], card["weights"]
    start = card["began_with"]
    if "detector" in start:
        origin = f"a detector, `{start['detector']['file']}`, sha256 `{start['detector']['sha256']}`"
    else:
        origin = f"backbone weights `{start['backbone']}`"
    lines = [
        f"# Detector {card['detector']}",
        "",
        "A class-agnostic Cascade Mask R-CNN that learned from masks without labels, by cuts3d"
        f" {card['versions'].get('cuts3d', '?')}.",
        "",
        f"- Weights: `{weights['file']}`, {weights['size']} bytes, sha256 `{weights['sha256']}`",
        f"- Started from: {origin}",
        f"- Learned from: {_number(learned['masks'])} masks (`{learned['stage']}`) of"
        f" {counted(learned['images'], 'image')} in {counted(len(learned['shards']), 'shard')}" + _predicted(learned),
        f"- Training: {training['iterations']} iterations on {training['device']}",
        "",
        # Figures.
        "## Results",
        "",
        *_results(card["results"]),
        "",
        "## Losses at the end of training",
        "",
        *_table(("loss", "mean of the last iterations"), list((training["losses"] or {}).items())),
        "",
        # Data.
        "## Shards",
        "",
        *_table(
            ("shard", "images", "masks", "sha256 of the masks"),
            [
                (item["shard"], item["images"], _number(item["masks"]), f"`{item['masks_sha256']}`")
                for item in learned["shards"][:_SHOWN_SHARDS]
            ],
        ),
    ]
    if len(learned["shards"]) > _SHOWN_SHARDS:
        lines += ["", f"... and {len(learned['shards']) - _SHOWN_SHARDS} more: see `{CARD}`."]
    lines += ["", "How the masks were made:", "", *_as_json(learned["how"])]
    # Everything that is needed to repeat the training.
    lines += ["", "## Configuration", "", *_as_json(card["config"])]
    lines += ["", "## Versions", "", *_table(("package", "version"), list(card["versions"].items())), ""]
    return "\n".join(lines)


def _save(folder: Path, card: Mapping[str, Any]) -> Path:
    """Write both files; return the JSON file."""
    atomic_write_bytes(folder / READABLE_CARD, as_markdown(card).encode())
    atomic_write_json(folder / CARD, card)  # last: `describes` looks for it
    return folder / CARD


def _identity(path: Path) -> dict[str, Any]:
    """Return name, size and digest of a file."""
    digest = digest_file(path)
    return {"file": path.name, "size": digest.size, "sha256": digest.sha256}


def _learned_from(shards: Sequence[TrainingShard], *, stage: str) -> dict[str, Any]:
    """Describe the shards of a training: how many images and masks, how they were made, and all digests."""
    # Describe each shard from its manifests, and collect the configurations that made the masks.
    described, settings = [], []
    for shard in shards:
        masks = load_manifest(manifest_path(shard.pseudo))
        confidence = load_manifest(manifest_path(shard.confidence)) if shard.confidence else None
        described.append(
            {
                "shard": shard.base.name,
                "sha256": _base_digest(shard.base, masks),
                "images": shard.samples,
                "masks": masks.counts.get("masks"),
                "predicted": masks.counts.get("predicted"),
                "masks_sha256": masks.sha256,
                "confidence_sha256": confidence.sha256 if confidence else None,
            }
        )
        how = {**masks.config, **(confidence.config if confidence else {})}
        if how not in settings:
            settings.append(how)
    # Add up the shards.
    return {
        "stage": stage,
        "images": sum(shard.samples for shard in shards),
        "masks": _total(described, "masks"),
        "predicted": _total(described, "predicted"),
        "how": settings,
        "shards": described,
    }


def _base_digest(base: Path, masks: Manifest) -> str:
    """Return the sha256 of a base shard, from a manifest where one has it: reading the shard takes long."""
    if (known := masks.inputs.get("base")) is not None:
        return known.sha256
    try:
        return load_manifest(manifest_path(base)).sha256
    except ShardError:  # a shard of another program
        return digest_file(base).sha256


def _total(items: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """Return the sum of a count over the shards, or None where one is unknown."""
    values = [item[name] for item in items]
    return None if None in values else sum(values)


def _last_step(path: Path) -> dict[str, Any]:
    """Read the last line of the training's log that holds losses."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from error
    try:
        steps = [facts for line in lines if "losses" in (facts := as_object(parse_json(line.encode())))]
    except ValueError as error:
        raise ShardError(f"{path}: one of its lines {error}") from error
    return steps[-1] if steps else {}


def _results(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines on results: one row for boxes and one for masks of each set."""
    if not results:
        return [
            "None on record: `cuts3d run` adds those of its evaluation sets, `cuts3d eval` those of whole datasets.",
        ]
    rows = []
    for name, result in results.items():
        for kind in ("box", "mask"):
            if (figures := result.get(kind)) is not None:
                cells = [percent(figures[field]) for field in _FIGURES.values()]
                rows.append((name, result["images"], kind, *cells))
    return ["Percent, class-agnostic.", "", *_table(("set", "images", "by", *_FIGURES), rows)]


def _predicted(learned: Mapping[str, Any]) -> str:
    if learned["predicted"] is None:
        return ""
    return f"; {learned['predicted']} of the masks are predictions of the detector before"


def _number(value: int | None) -> str:
    return "an unknown number of" if value is None else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def _as_json(value: Any) -> list[str]:
    return ["```json", *json.dumps(value, indent=2).splitlines(), "```"]
