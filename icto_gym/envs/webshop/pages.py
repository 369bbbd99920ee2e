"""A page as the two text observations show it: ``text`` and ``text_rich``.

The original renders HTML and reads it back. What that reading does to texts is kept: text of white space only vanishes
if a line break is in it and is one blank otherwise; nothing else is changed in ``text_rich``, while ``text`` strips
each piece.
"""

from __future__ import annotations

import json

from icto_gym.envs.webshop.catalog import Catalog, Product
from icto_gym.envs.webshop.session import END, ITEM, RESULTS, START, ShopState, address

SEPARATOR = " [SEP] "
_ASCII_BLANKS = " \n\t\f\r"
_MANY = 20_000  # products whose pieces are kept before starting afresh

# The end page's fixed labels, the original's spelling included; code, options and score come in between.
END_HEAD = (
    "Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)", "Purchased",
    "asin",
)  # fmt: skip
END_MIDDLE = (
    "attrs", "None", "category", "None", "query", "None", "product category", "None", "Target", "asin", "options",
    "attrs", "price upper", "instuction text", "category", "product category", "query", "Goal ", "None", "Reward",
    "Your score (min 0.0, max 1.0)",
)  # fmt: skip
END_TAIL = ("Reward Details ", "None")


def read_back(text: str) -> list[str]:
    """A text node as the original's reader sees it: none, one blank, or the text."""
    if text.strip(_ASCII_BLANKS):
        return [text]
    return [] if "\n" in text or not text else [" "]


def button(label: str, clicked: bool = False) -> str:
    """A button or link as ``text_rich`` writes it."""
    return f"[clicked button] {label} [clicked button_]" if clicked else f"[button] {label} [button_]"


def bought_options(state: ShopState) -> str:
    """The options on the end page: JSON with sorted names, safe inside HTML."""
    shown = json.dumps(dict(state.options), sort_keys=True)
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("'", "\\u0027")):
        shown = shown.replace(sign, code)
    return shown


def sub_page_texts(product: Product, sub_page: str) -> list[str]:
    """The text nodes of a sub-page below its buttons."""
    if sub_page == "Description":
        return read_back(product.description)
    if sub_page == "Features":
        return [node for bullet in product.bullets for node in read_back(f" {bullet}")]
    if sub_page == "Attributes":
        listed = [node for attribute in product.attributes for node in read_back(f" {attribute}")]
        facts = (product.category, product.query, product.product_category)
        return listed + [node for fact in facts for node in read_back(fact)]
    return []  # reviews: the original reads no review file


def end_texts(state: ShopState) -> list[str]:
    """The text nodes of the end page."""
    score = str(state.purchase.total) if state.purchase else "None"
    return [*END_HEAD, str(state.asin), "options", bought_options(state), *END_MIDDLE, score, *END_TAIL]


