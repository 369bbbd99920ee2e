"""The README's code runs as it stands, and what it names exists."""

import re
from pathlib import Path

import pytest
from packages import absent

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_plays_an_episode_and_defines_a_policy():
    """Its Python blocks run in order, in one namespace, as a reader would paste them."""
    namespace: dict[str, object] = {}
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["info"]["score"] == 1.0
    policy = namespace["FirstHit"]()
    assert "search[" in policy.act([_turn({"has_search_bar": True, "instruction": "a hat"})])[0]
    assert "click[b0xyz]" in policy.act([_turn({"has_search_bar": False, "clickables": ["< prev", "b0xyz"]})])[0]
    assert "click[buy now]" in policy.act([_turn({"has_search_bar": False, "clickables": ["buy now"]})])[0]


def test_the_page_on_data_formats_runs():
    namespace: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "data_formats.md", "python"):
        exec(compile(block, "data_formats.md", "exec"), namespace)
    assert namespace["trajectory"].task_id == "webshop/7"


def _turn(info):
    from trainers.policies.base import Turn

    return Turn([], info)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_make_targets_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for script in re.findall(r"(?:python|--config) ((?:benchmarks|examples|scripts)/[\w./-]+)", text):
        assert (ROOT / script).exists(), f"{page.name} names {script}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:`|\$ )make ([a-z]+)\b", text):
        assert target in targets, f"{page.name} names make {target}"


COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {words[:60]}")
    for page in PAGES
    for block in blocks(page, "console")
    for words in re.findall(r"^\$ (icto [^\n#]*)", block, re.MULTILINE)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_a_page_shows_have_a_known_verb_and_known_flags(command, capsys):
    """The flags of a shown command stand in its verb's own help; nothing is run."""
    import shlex

    from trainers.cli.main import main

    words = shlex.split(command)[1:]
    verb = words[:2] if words[0] in ("run", "train", "serve") else words[:1]
    assert main([*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert flag in shown or flag.replace("--no-", "--", 1) in shown or flag in ("--quiet", "--debug"), flag


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    """As a reader would paste it; where a package is missing the page is skipped (not in CI), with the package's name.

    A block that names a folder of the reader's own (``~/``) is compiled and not run.
    """
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    try:
        for block in blocks(page, "python"):
            code = compile(block, page.name, "exec")
            if "~/" not in block:
                exec(code, namespace)
    except ImportError as error:
        absent(f"{page.name}: {error}")
