"""A run folder knows what it is, what is done, and who writes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icto_gym.errors import ConfigError, DataError
from trainers.config import LATER, MACHINE
from trainers.digests import digest
from trainers.runs import Run, RunError


@dataclass(frozen=True)
class Settings:
    beta: float = 0.1
    seed: int = 0


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run") as opened:
        yield opened


def copying(run: Run, source: Path, out: Path, calls: list[str]):
    """A stage that copies a file, counting how often it works."""

    def work():
        calls.append("worked")
        out.write_text(source.read_text())
        return {"lines": 1}

    return run.stage("copy", work, inputs={"source": source}, outputs=[out])


def test_a_complete_stage_is_skipped_and_says_so(run, caplog):
    source, out, calls = run.path("a"), run.path("b"), []
    source.write_text("one")
    with caplog.at_level("INFO"):
        assert copying(run, source, out, calls) == {"lines": 1}
        assert copying(run, source, out, calls) == {"lines": 1}
    assert calls == ["worked"]
    assert "copy: complete, skipped" in caplog.text
    assert run.stage_record("copy")["outputs"] == ["b"]


def test_a_stage_works_again_when_its_input_has_changed(run):
    source, out, calls = run.path("a"), run.path("b"), []
    source.write_text("one")
    copying(run, source, out, calls)
    source.write_text("two, longer")
    copying(run, source, out, calls)
    assert (calls, out.read_text()) == (["worked"] * 2, "two, longer")


def test_a_stage_works_again_when_its_output_is_gone(run):
    source, out, calls = run.path("a"), run.path("b"), []
    source.write_text("one")
    copying(run, source, out, calls)
    out.unlink()
    copying(run, source, out, calls)
    assert len(calls) == 2


def interrupted(run: Run, config: Settings, out: Path, partial: Path, *, die: bool):
    def work():
        with open(partial, "a") as handle:
            handle.write("part ")
        if die:
            raise KeyboardInterrupt
        out.write_text(partial.read_text())

    run.stage("slow", work, inputs={"config": config}, outputs=[out], partial=[partial])


def test_a_half_done_stage_finds_what_it_left(run):
    out, partial = run.path("out"), run.path("partial")
    with pytest.raises(KeyboardInterrupt):
        interrupted(run, Settings(), out, partial, die=True)
    assert not run.is_complete("slow")
    interrupted(run, Settings(), out, partial, die=False)
    assert out.read_text() == "part part "


def test_what_a_half_done_stage_left_is_removed_when_its_config_has_changed(run):
    out, partial = run.path("out"), run.path("partial")
    run.log_metrics("slow", 1, {"train/loss": 1.0})
    run.log_metrics("other", 1, {"train/loss": 1.0})
    with pytest.raises(KeyboardInterrupt):
        interrupted(run, Settings(), out, partial, die=True)
    interrupted(run, Settings(beta=0.2), out, partial, die=False)
    assert out.read_text() == "part "
    assert [line["stage"] for line in run.metrics()] == ["other"]


def test_what_broke_a_training_stays_though_it_is_begun_anew(run):
    folder, done = run.path("dpo"), run.path("dpo", "checkpoint", "checkpoint.json")

    def work(ends):
        folder.mkdir(exist_ok=True)
        (folder / "state-000020").mkdir(exist_ok=True)
        (folder / "nonfinite-step-000021").mkdir(exist_ok=True)
        if not ends:
            raise KeyboardInterrupt
        done.parent.mkdir()
        done.write_text("{}")

    for rate, ends in ((1e-3, False), (1e-4, True)):
        with suppress(KeyboardInterrupt):
            run.stage("dpo", lambda ends=ends: work(ends), inputs={"rate": rate}, outputs=[done], partial=[folder])
    (folder / "state-000020").rmdir()
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "nonfinite-step-000021"]
    run.stage("dpo", lambda: work(True), inputs={"rate": 1e-5}, outputs=[done], partial=[folder])
    assert (folder / "nonfinite-step-000021").exists()


def test_a_stage_that_leaves_no_output_is_an_error(run):
    with pytest.raises(RunError, match="without writing nothing-here"):
        run.stage("empty", lambda: None, inputs={}, outputs=[run.path("nothing-here")])


def test_a_changed_config_is_refused_with_every_difference(run):
    run.save_config(Settings(), "icto")
    run.save_config(Settings(), "icto")
    with pytest.raises(ConfigError) as caught:
        run.save_config(Settings(beta=0.2, seed=1), "icto")
    assert "beta: 0.1 -> 0.2\n  seed: 0 -> 1" in str(caught.value)
    assert "--force-config" in str(caught.value)
    with pytest.raises(ConfigError, match="method: 'icto' -> 'bc'"):
        run.save_config(Settings(), "bc")
    run.save_config(Settings(beta=0.2), "icto", force=True)
    run.save_config(Settings(beta=0.2), "icto")


@dataclass(frozen=True)
class LaterSettings(Settings):
    workers: int = field(default=1, metadata=MACHINE)
    shape: str | None = field(default=None, metadata=LATER)


def test_a_setting_that_a_later_version_added_changes_nothing_at_its_default(run):
    run.save_config(Settings(), "icto")
    run.save_config(LaterSettings(workers=4), "icto")
    with pytest.raises(ConfigError, match=r"shape: '\(absent\)' -> 'new'"):
        run.save_config(LaterSettings(shape="new"), "icto")
    assert digest(LaterSettings()) == digest(Settings()) != digest(LaterSettings(shape="new"))


def test_a_step_is_logged_once_even_after_a_resume(tmp_path):
    with Run(tmp_path) as run:
        log = run.metric_logger("sft")
        for step in (1, 2, 3):
            log({"step": step, "train/loss": 1.0 / step})
    with open(tmp_path / "metrics.jsonl", "a") as handle:
        handle.write('{"stage": "sft", "st')  # killed within a line
    with Run(tmp_path) as run:
        log = run.metric_logger("sft")
        for step in (3, 4):
            log({"step": step, "train/loss": 1.0 / step})
        run.metric_logger("dpo")({"step": 3, "train/loss": 0.5})
        assert [(line["stage"], line["step"]) for line in run.metrics()] == [
            ("sft", 1), ("sft", 2), ("sft", 3), ("sft", 4), ("dpo", 3),
        ]  # fmt: skip
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("wrong", ["not json", "[1]", ""])
def test_a_broken_line_of_metrics_is_named(tmp_path, wrong):
    (tmp_path / "metrics.jsonl").write_text(f'{{"stage": "sft", "step": 1}}\n{wrong}\n{{"stage": "sft", "step": 2}}\n')
    with Run(tmp_path) as run, pytest.raises(DataError, match=r"metrics\.jsonl line 2"):
        run.log_metrics("sft", 3, {})


HOLD = """
import sys, time
from trainers.runs import Run
with Run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_write_one_folder_and_a_dead_one_does_not_block(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"being written by process {holder.pid}"), Run(tmp_path):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with Run(tmp_path) as run:
        assert run.folder == tmp_path


