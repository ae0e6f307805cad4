"""The page in a real browser: quiet, alone, as wide as its window, dark where that is wanted, and on paper."""

from __future__ import annotations

import shutil
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest

import kept
from kept.pages.labels import Box, Place
from reported import EVALUATION, HEALED, three_models, write, write_metrics, write_output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

OVERFLOWS = """() => [...document.querySelectorAll("body *")]
    .filter(e => !e.closest(".scroll") && !e.closest(".unseen") && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.tagName + "." + e.getAttribute("class"))"""

COLOURS = """() => [document.body, document.querySelector("svg text"), document.querySelector(".value")].map(
    e => getComputedStyle(e)).map(s => [s.backgroundColor, s.color, s.fill])"""

CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)|transparent|color/.test(c)) return c; } };
  return Math.min(...[...document.querySelectorAll("h1, p, th, dt, dd, a, pre, .prompt, mark, .value")].map(e => {
    const pair = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => a - b);
    return (pair[1] + 0.05) / (pair[0] + 0.05); }));
}"""
"""The least contrast of any text with what is behind it, by WCAG's formula."""


HIDDEN = """names => {
  const boxes = [...document.querySelectorAll("#forgetting svg text")].filter(e => names.includes(e.textContent))
    .map(e => [e.textContent, e.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return [boxes.length, boxes.flatMap(([name, a], n) => boxes.slice(0, n).filter(([_, b]) => meet(a, b))
    .map(([other]) => name + " on " + other))]; }"""
"""How many of the names are in the picture, and which lie on which."""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section, and with names that are long where there is little room."""
    folder = tmp_path_factory.mktemp("page")
    record = {"source": {"name": "a-name-that-has-no-place-to-break" * 3, "family": "orion"}}
    out = write_output(folder / "out", healed=HEALED, **record)
    evaluation, metrics = write(folder / "eval.json", three_models()), write_metrics(folder / "metrics.jsonl")
    return kept.report(out, evaluations=[evaluation], metrics=metrics).path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine to look at the page with")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright, which drives the browser, is not installed"
    )
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


def open_page(browser: Browser, file: Path, width: int = 1280, scheme: str = "light") -> Page:
    """The page in a window of its own; what goes wrong in it is an error here."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: noise.append(request.url))
    page.goto(file.as_uri())
    assert noise == [file.as_uri()], "it asks for itself, and says nothing"
    return page


def test_a_hostile_name_is_only_read(browser: Browser, tmp_path: Path) -> None:
    """Nothing that a policy would have to stop: the console says nothing."""
    name = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    out = write_output(tmp_path / "out", source={"name": name, "family": "orion"}, healed=HEALED)
    page = open_page(browser, kept.report(out).path)
    assert page.get_by_role("heading", level=1).inner_text() == f"{name} converted to llama, healed"
    page.close()


def test_what_a_page_asks_for_is_detected(browser: Browser, tmp_path: Path) -> None:
    """The negative control: a page that is not alone."""
    file = tmp_path / "page.html"
    file.write_text("<img src='gone.png'>", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"gone\.png"):
        open_page(browser, file)


@pytest.mark.parametrize("width", [1280, 768, 390, 360])
def test_it_is_as_wide_as_its_window(browser: Browser, page_file: Path, width: int) -> None:
    page = open_page(browser, page_file, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OVERFLOWS) == []
    assert page.get_by_role("img").count() == 9
    assert all(box.is_visible() for box in page.get_by_role("img").all())
    page.close()


SCROLLED = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
"""The number of tables that are wider than their box."""


@pytest.mark.parametrize("width", [1280, 390])
def test_every_table_fits(browser: Browser, page_file: Path, width: int) -> None:
    page = open_page(browser, page_file, width)
    assert page.evaluate(SCROLLED) == 0
    assert page.locator(".stacked thead").first.is_visible() == (width > 640), "rows are lists where there is no room"
    page.close()


def test_a_wide_table_scrolls_in_its_own_box(browser: Browser, page_file: Path) -> None:
    """The negative control of what is measured above: tables that do not fit."""
    page = open_page(browser, page_file, 360)
    page.add_style_tag(content="table { min-width: 800px; }")
    assert page.evaluate(SCROLLED) > 0
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


HEADS = """() => [...document.querySelectorAll(".matrix")].flatMap(table => {
  const edges = row => [...row.querySelectorAll(".n")].map(e => e.getBoundingClientRect().right);
  const heads = edges(table.tHead.rows[0]);
  return edges(table.tBodies[0].rows[0]).map((edge, n) => Math.abs(edge - heads[n])); })"""
"""How far each column's name ends from the column, in pixels."""


