"""The parts of the page: results, curves, what training did, why episodes end, and the run itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml

from trainers.evaluation.compare import Comparison
from trainers.evaluation.failures import CAUSES, count_causes
from trainers.evaluation.metrics import HIGHER_IS_BETTER, Estimate
from trainers.pairing.balance import describe_balance
from trainers.report.charts import Point, Series, line_chart, stacked_bars
from trainers.report.data import Iteration, RunData, display_name
from trainers.report.markup import element, table, text
from trainers.report.tables import MAIN_COLUMNS, MORE_COLUMNS, Column, Row, table_rows, verdicts_in_words


# ---- results
def results(run: RunData) -> str:
    """The main table of every split, with the verdict in words."""
    if not run.evaluations:
        return element("p", "No policy has been evaluated yet.", class_="quiet")
    parts = []
    for split in run.splits:
        rows = table_rows(run, split)
        parts += [
            element("h3", f"{text(split)} <small>{text(_about_split(run, split, rows))}</small>"),
            _main_table(rows),
        ]
        words = verdicts_in_words(run, split)
        parts += [element("div", *(element("p", text(one)) for one in words), class_="verdict-line")] if words else []
        more = _more_table(rows)
        parts.append(element("details", element("summary", "more measures"), more, class_="plain") if more else "")
    return element("div", *parts, class_="results")


def _about_split(run: RunData, split: str, rows: Sequence[Row]) -> str:
    probe = run.config.get("probe")
    chosen = isinstance(probe, dict) and probe.get("split") == split and bool(probe.get("tasks"))
    return f"{rows[0].tasks} tasks" + (", also used to choose checkpoints, so its figures flatter" if chosen else "")


def _main_table(rows: Sequence[Row]) -> str:
    columns = [column for column in MAIN_COLUMNS if any(column.metric in row.metrics for row in rows)]
    body = [
        [text(row.name), *(_cell(column, row, _limits(rows, column)) for column in columns)] for row in rows
    ]  # fmt: skip
    # the last row is the policy this run is about
    return table(["", *(column.title for column in columns)], body, marked=len(rows) - 1 if len(rows) > 1 else None)


def _limits(rows: Sequence[Row], column: Column) -> tuple[float, float]:
    """The ends of the small range drawn in a column: a share's whole scale, or from 0 to the largest."""
    if column.unit == "%" or column.metric == "average_reward":
        return 0.0, 1.0
    return 0.0, max([row.metrics[column.metric].high for row in rows if column.metric in row.metrics] or [1.0]) * 1.05


def _cell(column: Column, row: Row, limits: tuple[float, float]) -> str:
    value = row.metrics.get(column.metric)
    if value is None:
        return "–"
    unit = f" {column.unit}" if column.unit else ""
    shown = element("span", column.number(value.value) + unit, class_="value")
    interval = element("span", f"{column.number(value.low)} – {column.number(value.high)}", class_="interval")
    return shown + interval + _range(value, limits) + _difference(column, row.versus.get(column.metric))


def _range(value: Estimate, limits: tuple[float, float]) -> str:
    low, high, middle = (
        100 * min(max((one - limits[0]) / (limits[1] - limits[0] or 1), 0), 1)
        for one in (value.low, value.high, value.value)
    )
    bar = element("i", style=f"left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%")
    return element("span", bar, element("b", style=f"left:{middle:.1f}%"), class_="range", aria_hidden="true")


def _difference(column: Column, value: Comparison | None) -> str:
    if value is None:
        return ""
    kind = {"first": " up", "second": " down", "unclear": ""}[value.better]
    figures = (
        f"{column.difference(value.difference)} ({column.difference(value.low)} to {column.difference(value.high)})"
    )
    return element("span", text(figures), class_=f"difference{kind}", title=value.words)


def _more_table(rows: Sequence[Row]) -> str:
    columns = [column for column in MORE_COLUMNS if any(column.metric in row.metrics for row in rows)]
    body = [[text(row.name), *(_plain(column, row) for column in columns)] for row in rows]
    return table(["", *(column.title for column in columns)], body) if columns else ""


