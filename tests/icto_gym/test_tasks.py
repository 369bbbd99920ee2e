"""Tasks, manifests, lists by path, and the small shared parts."""

import json
import os
import stat

import pytest

from icto_gym import ConfigError, DataError, DependencyNotInstalled, InvalidTask, Manifest, Task
from icto_gym.errors import check_name, did_you_mean, require
from icto_gym.files import atomic_open, cache_dir, read_json, write_json, write_text
from icto_gym.tasks import content_digest, is_list_path, read_task_list, shared_tasks
from icto_gym.testing import ScriptedEnv

ALL = {task.task_id: task for task in ScriptedEnv.tasks()}


def test_splits_never_share_a_task_and_together_are_all():
    splits = [{task.task_id for task in ScriptedEnv.tasks(name)} for name in ("train", "dev", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == len(ALL)


def test_the_digest_depends_on_ids_contents_and_order():
    one, two = Task("a", "train", "E", "t", "1"), Task("b", "train", "E", "t", "2")
    changed = Task("a", "train", "E", "t", "3")
    digests = {Manifest("E", None, tasks).digest for tasks in ([one, two], [two, one], [one], [changed, two])}
    assert len(digests) == 4
    assert Manifest("E", "x", [one, two]).digest == Manifest("E", "y", [one, two]).digest


def test_a_list_that_names_a_task_twice_is_refused():
    task = Task("a", "train", "E", "t", "1")
    with pytest.raises(DataError, match="twice"):
        Manifest("E", "mine", [task, task])


def test_content_digest_knows_where_a_text_ends():
    assert content_digest("ab", "c") != content_digest("a", "bc")
    assert content_digest("\ud800") != content_digest("")


def test_a_list_is_read_from_a_path(tmp_path, caplog):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["scripted/test/17", "scripted/train/00", "scripted/test/17"]))
    manifest = read_task_list(str(path), ALL, "Scripted")
    assert [task.task_id for task in manifest] == ["scripted/test/17", "scripted/train/00"]
    assert manifest[0].split == "test", "the disjoint split stays"
    assert "1 of 3 records repeat" in caplog.text
    assert shared_tasks(manifest, ScriptedEnv.tasks("test")) == ["scripted/test/17"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1, "b": 2}', "expected a JSON array"),
        ('["scripted/tset/17"]', "record 0 .*Did you mean 'scripted/test/17'"),
        ("[17]", "record 0 \\(17\\) names no task"),
        ("[", "not valid JSON"),
        pytest.param("[" * 200_000, "not valid JSON .*recursion", id="nested too deeply"),
    ],
)
def test_a_wrong_list_names_file_and_record(tmp_path, content, words):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(DataError, match=f"mine.json.*{words}"):
        read_task_list(str(path), ALL, "Scripted")


def test_a_list_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "mine.json", tmp_path):
        with pytest.raises(InvalidTask, match=r"no list file .*Give a JSON file, or the name of a split of Scripted"):
            read_task_list(str(path), ALL, "Scripted")


def test_list_paths_are_told_from_split_names():
    assert is_list_path("lists/mine.json")
    assert not is_list_path("test") and not is_list_path(None)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigError, match=r"Unknown split 'tset'\. Did you mean 'test'\? Known: 'train', 'test'"):
        check_name("tset", ["train", "test"], "split")
    assert str(InvalidTask("plain words")) == "plain words"


def test_the_nearest_of_thousands_of_ids_is_found():
    known = [f"alfworld/train/{letter * 8}-{number:05d}" for letter in "abcdef" for number in range(3000)]
    assert "alfworld/train/cccccccc-02" in did_you_mean("alfworld/train/cccccccc-0271", known)


def test_a_missing_extra_says_which_command_installs_it():
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'icto-gym\[alfworld\]'"):
        require("no_such_package_at_all", extra="alfworld")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": 2})
    with pytest.raises(ZeroDivisionError), atomic_open(path) as handle:
        handle.write("half")
        1 / 0  # noqa: B018
    assert read_json(path) == {"a": 2, "b": 1}
    assert os.listdir(tmp_path) == ["x.json"]
    write_text(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_cache_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("ICTO_CACHE", str(tmp_path / "c"))
    assert cache_dir("x") == tmp_path / "c" / "x" and cache_dir("x").is_dir()
