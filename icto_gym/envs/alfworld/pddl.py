"""Reading a PDDL problem of the ALFRED text domain: objects, initial facts and goal.

Everything is lower-cased, as the planner behind the original does. Errors name the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from icto_gym.errors import DataError, did_you_mean

TYPES = ("agent", "location", "receptacle", "object", "rtype", "otype")

PREDICATES: dict[str, tuple[str, ...]] = {
    "atlocation": ("agent", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objectatlocation": ("object", "location"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    "inreceptacle": ("object", "receptacle"),
    "isreceptacleobject": ("object",),
    "inreceptacleobject": ("object", "object"),
    "isreceptacleobjectfull": ("object",),
    "wasinreceptacle": ("object", "receptacle"),
    "checked": ("receptacle",),
    "examined": ("location",),
    "receptacletype": ("receptacle", "rtype"),
    "cancontain": ("rtype", "otype"),
    "objecttype": ("object", "otype"),
    "holds": ("agent", "object"),
    "holdsany": ("agent",),
    "holdsanyreceptacleobject": ("agent",),
    "full": ("receptacle",),
    "isclean": ("object",),
    "cleanable": ("object",),
    "ishot": ("object",),
    "heatable": ("object",),
    "iscool": ("object",),
    "coolable": ("object",),
    "pickupable": ("object",),
    "moveable": ("object",),
    "toggleable": ("object",),
    "ison": ("object",),
    "istoggled": ("object",),
    "sliceable": ("object",),
    "issliced": ("object",),
}
"""The domain's predicates and the types of their arguments."""

_TOKEN = re.compile(r"\([^()]*\)|[()]|[^\s()]+")  # a bracket without brackets in it is one token: there are hundreds
_COMMENT = re.compile(r";[^\n]*")


class UnsupportedGame(Exception):
    """A well-formed game outside of what the native engine covers; TextWorld may play it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as it stands in its file, lower-cased."""

    name: str
    objects: dict[str, str]
    """Id to type, in the order of declaration."""
    facts: dict[str, list[tuple[str, ...]]]
    """Predicate to argument tuples, in the order of the file, each once."""
    goal: Any
    """Nested lists, such as ``["and", ["ishot", "?o"]]``."""


