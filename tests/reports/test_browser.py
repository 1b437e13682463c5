"""The page of a report in a real browser, opened from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import BrowserMissingError, address, asked_for, open_browser
from cuts3d_cli.reports.page import data_of
from tests.support.found import PARTS, PLAIN, RING, rectangle, score, with_masks
from tests.support.galleries import HOSTILE, reported, write_truth

AWAY = rectangle(20, 20, 30, 30)
PHOTOS = [f"p{number:02d}.jpg" for number in range(70)]


class Page:
    """A page, with the words of its visitor."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, folder: Path, *, at: str = "") -> Page:
        self.browser.get("about:blank")
        self.complaints()  # those of the page before
        self.browser.get(f"{address(folder / 'index.html')}{at}")
        return self

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector
        )
        return found

    def names(self) -> list[str]:
        return self.texts(".card .name")

    def put(self, name: str, value: object) -> Page:
        self.run(
            "const field = document.getElementById('controls').elements[arguments[0]]; field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            str(value),
        )
        return self

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def wait(self, script: str, *arguments: object) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: self.run(script, *arguments))

    def complaints(self) -> list[Any]:
        return list(self.browser.get_log("browser"))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    try:
        with open_browser() as browser:
            yield Page(browser)
    except BrowserMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def plain(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 photos of 0 to 3 masks with scores from 0.1 on; one of them failed."""
    folder = tmp_path_factory.mktemp("plain")
    found: dict[str, Any] = {name: [PLAIN, RING, PARTS][: number % 4] for number, name in enumerate(PHOTOS)}
    found["p05.jpg"] = None
    (base,) = with_masks(folder, found)
    score(base, found, {name: [0.1 + number / 100] * (number % 4) for number, name in enumerate(PHOTOS)})
    reported([base], folder / "out", steps=8)
    return folder / "out"


@pytest.fixture(scope="module")
def compared(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos beside a ground truth: one right, one with a miss and a false mask, one without a ground truth."""
    folder = tmp_path_factory.mktemp("compared")
    (base,) = with_masks(folder, {"a.jpg": [PLAIN], "b.jpg": [PLAIN, AWAY], "c.jpg": [PLAIN]})
    truth = write_truth(folder / "gt.json", {"a.jpg": [PLAIN], "b.jpg": [PLAIN, PARTS]})
    reported([base], folder / "out", ground_truth=truth)
    return folder / "out"


def test_the_first_photos_are_seen_and_the_others_are_a_page_away(page: Page, plain: Path):
    page.open(plain)
    assert page.names() == PHOTOS[:60]
    assert page.texts("#status") == ["70 photos"]
    assert page.texts(".pager .place") == ["page 1 of 2"] * 2
    page.find('.pager [data-go="1"]')[0].click()
    assert page.names() == PHOTOS[60:]
    assert page.find('.pager [data-go="1"]')[0].get_property("disabled")
    page.put("size", 120)
    assert page.names() == PHOTOS
    assert page.complaints() == []


def test_pictures_are_there_and_nothing_is_asked_of_a_network(page: Page, plain: Path):
    asked_for(page.browser)
    page.open(plain)
    page.wait("return [...document.querySelectorAll('.card img')].slice(0, 8).every(image => image.naturalWidth > 0)")
    asked = asked_for(page.browser)
    assert address(plain / "photos.js") in asked
    assert address(plain / "thumbnails/000/000000.jpg") in asked
    assert [name for name in asked if not name.startswith(("file:///", "data:", "about:"))] == []


def test_photos_are_filtered_by_number_score_name_and_reason(page: Page, plain: Path):
    page.open(plain).put("least", 3)
    assert page.names() == [name for number, name in enumerate(PHOTOS) if number % 4 == 3]
    page.put("low", 0.6).put("high", 0.7)
    assert page.names() == ["p51.jpg", "p55.jpg", "p59.jpg"]
    assert page.texts("#status") == ["3 of 70 photos"]
    page.put("name", "P55")
    assert page.names() == ["p55.jpg"]
    page.put("name", "nothing like it")
    assert page.texts("#photos") == ["No photo fits the filters."]
    page.find('#controls [type="reset"]')[0].click()
    page.wait("return document.querySelectorAll('.card').length === 60")
    page.put("reason", "failed in `cuts3d pseudo`: it is broken")
    assert page.names() == ["p05.jpg"]
    assert page.texts(".card .reason") == ["failed in `cuts3d pseudo`: it is broken"]
    page.put("reason", "-")
    assert len(page.names()) == 60
    assert "p05.jpg" not in page.names()


def test_photos_are_sorted_and_what_is_not_known_comes_last(page: Page, plain: Path):
    page.open(plain).put("size", 120).put("sort", "-mean")
    names = page.names()
    with_masks = [name for number, name in enumerate(PHOTOS) if number % 4 and name != "p05.jpg"]
    assert names[: len(with_masks)] == with_masks[::-1]
    page.put("sort", "-count")
    assert page.names()[0] == "p03.jpg"
    page.put("sort", "name")
    assert page.names() == PHOTOS
    page.put("sort", "-reasons")
    assert page.names()[0] == "p05.jpg"


def test_filters_outlive_a_reload(page: Page, plain: Path):
    page.open(plain).put("least", 2).put("sort", "-mean")
    names, hash = page.names(), page.run("return location.hash")
    page.open(plain, at=hash)
    assert page.names() == names
    assert page.find('[name="least"]')[0].get_property("value") == "2"
    page.open(plain, at="#sort=nonsense&page=99&least=x&reset=1")
    assert page.names() == PHOTOS[60:]
    assert page.complaints() == []


def test_a_click_shows_every_step_and_keys_lead_on(page: Page, plain: Path):
    from selenium.webdriver import Keys

    page.open(plain)
    page.find(".card button")[1].click()
    assert page.texts("#photo-name") == ["p01.jpg"]
    page.wait("const image = document.querySelector('#photo .steps'); return image && image.naturalWidth > 600")
    assert "0.110" in page.texts("#photo-body")[0]
    page.press(Keys.ARROW_RIGHT)
    assert page.texts("#photo-name") == ["p02.jpg"]
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.texts("#photo-name") == ["p00.jpg"]
    page.press(Keys.ESCAPE)
    assert not page.find("#photo")[0].get_property("open")
    # The focus is back on the photo, from which Enter opens it again.
    assert page.run("return document.activeElement.dataset.position") == "1"
    page.press(Keys.ENTER)
    assert page.texts("#photo-name") == ["p01.jpg"]
    page.press(Keys.ESCAPE)


def test_a_photo_whose_steps_were_not_drawn_names_the_command(page: Page, plain: Path):
    page.open(plain)
    page.find(".card button")[30].click()
    assert page.texts("#photo-body code") == ["cuts3d viz --shards s-000.tar --key p30"]
    page.find("#photo [data-close]")[0].click()
    assert not page.find("#photo")[0].get_property("open")


def test_the_worst_photo_comes_first_beside_its_ground_truth(page: Page, compared: Path):
    page.open(compared)
    assert page.names() == ["b.jpg", "a.jpg", "c.jpg"]
    assert page.texts(".card .what") == ["1 of 2 objects, 1 false", "1 of 1 object, 0 false", "1 mask"]
    assert [len(card.find_elements("css selector", "img")) for card in page.find(".card")] == [2, 2, 1]
    assert page.texts("#legend")[0].split() == ["true,", "found", "false", "missed", "crowd"]
    for value, names in {"missed": ["b.jpg"], "false": ["b.jpg"], "right": ["a.jpg"], "none": ["c.jpg"]}.items():
        page.put("truth", value)
        assert page.names() == names, value
    page.put("truth", "").put("sort", "-quality")
    assert page.names() == ["a.jpg", "b.jpg", "c.jpg"]
    page.find(".card button")[1].click()
    page.wait("const image = document.querySelector('#photo .steps'); return image && image.naturalWidth > 600")
    assert [row.split() for row in page.texts("#photo-body tbody tr")][-2:] == [
        ["1", "8.3", "%", "true"],
        ["2", "8.3", "%", "false"],
    ]
    page.find("#photo [data-close]")[0].click()


def test_controls_that_say_nothing_here_are_hidden(page: Page, compared: Path, plain: Path):
    hidden = "return [...document.querySelectorAll('[data-needs]')].filter(e => e.hidden).map(e => e.dataset.needs)"
    assert set(page.open(plain).run(hidden)) == {"compared"}
    assert set(page.open(compared).run(hidden)) == {"scored"}
    assert "mean" not in page.run("return [...document.querySelector('[name=sort]').options].map(o => o.value)")


def test_strangers_names_are_shown_as_they_are(page: Page, tmp_path: Path):
    (base,) = with_masks(tmp_path, {name: [PLAIN] for name in HOSTILE})
    reported([base], tmp_path / "out")
    page.open(tmp_path / "out").put("sort", "name")
    assert set(page.names()) == set(HOSTILE)
    for place in range(2):
        page.find(".card button")[place].click()
        assert page.texts("#photo-name")[0] in HOSTILE
        page.find("#photo [data-close]")[0].click()
    assert page.run("return window.hacked") is None
    assert page.complaints() == []


def test_an_unfinished_report_says_so(page: Page, plain: Path, tmp_path: Path):
    for path in plain.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "photos.js").write_bytes(data_of(None))
    page.open(tmp_path)
    assert page.texts("#status") == ["This report is not finished: run the same command again."]


