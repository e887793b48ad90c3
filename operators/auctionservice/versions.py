"""The versions of a service: weights with the settings of their servers; which one the specification asks for.

Settings are compared as they are read: an operator with further fields completes old and new ones by the same defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from operators.resources.auctionservice import (
    AuctionServiceSpec,
    AuctionServiceStatus,
    Model,
    Rejected,
    Served,
    ServerSettings,
)


def served(status: AuctionServiceStatus) -> list[Served]:
    """Return the versions that have servers: the stable one, the candidate, and those that retire."""
    return [one for one in (status.stable, status.candidate, *status.retiring) if one is not None]


@dataclass(frozen=True, slots=True)
class Target:
    """The version that a specification asks for: these weights, on servers with these settings."""

    model: Model
    settings: ServerSettings
    attempt: int

    @classmethod
    def of(cls, spec: AuctionServiceSpec) -> Target:
        """Return the version that a specification asks for."""
        return cls(spec.model, ServerSettings.of(spec), spec.rollout.attempt)

    def is_served_by(self, version: Served, status: AuctionServiceStatus) -> bool:
        """Return whether a version of the status is this one; its name may differ."""
        return version.digest == self.model.digest and status.settings[version.key] == self.settings

    def renamed(self, version: Served) -> Served:
        """Return a version with the name that the specification gives it now."""
        return version.model_copy(update={"name": self.model.name})

    def completed(self, status: AuctionServiceStatus) -> dict[str, ServerSettings]:
        """Return the settings of all versions; an earlier operator kept none, and replaced servers where they ran."""
        return {**{one.key: self.settings for one in served(status)}, **status.settings}

    def with_settings(self, version: Served, status: AuctionServiceStatus) -> dict[str, ServerSettings]:
        """Return the settings of all versions, with this one's for a version."""
        return {**status.settings, version.key: self.settings}

    def rejected(self, status: AuctionServiceStatus) -> Rejected | None:
        """Return the rollback of this version, unless another attempt at it is asked for."""
        last = status.rejected
        if last is None or (last.digest, last.attempt) != (self.model.digest, self.attempt):
            return None
        return last if last.revision in ("", self.revision) else None

    @property
    def revision(self) -> str:
        """Twelve digits that identify it."""
        return self.settings.revision(self.model.digest)

    def candidate(self, status: AuctionServiceStatus) -> Served:
        """Return the version as a new candidate: on servers that retire, if these are the same, else on new ones."""
        again = next((one for one in status.retiring if self.is_served_by(one, status)), None)
        used = any(one.digest == self.model.digest for one in served(status))
        revision = again.revision if again is not None else self.revision if used else ""
        return Served(name=self.model.name, digest=self.model.digest, revision=revision)