class _Reader:
    """Tokens to nested lists; keeps what is needed to name a line in an error."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.text = _COMMENT.sub("", text).lower() if ";" in text else text.lower()
        self.tokens: list[str] = _TOKEN.findall(self.text)

    def fail(self, message: str, token: int | None = None) -> DataError:
        """An error at a token, counted from 0; None: at the end."""
        count = len(self.tokens) if token is None else token
        position = len(self.text)
        for number, match in enumerate(_TOKEN.finditer(self.text)):
            if number == count:
                position = match.start()
        return DataError(f"{self.source}: pddl_problem line {self.text.count(chr(10), 0, position) + 1}: {message}")

    def find(self, message: str, *words: str) -> DataError:
        """An error at the first place where these words follow each other."""
        match = re.search(r"\s*".join(map(re.escape, words)), self.text)
        line = self.text.count("\n", 0, match.start() if match else 0) + 1
        return DataError(f"{self.source}: pddl_problem line {line}: {message}")

    def read(self) -> list[Any]:
        """The one expression that the text must hold."""
        stack: list[list[Any]] = [[]]
        for number, token in enumerate(self.tokens):
            if token == "(":
                stack.append([])
            elif token == ")":
                if len(stack) == 1:
                    raise self.fail("a ')' closes nothing.", number)
                done = stack.pop()
                stack[-1].append(done)
            else:
                stack[-1].append(token[1:-1].split() if token[0] == "(" else token)
        if len(stack) > 1:
            raise self.fail(f"{len(stack) - 1} '(' not closed at the end.")
        if len(stack[0]) != 1 or not isinstance(stack[0][0], list):
            raise self.fail("expected one '(define (problem ...) ...)'.", 0)
        return stack[0][0]


def parse_problem(text: str, source: str) -> Problem:
    """Read a problem.

    Args:
        text: the PDDL text.
        source: named in errors, usually the path of the game file.

    Raises:
        DataError: a syntax error, an unknown type, predicate or name, with file and line.
    """
    reader = _Reader(text, source)
    define = reader.read()
    if len(define) < 2 or define[0] != "define" or not isinstance(define[1], list) or define[1][:1] != ["problem"]:
        raise reader.fail("expected '(define (problem ...) ...)'.", 0)
    sections: dict[str, list[Any]] = {}
    for part in define[2:]:
        if not isinstance(part, list) or not part or not isinstance(part[0], str):
            raise reader.fail(f"expected a section such as '(:objects ...)', found {part!r:.60}.", 0)
        sections[part[0]] = part[1:]
    for needed in (":objects", ":init", ":goal"):
        if needed not in sections:
            raise reader.fail(f"the section '{needed}' is missing.", 0)
    objects = dict(_declarations(sections[":objects"], reader))
    facts = _facts(sections[":init"], objects, reader)
    if len(sections[":goal"]) != 1 or not isinstance(sections[":goal"][0], list):
        raise reader.find("the goal is not one expression.", ":goal")
    return Problem(str(define[1][-1]), objects, facts, sections[":goal"][0])


def _declarations(items: list[Any], reader: _Reader) -> Iterator[tuple[str, str]]:
    """Yield (name, type) from ``a b - t c - u``."""
    if len(items) % 3 == 0 and set(items[1::3]) == {"-"} and set(items[2::3]) <= set(TYPES):  # one per line, the rule
        yield from zip(items[0::3], items[2::3], strict=True)
        return
    pending: list[str] = []
    position = 0
    while position < len(items):
        item = items[position]
        if not isinstance(item, str):
            raise reader.find("a bracket among the declared objects.", ":objects")
        if item == "-":
            kind = items[position + 1] if position + 1 < len(items) else "(nothing)"
            if kind not in TYPES:
                hint = did_you_mean(str(kind), TYPES)
                raise reader.find(f"unknown type {kind!r}.{hint} Known: {', '.join(TYPES)}.", "-", str(kind))
            yield from ((name, kind) for name in pending)
            pending = []
            position += 2
        else:
            pending.append(item)
            position += 1
    if pending:
        raise reader.find(f"{pending[0]!r} is declared without a type.", pending[0])


def _facts(items: list[Any], objects: dict[str, str], reader: _Reader) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, dict[tuple[str, ...], None]] = {name: {} for name in PREDICATES}
    kind_of = objects.get
    for item in items:
        if not isinstance(item, list) or not item or not isinstance(item[0], str):
            raise reader.find(f"{item!r:.60} among the initial facts is no fact.", "(", ":init")
        predicate = item[0]
        if predicate == "=":  # costs and distances: nothing in a text game depends on them
            continue
        if predicate not in PREDICATES:
            hint = did_you_mean(predicate, PREDICATES)
            raise reader.find(f"unknown predicate {predicate!r}.{hint}", "(", predicate)
        arguments = tuple(item[1:])
        types = PREDICATES[predicate]
        if len(arguments) != len(types):
            raise reader.find(f"{predicate!r} takes {len(types)} names, found {len(arguments)}.", "(", predicate)
        try:
            found_types = tuple(map(kind_of, arguments))
        except TypeError as error:  # a list in the place of a name
            raise reader.find(f"a bracket inside of a fact of {predicate!r}.", "(", predicate) from error
        if found_types != types:
            _explain_types(arguments, types, item, objects, reader)
        found[predicate][arguments] = None
    return {name: list(entries) for name, entries in found.items()}


def _explain_types(
    arguments: tuple[str, ...], types: tuple[str, ...], fact: list[str], objects: dict[str, str], reader: _Reader
) -> None:
    """Raise on the first argument that is not of its type."""
    for argument, kind in zip(arguments, types, strict=True):
        if argument not in objects:
            hint = did_you_mean(argument, objects)
            raise reader.find(f"{argument!r} in a fact of {fact[0]!r} is not declared.{hint}", "(", *fact)
        if objects[argument] != kind:
            raise UnsupportedGame(f"{fact[0]!r} holds of {argument!r}, of type {objects[argument]!r}, not {kind!r}")