def _plain(column: Column, row: Row) -> str:
    value = row.metrics.get(column.metric)
    if value is None:
        return "–"
    tasks = f" · {value.n} tasks" if value.n != row.tasks else ""
    interval = f"{column.number(value.low)} – {column.number(value.high)}{tasks}"
    return element("span", column.number(value.value)) + element("span", interval, class_="interval")


# ---- curves over iterations
def curves(run: RunData) -> str:
    """Each main metric over the policies, one line per split."""
    labels = [label for label in run.labels if label not in ("random", "expert")]
    if len(labels) < 2:
        return ""
    charts = [_curve(run, labels, column) for column in MAIN_COLUMNS]
    if any("optimal_action_rate" in item.metrics for item in run.evaluations):
        charts.append(_curve(run, labels, next(one for one in MORE_COLUMNS if one.metric == "optimal_action_rate")))
    return element("div", *charts, class_="charts wide")


def _curve(run: RunData, labels: Sequence[str], column: Column) -> str:
    series = []
    for split in run.splits:
        points = []
        for place, label in enumerate(labels):
            found = run.evaluation(label, split)
            value = found.metrics.get(column.metric) if found else None
            if value is not None:
                name = f"{display_name(label)}, {split}: "
                note = f"{name}{column.number(value.value)} ({column.number(value.low)} – {column.number(value.high)})"
                points.append(Point(place, value.value, value.low, value.high, note))
        series.append(Series(split, points))
    better = "higher" if HIGHER_IS_BETTER[column.metric] else "lower"
    names = [display_name(label) for label in labels]
    return line_chart(f"{column.title} ({better} is better)", series, x_names=names, percent=column.unit == "%")


# ---- training
def training(run: RunData) -> str:
    """What cloning and every iteration did: pairs, drops, changes of log-probability, dev success on the way."""
    parts = []
    cloned = [stage for stage in run.training if "/" not in stage]
    for stage in cloned:
        charts = _training_charts(run, stage)
        parts += [element("h3", text(f"cloning ({stage})")), _ending(run, stage), charts] if charts else []
    for iteration in run.iterations:
        parts += [element("h3", f"iteration {iteration.number}"), _iteration(run, iteration)]
    return "".join(parts) or element("p", "Nothing has been trained yet.", class_="quiet")


def _iteration(run: RunData, iteration: Iteration) -> str:
    prefix = iteration.folder.name + "/"
    stages = [stage for stage in run.training if stage.startswith(prefix)]
    charts = "".join(_ending(run, stage) + _training_charts(run, stage) for stage in stages)
    warnings = [element("p", text(words), class_="warning") for stage in stages for words in _alarms(run, stage)]
    tables = element("div", _explored(iteration), _paired(run, iteration), _taught(run, iteration), class_="columns")
    return "".join(warnings) + tables + charts


def _training_charts(run: RunData, stage: str) -> str:
    lines = run.training.get(stage, [])
    charts = [
        line_chart("loss", [_series(lines, "train/loss", "loss")], x_title="optimiser steps", marks=len(lines) < 3),
        line_chart(
            "change of log-probability, nats",
            [_series(lines, f"train/{side}_logp_change", side) for side in ("chosen", "rejected")],
            x_title="optimiser steps", marks=len(lines) < 3, zero=True,
        ),
        line_chart(
            "success on dev while training", [_series(run.probes.get(stage, []), "success_rate", "dev success")],
            x_title="optimiser steps", percent=True,
        ),
        line_chart(
            "average reward on dev while training",
            [_series(run.probes.get(stage, []), "average_reward", "dev reward")], x_title="optimiser steps",
        ),
        line_chart(
            "the reward model's reward of the policy's answers", [_series(lines, "rollout/reward", "reward")],
            x_title="optimiser steps", marks=len(lines) < 3,
        ),
        line_chart(
            "KL from the start per answer, nats", [_series(lines, "rollout/kl", "KL")],
            x_title="optimiser steps", marks=len(lines) < 3, zero=True,
        ),
    ]  # fmt: skip
    return element("div", *charts, class_="charts") if any(charts) else ""