@pytest.mark.parametrize("width", [1280, 390])
def test_names_stand_above_their_columns(browser: Browser, page_file: Path, width: int) -> None:
    page = open_page(browser, page_file, width)
    assert max(page.evaluate(HEADS)) < 1
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing(browser: Browser, page_file: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = open_page(browser, page_file, width, scheme)
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.locator("h1").evaluate("e => e.remove()")
    missing = axe.Axe().run(page, options={"runOnly": ["page-has-heading-one"]})
    assert missing.violations_count == 1, "the negative control"
    page.close()


def test_dark_is_dark_and_pictures_follow(browser: Browser, page_file: Path) -> None:
    light, dark = (open_page(browser, page_file, scheme=scheme) for scheme in ("light", "dark"))
    (ground, *_), (_, _, letters), (_, words, _) = light.evaluate(COLOURS)
    (dark_ground, *_), (_, _, dark_letters), (_, dark_words, _) = dark.evaluate(COLOURS)
    assert ground == "rgb(251, 250, 247)"
    assert dark_ground == "rgb(25, 24, 22)"
    assert letters == words
    assert dark_letters == dark_words != letters
    for page in (light, dark):
        assert page.evaluate(CONTRAST) >= 4.5
        page.close()


def test_it_prints_light_and_whole(browser: Browser, page_file: Path) -> None:
    page = open_page(browser, page_file, scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(COLOURS)[0][:2] == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    assert page.locator("nav").is_hidden()
    page.set_viewport_size({"width": 680, "height": 960})
    widths = page.evaluate("[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)")
    assert max(widths) <= 1, "paper does not scroll"
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


def test_every_section_can_be_reached_by_name(browser: Browser, page_file: Path) -> None:
    page = open_page(browser, page_file)
    for link in page.get_by_role("navigation").get_by_role("link").all():
        link.click()
        title = page.locator(f"section{link.get_attribute('href')}").get_by_role("heading", level=2)
        assert title.inner_text() == link.inner_text()
    assert page.get_by_role("img").count() == 9
    page.close()


# ------------------------------------------------------------------------------------------------ learned and forgotten

METHODS = {
    "full fine-tuning": (2.06, 4.6),
    "expansion": (0.3, 3.5),
    "LoRA": (0.8, 3.7),
    "prefix": (5.2, 2.1),
    "확장 블록": (0.4, 3.1),
}


def plane_file(folder: Path, places: dict[str, tuple[float, float]]) -> Path:
    """A page with models at these places: forgotten and learned."""
    evaluation = deepcopy(EVALUATION)
    (one,) = evaluation["forgetting"]["methods"]
    methods = []
    for name, values in places.items():
        method = deepcopy({**one, "model": name})
        for side, value in zip(("forgot", "learned"), values, strict=True):
            nats = {"value": value, "error": 0.03 * value}
            method[side]["mean"] = method[side]["domains"][0]["nats"] = {"token": nats, "byte": nats}
        methods.append(method)
    evaluation["forgetting"]["methods"] = methods
    return kept.report(write_output(folder / "out"), evaluations=[write(folder / "eval.json", evaluation)]).path


@pytest.mark.parametrize("width", [1280, 360])
def test_names_of_marks_hide_nothing(browser: Browser, tmp_path: Path, width: int) -> None:
    page = open_page(browser, plane_file(tmp_path, METHODS), width)
    assert page.evaluate(HIDDEN, [*METHODS, "my-orion"]) == [len(METHODS) + 1, []]
    assert page.evaluate(OVERFLOWS) == []
    page.close()


def test_marks_too_near_for_names_have_numbers(browser: Browser, tmp_path: Path) -> None:
    crowd = {f"expansion, {n} blocks": (0.3 + 0.01 * n, 3.5 + 0.02 * n) for n in range(9)}
    page = open_page(browser, plane_file(tmp_path, crowd), 360)
    numbers, hidden = page.evaluate(HIDDEN, [str(n) for n in range(1, 10)])
    assert numbers >= 9, "an axis may have some of them too"
    assert hidden == []
    assert page.locator("#forgetting .legend span").all_inner_texts()[:2] == ["0 my-orion", "1 expansion, 0 blocks"]
    assert page.evaluate(OVERFLOWS) == []
    page.close()


def test_names_that_lie_on_each_other_are_detected(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: places that nobody chose."""
    nowhere = Place(0.0, 0.0, (1, 0), Box(0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr("kept.pages.plane.places", lambda points, *_: [nowhere] * len(points))
    crowd = {f"expansion, {n} blocks": (0.3 + 0.01 * n, 3.5 + 0.02 * n) for n in range(9)}
    page = open_page(browser, plane_file(tmp_path, crowd), 360)
    assert len(page.evaluate(HIDDEN, [*crowd])[1]) > 9
    page.close()
