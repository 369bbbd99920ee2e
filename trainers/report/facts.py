"""Tables of facts: what was explored, what became of it, what the pairs teach, and what each training was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from icto_gym.trajectory import Trajectory
from trainers.pairing.balance import describe_balance
from trainers.report.data import Iteration, RunData
from trainers.report.markup import element, text

_COUNTS = {
    "tasks": "tasks explored", "tasks paired": "tasks with pairs", "ties": "tasks with ties only",
    "without a success": "tasks without a success", "without a failure": "tasks without a failure",
    "without a usable contrast": "tasks without a usable contrast", "pairs": "pairs",
    "own chosen": "pairs with the policy's own chosen", "agent won": "pairs with the policy's own chosen",
    "expert chosen": "pairs with the expert chosen", "expert won": "pairs with the expert chosen",
    "agent won at a step": "step pairs with the policy's own chosen",
    "expert won at a step": "step pairs with the expert chosen", "broken": "episodes: broken",
    "overflowed": "left out: the conversation did not fit", "unfinished": "left out: an answer did not end",
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
    "rewards as recorded": "step rewards taken as recorded", "malformed": "left out: without a command",
}  # fmt: skip
"""What pairing counts, in the order and words of the table."""
_SAMPLES = {
    "trajectories": "trajectories", "pairs": "pairs", "prompts": "prompts", "held_out": "of them held out",
    "truncated": "cut to length", "dropped": "left out",
}  # fmt: skip
"""What trainings count of what they are given."""
_TRAININGS = {"sft": "imitation", "dpo": "contrast", "ppo": "PPO", "reward": "reward model"}
_MARKED = {
    "positives": "demonstrations", "failures": "failures explored", "malformed": "of them not to be imitated",
    "broken": "of these broken", "negatives": "failures drawn",
    "malformed demonstrations": "demonstrations not to be imitated",
}  # fmt: skip
"""What NAT counts of what it imitates."""


_ANSWERED = {
    "turns": "turns answered under either instruction", "asked_again": "answers asked for again",
    "broken": "episodes left out: broken",
}  # fmt: skip
"""What RLCD's sampling counts."""
_LIMITS = {
    "cut": "episodes with a response that did not end", "shortened": "with observations left out, for want of room",
    "overflowed": "with a conversation that did not fit",
}  # fmt: skip
"""What play counts of the limits that responses met."""


def demonstrated(run: RunData) -> str:
    """What the expert showed, and what of it was not taken."""
    facts = run.recorded("demonstrations")
    rows = _rows(facts, {"episodes": "episodes of the expert", "kept": "kept"})
    return _facts("demonstrations", rows + _left_out(facts, "broken", "below the threshold")) if rows else ""


def explored(iteration: Iteration) -> str:
    """How exploration went, and what the judge said of it."""
    rows = _played("episodes explored", "of them successful", iteration.trajectories)
    rows += _played("taken up again from one step", "of these successful", iteration.retries)
    for side, played in iteration.prompted.items():
        rows += _played(f"episodes under the {side} instruction", f"successful under the {side} one", played)
    rows += _rows(iteration.recorded("explored"), _LIMITS)
    answered = iteration.recorded("answered")
    rows += _rows(answered, _ANSWERED)
    refused = Counter(verdict.reason.partition(":")[0] for verdict in iteration.verdicts if not verdict.accepted)
    if iteration.verdicts:
        rows.append(("accepted by the judge", str(sum(verdict.accepted for verdict in iteration.verdicts))))
    rows += [(f"refused: {reason}", str(number)) for reason, number in refused.most_common(8)]
    return _facts("exploration", rows) if rows else ""


def _played(words: str, successful: str, episodes: Mapping[str, Trajectory]) -> list[tuple[str, str]]:
    won = sum(episode.success for episode in episodes.values())
    return [(words, str(len(episodes))), (successful, str(won))] if episodes else []


