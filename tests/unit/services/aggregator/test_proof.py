"""From a worker's outcome to the tenant: it opens its answer, and finds in the signed receipt that this is the one."""

from __future__ import annotations

import msgspec

from llmos.infra.crypto.channels import digest_key, item_bound
from llmos.infra.crypto.credentials import ReplyKeys
from llmos.infra.crypto.envelope import open_envelope
from llmos.infra.crypto.receipts import check_answer, check_receipt, item_digests, signed
from llmos.schemas.errors import TooLong
from llmos.schemas.partials import PARTIALS
from llmos.schemas.results import RESULTS, USAGE, Answer
from llmos.services.aggregator.answering import answer_outcomes
from llmos.services.worker.runners.events import ItemEnded, TaskEnded
from tests.kit.bench import KEYS, NOW, SECRET
from tests.unit.services.worker.test_sealing import KEY, Life, asked

PUBLIC = {entry.id: entry.public for entry in KEYS.entries if entry.purpose == "receipt"}


def outputs(answer: Answer) -> list[tuple[int, bytes, str]]:
    """What the tenant reads: (index, clear output, code of the error)."""
    found = []
    for item in answer.items:
        bound = item_bound(answer, item.part, answer.epochs[item.part], item.output_index)
        clear = open_envelope(ReplyKeys([KEY]), bound, item.output) if item.sealed else item.output
        found.append((item.output_index, clear, item.error.code if item.error else ""))
    return found


def test_a_tenant_proves_its_answer() -> None:
    """Two parts by two attempts, one item failed; nothing but the answer, the receipt and the tenant's own keys is used."""
    outcomes = []
    for part, epoch in ((0, 3), (1, 7)):
        task = asked(text=["a", "b"], part=part, epoch=epoch)
        head = msgspec.structs.replace(task.work.head, parts=2, items=4)
        task.work = msgspec.structs.replace(task.work, head=head)
        task.digest_key = digest_key(SECRET, task.work.head.job_id)
        error = TooLong(tokens=9, model="m", limit=8) if part else None
        events = [
            ItemEnded(task.name, 0, b"out 0", None, 1, 1),
            ItemEnded(task.name, 1, b"" if error else b"out 1", error, 1, 0),
        ]
        settled = Life().settle(task, *events, TaskEnded(task.name, 0.1))
        outcomes.append(PARTIALS.decode(msgspec.msgpack.encode(settled.outcomes[0])))
    made = answer_outcomes(0, 5, outcomes[0].head, outcomes, NOW)
    answer: Answer = RESULTS.decode(made.value)
    record = signed(KEYS, made.receipt)
    read = outputs(answer)
    assert read == [(0, b"out 0", ""), (1, b"out 1", ""), (2, b"out 0", ""), (3, b"", "too_long")]
    assert b"out 0" not in made.value
    assert check_receipt(record, PUBLIC)
    receipt = USAGE.decode(record)
    assert check_answer(receipt, item_digests(SECRET, answer.job_id, read))
    assert not check_answer(receipt, item_digests(SECRET, answer.job_id, [*read[:-1], (3, b"", "too_large")]))
