"""README and docs/ name only what there is: commands, options, names, make targets, files."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

import tigon
from tigon.command.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_group(app).commands
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.splitlines()[0][:50]}"


def blocks(language: str) -> list[Block]:
    return [
        Block(page, found[1], found[2])
        for page in PAGES
        for found in _FENCE.finditer(page.read_text(encoding="utf-8"))
        if found[1] == language
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The calls in a shell block, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def options_of(command: str) -> set[str]:
    shared = {"--help", "-h"}
    return shared.union(*((*p.opts, *p.secondary_opts) for p in COMMANDS[command].params))


def complaints(words: list[str]) -> list[str]:
    """What is wrong with a call of ``tigon``."""
    if words[1] not in COMMANDS:
        return [f"there is no command {words[1]}"]
    given = {word.split("=")[0] for word in words[2:] if word.startswith("-")}
    return [f"{words[1]} has no {option}" for option in sorted(given - options_of(words[1]))]


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_shell_blocks_call_what_there_is(block: Block) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(block.text):
        if words[0] == "tigon":
            assert complaints(words) == []
        elif words[0] == "pip":
            assert words == ["pip", "install", "."]
        else:
            assert words[0] == "make"
            assert words[1] in targets


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_blocks_use_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "tigon"
    }
    assert [name for name in used if not hasattr(tigon, name)] == []
    compile(tree, str(block.page), "exec")


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_blocks_give_options_that_there_are(block: Block) -> None:
    for call in (n for n in ast.walk(ast.parse(block.text)) if isinstance(n, ast.Call)):
        if ast.unparse(call.func) == "tigon.integrate":
            given = {keyword.arg for keyword in call.keywords}
            documented = tigon.integrate.__doc__ or ""
            assert [name for name in given if not re.search(rf"\b{name}\b", documented)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_text_names_what_there_is(page: Path) -> None:
    """Calls and options between backticks, outside of blocks."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    every = set().union(*map(options_of, COMMANDS), {"--version"})
    for quoted in _INLINE.findall(text):
        words = shlex.split(quoted) if quoted.startswith("tigon ") else [""]
        if words[0] == "tigon":
            assert complaints(words) == []
        elif quoted.startswith("-"):
            assert [o for o in _OPTION.findall(quoted) if o not in every] == [], quoted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)\)", page.read_text(encoding="utf-8"))
    inside = [target for target in targets if "://" not in target]
    assert [target for target in inside if not (page.parent / target).exists()] == []


def test_there_is_something_to_check() -> None:
    assert {block.page.name for block in blocks("python") + blocks("sh")} >= {"README.md"}
    assert complaints(["tigon", "solve"]) == ["there is no command solve"]
    assert complaints(["tigon", "info", "a.zarr", "--fast"]) == ["info has no --fast"]
