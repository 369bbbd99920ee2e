"""A page as HTML: the elements, ids and classes that programs look for in the original's pages.

``#search_input``, ``.btn``, ``.product-link``, ``#instruction-text``, ``#product-image`` and radio inputs named after
options stand where the original has them, and a reader that lists visible text finds what the ``text`` observation
shows. Every control is a button of the form ``#act`` whose value is the action it stands for, so a page works without
a script and without a session's name in it.

Pages are written in one canonical form (`write_tag`), the one in which `write_tree` writes what a browser has parsed:
if the two are equal, the browser understood the page as it was meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from icto_gym.envs.webshop.catalog import Catalog, Product
from icto_gym.envs.webshop.pages import bought_options
from icto_gym.envs.webshop.session import END, ITEM, RESULTS, START, ShopState

_HEAD = (
    '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n<link rel="stylesheet" href="/static/shop.css">\n'
    '<title>WebShop</title>\n</head>\n<body>\n<form id="act" method="post"></form>\n<main id="shop">'
)
_FOOT = "</main>\n</body>\n</html>\n"
_MANY = 5_000
_VOID = {"br", "img", "input"}
_SWITCHES = {"autofocus", "checked", "hidden", "required"}
"""Attributes that are there or not, and have no value."""
_KEYS = {"Back to Search": "b", "< Prev": "p", "Next >": "n", "Buy Now": "y"}
"""Access keys: pressed with Alt, or as the browser has it."""
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that no HTML page can carry; every reader shows U+FFFD for them."""


def escape(text: str) -> str:
    """Make a text safe inside an element or a quoted attribute."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace('"', "&#34;").replace("'", "&#39;").replace("\r", "&#13;")
    return _UNWRITABLE.sub("\ufffd", text)


def write_tag(name: str, attributes: Sequence[tuple[str, str]]) -> str:
    """An opening tag in canonical form; attributes are (name, unescaped value)."""
    written = (key if key in _SWITCHES else f'{key}="{escape(value)}"' for key, value in attributes)
    return f"<{' '.join((name, *written))}>"


def write_tree(tree: Any) -> str:
    """An element as HTML in canonical form: ``[name, [[attribute, value], ...], [child, ...]]``; a text is a str."""
    if isinstance(tree, str):
        return escape(tree)
    name, attributes, children = tree
    inside = "".join(map(write_tree, children))
    return write_tag(name, attributes) + (inside if name in _VOID else f"{inside}</{name}>")


def document(shop: str) -> str:
    """The whole page around what stands inside ``#shop``."""
    return f"{_HEAD}{shop}{_FOOT}"


def _button(label: str, classes: str = "btn btn-primary") -> str:
    key = f' accesskey="{_KEYS[label]}"' if label in _KEYS else ""
    value = escape(f"click[{label}]")
    return (
        f'<button type="submit" form="act" name="action" value="{value}" class="{classes}"{key}>{escape(label)}'
        "</button>\n"
    )


def _row(content: str, classes: str = "row top-buffer") -> str:
    return f'<div class="{classes}">\n{content}</div>\n'


