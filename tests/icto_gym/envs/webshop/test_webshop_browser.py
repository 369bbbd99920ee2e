"""The shop in a real browser: one shop, two faces; nothing runs that data says, and nothing stays behind."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import icto_gym
from icto_gym import TrajectoryStore
from icto_gym.envs.webshop import WebShopEnv, chromium, keeper
from icto_gym.envs.webshop.browser import WebShopBrowserEnv
from icto_gym.errors import BackendError, ConfigError, DependencyNotInstalled

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
needs_chromium = pytest.mark.skipif(bool(MISSING) and os.environ.get("CI") != "true", reason=f"needs {MISSING}")
needs_screen = pytest.mark.skipif(
    bool(MISSING) or (shutil.which("Xvfb") is None and os.environ.get("CI") != "true"), reason="needs Xvfb"
)

HOSTILE = (
    "<script>document.title='HACKED'</script>",
    '"><img src=x onerror="document.title=\'HACKED\'">',
    "'><svg onload=document.title='HACKED'>",
    "</h2></main><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
    "<style>*{display:none}</style><form action=//evil.example><input name=exact>",
    "{{ 7*7 }}{% raw %} &lt;b&gt; &amp;amp; --><!--",
    "tab\there\rreturn \u2028 \x01 \u00a0 \U0001f6d2 javascript:document.title='HACKED'",
)


@pytest.fixture(scope="module")
def hostile_shop(tmp_path_factory):
    """Raw files in which every text tries to break out of a page."""
    folder = tmp_path_factory.mktemp("hostile")
    products, attributes, wishes = [], {}, {}
    for number in range(len(HOSTILE) * 2):
        text, asin = HOSTILE[number % len(HOSTILE)], f"B0HOSTIL{number:02d}"
        options = [
            {"value": f"red {text}", "is_selected": True, "image": None},
            {"value": "blue", "is_selected": False},
        ]
        products.append({
            "asin": asin, "name": f"lamp {text}", "category": "garden", "query": f"lamp {text}".lower(),
            "product_category": f"Home › {text}", "full_description": text, "small_description": [text, f"b {text}"],
            "pricing": "$12.00", "images": [f"x\" onerror=\"document.title='HACKED'\" {text}"], "average_rating": "",
            "customization_options": {f"color {text}": options},
        })  # fmt: skip
        attributes[asin] = {"attributes": ["bright", text], "instruction": "", "instruction_attributes": []}
        wishes[asin] = [{
            "asin": asin, "instruction": f"a lamp {text}", "attributes": ["bright"], "options": ["color: blue"],
            "instruction_attributes": ["bright"], "instruction_options": ["blue"],
        }]  # fmt: skip
    for name, content in (("items_shuffle", products), ("items_ins_v2", attributes), ("items_human_ins", wishes)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {"data": str(folder), "nouns": str.split, "split": None}


@pytest.fixture(scope="module")
def faces():
    """The two faces of the shop, in both modes."""
    made = {
        mode: (WebShopEnv(observation_mode=mode), WebShopBrowserEnv(observation_mode=mode)) for mode in ("text", "html")
    }
    yield made
    for plain, browser in made.values():
        plain.close()
        browser.close()


def gone(numbers):
    """Whether these processes are, after a while, all gone."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if not any(os.path.isdir(f"/proc/{number}") and not _zombie(number) for number in numbers):
            return True
        time.sleep(0.05)
    return False


def _zombie(number):
    try:
        return " Z " in open(f"/proc/{number}/stat").read().rpartition(")")[2][:4]
    except OSError:
        return True


