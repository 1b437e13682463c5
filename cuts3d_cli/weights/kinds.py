"""What a weight file is, by how it begins. Its name says nothing: people rename files, and downloads go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.json_reading import JsonError, read_json
from cuts3d_cli.lookalikes import HEAD_BYTES, lookalike
from cuts3d_cli.wording import cause

Kind = Literal["safetensors", "torch zip", "pickle"]
"""`torch zip`: what `torch.save` writes since torch 1.6. `pickle`: what it wrote before, or `pickle.dump` writes."""

OF_FOLDERS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights in a folder that `save_pretrained` wrote, the first that is there."""
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"  # begins pickles of protocol 2 and above
_TAR_MAGIC = slice(257, 262)
_IN_PLACE_OF_WEIGHTS = (
    (b"{", "it is JSON, not weights", "give the file or folder of the weights that it describes"),
    (b"\x89hdf", "it is HDF5, as Keras writes", "give weights of torch"),
)
"""How files begin, in lower case, that are taken for weights; what they are, and the way out."""
_UNKNOWN = ("it is of an unknown kind, or damaged", "weights are safetensors, or what torch.save or pickle.dump writes")


def weights_file(path: Path) -> Path:
    """Return the file of weights that a path stands for.

    Args:
        path: a file; or a folder as `save_pretrained` of transformers writes it, which holds one.

    Raises:
        WeightsError: there is no such file or folder, or the folder holds no weights, or holds them in several files.
    """
    if not path.exists():
        raise WeightsError(f"the weights file {path} does not exist")
    if not path.is_dir():
        return path
    found = weights_files(path)
    if len(found) > 1:
        raise WeightsError(f"{path} holds its weights in several files: save it again with max_shard_size='50GB'")
    return found[0]


def weights_files(folder: Path) -> list[Path]:
    """Return the files of weights in a folder as `save_pretrained` of transformers writes it.

    Args:
        folder: holds one file, or several and an index that names them.

    Returns:
        The one file, or all that the index names, in order; of one kind.

    Raises:
        WeightsError: there are none, or the index is damaged, names a file that is missing, or one elsewhere.
    """
    found = next((folder / name for name in OF_FOLDERS if (folder / name).is_file()), None)
    if found is not None:
        return [found]
    for name in OF_FOLDERS:
        if (index := folder / f"{name}.index.json").is_file():
            return [folder / part for part in _parts(index, ending=Path(name).suffix)]
    raise WeightsError(f"{folder} is a folder without {' or '.join(OF_FOLDERS)}")


def check_kinds(files: Sequence[Path]) -> None:
    """Check that files of weights are such by their content, where another program reads them.

    Raises:
        WeightsError: one is something else, such as a pointer of Git LFS; the line says what, and what to do.
    """
    for path in files:
        if kind_of(path) is None:
            reason, way_out = what_instead(path)
            raise WeightsError(f"{path} cannot be read: {reason}; {way_out}")


def _parts(index: Path, *, ending: str) -> list[str]:
    """Return the names of the files that an index names, in order, each once."""
    try:
        content = read_json(index)
    except JsonError as error:
        raise WeightsError(f"{index} {error}: fetch it again") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise WeightsError(f"{index} names no files of weights: fetch it again")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        # Files beside it alone, and never those of another kind than the index is for.
        if Path(name).name != name or not name.endswith(ending):
            raise WeightsError(f"{index} names {name!r}, which is no {ending} file beside it: fetch the folder again")
        if not (index.parent / name).is_file():
            raise WeightsError(f"{index.parent / name} is missing, which {index.name} names: fetch it again")
    return names


def kind_of(path: Path) -> Kind | None:
    """Return what a weight file is by its content; None where it is something else, or cannot be opened."""
    try:
        head, size = _head(path), path.stat().st_size
    except OSError:
        return None
    # Safetensors: the length of a header in JSON, little-endian, and the header.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head.startswith(_ZIP):
        return "torch zip"
    return "pickle" if head.startswith(_PICKLE) else None


def safetensors_problem(path: Path) -> str | None:
    """Return why a file is no whole safetensors file, in a few words, or None. Reads its header, not its tensors.

    Args:
        path: of the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return None
    except (SafetensorError, OSError) as error:
        return f"as safetensors: {cause(error)}"


def what_instead(path: Path) -> tuple[str, str]:
    """Return what a file is that holds no weights, as "it is ...", and what to do about it.

    Args:
        path: a file for which `kind_of` is None.
    """
    head = _head(path)
    if other := lookalike(head):
        return f"it is {other.what}", other.way_out
    if head[_TAR_MAGIC] == b"ustar":
        return "it is a tar archive", "unpack it with `tar -xf` and give the file inside"
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = ((reason, way_out) for start, reason, way_out in _IN_PLACE_OF_WEIGHTS if begin.startswith(start))
    return next(found, _UNKNOWN)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
