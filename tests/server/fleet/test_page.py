"""The dashboard of several models, in a real browser, over a fake fleet."""

from typing import TYPE_CHECKING

from tests.patience import PATIENCE_S
from tests.server.fleet.fake_fleet import FleetUnderTest
from tests.server.live import in_thread, listening_app
from tests.server.ui.test_browser import CHROMIUM, Watched, pytestmark

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ("pytestmark",)  # it needs a browser


def test_models_are_shown_loaded_and_chosen() -> None:
    from playwright.sync_api import sync_playwright  # not above: it takes a second to load

    served = FleetUnderTest()
    with in_thread(listening_app(served.app)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page: Page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        watched = Watched(page)
        watched.open(url)
        watched.has("chat, coder, embedder", "h1")
        rows = page.locator("#models tbody tr")
        assert rows.count() == 3
        assert "GPU1 4.00 GiB, host 2.00 GiB" in rows.nth(1).inner_text()
        rows.nth(1).get_by_role("button", name="unload coder").click()
        watched.has("unloaded", "[data-model=coder]")
        rows.nth(1).get_by_role("button", name="load coder").click()
        watched.has("resident", "[data-model=coder]")
        assert served.fleet.orders == [("unload", "coder"), ("load", "coder")]
        assert page.locator("#what-if").count() == 0
        page.locator("#chat select").select_option("coder")
        page.get_by_role("textbox", name="Message").fill("hi")
        page.keyboard.press("Enter")
        watched.has("I am coder", ".message.assistant")
        watched.check_quiet()
        browser.close()
