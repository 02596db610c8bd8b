"""The commands and their options.

A command is named by module and function and imported when it is run: starting up is most of
what a short command costs.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.cli import options, ownoptions
from client.cli.output import EXIT_CODES
from client.cli.version import Version

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_OTHERS = {
    "task": "publish what is measured, open rounds, read results",
    "policy": "write, judge and publish what may be recorded, asked and called",
    "operator": "see how a service keeps to its policy: health, exposure, audit log, rounds",
    "vectors": "check this implementation against a file of test vectors",
    "demo": "devices, a service and what it stores, on one screen",
}
KINDS = ("setting", "score")
PLATFORMS = ("apns", "fcm", "loopback")
TYPES = ("bool", "bytes", "float", "int", "json", "text")


def command(name: str) -> Any:
    """`module:function` of this package."""
    module, _, function = name.partition(":")
    return getattr(import_module(f"client.cli.{module}"), function)


def parser(wanted: str) -> argparse.ArgumentParser:
    """`rookery`. `wanted` is the command that will be run: its options are complete."""
    root = argparse.ArgumentParser(
        prog="rookery",
        description="Lets your devices share a profile that the service can't read.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # What `main` puts there if the environment asks for traces.
    root.set_defaults(tracing=None)
    root.add_argument("--version", action=Version, help="print the version and end")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    _add_device(commands)
    for name, text in _OTHERS.items():
        other = commands.add_parser(name, help=text, description=text)
        # Those of a command with commands of its own say themselves what is run.
        other.set_defaults(run=f"{name}:run")
        if name == wanted:
            command(f"{name}:add_arguments")(other)
    return root


def _add_device(commands: Commands) -> None:
    text = "a device of an account, and its profile"
    device = commands.add_parser("device", help=text, description=text)
    add = _Adder(device.add_subparsers(required=True, metavar="COMMAND"))
    _add_start(add)
    _add_profile(add)
    _add_members(add)
    _add_measure(add)
    ownoptions.add_commands(add)
    _add_account(add)


class _Adder:
    """Adds commands that share the device options."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def __call__(
        self, name: str, run: str, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = self._commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            parents=[options.device_options(), *parents],
        )
        command.set_defaults(run=run)
        return command


def _add_start(add: _Adder) -> None:
    new = options.new_state_options()
    init = add("init", "start:init", "make an account with this device as its first one", new)
    init.add_argument(
        "--no-recovery",
        action="store_true",
        help="no recovery key: who then loses all devices loses the data",
    )
    _add_token_command(init)
    add("join", "start:join", "become a device of an account; reads the code of `pair`", new)
    recover = add(
        "recover", "start:recover", "become a device by the recovery key, read from input", new
    )
    recover.add_argument("--account", required=True, metavar="HEX", help="from the recovery kit")
    recover.add_argument(
        "--revoke-others", action="store_true", help="remove all other devices: they are lost"
    )
    add("recovery-key", "start:recovery_key", "make a recovery key, or another one")


def _add_token_command(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--token-command",
        metavar="COMMAND",
        help="prints the enrolment token (hex) for the genesis hash that it gets as argument",
    )


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days < 1e6:
        raise argparse.ArgumentTypeError("--half-life is more than 0, and less than 1,000,000")
    return days


