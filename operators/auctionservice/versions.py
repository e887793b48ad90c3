"""The versions of a service: weights with the settings of their servers; which one the specification asks for.

Settings are compared as they are read: an operator with further fields completes old and new ones by the same defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        weights = version.digest, version.base
        return weights == (self.model.digest, self.base) and status.settings[version.key] == self.settings

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
        """Twelve digits that identify its servers."""
        return self.settings.revision(self.base or self.model.digest)

    @property
    def base(self) -> str:
        """Digest of its base's weights, if it is an adapter beside others."""
        return self.model.base or ""

    def candidate(self, status: AuctionServiceStatus) -> Served:
        """Return the version as a new candidate.

        It reuses servers with the same settings: its own that still retire, or those of an adapter on the same base.
        New servers get a revision where their objects, or the version in the route file, would have a name in use.
        """
        new = Served(name=self.model.name, digest=self.model.digest, base=self.base)
        known = served(status)
        for one in known:
            if (one.loaded, one.base) == (new.loaded, new.base) and status.settings[one.key] == self.settings:
                return new.model_copy(update={"revision": one.revision})
        alike = any(one.loaded == new.loaded or one.digest == new.digest for one in known)
        return new.model_copy(update={"revision": self.revision}) if alike else new

    def announcement(self, candidate: Served, stable: Served | None, settings: Mapping[str, ServerSettings]) -> str:
        """Describe what a new candidate gets."""
        if stable is not None and stable.key == candidate.key:
            return f"{candidate.route} is loaded on the policy servers of {stable.route}, and gets no traffic yet"
        differences = "" if stable is None else self.settings.differences(settings[stable.key])
        message = f"{candidate.route} gets policy servers and no traffic yet"
        if stable is None or not differences:
            return message
        return f"{message}; its servers have other settings than those of {stable.route}: {differences}"
