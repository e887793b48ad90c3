"""Reconciles an AuctionService: a pure function of the observed state, the desired state and the time.

`rollout` decides which versions have traffic; this module derives the route file, the conditions and the objects.
"""

from __future__ import annotations

from datetime import datetime

from operators.auctionservice.manifests import PolicyServers, manifests, router_name, selector
from operators.auctionservice.observe import ROUTER, ROUTES_ANNOTATION, Desired, Observed
from operators.auctionservice.rollout import Progress, Rollout, with_trouble
from operators.auctionservice.versions import served
from operators.children import contains, stamped
from operators.conditions import ServiceCondition, ServiceReason
from operators.reconciliation import Annotate, Apply, Delete, Draft, Reconciliation
from operators.resources.auctionservice import AuctionServiceStatus, Served, Traffic
from operators.resources.base import Manifest

DEFAULT_ROUTERS = 2
RESYNC_S = 60.0
"""Time until the next pass when nothing happens: a watch event may have been missed."""
ROLLOUT_S = 5.0
"""The same while a version takes over or servers are about to be deleted."""


def reconcile(observed: Observed, desired: Desired, now: datetime) -> Reconciliation[AuctionServiceStatus]:
    """Decide the status and the actions for an AuctionService."""
    if desired.deleting:
        return Reconciliation(desired.status)  # Kubernetes deletes the owned objects
    return _Pass(observed, desired, now.replace(microsecond=0)).run()


