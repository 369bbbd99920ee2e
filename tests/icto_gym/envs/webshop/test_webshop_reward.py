"""Purchases: recorded rewards with every part, and the functions below them."""

import json

import pytest
from packages import installed

from icto_gym.envs.webshop.fuzzy import token_set_ratio
from icto_gym.envs.webshop.nouns import TitleNouns
from icto_gym.envs.webshop.reward import COLORS, normalize_color, purchase_reward
from icto_gym.errors import DependencyNotInstalled

pytestmark = pytest.mark.webshop

PARTS = ("r_type", "r_att", "r_option", "r_price", "query_match", "category_match", "title_score")


@pytest.fixture(scope="module")
def recorded(webshop_recordings):
    return json.loads((webshop_recordings / "reward.json").read_text())


@pytest.fixture(scope="module")
def functions(webshop_recordings):
    return json.loads((webshop_recordings / "functions.json").read_text())


def test_every_recorded_purchase_pays_the_same(recorded):
    nouns = {entry["title"]: entry["nouns"] for entry in recorded["nouns"]}
    for case in recorded["cases"]:
        reward = purchase_reward(case["product"], case["goal"], case["price"], case["options"], nouns=nouns.__getitem__)
        if "error" in case:
            assert 0 <= reward.total <= 1, case["tag"]
            continue
        assert reward.total == case["result"]["reward"], case["tag"]
        for part in PARTS:
            assert getattr(reward, part) == case["result"].get(part), (case["tag"], part)


def test_colours_reduce_as_recorded(functions):
    assert list(COLORS) == functions["color_set"]
    assert [normalize_color(case["in"]) for case in functions["normalize_color"]] == [
        case["out"] for case in functions["normalize_color"]
    ]


def test_similarity_scores_are_the_recorded_ones(functions):
    for case in functions["token_set_ratio"]:
        assert token_set_ratio(case["a"], case["b"]) == case["score"], case
    for case in functions["token_set_ratio_tuple"]:
        assert token_set_ratio(case["a"], tuple(case["b_tuple"])) == case["score"], case


def test_the_tagger_finds_the_recorded_nouns_and_remembers_them(recorded, tmp_path, monkeypatch):
    installed("spacy", extra="webshop")
    path = str(tmp_path / "nouns.sqlite")
    nouns = TitleNouns(path)
    assert [list(nouns(entry["title"])) for entry in recorded["nouns"]] == [
        entry["nouns"] for entry in recorded["nouns"]
    ]
    monkeypatch.setattr("icto_gym.envs.webshop.nouns._tagger", lambda: pytest.fail("tagged twice"))
    again = TitleNouns(path)
    assert [list(again(entry["title"])) for entry in recorded["nouns"]] == [
        entry["nouns"] for entry in recorded["nouns"]
    ]


def test_without_the_tagger_the_error_names_the_command(tmp_path, monkeypatch):
    from icto_gym.envs.webshop import nouns as module

    module._tagger.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'icto-gym\[webshop\]'"):
        TitleNouns(str(tmp_path / "n.sqlite"))("Oak Desk")
    module._tagger.cache_clear()


def test_an_unwritable_cache_costs_nothing_but_time(tmp_path, monkeypatch):
    monkeypatch.setattr("icto_gym.envs.webshop.nouns._tagger", lambda: lambda title: [])
    assert TitleNouns(str(tmp_path / "no" / "such" / "folder.sqlite"))("Oak Desk \ud800") == ()