class HtmlPages:
    """Writes pages of one catalogue; what depends on a product alone is written once.

    Args:
        catalog: the products.
        show_attributes: item pages have an ``Attributes`` button.
    """

    def __init__(self, catalog: Catalog, show_attributes: bool = False) -> None:
        self._products = catalog.products
        self._middle = ("Description", "Features", "Reviews", *(("Attributes",) if show_attributes else ()))
        self._cards: dict[str, str] = {}

    def inside(self, state: ShopState, instruction: str) -> str:
        """What stands inside ``#shop``; the web site puts it into a frame of its own."""
        if state.page == START:
            return self._start(instruction)
        if state.page == END:
            return self._end(state)
        top = (
            '\n<div class="container py-5">\n<div class="row top-buffer">\n<div class="col-sm-6">\n'
            f'<div id="instruction-text" class="text-center">\n<h4>Instruction:<br>{escape(instruction)}</h4>\n'
            f"</div>\n</div>\n</div>\n{_row(_button('Back to Search', 'btn btn-success'))}"
        )
        if state.page == RESULTS:
            return f"{top}{self._results(state)}</div>\n"
        product = self._products[str(state.asin)]
        body = self._item(state, product) if state.page == ITEM else self._sub_page(state, product)
        return f"{top}{body}</div>\n"

    def _start(self, instruction: str) -> str:
        return (
            '\n<div class="container">\n<div class="row">\n'
            '<div id="logo" class="text-center">\n<h2>WebShop</h2>\n</div>\n'
            '<div id="instruction-text" class="text-center">\n'
            f"<h4>Instruction: <br>{escape(instruction)}</h4>\n</div>\n"
            '<div role="search" id="form-buscar" class="input-group">\n'
            '<input id="search_input" class="form-control" type="text" form="act" name="search_query" '
            'placeholder="Search..." aria-label="Search words" accesskey="s" autocomplete="off" required autofocus>\n'
            '<span class="input-group-btn">\n<button type="submit" form="act" class="btn btn-success">Search</button>\n'
            "</span>\n</div>\n</div>\n</div>\n"
        )

    def _results(self, state: ShopState) -> str:
        parts = [f"<h3>Page {state.number} (Total results: {len(state.hits)})</h3>\n"]
        if state.number > 1:
            parts.append(_button("< Prev"))
        parts.append(_button("Next >"))
        return _row("".join(parts), "row top-buffer pager") + "".join(map(self._card, state.shown))

    def _card(self, asin: str) -> str:
        """A product on a result page."""
        card = self._cards.get(asin)
        if card is None:
            if len(self._cards) > _MANY:
                self._cards.clear()
            product = self._products[asin]
            link = _button(asin, "product-link")
            card = self._cards[asin] = (
                '<div class="col-lg-12 mx-auto list-group-item">\n<div class="col-lg-4">\n'
                f'<img src="{escape(product.image)}" alt="" class="result-img">\n</div>\n'
                '<div class="col-lg-8 searched-product">\n'
                f'<h4 class="mt-0 font-weight-bold mb-2 product-asin">{link}</h4>\n'
                f'<h4 class="mt-0 font-weight-bold mb-2 product-title">{escape(product.title)}</h4>\n'
                f'<h5 class="font-weight-bold my-2 product-price">{escape(product.price_text)}</h5>\n</div>\n</div>\n'
            )
        return card

    def _item(self, state: ShopState, product: Product) -> str:
        image = f'<img id="product-image" src="{escape(product.image)}" alt="" class="item-page-img">\n'
        options = "".join(self._option(state, name, values) for name, values in product.options.items())
        left = f'<div class="col-md-4 mb-4 mb-md-0">\n{_row(image)}{options}</div>\n'
        buttons = "".join(
            f'<div class="col-sm-3" name="{label.lower()}">\n{_button(label)}</div>\n' for label in self._middle
        )
        middle = (
            f'<div class="col-md-6">\n<h2>{escape(product.title)}</h2>\n<h4>Price: {escape(product.price_text)}</h4>\n'
            f"<h4>Rating: N.A.</h4>\n{_row(buttons)}</div>\n"
        )
        right = _row(_button("Buy Now", "btn btn-lg purchase"), "col-sm-2")
        return _row(_button("< Prev")) + _row(left + middle + right, "row top-buffer item")

    def _option(self, state: ShopState, name: str, values: tuple[str, ...]) -> str:
        """Radio inputs show what is chosen; the button over each, which has no text of its own, chooses."""
        chosen = dict(state.options).get(name.lower())
        label = escape(name)
        rows = [f'<h4>{label}</h4>\n<div class="radio-toolbar">\n']
        for number, value in enumerate(values):
            shown, mark = escape(value), " checked" if value == chosen else ""
            rows.append(
                f'<div class="option">\n<input type="radio" id="radio_{label}{number}" name="{label}" value="{shown}" '
                f'tabindex="-1"{mark}>\n<label for="radio_{label}{number}">{shown}</label>\n'
                f'<button type="submit" form="act" name="action" value="{escape(f"click[{value}]")}" '
                f'aria-label="{label}: {shown}"></button>\n</div>\n'
            )
        return _row("".join(rows) + "</div>\n")

    def _sub_page(self, state: ShopState, product: Product) -> str:
        card = f'<div class="card card-body">\n{_content(product, state.sub_page)}</div>\n'
        name = {"Features": "bulletpoints"}.get(state.sub_page, state.sub_page.lower())
        inner = f'<div class="col-md-12">\n<div class="col-sm-6" name="{name}">\n{card}</div>\n</div>\n'
        return _row(_button("< Prev")) + _row(inner)

    def _end(self, state: ShopState) -> str:
        score = state.purchase.total if state.purchase else None
        bought = [("asin", str(state.asin)), ("options", bought_options(state))]
        bought += [(label, "None") for label in ("attrs", "category", "query", "product category")]
        wanted = ("asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query")
        hidden = "<h2>Purchased</h2>\n" + "".join(f"<h4>{a}<pre>{escape(b)}</pre></h4>\n" for a, b in bought)
        hidden += "<h2>Target</h2>\n" + "".join(f"<h4>{label}<pre></pre></h4>\n" for label in wanted)
        hidden += '<h4>Goal <div id="goal"><pre>None</pre></div></h4>\n<h2>Reward</h2>\n'
        return (
            '\n<div class="container">\n<div id="thankyou" class="text-center">\n'
            '<h1>Thank you for shopping with us!</h1>\n</div>\n<div id="stats" class="text-center">\n'
            '<div class="code">\n<h3>Your code: </h3>\n<pre>None</pre> (Paste it in your MTurk interface.)</div>\n'
            f"<div hidden>\n{hidden}</div>\n"
            f'<h3 id="reward">Your score (min 0.0, max 1.0)<pre>{score}</pre></h3>\n'
            '<h4 hidden>Reward Details <div id="reward_info"><pre>None</pre></div></h4>\n</div>\n</div>\n'
        )


def _content(product: Product, sub_page: str) -> str:
    if sub_page == "Description":
        return f'<p class="product-info">{escape(product.description)}</p>\n'
    if sub_page == "Features":
        return _listed([str(bullet) for bullet in product.bullets], "product-info")
    if sub_page == "Attributes":
        facts = (
            ("category", product.category),
            ("query", product.query),
            ("product_category", product.product_category),
        )
        shown = (f'<h5 class="font-weight-bold my-2 product-{name}">{escape(text)}</h5>\n' for name, text in facts)
        return _listed(list(product.attributes), "attribute") + "".join(shown)
    return ""  # reviews: the original reads no review file


def _listed(texts: list[str], classes: str) -> str:
    return "<ul>\n" + "".join(f'<li><p class="{classes}"> {escape(text)}</p></li>\n' for text in texts) + "</ul>\n"
