"""Two episodes of one task side by side, step by step, with R_t and the point where they part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from icto_gym.trajectory import Step, Trajectory
from trainers.evaluation.failures import failure_cause
from trainers.pairing.balance import Kind, decision_kinds
from trainers.pairing.step import cumulative_contrast
from trainers.pairing.trajectory import Unpaired, divergence
from trainers.records import PreferencePair
from trainers.report.data import Iteration, RunData, display_name
from trainers.report.markup import element, foldable, text


@dataclass(frozen=True)
class SideBySide:
    """Two episodes of one task; the better one stands left."""

    group: str
    """Where they come from, a heading of the list."""
    left: Trajectory
    right: Trajectory
    left_name: str
    right_name: str
    left_rewards: tuple[float, ...]
    right_rewards: tuple[float, ...]
    rewards_from: str = "recorded"
    left_verdict: str = ""
    right_verdict: str = ""

    @property
    def title(self) -> str:
        return f"{self.left.task_id}: {self.left.score:.2f} against {self.right.score:.2f}"


def choose_contrasts(run: RunData, each: int = 6) -> list[SideBySide]:
    """A few telling ones: what training changed (for better and for worse), then pairs it learned from."""
    found: list[SideBySide] = []
    baseline = run.baseline or (run.labels[0] if run.labels else None)
    for split in run.splits:
        last = [label for label in run.labels if run.evaluation(label, split)]
        if not found and last and last[-1] != baseline:
            found += _changed(run, split, baseline, last[-1], each)
    for iteration in reversed(run.iterations):
        found += _pairs(run, iteration, each)
    return found


def _changed(run: RunData, split: str, before: str | None, after: str, each: int) -> list[SideBySide]:
    sides = [run.evaluation(label, split) for label in (before, after)]
    if sides[0] is None or sides[1] is None:
        return []
    by_task = [{item.task_id: item for item in side.trajectories if item.steps} for side in sides if side]
    both = [(by_task[0][task], by_task[1][task]) for task in sorted(by_task[0].keys() & by_task[1].keys())]
    names = display_name(str(before)), display_name(after)
    better = [(new, old) for old, new in both if new.score > old.score + 1e-9]
    worse = [(old, new) for old, new in both if old.score > new.score + 1e-9]
    found = []
    for title, pairs, order in (("better", better, (names[1], names[0])), ("worse", worse, names)):
        group = f"{split}: {title} after training ({len(pairs)} of {len(both)} tasks)"
        for left, right in sorted(pairs, key=_telling)[:each]:
            found.append(SideBySide(group, left, right, *order, _recorded(left), _recorded(right)))
    return found


def _telling(pair: tuple[Trajectory, Trajectory]) -> tuple[float, int, str]:
    """Large differences first, short episodes first."""
    left, right = pair
    return right.score - left.score, len(left.steps) + len(right.steps), left.task_id


def _pairs(run: RunData, iteration: Iteration, each: int) -> list[SideBySide]:
    """Pairs of an iteration, one of each kind of decision before a second of any."""
    ranked: list[tuple[int, PreferencePair]] = []
    seen: Counter[Kind] = Counter()
    for pair, kind in zip(iteration.pairs, decision_kinds(iteration.pairs), strict=True):
        seen[kind] += 1
        ranked.append((seen[kind], pair))
    reasons = {verdict.trajectory_id: verdict.reason for verdict in iteration.verdicts}
    episodes = {**run.demonstrations, **iteration.trajectories}
    found: list[SideBySide] = []
    done: set[tuple[str, str]] = set()
    for _, pair in sorted(ranked, key=lambda item: item[0]):
        ids = pair.chosen_id, pair.rejected_id
        if len(found) == each or ids in done or not all(name in episodes for name in ids):
            continue
        done.add(ids)
        left, right = (episodes[name] for name in ids)
        rewards, source = _rewards(iteration, left, right)
        group = f"iteration {iteration.number}: pairs it was trained on ({len(iteration.pairs)} in all)"
        names = f"chosen · {left.policy}", f"rejected · {right.policy}"
        verdicts = reasons.get(ids[0], ""), reasons.get(ids[1], "")
        found.append(SideBySide(group, left, right, *names, *rewards, source, *verdicts))
    return found


def _rewards(
    iteration: Iteration, left: Trajectory, right: Trajectory
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], str]:
    """Step rewards of both sides and where they come from: those given for both, else the recorded ones."""
    first, second = (iteration.step_rewards.get(side.trajectory_id) for side in (left, right))
    if first and second and (len(first.rewards), len(second.rewards)) == (len(left.steps), len(right.steps)):
        return (first.rewards, second.rewards), first.source
    return (_recorded(left), _recorded(right)), "recorded"


def _recorded(trajectory: Trajectory) -> tuple[float, ...]:
    return tuple(step.reward for step in trajectory.steps)


# ---- drawing


def viewer(contrasts: Sequence[SideBySide], suffix: str = "") -> str:
    """The list to pick from and all contrasts; a script shows one at a time, without it all are shown."""
    if not contrasts:
        return element("p", "There are no two episodes of one task to show yet.", class_="quiet")
    options = _options(contrasts)
    picker = element(
        "div",
        element("button", "←", type="button", class_="previous", title="previous (left arrow key)"),
        element("select", options, aria_label="two episodes of one task"),
        element("button", "→", type="button", class_="next", title="next (right arrow key)"),
        class_="picker",
    )
    return element(
        "div", picker, *(_contrast(f"{number}{suffix}", item) for number, item in enumerate(contrasts)), class_="viewer"
    )


def _options(contrasts: Sequence[SideBySide]) -> str:
    groups: dict[str, list[str]] = {}
    for number, item in enumerate(contrasts):
        groups.setdefault(item.group, []).append(element("option", text(item.title), value=number))
    return "".join(element("optgroup", *options, label=group) for group, options in groups.items())


def _contrast(number: str, item: SideBySide) -> str:
    try:
        parting = divergence(item.left, item.right)
        remark = ""
    except Unpaired as reason:
        parting = 0 if str(reason) == "different start" else min(len(item.left.steps), len(item.right.steps))
        remark = f"They never part ({reason})." if parting else f"They part at once ({reason})."
    head = element(
        "header",
        element("h4", text(item.title)),
        element("p", text(item.group), class_="quiet"),
        _goal(item.left),
        element("p", text(remark), class_="quiet") if remark else "",
    )
    sides = element("div", element("span"), _side_head(item, "left"), _side_head(item, "right"), class_="step heads")
    return element("article", head, sides, *_steps(item, parting), class_="contrast", id=f"contrast-{number}")


def _goal(trajectory: Trajectory) -> str:
    first = trajectory.steps[0].observation if trajectory.steps else trajectory.final_observation
    opening = "" if trajectory.instruction in first else foldable(trajectory.instruction, kind="goal")
    return opening + element("div", element("span", "both see", class_="tag"), foldable(first), class_="opening")


def _side_head(item: SideBySide, side: str) -> str:
    trajectory: Trajectory = getattr(item, side)
    verdict = getattr(item, f"{side}_verdict")
    return element(
        "div",
        element("b", text(getattr(item, f"{side}_name"))),
        element("span", f"score {trajectory.score:.2f}", class_="score"),
        element("span", f"{len(trajectory.steps)} actions · {text(failure_cause(trajectory))}", class_="quiet"),
        element("span", f"judge: {text(verdict)}", class_="quiet verdict") if verdict else "",
        class_=f"side {side} head",
    )


def _steps(item: SideBySide, parting: int) -> Iterable[str]:
    leads = cumulative_contrast(item.left_rewards, item.right_rewards)
    for t, lead in enumerate(leads):
        if t == parting:
            yield element("div", element("span", f"here they part: step {t + 1}"), class_="parting")
        left, right = _step_of(item, "left", t), _step_of(item, "right", t)
        gutter = element("div", element("b", str(t + 1)), _lead(lead, item.rewards_from), class_="gutter")
        if t < parting:
            yield element("div", gutter, element("div", left, class_="side both"), class_="step shared")
        else:
            sides = (element("div", step, class_=f"side {side}") for side, step in (("left", left), ("right", right)))
            yield element("div", gutter, *sides, class_="step")


def _lead(lead: float, source: str) -> str:
    title = f"R_t, the lead of the left side: sum of step rewards ({source}), left minus right, up to this step"
    kind = "up" if lead > 1e-9 else "down" if lead < -1e-9 else ""
    shown = f"{lead:+.2f}".replace("-", "−") if kind else "0"
    return element("span", f"R {shown}", class_=f"lead {kind}".strip(), title=title)


def _step_of(item: SideBySide, side: str, t: int) -> str:
    trajectory: Trajectory = getattr(item, side)
    if t >= len(trajectory.steps):
        return element("span", "(ended)", class_="quiet") if t == len(trajectory.steps) else ""
    step = trajectory.steps[t]
    after = trajectory.steps[t + 1].observation if t + 1 < len(trajectory.steps) else trajectory.final_observation
    known = _known(after, step.observation, trajectory.instruction)
    parts = _thought(step), _action(step, getattr(item, f"{side}_rewards")[t])
    return "".join(parts) + foldable(after, kind="observation", skip=known)


def _known(observation: str, before: str, instruction: str) -> int:
    """How many leading characters the reader has seen: the goal on every page, what stood there before."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(observation, before, strict=False)))
    shared = shared if shared == len(observation) else observation.rfind(" ", 0, shared) + 1
    place = observation.find(instruction) if instruction else -1
    return max(shared if shared > 40 else 0, place + len(instruction) if 0 <= place < 200 else 0)


def _thought(step: Step) -> str:
    if not step.thought or step.thought == step.action.strip():  # a malformed response is shown once, as the command
        return ""
    return element("p", text(step.thought), class_="thought", dir="auto")


def _action(step: Step, reward: float) -> str:
    marks = "" if step.valid else element("span", "not understood", class_="tag bad")
    if abs(reward) > 1e-9:
        marks += element("span", f"{reward:+.2f}".replace("-", "−"), class_="tag reward", title="step reward")
    shown = step.action if len(step.action) <= 400 else step.action[:400] + " …"
    return element("p", element("code", text(shown), dir="auto"), marks, class_="action")
