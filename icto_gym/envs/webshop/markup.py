"""A page as HTML: the elements, ids and classes that programs look for in the original's pages.

``#search_input``, ``.btn``, ``.product-link``, ``#instruction-text``, ``#product-image`` and radio inputs named after
options stand where the original has them, and a reader that lists visible text finds what the ``text`` observation
shows.
"""

from __future__ import annotations

from urllib.parse import quote

from icto_gym.envs.webshop.catalog import Catalog, Product
from icto_gym.envs.webshop.pages import bought_options
from icto_gym.envs.webshop.session import END, ITEM, RESULTS, START, ShopState

_HEAD = (
    '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n<link rel="stylesheet" href="/static/style.css">\n'
    "<title>WebShop</title>\n</head>\n<body>\n"
)
_FOOT = "</div>\n</body>\n</html>\n"
_MANY = 5_000


def escape(text: str) -> str:
    """Make a text safe inside an element or a quoted attribute."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&#34;").replace("'", "&#39;")


def _quote(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def _form(action: str, label: str, classes: str = "btn btn-primary") -> str:
    button = f'<button type="submit" class="{classes}">{escape(label)}</button>'
    return f'<form method="post" action="{action}">\n{button}\n</form>\n'


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
        self._cards: dict[str, tuple[str, str]] = {}

    def html(self, state: ShopState, instruction: str, session: str) -> str:
        """The whole page; ``session`` names the customer in its addresses."""
        if state.page == START:
            return self._start(instruction, session)
        if state.page == END:
            return self._end(state)
        top = (
            '<div class="container py-5">\n<div class="row top-buffer">\n<div class="col-sm-6">\n'
            f'<div id="instruction-text" class="text-center">\n<h4>Instruction:<br>{escape(instruction)}</h4>\n'
            f"</div>\n</div>\n</div>\n{_row(_form(f'/{session}', 'Back to Search', 'btn btn-success'))}"
        )
        where = _Addresses(state, session)
        if state.page == RESULTS:
            return f"{_HEAD}{top}{self._results(state, where)}{_FOOT}"
        product = self._products[str(state.asin)]
        body = self._item(state, product, where) if state.page == ITEM else self._sub_page(state, product, where)
        return f"{_HEAD}{top}{body}{_FOOT}"

    def _start(self, instruction: str, session: str) -> str:
        return (
            f'{_HEAD}<div class="container">\n<div class="row">\n'
            '<div id="logo" class="text-center">\n<h2>WebShop</h2>\n</div>\n'
            '<div id="instruction-text" class="text-center">\n'
            f"<h4>Instruction: <br>{escape(instruction)}</h4>\n</div>\n"
            f'<form role="form" id="form-buscar" method="post" action="/{session}">\n<div class="input-group">\n'
            '<input id="search_input" class="form-control" type="text" name="search_query" '
            'placeholder="Search..." required/>\n'
            '<span class="input-group-btn">\n<button class="btn btn-success" type="submit">Search</button>\n</span>\n'
            f"</div>\n</form>\n</div>\n{_FOOT}"
        )

    def _results(self, state: ShopState, where: _Addresses) -> str:
        parts = [f"<h3>Page {state.number} (Total results: {len(state.hits)})</h3>\n"]
        if state.number > 1:
            parts.append(_form(where.results(state.number - 1), "< Prev"))
        parts.append(_form(where.results(state.number + 1), "Next >"))
        page = [_row("".join(parts))]
        for asin in state.shown:
            before, after = self._card(asin)
            page.append(f"{before}{where.item(asin)}{after}")
        return "".join(page)

    def _card(self, asin: str) -> tuple[str, str]:
        """A product on a result page: what stands before and after the address of its link."""
        card = self._cards.get(asin)
        if card is None:
            if len(self._cards) > _MANY:
                self._cards.clear()
            product = self._products[asin]
            card = self._cards[asin] = (
                '<div class="col-lg-12 mx-auto list-group-item">\n<div class="col-lg-4">\n'
                f'<img src="{escape(product.image)}" class="result-img">\n</div>\n'
                '<div class="col-lg-8 searched-product">\n'
                '<h4 class="mt-0 font-weight-bold mb-2 product-asin"><a class="product-link" href="',
                f'">{escape(asin)}</a></h4>\n'
                f'<h4 class="mt-0 font-weight-bold mb-2 product-title">{escape(product.title)}</h4>\n'
                f'<h5 class="font-weight-bold my-2 product-price">{escape(product.price_text)}</h5>\n</div>\n</div>\n',
            )
        return card

    def _item(self, state: ShopState, product: Product, where: _Addresses) -> str:
        image = f'<img id="product-image" src="{escape(product.image)}" class="item-page-img">\n'
        options = "".join(self._option(state, name, values, where) for name, values in product.options.items())
        left = f'<div class="col-md-4 mb-4 mb-md-0">\n{_row(image)}{options}</div>\n'
        buttons = "".join(
            f'<div class="col-sm-3" name="{label.lower()}">\n{_form(where.sub_page(label), label)}</div>\n'
            for label in self._middle
        )
        middle = (
            f'<div class="col-md-6">\n<h2>{escape(product.title)}</h2>\n<h4>Price: {escape(product.price_text)}</h4>\n'
            f"<h4>Rating: N.A.</h4>\n{_row(buttons)}</div>\n"
        )
        right = _row(_row(_form(where.end(), "Buy Now", "btn btn-lg purchase")), "col-sm-2")
        return _row(_form(where.results(state.number), "< Prev")) + _row(left + middle + right)

    def _option(self, state: ShopState, name: str, values: tuple[str, ...], where: _Addresses) -> str:
        chosen = dict(state.options).get(name.lower())
        label = escape(name)
        rows = [f'<h4>{label}</h4>\n<div class="radio-toolbar">\n']
        for number, value in enumerate(values):
            shown, mark = escape(value), " checked" if value == chosen else ""
            rows.append(
                f'<input type="radio" id="radio_{label}{number}" name="{label}" value="{shown}" '
                f'data-url="{where.with_option(name, value)}"{mark}>\n'
                f'<label for="radio_{label}{number}">{shown}</label>\n'
            )
        return _row("".join(rows) + "</div>\n")

    def _sub_page(self, state: ShopState, product: Product, where: _Addresses) -> str:
        back = _row(_form(where.item(product.asin), "< Prev"))
        card = f'<div class="card card-body">\n{_content(product, state.sub_page)}</div>\n'
        name = {"Features": "bulletpoints"}.get(state.sub_page, state.sub_page.lower())
        return back + _row(f'<div class="col-md-12">\n<div class="col-sm-6" name="{name}">\n{card}</div>\n</div>\n')

    def _end(self, state: ShopState) -> str:
        score = state.purchase.total if state.purchase else None
        bought = [("asin", str(state.asin)), ("options", bought_options(state))]
        bought += [(label, "None") for label in ("attrs", "category", "query", "product category")]
        wanted = ("asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query")
        hidden = "<h2>Purchased</h2>\n" + "".join(f"<h4>{a}<pre>{escape(b)}</pre></h4>\n" for a, b in bought)
        hidden += "<h2>Target</h2>\n" + "".join(f"<h4>{label}<pre></pre></h4>\n" for label in wanted)
        hidden += '<h4>Goal <div id="goal"><pre>None</pre></div></h4>\n<h2>Reward</h2>\n'
        return (
            f'{_HEAD}<div class="container">\n<div id="thankyou" class="text-center">\n'
            '<h1>Thank you for shopping with us!</h1>\n</div>\n<div id="stats" class="text-center">\n'
            "<h3>Your code: </h3>\n<p><pre>None</pre> (Paste it in your MTurk interface.)</p>\n"
            f'<div style="display:none">\n{hidden}</div>\n'
            f'<h3 id="reward">Your score (min 0.0, max 1.0)<pre>{score}</pre></h3>\n'
            f'<h4 hidden>Reward Details <div id="reward_info"><pre>None</pre></div></h4>\n</div>\n{_FOOT}'
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


class _Addresses:
    """Addresses of the pages one can go to, percent-encoded."""

    def __init__(self, state: ShopState, session: str) -> None:
        self._state = state
        self._session = session
        self._words = _quote(str(list(state.keywords)))

    def results(self, number: int) -> str:
        return f"/search_results/{self._session}/{self._words}/{number}"

    def item(self, asin: str) -> str:
        chosen = dict(self._state.options) if asin == self._state.asin else {}
        return self._item(asin, chosen)

    def with_option(self, name: str, value: str) -> str:
        return self._item(str(self._state.asin), {**dict(self._state.options), name.lower(): value})

    def _item(self, asin: str, options: dict[str, str]) -> str:
        return f"/item_page/{self._session}/{_quote(asin)}/{self._words}/{self._state.number}/{_quote(str(options))}"

    def sub_page(self, name: str) -> str:
        asin, options = _quote(str(self._state.asin)), _quote(str(dict(self._state.options)))
        return f"/item_sub_page/{self._session}/{asin}/{self._words}/{self._state.number}/{name}/{options}"

    def end(self) -> str:
        options = _quote(str(dict(self._state.options)))
        return f"/done/{self._session}/{_quote(str(self._state.asin))}/{options}"
