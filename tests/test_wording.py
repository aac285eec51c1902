"""Every text that people read is plain American English: collected from the code, the templates and the docs."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import layerscope
import layerscope.errors
from layerscope.cli.main import cli

PACKAGE = Path(layerscope.__file__).parent
REPO = Path(__file__).parent.parent

IZE = (
    "author|binar|categor|central|character|custom|diagonal|discret|emphas|final|general|initial|item|linear|local|"
    "maxim|memor|minim|normal|optim|organ|orthogonal|parallel|parametr|penal|polar|prior|quant|random|real|recogn|"
    "regular|serial|special|stabil|standard|summar|symbol|synchron|token|util|vector|visual"
)
BRITISH = (
    rf"(?:{IZE})is(?:e|ed|es|ing|ation|ations|er|ers|able)|analys(?:e|ed|ing|able|er)|\w*colour\w*|behaviours?|"
    r"neighbour\w*|favour\w*|honour\w*|centre[ds]?|grey\w*|licence|artefacts?|fibre|whilst|labell(?:ed|ing)|"
    r"modell(?:ed|ing)|cancell(?:ed|ing)|travell(?:ed|ing)|judgement|sceptic\w*|catalogue"
)
# Metaphors and fragments that the field does not use, each of which was once in a text of this project.
RIDDLES = (
    r"mountains?|hills?|valleys?|strangers?|rides? along|so many of|what comes (?:in|back)|that which|"
    r"(?:is|are|not) told|"
    r"what it is of|whose labels|(?:one|an) order of (?:the|their) units|what a model says|here and there|as it were|"
    r"that is none|still is none|of every random draw|held against|no warning on how|left out of it|"
    r"what rides|putting the units|rise between|what is none|one of ours"
)
BANNED = re.compile(rf"\b(?:\w*(?:de|re|un|non|dis|over)-?)?(?:{BRITISH})\b|\b(?:{RIDDLES})\b", re.IGNORECASE)
ALLOWED = re.compile(
    r"\bHill(?:'s)?\b(?! between)|"  # the author of an estimator
    r"experiment mountains|mountains\.p|experiments-mountains|conditioning or mountains|['`]mountains['`]|"  # a command
    r"experiments(?:\.py )?[. ]?mountains|\n +mountains  |"
    r"\bcentred\b (?:is the|needs a)|kind centred|[\"`]centred[\"`]|digits_over_regularised|"  # options, keys and files
    r"[\"`]analysed[\"`]|normalised=|`normalised`"
)


def hits(text: str) -> list[str]:
    """What is banned in a text, with the words around it."""
    plain = ALLOWED.sub(lambda match: "·" * len(match[0]), text)
    return [text[max(0, match.start() - 40) : match.end() + 40] for match in BANNED.finditer(plain)]


def strings(source: str) -> Iterator[str]:
    """String literals (docstrings too) that are no identifiers, and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.isidentifier():
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def documents() -> list[Path]:
    pages = [path for path in (REPO / "docs").rglob("*.md") if "_build" not in path.parts]
    return [*pages, *(REPO / "docs").rglob("*.ipynb"), *REPO.glob("*.md"), *(REPO / "benchmarks").glob("*.md.in")]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_code_speaks_plain_english(path: Path) -> None:
    assert not [hit for text in strings(path.read_text("utf-8")) for hit in hits(text)]


def test_pages_speak_plain_english() -> None:
    templates = [path for path in PACKAGE.rglob("*") if path.suffix in (".html", ".js", ".j2")]
    assert templates
    assert not {path.name: found for path in templates if (found := hits(path.read_text("utf-8")))}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(REPO)))
def test_the_docs_speak_plain_english(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    assert not hits(text)


def test_the_ban_finds_what_it_bans() -> None:
    for text in (
        "The Colour of it",
        "an unrecognised file",
        "3 models on 2 mountains",
        "what comes back 1.5",
        "is told why",
    ):
        assert hits(text), text
    for text in ("Hill estimate", "layerscope experiment mountains", "comes back to the terminal", "a modeling choice"):
        assert not hits(text), text


# --- Help --------------------------------------------------------------------------------------------------------


def commands(
    command: click.Command, path: tuple[str, ...], context: click.Context
) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name), context)


ALL_COMMANDS = dict(commands(cli, ("layerscope",), click.Context(cli)))


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command = ALL_COMMANDS[name]
    first = (command.help or "").partition("\n")[0]
    assert re.fullmatch(r"[A-Z].{15,}\.", first), first
    for option in command.params:
        if isinstance(option, click.Option):
            text = re.sub(r"\s*\[default: .*?\]$", "", option.help or "")
            assert len(text.split()) >= 5, (name, option.opts, text)
            assert text[0].isupper(), (name, option.opts, text)
            assert text.endswith("."), (name, option.opts, text)
            assert not hits(text), (name, option.opts, text)


# --- Errors --------------------------------------------------------------------------------------------------------

ERRORS = {
    name
    for name, value in vars(layerscope.errors).items()
    if inspect.isclass(value) and issubclass(value, layerscope.errors.LayerscopeError)
}
BY_THE_USER = {"UsageError", "NoLayerMatches", "OutputError", "UnknownFormat"}
REMEDY = re.compile(
    r";|\b(?:add|analyze|at least|at most|between|check|choose|close|compare|convert|delete|did you mean|e\.g\.|"
    r"expected|give|instead|install|known|leave|load|make|must|needs?|omit|one of|only|open|pass|remove|repeat|run|"
    r"save|select|set|supported|takes?|train|try|use|write)\b",
    re.IGNORECASE,
)
REUSED = "{}"  # an interpolated value


def template(node: ast.expr) -> str:
    """The text of an expression, {} for each value in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return template(node.func.value)
    return REUSED


def raised(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, error, text) of every error of ours that a module raises with a text of its own."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
            text = template(node.exc.args[0])
            if name in ERRORS and re.search(r"[a-z]", text.replace(REUSED, "")):
                yield node.lineno, name, text


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_error_names_what_was_found_and_what_would_work(path: Path) -> None:
    for line, name, text in raised(path):
        if name in BY_THE_USER:
            assert REMEDY.search(text), f"line {line}: no word on what would work: {text}"
        elif name == "Unreadable":
            assert REUSED in text or REMEDY.search(text), f"line {line}: no word on what was found: {text}"