def family(env):
    """Every process below this one that belongs to an environment's browser, renderers included."""
    import psutil

    found = set(env._machine.chromium.processes)
    for number in list(found):
        try:
            found |= {child.pid for child in psutil.Process(number).children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return found | {env._machine.chromium._keeper.pid}


# ---- one shop, two faces ---------------------------------------------------------------------------
ODD = (
    "", "click[]", "search[]", "search[ ]", "Search[x]", "click[search]", "click[no such thing]", "search[line\nbreak]",
    "search[<r>]", "search[<c> garden]", "search[lamp\ud800\x00\r\U0001d11e]", "\ud800", "search[é\ue007 ü]",
    "search[setup.cfg]", "click[< PREV]", "click[a[b]]", "search[  two  blanks ] tail", "x" * 300_000,
)  # fmt: skip


def compare(plain, browser, actions, options, seed):
    """Walk both through one session; actions are functions of the plain environment and its info."""
    first, second = plain.reset(seed=seed, options=options), browser.reset(seed=seed, options=options)
    assert first == second
    for choose in actions:
        action = choose(plain, first[-1])
        first, second = plain.step(action), browser.step(action)
        assert first == second, action[:80]
        if first[2]:
            break


def expert(plain, info):
    return (plain.expert_actions() or ["click[buy now]"])[0]


def drawn(draw):
    return lambda plain, info: draw.choice(list(info["admissible_actions"]))


def odd(text):
    return lambda plain, info: text


@needs_chromium
@pytest.mark.parametrize("mode", ["text", "html"])
def test_twenty_six_sessions_are_the_same_in_both(faces, mode):
    plain, browser = faces[mode]
    for number in range(26):
        draw = random.Random(f"{mode} {number}")
        kind = number % 3
        if kind == 0:
            actions = [expert] * 8
        elif kind == 1:
            actions = [drawn(draw)] * 5
        else:
            actions = [drawn(draw), odd(draw.choice(ODD)), drawn(draw), odd(ODD[number % len(ODD)]), drawn(draw)]
        compare(plain, browser, actions, {"split": ("dev", "test")[number % 2], "index": number}, seed=number)


@needs_chromium
def test_odd_actions_are_the_same_in_both(faces):
    plain, browser = faces["html"]
    compare(plain, browser, [odd(text) for text in ODD], {"split": "dev", "index": 1}, seed=5)


FOUND = "return [document.title, document.scripts.length, frames.length, document.forms.length]"


@needs_chromium
def test_a_catalogue_of_hostile_texts_runs_nothing_and_reads_as_it_was_written(hostile_shop, faces):
    for mode in ("text", "html"):
        plain = WebShopEnv(observation_mode=mode, show_attrs=True, **hostile_shop)
        browser = WebShopBrowserEnv(observation_mode=mode, show_attrs=True, **hostile_shop)
        try:
            for number in range(len(HOSTILE)):
                walk = ["search[lamp]", f"click[b0hostil{number:02d}]"]
                if mode == "html":
                    walk = [f"search[{HOSTILE[number]}]", *walk, "click[blue]", "click[features]", "click[< prev]"]
                    walk += ["click[attributes]", "click[< prev]", "click[buy now]"]
                assert plain.reset(options={"index": number}) == browser.reset(options={"index": number})
                for action in walk:
                    assert plain.step(action) == browser.step(action), action
                    found = browser._machine.chromium._driver.execute_script(FOUND)
                    assert found[:3] == ["WebShop", 0, 0] and found[3] <= 2, action
        finally:
            browser.close()


@needs_chromium
def test_check_env_is_clean():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different render modes.*")
        env = gym.make("icto/WebShopBrowser-v0").unwrapped
        try:
            check_env(env, skip_render_check=True)
        finally:
            env.close()
            env.close()


@needs_chromium
def test_snapshots_pickles_and_the_step_limit_are_those_of_the_text_environment(faces):
    plain, browser = faces["text"]
    for env in (plain, browser):
        env.reset(seed=4)
        env.step("search[lamp]")
    state = browser.snapshot()
    after = browser.step("click[next >]")
    assert browser.restore(state)[0] == plain.step("nothing")[0]
    assert browser.step("click[next >]") == after
    twin = pickle.loads(pickle.dumps(browser))
    assert twin._machine is None and twin.step("x")[4]["error"]
    limited = gym.make("icto/WebShopBrowser-v0", max_episode_steps=2)
    assert limited.spec.id == "icto/WebShopBrowser-v0"
    assert icto_gym.tasks("icto/WebShopBrowser-v0", "dev").digest == icto_gym.tasks("icto/WebShop-v0", "dev").digest


@needs_chromium
def test_screenshots_show_the_page_whatever_proxy_the_environment_names(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    env = gym.make("icto/WebShopBrowser-v0", render_mode="rgb_array", width=640, height=480)
    try:
        env.reset(seed=1)
        start = env.render()
        env.step("search[lamp]")
        results = env.render()
        assert start.shape == results.shape == (480, 640, 3) and start.dtype == np.uint8
        assert len(np.unique(start.reshape(-1, 3), axis=0)) > 20 and (start != results).any()
    finally:
        env.close()


@needs_screen
def test_a_window_is_shown_where_there_is_a_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfigError, match="DISPLAY is not set"):
        WebShopBrowserEnv(render_mode="human")
    read, write = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24"], pass_fds=[write], stderr=subprocess.DEVNULL
    )
    try:
        monkeypatch.setenv("DISPLAY", f":{os.read(read, 10).decode().strip()}")
        env = WebShopBrowserEnv(render_mode="human")
        try:
            env.reset(seed=1)
            agent = env._machine.chromium._driver.execute_script("return navigator.userAgent")
            assert "Headless" not in agent and env.step("search[lamp]")[4]["valid_action"]
            assert env.render() is None
        finally:
            env.close()
    finally:
        screen.kill()
        screen.wait()


# ---- what breaks -------------------------------------------------------------------------------------
@needs_chromium
@pytest.mark.parametrize("victim", ["browser", "driver"])
def test_a_browser_killed_within_an_episode_ends_it_and_the_next_reset_works(victim):
    env = WebShopBrowserEnv()
    try:
        observation, _ = env.reset(seed=2)
        before = family(env)
        machine = env._machine
        driver = machine.chromium._service.process.pid
        for number in machine.chromium.processes:
            if (number == driver) == (victim == "driver"):
                os.kill(number, signal.SIGKILL)
        again, reward, terminated, truncated, info = env.step("search[lamp]")
        assert (again, reward, terminated, truncated) == (observation, 0.0, True, False)
        assert "browser broke" in info["error"] and not info["success"]
        assert gone(before) and not os.path.exists(machine.chromium._folder)
        assert env.reset(seed=2)[0] == observation and env.step("search[lamp]")[4]["error"] is None
        os.kill(env._machine.chromium._service.process.pid, signal.SIGKILL)  # between two episodes
        assert env.reset(seed=2)[0] == observation
        last = family(env)
    finally:
        env.close()
    assert gone(last)


