"""What can get wider, what that risks, and what has to be written down before it may.

Data minimisation and purpose limitation as in Art. 5 (1), consent as in Art. 7, and an assessment
as in Art. 35 (7) of the GDPR: what is done, the risk, the measures, who decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """One sort of change. `name` is stable: ids of changes begin with it."""

    name: str
    level: str
    risk: str
    needs: str


HIGH: Final = "high"
MEDIUM: Final = "medium"
LOW: Final = "low"

NEW_SIGNAL: Final = Rule(
    "new-signal", HIGH,
    "Something that was not recorded is now; with what is there already it may tell more of a"
    " person than either alone.",
    "Say why the purpose can't be reached without it, and why not with a coarser one.",
)  # fmt: skip
WIDER_VALUES: Final = Rule(
    "wider-values", MEDIUM,
    "Rarer values can be recorded, and a rare value points at few people.",
    "Say who needs the values outside the former range, and how rare ones are kept from standing"
    " out.",
)  # fmt: skip
WIDER_KEYS: Final = Rule(
    "wider-keys", MEDIUM,
    "More is recorded under the signal than people were told of.",
    "Say what the new names are, and that the signal's text covers them.",
)  # fmt: skip
LESS_GENERALISED: Final = Rule(
    "less-generalised", HIGH,
    "Values are recorded more finely: one of many becomes one of few.",
    "Say what the finer value is needed for, and how many people share one at least.",
)  # fmt: skip
LONGER_RETENTION: Final = Rule(
    "longer-retention", MEDIUM,
    "More of the past is there to be lost, stolen or asked for.",
    "Say what the older values are needed for, and what is done with those that would have been"
    " deleted by now.",
)  # fmt: skip
SHORTER_AUDIT: Final = Rule(
    "shorter-audit", MEDIUM,
    "Who did what can be looked into for less long; entries that are older go with the next sweep,"
    " for good.",
    "Say why the time is long enough to find and settle a misuse, and that nothing which is looked"
    " into now needs the entries that go.",
)  # fmt: skip
LONGER_HALF_LIFE: Final = Rule(
    "longer-half-life", LOW,
    "What somebody liked long ago goes on telling of them.",
    "Say why tastes of that age still matter.",
)  # fmt: skip
WIDER_REACH: Final = Rule(
    "wider-reach", HIGH,
    "The signal leaves the device, or counts in aggregates, where it did not.",
    "Say why it can't stay where it was, and what those who recorded it under the former words"
    " are told.",
)  # fmt: skip
NEW_PURPOSE: Final = Rule(
    "new-purpose", HIGH,
    "Values that were given for one thing are used for another.",
    "Say how the new purpose is asked for, and that nothing recorded before is used for it without"
    " a yes.",
)  # fmt: skip
INTRUSIVE_PURPOSE: Final = Rule(
    "intrusive-purpose", HIGH,
    "The purpose tells more of people than they may expect.",
    "Say why a milder purpose does not do, who reviewed the words, and that it is asked for by"
    " itself.",
)  # fmt: skip
LESS_GUARDED: Final = Rule(
    "less-guarded-purpose", MEDIUM,
    "A purpose that was asked for by itself can be agreed to in passing.",
    "Say why it is no longer one that people need to be asked about by itself.",
)  # fmt: skip
CHANGED_TEXT: Final = Rule(
    "changed-text", MEDIUM,
    "People agreed to other words.",
    "Ask for new consent: say how and from when, and that receipts for the former words no longer"
    " count.",
)  # fmt: skip
CHANGED_WORDS: Final = Rule(
    "changed-words", LOW,
    "People let it be recorded or counted by other words, and their consent does not ask again.",
    "Say that the new words say the same, or how people are told what they say besides.",
)  # fmt: skip
NEW_TASK: Final = Rule(
    "new-task", HIGH,
    "One more thing is computed of people, and results of several tasks can be compared.",
    "Say what is decided by the result, and what it says together with the tasks that there are.",
)  # fmt: skip
TASK_READS: Final = Rule(
    "task-reads-more", HIGH,
    "A result tells how two things go together, which each by itself did not.",
    "Say what the added signal or cohort is for, and how many people the smallest bin has.",
)  # fmt: skip
LESS_NOISE: Final = Rule(
    "less-noise", HIGH,
    "Each round tells more of each person in it: epsilon grows with the root of rho.",
    "Say why the former result was too rough, what else was tried (more people, fewer bins), and by"
    " what caps the sum over all rounds stays bounded.",
)  # fmt: skip
SMALLER_K: Final = Rule(
    "smaller-k", HIGH,
    "Results about smaller groups: who knows of all but one can tell of that one.",
    "Say which group is that small, and what is suppressed in its results.",
)  # fmt: skip
FLAG_WIDER: Final = Rule(
    "flag-wider", LOW,
    "More people get what the switch is about.",
    "Say what was seen among those who had it, and what would turn it off.",
)  # fmt: skip
KILL_LIFTED: Final = Rule(
    "kill-lifted", MEDIUM,
    "A use that was stopped goes on.",
    "Say why it was stopped, what was repaired, and who checked.",
)  # fmt: skip
NEW_ROLE: Final = Rule(
    "new-role", HIGH,
    "Somebody new may act on data or decide about it.",
    "Name who is behind the role, what they are bound to, and how their calls are audited.",
)  # fmt: skip
NEW_IDENTITY: Final = Rule(
    "new-identity", MEDIUM,
    "One more workload or key has the role, and can lose it to somebody else.",
    "Name its owner, where the key is kept, and when it ends.",
)  # fmt: skip
UNRESTRICTED_ROLE: Final = Rule(
    "unrestricted-role", HIGH,
    "A role that only listed workloads or keys had is no longer bound to them.",
    "Say what keeps others from acting in the role.",
)  # fmt: skip
NEW_GRANT: Final = Rule(
    "new-grant", MEDIUM,
    "A role can call what it could not.",
    "Say which duty needs the call, and why no other role can make it.",
)  # fmt: skip
NEW_COHORT: Final = Rule(
    "new-cohort", HIGH,
    "People are sorted in a way that they were not; a label can stand for what nobody asked.",
    "Say what each label could be taken for, how few people the smallest has, and who reviewed it"
    " for fairness.",
)  # fmt: skip
WIDER_EXPERIMENT: Final = Rule(
    "wider-experiment", MEDIUM,
    "More people, or other ones, are shown something to see how they take it.",
    "Say what the worse variant costs those who get it, and what ends the experiment early.",
)  # fmt: skip

EARLIER_VERDICT: Final = Rule(
    "earlier-verdict", MEDIUM,
    "A verdict counts that fewer people gave: chance decides, and who looks early and often finds"
    " what they look for.",
    "Say which effect that number still finds, and that nobody has looked at results so far.",
)  # fmt: skip

RULES: Final = tuple(rule for rule in dict(globals()).values() if isinstance(rule, Rule))
"""All, in the order above."""
