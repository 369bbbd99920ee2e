"""The metrics in real trackers, read back from them; a resumed run repeats no step and lacks none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packages import installed

from icto_gym.errors import ConfigError
from trainers.runs import Run
from trainers.trackers import run_name

*PLACES, ROOT = Path(__file__).parents[:3]  # of this file, of what it imports, of the project

EXAMPLE = Path(__file__).parents[2] / "examples" / "configs" / "tiny.yaml"


def logged_in_two_parts(folder, tracker):
    """Three steps, the process ends without closing, then two of them again and one more."""
    code = (
        "import os, sys; from trainers.runs import Run\n"
        "run = Run(sys.argv[1]).__enter__(); run.track(sys.argv[2])\n"
        "for step in (1, 2, 3): run.log_metrics('sft', step, {'train/loss': 3.0 / step, 'name': 'x'})\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), tracker], check=False)
    with Run(folder) as run:
        run.track(tracker)
        for step in (2, 3, 4):
            run.log_metrics("sft", step, {"train/loss": 3.0 / step})
        run.log_metrics("dpo", 1, {"train/loss": 0.5, "count": 2, "good": True})


def test_tensorboard_holds_each_step_once(tmp_path):
    installed("tensorboard", extra="tracking")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged_in_two_parts(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["dpo/count", "dpo/train/loss", "sft/train/loss"]
    found = [(event.step, event.value) for event in events.Scalars("sft/train/loss")]
    assert found == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]


def test_tensorboard_forgets_a_stage_that_starts_anew(tmp_path):
    installed("tensorboard", extra="tracking")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Run(tmp_path) as run:
        run.track("tensorboard")
        run.log_metrics("sft", 1, {"loss": 3.0})
        run.log_metrics("dpo", 1, {"loss": 2.0})
        run.forget_metrics("sft")
        run.log_metrics("sft", 1, {"loss": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("sft/loss")] == [1.0]
    assert [event.value for event in events.Scalars("dpo/loss")] == [2.0]


def test_trackio_holds_each_step_once(tmp_path, monkeypatch):
    installed("trackio", extra="tracking")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[2:]; import test_trackers as t\n"
        "t.logged_in_two_parts(pathlib.Path(sys.argv[1]), 'trackio')\n"
        "from trackio.sqlite_storage import SQLiteStorage as S; from trainers.trackers import run_name\n"
        "logs = S.get_logs('icto-gym', run_name(pathlib.Path(sys.argv[1])))\n"
        "print('found', sorted((l['sft/step'], l['sft/train/loss']) for l in logs if 'sft/step' in l))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run"), *PLACES],
        capture_output=True, text=True, env={**os.environ, "TRACKIO_DIR": str(tmp_path / "store")}, cwd=ROOT,
    )  # fmt: skip
    assert "found [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]" in done.stdout, done.stdout + done.stderr[-2000:]


def test_wandb_writes_offline_and_notes_each_step_once(tmp_path):
    installed("wandb", extra="tracking")
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[2:]; import test_trackers as t\n"
        "t.logged_in_two_parts(pathlib.Path(sys.argv[1]), 'wandb')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *PLACES],
        capture_output=True, text=True, env={**os.environ, "WANDB_MODE": "offline"}, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    noted = (tmp_path / "wandb" / "shown.jsonl").read_text().splitlines()
    assert noted == [f'["sft", {step}]' for step in (1, 2, 3, 4)] + ['["dpo", 1]']


def test_nothing_is_tracked_without_the_flag_and_a_wrong_name_is_refused(tmp_path):
    with Run(tmp_path) as run:
        run.log_metrics("sft", 1, {"loss": 1.0})
        with pytest.raises(ConfigError, match="Did you mean 'tensorboard'"):
            run.track("tensorbord")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "metrics.jsonl"]


def test_runs_of_one_name_in_two_places_are_two_runs_and_each_keeps_its_own(tmp_path):
    folders = [tmp_path / place / "runs" / "demo" for place in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    names = [run_name(folder) for folder in folders]
    assert len(set(names)) == 2 and names == [run_name(folder) for folder in folders]
