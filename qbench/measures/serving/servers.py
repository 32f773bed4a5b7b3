"""The servers that a suite names for its cells.

Each is one of three: qbench's own start of `transformers serve` with the very model whose quality
is measured, a command that starts another engine, or an address where something serves already.
"""

from __future__ import annotations

import ipaddress
import shlex
import string
import urllib.parse
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from qbench.core.errors import Problem
from qbench.core.names import what_there_is
from qbench.core.options import typed_options
from qbench.core.reading import InvalidValueError, NotNull, expects, invalid_below
from qbench.core.spec import Frozen, slugify
from qbench.measures.serving.api_key import ApiKey
from qbench.precisions import EXAMPLE
from qbench.precisions.names import picks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.spec import Cell

SERVING, SERVED_TASKS = "serving", "served_tasks"
ON_SERVERS = frozenset({SERVING, SERVED_TASKS})
"""The measurements whose items have the server among their parameters: see `server_of`."""
TRANSFORMERS = "transformers"
LOOPBACK = "127.0.0.1"

PLACEHOLDERS = {
    "model": "the folder of the model's files, or the .gguf file",
    "host": "the address to listen on, which is 127.0.0.1",
    "port": "the port to listen on, a free one",
    "dtype": "the cell's floating type by torch's name, such as bfloat16",
    "context": "tokens of a prompt and its answer, with what a server puts around them",
    "streams": "requests that the load has under way at most",
    "cache": "tokens of all these requests together",
    "flags": "where the precision's `flags` go; the end of the command unless written",
}
"""What a command may name in braces, each with what it stands for."""
_KINDS = ("engine", "command", "address")
_OF_KIND = {
    "continuous_batching": ("engine",),
    "arguments": ("engine",),
    "flags": ("command",),
    "version": ("command",),
    "api_key": ("address",),
}
"""Keys that go with some kinds of server alone."""

_TAKEN = ("--cb-", "--compile", "--default-seed", "--log-level", "--reasoning", "--chat-template-")
"""Flags of `transformers serve` that mean something where the model is there already."""

Command = Annotated[
    str | tuple[str, ...],
    BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given),
    expects("a command line, or a list of its words"),
]
"""Never given to a shell."""


