"""The site's pages and what their forms do."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from icto_gym.envs.webshop.session import END
from icto_gym.envs.webshop.site.guard import BODY_LIMIT, Guard, read_body
from icto_gym.envs.webshop.site.visits import Visit, Visits
from icto_gym.errors import InvalidTask

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
STALE = "That page was out of date, so nothing was done. This is where you are."
TYPES = "application/x-www-form-urlencoded"
LONGEST_THOUGHT = 2_000


class Door(Protocol):
    """Starts visits for people, who choose a task on the welcome page."""

    splits: dict[str, int]
    """Names and sizes of the splits on offer."""
    defaults: dict[str, str]
    """What the welcome page's form holds at first: ``split`` and ``index``."""
    recording: str
    """Where finished episodes are written; ``""``: nowhere."""

    def begin(self, split: str, index: int | None) -> Visit: ...


class Site:
    """Endpoints over a set of visits.

    Args:
        visits: those that can be seen.
        door: starts further ones; None: the site has no welcome page.
        pictures: show product pictures.
        body_limit: bytes of a form.
    """

    def __init__(
        self, visits: Visits, door: Door | None = None, *, pictures: bool = False, body_limit: int = BODY_LIMIT
    ) -> None:
        self.visits = visits
        self.door = door
        self._pictures = pictures
        self._body_limit = body_limit
        self._templates = Environment(
            loader=PackageLoader("icto_gym.envs.webshop.site"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip

    def app(self, hosts: Iterable[str]) -> Guard:
        """The ASGI application for requests to these host names."""
        routes = [
            Route("/", self.welcome, methods=["GET"]),
            Route("/visits", self.begin, methods=["POST"]),
            Route("/visits/{name}", self.show, methods=["GET"]),
            Route("/visits/{name}", self.act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        errors = {HTTPException: self._error, Exception: self._error}
        app = Starlette(routes=routes, exception_handlers=errors)  # type: ignore[arg-type]
        app.router.redirect_slashes = False
        return Guard(app, hosts, self._pictures)

    # ---- endpoints: all on the event loop, so that visits and catalogue are used by one thread --------
    async def welcome(self, request: Request) -> Response:
        if self.door is None:
            raise HTTPException(404)
        return self._page("welcome.html", door=self.door, problem="", chosen=self.door.defaults)

    async def begin(self, request: Request) -> Response:
        """Start a visit and go there."""
        if self.door is None:
            raise HTTPException(404)
        form = await self._form(request)
        split, index = form.get("split", ""), form.get("index", "").strip()
        try:
            if index and not (index.isascii() and index.isdecimal() and len(index) < 10):
                raise InvalidTask(f"The number {index[:40]!r} is no whole number from 0.")
            visit = self.door.begin(split, int(index) if index else None)
        except InvalidTask as error:
            chosen = {"split": split, "index": index[:40]}
            return self._page("welcome.html", 400, door=self.door, problem=str(error), chosen=chosen)
        return _see(self.visits.open(visit))

    async def show(self, request: Request) -> Response:
        """The page where a visit is."""
        visit = self._visit(request)
        notice, visit.notice = visit.notice, ""
        shop = Markup(visit.shop.page())  # written by the same code as the html observation, which escapes all data
        return self._page("visit.html", visit=visit, shop=shop, notice=notice, door=self.door, ended=_ended(visit))

    async def act(self, request: Request) -> Response:
        """Do what a form says, if it belongs to the page that is shown."""
        visit = self._visit(request)
        form = await self._form(request)
        if form.get("step") != str(len(visit.deeds)):  # a double click, an old tab, a page from the browser's history
            visit.notice = STALE
        else:
            thought = " ".join(form.get("thought", "").split())[:LONGEST_THOUGHT]
            try:
                visit.act(_action(form), thought)
            except OSError as error:  # the recording: a full disk, a folder that is gone
                logger.error("%s could not be recorded: %s", visit.info["task_id"], error)
                raise HTTPException(507, f"The episode could not be recorded. {error}") from error
            if visit.deeds and not visit.deeds[-1].valid:
                visit.notice = f"The shop did not understand {visit.deeds[-1].action[:80]!r}. That counts as a step."
        return _see(request.path_params["name"])

    # ---- parts -----------------------------------------------------------------------------------------
    def _visit(self, request: Request) -> Visit:
        visit = self.visits.find(request.path_params["name"])
        if visit is None:
            raise HTTPException(404)
        return visit

    async def _form(self, request: Request) -> dict[str, str]:
        """Fields of a form, the first of each name."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != TYPES:
            raise HTTPException(415, f"Forms are {TYPES}.")
        body = await read_body(request, self._body_limit)
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
        except ValueError as error:  # also what is not UTF-8 behind its percent signs
            raise HTTPException(400, "The form cannot be read.") from error
        return {name: values[0] for name, values in fields.items()}

    def _page(self, template: str, code: int = 200, **values: Any) -> HTMLResponse:
        values = {"pictures": self._pictures, **values}
        text = self._templates.get_template(template).render(values)
        return HTMLResponse(text.encode("utf-8", "replace"), code)

    async def _error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = {404: "There is no such page, or its visit is over.", 500: "The site broke here; its log says why."}
        said = error.detail if isinstance(error, HTTPException) else ""
        return self._page("error.html", status, status=status, said=detail.get(status, said), door=self.door)


def _see(name: str) -> Response:
    return RedirectResponse(f"/visits/{name}", 303)


def _action(form: dict[str, str]) -> str:
    """The action of a form: a button's or typed one, words for the search bar, or any text exactly, as JSON."""
    if form.get("exact"):
        try:
            action = json.loads(form["exact"])
        except (ValueError, RecursionError):
            action = None
        if not isinstance(action, str):
            raise HTTPException(400, "The field 'exact' is an action as a JSON string.")
        return action
    return form["action"] if "action" in form else f"search[{form.get('search_query', '')}]"


def _ended(visit: Visit) -> Sequence[dict[str, Any]] | None:
    """The reward's parts in words, once the purchase is made."""
    if visit.shop.state.page != END:
        return None
    parts = visit.info["purchase"]
    wanted = (
        ("Kind of product", "r_type", "multiplies all others"),
        ("Attributes found", "r_att", "share of the wished features"),
        ("Options chosen", "r_option", "share of the wished options"),
        ("Price within the limit", "r_price", "1 if the price fits"),
    )
    return [{"label": label, "value": parts[key], "meaning": text} for label, key, text in wanted]
