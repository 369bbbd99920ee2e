"""The shop as an environment: Gymnasium's promises, any text as an action, tasks and snapshots."""

import json
import pickle
import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import icto_gym
from icto_gym.envs.webshop import WebShopEnv, purchase_reward
from icto_gym.envs.webshop.session import ShopState, parse_action
from icto_gym.errors import ConfigError, InvalidTask
from icto_gym.tasks import shared_tasks

INFO_KEYS = {
    "task_id", "split", "system_prompt", "instruction", "admissible_actions", "expert_action", "expert_thought",
    "valid_action", "score", "raw_score", "success", "error", "has_search_bar", "clickables", "purchase",
}  # fmt: skip


@pytest.fixture(scope="module")
def env():
    return WebShopEnv(observation_mode="text_rich")


def bought(env, seed=3):
    """Play a whole episode: first hit of the instruction, first option, buy."""
    _, info = env.reset(seed=seed)
    _, _, _, _, info = env.step(info["admissible_actions"][0])
    _, _, _, _, info = env.step(f"click[{info['clickables'][2]}]")
    if len(info["clickables"]) > 6:
        env.step(f"click[{info['clickables'][6]}]")
    return env.step("click[Buy Now]")


@pytest.mark.parametrize("mode", ["text", "text_rich", "html"])
def test_check_env_is_clean(mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different render modes.*")
        check_env(gym.make("icto/WebShop-v0", observation_mode=mode).unwrapped)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_vec_plays_whole_episodes(mode):
    envs = gym.make_vec("icto/WebShop-v0", num_envs=2, vectorization_mode=mode)
    try:
        observations, infos = envs.reset(seed=1)
        assert all(text.startswith("WebShop [SEP]") for text in observations)
        first = [str(words[0]) for words in infos["admissible_actions"]]
        _, _, _, _, infos = envs.step(tuple(first))
        codes = [clickables[2] for clickables in infos["clickables"]]
        _, _, _, _, infos = envs.step((f"click[{codes[0]}]", "nonsense"))
        assert list(infos["valid_action"]) == [True, False]
        _, rewards, terminated, _, infos = envs.step(("click[buy now]", "click[back to search]"))
        assert list(terminated) == [True, False]
        assert infos["purchase"]["total"][0] == rewards[0]
    finally:
        envs.close()


def test_info_has_the_same_keys_throughout_and_return_equals_score(env):
    _, info = env.reset(seed=3)
    assert set(info) == INFO_KEYS
    observation, reward, terminated, truncated, info = bought(env)
    assert set(info) == INFO_KEYS
    assert (terminated, truncated, reward) == (True, False, info["score"])
    assert info["purchase"]["total"] == info["raw_score"] == info["score"]
    assert info["clickables"] == info["admissible_actions"] == []
    assert env.step("search[lamp]")[:4] == (observation, 0.0, True, False)


def test_same_task_and_actions_give_the_same_episode(env):
    first, second = bought(env), bought(WebShopEnv(observation_mode="text_rich"))
    assert first == second


def test_every_admissible_action_is_valid(env):
    for seed in range(6):
        _, info = env.reset(seed=seed)
        for _ in range(8):
            actions = list(info["admissible_actions"])
            assert actions
            state = env.snapshot()
            for action in actions:
                assert env.step(action)[4]["valid_action"], action
                env.restore(state)
            _, _, terminated, _, info = env.step(actions[(seed * 7 + 3) % len(actions)])
            if terminated:
                break


def test_the_suggested_search_leaves_out_the_price(env):
    _, info = env.reset(seed=1)
    search = info["admissible_actions"][0]
    assert search.startswith("search[") and "price lower than" not in search
    assert search[7:-1] in info["instruction"]
    assert "click[search]" not in info["admissible_actions"]


ODD_ACTIONS = [
    "", " ", "buy", "click[]", "search[]", "click[search]", "click[nothing]", "Search[x]", "search [x]", "[x]",
    "click[a[b]]", "search[line\nbreak]", "search[<a> x]", "search[<c>]", "click[", "]click[", "think[x]", "\ud800",
    "\x00",
]  # fmt: skip


@pytest.mark.parametrize("action", ODD_ACTIONS)
def test_what_is_not_understood_costs_a_step_and_changes_nothing(env, action):
    observation, _ = env.reset(seed=2)
    assert env.step(action)[:4] == (observation, 0.0, False, False)
    assert env.step(action)[4]["valid_action"] is False


@pytest.mark.parametrize(
    "action",
    [
        "x" * 5_000_000, "[" * 5_000_000, "]" * 5_000_000, "[]" * 2_500_000, f"search[{'x' * 5_000_000}]",
        f"search[{'lamp ' * 1_000_000}]", f"search[{'é ' * 2_500_000}]", f"click[{'<' * 5_000_000}]",
    ],
    ids=lambda action: f"{action[:9]}...",
)  # fmt: skip
def test_five_megabytes_are_a_legal_action(env, action):
    env.reset(seed=2)
    observation, reward, terminated, truncated, _ = env.step(action)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert len(observation) < 10_000


@pytest.mark.parametrize(
    "action", ["search[\ud800 lamp]", "search[\x00]", "search[ ]", "search[<q> ]", "search[%s {}]"]
)
def test_odd_searches_are_searches(env, action):
    env.reset(seed=2)
    observation, _, _, _, info = env.step(action)
    assert info["valid_action"] and "(Total results:" in observation


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(
    st.text(max_size=30),
    st.text(max_size=12).map(lambda text: f"search[{text}]"),
    st.text(max_size=12).map(lambda text: f"click[{text}]"),
    st.integers(0, 60),
    st.sampled_from(["search[<r>]", "search[<c> garden]", "click[< prev]", "click[next >]", "click[back to search]"]),
), max_size=12), st.sampled_from(["text", "text_rich", "html"]))  # fmt: skip
def test_any_sequence_of_actions_is_legal(actions, mode):
    env = WebShopEnv(observation_mode=mode)
    _, info = env.reset(seed=11)
    total = 0.0
    for action in actions:
        admissible = list(info["admissible_actions"])
        if isinstance(action, int):
            action = admissible[action % len(admissible)] if admissible else "x"
        observation, reward, terminated, truncated, info = env.step(action)
        total += reward
        assert isinstance(observation, str) and set(info) == INFO_KEYS and not truncated
        assert 0 <= info["score"] <= 1 and total == info["score"]
        assert terminated == (info["purchase"]["total"] is not None)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab[]\n ", max_size=14))