def test_everything_has_a_name_for_those_who_do_not_see(page: Page, compared: Path):
    page.open(compared)
    assert page.run("return [...document.images].filter(image => !image.alt).length") == 0
    unnamed = (
        "return [...document.querySelectorAll('input, select, button, [role=img]')]"
        ".filter(e => !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.innerText).length"
    )
    assert page.run(unnamed) == 0
    assert page.run("return document.documentElement.lang") == "en"


def test_a_narrow_screen_shows_photos_first_and_does_not_scroll_sideways(compared: Path):
    try:
        with open_browser(width=360, height=740) as browser:
            page = Page(browser).open(compared)
            assert page.run("return document.documentElement.scrollWidth") <= 360
            assert not page.find(".figures")[0].get_property("open")
            page.find(".card button")[0].click()
            assert page.run("return document.querySelector('#photo').scrollWidth") <= 360
    except BrowserMissingError as error:
        pytest.skip(str(error))


def test_dark_pages_for_those_who_prefer_them(compared: Path):
    try:
        with open_browser(dark=True) as browser:
            colours = (
                Page(browser)
                .open(compared)
                .run("const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]")
            )
    except BrowserMissingError as error:
        pytest.skip(str(error))
    assert colours == ["rgb(22, 24, 28)", "rgb(236, 238, 241)"]
