"""Chromium and its driver as one thing that can be started, used and put away; the only file that knows Selenium."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from icto_gym.envs.webshop import keeper
from icto_gym.errors import BackendError, ConfigError, DependencyNotInstalled, require

logger = logging.getLogger(__name__)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DRIVERS = ("chromedriver", "chromium.chromedriver")
WAIT = 30.0
"""Seconds that a page may take."""
_FLAGS = (
    # no background connections, no first-run dialogues, and no way to anywhere but this machine
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--no-first-run",
    "--no-default-browser-check", "--no-proxy-server", "--disable-breakpad", "--metrics-recording-only",
    "--password-store=basic", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--lang=en",
)  # fmt: skip
_READ = """
const read = node => node.nodeType === 3 ? node.data :
  [node.localName, [...node.attributes].map(a => [a.name, a.value]), [...node.childNodes].map(read)];
return read(document.getElementById('shop'));
"""
_CLICK = "return document.querySelectorAll('#shop button[name=action]')[arguments[0]];"
_TYPE = """
const form = document.getElementById('type');
form.elements.exact.value = arguments[0];
form.requestSubmit();
"""
_STEP = "return document.readyState === 'complete' && document.body ? document.body.dataset.step : null;"
_KEY_CODES = ("\ue000", "\uf8ff")
"""What WebDriver takes for keys such as Enter, not for letters."""


def find_program(given: str | None, names: tuple[str, ...], what: str) -> str:
    """The path of a program.

    Raises:
        ConfigError: the path given is no program.
        DependencyNotInstalled: none was found; says what to install.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise ConfigError(f"{what}={given!r} is no program that can be run. Leave it out to look on PATH.")
        return found
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise DependencyNotInstalled(
        f"No {what} was found on PATH (looked for {', '.join(names)}). WebShopBrowser needs Chromium and its driver: "
        f"apt-get install chromium chromium-driver, or give their paths with browser=... and driver=...."
    )