def _ending(run: RunData, stage: str) -> str:
    """Why a training ended before its last step, if it did."""
    ends = [line["stopped_early"] for line in run.training.get(stage, []) if "stopped_early" in line]
    return element("p", text(f"{stage} stopped early {ends[-1]}"), class_="quiet") if ends else ""


def _series(lines: Sequence[dict[str, Any]], key: str, name: str) -> Series:
    points = [
        Point(float(line["step"]), value)
        for line in lines
        if "step" in line and (value := _number(line, key)) is not None
    ]
    return Series(name, points)


def _number(line: dict[str, Any], key: str) -> float | None:
    """The number under a key, or under that key behind a prefix such as ``dev/``."""
    for name, value in line.items():
        if (
            (name == key or name.endswith("/" + key))
            and isinstance(value, (int, float))
            and not isinstance(value, bool)
        ):
            return float(value)
    return None


def _alarms(run: RunData, stage: str) -> list[str]:
    """Signs that training harmed the policy although its loss fell."""
    found = []
    changes = _before_and_after(run, stage)
    if changes and changes["chosen"] < -1.0:
        found.append(
            f"{stage}: the chosen side became less likely than under the reference ({changes['chosen']:+.1f} nats "
            "per pair on average). Lower the learning rate or raise the anchor on the chosen side."
        )
    rates = [value for line in run.probes.get(stage, []) if (value := _number(line, "success_rate")) is not None]
    if len(rates) > 1 and rates[-1] < 0.6 * max(rates) and max(rates) > 0.1:
        found.append(
            f"{stage}: success on dev fell from {max(rates):.0%} to {rates[-1]:.0%} while training. "
            "The best checkpoint on the way was kept."
        )
    return found


def _before_and_after(run: RunData, stage: str) -> dict[str, float]:
    """Change of the mean log-probability of both sides from the reference to the end of training, in nats."""
    for prefix in ("pairs/", "train/"):  # fixed pairs measured before and after, else the last batch
        for line in reversed(run.training.get(stage, [])):
            chosen, rejected = (line.get(f"{prefix}{side}_logp_change") for side in ("chosen", "rejected"))
            if isinstance(chosen, (int, float)) and isinstance(rejected, (int, float)):
                return {"chosen": float(chosen), "rejected": float(rejected)}
    return {}


def _margins(run: RunData, stage: str) -> list[tuple[str, str]]:
    """How far training set the sides apart, on pairs it saw and on pairs of tasks it did not see."""
    last = (run.training.get(stage) or [{}])[-1]
    kinds = (("pairs", "trained on"), ("held_out", "held out"))
    found = [
        (words, last.get(f"{kind}/log_ratio_margin"), last.get(f"{kind}/reward_accuracy")) for kind, words in kinds
    ]
    return [
        (f"margin on pairs {words}, nats", f"{margin:+.2f}, chosen preferred in {share:.0%}".replace("-", "−"))
        for words, margin, share in found
        if isinstance(margin, (int, float)) and isinstance(share, (int, float))
    ]


_COUNTS = {
    "tasks": "tasks explored", "tasks paired": "tasks with pairs", "ties": "tasks with ties only",
    "without a success": "tasks without a success", "without a failure": "tasks without a failure",
    "without a usable contrast": "tasks without a usable contrast", "pairs": "pairs",
    "expert chosen": "pairs with the expert chosen", "broken": "episodes: broken",
    "not to be chosen": "successes refused by the judge", "not to be rejected": "failures that teach nothing",
    "identical": "left out: identical", "different start": "left out: different start",
    "nothing trainable": "left out: nothing to train", "repeated": "left out: repeated",
    "over the limit per task": "left out: over the limit per task", "one-sided": "left out: one-sided",
    "led by one command": "left out: led by one command",
    "parts elsewhere than at a retry": "contrasts that part elsewhere than at a retry",
    "too often the expert": "left out: too often the expert",
    "random steps on the chosen side": "left out: random steps on the chosen side",
    "a random step decides": "left out: a random step decides",
    "the expert's steps on the rejected side": "left out: the expert's steps would be rejected",
    "rewards as recorded": "step rewards taken as recorded",
}  # fmt: skip
"""What pairing counts, in the order and words of the table."""