def test_parsing_equals_the_published_pattern(text):
    import re

    match = re.match(r"(.+)\[(.+)\]", text)
    assert parse_action(text) == (match.groups() if match else (text, None))


def test_snapshots_continue_exactly_and_cost_nothing(env):
    env.reset(seed=4)
    env.step("search[lamp]")
    state = env.snapshot()
    after = env.step("click[next >]")
    env.step("click[back to search]")
    observation, info = env.restore(state)
    assert info["clickables"][0] == "back to search" and "Page 1 " in observation
    assert env.step("click[next >]") == after
    assert isinstance(state[2], ShopState)


def test_an_ended_episode_can_be_restored_from_before_its_end(env):
    env.reset(seed=4)
    state = env.snapshot()
    assert bought(env, seed=4)[2]
    observation, info = env.restore(state)
    assert observation.startswith("WebShop\n") and info["score"] == 0
    assert env.step("search[lamp]")[4]["valid_action"]


def test_drawn_products_follow_the_seed_and_survive_snapshots(env):
    def draw(seed):
        env.reset(seed=seed, options={"index": 0})
        return env.step("search[<r>]")[4]["clickables"]

    assert draw(1) == draw(1) != draw(2)
    assert draw(None) == draw(None)
    draw(1)
    state = env.snapshot()
    second = env.step("search[<r>]")[4]["clickables"]
    env.restore(state)
    assert env.step("search[<r>]")[4]["clickables"] == second != draw(1)