class Chromium:
    """A browser with a profile of its own. Nothing of it outlives `close`, or this process however it ends.

    Args:
        browser, driver: paths of the programs.
        size: width and height of the page, in pixels.
        window: show a window instead of running headless.
        dark: prefer dark colours.

    Raises:
        BackendError: it did not start.
    """

    def __init__(
        self, browser: str, driver: str, size: tuple[int, int], *, window: bool = False, dark: bool = False
    ) -> None:
        selenium = require("selenium.webdriver", extra="browser")
        self._errors = require("selenium.common.exceptions", extra="browser").WebDriverException
        self._owner = os.getpid()
        self._folder = tempfile.mkdtemp(prefix="icto-webshop-")
        # -I -S: a few milliseconds, and nothing of the user's is imported
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, self._folder], stdin=subprocess.PIPE, start_new_session=True
        )
        self._driver: Any = None
        self._service: Any = None
        try:
            options = self._options(selenium, browser, size, window, dark)
            self._service = selenium.ChromeService(
                executable_path=driver,  # given, so that Selenium looks for none and downloads none
                service_args=[f"--log-path={self._folder}/driver.log"],  # also what the keeper knows it by
                popen_kw={"start_new_session": True},  # Ctrl-C is for this process
            )
            self._service.start()
            self._driver = _connect(selenium, self._service.service_url, options)
            self._driver.set_page_load_timeout(WAIT)
            self._driver.set_script_timeout(WAIT)
            width, height = size
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self._driver.execute("executeCdpCommand", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})
        except BaseException as error:
            self.close()
            if not isinstance(error, Exception):  # Ctrl-C
                raise
            raise BackendError(f"Chromium ({browser}, {driver}) did not start: {_first_line(error)}") from error

    def _options(self, selenium: Any, browser: str, size: tuple[int, int], window: bool, dark: bool) -> Any:
        options = selenium.ChromeOptions()
        options.binary_location = browser
        shown = () if window else ("--headless=new",)
        colours = ("--blink-settings=preferredColorScheme=0",) if dark else ()
        profile = (f"--user-data-dir={self._folder}/profile", f"--window-size={size[0]},{size[1] + 140}")
        for flag in (*_FLAGS, *shown, *colours, *profile):
            options.add_argument(flag)
        return options

    # ---- use -------------------------------------------------------------------------------------------
    def open(self, address: str) -> None:
        """Go to a page and wait until it is there."""
        with self._working():
            self._driver.get(address)

    def read(self) -> Any:
        """What stands inside ``#shop`` as the browser has it; see `markup.write_tree`."""
        with self._working():
            return self._driver.execute_script(_READ)

    def click(self, number: int) -> None:
        """Click the ``number``-th action button of the page."""
        with self._working():
            self._driver.execute_script(_CLICK, number).click()

    def search(self, words: str) -> None:
        """Type words into the search bar and press Enter."""
        with self._working():
            bar = self._driver.find_element("id", "search_input")
            bar.send_keys(words + "\ue007")

    def submit(self, exact: str) -> None:
        """Send the page's form for typed actions with an action as a JSON string."""
        with self._working():
            self._driver.execute_script(_TYPE, exact)

    def await_step(self, number: int) -> None:
        """Wait until the page after the ``number``-th action is there.

        Raises:
            BackendError: it did not come in time.
        """
        with self._working():
            end = time.monotonic() + WAIT
            while self._driver.execute_script(_STEP) != str(number):
                if time.monotonic() > end:
                    raise BackendError(f"The page after action {number} did not come within {WAIT:g} s.")
                time.sleep(0.002)

    def screenshot(self) -> np.ndarray:
        """The page as it looks: (height, width, 3), uint8."""
        image = require("PIL.Image", extra="browser")
        with self._working():
            data = self._driver.get_screenshot_as_png()
        return np.asarray(image.open(io.BytesIO(data)).convert("RGB"))

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Whatever breaks in the browser, its driver or on the way to them is a `BackendError`."""
        if self._driver is None:
            raise BackendError("The browser is closed.")
        try:
            yield
        except BackendError:
            raise
        except (self._errors, OSError, *_transport_errors()) as error:
            raise BackendError(f"The browser broke: {_first_line(error)}") from error

    @property
    def processes(self) -> list[int]:
        """Ids of the running processes that name this browser's folder."""
        return keeper.processes(self._folder)

    def close(self) -> None:
        """End browser, driver and keeper, and remove the profile; harmless when called again."""
        if os.getpid() != self._owner or self._keeper.returncode is not None:
            return  # a forked child leaves its parent's browser alone
        self._driver = None
        keeper.clear_away(self._folder)  # quick, and works on a browser that hangs
        if self._service is not None and self._service.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._service.process.wait(5)
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(30)


def _connect(selenium: Any, address: str, options: Any) -> Any:
    """A driver's session. What the environment says of proxies is not for this machine's own addresses."""
    config = require("selenium.webdriver.remote.client_config", extra="browser").ClientConfig
    proxy = require("selenium.webdriver.common.proxy", extra="browser").Proxy(raw={"proxyType": "DIRECT"})
    connection = require("selenium.webdriver.chrome.remote_connection", extra="browser").ChromeRemoteConnection(
        address, client_config=config(address, proxy=proxy, timeout=int(2 * WAIT))
    )
    # without it, a search for words that happen to be a path would upload that file
    no_files = require("selenium.webdriver.remote.file_detector", extra="browser").UselessFileDetector()
    return selenium.Remote(command_executor=connection, options=options, file_detector=no_files)


def typeable(words: str) -> bool:
    """A keyboard can write it: the driver takes some signs for keys, and knows none beyond 16 bits."""
    low, high = _KEY_CODES
    return 0 < len(words) <= 60 and all(
        sign.isprintable() and ord(sign) < 0x10000 and not low <= sign <= high for sign in words
    )


def _transport_errors() -> tuple[type[BaseException], ...]:
    return (require("urllib3.exceptions", extra="browser").HTTPError,)


def _first_line(error: BaseException) -> str:
    lines = str(getattr(error, "msg", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
