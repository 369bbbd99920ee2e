"""The place of the trajectory viewer in the page: its controls, and the packed episodes for the script."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.report.data import RunData
from trainers.report.episodes import MOST_EPISODES, Packing
from trainers.report.markup import element

_SHOWN = (
    ("telling", "telling pairs"),
    ("both", "tasks with a success and a failure"),
    ("all", "all tasks"),
)
_KEYS = (
    ("← →", "previous, next"), ("/", "filter"), ("d", "to the step where they part"), ("o", "open or fold long texts"),
    ("x", "swap the sides"),
)  # fmt: skip


def viewer(runs: Sequence[RunData], most: int = MOST_EPISODES) -> str:
    """The viewer over all runs; with ``most`` episodes, shared evenly between the runs."""
    packing = Packing()
    for number, run in enumerate(runs, start=1):
        packing.add_run(run, most * number // len(runs))
    if not packing.episodes:
        return element("p", "There are no episodes to show yet.", class_="quiet")
    return element(
        "div",
        _picker(),
        element("p", _keys(), class_="quiet keys"),
        element("noscript", element("p", "The episodes are drawn by a script, which is switched off here.")),
        element("article", element("p", "…", class_="quiet"), class_="contrast", aria_live="polite"),
        f'<script type="text/plain" class="episodes">{packing.payload()}</script>',
        class_="viewer",
    )


def _picker() -> str:
    options = (element("option", words, value=name) for name, words in _SHOWN)
    return element(
        "div",
        element("button", "←", type="button", class_="previous", title="previous (left arrow key)"),
        element("select", class_="entries", aria_label="two episodes of one task"),
        element("button", "→", type="button", class_="next", title="next (right arrow key)"),
        element("select", *options, class_="kinds", aria_label="what the list holds"),
        '<input type="search" class="filter" placeholder="filter by task, goal or policy" aria-label="filter">',
        element("output", class_="count"),
        class_="picker",
    )


def _keys() -> str:
    return " · ".join(f"{element('kbd', key)} {words}" for key, words in _KEYS)