class _Pass:
    """One reconcile pass over one AuctionService."""

    def __init__(self, observed: Observed, desired: Desired, now: datetime) -> None:
        self.observed, self.service, self.now = observed, desired, now
        self.before = desired.status
        self.draft = Draft(desired, now, RESYNC_S)
        self.rollout = Rollout(observed, desired, self.draft)

    @property
    def status(self) -> AuctionServiceStatus:
        return self.draft.status

    def run(self) -> Reconciliation[AuctionServiceStatus]:
        self.rollout.advance()
        self._update_route_file()
        self._release_retired()
        self._update_router_counts()
        self._set_available()
        self._set_progressing()
        self._set_rolled_back()
        self._apply_objects()
        self._refresh_route_files()
        if self.status.candidate is not None or self.status.retiring:
            self.draft.requeue_after_s = ROLLOUT_S
        return self.draft.finish()

    def _update_route_file(self) -> None:
        """Set the traffic: weights sum to 100, and the candidate has its step's share."""
        stable, candidate, weight = self.status.stable, self.status.candidate, self.status.weight
        shares = [(stable, 100 - weight)] if stable is not None else []
        if candidate is not None:
            shares.append((candidate, weight if stable is not None else 100))
        traffic = [self._traffic(version, share) for version, share in shares]
        now, before = ([(t.name, t.digest, t.weight) for t in part] for part in (traffic, self.before.traffic))
        generation = self.before.routes_generation + (now != before)
        self.draft.update(traffic=traffic, routes_generation=generation)

    def _traffic(self, version: Served, share: int) -> Traffic:
        blocker = self.rollout.blocker(version)
        return Traffic(
            name=version.route,
            digest=version.digest,
            key=version.key,
            base=version.base,
            revision=version.revision,
            weight=share,
            ready=blocker is None,
            reason="" if blocker is None else blocker.message,
        )

    def _release_retired(self) -> None:
        """Drop retired versions whose time is over, once no router can send them a question any more."""
        generation = self.status.routes_generation
        followed = generation == self.before.routes_generation and all(
            (router.generation or 0) >= generation for router in self.observed.active_routers
        )
        retiring = [one for one in self.status.retiring if one.until > self.now or not followed]
        self.draft.update(retiring=retiring)
        kept = {one.key for one in served(self.status)}
        self.draft.update(settings={key: value for key, value in self.status.settings.items() if key in kept})

    # -- conditions ------------------------------------------------------------------------------------------------

    def _ready_routers(self) -> int:
        return sum(router.ready for router in self.observed.routers)

    def _update_router_counts(self) -> None:
        count = len(self.observed.routers)
        labels = selector(self.service.name, ROUTER)
        self.draft.update(
            routers=f"{self._ready_routers()}/{max(self.observed.router.wanted, count)}",
            router_replicas=count,
            router_selector=",".join(f"{key}={value}" for key, value in labels.items()),
        )

    def _set_available(self) -> None:
        stable, ready = self.status.stable, self._ready_routers()
        if stable is None:
            holds, reason, message = False, ServiceReason.NO_STABLE_VERSION, self.rollout.progress.message
        elif not ready:
            holds, reason = False, ServiceReason.ROUTERS_NOT_READY
            message = with_trouble("no router is ready", self.observed.router)
        elif not (servers := self.observed.servers_of(stable)).ready:
            holds, reason = False, ServiceReason.POLICY_NOT_READY
            message = with_trouble(f"no policy server of {stable.route} is ready", servers)
        else:
            holds, reason, message = True, ServiceReason.SERVING, f"{stable.route} answers behind {ready} routers"
        self.draft.set_condition(ServiceCondition.AVAILABLE, holds, reason, message)

    def _set_progressing(self) -> None:
        """Set the Progressing condition, with an event if its reason is new and no other event has it."""
        progress = self._replacing() or self.rollout.progress
        if self.observed.refused is not None:
            progress = Progress(True, ServiceReason.CHILD_REFUSED, self.observed.refused.message)
        before = self.draft.condition(ServiceCondition.PROGRESSING)
        emitted = {event.reason for event in self.draft.events}
        if progress.reason not in emitted and (before is None or before.reason != progress.reason):
            self.draft.emit(progress.reason, progress.message)
        self.draft.set_condition(ServiceCondition.PROGRESSING, progress.active, progress.reason, progress.message)

    def _replacing(self) -> Progress | None:
        """Return how far the stable version's servers are replaced; None if a version takes over, or all are."""
        stable = self.status.stable
        if stable is None or self.rollout.progress.reason is not ServiceReason.SERVING:
            return None
        servers = self.observed.servers_of(stable)
        if not servers.outdated:
            return None
        message = f"{servers.outdated} policy servers of {stable.route} still run as the operator had them before"
        return Progress(True, ServiceReason.REPLACING, with_trouble(message, servers))

    def _set_rolled_back(self) -> None:
        rejected = self.status.rejected
        if self.status.phase == "RolledBack" and rejected is not None:
            message = f"{rejected.name}: {rejected.message}"
            self.draft.set_condition(ServiceCondition.ROLLED_BACK, True, ServiceReason(rejected.reason), message)
        else:
            message = f"{self.service.spec.model.name} has not been rolled back"
            self.draft.set_condition(ServiceCondition.ROLLED_BACK, False, ServiceReason.NONE_REJECTED, message)

    # -- objects ---------------------------------------------------------------------------------------------------

    def _apply_objects(self) -> None:
        """Apply the objects of the service and delete its others."""
        existing = {(one.kind, one.name): one for one in self.observed.owned}
        for item in manifests(self.service, self.status, self._policies(), self._router_replicas()):
            wanted = stamped(item)
            found = existing.pop((item["kind"], item["metadata"]["name"]), None)
            if found is None or not contains(found.item, wanted):
                self.draft.actions.append(Apply(wanted, force=found is not None and not self._autoscaler_decides(item)))
        self.draft.actions += [Delete(one.api_version, one.kind, one.name, one.uid) for one in existing.values()]

    def _policies(self) -> list[PolicyServers]:
        """Return the servers of all versions, once where adapters share them.

        A retiring version keeps those that it has, whatever a full version needs.
        """
        every, status = self.service.spec.policy.replicas, self.status
        found: list[tuple[Served, int]] = []
        if status.stable is not None:
            found.append((status.stable, every if status.stable_replicas is None else status.stable_replicas))
        if status.candidate is not None:
            found.append((status.candidate, status.candidate_replicas))
        for one in status.retiring:
            found.append((one, self.observed.servers_of(one).wanted or every))
        by_key = {version.key: (version, replicas) for version, replicas in reversed(found)}
        return [
            PolicyServers(version, status.settings[version.key], replicas, self._unavailable(version, replicas))
            for version, replicas in reversed(by_key.values())
        ]

    def _unavailable(self, version: Served, replicas: int) -> int:
        """Return how many servers may be missing while their pods are replaced.

        None, unless no node has room for a new pod beside the old ones: then it would wait for ever.
        """
        full = self.observed.servers_of(version).unschedulable > 0
        return min(self.service.spec.rollout.max_unavailable, replicas - 1) if full else 0

    def _router_replicas(self) -> int | None:
        """Return the number of routers to apply; None if an autoscaler has set it.

        Until then the operator owns the field: a Deployment that is applied without it falls back to one pod.
        """
        router = self.service.spec.router
        if router.autoscaling is None:
            return router.replicas or DEFAULT_ROUTERS
        return None if self.observed.autoscaled else max(router.autoscaling.min_replicas, self.observed.router.wanted)

    def _autoscaler_decides(self, item: Manifest) -> bool:
        """Return whether an autoscaler may set the replicas of this object before it is applied.

        The API server must refuse that then as a conflict, so it is not forced.
        """
        routers = (item["kind"], item["metadata"]["name"]) == ("Deployment", router_name(self.service.name))
        return routers and self.service.spec.router.autoscaling is not None and "replicas" in item["spec"]

    def _refresh_route_files(self) -> None:
        """Annotate routers that are behind, so that their kubelets update the mounted route file now.

        A kubelet updates a ConfigMap volume when it next syncs the pod, up to a minute later; a change of the pod makes
        it sync at once. Not in the pass that changes the file, when the kubelet still has the old ConfigMap cached.
        """
        generation = self.status.routes_generation
        if generation != self.before.routes_generation:
            return
        for router in self.observed.routers:
            known = router.annotated == str(generation)
            if router.generation is not None and router.generation < generation and not known:
                self.draft.actions.append(Annotate(router.pod, router.uid, {ROUTES_ANNOTATION: str(generation)}))
