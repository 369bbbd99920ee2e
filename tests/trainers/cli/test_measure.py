"""Play, score anew, repeat, compare: what the verbs say of real episodes, and of files one cannot trust."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from icto_gym.store import TrajectoryStore
from trainers.cli.main import main
from trainers.evaluation.metrics import Scoring
from trainers.evaluation.rescore import rescore
from trainers.evaluation.result import read_result
from trainers.records import write_records

ENV = "icto_gym.testing:Scripted-v0"
PLAY = ["--env", ENV, "--split", "test"]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Results of two policies on the same tasks, the random one with three seeds."""
    folder = tmp_path_factory.mktemp("played")
    assert main(["evaluate", "expert", *PLAY, "--out", str(folder / "expert")]) == 0
    assert main(["evaluate", "random", *PLAY, "--seeds", "0", "1", "2", "--out", str(folder / "random")]) == 0
    return folder


def changed(path, out, **values):
    """A copy of a result file with other values."""
    record = {**json.loads((path / "metrics.json").read_text()), **values}
    out.mkdir()
    (out / "metrics.json").write_text(json.dumps(record))
    return out


def test_splits_stand_side_by_side(capsys, tmp_path):
    words = ["evaluate", "random", "--env", ENV, "--split", "dev", "test", "--out", str(tmp_path / "r")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["dev", "test"] and lines[1].split() == ["4", "tasks", "8", "tasks"]
    assert any(line.startswith("as the ETO protocol") for line in lines)
    assert read_result(tmp_path / "r" / "test").n_tasks == 8


def test_a_seed_plays_the_same_whatever_seeds_stand_beside_it(played, tmp_path):
    assert main(["evaluate", "random", *PLAY, "--seed", "1", "--out", str(tmp_path / "one")]) == 0
    alone = {row.task_id: row.digest for row in read_result(tmp_path / "one").episodes}
    among = {row.task_id: row.digest for row in read_result(played / "random").episodes if row.number == 1}
    assert alone == among


def test_over_seeds_there_are_mean_and_deviation(played):
    found = read_result(played / "random").over_seeds["average_reward"]
    mean = sum(found["values"]) / 3
    assert len(found["values"]) == 3 and found["mean"] == pytest.approx(mean)
    assert found["deviation"] == pytest.approx((sum((one - mean) ** 2 for one in found["values"]) / 2) ** 0.5)


def test_a_result_names_what_it_takes_to_repeat_it_and_no_machine(played, tmp_path):
    text = (played / "random" / "metrics.json").read_text()
    record = json.loads(text)
    assert len(record["manifest_digest"]) == len(record["prompt_digest"]) == len(record["code"]["digest"]) == 64
    assert record["versions"]["gymnasium"] and record["recipe"]["spec"] == "random" and record["seeds"] == [0, 1, 2]
    assert str(played) not in text
    words = ["evaluate", "random", *PLAY, "--seeds", "0", "1", "2", "--out", str(tmp_path / "elsewhere")]
    assert main(words) == 0
    assert (tmp_path / "elsewhere" / "metrics.json").read_text() == text


def test_a_repeat_matches_and_says_so(played, capsys):
    assert main(["evaluate", "--repeat", str(played / "random" / "metrics.json"), "--quiet"]) == 0
    assert capsys.readouterr().out == "It matches: all 24 episodes on 8 tasks are the same, step by step.\n"


def test_a_repeat_that_comes_out_otherwise_fails_and_names_task_and_step(played, tmp_path, capsys):
    words = ["evaluate", "random", "--repeat", str(played / "expert"), "--out", str(tmp_path / "again"), "--quiet"]
    assert main(words) == 1
    text = capsys.readouterr().out
    assert "It does not match: 8 of 8 episodes on 8 tasks differ." in text
    assert "scripted/test/16 (seed 0): step 1, response: 'Thought: I should see where it is." in text


def test_one_changed_episode_is_found_even_without_the_trajectories(played, tmp_path, capsys):
    record = json.loads((played / "expert" / "metrics.json").read_text())
    record["episodes"][3] |= {"digest": "0" * 64, "values": {**record["episodes"][3]["values"], "mean_actions": 5.0}}
    path = changed(played / "expert", tmp_path / "forged", episodes=record["episodes"], versions={"gymnasium": "0.1"})
    assert main(["evaluate", "--repeat", str(path), "--quiet"]) == 1
    text = capsys.readouterr().out
    assert "1 of 8 episodes" in text and "scripted/test/19 (seed 0): mean actions 5.0 -> 2.0" in text
    assert "versions.gymnasium: '0.1', now" in text


def test_a_repeat_on_other_tasks_is_refused_before_playing(played, tmp_path, capsys):
    path = changed(played / "expert", tmp_path / "other", manifest_digest="0" * 64)
    assert main(["evaluate", "--repeat", str(path)]) == 1
    assert "the same ids, with other contents; digest 000000000000" in capsys.readouterr().err


def test_a_repeat_is_never_read_from_a_finished_one(played, capsys):
    words = ["evaluate", "--repeat", str(played / "expert"), "--out", str(played / "expert")]
    assert main(words) == 2
    assert "in place of playing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"recipe": {"spec": "os:system", "options": {"command": "touch {}"}}}, "the policy 'os:system'"),
        ({"recipe": {"spec": "openai:x", "options": {"base_url": "http://127.0.0.1:9"}}}, "the policy 'openai:x'"),
        ({"settings": {"env_id": "evil_module:Env-v0"}}, "the environment 'evil_module:Env-v0'"),
    ],
)
def test_a_file_may_not_name_code_to_run(played, tmp_path, capsys, values, named):
    mark = tmp_path / "ran"
    filled = json.loads(json.dumps(values).replace("{}", str(mark)))
    path = changed(played / "expert", tmp_path / "hostile", **filled)
    assert main(["evaluate", "--repeat", str(path)]) == 2
    assert named in capsys.readouterr().err and not mark.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", "a result is an object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"metrics": {}}', "format_version 1"),
        ('{"format_version": 2}', "missing"),
        ('{"format_version": 2, "nonsense": 1}', "Unknown key 'nonsense'"),
    ],
)
def test_what_is_no_result_is_one_clean_line(tmp_path, capsys, content, says):
    (tmp_path / "x.json").write_text(content)
    assert main(["compare", str(tmp_path / "x.json"), str(tmp_path / "x.json")]) == 1
    error = capsys.readouterr().err
    assert says in error and str(tmp_path / "x.json") in error and error.count("\n") == 1