def test_a_folder_that_cannot_be_written_is_one_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(RunError, match=r"cannot be written: .* Choose another with --run"),
        Run(tmp_path / "file" / "run"),
    ):
        pass


def test_a_full_disk_is_one_error_and_leaves_nothing_behind(tmp_path):
    """A real limit on file sizes: the kernel makes the file and refuses its content, as a full disk does."""
    code = (
        "import resource, signal, sys\n"
        "from trainers.runs import Run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "Run(sys.argv[1]).__enter__()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert "cannot be written: File too large. Choose another with --run or --out." in done.stderr
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a read-only file system")
def test_a_read_only_folder_is_one_error_before_any_work():
    with pytest.raises(RunError, match="cannot be written"), Run("/sys/icto-run"):
        pass


def test_a_full_disk_is_one_error_before_any_work(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(RunError, match="1 MB left"), Run(tmp_path):
        pass


def test_digests_see_content_and_not_names_of_the_run(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"same")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    (tmp_path / "two" / "weights").write_bytes(b"other")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
    assert digest(Settings()) == digest(Settings()) != digest(Settings(seed=1))


def test_a_file_that_no_stage_made_is_not_lost(tmp_path):
    source, out = tmp_path / "a", tmp_path / "b"
    source.write_text("one")
    out.write_text("precious")
    with Run(tmp_path, redo=False) as run, pytest.raises(ConfigError, match="b is there, and was not made by copy"):
        copying(run, source, out, [])
    assert out.read_text() == "precious"
    with Run(tmp_path, redo=False) as run:
        run.stage("adds", dict, inputs={}, outputs=[out], adds=True)
        out.unlink()
        copying(run, source, out, [])
        copying(run, source, out, [])


@pytest.mark.parametrize("text", ["[]", "{}"])
def test_a_record_that_is_none_is_named_with_the_mend(tmp_path, text):
    with Run(tmp_path) as run:
        run.stage("a", dict, inputs={}, outputs=[])
        (tmp_path / "stages" / "a.json").write_text(text)
        with pytest.raises(DataError, match=r"a\.json is no record of a stage\. Remove it"):
            run.stage("a", dict, inputs={}, outputs=[])