def _add_profile(add: _Adder) -> None:
    edits = argparse.ArgumentParser(add_help=False)
    edits.add_argument("name", metavar="COLLECTION/KEY")
    offline = argparse.ArgumentParser(add_help=False)
    offline.add_argument("--offline", action="store_true", help="don't ask the service")
    decay = argparse.ArgumentParser(add_help=False)
    decay.add_argument(
        "--half-life",
        type=_days,
        metavar="DAYS",
        help="more than 0: a score halves in so many days, before it is added to or shown",
    )
    set_ = add("set", "profile:set_", "set a setting", edits, offline)
    set_.add_argument("value", metavar="VALUE", help="- reads it from standard input")
    set_.add_argument(
        "--type",
        choices=TYPES,
        default="text",
        help="default: text; bool is true or false, bytes is base64, json is any JSON",
    )
    add("unset", "profile:unset", "remove a setting", edits, offline)
    like = add("like", "profile:like", "add to a score", edits, offline, decay)
    like.add_argument("amount", type=float, nargs="?", default=1.0, help="default: 1")
    member = argparse.ArgumentParser(add_help=False)
    member.add_argument("name", metavar="SET/MEMBER", help="or SET MEMBER")
    member.add_argument("member", metavar="MEMBER", nargs="?", help=argparse.SUPPRESS)
    add("add", "profile:add", "put a member into a set", member, offline)
    add("remove", "profile:remove", "take a member out of a set", member, offline)
    get = add("get", "profile:get", "show one setting or score", edits, offline, decay)
    get.add_argument(
        "--kind",
        choices=KINDS,
        help="where both have this name; default: the setting",
    )
    list_ = add("list", "profile:list_", "show all settings and scores", offline, decay)
    list_.add_argument("prefix", nargs="?", default="", help="of COLLECTION/KEY")
    add("watch", "profile:watch", "stay in sync and show every change, until Ctrl-C", decay)
    add("sync", "profile:sync", "send what waits and take what is new")


def _add_members(add: _Adder) -> None:
    offline = argparse.ArgumentParser(add_help=False)
    offline.add_argument("--offline", action="store_true", help="don't ask the service")
    pair = add("pair", "pair:pair", "add a new device: shows a code, asks for six digits")
    pair.add_argument(
        "--code", choices=["-"], help="- reads the six digits from input, as without it"
    )
    add("devices", "members:devices", "show all devices", offline)
    revoke = add("revoke", "members:revoke", "remove devices; the others get a new key")
    revoke.add_argument(
        "devices", nargs="+", metavar="DEVICE", help="beginning of its id, or its number as in #1"
    )
    add("rotate", "members:rotate", "make a new key without removing anybody")


def _add_measure(add: _Adder) -> None:
    offline = argparse.ArgumentParser(add_help=False)
    offline.add_argument("--offline", action="store_true", help="don't ask the service")
    purpose = argparse.ArgumentParser(add_help=False)
    purpose.add_argument("name", metavar="PURPOSE", help="as `rookery device tasks` shows it")
    yes = argparse.ArgumentParser(add_help=False)
    yes.add_argument("--yes", action="store_true", help="don't ask")
    add(
        "allow", "consent:allow", "let joint aggregates of a purpose use what is in the profile",
        purpose, offline, yes,
    )  # fmt: skip
    add("disallow", "consent:disallow", "take that back, on all devices", purpose, offline, yes)
    consent = add(
        "consent", "consent:consent", "show what can be agreed to on a device under a policy, say"
        " yes to a purpose, or take it back", offline, yes,
    )  # fmt: skip
    consent.add_argument(
        "action", nargs="?", choices=("list", "grant", "withdraw"), default="list",
        help="default: list",
    )  # fmt: skip
    consent.add_argument("purpose", nargs="?", metavar="PURPOSE", help="as the list shows it")
    add("pause", "recording:pause", "record and contribute nothing, on all devices", offline)
    add("resume", "recording:resume", "go on as it was granted", offline)
    add("reset", "recording:reset", "remove everything that apps recorded", offline, yes)
    add(
        "undo", "recording:undo", "bring back what a reset on this device removed, for a week",
        offline,
    )  # fmt: skip
    _add_trust(add)
    add("policy", "policyheld:policy", "show the policy that this device is under", offline)
    add("tasks", "measure:tasks", "show what would be measured, and what this device answers to")
    contribute = add(
        "contribute", "measure:contribute", "answer the open rounds that this device answers to"
    )
    contribute.add_argument("--task", metavar="ID", help="this task only")
    contribute.add_argument(
        "--value",
        metavar="JSON",
        help="with --task: say this, not what the profile holds; - reads it from standard input",
    )
    contribute.add_argument(
        "--model", action="append", default=[], type=Path, metavar="FILE",
        help="train or judge this shared model, too, where its rounds ask for it",
    )  # fmt: skip
    results = add("results", "outcomes:results", "show what came out of rounds, verified", offline)
    results.add_argument("--task", metavar="ID", help="of this task only")


