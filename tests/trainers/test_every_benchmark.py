"""The whole method runs on every benchmark by changing one word: the environment's id."""

from __future__ import annotations

import json

import pytest
from packages import installed

from trainers.cli import main as icto

SMALL = """
preset: smollm2-cpu
seed: 0
iterations: 1
model: {name: tiny-random}
rollout: {env_id: ENV, brief: true, max_tasks: 2, attempts: 2, epsilon: 0.5, env_kwargs: KWARGS}
acting: {max_new_tokens: 8}
demonstrations: {max_tasks: 2}
sft: {batch_size: 2}
dpo: {probe_every: 0, probe_at_start: false}
probe: {tasks: 0}
evaluation: {base: false, splits: [], final_splits: [test], final_max_tasks: 1}
"""
CASES = {
    "icto/WebShop-v0": "{}",
    "icto/ALFWorld-v0": "{}",
    "icto/ScienceWorld-v0": "{task_types: [find-non-living-thing]}",
}


@pytest.mark.slow
@pytest.mark.parametrize("env_id", CASES)
def test_icto_runs_from_demonstrations_to_report(env_id, tmp_path):
    if "ScienceWorld" in env_id:
        installed("scienceworld", extra="scienceworld")
    config = tmp_path / "small.yaml"
    config.write_text(SMALL.replace("ENV", env_id).replace("KWARGS", CASES[env_id]))
    run = tmp_path / "run"
    assert icto(["--quiet", "run", "icto", "--config", str(config), "--run", str(run)]) == 0
    demonstrations = [json.loads(line) for line in (run / "demonstrations.jsonl").read_text().splitlines()]
    assert len(demonstrations) == 2 and all(item["score"] == 1.0 for item in demonstrations)
    explored = (run / "iteration-01" / "trajectories.jsonl").read_text().splitlines()
    assert len(explored) == 4 and all(json.loads(line)["env_id"] == env_id for line in explored)
    assert (run / "report.html").stat().st_size > 10_000
    metrics = json.loads((run / "evaluation" / "icto-1" / "test" / "metrics.json").read_text())
    assert 0.0 <= metrics["metrics"]["average_reward"]["value"] <= 1.0
