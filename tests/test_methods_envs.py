"""The comparison of methods in another environment than the shop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from icto_gym.errors import ConfigError
from icto_gym.files import read_json, write_json, write_text
from trainers.rollout import RolloutConfig
from trainers.sampling import choose_tasks, list_tasks


def test_another_world_is_chosen_on_tasks_that_nobody_is_taught(benchmark, monkeypatch, tmp_path):
    env, budget = benchmark.ENVS["alfworld"], benchmark.BUDGETS["small"]
    asked = []

    def clone(name, values, folder):
        asked.append(values)
        return None, SimpleNamespace(rollout=RolloutConfig(**env.rollout)), None

    monkeypatch.setattr(benchmark, "run_method", clone)
    monkeypatch.setattr(benchmark, "play_final", lambda *arguments: asked.append(arguments[-1]))
    start = benchmark.shared_clone(tmp_path / "sft", budget, 0, env)
    dev, explored = (read_json(tmp_path / f"{name}.json") for name in ("dev", "explored"))
    shown = choose_tasks(list_tasks(RolloutConfig(**env.rollout)), budget.more_demonstrations)
    assert len(dev) == budget.dev and not {*dev} & {*shown, *explored}
    assert asked[0]["evaluation"]["splits"] == [asked[0]["probe"]["split"]] == [str(tmp_path / "dev.json")]
    assert asked[1] == ["valid_seen", "valid_unseen"] and start["rollout"]["split"] == str(tmp_path / "explored.json")


def test_tables_of_other_environments_have_their_own_names_and_say_how_to_make_them(benchmark, tmp_path):
    here = tmp_path / "tiny-seed-0" / "sft"
    metrics = {name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 2} for name in ("average_reward", "success_rate")}
    metrics["mean_actions"] = metrics["success_rate"]
    write_json(here / "evaluation/sft/valid_seen/metrics.json", {"metrics": metrics, "manifest_digest": "d" * 64})
    write_json(here / "budget.json", {"stages": {}, "sums": {}})
    write_json(here / "finished.json", {"label": "sft"})
    arguments = ["--budget", "tiny", "--table", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    benchmark.main([*arguments, "--env", "alfworld", "--keep"])
    text = (tmp_path / "results" / "methods_alfworld.md").read_text()
    assert "Methods on ALFWorld mini" in text and "--env alfworld --seeds 0" in text
    assert "## test, seed 0" in text and "valid_seen" not in text.partition("## test")[2]
    write_text(tmp_path / "tiny-seed-0/sft/config.yaml", "rollout: {env_id: icto/ALFWorld-v0}\n")
    with pytest.raises(ConfigError, match=r"played in icto/ALFWorld-v0, not icto/WebShop-v0.*--env"):
        benchmark.main(arguments)
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, "--env", "alfworld", "--all-test"])


def test_tasks_that_nobody_was_asked_before_stand_for_themselves(benchmark, tmp_path):
    from episodes import play

    from trainers.evaluation.metrics import metrics_to_json, summarize
    from trainers.records import write_records

    for here, low in ((tmp_path / "tiny-seed-0" / "sft", 0.2), (tmp_path / "tiny-seed-0" / "icto" / "trial-0", 0.4)):
        label = here.name if here.name == "sft" else "icto-1"
        episodes = [play(["buy"], [low if n < 2 else low + 0.5], task=f"t/{n}") for n in range(4)]
        for split, count in (("test", 2), ("test-all", 4)):
            out = here / "evaluation" / label / split
            write_records(out / "trajectories.jsonl", episodes[:count])
            metrics = metrics_to_json(summarize(episodes[:count]))
            write_json(out / "metrics.json", {"metrics": metrics, "manifest_digest": f"{count}" * 64})
        write_json(here / "budget.json", {"stages": {}, "sums": {}})
        write_json(here / "finished.json", {"label": label})
        write_json(here.parent / "chosen.json", {"trial": "trial-0", "tried": ["trial-0"]})
    arguments = ["--budget", "tiny", "--table", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    benchmark.main(arguments)
    clone, row = read_json(tmp_path / "results" / "methods.json")["results"]["0"]["rows"]
    assert [clone["splits"][split]["average_reward"]["value"] for split in ("test", "test-new")] == [0.2, 0.7]
    new = row["versus_sft"]["test-new"]["average_reward"]
    assert new["n"] == 2 and new["difference"] == pytest.approx(0.2)
