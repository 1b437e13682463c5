"""The members of a base shard: photos, and the maps of depth sensors."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.photos import (
    FACTS,
    decode_sensor_npy,
    decode_sensor_png,
    encode,
    flaws,
    image_member,
    known_focal,
    photo_facts,
    sensor_map,
    upright_photo,
)

NAN = float("nan")


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_image_member() -> None:
    assert image_member(Sample(key="a", members={"json": b"", "webp": b"1", "sensor.png": b"2"})) == ("webp", b"1")
    with pytest.raises(SampleError, match=r"no image, only json, sensor\.png"):
        image_member(Sample(key="a", members={"sensor.png": b"", "json": b""}))
    assert image_member(Sample(key="a", members={"input.jpg": b"1", "seg.png": b"2"})) == ("input.jpg", b"1")
    assert image_member(Sample(key="a", members={"input.jpg": b"1", "png": b"2"})) == ("png", b"2")
    with pytest.raises(SampleError, match=r"several images: image\.jpg, rgb\.png"):
        image_member(Sample(key="a", members={"rgb.png": b"", "image.jpg": b""}))
    with pytest.raises(SampleError, match="several images: jpg, png"):
        image_member(Sample(key="a", members={"png": b"", "jpg": b""}))


def test_a_map_in_metres_is_taken_before_one_in_units():
    members = {"sensor.npy": npy(np.ones((2, 2), np.float32)), "sensor.png": png(np.full((2, 2), 2000, np.uint16))}
    assert sensor_map(Sample(key="a", members=members)).metres.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    del members["sensor.npy"]
    for facts in ({}, {"json": b"{"}, {"json": b'{"depth": {"scale": 0.001}}'}, {FACTS: b"{}"}):
        with pytest.raises(
            SampleError, match="the sample's JSON does not say what a unit of its sensor map stands for"
        ):
            sensor_map(Sample(key="a", members={**members, **facts}))
    facts = {FACTS: json.dumps({"depth": {"scale": 0.001}}).encode()}
    assert sensor_map(Sample(key="a", members={**members, **facts})).metres.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    with pytest.raises(SampleError, match="no sensor map is packed"):
        sensor_map(Sample(key="a", members={"jpg": b""}))


@pytest.mark.parametrize("missing", ["65535", [True], ["x"], [None], [1] * 100])
def test_what_the_facts_say_of_missing_values_must_be_a_few_numbers(missing: object):
    facts = {FACTS: json.dumps({"depth": {"scale": 0.001, "missing": missing}}).encode()}
    members = {
        "jpg": png(np.zeros((20, 20, 3), np.uint8)),
        "sensor.png": png(np.full((2, 2), 2000, np.uint16)),
        **facts,
    }
    with pytest.raises(ShardError, match=r"member a\.cuts3d\.json is damaged: depth: its missing is"):
        photo_facts(Sample(key="a", members=members))
    assert [flaw.extension for flaw in flaws(Sample(key="a", members=members))] == [FACTS]


def test_damaged_facts_are_told():
    with pytest.raises(ShardError, match=r"member a\.cuts3d\.json is damaged: it is not a JSON object"):
        photo_facts(Sample(key="a", members={FACTS: b"[]"}))


class TestSensor:
    def test_png_in_millimetres(self) -> None:
        found = decode_sensor_png(png(np.array([[0, 1500, 2500]], np.uint16)), scale=0.001)
        np.testing.assert_allclose(found.metres, np.float32([[NAN, 1.5, 2.5]]))
        assert found.metres.dtype == np.float32

    def test_the_largest_value_of_the_type_is_missing_unless_it_is_said_what_is(self) -> None:
        data = png(np.array([[0, 1500, 65535, 2500]], np.uint16))
        found = decode_sensor_png(data, scale=0.001)
        np.testing.assert_allclose(found.metres, np.float32([[NAN, 1.5, NAN, 2.5]]))
        assert found.missing == (65535.0,)
        found = decode_sensor_png(data, scale=0.001, missing=[])
        np.testing.assert_allclose(found.metres, np.float32([[NAN, 1.5, 65.535, 2.5]]))
        found = decode_sensor_png(data, scale=0.001, missing=[2500.0])
        np.testing.assert_allclose(found.metres, np.float32([[NAN, 1.5, 65.535, NAN]]))

    def test_png_of_8_bits_is_refused(self) -> None:
        with pytest.raises(SampleError, match="256 levels are too few"):
            decode_sensor_png(png(np.zeros((4, 4), np.uint8)), scale=1.0)

    @pytest.mark.parametrize("scale", [0.0, -1.0, NAN, float("inf")])
    def test_scale_is_a_positive_number(self, scale: float) -> None:
        with pytest.raises(ValueError, match="scale"):
            decode_sensor_png(png(np.ones((4, 4), np.uint16)), scale=scale)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_npy(self, dtype: type) -> None:
        metres = decode_sensor_npy(npy(np.array([[0.0, 1.5], [NAN, np.inf], [-1.0, 2.0]], dtype))).metres
        np.testing.assert_array_equal(metres, np.float32([[NAN, 1.5], [NAN, NAN], [NAN, 2.0]]))
        assert metres.dtype == np.float32

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "not a whole .npy file"),
            (b"\x93NUMPY nonsense", "not a whole .npy file"),
            (npy(np.ones((8, 8)))[:-8], "not a whole .npy file"),
            (npy(np.array([[{"a": 1}]], dtype=object)), "not a whole .npy file"),
            (npy(np.ones((2, 2, 1))), r"shape \(2, 2, 1\)"),
            (npy(np.ones((2, 2), np.uint16)), "uint16, not floats in metres"),
        ],
        ids=["empty", "nonsense", "truncated", "pickle", "three dimensions", "integers"],
    )
    def test_npy_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(SampleError, match=reason) as caught:
            decode_sensor_npy(data)
        assert "\n" not in str(caught.value)


def with_camera(camera: object, *, width: int = 40, **exif: int) -> Sample:
    buffer = io.BytesIO()
    data = Image.Exif()
    if exif:
        data.get_ifd(0x8769)[0xA405] = exif["focal"]
    Image.new("RGB", (width, 30)).save(buffer, "JPEG", exif=data)
    facts = {} if camera is None else {FACTS: json.dumps({"camera": camera}).encode()}
    return Sample(key="a", members={"jpg": buffer.getvalue(), **facts})


@pytest.mark.parametrize(
    ("camera", "reason"),
    [
        ({"fx": 0, "fy": 40}, "its fx is 0"),
        ({"fx": 40}, "camera: it has no fy"),
        ({"fx": "40", "fy": 40}, 'its fx is "40"'),
        ([40, 40], "its camera is"),
        ({"fx": 4.2, "fy": 4.2}, "its camera has a focal length of 0.105 of the photo's longer side"),
    ],
)
def test_an_impossible_camera_is_a_flaw(camera: object, reason: str):
    sample = with_camera(camera)
    (flaw,) = flaws(sample)
    assert flaw.extension == FACTS
    assert reason in flaw.reason
    with pytest.raises(SampleError, match="facts about the photo cannot be read"):
        known_focal(sample, upright_photo(sample))


def test_a_given_camera_goes_before_exif_data():
    for sample, expected in (
        (with_camera({"fx": 40, "fy": 45}, focal=27), Focal(x=1.0, y=1.5, source="intrinsics")),
        (with_camera({"fx": 40, "fy": 45}), Focal(x=1.0, y=1.5, source="intrinsics")),
        (with_camera(None), None),
    ):
        assert flaws(sample) == []
        assert known_focal(sample, upright_photo(sample)) == expected
    found = known_focal(with_camera(None, focal=27), upright_photo(with_camera(None, focal=27)))
    assert found is not None
    assert (found.source, found.longer) == ("exif", pytest.approx(27 / 34.6133, abs=1e-4))


def test_a_camera_is_stored_only_where_it_is_given():
    given = {"extension": "jpg", "id": 1, "source": "a.jpg", "size": (30, 40)}
    assert json.loads(encode(b"", **given)[FACTS]) == {"id": 1, "source": "a.jpg", "width": 40, "height": 30}
    focal = Focal(x=1.0, y=1.5, source="intrinsics")
    assert json.loads(encode(b"", **given, focal=focal)[FACTS])["camera"] == {"fx": 40.0, "fy": 45.0}