def test_environments_pickle_by_their_arguments_and_keep_their_state(env):
    env.reset(seed=4)
    env.step("search[lamp]")
    data = pickle.dumps(env)
    assert len(data) < 100_000
    twin = pickle.loads(data)
    assert twin.shop.catalog is env.shop.catalog
    assert twin.step("click[next >]") == env.step("click[next >]")


def test_many_environments_share_one_catalogue():
    envs = [WebShopEnv() for _ in range(300)]
    assert len({id(env.shop.catalog) for env in envs}) == 1
    assert len({id(env.search_engine) for env in envs}) == 1
    for env in envs[:2]:
        env.close()
        env.close()


def test_two_environments_do_not_disturb_each_other():
    one, two = WebShopEnv(), WebShopEnv()
    one.reset(seed=1)
    two.reset(seed=2)
    one.step("search[lamp]")
    observation, _, _, _, _ = two.step("nothing")
    assert observation.startswith("WebShop")


def test_another_engine_can_be_put_in():
    class Fixed:
        def search(self, query, k):
            return ["NOT LOADED", *codes]

    codes = list(WebShopEnv().shop.catalog.products)[:3]
    env = WebShopEnv(search_engine=Fixed())
    env.reset(seed=0)
    _, _, _, _, info = env.step("search[anything]")
    assert info["clickables"][2:] == [code.lower() for code in codes]
    assert isinstance(env.search_engine, Fixed)


def test_another_list_of_nouns_can_be_put_in():
    env = WebShopEnv(nouns=lambda title: ["same"])
    assert bought(env)[4]["purchase"]["title_score"] == 1.0


