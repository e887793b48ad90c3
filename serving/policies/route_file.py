"""The route file that `llm-auction serve --routes FILE` follows: which policy versions answer, and with what weight.

Replace the file in one step (write another one and rename it; a mounted ConfigMap does so); routers read it about once
a second. Pure apart from `read_routes`; `serving.policies.versioned` loads and checks the versions. The file, in JSON:

    {"generation": 7, "versions": [
      {"name": "v12", "weight": 90, "digest": "<sha256 of its weights>", "policy": "triton policy-v12:8001"},
      {"name": "v13", "weight": 10, "digest": "<sha256 of its weights>", "policy": "models/v13"}]}

`policy` is `triton HOST:PORT` or the folder of a model that is served in the router's process. `digest` is the one that
`llm-auction triton build` prints and a registry's `model.json` holds; a version with other weights takes no traffic.
Weights are per cent and sum to 100; a version of weight 0 is loaded and checked, so that it can take traffic at once.
`revision` (hexadecimal digits) tells versions of the same weights apart whose servers have other settings. `base` is
given for an adapter on Triton: the digest of its base model there, which serves several adapters at once.
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
MAX_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._+-]{0,78}[A-Za-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"([0-9a-f]{1,15})?")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version of the policy.

    `weight` is its share of the questions in per cent, `policy` where it is served, `digest` the digest that its
    weights must have (`mechanism.weights`). `revision` is given where other servers of the same weights have
    other settings: its answers are counted apart from theirs. `base` is the digest of the model on the server if the
    version is an adapter on it.
    """

    name: str
    weight: int
    policy: str
    digest: str
    revision: str = ""
    base: str = ""

    @property
    def server(self) -> str:
        """host:port of the Triton that serves it; empty for a folder."""
        return self.policy.removeprefix(TRITON).strip() if self.policy.startswith(TRITON) else ""


class Routes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All versions. `generation` counts the writer's files; routers report the one that they follow."""

    versions: tuple[Version, ...]
    generation: int = 0


def read_routes(path: Path) -> Routes:
    """Read a route file.

    Raises:
        ConfigError: if the file cannot be read or is not valid.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), error.strerror, "name a route file that can be read") from error
    return parse_routes(data, str(path))


def parse_routes(data: bytes, place: str) -> Routes:
    """Decode and check the bytes of a route file; errors name it `place`.

    Raises:
        ConfigError: if the bytes are not a valid route file.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(place, f"<{len(data)} bytes>", f"give a route file of {MAX_BYTES} bytes at most")
    try:
        routes = msgspec.json.decode(data, type=Routes)
    except msgspec.DecodeError as error:  # includes ValidationError, which names the place
        shown = data[:80].decode(errors="replace")
        raise ConfigError(place, shown, f"{error}: serving/policies/route_file.py describes the format") from None
    check_routes(routes, place)
    return routes


def check_routes(routes: Routes, place: str) -> None:
    """Check that versions can be served together.

    Raises:
        ConfigError: for the first bad generation, name, weight, digest or policy.
    """
    if routes.generation < 0:
        raise ConfigError(f"{place}: generation", routes.generation, "give a whole number >= 0")
    names = [version.name for version in routes.versions]
    for i, version in enumerate(routes.versions):
        at = f"{place}: versions[{i}]"
        if not _NAME.fullmatch(version.name):
            raise ConfigError(f"{at}.name", version.name, "use 1 to 80 letters, digits, '.', '_', '+' or '-'")
        if names.index(version.name) < i:
            raise ConfigError(f"{at}.name", version.name, "name each version once")
        if not 0 <= version.weight <= 100:
            raise ConfigError(f"{at}.weight", version.weight, "give per cent from 0 to 100")
        if not _DIGEST.fullmatch(version.digest):
            raise ConfigError(f"{at}.digest", version.digest, "give the weights' sha256, 64 hexadecimal digits")
        if not _REVISION.fullmatch(version.revision):
            raise ConfigError(f"{at}.revision", version.revision, "give 1 to 15 hexadecimal digits, or leave it out")
        if not version.policy.strip():
            raise ConfigError(f"{at}.policy", version.policy, "give `triton HOST:PORT` or a model's folder")
        if version.base and not _DIGEST.fullmatch(version.base):
            raise ConfigError(f"{at}.base", version.base, "give the base model's sha256, 64 hexadecimal digits")
        if version.base and not version.server:
            raise ConfigError(
                f"{at}.base", version.base, "leave it out: the folder of an adapter names its base itself"
            )
        server = _SERVER.fullmatch(version.server)
        if version.policy.startswith(TRITON) and not (server and 0 < int(server[2]) < 65_536):
            raise ConfigError(f"{at}.policy", version.policy, "after `triton ` give HOST:PORT")
    total = sum(version.weight for version in routes.versions)
    if total != 100:
        raise ConfigError(f"{place}: versions", f"weights sum to {total}", "make them sum to 100")


def choose(weights: Mapping[str, float], key: str) -> str:
    """Choose the version that answers `key` (a user, a conversation, an auction), in proportion to the weights.

    Weighted rendezvous hashing: each name draws an exponential time of rate `weight` from a hash of name and key, and
    the smallest wins. A key leaves a version only if that version's share fell: a reader of a canary at 5% stays on it
    at 20%. At least one weight must be above 0.
    """
    times = {name: _exponential(name, key) / weight for name, weight in weights.items() if weight > 0}
    return min(times, key=lambda name: (times[name], name))


def _exponential(name: str, key: str) -> float:
    """Draw from the exponential distribution of rate 1, as a function of the two texts."""
    digest = blake2b(f"{name}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return -math.log((int.from_bytes(digest, "big") + 0.5) / 2**64)
