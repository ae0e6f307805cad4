"""The documentation as a site: it builds in strict mode, loads nothing from elsewhere, and fits narrow windows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(\S+?)[\">\s]|<link[^>]*\shref=\"?(\S+?)[\">\s]")

OVERFLOWS = """() => [...document.querySelectorAll("article *")].filter(
    e => !e.closest(".md-typeset__scrollwrap, pre, code") && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.tagName)"""


def build(site: Path, source: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Build the site in strict mode: broken links, anchors and references are errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = [page.read_text(encoding="utf-8") for page in site.rglob("*.html")]
    loaded = [next(filter(None, found)) for page in pages for found in LOADED.findall(page)]
    assert len(loaded) > len(pages)
    assert not [url for url in loaded if "//" in url]


def test_sources_are_not_published(site: Path) -> None:
    assert not list(site.rglob("*.py"))


def test_the_api_lists_every_public_name(site: Path) -> None:
    import kept

    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    ids = {name.rpartition(".")[2] for name in re.findall(r'id="?(kept\.[\w.]+)', page)}
    assert ids >= set(kept.__all__)


@pytest.fixture(scope="module")
def window() -> Iterator[Page]:
    """A browser window. It is resized by the tests, because a browser takes seconds to start."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("name", ["tutorial.html", "reference/families.html", "how-to/evaluate.html"])
def test_pages_fit_the_window(site: Path, window: Page, name: str, width: int) -> None:
    window.set_viewport_size({"width": width, "height": 900})
    window.goto((site / name).as_uri())
    assert window.evaluate(OVERFLOWS) == []


def test_wide_content_is_found(window: Page) -> None:
    """The negative control."""
    window.set_viewport_size({"width": 360, "height": 900})
    window.set_content("<article><div style='width: 500px'>wide</div></article>")
    assert window.evaluate(OVERFLOWS) == ["DIV"]


def test_search_works_without_a_server(site: Path, window: Page) -> None:
    window.set_viewport_size({"width": 1280, "height": 900})
    window.goto((site / "index.html").as_uri())
    window.focus("input.md-search__input")  # the index is loaded when the input has the focus
    window.wait_for_function("document.querySelector('.md-search-result__meta').textContent.includes('Type to start')")
    window.locator("input.md-search__input").press_sequentially("affine tail")  # it listens to keys
    window.wait_for_selector(".md-search-result__item")
