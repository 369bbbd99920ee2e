"""One self-contained HTML page about one or several runs: no network, no outside file."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from icto_gym.files import write_text
from trainers.report import sections
from trainers.report.comparison import in_and_out, side_by_side
from trainers.report.cost import cost
from trainers.report.data import RunData, read_run
from trainers.report.distributions import distributions
from trainers.report.episodes import MOST_EPISODES
from trainers.report.markup import element, text
from trainers.report.training import training
from trainers.report.viewer import viewer

_HOW_TO_READ = (
    "Every figure is a mean over tasks with its 95 % bootstrap interval. Below it stands the difference to the cloned "
    "policy, paired by task; it is coloured only where its interval leaves out 0."
)


_EPISODES = (
    "The better or the chosen one stands left. R is the running sum of step rewards, left minus right (Eq. 2); r is "
    "the reward of a step; p is the probability of the command before and after training, where icto report "
    "--likelihoods measured it."
)


def write_report(
    runs: Path | str | Iterable[Path | str], out: Path | str, *, most_episodes: int = MOST_EPISODES
) -> Path:
    """Write the page.

    Args:
        runs: one run folder, or several.
        out: the HTML file, written atomically.
        most_episodes: so many go into the viewer, telling ones first.

    Raises:
        FileNotFoundError: there is no such run folder.
    """
    folders = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    write_text(out, render([read_run(folder) for folder in folders], most_episodes))
    return Path(out)


def render(runs: Sequence[RunData], most_episodes: int = MOST_EPISODES) -> str:
    """The page as text; what was written by others is escaped, and a policy forbids everything from outside."""
    files = resources.files(__package__)
    script = "".join(files.joinpath(name).read_text(encoding="utf-8") for name in ("script.js", "viewer.js"))
    style = files.joinpath("style.css").read_text(encoding="utf-8")
    # only this very script may run, should a text ever get past the escaping
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    title = " and ".join(run.name for run in runs) or "no run"
    head = "".join(
        [
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">',
            element("title", text(f"{title} – ICTO report")),
            f"<style>{style}</style>",
        ]
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{_body(runs, most_episodes)}'
        f"<script>{script}</script></body></html>\n"
    )


def _body(runs: Sequence[RunData], most_episodes: int) -> str:
    several = len(runs) > 1
    body, links = [], []
    if several:
        body.append(element("section", *_heading("side-by-side", "Side by side", ""), side_by_side(runs)))
        links.append(("side-by-side", "Side by side"))
    for number, run in enumerate(runs, start=1):
        parts = _sections(run)
        if several:
            body.append(element("h2", text(run.name), id=f"run-{number}", class_="run") + _subtitle(run))
        links += [(f"run-{number}", run.name)] if several else [(f"{name}-1", title) for name, title, _, _ in parts]
        body.append(_run(parts, number))
    episodes = _heading("episodes", "Two episodes of one task", _EPISODES), viewer(runs, most_episodes)
    body.append(element("section", *episodes[0], episodes[1]))
    links.append(("episodes", "Episodes"))
    nav = element("nav", element("div", *(element("a", text(title), href=f"#{name}") for name, title in links)))
    toggle = element("button", "light / dark", type="button", class_="theme", hidden="hidden")
    title = (
        element("h1", text(f"{len(runs)} runs")) if several else element("h1", text(runs[0].name)) + _subtitle(runs[0])
    )
    footer = element("footer", "Made by <code>icto report</code>. This file needs no network.")
    top = element("div", element("div", title), toggle, class_="top")
    return top + nav + element("main", *body, footer)


def _heading(name: str, title: str, lead: str) -> tuple[str, str]:
    return element("h2", text(title), id=name), element("p", text(lead), class_="lead-in") if lead else ""


def _sections(run: RunData) -> list[tuple[str, str, str, str]]:
    """Name, title, how to read it, content; only what there is something to say about."""
    parts = [
        ("results", "Results", _HOW_TO_READ, sections.results(run)),
        ("generalisation", "In and out of distribution", "", in_and_out(run)),
        ("curves", "Over the iterations", "", sections.curves(run)),
        ("spread", "Scores and lengths", "", distributions(run)),
        (
            "training", "What training did",
            "A falling loss proves nothing: watch the log-probability of both sides and success on dev.",
            training(run),
        ),
        ("failures", "Why episodes end", "", sections.failures(run)),
        ("cost", "What it cost", "", cost(run)),
        ("about", "The run", "", sections.about(run)),
    ]  # fmt: skip
    return [part for part in parts if part[3]]


def _run(parts: Sequence[tuple[str, str, str, str]], number: int) -> str:
    return "".join(
        element("section", *_heading(f"{name}-{number}", title, lead), content) for name, title, lead, content in parts
    )


def _subtitle(run: RunData) -> str:
    environments = sorted({str(item.record.get("env_id", "")) for item in run.evaluations} - {""})
    model = run.config.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    facts = [run.config.get("method"), name, *environments]
    return element("p", text(" · ".join(str(fact) for fact in facts if fact)), class_="quiet")
