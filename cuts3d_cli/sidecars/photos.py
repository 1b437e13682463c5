"""A sample of a base shard: the photo, the facts about it, and the map of a depth sensor.

`KEY.jpg`, `.png` or `.webp` is the photo, its bytes untouched. `KEY.cuts3d.json` holds facts, and is missing where
another program made the shard; `KEY.sensor.png` or `KEY.sensor.npy` is the sensor's map. Members of other names, such
as `KEY.json`, are the user's own, and are not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.depth.intrinsics import exif_focal
from cuts3d_cli.depth.missing import find_missing, in_unit
from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import IMAGE_EXTENSIONS, Upright, decode_image, decode_upright
from cuts3d_cli.json_reading import as_object, is_number, parse_json
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.cameras import CAMERA, camera_facts, check_camera, stored_focal
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.sidecars.png import decode_gray16
from cuts3d_cli.sidecars.reading import Flaw, Reading, all_flaws, damaged_record, decoded, first_flaw, read_record
from cuts3d_cli.wording import listed

FACTS = "cuts3d.json"
"""The member with the facts about a photo. Its name is our own: fields of a `KEY.json` mean what its writer likes."""
_FACTS_OF_0_1 = ({"id", "source", "width", "height"}, {"id", "source", "width", "height", "depth"})
"""Fields of `KEY.json` in shards that `pack` of version 0.1 wrote."""
_MOST_MISSING = 32
"""Values of a sensor's map that the facts may name as missing; each is looked for in the whole map."""
SENSOR_MEMBERS = ("sensor.png", "sensor.npy")
MEMBERS = (*IMAGE_EXTENSIONS, FACTS, *SENSOR_MEMBERS)
NO_SENSOR_MAP = "no sensor map is packed with the image"
_CALLED_PHOTO = ("image", "img", "input", "photo", "rgb")
"""What other programs call the photo among several members, as in `KEY.input.jpg`; a plain `KEY.jpg` goes first."""
_PHOTOS = (IMAGE_EXTENSIONS, tuple(f"{name}.{extension}" for name in _CALLED_PHOTO for extension in IMAGE_EXTENSIONS))


@dataclass(frozen=True, kw_only=True)
class SensorFile:
    """The file of a depth sensor's map.

    Attributes:
        data: a 16-bit gray PNG, 0 = no measurement, or a `.npy` of floats, metres.
        kind: which of the two.
        scale: metres a unit of the PNG.
        missing: the values in the file that mean "not measured" besides 0, negative and non-finite ones; None where
            whoever reads it is to follow the automatic rule, see `depth.missing`.
    """

    data: bytes
    kind: Literal["png", "npy"]
    scale: float
    missing: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SensorMap:
    """The map of a depth sensor.

    Attributes:
        metres: (h, w) float32, NaN where nothing was measured. Not always of the photo's size.
        missing: the values in the file that were taken as "not measured" besides 0, negative and non-finite ones.
    """

    metres: NDArray[np.float32]
    missing: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StoredPhoto:
    """A sample of a base shard.

    Attributes:
        image: upright RGB.
        facts: as `photo_facts`.
        sensor: (h, w) float32, metres, NaN where nothing was measured; None where no map is packed. Not always of the
            photo's size.
    """

    image: Image.Image
    facts: Mapping[str, Any]
    sensor: NDArray[np.float32] | None


def encode(
    data: bytes,
    *,
    extension: str,
    id: int,
    source: str,
    size: tuple[int, int],
    sensor: SensorFile | None = None,
    focal: Focal | None = None,
) -> dict[str, bytes]:
    """Return the members of a sample.

    Args:
        data: the file of a photo.
        extension: its ending, one of `images.IMAGE_EXTENSIONS`; "jpeg" is stored as "jpg".
        id: of the photo.
        source: its path from the root of the source.
        size: (height, width) of the upright photo.
        sensor: the map of a depth sensor.
        focal: the focal length, where it was given with the photo; what stands in its EXIF data is read from there.
    """
    facts: dict[str, Any] = {"id": id, "source": source, "width": size[1], "height": size[0]}
    members = {"jpg" if extension == "jpeg" else extension: data}
    if sensor:
        members[f"sensor.{sensor.kind}"] = sensor.data
        facts["depth"] = {"scale": sensor.scale if sensor.kind == "png" else 1.0, "unit": "metre"}
        if sensor.missing is not None:
            facts["depth"]["missing"] = list(sensor.missing)
    if focal:
        facts[CAMERA] = camera_facts(focal, size=size)
    members[FACTS] = json.dumps(facts, sort_keys=True).encode("ascii")
    return members


