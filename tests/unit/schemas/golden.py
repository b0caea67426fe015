"""Golden records: a message of every type, no field at its default, and the bytes that it has had since it was written.

`python -m tests.unit.schemas.golden` adds the bytes of messages that have none; it never changes bytes that are there.
A field that is added later gets a record of its own here, under a new name; the old record stays and must be read.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import Message, encode
from llmos.schemas.catalog import Alias, Model, NodeModels, Pin, Quarantined, Quotas, Tenant
from llmos.schemas.control import Cancel, CancelTask, Drain, Fence, ModelCommand, ModelOrder, Query, Reply
from llmos.schemas.dead import DeadLetter, DeadReplayed
from llmos.schemas.epochs import Deaths, Layout, Term
from llmos.schemas.job import ErrorInfo, Head, Item, Option, Origin, Part, Task, Times, Usage
from llmos.schemas.partials import LowWatermark, Outcome, Spent, Verdict
from llmos.schemas.requests import Request
from llmos.schemas.results import Answer, Receipt, Stages
from llmos.schemas.sealed import Job
from llmos.schemas.stream import State, Tokens
from llmos.schemas.telemetry import (
    Candidate,
    Decided,
    DeviceLoad,
    DeviceReport,
    Heartbeat,
    HostLoad,
    LiveCounts,
    ModelRate,
    PolicyInput,
    Progress,
    Residency,
    SchedulerReport,
    Served,
    TaskFailed,
    TasksDone,
    TasksStopped,
    WorkerDied,
)
from llmos.schemas.work import Claim, Work

FILE = Path(__file__).with_name("golden.json")

JOB_ID = bytes(range(16))
DIGEST = bytes(range(32))
ORIGIN = Origin("requests.interactive", 3, 2**40)
EARLIER = Origin("requests.batch", 5, 17)
ERROR = ErrorInfo(code="engine_failed", message="The model could not run this input: ρ", retryable=True)
TASK = Task(7, 2**33, 2, (5 << 16) | 1)
USAGE = Usage(tokens_in=12, tokens_out=300, device_seconds=1.25)
TIMES = Times(
    dispatched_at=1_800_000_003.5,
    received_at=1_800_000_003.625,
    started_at=1_800_000_004.0,
    first_output_at=1_800_000_004.25,
    finished_at=1_800_000_005.5,
)
STAGES = Stages(
    submitted_at=1_800_000_000.0,
    admitted_at=1_800_000_001.0,
    sealed_at=1_800_000_002.0,
    dispatched_at=1_800_000_003.5,
    started_at=1_800_000_004.0,
    first_output_at=1_800_000_004.25,
    finished_at=1_800_000_005.5,
    answered_at=1_800_000_006.0,
)
HEAD = Head(
    job_id=JOB_ID,
    tenant="acme",
    request_id="r-1",
    origin=ORIGIN,
    lane="interactive",
    kind="generate",
    model="ab" * 32,
    model_name="shakespeare",
    events="tokens",
    reply_to="reply.acme",
    reply_key=b"public",
    wrapped_output_key=b"wrapped",
    content_digest=DIGEST,
    priority=9,
    timeout=30.5,
    parts=2,
    items=3,
    size=1_000,
    submitted_at=1_800_000_000.0,
    admitted_at=1_800_000_001.0,
    sealed_at=1_800_000_002.0,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
PART = Part(
    index=1, first_item=2, items=1, envelope=b"\x00sealed\xff", crc32c=0xDEADBEEF, input_tokens=6, max_output_tokens=64
)
ITEM = Item(output_index=1, output=b"\x81\xa4text\xa3abc", error=ERROR, tokens_in=6, tokens_out=64)
RESIDENCY = Residency(
    model="ab" * 32,
    name="shakespeare",
    state="resident",
    resident_bytes=2**31,
    load_seconds=0.75,
    last_used_at=1_800_000_004.0,
    active=2,
)
SERVED = Served(model="ab" * 32, kind="generate", tasks=9, busy_seconds=3.5, tokens_in=54, tokens_out=576)
RATE = ModelRate(
    model="ab" * 32,
    kind="generate",
    arrival_rate=3.5,
    service_rate=7.0,
    utilisation=0.5,
    mean_service_seconds=0.140625,
    samples=40,
)
REPORT = DeviceReport(
    device="node-0.cpu-0",
    node="node-0",
    alive=True,
    arrival_rate=3.5,
    service_rate=7.0,
    utilisation=0.5,
    window=32,
    in_flight=4,
    budget_bytes=2**32,
    resident_bytes=2**31,
    residents=[RESIDENCY],
    rates=[RATE],
    served=9,
)
HOST = HostLoad(
    processor_utilisation=0.75,
    memory_bytes=2**34,
    memory_available_bytes=2**33,
    processor_pressure=0.25,
    memory_pressure=0.125,
    io_pressure=0.0625,
)
LOAD = DeviceLoad(
    utilisation=0.875,
    own_utilisation=0.5,
    memory_bytes=2**34,
    memory_used_bytes=2**32,
    throttled="it is hot",
    clock_fraction=0.5,
)

VALUES: dict[str, Message] = {
    "request/1": Request(
        request_id="r-1",
        tenant="acme",
        kind="generate",
        model="shakespeare",
        input=msgspec.Raw(b"\x81\xa6prompt\xa5To be"),
        payload=b"\x81\xa6prompt\xa5To be",
        sealed=True,
        idempotency_key="once",
        priority=9,
        timeout=30.5,
        events="tokens",
        reply_to="reply.acme",
        reply_key=b"public",
        crc32c=0xDEADBEEF,
        submitted_at=1_800_000_000.0,
        mac=DIGEST,
        traceparent=HEAD.traceparent,
    ),
    "request/1 at its least": Request(request_id="r-1", tenant="acme", kind="echo"),
    "admitted/1": Admitted(head=HEAD, payload=b"\x00\xff", encoding="application/json", sealed=True, crc32c=0xDEADBEEF),
    "refusal/1": Refusal(head=HEAD, error=ERROR, stage="verify"),
    "job/1": Job(head=HEAD, parts=[PART]),
    "work/1": Work(
        task=TASK, incarnation=4, head=HEAD, part=PART, deadline=1_800_000_030.5, dispatched_at=1_800_000_003.5
    ),
    "claim/1": Claim(device="node-0.cpu-0", node="node-0", pid=4321),
    "tokens/1": Tokens(
        job_id=JOB_ID,
        request_id="r-1",
        origin=ORIGIN,
        partition=7,
        s=2**33,
        epoch=(5 << 16) | 2,
        source="node-0.cpu-0",
        sequence=11,
        output_index=1,
        first_token=12,
        tokens=2,
        text="to be — né",
        finish="stop",
        resume_at=10,
        wrapped_output_key=b"wrapped",
    ),
    "state/1": State(
        job_id=JOB_ID,
        request_id="r-1",
        origin=ORIGIN,
        state="loading",
        partition=7,
        s=2**33,
        epoch=(5 << 16) | 2,
        source="scheduler",
        sequence=3,
        at=1_800_000_003.5,
        device="node-0.cpu-0",
        detail="it waits for memory",
        done=1_000,
        of=2_000,
    ),
    "outcome/1": Outcome(task=TASK, head=HEAD, device="node-0.cpu-0", items=[ITEM], usage=USAGE, times=TIMES),
    "verdict/1": Verdict(
        s=2**33, head=HEAD, verdict="pointer", error=ERROR, original=EARLIER, original_s=2**32, epoch=(5 << 16) | 2
    ),
    "verdict/1 of work under way": Verdict(
        s=2**33,
        head=HEAD,
        verdict="cancelled",
        epoch=(5 << 16) | 2,
        spent=[Spent(part=1, epoch=(5 << 16) | 2, devices=["node-0.cpu-0", "node-0.cpu-1"], usage=USAGE)],
    ),
    "low_watermark/1": LowWatermark(low=2**33),
    "answer/1": Answer(
        job_id=JOB_ID,
        tenant="acme",
        request_id="r-1",
        origin=ORIGIN,
        partition=7,
        s=2**33,
        status="completed",
        items=[ITEM],
        error=ERROR,
        original=EARLIER,
        original_s=2**32,
        kind="generate",
        model="ab" * 32,
        model_name="shakespeare",
        epochs=[(5 << 16) | 1, (5 << 16) | 2],
        devices=["node-0.cpu-0", "node-0.cpu-1"],
        wrapped_output_key=b"wrapped",
        usage=USAGE,
        stages=STAGES,
    ),
    "receipt/1": Receipt(
        job_id=JOB_ID,
        tenant="acme",
        partition=7,
        s=2**33,
        status="completed",
        code="engine_failed",
        lane="interactive",
        kind="generate",
        model="ab" * 32,
        hold=HEAD.hold,
        origin=ORIGIN,
        content_digest=DIGEST,
        output_digest=DIGEST[::-1],
        binds=True,
        attempts=2,
        devices=["node-0.cpu-0"],
        usage=USAGE,
        stages=STAGES,
        reply_failed="there is no topic reply.acme",
    ),
    "dead_letter/1": DeadLetter(
        origin=ORIGIN,
        stage="ingest",
        error=ERROR,
        at=1_800_000_001.0,
        key=b"\x00key",
        value=b"\xc1garbage",
        key_id="system-1",
        size=9_000_000,
        headers=[("content-type", b"application/json")],
    ),
    "dead_letter/1 of a replay": DeadLetter(
        origin=ORIGIN, stage="worker", error=ERROR, at=1_800_000_001.0, attempt=2, replays=1, first=EARLIER
    ),
    "dead_letter/1 of a large record": DeadLetter(
        origin=ORIGIN,
        stage="ingest",
        error=ERROR,
        at=1_800_000_001.0,
        size=8_388_608,
        cut=True,
        taken_at=1_800_000_000.5,
    ),
    "dead_replayed/1": DeadReplayed(origin=EARLIER, to=ORIGIN, at=1_800_000_001.0),
    "request/1 with a nonce": Request(request_id="r-1", tenant="acme", kind="echo", nonce=DIGEST[:16]),
    "refusal/1 with a time": Refusal(
        head=HEAD,
        error=ErrorInfo(code="quota_exceeded", message="enough", retryable=True, retry_after=2.5),
        stage="ingest",
    ),
    "admitted/1 of a sealed one": Admitted(
        head=msgspec.structs.replace(HEAD, sealed=True, options=[Option("max_tokens", 64.0)]),
        payload=b"\x00",
        encoding="application/msgpack",
        sealed=True,
    ),
    "admitted/1 around a rotation": Admitted(
        head=msgspec.structs.replace(HEAD, other_digest=DIGEST),
        payload=b"\x00",
        encoding="application/msgpack",
        sealed=True,
        metadata=b"\x91\xb0llmos-metadata-2",
        signed_with=DIGEST,
    ),
    "tokens/1 sealed": Tokens(
        job_id=JOB_ID,
        request_id="r-1",
        origin=ORIGIN,
        partition=7,
        s=2**33,
        epoch=(5 << 16) | 2,
        source="node-0.cpu-0",
        sequence=11,
        output_index=1,
        part=1,
        sealed=b"\x00sealed",
    ),
    "outcome/1 sealed": Outcome(
        task=TASK,
        head=HEAD,
        device="node-0.cpu-0",
        items=[Item(output_index=0, output=b"\x00sealed", sealed=True, part=1, digest=DIGEST)],
        precision="bfloat16",
    ),
    "receipt/1 signed": Receipt(
        job_id=JOB_ID,
        tenant="acme",
        partition=7,
        s=2**33,
        status="completed",
        origin=ORIGIN,
        precision="bfloat16",
        options=[Option("max_tokens", 64.0)],
        part_count=2,
        item_count=3,
        signing_key="ab" * 8,
        signature=DIGEST * 2,
    ),
    "tenant/1 with rights and quotas": Tenant(
        name="acme",
        fingerprint=DIGEST,
        previous_secret=b"wrapped",
        previous_key_id="ab" * 8,
        previous_until=1_800_000_600.0,
        reply_key=b"public",
        reply_prefixes=["reply.acme."],
        lanes=["batch"],
        kinds=["echo"],
        models=["shakespeare*"],
        quotas=Quotas(jobs=100, bytes=2**20, requests_per_second=10.0, tokens_per_second=1_000.0, burst_seconds=60.0),
        default_timeout=60.0,
        made_at=1_800_000_000.0,
        note="billing: 4711",
        version=1_800_000_000_000,
        seal_key_id="ab" * 8,
        seal=DIGEST,
    ),
    "cancel_task/1 signed": CancelTask(partition=7, s=2**33, mac=DIGEST),
    "drain/1 signed": Drain(device="d", at=1_800_000_003.0, mac=DIGEST),
    "model_command/1 signed": ModelCommand(id="q-5", what="verify", at=1_800_000_003.0, mac=DIGEST),
    "model_order/1 signed": ModelOrder(what="verify", identity="", at=1_800_000_003.0, mac=DIGEST),
    "fence/1 signed": Fence(device="d", node="n", incarnation=4, pid=1, at=1_800_000_003.0, mac=DIGEST),
    "cancel_task/1 by signature": CancelTask(partition=7, s=2**33, mac=DIGEST * 2),
    "drain/1 by signature": Drain(device="d", at=1_800_000_003.0, mac=DIGEST * 2),
    "model_order/1 by signature": ModelOrder(what="verify", identity="", at=1_800_000_003.0, mac=DIGEST * 2),
    "fence/1 by signature": Fence(device="d", node="n", incarnation=4, pid=1, at=1_800_000_003.0, mac=DIGEST * 2),
    "cancel/1": Cancel(tenant="acme", job_id=JOB_ID, at=1_800_000_003.0, mac=DIGEST),
    "cancel_task/1": CancelTask(partition=7, s=2**33),
    "cancel_task/1 with its time": CancelTask(partition=7, s=2**33, at=1_800_000_003.0, mac=DIGEST * 2),
    "query/1": Query(id="q-1", what="job", reply_to="reply.acme", tenant="acme", job_id=JOB_ID, mac=DIGEST),
    "reply/1": Reply(id="q-1", body=msgspec.Raw(b"\x81\xa4jobs\x03"), error=ERROR),
    "drain/1": Drain(device="node-0.cpu-0", at=1_800_000_003.0),
    "heartbeat/1": Heartbeat(
        device="node-0.cpu-0",
        node="node-0",
        pid=4321,
        incarnation=4,
        sequence=60,
        at=1_800_000_030.0,
        queued=[TASK],
        running=[Task(7, 1, 0, 65537)],
        done=[Task(0, 0, 0, 1)],
        slots=16,
        budget_bytes=2**32,
        resident_bytes=2**31,
        residents=[RESIDENCY],
        served=[SERVED],
        busy_seconds=12.5,
        steps=1_000,
        draining=True,
        kinds=["echo", "generate"],
    ),
    "tasks_done/1": TasksDone(device="node-0.cpu-0", incarnation=4, tasks=[TASK], service_seconds=[0.25]),
    "task_failed/1": TaskFailed(device="node-0.cpu-0", incarnation=4, task=TASK, error=ERROR),
    "task_failed/1 with usage": TaskFailed(device="node-0.cpu-0", incarnation=4, task=TASK, error=ERROR, usage=USAGE),
    "tasks_stopped/1": TasksStopped(device="node-0.cpu-0", incarnation=4, used=[Progress(TASK, 12, 300, 1.25)]),
    "heartbeat/1 with progress": Heartbeat(
        device="d",
        node="n",
        pid=1,
        incarnation=4,
        sequence=1,
        at=1_800_000_030.0,
        running=[TASK],
        progress=[Progress(TASK, 12, 300, 1.25)],
    ),
    "worker_died/1": WorkerDied(device="node-0.cpu-0", node="node-0", pid=4321, at=1_800_000_030.0, reason="signal 9"),
    "heartbeat/1 with models": Heartbeat(
        device="d", node="n", pid=1, incarnation=4, sequence=1, at=1_800_000_030.0, models=["a1b2", "c3d4"]
    ),
    "worker_died/1 with signal": WorkerDied(device="d", node="n", pid=1, at=1_800_000_030.0, signal=9),
    "live_counts/1": LiveCounts(
        at=1_800_000_030.0, term=5, lanes={"interactive": (2, 2_000), "batch": (0, 0)}, tenants={"acme": (2, 2_000)}
    ),
    "scheduler_report/1": SchedulerReport(
        at=1_800_000_030.0,
        term=5,
        policy="completion",
        live=2,
        waiting={"standard": 1},
        dispatched=1,
        devices=[REPORT],
        held={"memory": 1},
    ),
    "model/1": Model(
        identity="ab" * 32,
        name="shakespeare",
        architecture="LlamaForCausalLM",
        kinds=["generate"],
        parameters=1_000_000,
        weight_bytes=4_000_000,
        context_tokens=256,
        width=128,
        dtype="float32",
        licence="Apache-2.0",
        damaged=ERROR,
    ),
    "alias/1": Alias(name="default", identity="ab" * 32),
    "tenant/1": Tenant(
        name="acme",
        plaintext="allow",
        mac="optional",
        wrapped_secret=b"wrapped",
        key_id="system-1",
        weight=2.5,
        longest_timeout=600.0,
    ),
    "state/1 of one that waits": State(
        job_id=JOB_ID,
        request_id="r-1",
        origin=ORIGIN,
        state="waiting",
        rule="memory",
        need=2e9,
        have=1.5e9,
        position=12,
        predicted_start_at=1_800_000_040.5,
    ),
    "query/1 to explain": Query(id="q-2", what="explain", reply_to="reply.acme", job_id=JOB_ID),
    "drain/1 undone": Drain(device="d", at=1_800_000_003.0, undo=True, id="q-3", reply_to="reply.acme"),
    "model_command/1": ModelCommand(
        id="q-4",
        what="alias",
        model="shakespeare",
        alias="default",
        device="node-0.cpu0",
        at=1_800_000_003.0,
        reply_to="reply.acme",
    ),
    "model_order/1": ModelOrder(what="load", identity="ab" * 32, device="node-0.cpu0", at=1_800_000_003.0),
    "fence/1": Fence(
        device="node-0.cpu0", node="node-0", incarnation=4, pid=4321, at=1_800_000_003.0, reason="its step hangs"
    ),
    "heartbeat/1 with what is watched": Heartbeat(
        device="d",
        node="n",
        pid=1,
        incarnation=4,
        sequence=1,
        at=1_800_000_030.0,
        residents=[
            Residency(
                model="ab" * 32,
                name="shakespeare",
                state="loading",
                tier="host",
                pinned=True,
                estimated_bytes=2**30,
                loaded_bytes=2**20,
                weight_bytes=2**29,
            )
        ],
        served=[
            Served(
                model="ab" * 32,
                kind="generate",
                prefill_tokens=512,
                prefill_seconds=0.5,
                decode_steps=64,
                decode_tokens=640,
                decode_seconds=1.5,
            )
        ],
        step_seconds=0.25,
        step_limit_seconds=1.5,
        started=12,
        waited_seconds=3.5,
        idle_seconds=7.5,
        host=HOST,
        load=LOAD,
    ),
    "scheduler_report/1 with what is watched": SchedulerReport(
        at=1_800_000_030.0,
        term=5,
        policy="completion",
        live=0,
        waiting={},
        dispatched=0,
        arrival_rate=3.5,
        service_rate=7.0,
        utilisation=0.5,
        devices=[
            msgspec.structs.replace(
                REPORT,
                rates=[
                    msgspec.structs.replace(
                        RATE,
                        confidence=0.875,
                        prefill_tokens_per_second=800.0,
                        decode_step_seconds=0.03125,
                        decode_step_seconds_per_sequence=0.0078125,
                    )
                ],
                draining=True,
                delay_seconds=0.125,
                backlog_seconds=2.5,
                host=HOST,
                load=LOAD,
            )
        ],
    ),
    "decided/1": Decided(
        at=1_800_000_030.0,
        term=5,
        turn=12,
        task=TASK,
        tasks=3,
        kind="generate",
        model="ab" * 32,
        device="node-0.cpu0",
        rule="window",
        need=33.0,
        have=32.0,
        predicted_start_at=1_800_000_031.0,
        predicted_done_at=1_800_000_033.0,
        candidates=[
            Candidate(
                device="node-0.cpu0",
                rule="window",
                need=33.0,
                have=32.0,
                wait_seconds=1.5,
                load_seconds=0.75,
                service_seconds=2.25,
            )
        ],
    ),
    "policy_input/1": PolicyInput(
        at=1_800_000_030.0, term=5, turn=12, whole=True, body=b"\x81\xa1a\x01", decision=b"\x90"
    ),
    "model/1 with more": Model(
        identity="ab" * 32,
        name="shakespeare",
        architecture="GPTNeoXForCausalLM",
        kinds=["generate"],
        parameters=1,
        weight_bytes=4,
        context_tokens=256,
        dtype="float32",
        kv_bytes_per_token=1_024,
        chat=True,
        native=False,
    ),
    "node_models/1": NodeModels(
        node="node-0",
        at=1_800_000_030.0,
        models=["ab" * 32],
        quarantined=[Quarantined(name="broken", directory="models/broken", error=ERROR)],
        verified_at=1_800_000_020.0,
    ),
    "pin/1": Pin(identity="ab" * 32, device="node-0.cpu0"),
    "term/1": Term(node="node-0", pid=4321, at=1_800_000_000.0),
    "deaths/1": Deaths(partition=7, s=2**33, part=2, deaths=3),
    "layout/1": Layout(partitions=8, instances=[1, 2]),
}


def recorded() -> dict[str, bytes]:
    """The bytes by name, as they were written down."""
    return {name: bytes.fromhex(text) for name, text in json.loads(FILE.read_text()).items()}


def main() -> None:
    """Writes down the bytes of what has none yet."""
    found = recorded() if FILE.exists() else {}
    added = {name: encode(value) for name, value in VALUES.items() if name not in found}
    FILE.write_text(json.dumps({name: data.hex() for name, data in (found | added).items()}, indent=1) + "\n")
    print(f"{len(added)} added ({', '.join(added) or 'none'}), {len(found)} left as they were")


if __name__ == "__main__":
    main()
