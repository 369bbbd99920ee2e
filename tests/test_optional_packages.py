"""Tests of optional packages: nothing goes untested in CI because an installation failed."""

import ast
import configparser
from pathlib import Path

import pytest
from packages import installed

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))


def test_a_package_that_is_there_is_imported(monkeypatch):
    monkeypatch.setenv("CI", "true")
    assert installed("json.decoder", extra="dev").JSONDecoder


def test_a_missing_package_skips_the_test_and_names_the_extra(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no_such is not installed.*'icto-gym\[export\]'; after torch"):
        installed("no_such", extra="export", note="after torch")


def test_in_ci_a_missing_package_is_a_failure(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no_such is not installed.*'icto-gym\[export\]'"):
        installed("no_such", extra="export")


def test_every_extra_that_a_test_names_exists():
    setup = configparser.ConfigParser()
    setup.read(TESTS.parent / "setup.cfg")
    extras, found = setup["options.extras_require"], 0
    for file in FILES:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "installed":
                (extra,) = (word.value for word in call.keywords if word.arg == "extra")
                assert isinstance(extra, ast.Name) or extra.value in extras, (file.name, call.lineno)
                found += 1
    assert found > 20


def test_no_test_is_skipped_for_a_package_behind_cis_back():
    word = "import" + "orskip"
    found = [file.name for file in FILES if word in file.read_text(encoding="utf-8")]
    assert not found, f"{found}: {word} is silent in CI too; use packages.installed"
