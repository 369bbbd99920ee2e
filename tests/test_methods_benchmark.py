"""The comparison of methods: every row's settings are legal, and the table names what is missing."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from icto_gym.errors import ConfigError
from icto_gym.files import read_json, write_json, write_text
from trainers.config import from_mapping, merged, save_config
from trainers.methods import find_method
from trainers.presets import fit_to, preset_values
from trainers.records import write_records
from trainers.rollout import RolloutConfig
from trainers.sampling import choose_tasks, list_tasks


@pytest.fixture
def common(benchmark, monkeypatch):
    """What all rows have in common, to be changed by a test alone."""
    own = copy.deepcopy(benchmark.COMMON)
    for module in (benchmark, sys.modules["methods_rows"]):
        monkeypatch.setattr(module, "COMMON", own)


def test_every_setting_of_every_row_is_one_that_its_method_takes(benchmark):
    budget = benchmark.BUDGETS["full"]
    for row, (name, own, grid) in benchmark.ROWS.items():
        config_class = find_method(name).config_class
        preset = preset_values("smollm2-cpu", fit_to(name, config_class))
        common = benchmark.settings(budget, 0)
        common = {key: value for key, value in common.items() if key in config_class.__dataclass_fields__}
        for trial in grid:
            config = from_mapping(config_class, merged(merged(merged(preset, common), own), trial), row)
            assert config.evaluation.choose == "best" and config.rollout.max_tasks is None
            assert config.rollout.attempts == own.get("rollout", {}).get("attempts", budget.attempts)
    assert set(benchmark.ROWS) == {*budget.rows(), *benchmark.BUDGETS["small"].rows()}


def test_every_row_multiplies_in_bfloat16_where_asked(benchmark, common):
    benchmark._multiply_in("bfloat16")
    for row, (name, own, grid) in benchmark.ROWS.items():
        config_class = find_method(name).config_class
        common = benchmark.settings(benchmark.BUDGETS["small"], 0)
        common = {key: value for key, value in common.items() if key in config_class.__dataclass_fields__}
        config = from_mapping(config_class, merged(merged(common, own), grid[0]), row)
        assert config.acting.dtype == "bfloat16"
        trainings = [getattr(config, part) for part in ("sft", "dpo", "reward") if hasattr(config, part)]
        assert trainings and {part.mixed_precision for part in trainings} == {"bfloat16"}


def test_the_setting_that_is_measured_is_the_preset_of_that_name(benchmark):
    preset = preset_values("icto-anchored", fit_to("icto", find_method("icto").config_class))
    row = merged(benchmark.ROWS["icto"][1], benchmark.ROWS["icto"][2][0])
    assert {name: {key: row[name][key] for key in section} for name, section in preset.items()} == dict(preset)


def test_the_setting_that_gained_most_is_the_preset_of_that_name(benchmark):
    fit = fit_to("icto", find_method("icto").config_class)
    preset = merged(preset_values("icto-anchored", fit), preset_values("icto-retry-imitation", fit))
    row = merged(benchmark.ROWS["icto_retry_imitation"][1], benchmark.ROWS["icto_retry_imitation"][2][0])
    for name, section in preset.items():
        held = {key: row[name][key] for key in section} if isinstance(section, dict) else row[name]
        assert held == section, name


def test_a_clone_of_another_precision_and_no_jobs_are_refused(benchmark, common, tmp_path, capsys):
    clone, budget = tmp_path / "sft", benchmark.BUDGETS["tiny"]
    save_config(benchmark._config("bc", benchmark.settings(budget, 0), clone), clone / "config.yaml")
    benchmark.check_begun(clone, benchmark.settings(budget, 0))
    benchmark._multiply_in("bfloat16")
    with pytest.raises(ConfigError, match=r"cloned otherwise \(.*acting.dtype: .* -> 'bfloat16'"):
        benchmark.check_begun(clone, benchmark.settings(budget, 0))
    with pytest.raises(SystemExit):
        benchmark.main(["--jobs", "0"])
    assert "--jobs is 0; give 1 or more" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main(["--all-test", "--jobs", "2"])
    assert "leave --jobs out" in capsys.readouterr().err


def test_most_explored_tasks_were_not_demonstrated(benchmark, tmp_path):
    rollout, budget = RolloutConfig(env_id="icto/WebShop-v0"), benchmark.BUDGETS["small"]
    explored = read_json(benchmark.explored_tasks(tmp_path / "explored.json", rollout, budget))
    shown = set(choose_tasks(list_tasks(rollout), budget.demonstrations))
    assert len(set(explored)) == budget.tasks and len(shown & set(explored)) == budget.demonstrated
    played = list_tasks(RolloutConfig(env_id="icto/WebShop-v0", split=str(tmp_path / "explored.json")))
    assert {task.task_id for task in played} == set(explored) and {task.split for task in played} == {"train"}


def test_the_settings_of_a_row_share_what_was_played(benchmark, tmp_path):
    first, other = tmp_path / "trial-0", tmp_path / "trial-1"
    write_json(first / "stages" / "iteration-01.trajectories.json", {"outputs": ["iteration-01/trajectories.jsonl"]})
    write_text(first / "iteration-01" / "trajectories.jsonl", "played")
    write_json(first / "stages" / "iteration-01.sft.json", {"outputs": ["iteration-01/sft/checkpoint/checkpoint.json"]})
    for name in ("checkpoint.json", "adapter.safetensors"):
        write_text(first / "iteration-01" / "sft" / "checkpoint" / name, name)
    names = ("evaluation.sft.dev", "iteration-01.trajectories")
    benchmark.share_stages(first, other, names)
    assert (other / "iteration-01" / "trajectories.jsonl").read_text() == "played"
    assert (other / "stages" / "iteration-01.trajectories.json").exists() and not (other / "evaluation").exists()
    assert not (other / "iteration-01" / "sft").exists()
    benchmark.share_stages(first, other, ("iteration-01.sft",))
    shared = other / "iteration-01" / "sft" / "checkpoint"
    assert sorted(file.name for file in shared.iterdir()) == ["adapter.safetensors", "checkpoint.json"]


def test_what_sets_icto_with_imitation_apart_from_rft_is_contrast_alone(benchmark):
    imitating, rft = (benchmark.ROWS[row][1] for row in benchmark.IMITATING)
    assert imitating["imitation"] and imitating["rollout"] == rft["rollout"]
    assert "sft" not in imitating and "sft" not in rft and not any("sft" in trial for trial in (imitating, rft))


def test_rows_that_sample_alike_play_once_and_others_for_themselves(benchmark, tmp_path):
    for row in benchmark.SAMPLING:
        assert benchmark.ROWS[row][1]["rollout"] == benchmark.ROWS["icto"][1]["rollout"]
        sources = [folder.relative_to(tmp_path).as_posix() for folder in benchmark.played_before(tmp_path / row, row)]
        assert {f"{other}/trial-0" for other in benchmark.SAMPLING} <= set(sources)
    assert [folder.name for folder in benchmark.played_before(tmp_path / "eto", "eto")] == ["sft", "trial-0"]


def test_the_second_iteration_goes_on_from_the_row_of_one(benchmark, monkeypatch, tmp_path):
    once, twice = (benchmark.ROWS[row] for row in benchmark.ONCE_AND_TWICE)
    assert twice[1] == {**once[1], "iterations": 2} and twice[2] == once[2]
    shared = []
    monkeypatch.setattr(benchmark, "share_stages", lambda first, here, names: shared.append((first.parent.name, names)))

    def stop(name, values, folder):
        raise InterruptedError(values["iterations"])

    monkeypatch.setattr(benchmark, "run_method", stop)
    for row, iterations in zip(benchmark.ONCE_AND_TWICE, ("1", "2"), strict=True):
        with pytest.raises(InterruptedError, match=iterations):
            benchmark.run_row(row, tmp_path / row, {}, benchmark.BUDGETS["small"], 0)
        stages = (*benchmark.FIRST_ITERATION, "evaluation.icto-1.dev")
        assert (benchmark.ONCE_AND_TWICE[0], stages) in shared


@pytest.mark.parametrize(("budget", "place"), [("small", "."), ("brief", "brief"), ("full", "full")])
def test_each_budget_has_a_table_of_its_own(benchmark, monkeypatch, tmp_path, budget, place):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    told = re.escape(f"so {tmp_path / 'results' / place} stays as it is")
    with pytest.raises(ConfigError, match=told):
        benchmark.main(["--budget", budget, "--table", "--folder", str(tmp_path / "runs")])


@pytest.mark.parametrize(("env", "classes"), [("webshop", None), ("alfworld", 2)])
def test_in_games_that_are_won_or_not_nat_has_two_classes(benchmark, monkeypatch, tmp_path, env, classes):
    def stop(name, values, folder):
        raise InterruptedError(len(values["markers"]["markers"]) if "markers" in values else None)

    monkeypatch.setattr(benchmark, "run_method", stop)
    with pytest.raises(InterruptedError, match=str(classes)):
        benchmark.run_row("nat", tmp_path / "nat", {}, benchmark.BUDGETS["small"], 0, benchmark.ENVS[env])


def test_a_control_has_as_many_attempts_as_retries_cost(benchmark):
    more, few = benchmark.ROWS["rft_more"][1]["rollout"], benchmark.ROWS["rft"][1]["rollout"]
    assert more == {**few, "attempts": 7} and benchmark.BUDGETS["small"].attempts == 4
    assert "rft_more" not in benchmark.SAMPLING  # it plays for itself: its attempts are numbered through


def test_rows_that_take_episodes_up_again_do_it_alike_and_only_once(benchmark):
    own = [benchmark.ROWS[row][1] for row in benchmark.RETRYING]
    assert all(one["retries"] == own[0]["retries"] for one in own)
    assert {row for row, (_, values, _) in benchmark.ROWS.items() if "retries" in values} == set(benchmark.RETRYING)
    assert set(benchmark.RETRYING) <= set(benchmark.SAMPLING)


def test_methods_that_need_the_experts_episode_try_the_tasks_that_it_showed(benchmark, tmp_path):
    values = {"rollout": {"env_id": "icto/WebShop-v0", "brief": True}}
    file = benchmark.demonstrated_tasks(tmp_path, values, benchmark.BUDGETS["small"])
    shown = choose_tasks(list_tasks(RolloutConfig(env_id="icto/WebShop-v0")), 160)
    assert read_json(file) == shown and len(shown) == 160


def test_a_training_that_kept_its_start_is_the_clone_and_asks_nothing_again(benchmark, tmp_path):
    clone, policy = tmp_path / "clone", tmp_path / "policy"
    for checkpoint in (clone, policy):
        write_json(checkpoint / "checkpoint.json", {"weights_digest": "d" * 64})
    config = SimpleNamespace(start=clone)  # has no environment: playing would fail
    benchmark.play_final(tmp_path / "row", config, policy, "icto-1", benchmark.BUDGETS["tiny"])
    assert read_json(tmp_path / "row" / "finished.json") == {"label": "sft", "weights": "d" * 64}
    write_json(policy / "checkpoint.json", {"weights_digest": "e" * 64})
    with pytest.raises(AttributeError):
        benchmark.play_final(tmp_path / "row", config, policy, "icto-1", benchmark.BUDGETS["tiny"])


def test_weights_that_another_row_was_asked_with_are_not_asked_again(benchmark, tmp_path):
    policy = tmp_path / "policy"
    write_json(policy / "checkpoint.json", {"weights_digest": "e" * 64})
    write_json(tmp_path / "clone" / "checkpoint.json", {"weights_digest": "d" * 64})
    write_json(tmp_path / "rft" / "trial-0" / "finished.json", {"label": "rft-1", "weights": "e" * 64})
    config = SimpleNamespace(start=tmp_path / "clone")  # has no environment: playing would fail
    here = tmp_path / "icto_imitation" / "trial-0"
    benchmark.play_final(here, config, policy, "icto-1", benchmark.BUDGETS["tiny"])
    expected = {"label": "rft-1", "played": "rft/trial-0", "weights": "e" * 64}
    assert read_json(here / "finished.json") == expected


def whole_test(tmp_path, rows):
    """Folders of rows that were asked two test tasks: (row, run folder, label), for `ask_all_test`."""
    for row, label in rows:
        write_json(tmp_path / row / "finished.json", {"label": label, "weights": "e" * 64})
        if label != "sft" or row == "sft":
            played = tmp_path / row / "evaluation" / label / "test"
            options = {"name": label, "max_new_tokens": 64, "batch_size": 32}
            settings = {"env_id": "icto/WebShop-v0", "split": "test", "max_tasks": 2}
            recipe = {"spec": f"hf:../../../{label}/checkpoint", "options": options}
            (tmp_path / row / label / "checkpoint").mkdir(parents=True)
            write_json(played / "metrics.json", {"recipe": recipe, "settings": settings})
            write_text(played / "trajectories.jsonl", f"first of {label}\nsecond of {label}\n")


def test_all_test_tasks_are_asked_of_what_rows_chose_and_none_twice(benchmark, tmp_path, monkeypatch, caplog):
    rows = (("sft", "sft"), ("rft/trial-0", "rft-1"), ("icto/trial-0", "sft"), ("best_of_n/trial-0", "best-of-4"))
    whole_test(tmp_path, rows)
    asked, loaded = [], []
    monkeypatch.setattr(benchmark, "evaluate_policy", lambda *args, **options: asked.append((*args, options)))
    load = "trainers.policies.players.make_policy"
    monkeypatch.setattr(load, lambda spec, **options: loaded.append((spec, options)))
    caplog.set_level("INFO")
    benchmark.ask_all_test(tmp_path, ["sft", "rft", "icto", "eto", "best_of_n"])
    assert "eto is not asked: it is not finished" in caplog.text and "best_of_n is not asked" in caplog.text
    assert [options["label"] for *_, options in asked] == ["sft", "rft-1", "sft"]  # icto's start was kept
    for play, config, out, options in asked:
        assert (config.split, config.max_tasks) == ("test", None) and out.name == "test-all"
        assert (out / "trajectories.jsonl").read_text().startswith(f"first of {options['label']}\nsecond")
        play()
        spec, given = loaded[-1]
        assert Path(spec[3:]).resolve() == (out.parents[2] / options["label"] / "checkpoint").resolve()
        assert given["draft_tokens"] == 0  # as they were asked before there were guesses


def test_what_other_weights_were_asked_does_not_count_as_a_rows_own(benchmark, tmp_path, monkeypatch):
    whole_test(tmp_path, [("sft", "sft")])
    monkeypatch.setattr(benchmark, "evaluate_policy", lambda *args, **options: None)
    kept = tmp_path / "sft" / "evaluation" / "sft" / "test-all" / "trajectories.jsonl"
    benchmark.ask_all_test(tmp_path, ["sft"])
    write_text(kept, kept.read_text() + "third of sft\n")
    benchmark.ask_all_test(tmp_path, ["sft"])
    assert "third" in kept.read_text()
    write_text(kept.parents[1] / "test" / "trajectories.jsonl", "first of others\n")
    benchmark.ask_all_test(tmp_path, ["sft"])
    assert kept.read_text() == "first of others\n"


def test_rows_have_the_same_number_of_settings_to_try(benchmark):
    counts = {row: len(grid) for row, (_, _, grid) in benchmark.ROWS.items() if row != "best_of_n"}
    assert set(counts.values()) == {2}


@pytest.mark.parametrize("flag", ["--table", "--all-test"])
def test_a_folder_without_rows_leaves_the_table_as_it_was(benchmark, tmp_path, flag):
    write_text(tmp_path / "results" / "methods.md", "as it was")
    arguments = ["--budget", "tiny", "--folder", str(tmp_path / "misspelt"), "--results", str(tmp_path / "results")]
    with pytest.raises(ConfigError, match=r"There is no finished row under .*misspelt"):
        benchmark.main([*arguments, flag])
    assert (tmp_path / "results" / "methods.md").read_text() == "as it was"


def test_the_table_is_written_from_what_is_finished_and_names_the_rest(benchmark, tmp_path, capsys):
    clone = tmp_path / "tiny-seed-0" / "sft"
    shown = ("average_reward", "success_rate", "mean_actions")
    for split in ("dev", "test", "ood"):
        metrics = {name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 2} for name in shown}
        write_json(
            clone / "evaluation" / "sft" / split / "metrics.json", {"metrics": metrics, "manifest_digest": "d" * 64}
        )
    write_json(clone / "budget.json", {"stages": {}, "sums": {"training": {"trained_tokens": 7, "cpu_seconds": 1.5}}})
    write_json(clone / "finished.json", {"label": "sft"})
    arguments = ["--budget", "tiny", "--table", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    benchmark.main(arguments)
    text = capsys.readouterr().out
    assert "| sft | 0.500 [0.400, 0.600] |" in text and "Not finished, so not in the tables: icto, rft." in text
    found = read_json(tmp_path / "results" / "methods.json")["results"]["0"]
    assert found["missing"] == ["icto", "rft"] and found["rows"][0]["cost"]["trained_tokens"] == 7
    assert "test-all" not in text
    asked = read_json(clone / "evaluation" / "sft" / "test" / "metrics.json")
    for digest, shown_too in (("of other weights", False), ("of these", True)):
        for split, weights in (("test", "of these"), ("test-all", digest)):
            write_json(clone / "evaluation" / "sft" / split / "metrics.json", {**asked, "recipe": {"digest": weights}})
        benchmark.main(
            ["--budget", "tiny", "--table", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
        )
        assert ("## test-all, seed 0" in capsys.readouterr().out) is shown_too


def test_what_rows_share_counts_once_in_the_hours_of_a_seed(benchmark, tmp_path):
    hours = sys.modules["methods_table"].hours
    for place, seconds in (("sft", 3600), ("rft/trial-0", 1800), ("rft/trial-1", 1800), ("icto/trial-0", 900)):
        write_json(tmp_path / place / "stages" / "explore.json", {"stage": "explore", "cpu_seconds": seconds})
    write_json(tmp_path / "icto/trial-0/stages/dpo.started.json", {"stage": "dpo", "cpu_seconds": 9000})
    assert hours(tmp_path) == 1.75


def test_seeds_are_averaged_task_by_task_and_their_own_means_stand_beside_it(benchmark, tmp_path):
    from episodes import play

    scores = {0: {"sft": [0.2] * 8, "icto": [0.4] * 8}, 1: {"sft": [0.5] * 8, "icto": [0.6] * 7 + [0.2]}}
    scores[1]["rft"] = [0.3] * 8
    for seed, rows in scores.items():
        for row, values in rows.items():
            here = tmp_path / f"tiny-seed-{seed}" / ("sft" if row == "sft" else f"{row}/trial-0")
            label = "sft" if row == "sft" else f"{row}-1"
            out = here / "evaluation" / label / "test"
            episodes = [play(["buy"], [value], task=f"t/{n}") for n, value in enumerate(values)]
            write_records(out / "trajectories.jsonl", episodes)
            metrics = {name: {"value": sum(values) / 8} for name in ("average_reward", "success_rate", "mean_actions")}
            found = {name: {**metrics[name], "low": 0.0, "high": 1.0, "n": 8} for name in metrics}
            write_json(out / "metrics.json", {"metrics": found, "manifest_digest": "d" * 64})
            write_json(here / "budget.json", {"stages": {}, "sums": {}})
            write_json(here / "finished.json", {"label": label, "weights": f"{row}{seed}"})
            if row != "sft":
                write_json(here.parent / "chosen.json", {"trial": "trial-0", "tried": ["trial-0"]})
    write_text(tmp_path / "tiny-seed-1" / "sft" / "config.yaml", "acting: {dtype: bfloat16}\n")
    arguments = ["--budget", "tiny", "--table", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    benchmark.main([*arguments, "--seeds", "0", "1"])
    pooled = read_json(tmp_path / "results" / "methods.json")["over_seeds"]["test"]
    assert pooled["icto"]["seeds"] == 2 and pooled["icto"]["means"]["average_reward"] == [0.4, 0.55]
    difference = pooled["icto"]["versus_sft"]["average_reward"]
    assert difference["n"] == 8 and difference["difference"] == pytest.approx((0.2 + 0.05) / 2)
    assert pooled["sft"]["versus_sft"] == {} and "rft" not in pooled
    for seed, rows in ((0, ("sft", "icto")), (1, ("icto",))):  # the clone of seed 1 was not asked all tasks
        for row in rows:
            folder = tmp_path / f"tiny-seed-{seed}" / ("sft" if row == "sft" else f"{row}/trial-0") / "evaluation"
            label = "sft" if row == "sft" else f"{row}-1"
            shutil.copytree(folder / label / "test", folder / label / "test-all")
    benchmark.main([*arguments, "--seeds", "0", "1"])
    kept = read_json(tmp_path / "results" / "methods.json")
    assert kept["over_seeds"]["test-all"] == {} and "test-all" in kept["results"]["1"]["rows"][1]["splits"]
    ahead = pooled["icto"]["versus_rft"]["average_reward"]
    assert ahead["difference"] == pytest.approx(0.25) and ahead["of_seeds"] == [1]
    text = (tmp_path / "results" / "methods.md").read_text()
    assert "| icto | 2 | 0.400, 0.550 |" in text and "(seeds 1) |" in text
    assert "## test, seed 1 (--bfloat16)" in text and "## test, seed 0\n" in text
    folders_lost_and_kept(benchmark, tmp_path, pooled, arguments)


def folders_lost_and_kept(benchmark, tmp_path, pooled, arguments):
    """What is committed is enough for the table; a seed of which nothing is known by task stands by its interval."""
    (tmp_path / "tiny-seed-0").rename(tmp_path / "elsewhere")
    file = tmp_path / "results" / "methods.json"
    benchmark.main([*arguments, "--seeds", "1", "--keep"])
    assert read_json(file)["seeds"] == [0, 1] and read_json(file)["over_seeds"]["test"] == pooled
    lost = read_json(file)
    for row in lost["results"]["0"]["rows"]:
        del row["splits"]["test"]["by_task"]
    write_json(file, lost)
    benchmark.main([*arguments, "--seeds", "1", "--keep"])
    wide = read_json(file)["over_seeds"]["test"]["icto"]["versus_sft"]["average_reward"]
    exact = pooled["icto"]["versus_sft"]["average_reward"]
    assert (wide["difference"], wide["by_task"], exact["by_task"]) == (exact["difference"], False, True)
    assert wide["high"] - wide["low"] >= exact["high"] - exact["low"]
    with pytest.raises(ConfigError, match="another budget"):
        benchmark.main(["--budget", "small", *arguments[2:], "--keep"])
    before = read_json(file)
    before["budget"]["methods"].remove("rft")  # as a table of before that row
    before["results"]["0"]["missing"] = []
    write_json(file, before)
    benchmark.main([*arguments, "--seeds", "1", "--keep"])
    assert read_json(file)["results"]["0"]["missing"] == ["rft"]


def test_the_upper_bound_is_asked_the_tasks_of_every_other_row(benchmark, tmp_path, monkeypatch):
    asked: dict[str, list] = {"bound": [], "row": []}
    monkeypatch.setattr(benchmark, "bound", lambda config, run, clone, *tasks: asked["bound"].append(tasks))
    monkeypatch.setattr(benchmark, "evaluate_splits", lambda *args: asked["row"].append((args[4][0], args[5])))
    config, budget = find_method("best_of_n").config_class(), benchmark.BUDGETS["full"]
    benchmark.play_bound(tmp_path / "bound", config, tmp_path, budget)
    write_json(tmp_path / "checkpoint.json", {"weights_digest": "e" * 64})
    benchmark.play_final(tmp_path / "row", config, tmp_path, "icto-1", budget)
    assert asked["bound"] == asked["row"] == [("test", budget.test), ("ood", budget.ood)]
    assert read_json(tmp_path / "bound" / "finished.json") == {"label": "best-of-10"}