def decode(sample: Sample) -> StoredPhoto:
    """Read a sample of a base shard, all of it.

    Raises:
        SampleError: the photo is missing, or it or the sensor's map is damaged.
        ShardError: the JSON is damaged, contradicts the photo, or does not say what the sensor's map measures.
    """
    image, facts, sensor = decoded(_read(sample), sample, "photo")
    assert image is not None, "a sample without a flaw has a photo"
    return StoredPhoto(image=image, facts=facts, sensor=sensor)


def flaws(sample: Sample) -> list[Flaw]:
    """Return all that is wrong with a sample of a base shard."""
    return flaws_and_size(sample)[0]


def flaws_and_size(sample: Sample) -> tuple[list[Flaw], tuple[int, int] | None]:
    """Return all that is wrong with a sample of a base shard, and (height, width) of a photo that can be decoded."""
    found, (image, _, _) = all_flaws(_read(sample))
    return found, None if image is None else (image.height, image.width)


def photo(sample: Sample, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decode the photo of a sample, whatever else is in it.

    Args:
        sample: of a base shard.
        max_pixels: a photo with more is refused.

    Returns:
        The photo, upright RGB.

    Raises:
        SampleError: there is none, or it cannot be decoded.
    """
    return upright_photo(sample, max_pixels=max_pixels).image


def upright_photo(sample: Sample, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Upright:
    """Decode the photo of a sample, with what its EXIF data say; otherwise as `photo`."""
    _, data = image_member(sample)
    return decode_upright(data, max_pixels=max_pixels)


def known_focal(sample: Sample, photo: Upright) -> Focal | None:
    """Return the focal length of a photo: as it was given, else as its EXIF data have it; None where neither does.

    Args:
        sample: of a base shard.
        photo: of the sample.

    Raises:
        SampleError: the facts about the photo are damaged, or no lens has such a focal length.
    """
    size = (photo.image.height, photo.image.width)
    flaw, facts = first_flaw(_facts(sample))
    try:
        given = stored_focal(facts or {}, size=size)
    except ValueError as error:
        flaw, given = Flaw(FACTS, f"its camera {error}"), None
    if flaw:
        raise SampleError(f"the facts about the photo cannot be read: {flaw.extension}: {flaw.reason}")
    return given or exif_focal(photo.focal_35mm, size=size)


def photo_pixels(sample: Sample, *, max_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.uint8]:
    """Decode the photo of a sample as (height, width, 3) uint8 RGB; otherwise as `photo`."""
    return np.asarray(photo(sample, max_pixels=max_pixels), dtype=np.uint8)


def photo_facts(sample: Sample) -> Mapping[str, Any]:
    """Return what is known of a photo besides its pixels.

    Returns:
        `source`: its path from the root of the source; in the shard of another program, its name in the tar. Of what
        `pack` wrote, also `id`, `width` and `height` of the upright photo, `depth` if a sensor's map is packed, and
        `camera` if its intrinsics were given.

    Raises:
        ShardError: the facts are damaged; the line names file and member.
    """
    flaw, facts = first_flaw(_facts(sample))
    if flaw:
        raise damaged_record(sample, flaw)
    assert facts is not None, "facts without a flaw are there"
    return facts


def check_facts(sample: Sample) -> None:
    """Make sure that the facts about a photo can be read, for work whose results are of no use without them.

    Raises:
        SampleError: they are damaged.
    """
    flaw, _ = first_flaw(_facts(sample))
    if flaw:
        raise SampleError(f"the facts about the photo cannot be read: {flaw.extension}: {flaw.reason}")


def has_sensor_map(sample: Sample) -> bool:
    """Tell whether the map of a depth sensor was packed with a photo, damaged or not."""
    return any(name in sample.members for name in SENSOR_MEMBERS)


def sensor_map(sample: Sample) -> SensorMap:
    """Read the map of a depth sensor that was packed with a photo.

    Raises:
        SampleError: the sample holds no map, or a damaged one.
    """
    _, facts = first_flaw(_facts(sample))
    facts = facts or {}
    if "sensor.npy" in sample.members:
        return decode_sensor_npy(sample.members["sensor.npy"], missing=_missing(facts))
    if "sensor.png" not in sample.members:
        raise SampleError(NO_SENSOR_MAP)
    return decode_sensor_png(sample.members["sensor.png"], scale=_scale(facts), missing=_missing(facts))


def image_member(sample: Sample) -> tuple[str, bytes]:
    """Find the photo of a sample.

    Args:
        sample: of a base shard.

    Returns:
        Its extension, as in "jpg" or "input.jpg", and the encoded bytes.

    Raises:
        SampleError: the sample has no photo, or several.
    """
    found = _photos_in(sample)
    if not found:
        dotted = sorted(name for name in sample.members if _is_compound_image(name))
        if dotted:
            raise SampleError(
                f"the sample has no image, only {listed(dotted)}: WebDataset ends a key at its first dot, so rename"
                f" files such as {sample.key}.{dotted[0]}"
            )
        only = [name or "a file without an extension" for name in sorted(sample.members)]
        raise SampleError(f"the sample has no image, only {listed(only)}")
    if len(found) > 1:
        raise SampleError(f"the sample has several images: {', '.join(found)}")
    return found[0], sample.members[found[0]]


def decode_sensor_png(data: bytes, *, scale: float, missing: Sequence[float] | None = None) -> SensorMap:
    """Read a depth sensor's 16-bit PNG.

    Args:
        data: the file.
        scale: metres a unit: 0.001 where the file holds millimetres, 0.0002 for 5000 units a metre.
        missing: the units that mean "not measured", besides 0; None follows the automatic rule, see `depth.missing`.

    Raises:
        SampleError: this is not a whole PNG of one channel of 16 bits.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number of metres a unit, not {scale}")
    return _in_metres(decode_gray16(data), scale=scale, missing=missing)


def decode_sensor_npy(data: bytes, *, missing: Sequence[float] | None = None) -> SensorMap:
    """Read a depth sensor's map from a NumPy file of floats.

    Args:
        data: the bytes of a `.npy` file with an (h, w) array of float16, float32 or float64, metres.
        missing: the values that mean "not measured", besides 0, negative and non-finite ones; None follows the
            automatic rule, see `depth.missing`.

    Raises:
        SampleError: this is no such file. Pickled objects are never read.
    """
    try:
        array = decode_npy(data)
    except ValueError as error:
        raise SampleError(f"the depth map is not a whole .npy file of numbers: {error}") from error
    if array.ndim != 2 or array.size == 0:
        raise SampleError(f"the depth map has shape {array.shape}, not (height, width)")
    if array.dtype.kind != "f":
        raise SampleError(f"the depth map holds {array.dtype}, not floats in metres: store integers as a 16-bit PNG")
    return _in_metres(array, scale=1.0, missing=missing)


def _in_metres(values: NDArray[Any], *, scale: float, missing: Sequence[float] | None) -> SensorMap:
    found = find_missing(values, invalid=missing)
    return SensorMap(metres=in_unit(values, found, scale=scale), missing=found.values)


def _read(sample: Sample) -> Reading[tuple[Image.Image | None, Mapping[str, Any], NDArray[np.float32] | None]]:
    # The photo.
    image = yield from _image(sample)
    # The facts, which must not contradict it.
    facts = yield from _facts(sample)
    if facts and image and "width" in facts and (facts["width"], facts.get("height")) != image.size:
        said = f"{facts['width']}x{facts.get('height')}"
        yield Flaw(FACTS, f"it says {said}, the photo is {image.width}x{image.height}")
    if facts and image:
        try:
            stored_focal(facts, size=(image.height, image.width))
        except ValueError as error:
            yield Flaw(FACTS, f"its camera {error}")
    # The sensor's map; where there are two, the one in metres is read.
    sensor, missing = None, _missing(facts or {})
    if "sensor.png" in sample.members:
        scale = 1.0
        if facts is not None:
            try:
                scale = _scale(facts)
            except SampleError as error:
                yield Flaw(FACTS, str(error))
        try:
            sensor = decode_sensor_png(sample.members["sensor.png"], scale=scale, missing=missing).metres
        except SampleError as error:
            yield Flaw("sensor.png", str(error))
    if "sensor.npy" in sample.members:
        try:
            sensor = decode_sensor_npy(sample.members["sensor.npy"], missing=missing).metres
        except SampleError as error:
            yield Flaw("sensor.npy", str(error))
    return image, facts or {}, sensor


def _image(sample: Sample) -> Reading[Image.Image | None]:
    extension = None
    try:
        extension, data = image_member(sample)
        return decode_image(data)
    except SampleError as error:
        yield Flaw(extension, str(error))
        return None


def _facts(sample: Sample) -> Reading[Mapping[str, Any] | None]:
    """Read the JSON. Returns None if it is damaged."""
    own = (yield from read_record(sample, FACTS, _checked_facts)) if FACTS in sample.members else _facts_of_0_1(sample)
    return None if own is None else {"source": _name_in_tar(sample)} | dict(own)


def _checked_facts(fields: Record) -> Mapping[str, Any]:
    """Return the facts. Users may leave out any that they do not know."""
    if fields.has("id"):
        fields.whole("id")
    if fields.has("source"):
        fields.text("source")
    if fields.has("width") or fields.has("height"):
        fields.size()
    if fields.has("depth"):
        depth = fields.object("depth")
        if depth.number("scale") <= 0:
            depth.fail("scale")
        if depth.has("missing") and len(depth.list_of("missing", is_number)) > _MOST_MISSING:
            depth.fail("missing")
    check_camera(fields)
    return fields.values


def _facts_of_0_1(sample: Sample) -> Mapping[str, Any]:
    """Return the facts from a `KEY.json` that has exactly the fields that version 0.1 wrote; nothing from any other."""
    try:
        fields = Record(as_object(parse_json(sample.members["json"])))
        is_own = fields.values.keys() in _FACTS_OF_0_1 and _extension(fields.text("source")) in IMAGE_EXTENSIONS
        return _checked_facts(fields) if is_own else {}
    except (KeyError, ValueError):
        return {}


def _name_in_tar(sample: Sample) -> str:
    """Return the name of a photo in its tar, with the ending as it stands there; the key where there is no photo."""
    found = _photos_in(sample)
    return sample.names.get(found[0], f"{sample.key}.{found[0]}") if found else sample.key


def _photos_in(sample: Sample) -> list[str]:
    """Return the members that may be the photo of a sample."""
    found = ([extension for extension in extensions if extension in sample.members] for extensions in _PHOTOS)
    return next(filter(None, found), [])


def _is_compound_image(extension: str) -> bool:
    return _extension(extension) in IMAGE_EXTENSIONS and extension not in MEMBERS


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _scale(facts: Mapping[str, Any]) -> float:
    """Return metres a unit of the sensor's PNG."""
    depth = facts.get("depth")
    scale = depth.get("scale") if isinstance(depth, dict) else None
    if not is_number(scale) or scale <= 0:
        raise SampleError("the sample's JSON does not say what a unit of its sensor map stands for")
    return float(scale)


def _missing(facts: Mapping[str, Any]) -> list[float] | None:
    """Return the values of the sensor's map that mean "not measured"; None where the facts do not name them."""
    depth = facts.get("depth")
    values = depth.get("missing") if isinstance(depth, dict) else None
    return None if values is None else [float(value) for value in values]
