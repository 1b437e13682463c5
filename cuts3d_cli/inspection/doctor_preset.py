"""`cuts3d doctor --preset`: what a run of a preset needs, what of it is missing here, and how to get it."""

from __future__ import annotations

from cuts3d_cli.config import PAPER, Config, spread
from cuts3d_cli.cut.methods import get_method
from cuts3d_cli.depth.catalogue import check_available as check_depth
from cuts3d_cli.depth.catalogue import depth_spec
from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import Message, Parts, Setting, WeightsError, parts_of, without_full_stop
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE, backbone_spec
from cuts3d_cli.inspection.doctor import Finding, find_detectron2
from cuts3d_cli.inspection.weights import elsewhere
from cuts3d_cli.weights.cache import check_available as check_weights
from cuts3d_cli.weights.cache import verify
from cuts3d_cli.weights.specs import WeightsSpec, WheelSource


def preset_findings(config: Config) -> list[Finding]:
    """Return what a run of a configuration needs, in the order of its stages; nothing is fetched.

    Args:
        config: of a preset, or any other.

    Returns:
        A line for each thing: "ok" where it is here, "note" where it will be fetched, or is the user's to give, and
        "missing" with the way to get it.

    Raises:
        UsageError: it names a network that does not exist.
    """
    return [*_depth(config), _backbone(config), _device(config), *_training(config)]


def _depth(config: Config) -> list[Finding]:
    """Look for the depth network, and its package."""
    what, settings = f"depth: {config.depth.backend}", config.depth
    if not get_method(config.pseudo.method).needs_depth(config.pseudo):
        return [Finding(state="ok", what="depth", found=f"not needed: {config.pseudo.method} cuts in 2D")]
    spec = depth_spec(settings.backend)
    if spec.load is None:
        maps: Parts = ("your own maps: pack with ", Setting("depth_dir", "DIR", command="pack"))
        return [Finding(state="note", what=what, found=Message(*maps))]
    try:
        check_depth(settings)
    except WeightsError as error:
        own: Parts = ("; not needed for photos that are packed with maps of your own and ",)
        own = (*own, Setting("depth.backend", "sensor", command="depth"))
        return [Finding(state="missing", what=what, found=Message(*without_full_stop(error), *own))]
    path = settings.weights or spec.folder or (spec.find(spec) if spec.find is not None else None)
    if path is not None:
        return [Finding(state="ok", what=what, found=str(path))]
    return [Finding(state="note", what=what, found=f"not here yet: a run fetches it from the model hub, {spec.model}")]


def _backbone(config: Config) -> Finding:
    features = config.features
    spec = backbone_spec(features.backbone)
    what = f"backbone: {spec.name}"
    if features.weights is not None:
        here = features.weights.exists()
        found = str(features.weights) if here else f"{features.weights} does not exist"
        return Finding(state="ok" if here else "missing", what=what, found=found)
    finding = _of_cache(spec, what)
    if finding.state == "missing" and spec.name == PAPER.features.backbone:
        otherwise = f"; `segment` and `viz` fall back to {OFFLINE_BACKBONE} meanwhile"
        return Finding(state="missing", what=what, found=Message(*parts_of(finding.found), otherwise))
    return finding


def _of_cache(spec: WeightsSpec, what: str) -> Finding:
    """Look for weights in the cache, and where they would be taken from."""
    try:
        check_weights(spec, weights=None, digests=False)
    except WeightsError as error:
        return Finding(state="missing", what=what, found=Message(*without_full_stop(error)))
    # Which index there is, pip alone knows.
    unasked = ", which was not asked" if isinstance(spec.source, WheelSource) else ""
    for check in verify([spec], digests=False):
        if check.problem is None:
            return Finding(state="ok", what=what, found=str(check.cached.path))
        again = f"{check.cached.path} {check.problem}: a run fetches it again, {spec.source}{unasked}"
        return Finding(state="note", what=what, found=again)
    path = elsewhere(spec)
    if path is not None:
        return Finding(state="ok", what=what, found=str(path))
    return Finding(state="note", what=what, found=f"not here yet: a run fetches it, {spec.source}{unasked}")


def _device(config: Config) -> Finding:
    device = choose_device(spread(config.run).device)
    slow = ": cutting is fast enough; networks and training are slow" if device == "cpu" else ""
    return Finding(state="note" if slow else "ok", what="device", found=f"{device}{slow}")


def _training(config: Config) -> list[Finding]:
    """Look for what only training a detector needs, and predicting with it."""
    detectron2 = find_detectron2()
    found = [Finding(state=detectron2.state, what="train: detectron2", found=detectron2.found)]
    weights = config.train.backbone_weights
    what = f"train: {weights}"
    if weights in RESNETS:
        found.append(_of_cache(RESNETS[weights], what))
    elif weights == "random":
        found.append(Finding(state="ok", what=what, found="needs no weights"))
    return found
