"""How to act in the shop, in words: the commands, the aim, the form of an answer, and a worked example."""

from __future__ import annotations

from icto_gym.dialogue import Message

SYSTEM_PROMPT = """\
You are in a shop. Buy the product that meets every wish of the instruction: features, options, price.
There are two commands:
search[words] looks for products, from the start page.
click[text] presses a button, a product code or an option value that the page shows.
Click the wanted options first; click[Buy Now] ends the task.
Answer every page in this form:
Thought: one or two short sentences
Action: one command"""

_WISH = "Instruction: [SEP] i need a folding umbrella in green, and price lower than 30.00 dollars"

EXAMPLE: tuple[Message, ...] = (
    Message("user", f"WebShop [SEP] {_WISH} [SEP] Search"),
    Message(
        "assistant",
        "Thought: Wanted: folding umbrella, green, under $30. I search for umbrella.\nAction: search[umbrella]",
    ),
    Message(
        "user",
        f"Observation: {_WISH} [SEP] Back to Search [SEP] Page 1 (Total results: 3) [SEP] Next > [SEP] "
        "B0XAMPLE01 [SEP] Gale Sturdy Umbrella [SEP] $18.0 [SEP] "
        "B0XAMPLE02 [SEP] Gale Folding Umbrella [SEP] $64.0 [SEP] "
        "B0XAMPLE03 [SEP] Pluvia Folding Umbrella [SEP] $22.5",
    ),
    Message(
        "assistant",
        "Thought: Needs folding, under $30. B0XAMPLE02 at $64.0 is over; B0XAMPLE03 at $22.5 fits.\n"
        "Action: click[B0XAMPLE03]",
    ),
    Message(
        "user",
        f"Observation: {_WISH} [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] black [SEP] green [SEP] "
        "Pluvia Folding Umbrella [SEP] Price: $22.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews "
        "[SEP] Buy Now",
    ),
    Message("assistant", "Thought: The color must be green, so I click it.\nAction: click[green]"),
    Message(
        "user",
        f"Observation: {_WISH} [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] black [SEP] green [SEP] "
        "Pluvia Folding Umbrella [SEP] Price: $22.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews "
        "[SEP] Buy Now",
    ),
    Message("assistant", "Thought: Green is set and $22.5 is under $30: I buy it.\nAction: click[Buy Now]"),
)
"""A worked example as messages, of a product that no data holds; for `icto_gym.wrappers.ReAct(example=...)`."""
