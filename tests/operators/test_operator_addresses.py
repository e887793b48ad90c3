"""Addresses of the operator's servers: HOST:PORT, or an error that names the form."""

from __future__ import annotations

import pytest

from mechanism.errors import InputError
from operators.operator import address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9090", ("127.0.0.1", 9090)),
        (":9090", ("0.0.0.0", 9090)),
        ("9090", ("0.0.0.0", 9090)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:9090", ("::1", 9090)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert address(text, "--metrics") == expected


@pytest.mark.parametrize("text", ["foo", "localhost:", ":0", "host:99999", "host:9090x"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--metrics: .* give HOST:PORT, such as 127\.0\.0\.1:9090"):
        address(text, "--metrics")
