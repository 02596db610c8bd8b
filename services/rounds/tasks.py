"""PublishTask, ListTasks (proto/rookery/v1/rounds.proto)."""

from __future__ import annotations

from crypto.canonical import BYTES_MAX
from rookery.v1 import rounds_pb2
from services import wire
from services.call import KeyCall, Signer
from services.errors import Malformed, TaskInvalid
from services.rounds.desk import RoundDesk, signed_task, summary
from services.rounds.forms import read_task, report_bytes
from services.store.errors import QuotaExceeded
from services.store.rounds import TaskRow
from services.sync.desk import parse

TASK_BYTES_MAX = BYTES_MAX
TASKS_PER_ANSWER_MAX = 64
ROUNDS_PER_TASK_MAX = 64
ANSWER_BYTES_MAX = 1 << 20
# What every backend can count to.
_COUNT_MAX = (1 << 63) - 1


class Tasks:
    """Handlers for tasks. `contribution_bytes_max`: a task whose reports are larger is refused,
    for nobody could ever answer to it."""

    def __init__(self, desk: RoundDesk, *, contribution_bytes_max: int) -> None:
        self._desk = desk
        self._contribution_bytes_max = contribution_bytes_max

    async def publish(self, raw: bytes, call: KeyCall) -> bytes:
        """PublishTask."""
        request = parse(rounds_pb2.PublishTaskRequest.FromString, raw)
        if len(request.task) > TASK_BYTES_MAX:
            raise QuotaExceeded("task_bytes", TASK_BYTES_MAX)
        task = read_task(request.task, request.sig, call.key.ik_pk)
        if report_bytes(task) > self._contribution_bytes_max:
            raise TaskInvalid("report-bytes")
        call.check_purpose(task.purpose)
        self._desk.policy.rule_of(task)
        call.check_live()
        await self._desk.store.publish_task(
            TaskRow(
                task_id=task.task_id.encode(),
                spec_hash=task.spec_hash,
                publisher=call.key.ik_pk,
                task=request.task,
                sig=request.sig,
            )
        )
        return self._desk.info_field(call) + wire.data(2, task.spec_hash)

    async def list(self, raw: bytes, call: Signer) -> bytes:
        """ListTasks."""
        request = parse(rounds_pb2.ListTasksRequest.FromString, raw)
        if request.after > _COUNT_MAX:
            raise Malformed("after")
        rows, more = await self._desk.store.read_tasks(
            request.after, tasks_max=TASKS_PER_ANSWER_MAX, bytes_max=ANSWER_BYTES_MAX
        )
        answer = rounds_pb2.ListTasksResponse(next=request.after, more=more)
        for position, row in rows:
            rounds = await self._desk.store.rounds_of(
                row.spec_hash, now_ms=call.now_ms, rounds_max=ROUNDS_PER_TASK_MAX
            )
            answer.tasks.add(
                task=signed_task(row),
                rounds=[summary(*one, call.now_ms) for one in rounds],
                result_round_id=await self._desk.store.newest_result(
                    row.spec_hash, now_ms=call.now_ms
                )
                or b"",
            )
            answer.next = position
        return self._desk.info_field(call) + answer.SerializeToString()
