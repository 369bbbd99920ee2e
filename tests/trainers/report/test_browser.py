"""The page in a real browser: it loads without an error, filters, opens pairs, obeys keys, and text stays text."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from packages import installed

from icto_gym.files import write_json
from trainers.digests import digest
from trainers.pairing.step import cumulative_contrast
from trainers.records import Likelihoods, write_records
from trainers.report import read_run, write_report
from trainers.report.contrasts import choose_contrasts
from trainers.report.episodes import parting
from trainers.report.likelihoods import likelihood_file

IN_CI = os.environ.get("CI") == "true"
installed("selenium", extra="browser")
MISSING = [program for program in ("chromium", "chromedriver") if not shutil.which(program)]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING) and not IN_CI, reason=f"needs {MISSING}")]
_spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--window-size=1280,900",
)  # fmt: skip
TAKEN = "document.title='taken'"
HOSTILE = f'</script><script>{TAKEN}</script><img src=x onerror="{TAKEN}">\u2028\x00\u202e\ud800'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return runs.make_run(tmp_path_factory.mktemp("runs") / "first", tasks=8, iterations=1)


def visit(browser, page, place=""):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get(f"{page.as_uri()}{place}")
    WebDriverWait(browser, 30).until(lambda seen: all_of(seen, ".viewer.ready"))
    assert browser.get_log("browser") == []


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def words(browser, selector):
    return [item.text for item in all_of(browser, selector)]


def press(browser, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    browser.execute_script(
        "document.activeElement.blur(); document.querySelector('.contrast').scrollIntoView({behavior: 'instant'})"
    )
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def test_it_shows_what_pairing_computes_filters_and_obeys_keys(browser, run_folder, tmp_path):
    from selenium.webdriver.common.keys import Keys

    visit(browser, write_report(run_folder, tmp_path / "report.html"))
    contrasts = choose_contrasts(read_run(run_folder))
    for item in contrasts[:3]:
        leads = cumulative_contrast(item.left_rewards, item.right_rewards)
        shown = [float(text.removeprefix("R ").replace("−", "-")) for text in words(browser, ".lead")]
        assert shown == [round(lead, 2) for lead in leads]
        assert words(browser, ".parting") == [f"here they part: step {parting(item.left, item.right) + 1}"]
        assert words(browser, ".contrast h4") == [item.left.task_id]
        press(browser, Keys.ARROW_RIGHT)
    press(browser, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    heads = words(browser, ".side.head .score")
    press(browser, "x")
    assert words(browser, ".side.head .score") == heads[::-1]
    press(browser, "o")
    assert all(item.get_attribute("open") for item in all_of(browser, ".contrast details"))
    press(browser, "/")
    browser.switch_to.active_element.send_keys("no such task")
    assert words(browser, ".contrast") == ["Nothing fits. Another filter, or another list?"]
    all_of(browser, ".filter")[0].clear()
    all_of(browser, ".filter")[0].send_keys("test/0001")
    assert all("0001" in option.text for option in all_of(browser, ".entries option"))
    browser.execute_script("arguments[0].value = 'all'; arguments[0].dispatchEvent(new Event('change'))",
                           all_of(browser, ".kinds")[0])  # fmt: skip
    assert words(browser, ".count") == ["1 of 24"]
    assert browser.get_log("browser") == []


def test_a_link_opens_the_pair_it_was_copied_from(browser, run_folder, tmp_path):
    from selenium.webdriver.common.keys import Keys

    page = write_report(run_folder, tmp_path / "report.html")
    visit(browser, page)
    press(browser, Keys.ARROW_RIGHT, "x")
    link, shown = browser.execute_script("return location.hash"), words(browser, ".side.head select")
    visit(browser, page, link)
    assert words(browser, ".side.head select") == shown
    visit(browser, page, "#episodes/first/%E0%A4%A/x")  # cut in the middle of a character


def test_probabilities_before_and_after_training_are_shown_where_measured(browser, run_folder, tmp_path):
    run = read_run(run_folder)
    contrast = next(item for item in choose_contrasts(run) if "trained on" in item.group)
    for rater, weights, logp in (("sft", "w0", -2.0), ("iteration-01/dpo", "w1", -1.0)):
        start = {"weights": "w0"} if weights == "w1" else {}
        write_json(run_folder / rater / "checkpoint" / "checkpoint.json", {"weights_digest": weights, "start": start})
        rated = [
            Likelihoods(side.trajectory_id, rater, weights, digest(side.to_json()), logps, logps)
            for side in (contrast.left, contrast.right)
            for logps in [(logp,) * len(side.steps)]
        ]
        write_records(likelihood_file(run_folder, rater), rated)
    ids = "/".join(quote(side.trajectory_id, safe="") for side in (contrast.left, contrast.right))
    visit(browser, write_report(run_folder, tmp_path / "report.html"), f"#episodes/first/{ids}")
    assert "p 14 % → 37 %" in words(browser, ".odds")
    assert "under cloned and under ICTO 1" in all_of(browser, ".odds")[0].get_attribute("title")
    write_records(likelihood_file(run_folder, "sft"), [replace(item, weights="other") for item in rated])
    visit(browser, write_report(run_folder, tmp_path / "report.html"), f"#episodes/first/{ids}")
    assert not all_of(browser, ".odds")  # of other weights: not shown


def test_hostile_text_stays_text(browser, tmp_path):
    folder = runs.make_run(tmp_path / "evil", tasks=2, iterations=1)
    for label in ("sft", "icto-1"):
        played = [
            replace(
                item, instruction=HOSTILE, final_observation=HOSTILE * 9, policy=HOSTILE, score=float(label != "sft"),
                steps=tuple(replace(one, thought=HOSTILE, action=HOSTILE, observation=HOSTILE) for one in item.steps),
            )
            for item in runs.play(label, "test", 2, (1.0, 0.0))
        ]  # fmt: skip
        write_records(folder / "evaluation" / label / "test" / "trajectories.jsonl", played)
    visit(browser, write_report(folder, tmp_path / "report.html"))
    assert browser.title.startswith("evil") and not all_of(browser, "img")
    shown = all_of(browser, ".contrast code")[0].get_attribute("textContent")
    assert shown == HOSTILE.replace("\x00", "\\x00").replace("\ud800", "\\ud800")
    assert len(all_of(browser, "script")) == 2


def test_a_thousand_episodes_fit_a_phone(browser, tmp_path):
    folder = runs.make_run(tmp_path / "large", tasks=125, iterations=1)
    page = write_report(folder, tmp_path / "report.html")
    assert page.stat().st_size < 2_000_000
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    visit(browser, page)
    browser.execute_script("arguments[0].value = 'all'; arguments[0].dispatchEvent(new Event('change'))",
                           all_of(browser, ".kinds")[0])  # fmt: skip
    assert len(all_of(browser, ".entries option")) > 250
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
