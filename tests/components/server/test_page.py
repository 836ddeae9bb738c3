"""The page in a browser without a window: somebody types a history and sees what is recommended."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
helper = import_module("server_process")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


class Page:
    """A tab, driven by the DevTools protocol.

    Args:
        socket: A connection to the tab.
    """

    def __init__(self, socket: Any):
        self._socket, self._number = socket, 0

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def type(self, id: str, text: str) -> None:
        """Types into a field and ends with Enter."""
        self.evaluate(f"document.getElementById({id!r}).focus()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)

    def items(self) -> list[str]:
        found: list[str] = self.evaluate("[...document.querySelectorAll('#answer tr')].map((row) => row.cells[1].textContent)")
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("serving") / "toy"
    shutil.copytree(helper.export_toy(tmp_path_factory.mktemp("exported")), folder / "1")
    with helper.ServerThread(folder) as process:
        yield process


@pytest.fixture
def page(server: Any, tmp_path: Path) -> Iterator[Page]:
    from websockets.sync.client import connect

    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
    with open(tmp_path / "chromium.log", "wb") as log:
        browser = subprocess.Popen(
            [*map(str, command), f"--user-data-dir={tmp_path / 'profile'}", server.url + "/"], stderr=log, stdout=log
        )
    try:
        ports = tmp_path / "profile" / "DevToolsActivePort"
        helper.wait_for(lambda: ports.is_file() and len(ports.read_text().splitlines()) == 2)
        base = f"http://127.0.0.1:{ports.read_text().splitlines()[0]}/json"

        def tabs() -> list[Any]:
            with urllib.request.urlopen(base, timeout=10) as reply:
                return [tab for tab in json.load(reply) if tab["type"] == "page" and tab["url"].startswith(server.url)]

        helper.wait_for(lambda: bool(tabs()))
        with connect(tabs()[0]["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        browser.kill()
        browser.wait()


def test_a_history_is_typed_and_items_are_recommended(server: Any, page: Page):
    helper.wait_for(lambda: len(page.items()) == helper.K)
    newcomers = server.post({"inputs": {"item_history": [[""]]}})[1]["outputs"]["item_id"][0]
    assert page.items() == newcomers
    assert "model toy, version 1" in page.evaluate("document.getElementById('about').textContent")
    page.type("item", "item-3")
    page.type("item", "item-4")
    helper.wait_for(lambda: page.items()[:1] == ["item-5"])
    page.type("ban", "item-5")
    expected = server.post({"inputs": {"item_history": [["item-3", "item-4"]], "exclude": [["item-5"]]}})[1]["outputs"]["item_id"][0]
    helper.wait_for(lambda: page.items() == expected)
    # A click on an item of the history takes it out.
    for _ in range(2):
        page.evaluate("document.querySelector('#history button').click()")
    page.evaluate("document.querySelector('#exclude button').click()")
    helper.wait_for(lambda: page.items() == newcomers)
    assert page.evaluate("document.getElementById('error').textContent") == ""


def test_names_of_items_are_text_and_nothing_else(page: Page):
    helper.wait_for(lambda: len(page.items()) == helper.K)
    page.type("item", "<img src=x onerror=document.title='hacked'>")
    helper.wait_for(lambda: page.evaluate("document.querySelectorAll('#history button').length") == 1)
    time.sleep(0.3)
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.title") == "toy · longplay"