class TextPages:
    """Writes pages of one catalogue; what depends on a product alone is written once.

    Args:
        catalog: the products.
        show_attributes: item pages have an ``Attributes`` button.
    """

    def __init__(self, catalog: Catalog, show_attributes: bool = False) -> None:
        self._products = catalog.products
        middle = ("Description", "Features", "Reviews", *(("Attributes",) if show_attributes else ()))
        self._item_buttons = (*middle, "Buy Now")
        self._kept: dict[tuple[str, str], str] = {}

    # ---- text --------------------------------------------------------------------------------------
    def text(self, state: ShopState, instruction: str) -> str:
        """The page as pieces joined by `SEPARATOR`."""
        wish = SEPARATOR.join(["Instruction:", *(node.strip() for node in read_back(instruction))])
        if state.page == START:
            return f"WebShop{SEPARATOR}{wish}{SEPARATOR}Search"
        if state.page == END:
            return SEPARATOR.join(node.strip() for node in end_texts(state))
        if state.page == RESULTS:
            parts = [wish, "Back to Search", f"Page {state.number} (Total results: {len(state.hits)})"]
            if state.number > 1:
                parts.append("< Prev")
            parts.append("Next >")
            parts += [self._keep("row", asin) for asin in state.shown]
            return SEPARATOR.join(parts)
        kind = "item" if state.page == ITEM else state.sub_page
        return f"{wish}{SEPARATOR}Back to Search{SEPARATOR}< Prev{self._keep(kind, str(state.asin))}"

    def _keep(self, kind: str, asin: str) -> str:
        written = self._kept.get((kind, asin))
        if written is None:
            if len(self._kept) > _MANY:
                self._kept.clear()
            written = self._kept[kind, asin] = self._write(kind, self._products[asin])
        return written

    def _write(self, kind: str, product: Product) -> str:
        """A part of a page that depends on the product alone."""
        if kind == "row":
            nodes = [product.asin, *read_back(product.title), product.price_text]
            return SEPARATOR.join(node.strip() for node in nodes)
        if kind.startswith("rich "):
            return self._write_rich(kind, product)
        nodes = sub_page_texts(product, kind)
        if kind == "item":
            nodes = [
                node for name, values in product.options.items() for text in (name, *values) for node in read_back(text)
            ]
            nodes += [*read_back(product.title), f"Price: {product.price_text}", "Rating: N.A.", *self._item_buttons]
        return "".join(SEPARATOR + node.strip() for node in nodes)

    # ---- text_rich ---------------------------------------------------------------------------------
    def rich(self, state: ShopState, instruction: str) -> str:
        """The page as lines, with buttons marked and clicked ones told apart."""
        lines = "".join(f"{node}\n" for node in read_back(instruction))
        if state.page == START:
            return f"WebShop\nInstruction: \n{lines}{button('Search')}\n"
        if state.page == END:
            return "".join(f"{node}\n" for node in end_texts(state))
        head = f"Instruction:\n{lines}{button('Back to Search')}\n"
        if state.page == RESULTS:
            head += f"Page {state.number} (Total results: {len(state.hits)})\n"
            if state.number > 1:
                head += f"{button('< Prev')}\n"
            rows = (self._keep("rich opened" if a in state.opened else "rich row", a) for a in state.shown)
            return f"{head}{button('Next >')}\n{''.join(rows)}"
        head += f"{button('< Prev')}\n"
        asin = str(state.asin)
        if state.page != ITEM:
            return head + self._keep(f"rich {state.sub_page}", asin)
        return self._clicked(state) + head + self._rich_options(state) + self._keep("rich item", asin)

    def _write_rich(self, kind: str, product: Product) -> str:
        title = read_back(product.title)
        if kind in ("rich row", "rich opened"):
            nodes = ["\n" + button(product.asin, kind == "rich opened"), *title, product.price_text]
        elif kind == "rich options":
            nodes = [line for name, values in product.options.items() for line in _rich_option(name, values, "")]
        elif kind == "rich item":
            nodes = [*title, f"Price: {product.price_text}", "Rating: N.A.", *map(button, self._item_buttons)]
        else:
            nodes = sub_page_texts(product, kind.removeprefix("rich "))
        return "".join(f"{node}\n" for node in nodes)

    def _rich_options(self, state: ShopState) -> str:
        where = address(state, "")
        if '"' not in where:  # nothing can be marked: the common case is written once
            return self._keep("rich options", str(state.asin))
        options = self._products[str(state.asin)].options
        lines = [line for name, values in options.items() for line in _rich_option(name, values, where)]
        return "".join(f"{line}\n" for line in lines)

    def _clicked(self, state: ShopState) -> str:
        """The lines in front of an item page, the last marked option first."""
        where = address(state, "")
        if '"' not in where:
            return ""
        values = (value for values in self._products[str(state.asin)].options.values() for value in values)
        marked = [node for value in values for node in read_back(value) if f'"{node}"' in where]
        return "".join(f"You have clicked {label}.\n" for label in reversed(marked))


def _rich_option(name: str, values: tuple[str, ...], where: str) -> list[str]:
    """An option's lines; a label that stands in double quotes in the address counts as clicked."""
    labels = [node for value in values for node in read_back(value)]
    return [*read_back(name), *(f"  {button(label, f'{chr(34)}{label}{chr(34)}' in where)}" for label in labels)]