def test_wrong_arguments_name_the_nearest_right_one():
    for arguments, message in (
        ({"observation_mode": "txt"}, "Did you mean 'text'"),
        ({"goals": "humans"}, "Did you mean 'human'"),
        ({"search": "bm26"}, "Did you mean 'bm25'"),
        ({"data": "/nowhere/at/all"}, "data='mini'"),
        ({"num_products": 0}, "num_products is 0"),
        ({"num_products": "10"}, "num_products is '10'"),
        ({"catalog_seed": 1.5}, "catalog_seed is 1.5"),
        ({"search_engine": 5}, "search_engine is 5"),
        ({"nouns": ["desk"]}, "nouns is \\['desk'\\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            WebShopEnv(**arguments)
    with pytest.raises(ConfigError, match="Did you mean 'num_products'"):
        icto_gym.tasks("icto/WebShop-v0", num_product=3)
    assert icto_gym.tasks("icto/WebShop-v0", "dev", observation_mode="html")
    with pytest.raises(InvalidTask, match="Did you mean 'test'"):
        icto_gym.tasks("icto/WebShop-v0", split="tset")


def test_data_without_a_goal_say_so(tmp_path):
    for name, content in (("items_shuffle", "[]"), ("items_ins_v2", "{}"), ("items_human_ins", "{}")):
        (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(InvalidTask, match="no task in icto/WebShop-v0's data"):
        WebShopEnv(data=str(tmp_path)).reset()


# ---- tasks -------------------------------------------------------------------------------------------
def test_mini_tasks_are_disjoint_named_and_stable():
    lists = {split: icto_gym.tasks("icto/WebShop-v0", split=split) for split in ("train", "dev", "test", "ood")}
    every = icto_gym.tasks("icto/WebShop-v0")
    assert len(every) == sum(map(len, lists.values())) >= 1500
    for name, tasks in lists.items():
        assert all(task.split == name and task.env_id == "icto/WebShop-v0" for task in tasks)
        assert tasks[7].task_id == f"webshop-mini/{name}/0007"
        assert not any(shared_tasks(tasks, other) for other in lists.values() if other is not tasks)
    assert lists["test"].digest == icto_gym.tasks("icto/WebShop-v0", split="test").digest
    assert not {task.task_type for task in lists["ood"]} & {task.task_type for task in lists["train"]}


def test_tasks_can_be_named_counted_and_drawn(env):
    named = env.reset(options={"task_id": "webshop-mini/test/0017"})[1]
    assert named["split"] == "test"
    assert env.reset(options={"split": "test", "index": 17})[1] == named
    assert env.reset(seed=5)[1]["split"] == "train"
    assert env.reset(options={"index": 3})[1]["task_id"] == "webshop-mini/train/0003"
    with pytest.raises(InvalidTask, match="Did you mean"):
        env.reset(options={"task_id": "webshop-mini/test/00017"})


def test_a_list_file_groups_tasks_anew(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["webshop-mini/test/0003", "webshop-mini/train/0001"]))
    env = WebShopEnv(split=str(path))
    assert {env.reset(seed=seed)[1]["task_id"] for seed in range(12)} == set(json.loads(path.read_text()))
    assert [task.split for task in env.manifest(str(path))] == ["test", "train"]
    assert env.reset(options={"split": path, "index": 1})[1]["task_id"] == "webshop-mini/train/0001"


def test_synthetic_goals_of_the_built_in_data_have_ids_of_their_own():
    tasks = icto_gym.tasks("icto/WebShop-v0", goals="synthetic")
    assert tasks[0].task_id == "webshop-mini-synthetic/0" and tasks[0].split == "test"
    assert {task.split for task in tasks} == {"train", "dev", "test"}


def test_another_catalogue_seed_is_another_digest():
    one, two = (icto_gym.tasks("icto/WebShop-v0", "test", catalog_seed=seed) for seed in (0, 1))
    assert [task.task_id for task in one] == [task.task_id for task in two]
    assert one.digest != two.digest


@pytest.mark.webshop
def test_the_originals_files_have_its_splits_and_order(webshop_recordings):
    folder = str(webshop_recordings / "catalogue")
    every = icto_gym.tasks("icto/WebShop-v0", data=folder, goals="synthetic")
    assert [task.task_id for task in every[:2]] == ["webshop-synthetic/0", "webshop-synthetic/1"]
    sizes = [
        len(icto_gym.tasks("icto/WebShop-v0", split, data=folder, goals="synthetic"))
        for split in ("test", "dev", "train")
    ]
    assert sizes == [500, 983, 0]
    env = gym.make("icto/WebShop-v0", data=folder)
    assert env.reset(seed=0)[1]["split"] == "test"  # 193 goals: no train split, so any task may be drawn
    assert env.reset(options={"index": 150})[1]["task_id"] == "webshop/150"
    with pytest.raises(InvalidTask, match="no task in the list 'train'"):
        env.reset(options={"split": "train"})


@pytest.mark.webshop
def test_few_products_break_nothing(webshop_recordings):
    env = WebShopEnv(data=str(webshop_recordings / "catalogue"), num_products=2, nouns=str.split)
    env.reset(seed=0)
    assert env.step("search[<r>]")[4]["valid_action"] is False  # the original draws 50 and breaks
    assert env.step("search[coat]")[4]["valid_action"]


# ---- the expert --------------------------------------------------------------------------------------
def test_the_expert_stands_in_info_with_its_reason():
    env = WebShopEnv(expert=True)
    _, info = env.reset(options={"split": "test", "index": 0})
    total = 0.0
    for _ in range(10):
        assert info["expert_thought"]
        _, reward, terminated, _, info = env.step(info["expert_action"])
        total += reward
        if terminated:
            break
    assert (total, terminated, info["success"], info["expert_action"]) == (1.0, True, True, None)


def test_buying_the_goals_own_product_with_its_options_pays_all():
    catalog = WebShopEnv().shop.catalog
    for goal in catalog.goals[:100]:
        product = catalog.products[goal.asin]
        options = {str(number): value for number, value in enumerate(goal.options)}
        reward = purchase_reward(
            product.record(), goal.record(), catalog.prices[goal.asin], options, nouns=catalog.nouns
        )
        assert reward.total == 1.0, goal
