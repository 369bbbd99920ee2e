"""Which tasks there are, without a simulator; and that the table is the package's."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import icto_gym
from icto_gym.envs.scienceworld import tasks as table
from icto_gym.envs.scienceworld.gateway import find_jars, find_java
from icto_gym.envs.scienceworld.pool import Pool
from icto_gym.errors import ConfigError, DataError, InvalidTask
from icto_gym.tasks import shared_tasks

ENV_ID = "icto/ScienceWorld-v0"


@pytest.fixture(scope="module")
def lists() -> Path:
    folder = Path(__file__).resolve().parents[5] / "shared" / "data" / "scienceworld"
    if not folder.exists():
        pytest.skip("the lists of the ETO line are not part of the package")
    return folder


def test_the_table_is_the_packages_own() -> None:
    from scienceworld.constants import ID2TASK

    assert [(kind.number, kind.name) for kind in table.TASK_TYPES] == list(ID2TASK.items())
    pool = Pool()
    lease = pool.lease(find_java(), 60)  # held: a simulator that nobody holds is ended after a while
    simulator = lease.simulator
    for kind in table.TASK_TYPES:
        assert simulator.wire.call(simulator._game, "getTaskMaxVariations", kind.name) == len(
            [*kind.variations("train"), *kind.variations("dev"), *kind.variations("test")]
        )
    for kind in (table.BY_NAME["boil"], table.BY_NAME["grow-fruit"]):
        simulator.load(kind.name, 0, "easy")
        for split in ("Train", "Dev", "Test"):
            listed = simulator.wire.call(simulator._game, f"getVariations{split}")
            numbers = json.loads(simulator.wire.call(listed, "toString"))
            assert numbers == list(kind.variations(split.lower()))
    pool.close()


def test_the_jar_is_the_one_the_digests_stand_for() -> None:
    assert hashlib.sha256(Path(find_jars()[1]).read_bytes()).hexdigest() == table.JAR_SHA256


def test_splits_have_the_published_sizes_and_never_share_a_task() -> None:
    train, dev, test = (icto_gym.tasks(ENV_ID, split) for split in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (3592, 1796, 1819)
    assert not shared_tasks(train, dev) and not shared_tasks(train, test) and not shared_tasks(dev, test)
    assert len(icto_gym.tasks(ENV_ID)) == 7207
    assert train[0].task_id == "scienceworld/boil/0" and train[0].task_type == "boil"


def test_digests_are_stable_and_tell_the_simplification() -> None:
    assert icto_gym.tasks(ENV_ID, "dev").digest.startswith("13e293cc")
    easy, plain = (icto_gym.tasks(ENV_ID, "dev", simplification=name) for name in ("easy", ""))
    assert easy.digest != plain.digest and easy[0].task_id == plain[0].task_id


def test_eto_test_follows_its_rule_and_equals_the_published_list(lists: Path) -> None:
    built_in = icto_gym.tasks(ENV_ID, "eto-test")
    assert len(built_in) == 211 and len({task.task_type for task in built_in}) == 24
    read = icto_gym.tasks(ENV_ID, str(lists / "eto_test.json"))
    assert {task.task_id for task in read} == {task.task_id for task in built_in}
    assert {task.split for task in read} == {"test"}


def test_loading_a_list_says_what_it_shares_with_the_one_beside_it(
    lists: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train = icto_gym.tasks(ENV_ID, str(lists / "eto_train.json"))
    assert len(train) == 1483
    assert "54 of its 1483 tasks stand in eto_dev.json too" in caplog.text
    assert "eto_test" not in caplog.text.replace("eto_train", "")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        dev = icto_gym.tasks(ENV_ID, str(lists / "eto_dev.json"))
    assert "54 of its 194 tasks stand in eto_train.json too" in caplog.text
    assert len(shared_tasks(train, dev)) == 54


def test_types_held_out_are_in_ood_test_alone() -> None:
    train, test = icto_gym.tasks(ENV_ID, "ood-train"), icto_gym.tasks(ENV_ID, "ood-test")
    assert not {task.task_type for task in train} & {task.task_type for task in test}
    assert {task.task_type for task in test} == {table.BY_NUMBER[number].name for number in table.HELD_OUT_TYPES}
    assert {task.split for task in train} == {"train"} and {task.split for task in test} == {"test"}
    assert (len(train), len(test)) == (2512, 92)


def test_a_list_of_ones_own_may_hold_ids_or_pairs_in_old_or_new_spelling(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(["scienceworld/boil/0", ["task-6-lifespan-(longest-lived)", 3], ["2-1", 5]]))
    assert [task.task_id for task in icto_gym.tasks(ENV_ID, str(mine))] == [
        "scienceworld/boil/0",
        "scienceworld/lifespan-longest-lived/3",
        "scienceworld/use-thermometer/5",
    ]
    assert len(icto_gym.tasks(ENV_ID, str(mine), task_types=["boil"])) == 1
    mine.write_text('[["boil", 30]]')
    with pytest.raises(DataError, match=r"mine.json: record 0 .*names no task"):
        icto_gym.tasks(ENV_ID, str(mine))


def test_unknown_lists_name_the_nearest() -> None:
    with pytest.raises(InvalidTask, match="Did you mean 'eto-test'"):
        icto_gym.tasks(ENV_ID, "eto_test")


def test_every_type_has_a_step_limit_and_ours_are_marked() -> None:
    assert all(kind.step_limit >= 10 for kind in table.TASK_TYPES)
    published = [kind for kind in table.TASK_TYPES if kind.number not in table.STEP_LIMITS_OF_OURS]
    assert len(published) == 24


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match=r"task_type.*Did you mean 'task_types'"):
        icto_gym.tasks("icto/ScienceWorld-v0", task_type=["boil"])
    with pytest.raises(ConfigError, match="task_types is 5; give a list"):
        icto_gym.tasks("icto/ScienceWorld-v0", task_types=5)
    with pytest.raises(ConfigError, match="simplification is 3; give names"):
        icto_gym.tasks("icto/ScienceWorld-v0", simplification=3)
    assert len(icto_gym.tasks("icto/ScienceWorld-v0", "test", list_eagerly=False)) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task_types": [1]}, "task_types holds 1; give names or numbers as texts"),
        ({"task_types": []}, "task_types is empty"),
        ({"call_timeout": "x"}, "call_timeout='x' must be a number above 0"),
    ],
)
def test_arguments_of_the_wrong_kind_are_told(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        gym.make("icto/ScienceWorld-v0", **arguments)
