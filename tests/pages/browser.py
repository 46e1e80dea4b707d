"""A headless Chromium driven over W3C WebDriver by chromedriver, with no library between: JSON over HTTP."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
START_TIMEOUT_S = 30.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
KEYS = {"Enter": "\ue007", "Tab": "\ue004", "Escape": "\ue00c"}


class Browser:
    """One browser with one page."""

    def __init__(self) -> None:
        assert CHROMIUM
        assert DRIVER
        self._profile = tempfile.TemporaryDirectory(prefix="explorer-browser-", ignore_cleanup_errors=True)
        log = Path(self._profile.name) / "driver.log"
        self._log = log.open("w")
        self._process = subprocess.Popen([DRIVER, "--port=0"], stdout=self._log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_TIMEOUT_S
        found = None
        while found is None and time.monotonic() < deadline:
            time.sleep(0.05)
            found = re.search(r"started successfully on port (\d+)", log.read_text())
        assert found, "chromedriver did not start"
        self._base = f"http://127.0.0.1:{found[1]}"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={self._profile.name}/profile"]}
        made = self._call(
            "POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        )
        assert isinstance(made, dict)
        self._session = f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._base + path, data, {"content-type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()[:600]) from error

    def cdp(self, command: str, **params: object) -> object:
        """One DevTools command."""
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": params})

    def look(self, width: int, height: int = 900, *, dark: bool = False, scripts: bool = True) -> None:
        """How the next page is seen."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.cdp("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, url: str) -> None:
        """Go to an address and wait until it is loaded."""
        self._call("POST", f"{self._session}/url", {"url": url})

    def js(self, code: str) -> object:
        """The value of a script's return statement."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": code, "args": []})

    def keys(self, *keys: str) -> None:
        """Press keys, one after the other."""
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        self._call("POST", f"{self._session}/actions", body)

    def drag(self, left: float, right: float, y: float) -> None:
        """Press at one place, move to another of the same height, let go."""
        self.cdp("Input.dispatchMouseEvent", type="mousePressed", x=left, y=y, button="left", clickCount=1)
        for part in (1, 2, 3, 4):
            x = left + (right - left) * part / 4
            self.cdp("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.cdp("Input.dispatchMouseEvent", type="mouseReleased", x=right, y=y, button="left", clickCount=1)

    def wait(self, code: str, timeout_s: float = 10.0) -> object:
        """Wait until a script's value is true, and give it."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = self.js(code)
            if value:
                return value
            assert time.monotonic() < deadline, f"never became true: {code}"
            time.sleep(0.1)

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        """A PNG of the page."""
        shot = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        assert isinstance(shot, dict)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self._call("DELETE", self._session)
        finally:
            self._process.terminate()
            self._process.wait(10)
            self._log.close()
            self._profile.cleanup()
