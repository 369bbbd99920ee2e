"""Tables of facts about an iteration: what was explored, what became of it, and what the pairs teach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

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


def explored(iteration: Iteration) -> str:
    """How exploration went, and what the judge said of it."""
    rows = _played("episodes explored", "of them successful", iteration.trajectories)
    rows += _played("taken up again from one step", "of these successful", iteration.retries)
    for side, played in iteration.prompted.items():
        rows += _played(f"episodes under the {side} instruction", f"successful under the {side} one", played)
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
    changes = before_and_after(run, f"{iteration.folder.name}/dpo")
    rows += [(f"{side}: log-probability, nats", f"{changes[side]:+.2f}".replace("-", "−")) for side in changes]
    rows += _margins(run, f"{iteration.folder.name}/dpo")
    return _facts("pairs and what fell out", rows) if rows else ""


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