class ServerOptions(Frozen):
    """One server: `engine`, `command` or `address` says which kind it is."""

    engine: Annotated[Literal["transformers"] | None, NotNull()] = None
    """`transformers`: the server of `transformers serve`, with the cell's own model, in whatever
    precision qbench can build."""
    continuous_batching: bool = False
    """Of `engine`: requests join and leave the running batch (paged attention)."""
    arguments: Annotated[Command, NotNull()] = ()
    """Of `engine`: more flags of `transformers serve`, such as `--cb-num-blocks 64`."""
    command: Annotated[Command | None, NotNull()] = Field(
        None, examples=["vllm serve {model} --host {host} --port {port} --dtype {dtype}"]
    )
    """Starts a server; names in braces are filled in. It needs `trust_code: true`."""
    flags: dict[str, Command] = Field(default_factory=dict)
    """Of `command`: what to add for a precision, by its label or name; a quantized one without
    flags is skipped, unless its files are quantized already."""
    version: Annotated[Command | None, NotNull()] = Field(None, examples=["vllm --version"])
    """Of `command`: prints the engine's version."""
    address: Annotated[
        str | None, NotNull(), expects("http:// or https:// with a host", pattern=r"^https?://[^/]")
    ] = Field(None, examples=["http://127.0.0.1:8000"])
    """Where something serves already, whatever it holds."""
    api_key: Annotated[ApiKey | None, NotNull()] = Field(None, examples=[{"env": "VLLM_API_KEY"}])
    """Of `address`: the key that its requests need, by the environment variable that holds it."""
    model: Annotated[str | None, NotNull()] = None
    """What requests name; the model's folder unless given, of an address its first model."""
    health: Annotated[str, expects("a path such as /health", pattern=r"^/")] = "/health"
    """Answers with status 200 once requests are taken."""
    name: Annotated[str | None, NotNull(), expects("a short name", pattern=r"\S")] = None
    """In tables; unless given the engine, the command's program, or the address."""
    cells: Annotated[
        tuple[str, ...],
        BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
        expects(f"a name of cells, or a pattern such as {EXAMPLE}*; or a list of them"),
    ] = Field((), examples=[EXAMPLE])
    """Which cells it serves, by precision, name or pattern; all unless given. An `address`, and a
    command without {model}, must say it: nothing else tells what they hold."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """From its start until it is healthy."""
    answer_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """From its first request, of one token, to the answer: engines make their caches then."""

    @model_serializer(mode="wrap")
    def _given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was given: a key that goes with other kinds is not there, and would be refused."""
        dumped: dict[str, Any] = dump(self)
        return {name: value for name, value in dumped.items() if name in self.model_fields_set}

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            found = f"{' and '.join(kinds)} together" if kinds else "none of them"
            one = "exactly one of `engine`, `command` and `address`"
            raise invalid_below((), InvalidValueError(one, found, "write one server for each"))
        for key, of in _OF_KIND.items():
            if key in self.model_fields_set and kinds[0] not in of:
                found = f"`{key}` beside `{kinds[0]}`"
                reason = InvalidValueError(f"`{key}` beside `{of[0]}` alone", found, "remove it")
                raise invalid_below((key,), reason)
        for at, words in self._templates():
            _check_template(at, words)
        self._check_arguments()
        if self.address is not None:
            _check_address(self.address)
        if self.command is not None and _program_is_open(words_of(self.command)):
            expected = "a command that begins with its program's name or path"
            raise invalid_below(("command",), InvalidValueError(expected))
        if self.holds_what_it_holds and not self.cells:
            found = "an address" if self.command is None else "a command without {model}"
            remedy = "say which cells it holds, such as `cells: bf16`"
            raise invalid_below((), InvalidValueError("the key `cells`", found, remedy))
        if self.command is not None and "port" not in names_in(self.command):
            expected = "a command with {port} in it"
            remedy = "add the engine's flag for the port, such as `--port {port}`"
            raise invalid_below(("command",), InvalidValueError(expected, remedy=remedy))
        return self

    def _check_arguments(self) -> None:
        """What the server would not look at, or what qbench gives it, is refused."""
        for at, word in enumerate(words := words_of(self.arguments)):
            known = word.startswith(_TAKEN) if word.startswith("-") else at > 0
            if not known:
                expected = f"flags of transformers serve that begin with {', '.join(_TAKEN)}"
                remedy = "the model, its type and its device are the cell's; leave it out"
                reason = InvalidValueError(expected, f"'{words[at]}'", remedy)
                raise invalid_below(("arguments",), reason)

    def _templates(self) -> list[tuple[tuple[str, ...], Any]]:
        given: list[tuple[tuple[str, ...], Any]] = [
            (("arguments",), self.arguments),
            (("command",), self.command),
            (("version",), self.version),
        ]
        given += [(("flags", name), words) for name, words in self.flags.items()]
        return [(at, words) for at, words in given if words is not None]

    @property
    def label(self) -> str:
        """Names the server in tables, file names and slugs."""
        if self.name is not None:
            return slugify(self.name)
        if self.engine is not None:
            return f"{self.engine}-cb" if self.continuous_batching else self.engine
        if self.command is not None:
            return slugify(words_of(self.command)[0].rpartition("/")[2])
        return slugify(str(self.address).partition("://")[2])

    @property
    def holds_what_it_holds(self) -> bool:
        """Whether nothing but the suite tells which model it has, and in which precision."""
        if self.command is None:
            return self.address is not None
        return not any("model" in names_in(one) for one in (self.command, *self.flags.values()))

    def serves(self, cell: Cell) -> bool:
        """Whether it is meant for a cell."""
        return not self.cells or any(picks(one, cell.names) for one in self.cells)

    @property
    def far_address(self) -> str | None:
        """The address, where it is not on this machine."""
        if self.address is None:
            return None
        host = urllib.parse.urlsplit(self.address).hostname or ""
        try:
            near = ipaddress.ip_address(host).is_loopback
        except ValueError:
            near = host == "localhost"
        return None if near else self.address

    @property
    def programs(self) -> tuple[str, ...]:
        """What it runs that qbench did not bring, as written."""
        given = (self.command, self.version)
        return tuple(shlex.join(words_of(one)) for one in given if one is not None)


