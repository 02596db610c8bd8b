"""What a party counts: rounds, reports, jobs, links and budget, of all tasks together.

As in `services.metrics`, a label's value is one of the program's own words; nothing of a task,
a round, a report or a peer is ever one. Parties are not told apart: how many links are up is
enough to know that one is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.metrics import OTHER, REASONS, CallMetrics
from services.party.jobs import Ending
from services.party.links import LOST_RULES
from services.party.messages import Job
from services.party.retention import KINDS
from services.party.states import Progress, Reason, State

JOB_SECONDS: Final = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
UNREACHABLE: Final = "UNREACHABLE"
VERDICTS: Final = ("valid", "invalid", "inconsistent")
BOXES: Final = ("taken", "malformed", "left_out")
LIES: Final = ("validity", "sum", "otherwise")


class PartyMetrics(CallMetrics):
    """All of one party."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        rounds = Gauge(
            "rookery_party_rounds", "Rounds that are kept, by state.", ["state"], registry=registry
        )
        self._rounds = {state: rounds.labels(state.name.lower()) for state in State}
        ended = Counter(
            "rookery_party_rounds_ended",
            "Rounds that ended: signed, or why they were abandoned.",
            ["outcome"],
            registry=registry,
        )
        self._ended = {reason: ended.labels(reason.value) for reason in Reason}
        self._signed = ended.labels("signed")
        self._boxes = _children(
            Counter(
                "rookery_party_boxes",
                "Boxes from the relay. left_out: repeated, or more than the task takes.",
                ["outcome"],
                registry=registry,
            ),
            BOXES,
        )
        self._reports = _children(
            Counter(
                "rookery_party_reports",
                "Reports that all parties judged together.",
                ["verdict"],
                registry=registry,
            ),
            VERDICTS,
        )
        overdue = Gauge(
            "rookery_retention_overdue",
            "What two sweeps should have removed and is here, by kind: 0, or something is wrong.",
            ["kind"],
            registry=registry,
        )
        self._overdue = {kind: overdue.labels(kind) for kind in KINDS}
        self._policy = Gauge(
            "rookery_policy_sequence", "Number of the policy in force; 0: none.", registry=registry
        )
        self._jobs = Counter(
            "rookery_party_jobs", "Jobs that ended, by how.", ["job", "ending"], registry=registry
        )
        self._job_seconds = Histogram(
            "rookery_party_job_seconds",
            "Jobs that came to their end.",
            ["job"],
            buckets=JOB_SECONDS,
            registry=registry,
        )
        for job in Job:
            self._job_seconds.labels(job.name.lower())
            for ending in Ending:
                self._jobs.labels(job.name.lower(), ending.value)
        self._jobs_running = Gauge(
            "rookery_party_jobs_running", "Processes of jobs that run now.", registry=registry
        )
        self._lies = _children(
            Counter(
                "rookery_party_lies",
                "Openings in which a party's shares were wrong. otherwise: two openings of one"
                " round gave other sums.",
                ["opening"],
                registry=registry,
            ),
            LIES,
        )
        self._peers = Gauge(
            "rookery_party_peers", "Other parties that are configured.", registry=registry
        )
        self._links_up = Gauge(
            "rookery_party_links_up", "Other parties that can be reached now.", registry=registry
        )
        self._links_lost = _children(
            Counter("rookery_party_links_lost", "Links that ended.", ["rule"], registry=registry),
            (*LOST_RULES, OTHER),
        )
        self._links_refused = _children(
            Counter(
                "rookery_party_links_refused",
                "Streams whose other end did not prove to be a peer.",
                ["rule"],
                registry=registry,
            ),
            (*LOST_RULES, OTHER),
        )
        self._relay = _children(
            Counter(
                "rookery_party_relay_failures",
                "Calls to the relay that failed or were refused; they are tried again.",
                ["reason"],
                registry=registry,
            ),
            (*sorted(REASONS), UNREACHABLE, OTHER),
        )
        self._budget_left = Gauge(
            "rookery_party_budget_left_ratio",
            "Of the task that has least left: which share of its cap that is. 1 without a task.",
            registry=registry,
        )
        tasks = Gauge(
            "rookery_party_tasks",
            "Tasks that are not over, by whether their cap has room for another round.",
            ["budget"],
            registry=registry,
        )
        self._tasks = {has_room: tasks.labels(_BUDGET[has_room]) for has_room in _BUDGET}
        self.tally_budgets(())

    # What happens

    def round_ended(self, progress: Progress) -> None:
        """A round came to its end here."""
        if progress.state is State.SIGNED:
            self._signed.inc()
        elif progress.reason is not None:
            self._ended[progress.reason].inc()

    def took_in(self, *, taken: int, malformed: int, left_out: int) -> None:
        """Boxes of a micro-batch."""
        self._boxes["taken"].inc(taken)
        self._boxes["malformed"].inc(malformed)
        self._boxes["left_out"].inc(left_out)

    def judged(self, *, valid: int, invalid: int, inconsistent: int) -> None:
        """The verdicts of a round."""
        self._reports["valid"].inc(valid)
        self._reports["invalid"].inc(invalid)
        self._reports["inconsistent"].inc(inconsistent)

    def job(self, job: Job, ending: Ending, seconds: float) -> None:
        """A job is over."""
        self._jobs.labels(job.name.lower(), ending.value).inc()
        if ending is Ending.DONE:
            self._job_seconds.labels(job.name.lower()).observe(seconds)

    def lie(self, opening: str) -> None:
        """A party's shares were wrong."""
        self._lies[opening].inc()

    def link_lost(self, rule: str) -> None:
        """A link to a peer ended."""
        self._links_lost.get(rule, self._links_lost[OTHER]).inc()

    def link_refused(self, rule: str) -> None:
        """Who dialled, or was dialled, is no peer."""
        self._links_refused.get(rule, self._links_refused[OTHER]).inc()

    def relay_failed(self, reason: str) -> None:
        """The relay refused with this reason, or is UNREACHABLE."""
        self._relay.get(reason, self._relay[OTHER]).inc()

    # What is looked up

    def watch(
        self,
        *,
        peers: Callable[[], int],
        links_up: Callable[[], int],
        jobs_running: Callable[[], int],
        policy_sequence: Callable[[], int],
    ) -> None:
        """Asked at each scrape."""
        self._policy.set_function(lambda: float(policy_sequence()))
        self._peers.set_function(peers)
        self._links_up.set_function(lambda: float(links_up()))
        self._jobs_running.set_function(lambda: float(jobs_running()))

    def tally_overdue(self, counts: Mapping[str, int]) -> None:
        """What `PartyStore.overdue` found."""
        for kind, gauge in self._overdue.items():
            gauge.set(counts[kind])

    def tally_rounds(self, counts: Mapping[State, int]) -> None:
        """So many rounds are in each state; 0 in those that are not named."""
        for state, gauge in self._rounds.items():
            gauge.set(counts.get(state, 0))

    def tally_budgets(self, tasks: Iterable[tuple[int, int, int]]) -> None:
        """Of each task: what it has left, its cap, and what a round of it costs (micro-rho)."""
        rows = list(tasks)
        for has_room, gauge in self._tasks.items():
            gauge.set(sum((left >= cost) is has_room for left, _, cost in rows))
        self._budget_left.set(min((left / cap if cap else 0.0 for left, cap, _ in rows), default=1))


_BUDGET: Final = {True: "room", False: "exhausted"}


def _children(counter: Counter, values: Iterable[str]) -> dict[str, Counter]:
    return {value: counter.labels(value) for value in values}
