"""Safetensors headers: what is accepted, and every lie that is not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmos.pipelines.models.tensors import HEADER_BYTES, Tensor, parse_header, read_tensor_file


def entry(begin: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, Any]:
    """A tensor's line in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_file_of_the_reference_writer_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Names, shapes, dtypes, places, size and hash agree with what the safetensors library wrote."""
    path = tmp_path / "a.safetensors"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.float16), "c": np.array(1)}
    save_file(arrays, path, metadata={"format": "np"})
    data = path.read_bytes()
    found = read_tensor_file(path)
    assert (found.record.stamp.size, found.record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert found.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        tensor = found.tensors[name]
        assert tensor.shape == array.shape
        assert body[tensor.begin : tensor.end] == array.tobytes()


def test_index_buffers_are_no_parameters() -> None:
    """Positions and masks do not count as trained numbers."""
    assert Tensor("F32", (2, 3), 0, 24).parameters == 6
    assert Tensor("I64", (4,), 0, 32).parameters == 0


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"a": entry(0, 8)}, "need 8 bytes and it has 16"),
        ({"a": entry(0, 8), "b": entry(8, 16), "c": entry(16, 24)}, "need 24 bytes and it has 16"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "'b' begins at 4 and not at 8"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, "'b' begins at 12 and not at 8"),
        ({"a": entry(4, 12)}, "'a' begins at 4 and not at 0"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, "begins at 0 and not at 8"),
        ({"a": entry(0, 16)}, "takes 16 bytes and its shape needs 8"),
        ({"a": entry(16, 0)}, "takes -16 bytes"),
        ({"a": entry(0, 16, (2**62, 2**62))}, "its shape needs"),
        ({"a": entry(0, 16, (-1, -4))}, "tensor 'a'"),
        ({"a": entry(0, 16, (4,), "F33")}, "unknown dtype 'F33'"),
        ({"a": entry(-8, 8, (4,))}, "tensor 'a'"),
        ({"a": {**entry(0, 16, (4,)), "more": 1}}, "tensor 'a'"),
        ({"a": {"dtype": "F32", "shape": [4]}}, "tensor 'a'"),
        ({"a": {**entry(0, 16), "shape": [4.5]}}, "tensor 'a'"),
        ({"a": 1}, "tensor 'a'"),
        ({"__metadata__": {"x": 1}, "a": entry(0, 16, (4,))}, "metadata"),
        ([], "not a JSON object"),
    ],
)
def test_a_lying_header_is_refused(header: object, problem: str) -> None:
    """Gaps, overlaps, wrong sizes, impossible shapes and unknown fields are each named."""
    with pytest.raises(ValueError) as caught:
        parse_header(json.dumps(header).encode(), 16)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b'{"a":{},"a":{}}', "twice"),
        (b'{"a":', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b' {"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', "not a JSON object"),
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,16]}}', "not JSON"),
    ],
)
def test_a_header_that_is_no_json_object_is_refused(header: bytes, problem: str) -> None:
    """Repeated names, broken text, bottomless nesting and endless numbers are errors, never crashes."""
    with pytest.raises(ValueError) as caught:
        parse_header(header, 16)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cut off"),
        (b"\x02\x00\x00", "cut off"),
        ((100).to_bytes(8, "little") + b"{}", "cut off"),
        ((HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "are allowed"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "are allowed"),
        ((2).to_bytes(8, "little") + b"{}more", "need 0 bytes and it has 4"),
    ],
)
def test_a_file_that_lies_about_its_length_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    """A header longer than the file or than the format's bound is not read."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_tensor_file(path)
    assert problem in str(caught.value)
