"""Where the operator listens: HOST:PORT, or an error that says so."""

from __future__ import annotations

import pytest

from mechanism.errors import InputError
from operators.operator import address


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9090", ("127.0.0.1", 9090)),
        (":9090", ("0.0.0.0", 9090)),
        ("9090", ("0.0.0.0", 9090)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:9090", ("::1", 9090)),
    ],
)
def test_host_and_port(text: str, found: tuple[str, int]) -> None:
    assert address(text, "--metrics") == found


@pytest.mark.parametrize("text", ["foo", "localhost:", ":0", "host:99999", "host:9090x"])
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InputError, match=r"--metrics: .* give HOST:PORT, such as 127\.0\.0\.1:9090"):
        address(text, "--metrics")