@pytest.mark.parametrize("wrong", [float("nan"), True, "much"])
def test_an_episodes_value_that_is_no_number_is_named(played, tmp_path, capsys, wrong):
    record = json.loads((played / "expert" / "metrics.json").read_text())
    record["episodes"][0]["values"]["success_rate"] = wrong
    path = changed(played / "expert", tmp_path / "x", episodes=record["episodes"])
    assert main(["compare", str(path), str(path)]) == 1
    assert "success_rate of 'scripted/test/16'" in capsys.readouterr().err


def test_old_episodes_are_scored_anew_without_playing(played, capsys, tmp_path):
    words = ["evaluate", "--from", str(played / "expert" / "trajectories.jsonl"), "--gamma", "0.5"]
    assert main([*words, "--out", str(tmp_path / "again")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["metrics"]["average_reward"]["value"] == 0.5  # paid at the second step
    assert record["manifest_digest"] == read_result(played / "expert").manifest_digest
    assert main(["evaluate", "--from", str(tmp_path / "none.jsonl")]) == 2


def test_a_lower_threshold_makes_more_successes(played, tmp_path, capsys):
    episodes = list(TrajectoryStore(played / "expert" / "trajectories.jsonl"))
    partial = [replace(item, score=n / 8, success=False) for n, item in enumerate(episodes)]
    write_records(tmp_path / "partial.jsonl", partial)
    shares = []
    for extra in ([], ["--success-threshold", "0.5"]):
        assert main(["evaluate", "--from", str(tmp_path / "partial.jsonl"), *extra]) == 0
        shares.append(json.loads(capsys.readouterr().out)["metrics"]["success_rate"]["value"])
    assert shares == [0.0, 0.5]  # the benchmark's own criterion, then scores of 4/8 to 7/8


def test_mixed_files_are_refused(played, tmp_path, capsys):
    mine = list(TrajectoryStore(played / "expert" / "trajectories.jsonl"))
    theirs = list(TrajectoryStore(played / "random" / "trajectories.jsonl"))
    for name, items, says in (
        ("policies", [*mine, *theirs], "mixes policies: 'expert', 'random'"),
        ("envs", [*mine, replace(mine[0], env_id="icto/Other-v0", trajectory_id="x#0")], "mixes environments"),
        ("twice", [*mine, mine[0]], "more than once"),
        ("empty", [], "no trajectories"),
    ):
        write_records(tmp_path / f"{name}.jsonl", items)
        assert main(["evaluate", "--from", str(tmp_path / f"{name}.jsonl")]) == 1
        assert says in capsys.readouterr().err


def test_the_better_one_is_named_with_the_difference(played, capsys):
    assert main(["compare", str(played / "random"), str(played / "expert"), "--metrics", "success_rate"]) == 0
    text = capsys.readouterr().out
    assert "success: expert is better by 0." in text and "on 8 tasks" in text
    assert "seeds: (0, 1, 2) in a, (0,) in b" in text


def test_no_difference_is_said_with_the_number_of_tasks_that_would_show_one(played, tmp_path, capsys):
    assert main(["evaluate", "random", *PLAY, "--seeds", "7", "--out", str(tmp_path / "other")]) == 0
    capsys.readouterr()
    assert main(["compare", str(played / "random"), str(tmp_path / "other"), "--metrics", "average_reward"]) == 0
    text = capsys.readouterr().out
    assert "no difference can be shown on 8 tasks" in text and "to see 0.05 you would need about" in text


def test_other_tasks_are_refused_with_what_differs_unless_forced(played, tmp_path, capsys):
    assert main(["evaluate", "expert", *PLAY, "--max-tasks", "6", "--out", str(tmp_path / "six")]) == 0
    words = ["compare", str(played / "random"), str(tmp_path / "six")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "manifest_digest" in error and "tasks: 2 only in a, 0 only in b, 6 in both" in error and "--force" in error
    assert main([*words, "--force", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verdicts"][0]["n"] == 6 and any("manifest_digest" in line for line in record["differs"])


def test_other_scoring_is_another_question(played, tmp_path, capsys):
    path = str(played / "expert" / "trajectories.jsonl")
    assert main(["evaluate", "--from", path, "--gamma", "0.5", "--out", str(tmp_path / "half")]) == 0
    assert main(["compare", str(played / "expert"), str(tmp_path / "half")]) == 1
    assert "scoring.gamma: 1.0 in a, 0.5 in b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "random", *PLAY], "Give --out"),
        (["evaluate"], "Name a policy"),
        (["evaluate", "random", *PLAY, "--metrics", "sucess_rate", "--out", "x"], "Did you mean 'success_rate'"),
        (["evaluate", "random", *PLAY, "--seeds", "1", "1", "--out", "x"], "give each once"),
        (["evaluate", "random", *PLAY, "--gamma", "nan", "--out", "x"], "gamma is nan"),
        (["compare", "none.json", "none.json"], "There is no result file none.json"),
    ],
)
def test_wrong_usage_is_met_with_the_mend(words, says, capsys):
    assert main(words) == 2
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [["--repeat", "{}/random"], ["random", *PLAY, "--seeds", "5", "6", "7"]])
def test_episodes_that_were_copied_into_the_folder_do_not_stand_for_played_ones(played, tmp_path, capsys, words):
    (tmp_path / "trajectories.jsonl").write_bytes((played / "random" / "trajectories.jsonl").read_bytes())
    assert main(["evaluate", *(word.format(played) for word in words), "--out", str(tmp_path)]) == 2
    assert "was not played by an evaluation into this folder" in capsys.readouterr().err


def test_a_wrong_split_is_told_before_the_first_is_played(tmp_path, capsys):
    words = ["evaluate", "expert", "--env", ENV, "--split", "test", "nonsense", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "nonsense" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["import", "export"])
def test_an_output_that_is_a_folder_is_refused_and_nothing_in_it_removed(played, tmp_path, capsys, verb):
    kept = tmp_path / "out.jsonl" / ".mine.tmp"
    kept.parent.mkdir()
    kept.touch()
    source = str(played / "expert" / "trajectories.jsonl")
    assert main([verb, source, "--format", "trajectories", "--out", str(kept.parent)]) == 2
    assert "is a folder" in capsys.readouterr().err and kept.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--repeat", "a", "--from", "b"], "give one of them"),
        (["--repeat", "a", "--gamma", "0.5"], "--gamma has no effect beside --repeat"),
        (["--from", "b", "--split", "test", "--max-tasks=1"], "--split, --max-tasks has no effect beside --from"),
    ],
)
def test_flags_without_effect_are_refused(words, says, capsys):
    assert main(["evaluate", *words]) == 2
    assert says in capsys.readouterr().err