def _add_trust(add: _Adder) -> None:
    trust = add(
        "trust",
        "trust:trust",
        "show or change whose tasks this device answers, who may compute them, and how much a"
        " round may tell",
    )
    trust.add_argument(
        "--publisher", action="append", default=[], metavar="KEY",
        help="answer tasks that this key signed (64 hex digits); may be given again",
    )  # fmt: skip
    trust.add_argument(
        "--party", action="append", default=[], metavar="[HOST:PORT=]KEY",
        help="a party's identity key; for each party of a panel, in their order",
    )  # fmt: skip
    trust.add_argument(
        "--panel", type=Path, metavar="FILE",
        help="the same from a file, as `rookery task` takes it",
    )  # fmt: skip
    trust.add_argument(
        "--t", type=int, metavar="N",
        help="so many of these parties may look together and learn nothing (default: the most"
        " that their number allows)",
    )  # fmt: skip
    trust.add_argument(
        "--policy", action="append", default=[], metavar="KEY",
        help="be under the policy that this key's owner publishes: nothing else is recorded or"
        " answered than it declares; a second one while a key is exchanged",
    )  # fmt: skip
    trust.add_argument(
        "--remove", action="append", default=[], metavar="KEY",
        help="no longer trust this publisher (of tasks or of a policy), or any panel with this"
        " party; 8 digits suffice",
    )  # fmt: skip
    limits = trust.add_argument_group(
        "how much this device tells, in millionths of rho of zCDP; more noise costs less"
    )
    limits.add_argument("--round-micro-rho", type=int, metavar="N", help="in one round, at most")
    limits.add_argument("--period-micro-rho", type=int, metavar="N", help="of all tasks, in...")
    limits.add_argument("--period-days", type=int, metavar="DAYS", help="...so many days")
    limits.add_argument("--all-time-micro-rho", type=int, metavar="N", help="of all tasks, ever")


def _add_account(add: _Adder) -> None:
    offline = argparse.ArgumentParser(add_help=False)
    offline.add_argument("--offline", action="store_true", help="don't ask the service")
    status = add(
        "status", "account:status", "show where this device stands, and its alarms", offline
    )
    status.add_argument(
        "--dismiss", type=int, action="append", default=[], metavar="N", help="notice N is read"
    )
    wake = add(
        "wake", "wake:wake", "have a push wake this device when there is something to sync; show"
        " or end it", offline,
    )  # fmt: skip
    wake.add_argument(
        "--gateway-key", metavar="HEX", help="the push gateway's, from who runs it; with a token"
    )
    wake.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the push token; - reads it from input"
    )
    wake.add_argument(
        "--platform", choices=PLATFORMS, default="fcm", help="whose token it is; default: fcm"
    )
    wake.add_argument("--remove", action="store_true", help="no push any more")
    privacy = add(
        "privacy", "pages:privacy", "see and change all of it in a browser on this machine", offline
    )  # fmt: skip
    privacy.add_argument(
        "--purpose",
        default="ranking",
        metavar="NAME",
        help="what rankings are for (default: ranking)",
    )
    options.add_page_options(privacy)
    add(
        "export", "account:export", "print everything that there is of you in clear, as JSON: the"
        " profile, what you agreed to, what you took part in", offline,
    )  # fmt: skip
    restore = add(
        "restore-account", "account:restore_account", "bring the account back to a service that "
        "lost it",
    )  # fmt: skip
    restore.add_argument("--yes", action="store_true", help="don't ask")
    _add_token_command(restore)
    for name in ("delete-account", "forget-me"):
        delete = add(name, "account:delete_account", "delete the account at the service")
        delete.add_argument("--yes", action="store_true", help="don't ask")
