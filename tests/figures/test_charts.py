from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from cuts3d_cli.figures.charts import histogram_svg, rows_svg


def bars(svg: str) -> list[ElementTree.Element]:
    return [item for item in ElementTree.fromstring(svg).iter("rect") if item.get("class") == "bar"]


def texts(svg: str) -> list[str]:
    return [item.text or "" for item in ElementTree.fromstring(svg).iter("text")]


def test_bars_are_as_high_as_their_counts_and_stand_on_the_axis():
    svg = histogram_svg([4, 0, 2, 1000], ["0", "1", "2", "3", "4"], label="numbers")
    heights = [float(bar.attrib["height"]) for bar in bars(svg)]
    assert heights[0] == heights[2] == 1.5, "bins with little in them stay visible"
    assert heights[1] == 0
    floors = {round(float(bar.attrib["y"]) + float(bar.attrib["height"]), 1) for bar in bars(svg)}
    assert len(floors) == 1
    halves = [float(bar.attrib["height"]) for bar in bars(histogram_svg([4, 2], ["a", "b"], label=""))]
    assert halves[0] == 2 * halves[1]
    assert "0 to 1: 4" in svg
    assert "<title>a: 4</title>" in histogram_svg([4, 2], ["a", "b"], label="")


def test_texts_below_do_not_run_into_each_other():
    ticks = [f"{place}000" for place in range(31)]
    shown = [text for text in texts(histogram_svg([1] * 30, ticks, label="")) if text in ticks]
    assert 5 < len(shown) < 20


def test_a_histogram_without_counts_is_flat():
    assert {bar.attrib["height"] for bar in bars(histogram_svg([0, 0], ["0", "1", "2"], label=""))} == {"0.0"}


def test_strangers_texts_are_no_markup():
    name = "</text><script>\"'&"
    for svg in (histogram_svg([1], [name], label=name), rows_svg([(name, 1.0)], unit=name, label=name)):
        assert "<script" not in svg
        assert ElementTree.fromstring(svg).get("aria-label") == name


def test_rows_have_names_and_values():
    svg = rows_svg([("eigen", 0.25), ("crf", 1.0), ("a very long name of a step", 0.0)], unit="s", label="time")
    widths = [float(bar.attrib["width"]) for bar in bars(svg)]
    assert widths[1] == pytest.approx(4 * widths[0], abs=0.2)
    assert texts(svg)[:2] == ["eigen", "0.25 s"]
    assert "a very long name of a step: 0 s" in svg
    # The names of all steps are shown whole, longer ones are cut.
    whole = "confidence: the maps"
    assert whole in texts(rows_svg([(whole, 1.0)], unit="s", label="time"))
    long = texts(rows_svg([("x" * 60, 1.0)], unit="s", label="time"))[0]
    assert long.endswith("\u2026")
    assert len(long) > 20


@pytest.mark.parametrize(("counts", "ticks"), [([], ["0"]), ([1], []), ([1], ["0", "1", "2"])])
def test_what_does_not_fit_is_refused(counts: list[int], ticks: list[str]):
    with pytest.raises(ValueError, match="ticks for"):
        histogram_svg(counts, ticks, label="")
    with pytest.raises(ValueError, match="no row"):
        rows_svg([], unit="s", label="")
