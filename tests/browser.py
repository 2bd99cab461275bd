"A browser for tests: Chromium without a window, driven over WebDriver's plain HTTP, so that no package is needed for it."
import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"), shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"    # the key under which WebDriver names an element


class Browser:
    "One window, `width` by `height` CSS pixels; a phone's if `phone`."
    def __init__(self, profile: Path, width: int, height: int, phone: bool = False):
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--window-size={width},{height}",
                     f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
        options: dict[str, Any] = {"binary": CHROMIUM, "args": arguments}
        if phone: options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}}
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = next(found[1] for line in self.driver.stdout if (found := re.search(r"started successfully on port (\d+)", line)))
        self.root = f"http://127.0.0.1:{port}/session"
        try: self.root += "/" + self._ask("POST", "", capabilities={"alwaysMatch": {"goog:chromeOptions": options}})["sessionId"]
        except BaseException: self.close(); raise

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=90) as answer: return json.load(answer)["value"]
        except HTTPError as e: raise AssertionError(json.load(e)["value"]["message"]) from None

    def open(self, path: Path) -> None: self._ask("POST", "/url", url=path.resolve().as_uri())

    def run(self, script: str) -> Any:
        "The value of an expression in JavaScript."
        return self._ask("POST", "/execute/sync", script=f"return {script}", args=[])

    def click(self, css: str) -> None:
        "A real click on the first element of this kind, in its middle, as far as nothing covers it."
        element = self._ask("POST", "/element", using="css selector", value=css)[ELEMENT]
        self._ask("POST", f"/element/{element}/click")

    def press(self, key: str) -> None:
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._ask("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": keys}])

    def screenshot(self, path: Path) -> None: path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        try: self._ask("DELETE", "")
        except (AssertionError, OSError): pass
        self.driver.terminate()
        self.driver.wait(10)
        self.driver.stdout.close()
