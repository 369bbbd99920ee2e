"""What training did: curves of every training, signs of harm, and tables of what went in and what fell out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainers.evaluation.failures import CAUSES
from trainers.report.charts import Point, Series, line_chart
from trainers.report.data import Iteration, RunData
from trainers.report.facts import (
    before_and_after,
    demonstrated,
    explored,
    imitated,
    paired,
    taught,
    trained,
    training_name,
)
from trainers.report.markup import element, text


def training(run: RunData) -> str:
    """What cloning and every iteration did: pairs, drops, changes of log-probability, dev success on the way."""
    parts = []
    for stage in [stage for stage in run.training if "/" not in stage]:
        told = _columns(demonstrated(run), trained(run, stage)) + _ending(run, stage) + _training_charts(run, stage)
        parts += [element("h3", text(f"cloning ({stage})")), told] if told else []
    for iteration in run.iterations:
        parts += [element("h3", f"iteration {iteration.number}"), _iteration(run, iteration)]
    return "".join(parts) or element("p", "Nothing has been trained yet.", class_="quiet")


def _iteration(run: RunData, iteration: Iteration) -> str:
    prefix = iteration.folder.name + "/"
    stages = [stage for stage in run.training if stage.startswith(prefix)]
    charts = "".join(_named(stage, _ending(run, stage) + _training_charts(run, stage)) for stage in stages)
    warnings = [element("p", text(words), class_="warning") for stage in stages for words in _alarms(run, stage)]
    given = [trained(run, stage) for stage in stages]
    tables = [explored(iteration), paired(run, iteration), taught(run, iteration), imitated(iteration), *given]
    return "".join(warnings) + _columns(*tables) + charts


def _named(stage: str, charts: str) -> str:
    return element("h4", text(training_name(stage))) + charts if charts else ""


def _columns(*tables: str) -> str:
    return element("div", *tables, class_="columns") if any(tables) else ""


def _training_charts(run: RunData, stage: str) -> str:
    lines, probes = run.training.get(stage, []), run.probes.get(stage, [])
    charts = [
        line_chart("loss", [_series(lines, "train/loss", "loss")], x_title="optimiser steps", marks=len(lines) < 3),
        line_chart(
            "change of log-probability, nats",
            [_series(lines, f"train/{side}_logp_change", side) for side in ("chosen", "rejected")],
            x_title="optimiser steps", marks=len(lines) < 3, zero=True,
        ),
        line_chart(
            "success on dev while training", [_series(probes, "success_rate", "dev success")],
            x_title="optimiser steps", percent=True,
        ),
        line_chart(
            "average reward on dev while training", [_series(probes, "average_reward", "dev reward")],
            x_title="optimiser steps",
        ),
        line_chart(
            "commands not understood, on dev while training",
            [_series(probes, "invalid_action_share", "not understood")], x_title="optimiser steps", percent=True,
        ),
        _failures(probes),
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


def _failures(probes: Sequence[dict[str, Any]]) -> str:
    """The share of episodes by cause of failure; a probe names only the causes that it met."""
    found = {cause: _series(probes, f"failures/{cause}", cause) for cause in CAUSES}
    told = [line for line in probes if any("failures/" in name for name in line) or _number(line, "success_rate") == 1]
    steps = [float(line["step"]) for line in told if "step" in line]
    series = []
    for cause, one in found.items():
        shares = {point.x: point.y for point in one.points}
        series += [Series(cause, [Point(step, shares.get(step, 0.0)) for step in steps])] if shares else []
    only = f": {series[0].name}" if len(series) == 1 else ""  # one line has no legend
    return line_chart(f"how episodes fail on dev while training{only}", series, x_title="optimiser steps", percent=True)


def _ending(run: RunData, stage: str) -> str:
    """Why a training ended before its last step, if it did, and which weights were kept, if not the last ones."""
    lines = run.training.get(stage, [])
    ends = [f"{stage} stopped early {line['stopped_early']}" for line in lines if "stopped_early" in line][-1:]
    kept, last = run.recorded(stage).get("kept_step"), lines[-1].get("step") if lines else None
    if isinstance(kept, int) and kept != last:
        which = f"after step {kept}" if kept else "before the first step"
        ends.append(f"{stage} kept the weights {which}: none were better on dev. What was measured at the end of "
                    f"training is of those after step {last}.")  # fmt: skip
    return "".join(element("p", text(words), class_="quiet") for words in ends)


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
    changes = before_and_after(run, stage)
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
