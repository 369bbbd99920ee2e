"""The page: complete, self-contained, lenient about what is missing, and hostile text stays text."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.files import write_json
from trainers.evaluation.metrics import Estimate
from trainers.records import write_records
from trainers.report import Row, read_run, run_text, table_rows, table_text, write_report
from trainers.report.charts import Point, Series, histogram, line_chart, stacked_bars, thinned
from trainers.report.contrasts import choose_contrasts
from trainers.report.cost import cost
from trainers.report.data import display_name, label_order
from trainers.report.markup import element, text

_spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return runs.make_run(tmp_path_factory.mktemp("runs") / "first", tasks=8, iterations=1)


class Page(HTMLParser):
    """Tags, ids and text of a page; notices what does not nest."""

    VOID = frozenset(("meta", "br", "link", "img", "input"))

    def __init__(self, source):
        super().__init__()
        self.tags, self.ids, self.attributes, self.words, self._open = [], [], [], [], []
        self.feed(source)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes <{self._open[-1:]}>"
        self._open.pop()

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


NAMES = ("log_ratio_margin", "reward_accuracy")


def page_of(folder, out):
    return write_report(folder, out).read_text(encoding="utf-8")


def test_the_page_holds_every_part_and_asks_for_nothing_from_outside(run_folder, tmp_path):
    source = page_of(run_folder, tmp_path / "report.html")
    page = Page(source)
    for title in (
        "Results",
        "Over the iterations",
        "What training did",
        "Why episodes end",
        "Scores and lengths",
        "What it cost",
        "Two episodes of one task",
    ):
        assert title in page.text
    assert "ICTO 1" in page.text and "cloned" in page.text
    assert not re.search(r"https?://|url\(|@import|<link|<img|<iframe", source)
    assert not any(name in ("src", "srcset") for name, _ in page.attributes)
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert "default-src 'none'" in source.replace("&#x27;", "'")
    assert len(page.ids) == len(set(page.ids))


def test_a_training_that_samples_counts_what_it_read_and_wrote_to_sample(run_folder):
    lines = [
        {"step": 0, "train/tokens": 100, "train/scored_tokens": 10, "sampled/prompt_tokens": 1000,
         "sampled/response_tokens": 200},
        {"step": 1, "train/tokens": 50, "train/scored_tokens": 5, "final/prompt_tokens": 3000,
         "final/response_tokens": 400},
    ]  # fmt: skip
    run = replace(
        read_run(run_folder),
        training={"iteration-01/ppo": lines, "iteration-01/dpo": lines[1:]},
        stages=[{"stage": f"iteration-01/{name}", "seconds": 60.0, "cpu_seconds": 61.0} for name in ("ppo", "dpo")],
    )
    shown = cost(run)
    assert ">4,150<" in shown and ">615<" in shown  # 100 + 50 + 1,000 + 3,000 read; 10 + 5 + 200 + 400
    assert ">3,050<" in shown and ">405<" in shown
    beside = {"facts": {"probe_tokens": 2_000, "scoring_tokens": 345}}
    assert ">2,345<" in cost(replace(run, stages=[{**run.stages[0], **beside}]))
    plain = replace(run, training={"iteration-01/dpo": [{"step": 0, "train/tokens": 7}]})
    assert ">7<" in cost(plain) and "–" in cost(plain)


def test_only_its_own_script_may_run(run_folder, tmp_path):
    import base64
    import hashlib

    source = page_of(run_folder, tmp_path / "report.html")
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"sha256-{digest}" in source
    assert not re.search(r"\son\w+=", source.replace(scripts[0], ""))


def test_hostile_text_stays_text(tmp_path):
    folder = runs.make_run(tmp_path / "evil", tasks=4, iterations=1)
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\ud800\u202e"
    for label in ("sft", "icto-1"):
        path = folder / "evaluation" / label / "test"
        played = [
            replace(
                item, instruction=hostile, final_observation=hostile * 40, policy=hostile,
                steps=tuple(
                    replace(step, thought=hostile, action=hostile, observation=hostile) for step in item.steps
                ),
                score=float(label == "icto-1"),
            )
            for item in runs.play(label, "test", 4, (1.0, 0.0))
        ]  # fmt: skip
        write_records(path / "trajectories.jsonl", played)
        record = json.loads((path / "metrics.json").read_text())
        write_json(path / "metrics.json", {**record, "env_id": hostile, "decoding": {hostile: hostile}})
    source = page_of(folder, tmp_path / "report.html")
    page = Page(source)
    assert page.tags.count("script") == 2 and "img" not in page.tags  # the packed episodes, and what draws them
    assert "<script>alert(1)</script>" in page.text and "\\x00\\ud800" in page.text
    assert not any(name.startswith("on") for name, _ in page.attributes)


@given(st.text(st.characters(), max_size=60))
def test_any_text_is_one_node_and_can_be_written(value):
    source = element("p", text(value), title=value)
    source.encode("utf-8")
    page = Page(source)
    assert page.tags == ["p"]
    assert "<" not in value or "<" in "".join(page.words)


# ---- what is missing or broken
def test_an_empty_folder_makes_a_page_that_says_so(tmp_path):
    page = Page(page_of(tmp_path, tmp_path / "report.html"))
    assert "No policy has been evaluated yet." in page.text and "Nothing has been trained yet." in page.text
    assert run_text(read_run(tmp_path)) == "There are no evaluations yet.\n"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no run folder"):
        write_report(tmp_path / "nowhere", tmp_path / "report.html")


def test_broken_parts_are_named_and_the_rest_is_shown(tmp_path):
    folder = runs.make_run(tmp_path / "torn", tasks=4, iterations=1)
    (folder / "iteration-01" / "pairs.jsonl").write_text("{}\n")
    (folder / "evaluation" / "base" / "dev" / "metrics.json").write_text("[1]")
    (folder / "evaluation" / "sft" / "dev" / "metrics.json").write_text('{"metrics": {"success_rate": 1}}')
    (folder / "config.yaml").write_text("a: [")
    with open(folder / "metrics.jsonl", "a") as handle:
        handle.write('{"stage": "sft", "st')
    run = read_run(folder)
    assert len(run.notes) == 4 and any("pairs.jsonl line 1: field task_id is missing" in note for note in run.notes)
    assert run.evaluation("base", "dev").metrics["success_rate"].n == 4  # computed from the episodes
    assert len(run.training["sft"]) == 40
    page = Page(page_of(folder, tmp_path / "report.html"))
    assert page.text.count("Could not be read") == 4 and "ICTO 1" in page.text


def test_a_split_that_was_asked_more_widely_beside_it_stands_by_its_folders_name(tmp_path):
    folder = runs.make_run(tmp_path / "wide", tasks=4, iterations=1)
    shutil.copytree(folder / "evaluation" / "sft" / "test", folder / "evaluation" / "sft" / "test-all")
    splits = [item.split for item in read_run(folder).evaluations if item.label == "sft"]
    assert sorted(splits) == sorted({*splits}) and {"test", "test-all"} <= {*splits}


def test_an_iteration_that_is_still_going_on_shows_what_its_stages_recorded(tmp_path):
    folder = runs.make_run(tmp_path / "half", tasks=4, iterations=1)
    (folder / "iteration-01" / "metrics.json").unlink()
    write_json(folder / "stages" / "iteration-01.pairs.json", {"facts": {"counts": {"tasks": 4, "ties": 3}}})
    write_json(folder / "stages" / "iteration-01.dpo.started.json", {"stage": "x"})
    page = Page(page_of(folder, tmp_path / "report.html"))
    assert "tasks with ties only 3" in page.text


def test_episodes_that_were_taken_up_again_are_counted_apart_and_can_be_looked_at(tmp_path):
    folder = runs.make_run(tmp_path / "run", tasks=6, iterations=1)
    here = folder / "iteration-01"
    before = read_run(folder).iterations[0]
    first = next(iter(before.trajectories.values()))
    retried = replace(first, trajectory_id=first.task_id + "@explore-1#77")
    write_records(here / "retries.jsonl", [retried])
    write_records(here / "pairs.jsonl", [replace(before.pairs[0], chosen_id=retried.trajectory_id)])
    page = Page(page_of(folder, tmp_path / "page.html"))
    words = " ".join(page.words)
    assert f"episodes explored {len(before.trajectories)}" in words and "taken up again from one step 1" in words
    shown = [side.left.trajectory_id for side in choose_contrasts(read_run(folder))]
    assert retried.trajectory_id in shown
    write_json(folder / "superseded.json", ["iteration-01/with-retries"])
    assert not read_run(folder).iterations[0].retries


def test_a_training_that_harms_is_pointed_out(tmp_path):
    folder = runs.make_run(tmp_path / "harm", tasks=4, iterations=1)
    lines = [
        {"stage": "iteration-01/dpo", "step": 1, "pairs/chosen_logp_change": -7.5, "pairs/rejected_logp_change": -9}
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    probes = [{"step": 0, "success_rate": 0.5}, {"step": 8, "success_rate": 0.02}]
    (folder / "iteration-01" / "dpo" / "probes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in probes))
    page = Page(page_of(folder, tmp_path / "report.html"))
    assert "the chosen side became less likely than under the reference (-7.5 nats" in page.text
    assert "success on dev fell from 50% to 2% while training" in page.text


def test_what_was_only_memorised_and_why_a_training_ended_are_told(tmp_path):
    folder = runs.make_run(tmp_path / "early", tasks=4, iterations=1)
    end = "at step 9 of 40: 3 probes in a row brought no new best dev/average_reward (0.628 at step 0)"
    sides = {"pairs": (10.3, 0.8125), "held_out": (-0.99, 0.27)}
    last = {f"{kind}/{name}": value for kind, both in sides.items() for name, value in zip(NAMES, both, strict=True)}
    line = {"stage": "iteration-01/dpo", "step": 9, "stopped_early": end, **last}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    probes = [{"step": step, "dev/average_reward": 0.6, "dev/success_rate": 0.1} for step in (0, 9)]
    (folder / "iteration-01" / "dpo" / "probes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in probes))
    facts = {"pairs": 40, "kept_step": 0}
    record = {"stage": "iteration-01/dpo", "inputs": {}, "outputs": [], "facts": facts, "seconds": 1.0}
    (folder / "stages" / "iteration-01.dpo.json").write_text(json.dumps(record))
    page = Page(page_of(folder, tmp_path / "report.html"))
    assert f"iteration-01/dpo stopped early {end}" in page.text
    assert "iteration-01/dpo kept the weights before the first step: none were better on dev" in page.text
    assert "margin on pairs trained on, nats +10.30, chosen preferred in 81%" in page.text
    assert "margin on pairs held out, nats −0.99, chosen preferred in 27%" in page.text
    assert "average reward on dev while training" in page.text


def test_several_runs_stand_on_one_page(run_folder, tmp_path):
    other = runs.make_run(tmp_path / "second", tasks=4, iterations=1)
    page = Page(page_of([run_folder, other], tmp_path / "report.html"))
    assert "first" in page.text and "second" in page.text and len(page.ids) == len(set(page.ids))


def test_runs_side_by_side_say_what_differs_and_by_how_much(run_folder, tmp_path):
    other = runs.make_run(tmp_path / "no-contrast", tasks=8, iterations=1)
    (other / "config.yaml").write_text("method: icto\nmodel:\n  name: other\niterations: 2\ncontrast: false\n")
    page = Page(page_of([run_folder, other], tmp_path / "report.html"))
    assert "contrast off" in page.text and "model.name other" in page.text and "iterations" not in _settings(page)
    assert "+0.00 (+0.00 to +0.00)" in page.text  # the same play: no difference in actions, paired by task


def _settings(page):
    return page.text[page.text.index("the last policy of each run") : page.text.index("Differences are to")]


def test_runs_that_differ_in_seeds_alone_are_averaged(tmp_path):
    folders = []
    for seed in (0, 1):
        folders.append(runs.make_run(tmp_path / f"seed{seed}", tasks=4, iterations=1))
        (folders[-1] / "config.yaml").write_text(f"method: icto\nseed: {seed}\n")
    source = page_of(folders, tmp_path / "report.html")
    assert "2 seeds: seed0, seed1" in source and "± 0.000" in source


def test_ood_stands_beside_what_is_in_distribution(tmp_path):
    for split in ("valid_seen", "valid_unseen"):
        runs.write_evaluation(tmp_path, "sft", split, runs.play("sft", split, 4, (0.5, 0.5)))
    page = Page(page_of(tmp_path, tmp_path / "report.html"))
    assert "In and out of distribution" in page.text and "success, valid_unseen (OOD)" in page.text
    assert read_run(tmp_path).splits == ["valid_seen", "valid_unseen"]


# ---- tables
def test_rows_come_in_the_order_of_training_with_the_difference_to_cloning(run_folder):
    rows = table_rows(read_run(run_folder), "test")
    assert [row.name for row in rows] == ["base model", "cloned", "ICTO 1"]
    assert not rows[1].versus
    difference = rows[2].versus["success_rate"]
    assert difference.difference == pytest.approx(
        rows[2].metrics["success_rate"].value - rows[1].metrics["success_rate"].value
    )


def test_without_the_same_tasks_no_difference_is_shown(tmp_path):
    runs.write_evaluation(tmp_path, "sft", "test", runs.play("sft", "test", 4, (0.5, 0.5)))
    runs.write_evaluation(tmp_path, "icto-1", "test", runs.play("icto-1", "test", 5, (0.5, 0.5)))
    assert not table_rows(read_run(tmp_path), "test")[1].versus


def test_the_text_table_is_aligned_and_complete():
    metrics = {"average_reward": Estimate(0.5, 0.4, 0.6, 9), "success_rate": Estimate(0.25, 0.1, 0.4, 9)}
    lines = table_text([Row("sft", "test", metrics), Row("icto-12", "test", {**metrics})]).splitlines()
    assert lines[0].split() == ["tasks", "average", "reward", "success", "%"]
    assert lines[1].split() == ["cloned", "9", "0.500", "[0.400,", "0.600]", "25.0", "[10.0,", "40.0]"]
    assert lines[2].startswith("ICTO 12") and lines[1].index("0.500") == lines[2].index("0.500")


def test_the_terminal_gets_the_verdict_in_words(run_folder):
    shown = run_text(read_run(run_folder))
    assert "Differences are paired by task" in shown and " tasks)." in shown
    assert shown.index("test:") < shown.index("dev:")


@given(st.text(st.characters(), max_size=12))
def test_any_label_has_a_place_and_a_name(label):
    assert label_order(label) == label_order(label) and isinstance(display_name(label), str)


def test_iterations_are_ordered_by_number():
    assert sorted(["icto-10", "icto-2", "sft", "base"], key=label_order) == ["base", "sft", "icto-2", "icto-10"]


# ---- viewer and charts
def test_the_viewer_shows_what_training_changed_both_ways_and_pairs(run_folder):
    contrasts = choose_contrasts(read_run(run_folder))
    groups = " ".join(item.group for item in contrasts)
    assert "better after training" in groups and "pairs it was trained on" in groups
    assert all(item.left.task_id == item.right.task_id and item.left.score > item.right.score for item in contrasts)


numbers = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(numbers, numbers), max_size=8), st.booleans())
def test_any_numbers_make_a_well_formed_chart(points, percent):
    drawing = line_chart("t", [Series("s", [Point(x, y, y - 1, y + 1) for x, y in points])], percent=percent)
    if not points:
        assert drawing == ""
    else:
        assert Page(drawing).tags.count("circle") == len(points) and "nan" not in drawing and "inf" not in drawing


def test_points_that_are_no_numbers_are_left_out():
    assert line_chart("t", [Series("s", [Point(0, float("nan"))])]) == ""


def test_every_bar_has_the_whole_length():
    source = stacked_bars([("a", {"x": 1, "y": 3})], ["x", "y"])
    assert sum(float(width) for width in re.findall(r"width:([\d.]+)%", source)) == pytest.approx(100)


def test_a_histogram_counts_every_value_once_and_keeps_the_numbers():
    source = histogram("h", [("a", [0, 0.5, 1, 7, -1])], edges=[0, 0.5, 1.0], x_title="x")
    assert "a (5)" in source and "0 – 0.5: 2 (40 %)" in source and "0.5 – 1: 3 (60 %)" in source
    assert histogram("h", [("a", [])], edges=[0, 1], x_title="x") == ""


def test_a_long_series_is_thinned_without_losing_its_peak():
    points = [Point(x, 100.0 if x == 777 else x % 7) for x in range(5000)]
    kept = thinned(points)
    assert len(kept) <= 240 and max(point.y for point in kept) == 100.0
