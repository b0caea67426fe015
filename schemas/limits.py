"""Every bound a message is held to, and the bounded types made of them: no request may ask for unbounded work."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

RECORD_BYTES = 8 * 1024 * 1024
"""A record on any topic, in bytes."""
PAYLOAD_BYTES = 1024 * 1024
"""The payload of one request, in bytes."""
REQUEST_BYTES = PAYLOAD_BYTES + 64 * 1024
"""A record on a requests topic: the payload and its metadata, in bytes."""
ITEMS = 1024
"""Items of one list request."""
OUTPUT_TOKENS = 8192
"""Tokens one item may generate."""
ANSWER_BYTES = RECORD_BYTES - 256 * 1024
"""Room for the items of an answer, in bytes; the rest is its head."""
TIMEOUT_SECONDS = 86_400.0
"""The longest time-out of a job: `sealed` is kept longer than this."""
METADATA_CHARACTERS = 4096
"""What Kafka takes as metadata of a committed offset."""
STOP_STRINGS = 16
"""Stop strings of one request."""
CHOICES = 128
"""Outputs of one prompt."""
TOP_LOGPROBS = 20
"""Likeliest tokens that are told of at each place of an output."""
STOP_CHARACTERS = 128
"""The length of a stop string."""
PARTITIONS = 99
"""The largest N: the origin map of a partition (3 N entries) must fit the metadata of a committed offset, whatever the
offsets, with U beside it."""

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*\Z")]
"""A model's, kind's or device's name."""
ModelRef = Annotated[str, Meta(max_length=256)]
"""How a client names a model: name, alias or identity."""
TenantName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
RequestId = Annotated[str, Meta(min_length=1, max_length=128)]
TopicName = Annotated[str, Meta(min_length=1, max_length=249, pattern=r"^[A-Za-z0-9._-]+\Z")]
JobId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest = Annotated[bytes, Meta(max_length=32)]
Signature = Annotated[bytes, Meta(max_length=64)]
"""Of Ed25519; or a code of 32 bytes."""
Key = Annotated[bytes, Meta(max_length=4096)]
Metadata = Annotated[bytes, Meta(max_length=16 * 1024)]
"""All metadata of a request in their canonical order; the longest that a request can have is half of it."""
Payload = Annotated[bytes, Meta(max_length=PAYLOAD_BYTES)]
Sealed = Annotated[bytes, Meta(max_length=RECORD_BYTES)]
Text = Annotated[str, Meta(max_length=PAYLOAD_BYTES)]
Short = Annotated[str, Meta(max_length=2048)]
"""A message for people."""
Code = Annotated[str, Meta(max_length=64)]
Label = Annotated[str, Meta(max_length=128)]
"""A name, or the id of a reply; empty where there is none."""
Traceparent = Annotated[str, Meta(max_length=64)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Partition = Annotated[int, Meta(ge=0, le=100_000)]
Epoch = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
"""A duration or a point in time (Unix), in seconds."""
Timeout = Annotated[float, Meta(gt=0, le=TIMEOUT_SECONDS)]
Priority = Annotated[int, Meta(ge=0, le=9)]
"""0 is the least urgent, 9 the most."""
Crc32c = Annotated[int, Meta(ge=0, le=2**32 - 1)]
