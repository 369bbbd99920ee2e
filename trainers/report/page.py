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
from trainers.report.data import RunData, read_run
from trainers.report.markup import element, text
from trainers.report.viewer import choose_contrasts, viewer

_HOW_TO_READ = (
    "Every figure is a mean over tasks with its 95 % bootstrap interval. Below it stands the difference to the cloned "
    "policy, paired by task; it is coloured only where its interval leaves out 0."
)


def write_report(runs: Path | str | Iterable[Path | str], out: Path | str) -> Path:
    """Write the page.

    Args:
        runs: one run folder, or several.
        out: the HTML file, written atomically.

    Raises:
        FileNotFoundError: there is no such run folder.
    """
    folders = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    write_text(out, render([read_run(folder) for folder in folders]))
    return Path(out)


def render(runs: Sequence[RunData]) -> str:
    """The page as text; what was written by others is escaped, and a policy forbids everything from outside."""
    script = resources.files(__package__).joinpath("script.js").read_text(encoding="utf-8")
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
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
    body = "".join(_run(run, number if len(runs) > 1 else None) for number, run in enumerate(runs))
    footer = element("footer", "Made by <code>icto report</code>. This file needs no network.")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}<main>{footer}</main>'
        f"<script>{script}</script></body></html>\n"
    )


def _run(run: RunData, number: int | None) -> str:
    suffix = "" if number is None else f"-{number + 1}"
    parts = [
        ("results", "Results", _HOW_TO_READ, sections.results(run)),
        ("curves", "Over the iterations", "", sections.curves(run)),
        (
            "training", "What training did",
            "A falling loss proves nothing: watch the log-probability of both sides and success on dev.",
            sections.training(run),
        ),
        ("failures", "Why episodes end", "", sections.failures(run)),
        (
            "episodes", "Two episodes of one task",
            "The better one stands left. R is the running sum of step rewards, left minus right (Eq. 2).",
            viewer(choose_contrasts(run), suffix),
        ),
        ("about", "The run", "", sections.about(run)),
    ]  # fmt: skip
    shown = [part for part in parts if part[3]]
    links = "".join(element("a", text(title), href=f"#{name}{suffix}") for name, title, _, _ in shown)
    toggle = element("button", "light / dark", type="button", class_="theme", hidden="hidden") if not number else ""
    top = element("div", element("div", element("h1", text(run.name)), _subtitle(run)), toggle, class_="top")
    body = "".join(
        element(
            "section",
            element("h2", text(title), id=f"{name}{suffix}"),
            element("p", text(lead), class_="lead-in") if lead else "",
            content,
        )
        for name, title, lead, content in shown
    )
    return top + element("nav", element("div", links)) + element("main", body)


def _subtitle(run: RunData) -> str:
    environments = sorted({str(item.record.get("env_id", "")) for item in run.evaluations} - {""})
    model = run.config.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    facts = [run.config.get("method"), name, *environments]
    return element("p", text(" · ".join(str(fact) for fact in facts if fact)), class_="quiet")