def test_all_that_scoring_takes_may_stand_beside_from(played, capsys):
    file = str(played / "expert" / "trajectories.jsonl")
    words = ["--gamma", "0.5", "--success_threshold", "0.5", "--loop-repeats", "4", "--format", "table"]
    assert main(["evaluate", "--from", file, *words]) == 0


def test_attempts_that_cover_other_tasks_each_are_no_seeds(played, tmp_path):
    episodes = list(TrajectoryStore(played / "random" / "trajectories.jsonl"))
    best = {}
    for number, item in enumerate(episodes):
        if item.task_id not in best or number % 2:
            best[item.task_id] = item
    write_records(tmp_path / "best.jsonl", list(best.values()))
    assert len({item.trajectory_id.rpartition("#")[2] for item in best.values()}) > 1
    result = rescore(tmp_path / "best.jsonl", Scoring())
    assert result.over_seeds == {} and result.metrics
    assert rescore(played / "random" / "trajectories.jsonl", Scoring()).over_seeds


def test_a_methods_config_says_how_its_model_is_measured(tmp_path, capsys):
    """Brief prompts and short answers, as in the run; but not on as many tasks as it explored."""
    config = tmp_path / "c.yaml"
    config.write_text(f"rollout: {{env_id: {ENV}, brief: true, max_tasks: 1}}\nacting: {{max_new_tokens: 5}}\n")
    words = ["evaluate", "hf:tiny-random", "--config", str(config), "--split", "test"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    found = read_result(tmp_path / "a")
    assert (found.decoding["brief"], found.decoding["max_new_tokens"], found.n_tasks) == (True, 5, 8)
    more = ["--max-tasks", "2", "--policy-options", "{max_new_tokens: 4}"]
    assert main([*words, *more, "--out", str(tmp_path / "b")]) == 0
    found = read_result(tmp_path / "b")
    assert (found.decoding["max_new_tokens"], found.n_tasks) == (4, 2)
    assert "dtype" not in found.decoding
    for dtype, code in (
        ("null", 0),
        ("bfloat16", 2),
    ):  # what a later version writes into the run's config plays nothing anew
        config.write_text(f"rollout: {{env_id: {ENV}, brief: true}}\nacting: {{max_new_tokens: 5, dtype: {dtype}}}\n")
        assert main([*words, "--out", str(tmp_path / "a")]) == code
    assert main([*words, "--out", str(tmp_path / "c")]) == 0
    assert read_result(tmp_path / "c").decoding["dtype"] == "bfloat16"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 0
    assert "dtype" in capsys.readouterr().out
    assert main(["evaluate", "--repeat", str(tmp_path / "c"), "--out", str(tmp_path / "again")]) == 0
    assert read_result(tmp_path / "again").decoding["dtype"] == "bfloat16"