def _explored(iteration: Iteration) -> str:
    episodes = list(iteration.trajectories.values())
    rows = [("episodes explored", str(len(episodes))), ("of them successful", str(sum(e.success for e in episodes)))]
    again = list(iteration.retries.values())
    if again:
        rows.append(("taken up again from one step", str(len(again))))
        rows.append(("of these successful", str(sum(e.success for e in again))))
    refused = Counter(verdict.reason.partition(":")[0] for verdict in iteration.verdicts if not verdict.accepted)
    if iteration.verdicts:
        rows.append(("accepted by the judge", str(sum(verdict.accepted for verdict in iteration.verdicts))))
    rows += [(f"refused: {reason}", str(number)) for reason, number in refused.most_common(8)]
    return _facts("exploration", rows) if episodes or iteration.verdicts else ""


def _paired(run: RunData, iteration: Iteration) -> str:
    counts = {**iteration.counts, "pairs": len(iteration.pairs)} if iteration.counts or iteration.pairs else {}
    order = [*_COUNTS, *(name for name in counts if name not in _COUNTS)]
    rows = [(_COUNTS.get(name, name), str(counts[name])) for name in order if counts.get(name)]
    changes = _before_and_after(run, f"{iteration.folder.name}/dpo")
    rows += [(f"{side}: log-probability, nats", f"{changes[side]:+.2f}".replace("-", "−")) for side in changes]
    rows += _margins(run, f"{iteration.folder.name}/dpo")
    return _facts("pairs and what fell out", rows) if rows else ""


def _taught(run: RunData, iteration: Iteration) -> str:
    if not iteration.pairs:
        return ""
    balance = describe_balance(iteration.pairs, run.demonstrations)
    rows = [
        ("chosen side is the expert's", f"{balance.expert_chosen} of {balance.pairs}"),
        ("chosen response is the longer one", f"{balance.chosen_longer} of {balance.pairs}"),
    ]
    rows += [(kind, str(number)) for kind, number in list(balance.kinds.items())[:6]]
    words = "".join(
        element("span", f"{text(word.word)} {word.chosen_only} : {word.rejected_only}")
        for word in balance.one_sided_words
    )
    title = "in how many pairs only the chosen (left) or only the rejected (right) response has the word"
    line = element("p", "<small>one-sided words: </small>", element("small", words), class_="words", title=title)
    return element("div", _facts("what the pairs teach", rows), line if words else "")


def _facts(title: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        element("tr", element("th", text(name), scope="row"), element("td", text(value))) for name, value in rows
    )
    return element("div", element("h4", text(title)), element("table", element("tbody", body), class_="facts"))


# ---- why episodes end
def failures(run: RunData) -> str:
    """One bar per policy and split: successes, and the causes of the rest."""
    parts = []
    for split in run.splits:
        found = [(label, run.evaluation(label, split)) for label in run.labels]
        rows = [
            (display_name(label), count_causes(item.trajectories))
            for label, item in found
            if item and item.trajectories
        ]
        if rows:
            parts += [element("h3", text(split)), stacked_bars(rows, CAUSES)]
    return "".join(parts)


# ---- the run itself
def about(run: RunData) -> str:
    """The config, what was evaluated, and what could not be read."""
    parts = []
    if run.config:
        written = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        parts.append(_folded("config", element("pre", text(written), class_="text")))
    details = [item for item in run.evaluations if item.record]
    if details:
        rows = [
            [
                text(f"{display_name(item.label)}, {item.split}"),
                text(item.record.get("env_id", "")),
                text(item.record.get("manifest_digest", ""))[:16],
                text(item.record.get("decoding", "")),
            ]
            for item in details
        ]
        parts.append(
            _folded(
                "what was evaluated",
                table(["policy, split", "environment", "tasks' digest", "decoding"], rows, class_="facts"),
            )
        )
    parts += [element("p", "Could not be read: " + text(note), class_="warning") for note in run.notes]
    return "".join(parts)


def _folded(title: str, body: str) -> str:
    return element("details", element("summary", text(title)), body, class_="plain")
