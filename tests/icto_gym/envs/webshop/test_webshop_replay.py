"""Recorded play of the original shop, replayed without a difference up to the end of each episode."""

import json
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path

import gymnasium as gym
import pytest

import icto_gym  # noqa: F401  (registers)
from icto_gym.envs.webshop.pages import SEPARATOR, read_back

pytestmark = pytest.mark.webshop

HISTORY = ("num_prev_obs", "num_prev_actions")


class RecordedEngine:
    """The rankings of the original's engine."""

    def __init__(self, folder: Path) -> None:
        queries = json.loads((folder / "search.json").read_text())["queries"]
        self._hits = {query["query"]: [asin for asin, _ in query["hits"]] for query in queries}

    def search(self, query: str, k: int) -> list[str]:
        return self._hits[query][:k]


class PageReader(HTMLParser):
    """Reads a page as the original's agents do: visible text, and what can be clicked."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self._open: list[tuple[str, dict]] = []
        self._clickable: list[tuple[int, str]] = []  # buttons before links before options
        self._search_bar = False
        self._data = ""
        self.feed(html)
        self.close()

    @property
    def available(self) -> dict:
        texts = dict.fromkeys(text for _, text in sorted(self._clickable, key=lambda found: found[0]))
        return {"has_search_bar": self._search_bar, "clickables": list(texts)}

    def handle_starttag(self, tag, attrs):
        self._flush()
        attributes = dict(attrs)
        self._search_bar |= attributes.get("id") == "search_input"
        if attributes.get("type") == "radio":
            self._clickable.append((2, attributes["value"]))
        if tag not in self.VOID:
            self._open.append((tag, attributes))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        self._flush()
        assert self._open.pop()[0] == tag, "elements close in order"

    def handle_data(self, data):
        self._data += data

    def _flush(self):
        """End a run of text; what the original's reader does to it is told in `pages.read_back`."""
        data, self._data = self._data, ""
        tags = [tag for tag, _ in self._open]
        if data and tags and "head" not in tags:
            tag, attributes = self._open[-1]
            classes = attributes.get("class", "").split()
            if "btn" in classes or "product-link" in classes:
                self._clickable.append(("product-link" in classes, data.lower()))
            self.texts += [node.strip() for node in (read_back(data) if tag != "pre" else [data])]


@lru_cache(maxsize=1)
def _recording(folder: Path) -> dict:
    return json.loads((folder / "episodes.json").read_text())


def _shop(folder: Path, server: str, mode: str, **options) -> gym.Env:
    synthetic = server == "synthetic+attributes"
    return gym.make(
        "icto/WebShop-v0", data=str(folder / "catalogue"), observation_mode=mode, catalog_seed=21,
        goals="synthetic" if synthetic else "human", show_attrs=synthetic, max_episode_steps=1000, **options,
    )  # fmt: skip


def _start(env: gym.Env, episode: dict) -> tuple[str, dict]:
    return env.reset(seed=episode["reset"]["random_seed"], options={"index": episode["goal_index"]})


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_every_recorded_session_replays_without_a_difference(webshop_recordings, mode):
    field = {"text": "obs", "text_rich": "rich"}[mode]
    engine = RecordedEngine(webshop_recordings)
    compared = 0
    for episode in _recording(webshop_recordings)["episodes"]:
        if any(name in episode["env"] for name in HISTORY):
            continue  # observations with a history are not part of our interface
        env = _shop(webshop_recordings, episode["server"], mode, search_engine=engine)
        observation, info = _start(env, episode)
        expected, available = episode["start"][field], episode["start"]["available"]
        assert (observation, _available(info)) == (expected, available), episode["name"]
        if episode["reset"]["instruction_text"] is None:
            assert episode["instruction_text"] == f"Instruction: {info['instruction']}"
        for step in episode["steps"]:
            observation, reward, terminated, truncated, info = env.step(step["action"])
            if "error" in step:
                break  # the original broke; ours has answered
            expected = expected if step[field] is None else step[field]
            available = available if step["available"] is None else step["available"]
            where = (episode["name"], step["action"])
            assert (where, observation) == (where, expected)
            assert (where, _available(info)) == (where, available)
            assert (reward, terminated, truncated) == (step["reward"], step["done"], False), where
            compared += 1
            if terminated:
                assert _parts(info["purchase"]) == _recorded_parts(step["verbose_info"]), where
                assert info["raw_score"] == info["score"] == step["reward"]
                break
    assert compared > 480


def _available(info: dict) -> dict:
    return {"has_search_bar": info["has_search_bar"], "clickables": info["clickables"]}


def _parts(purchase: dict) -> dict:
    return {name: value for name, value in purchase.items() if name != "total" and value is not None}


def _recorded_parts(verbose_info: dict) -> dict:
    return {name: value for name, value in verbose_info.items() if not name.startswith("w_")}


def test_the_session_state_follows_the_recorded_one(webshop_recordings):
    engine = RecordedEngine(webshop_recordings)
    for episode in _recording(webshop_recordings)["episodes"]:
        env = _shop(webshop_recordings, episode["server"], "text", search_engine=engine).unwrapped
        _start(env, episode)
        for step in episode["steps"]:
            _, _, terminated, _, _ = env.step(step["action"])
            if "error" in step:
                break
            recorded, state = step["state"], env.snapshot()[2]
            assert state.asin == recorded["asin"]
            assert state.opened == set(recorded["asins"])
            assert dict(state.options) == recorded["options"]
            assert list(state.keywords) == (recorded["keywords"] or [])
            if terminated:
                break


def test_the_html_page_reads_as_the_recorded_text(webshop_recordings):
    engine = RecordedEngine(webshop_recordings)
    for episode in _recording(webshop_recordings)["episodes"]:
        if any(name in episode["env"] for name in HISTORY):
            continue
        env = _shop(webshop_recordings, episode["server"], "html", search_engine=engine)
        observation, _ = _start(env, episode)
        expected, available = episode["start"]["obs"], episode["start"]["available"]
        steps = iter(episode["steps"])
        terminated = False
        while True:
            page = PageReader(observation)
            assert SEPARATOR.join(page.texts) == expected, episode["name"]
            assert page.available == available, episode["name"]
            step = next(steps, None)
            if step is None or "error" in step or terminated:
                break
            observation, _, terminated, _, _ = env.step(step["action"])
            expected = expected if step["obs"] is None else step["obs"]
            available = available if step["available"] is None else step["available"]


def test_prices_and_goals_are_the_recorded_ones_of_every_session(webshop_recordings):
    recording = _recording(webshop_recordings)
    for server, goals in recording["goals_used"].items():
        env = _shop(webshop_recordings, server, "text").unwrapped
        catalog = env.shop.catalog
        assert catalog.prices == recording["product_prices"][server]
        assert len(catalog.goals) == recording["n_goals"][server]
        for index, goal in goals.items():
            assert catalog.goals[int(index)].record() == goal
