"""`rookery task`: its commands and their options, and nothing that running them needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli import options

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All commands."""
    add = _Adder(parser.add_subparsers(required=True, metavar="COMMAND"))
    keygen = add("keygen", "taskkeys:keygen", "make a key that signs tasks and calls")
    keygen.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to keep it; a new file"
    )
    key = add("key", "taskkeys:show", "show the public half of a key")
    key.add_argument("file", type=Path, metavar="FILE", help="made by `keygen`")
    publish = add("publish", "taskpublish:publish", "publish a task, for good", _online())
    publish.add_argument(
        "file", type=Path, metavar="FILE", help="the task, in TOML or (*.json) in JSON"
    )
    publish.add_argument(
        "--dry-run", action="store_true", help="show what it costs and how noisy it is, no more"
    )
    add("list", "tasklist:list_", "show tasks and their rounds", _online())
    _add_collect(add("collect", "taskcollect:collect", "open a round", _online(), _pins()))
    reading = (_pins(), _readers())
    _add_result(add("result", "taskresult:result", "read a result", _online(), *reading))
    verify = add("verify", "taskresult:verify", "check a result that was kept", *reading)
    verify.add_argument("file", type=Path, metavar="FILE", help="written by `result --out`")
    _add_verdict(add("verdict", "taskverdict:verdict", "decide an experiment", _online(), *reading))
    model = add(
        "model", "taskmodel:model", "train a shared model in rounds, and see how good it is",
        _online(), _pins(),
    )  # fmt: skip
    _add_model(model)


class _Adder:
    """Adds commands with what all of them have."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def __call__(
        self, name: str, run: str, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = self._commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=parents
        )
        made.add_argument("--json", action="store_true", help="one JSON object")
        made.set_defaults(run=run)
        return made


def _online() -> argparse.ArgumentParser:
    """A parent parser: the key that signs calls, and the service."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="your key, made by `rookery task keygen`"
    )
    options.add_service_options(parser, "the service")
    return parser


def _pins() -> argparse.ArgumentParser:
    """A parent parser: who is trusted."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("who is trusted")
    group.add_argument(
        "--party", action="append", default=[], metavar="HOST:PORT=KEY",
        help="a party and its identity key, for each one in the round's order; KEY alone will do"
        " to read results",
    )  # fmt: skip
    group.add_argument(
        "--panel", type=Path, metavar="FILE",
        help="TOML: [[party]] tables with address and key, and publishers = [KEY, ...]",
    )  # fmt: skip
    return parser


def _readers() -> argparse.ArgumentParser:
    """A parent parser: what only readers of results choose."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--publisher", action="append", default=[], metavar="KEY", help="a publisher's public key"
    )
    parser.add_argument(
        "--unpinned", action="store_true",
        help="take the keys that the result names, and show them: proves nothing by itself",
    )  # fmt: skip
    parser.add_argument("--width", type=_width, default=78, metavar="N", help="of the plot (78)")
    return parser


def _width(text: str) -> int:
    width = int(text)
    if not 40 <= width <= 400:
        raise argparse.ArgumentTypeError("--width is 40 to 400")
    return width


def _add_collect(collect: argparse.ArgumentParser) -> None:
    collect.add_argument(
        "task", metavar="TASK", help="its id, or the beginning of its spec_hash (8 digits at least)"
    )
    collect.add_argument(
        "--open", metavar="WHEN",
        help="now (default), next (when the round before is over), +DURATION as in +36h, or a"
        " time as in 2027-01-31T12:00Z",
    )  # fmt: skip
    collect.add_argument(
        "--new", action="store_true",
        help="give up a round that was begun and not finished; parties that know it refuse"
        " another one in its window",
    )  # fmt: skip
    collect.add_argument(
        "--party-tls-ca", type=Path, metavar="FILE", help="PEM for the parties, as --tls-ca"
    )


def _add_result(result: argparse.ArgumentParser) -> None:
    result.add_argument("round", metavar="ROUND", help="its id, 32 hex digits")
    result.add_argument("--wait", action="store_true", help="until there is one, or none to come")
    result.add_argument(
        "--out", type=Path, metavar="FILE", help="keep it with all that `verify` needs; a new file"
    )


def _add_verdict(verdict: argparse.ArgumentParser) -> None:
    verdict.add_argument("round", metavar="ROUND", help="its id, or a file of `result --out`")
    verdict.add_argument("--wait", action="store_true", help="until there is a result")
    verdict.add_argument(
        "--alpha", type=float, default=0.05, metavar="P",
        help="the chance of a verdict if nothing differs (0.05); a task whose tail is welch has"
        " its own",
    )  # fmt: skip
    verdict.add_argument(
        "--planned", type=int, metavar="N", help="reports at which the verdict is to be read"
    )
    verdict.add_argument(
        "--effect", type=float, metavar="X", help="the least difference that would matter"
    )


def _add_model(model: argparse.ArgumentParser) -> None:
    model.add_argument("file", type=Path, metavar="FILE", help="the model and its rounds, in TOML")
    model.add_argument(
        "what", choices=("show", "train", "judge", "checkpoint"),
        help="show the newest one; open a round that trains or judges it; keep it in a file",
    )  # fmt: skip
    model.add_argument("--out", type=Path, metavar="FILE", help="of `checkpoint`; a new file")
    model.add_argument(
        "--checkpoint", type=Path, metavar="FILE",
        help="begin here: earlier results are no longer kept",
    )  # fmt: skip
    model.add_argument(
        "--party-tls-ca", type=Path, metavar="FILE", help="PEM for the parties, as --tls-ca"
    )
