"""The server's page in a real browser: by keyboard, on a phone's width, and with nothing from elsewhere."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import negated_artifact
from flashranker import Reranker
from playwright import sync_api as playwright
from serving import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
# Without these it looks for its maker's servers.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
QUERY = "sort list"
TEXTS = ["river mountain", "python list sort", "<b onclick=alert(1)>open</b> file", "bread and water"]
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("page") / "other"
    return {"tiny": Reranker(tiny_artifact), "other": Reranker(negated_artifact(tiny_artifact, folder))}


def opened(browser: Any, url: str, width: int = 1200) -> tuple[Any, list[str]]:
    """The page, and all that its console says or that it asks another server for."""
    page, told = browser.new_page(viewport={"width": width, "height": 740}), list[str]()
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: request.url.startswith(url) or told.append(request.url))
    page.goto(url)
    return page, told


def order(page: Any, model: str) -> list[str]:
    """The texts of one model's column, from above."""
    column = page.get_by_role("article").filter(has=page.get_by_role("heading", name=model, exact=True))
    return column.locator("li .text").all_text_contents()


def test_passages_typed_in_are_ordered_by_every_model_side_by_side(browser: Any, models: dict[str, Any]) -> None:
    with serving(models) as url:
        page, told = opened(browser, url)
        playwright.expect(page.get_by_role("status")).to_have_text("Ready: tiny, other.")
        page.keyboard.press("Tab")
        page.keyboard.type(QUERY)  # what was there is selected, and so replaced
        page.keyboard.press("Tab")
        page.keyboard.press("Control+A")
        page.keyboard.insert_text("\n\n".join(TEXTS))
        page.keyboard.press("Control+Enter")
        playwright.expect(page.get_by_role("status")).to_have_text("4 passages, 2 models.")
        for name, ranker in models.items():
            hits = ranker.rerank(QUERY, TEXTS)
            assert order(page, name) == [hit.passage for hit in hits]
            column = page.get_by_role("article").nth(list(models).index(name))
            assert column.locator(".score").all_text_contents() == [f"{hit.score:.3f}" for hit in hits]
            moves = [hit.index - place for place, hit in enumerate(hits)]
            marks = [f"▲ {n}" if n > 0 else f"▼ {-n}" if n < 0 else "stays" for n in moves]
            assert column.locator(".move").all_text_contents() == marks
            assert "ms to rank 4 passages" in column.locator(".times").inner_text()
        left, right = (page.get_by_role("article").nth(place).bounding_box() for place in (0, 1))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        # Tab goes on to the button, and Enter presses it.
        page.get_by_label("Passages").fill(TEXTS[0])
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_role("status")).to_have_text("1 passage, 2 models.")
        assert order(page, "tiny") == TEXTS[:1]
        assert told == []
        page.close()


def test_on_a_phone_the_columns_stand_below_each_other(browser: Any, models: dict[str, Any]) -> None:
    with serving(models) as url:
        page, told = opened(browser, url, width=360)
        page.get_by_label("Passages").fill("\n".join([*TEXTS, "w" * 300]))
        page.get_by_role("button", name="Rerank").click()
        playwright.expect(page.get_by_role("status")).to_have_text("5 passages, 2 models.")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        first, second = (page.get_by_role("article").nth(place).bounding_box() for place in (0, 1))
        assert second["y"] >= first["y"] + first["height"]
        assert page.get_by_role("button", name="Rerank").bounding_box()["height"] >= 44
        assert told == []
        page.close()


def test_a_key_is_asked_for_and_errors_are_shown(browser: Any, models: dict[str, Any]) -> None:
    with serving(models, keys=[KEY]) as url:
        page, _ = opened(browser, url)
        status = page.get_by_role("status")
        playwright.expect(status).to_contain_text("no valid API key")
        assert page.evaluate("document.activeElement.id") == "key"
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        playwright.expect(status).to_have_text("5 passages, 2 models.")
        page.get_by_label("Query").fill("list " * 60)
        page.keyboard.press("Enter")
        playwright.expect(status).to_contain_text("the query has 60 tokens")
        page.get_by_label("Passages").fill(" ")
        page.keyboard.press("Control+Enter")
        playwright.expect(status).to_contain_text("There are no passages")
    page.get_by_label("Passages").fill("a")
    page.keyboard.press("Control+Enter")
    playwright.expect(status).to_have_text("The server can't be reached.")
    page.close()
