"""What devices are called, and how options are written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmos.pipelines.engine.specs import DeviceSpec, device_label, parse_spec
from llmos.schemas.errors import BadSetting


@pytest.mark.parametrize(
    ("spec", "parsed", "label"),
    [
        ("cpu:0/1", DeviceSpec("cpu", 0, 1), "cpu0"),
        ("cpu:3/4", DeviceSpec("cpu", 3, 4), "cpu3"),
        ("cuda:1/8", DeviceSpec("cuda", 1, 8), "cuda1"),
        (
            "emulated:0/2?speed=0.33&faults=nan:0.01,oom:0.02&seed=7",
            DeviceSpec("emulated", 0, 2, (("speed", "0.33"), ("faults", "nan:0.01,oom:0.02"), ("seed", "7"))),
            "emulated0",
        ),
    ],
)
def test_a_spec_names_its_device(spec: str, parsed: DeviceSpec, label: str) -> None:
    """Kind, share, number of shares and options are read; the label is kind and share; the text is what was read."""
    assert parse_spec(spec) == parsed
    assert device_label(spec) == label
    assert parsed.text == spec


@pytest.mark.parametrize(
    "spec",
    [
        *("", "cpu", "cpu:", "cpu:0", "cpu:1/1", "cpu:2/1", "cpu:-1/2", "cpu:0/0", "CPU:0/1", "cpu:0/1 ", "cpu:0/1\n"),
        *(
            "cpu:a/b",
            "cpu:٠/١",
            "cpu:0/1?",
            "cpu:0/1?speed",
            "cpu:0/1?=1",
            "cpu:0/1?a=1&",
            "cpu:0/1?a=",
            "cpu:0/1?a=1&a=2",
        ),
        *("cpu:0/1?a=b c", "cpu:0/1?A=1"),
    ],
)
def test_a_bad_spec_stops_the_start(spec: str) -> None:
    """What is not kind:k/n with k below n, or has options that cannot be read, is an error that names the setting."""
    with pytest.raises(BadSetting, match=r"worker\.device"):
        parse_spec(spec)


def test_options_are_put_over_the_defaults() -> None:
    """Known options get their values; one that is not known is refused with those that are."""
    spec = parse_spec("emulated:0/1?speed=0.5")
    assert spec.settings({"speed": "1", "seed": "0"}) == {"speed": "0.5", "seed": "0"}
    with pytest.raises(BadSetting, match=r"no option 'speed'; its options: memory, seed"):
        spec.settings({"seed": "0", "memory": ""})


@pytest.mark.parametrize("module", ["specs", "discovery", "nvml", "emulation"])
def test_a_node_needs_no_torch(module: str) -> None:
    """A node learns which devices there are without torch."""
    code = f"import sys, llmos.pipelines.engine.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