def paired(run: RunData, iteration: Iteration) -> str:
    """What pairing counted, and how far training set the sides of its pairs apart."""
    counts = {**iteration.counts, "pairs": len(iteration.pairs)} if iteration.counts or iteration.pairs else {}
    order = [*_COUNTS, *(name for name in counts if name not in _COUNTS)]
    rows = [(_COUNTS.get(name, name), str(counts[name])) for name in order if counts.get(name)]
    rows += _agreement(iteration)
    changes = before_and_after(run, f"{iteration.folder.name}/dpo")
    rows += [(f"{side}: log-probability, nats", f"{changes[side]:+.2f}".replace("-", "−")) for side in changes]
    rows += _margins(run, f"{iteration.folder.name}/dpo")
    return _facts("pairs and what fell out", rows) if rows else ""


def _agreement(iteration: Iteration) -> list[tuple[str, str]]:
    """How often the side that RLCD's instructions chose ended better than the other."""
    facts = iteration.recorded("pairs")
    found = facts.get("label_agreement")
    if not isinstance(found, dict) or not found.get("pairs"):
        return []
    words = {
        "agrees": "chosen side ended better", "disagrees": "chosen side ended worse", "ties": "both sides ended alike",
    }  # fmt: skip
    rows = [(shown, f"{found.get(name)} of {found['pairs']}") for name, shown in words.items()]
    broken = facts.get("played_on", found["pairs"]) - found["pairs"]
    return [*rows, ("played on, but broken", str(broken))] if broken else rows


def taught(run: RunData, iteration: Iteration) -> str:
    """What the pairs have in common."""
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


def imitated(iteration: Iteration) -> str:
    """What is imitated beside or without pairs: successes (RFT), or episodes with a marker of their class (NAT)."""
    facts, marked = iteration.recorded("imitated"), iteration.recorded("marked")
    words = {
        "own": "episodes of the policy" if "best" in facts else "successes of the policy",
        "best": "of these no success, but the best at the task",
        "others": "demonstrations",
    }  # fmt: skip
    rows = _rows(facts, words)
    rows += _left_out(facts, *(name for name in facts if name not in words))
    rows += _rows(marked, _MARKED)
    classes = marked.get("classes") or {}
    rows += _rows(classes, {marker: f"marked {marker}" for marker in classes})
    return _facts("what is imitated", rows) if rows else ""


def trained(run: RunData, stage: str) -> str:
    """What a training was given and what it left out; of a reward model, its error on what was held out."""
    facts = run.recorded(stage)
    rows = _rows(facts, _SAMPLES)
    rows += _left_out(facts, *(name for name in facts if name.startswith("dropped: ")))
    rows += _held_out_error(run, stage)
    return _facts(f"{training_name(stage)}: samples", rows) if rows else ""


def training_name(stage: str) -> str:
    """What a training is called: ``iteration-01/dpo`` -> ``contrast``."""
    kind = stage.rpartition("/")[2]
    return _TRAININGS.get(kind, kind)


def _held_out_error(run: RunData, stage: str) -> list[tuple[str, str]]:
    last = (run.training.get(stage) or [{}])[-1]
    names = {
        "holdout/mse": ("squared error on held-out steps", ".3g"),
        "holdout/baseline_mse": ("that of always saying the mean", ".3g"),
        "holdout/accuracy": ("held-out pairs ranked as labelled", ".0%"),
    }
    return [
        (words, format(last[name], form)) for name, (words, form) in names.items() if isinstance(last.get(name), float)
    ]


def _rows(facts: Mapping[str, Any], words: Mapping[str, str]) -> list[tuple[str, str]]:
    """The counts that have words and are not 0, in the order of the words."""
    return [(shown, str(facts[name])) for name, shown in words.items() if facts.get(name)]


def _left_out(facts: Mapping[str, Any], *reasons: str) -> list[tuple[str, str]]:
    return _rows(facts, {reason: f"left out: {reason.removeprefix('dropped: ')}" for reason in reasons})


def _facts(title: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        element("tr", element("th", text(name), scope="row"), element("td", text(value))) for name, value in rows
    )
    return element("div", element("h4", text(title)), element("table", element("tbody", body), class_="facts"))


def before_and_after(run: RunData, stage: str) -> dict[str, float]:
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
