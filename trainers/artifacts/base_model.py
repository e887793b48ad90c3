"""Where a run's base model is: by name, in a folder, or as a registered version in a registry of any kind."""

from __future__ import annotations

from mechanism.errors import ConfigError
from trainers.artifacts.registry import MODELS, Registry


def local_base(base: str) -> str:
    """A base model as `Policy.load` takes it. A version in a registry at a URL (`s3://bucket/prefix/models/v0003`) is
    fetched, each of its files compared with its digest.

    Raises ConfigError for a URL that names no version, InputError for one that is not registered, AuctionError for
    files that are not what was registered.
    """
    if "://" not in base:
        return base
    registry, _, version = base.rpartition(f"/{MODELS}/")
    if not registry or not version or "/" in version:
        raise ConfigError(
            "base", base, f"of a registry at a URL give a version, as in s3://bucket/prefix/{MODELS}/v0003"
        )
    return str(Registry(registry).fetch(version))
