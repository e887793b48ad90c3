"""Which policy version answers: the route file that `llm-auction serve --routes FILE` follows, and the split by weight.

Whoever rolls a version out writes the file anew under another name and moves it over this one (a mounted ConfigMap does
so by itself); routers read it about once a second. Pure apart from `read_routes`; loading and checking the versions is
`serving.policies.versioned`'s. The file, in JSON:

    {"generation": 7, "versions": [
      {"name": "v12", "weight": 90, "digest": "<sha256 of its weights>", "policy": "triton policy-v12:8001"},
      {"name": "v13", "weight": 10, "digest": "<sha256 of its weights>", "policy": "models/v13"}]}

`policy` is `triton HOST:PORT` or the folder of a model that is served in the router's process; `digest` is what
`llm-auction triton build` and a registry's `model.json` say, and no version with other weights gets traffic. Weights
are per cent and sum to 100; a version of weight 0 is loaded and checked, so that it can take traffic at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import msgspec

from mechanism.errors import ConfigError

TRITON = "triton "
LARGEST = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of the policy: its name, its share of the questions in per cent, where it is, and the sha256 that its
    weights must have (`serving.policies.weights`)."""

    name: str
    weight: int
    policy: str
    digest: str

    @property
    def server(self) -> str:
        """host:port of the Triton that serves it; empty where it is a folder."""
        return self.policy.removeprefix(TRITON).strip() if self.policy.startswith(TRITON) else ""


class Routes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All versions. `generation` is the writer's count of its files: routers report which one they follow."""

    versions: tuple[Version, ...]
    generation: int = 0


def read_routes(path: Path) -> Routes:
    """The file's versions. Raises ConfigError that names the place, the value and the remedy."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), error.strerror, "name a route file that can be read") from error
    return parse_routes(data, str(path))


def parse_routes(data: bytes, place: str) -> Routes:
    """The same for what a file holds; `place` is what errors call it."""
    if len(data) > LARGEST:
        raise ConfigError(place, f"<{len(data)} bytes>", f"a route file has {LARGEST} bytes at most")
    try:
        routes = msgspec.json.decode(data, type=Routes)
    except msgspec.DecodeError as error:  # a ValidationError is one, and says where
        shown = data[:80].decode(errors="replace")
        raise ConfigError(place, shown, f"{error}: the form is described in serving/policies/route_file.py") from None
    check_routes(routes, place)
    return routes


def check_routes(routes: Routes, place: str) -> None:
    """Raises ConfigError for versions that cannot be served together."""
    if routes.generation < 0:
        raise ConfigError(f"{place}: generation", routes.generation, "give a whole number >= 0")
    names = [version.name for version in routes.versions]
    for i, version in enumerate(routes.versions):
        at = f"{place}: versions[{i}]"
        if not _NAME.fullmatch(version.name):
            raise ConfigError(f"{at}.name", version.name, "use 1 to 63 letters, digits, '.', '_' or '-'")
        if names.index(version.name) < i:
            raise ConfigError(f"{at}.name", version.name, "name each version once")
        if not 0 <= version.weight <= 100:
            raise ConfigError(f"{at}.weight", version.weight, "give per cent from 0 to 100")
        if not _DIGEST.fullmatch(version.digest):
            raise ConfigError(f"{at}.digest", version.digest, "give the weights' sha256, 64 hexadecimal digits")
        if not version.policy.strip():
            raise ConfigError(f"{at}.policy", version.policy, "give `triton HOST:PORT` or a model's folder")
        found = _SERVER.fullmatch(version.server)
        if version.policy.startswith(TRITON) and not (found and 0 < int(found[2]) < 65_536):
            raise ConfigError(f"{at}.policy", version.policy, "after `triton ` give HOST:PORT")
    total = sum(version.weight for version in routes.versions)
    if total != 100:
        raise ConfigError(f"{place}: versions", f"weights sum to {total}", "make them sum to 100")


def chosen(weights: Mapping[str, float], key: str) -> str:
    """The name that `key` (a user, a conversation, an auction) falls to: each as often as its share of the weights.

    Each name draws an exponential time of rate `weight` from a hash, and the first wins (weighted rendezvous hashing).
    So a key leaves a version only where that one's share fell against another's: whoever saw a canary at 5% stays on it
    at 20%. Raises ValueError where no weight is above 0.
    """
    times = {name: _exponential(name, key) / weight for name, weight in weights.items() if weight > 0}
    return min(times, key=lambda name: (times[name], name))


def _exponential(name: str, key: str) -> float:
    """Exponential of rate 1, a function of the two texts."""
    digest = blake2b(f"{name}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return -math.log((int.from_bytes(digest, "big") + 0.5) / 2**64)