def server_of(params: Mapping[str, Any]) -> ServerOptions:
    """The server of an item's parameters, which have it under `server`."""
    return typed_options(ServerOptions, params["server"])


def labels_misfit(servers: Sequence[ServerOptions]) -> Problem | None:
    """Two servers of one name, which tables could not tell apart."""
    labels = [server.label for server in servers]
    for label in labels:
        if labels.count(label) > 1:
            found = f"two servers that are called '{label}'"
            return Problem("servers", found, "a name for each", "give them a `name`")
    return None


def words_of(command: str | tuple[str, ...]) -> list[str]:
    """A command's words, split as a shell would; raises ValueError for quotes that do not end."""
    return shlex.split(command) if isinstance(command, str) else list(command)


def names_in(command: str | tuple[str, ...]) -> set[str]:
    """The names in braces of a command; raises ValueError for quotes or braces that do not end."""
    return {name for word in words_of(command) for name in _names(word)}


def _names(word: str) -> list[str]:
    """The names in braces of a word; one that is to be changed, as `{port:5}`, stands as it is."""
    return [
        f"{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}"
        for _, name, form, conversion in string.Formatter().parse(word)
        if name is not None
    ]


def _program_is_open(words: list[str]) -> bool:
    """Whether a command's first word is nothing, or is to be filled in."""
    return not words[0].strip() or bool(_names(words[0]))


def _check_template(at: tuple[str, ...], command: str | tuple[str, ...]) -> None:
    """Raises pydantic's `ValidationError` for what cannot be filled in."""
    try:
        words = words_of(command)
        names = [(name, word) for word in words for name in _names(word)]
    except ValueError as error:
        remedy = "close each quote; write {{ and }} for braces"
        expected = "words with names in braces"
        raise invalid_below(at, InvalidValueError(expected, str(error), remedy)) from error
    if not words and at in {("command",), ("version",)}:
        raise invalid_below(at, InvalidValueError("a command", "no words"))
    for name, word in names:
        if name not in PLACEHOLDERS:
            expected = f"placeholders {', '.join(f'{{{one}}}' for one in PLACEHOLDERS)}"
            remedy = f"{what_there_is(name, PLACEHOLDERS)}; write {{{{ and }}}} for braces"
            reason = InvalidValueError(expected, f"the placeholder {{{name}}}", remedy)
            raise invalid_below(at, reason)
        if name == "flags" and (at != ("command",) or word != "{flags}"):
            expected = "{flags} as a word of its own in `command` alone"
            raise invalid_below(at, InvalidValueError(expected, f"'{word}'"))


def _check_address(address: str) -> None:
    """Raises pydantic's `ValidationError` for no address, or one that tells more than a place.

    What is refused is not repeated where it may be a password or a key.
    """
    expected = "http:// or https:// with a host, and a port and a path where they are needed"
    found, remedy = None, None
    try:
        parts = urllib.parse.urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError:
        found = "a host or a port that cannot be read"
    else:
        if parts.username is not None or parts.password is not None:
            found, remedy = "a user's name or a password in it", "records would keep it; remove it"
        elif "?" in address or "#" in address:
            found, remedy = "a query or a fragment in it", "records would keep it; remove it"
        elif not host or port == 0 or any(sign.isspace() for sign in address):
            found = "no host, a blank, or a port 0"
    if found is not None:
        raise invalid_below(("address",), InvalidValueError(expected, found, remedy))