PLAYER = """
import time
from icto_gym.envs.webshop.browser import WebShopBrowserEnv
env = WebShopBrowserEnv()
env.reset(seed=1)
print(env._machine.chromium._folder, flush=True)
time.sleep(600)
"""


@needs_chromium
def test_python_killed_leaves_no_browser_no_driver_and_no_profile():
    player = subprocess.Popen([sys.executable, "-c", PLAYER], stdout=subprocess.PIPE, text=True)
    folder = player.stdout.readline().strip()
    import psutil

    started = [child.pid for child in psutil.Process(player.pid).children(recursive=True)]
    started += keeper.processes(folder)
    assert len(started) > 4
    player.kill()
    player.wait()
    assert gone(started) and not keeper.processes(folder)
    end = time.monotonic() + 10
    while os.path.exists(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(folder)


def test_missing_programs_and_packages_say_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DependencyNotInstalled, match="apt-get install chromium chromium-driver"):
        chromium.find_program(None, chromium.BROWSERS, "browser")
    with pytest.raises(DependencyNotInstalled, match=r"No driver was found .*apt-get install"):
        chromium.find_program(None, chromium.DRIVERS, "driver")
    with pytest.raises(ConfigError, match="browser='/no/such'"):
        chromium.find_program("/no/such", chromium.BROWSERS, "browser")
    with pytest.raises(DependencyNotInstalled, match="apt-get install chromium"):
        gym.make("icto/WebShopBrowser-v0")
    monkeypatch.setitem(sys.modules, "selenium", None)
    with pytest.raises(DependencyNotInstalled, match=r"icto-gym\[browser\]"):
        WebShopBrowserEnv()


@needs_chromium
def test_a_browser_that_does_not_start_says_why_and_leaves_nothing(tmp_path):
    env = WebShopBrowserEnv(browser=shutil.which("false"))
    before = set(os.listdir(chromium.tempfile.gettempdir()))
    with pytest.raises(BackendError, match="did not start"):
        env.reset(seed=1)
    after = set(os.listdir(chromium.tempfile.gettempdir())) - before
    assert not [name for name in after if name.startswith("icto-webshop-")]


@pytest.mark.parametrize("arguments, message", [
    ({"observation_mode": "text_rich"}, "Unknown observation mode 'text_rich'"), ({"width": 0}, "width is 0"),
    ({"height": 1e9}, "height is 1000000000.0"), ({"render_mode": "rgb_arry"}, "Did you mean 'rgb_array'"),
])  # fmt: skip
@needs_chromium
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        WebShopBrowserEnv(**arguments)


# ---- by hand -----------------------------------------------------------------------------------------
@needs_chromium
def test_a_session_by_hand_becomes_a_demonstration_to_train_on(tmp_path, capsys):
    from icto_gym.envs.webshop.site.app import Site
    from icto_gym.envs.webshop.site.serve import ServeConfig, SiteThread, Till
    from icto_gym.envs.webshop.site.visits import Visits
    from trainers.cli.main import main

    record = tmp_path / "by-hand.jsonl"
    server = SiteThread(Site(Visits(), Till(ServeConfig(record=record))))
    person = chromium.Chromium(shutil.which("chromium"), shutil.which("chromedriver"), (390, 844))
    guide = WebShopEnv()
    try:
        person.open(server.address)
        page = person._driver
        page.find_element("name", "index").send_keys("7")
        page.find_element("css selector", "button").click()
        person.await_step(0)
        guide.reset(options={"split": "train", "index": 7})
        for number, action in enumerate(guide.expert_actions(), start=1):
            page.find_element("name", "thought").send_keys(f"Reason {number}.")
            text = action.partition("[")[2][:-1]
            if action.startswith("search"):
                person.search(text)
            else:
                buttons = page.find_elements("css selector", "#shop button[name=action]")
                next(b for b in buttons if b.get_attribute("value").lower() == f"click[{text}]".lower()).click()
            person.await_step(number)
            guide.step(action)
        assert "Exactly what was wanted" in page.find_element("css selector", ".result").text
    finally:
        person.close()
        server.stop()
    [trajectory] = TrajectoryStore(record)
    assert trajectory.success and trajectory.score == 1.0 and trajectory.policy == "person"
    assert [step.thought for step in trajectory.steps][:2] == ["Reason 1.", "Reason 2."]
    words = ["train", "sft", str(record), "--model.name", "tiny-random", "--model.lora.r", "4", "--epochs", "1"]
    assert main([*words, "--out", str(tmp_path / "sft")]) == 0
    assert json.loads(capsys.readouterr().out)["trajectories"] == 1
