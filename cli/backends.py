"""What writes a router's answers: a model here, a Triton server, the versions of a route file, or an upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.policies.protocol import AsyncPolicyBackend, PolicyBackend
    from serving.settings import ServeSettings


def in_process(model: str, settings: ServeSettings) -> AsyncPolicyBackend:
    """Load a policy in this process; imports torch."""
    from serving.policies.model import ModelPolicy

    return threaded(ModelPolicy.load(model), settings)


def threaded(policy: PolicyBackend, settings: ServeSettings) -> AsyncPolicyBackend:
    """Return a policy of this process on a thread of its own."""
    from serving.policies.in_process import ThreadedPolicy

    return ThreadedPolicy(policy, settings.waiting, settings.deadline_s)


def remote(url: str, model: str, digest: str) -> AsyncPolicyBackend:
    """Return a policy on a Triton server; call it on the event loop, to which its client belongs."""
    from serving.policies.triton.client import connect_policy

    return connect_policy(url, digest, name=model)


def routed(path: Path, settings: ServeSettings) -> Callable[[], AsyncPolicyBackend]:
    """Return a factory of the policy that follows a route file, with each version on a Triton or in this process."""
    from serving.policies.adapters import LocalPolicies
    from serving.policies.route_file import Version
    from serving.policies.versioned import RoutedPolicy

    local = LocalPolicies()
    # transformers constructs models under process-wide settings, so two must not load at the same time
    loading = asyncio.Lock()

    async def open_version(version: Version) -> AsyncPolicyBackend:
        if version.server:
            from serving.policies.triton.client import connect_policy

            return connect_policy(version.server, version.digest, base=version.base)
        async with loading:
            return threaded(await asyncio.to_thread(local.open, version.policy), settings)

    return lambda: RoutedPolicy(path, open_version)


def openai_compatible(
    url: str, model: str, in_flight: int, *, tags: bool, opener: str | None
) -> Callable[[], AsyncPolicyBackend]:
    """Return a policy behind `/v1/chat/completions` of another server, its settings checked before the start."""
    from serving.policies.openai.policy import UpstreamPolicy, UpstreamSettings

    settings = UpstreamSettings(url, model, in_flight=in_flight, structural_tags=tags, opener=opener)
    policy = UpstreamPolicy(settings)
    return lambda: policy
