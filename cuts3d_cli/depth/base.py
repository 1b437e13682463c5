"""The one interface of all depth sources. No torch here: reading what a source is must be quick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import Command, Parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cuts3d_cli.config import DepthConfig

Direction = Literal["distance", "disparity"]
"""`distance`: larger = farther. `disparity`: larger = nearer."""
Unit = Literal["metre", "relative"]
"""`metre`: distances in metres, disparities in 1/metre. `relative`: known only up to scale, or scale and
shift."""

Gives = tuple[Direction, Unit]
GIVES: Mapping[str, Gives] = {
    "metres": ("distance", "metre"),
    "inverse-metres": ("disparity", "metre"),
    "relative-depth": ("distance", "relative"),
    "relative-disparity": ("disparity", "relative"),
}
"""The values of `DepthConfig.gives`: direction and unit."""


class LoadDepth(Protocol):
    """Builds a depth network and loads its weights."""

    def __call__(
        self, spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision
    ) -> DepthBackend:
        """Build a depth network.

        Args:
            spec: what is fixed about it.
            config: the whole section: `weights`, which exists if it is given, and the network's own settings.
            device: of torch, such as "cpu" or "cuda:0".
            precision: what it computes in, as `choose_precision` says for the device.

        Raises:
            UsageError: a setting is out of range.
            WeightsError: the weights are missing, damaged or another network's, or a package is not installed.
            HubUnreachableError: the weights are not in the cache and the hub does not answer.
        """


@dataclass(frozen=True, kw_only=True)
class DepthSpec:
    """What a depth source is and gives.

    Attributes:
        name: what `--depth-backend` takes.
        model: the hub's id of the model, or a few words on where the maps come from.
        direction: whether larger values are farther or nearer.
        unit: of the raw values.
        input_size: what the network sees, for people.
        licence: of the weights, SPDX where there is one.
        extra: the extra of this package to install (`pip install 'cuts3d[EXTRA]'`), or None where none is
            needed.
        settings: the fields of section `depth` that it alone takes; `weights` and `max_side` are all networks'.
        weights_hint: what the user does where the weights are missing, for one run.
        pull: what brings them to where every run finds them; None: nothing does.
        prompted: whether it needs the map of a sensor beside each photo.
        max_depth: metres at which a metric network's maps end, where its file does not tell; None: it is not metric.
        folder: that the name itself stands for, where it is one.
        url: of the only file of its weights, which is kept in torch.hub's cache.
        from_hub: whether `load` fetches missing weights from the model hub.
        find: looks for weights where `load` finds them by itself, without the hub; None: they are always given. Called
            with this spec.
        load: builds the network. Called with this spec, which the network may replace by one of another direction or
            unit, if its weights say so. None: no network, the maps are in the shards.
    """

    name: str
    model: str
    direction: Direction
    unit: Unit
    input_size: str
    licence: str
    extra: str | None
    settings: tuple[str, ...] = ()
    weights_hint: Parts
    pull: Command | None = None
    prompted: bool = False
    max_depth: int | None = None
    folder: Path | None = None
    url: str | None = None
    from_hub: bool = False
    find: Callable[[DepthSpec], Path | None] | None = None
    load: LoadDepth | None

    @property
    def way_out(self) -> Parts:
        """What the user does where the weights are missing; ends an error line."""
        once_for_all = () if self.pull is None else (", or once and for all run ", self.pull)
        return (*self.weights_hint, *once_for_all)


class DepthBackend(ABC):
    """A network that estimates depth from one photo.

    Attributes:
        spec: what it is and gives.
        files: that its weights and settings were read from.
        precision: what it computes in; None where it does not say.
    """

    spec: DepthSpec
    files: Sequence[Path] = ()
    precision: NetworkPrecision | None = None

    @abstractmethod
    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        max_side: int,
        prompts: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Estimate one map an image. What an image gives does not depend on the others in the call.

        Args:
            images: (h, w, 3) uint8 RGB each, of any sizes.
            max_side: bound on the longer side of the maps, pixels.
            prompts: (h, w) float32 each, metres, NaN where nothing was measured, of the same views; given to a network
                that is `prompted` and to no other.

        Returns:
            A float32 map for each image, in the order given: the image's whole field of view, of the size
            that `torch_network.target_size` gives, in the model's own direction and unit (see `spec`). Values are not
            checked: `maps.normalise` takes what is not finite as missing.
        """


def loaded_spec(spec: DepthSpec, path: Path | None, **found: Any) -> DepthSpec:
    """Return what a depth source is after its weights were read.

    Args:
        spec: of the catalogue.
        path: the file or folder that the user gave; None for the catalogue's own weights, as `spec.model` names them.
        found: fields of `DepthSpec` that the weights themselves tell.
    """
    model = {} if path is None else {"model": f"{found.pop('kind', spec.name)} from {path.name}"}
    found.pop("kind", None)
    return replace(spec, **{**model, **found})
