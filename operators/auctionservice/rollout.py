"""How a new version takes over an AuctionService's traffic, step by step, and how it is rolled back.

A candidate first gets servers but no traffic. Once they are ready and every router has verified its weights, it gets
the shares of `rollout.steps`, each until enough time has passed and enough answers were compared, and the last one
until the guard calls it safe or its patience ends. A broken guard, or servers that stay unready, roll it back in the
same pass: the stable version has all traffic again.

A version is its weights with the settings of its servers. So other settings for the same weights are a version too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from operators.auctionservice.guard import Breach, breach, compared, comparing, decision_on, limits_of
from operators.auctionservice.observe import Desired, Observed, Servers, key_of
from operators.auctionservice.versions import Target
from operators.conditions import ServiceReason
from operators.reconciliation import Draft
from operators.resources.auctionservice import AuctionServiceStatus, CanaryStep, Rejected, Retiring, Served

FINAL_STEP = CanaryStep(weight=100, pause_seconds=0)
"""The step after the last one of `rollout.steps`: promotion."""


NO_ROLLOUT: Mapping[str, object] = {
    "candidate": None,
    "step": -1,
    "weight": 0,
    "candidate_replicas": 0,
    "stable_replicas": None,
    "step_since": None,
    "canary_since": None,
    "unready_since": None,
}
"""The status' fields of a rollout where there is none."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The Progressing condition. `active`: a version is taking over."""

    active: bool
    reason: ServiceReason
    message: str


class Rollout:
    """The rollout of one service in one reconcile pass; `advance` changes the draft and sets `progress`."""

    def __init__(self, observed: Observed, desired: Desired, draft: Draft[AuctionServiceStatus]) -> None:
        self.observed, self.draft, self.now = observed, draft, draft.now
        self.target, self.settings = Target.of(desired.spec), desired.spec.rollout
        self.all_servers = desired.spec.policy.replicas
        self.before = desired.status
        self.decision = decision_on(observed.evidence, self.settings.guards)
        self.steps = [*self.settings.steps, FINAL_STEP]
        self.progress = Progress(False, ServiceReason.SERVING, "no version is taking over")
        draft.update(settings=self.target.completed(draft.status))

    @property
    def status(self) -> AuctionServiceStatus:
        return self.draft.status

    def advance(self) -> None:
        """Choose the candidate and move it to the step it may have."""
        self._choose_candidate()
        candidate = self.status.candidate
        if candidate is None:
            return
        if self.status.stable is None:
            self._start_first_version(candidate)
        elif self.status.step < 0:
            self._start_candidate(candidate)
        else:
            self._advance_candidate(candidate)

    # -- which version ---------------------------------------------------------------------------------------------

    def _choose_candidate(self) -> None:
        """Make what the specification asks for the candidate.

        Not if it is stable already, was rejected, or has a name in use.
        """
        target, model, stable, candidate = self.target, self.target.model, self.status.stable, self.status.candidate
        if stable is None and candidate is not None and candidate.digest == model.digest:
            # Without a version to compare with, its servers are replaced where they run.
            self.draft.update(settings=target.with_settings(candidate, self.status))
        if candidate is not None and not target.is_served_by(candidate, self.status):
            message = f"{candidate.route}: the specification asks for another version"
            self.draft.emit(ServiceReason.ABORTED, message, warn=True)
            self.draft.update(**NO_ROLLOUT)
            self._retire(candidate, 0)
            candidate = None
        if stable is not None and target.is_served_by(stable, self.status):
            self.draft.update(stable=target.renamed(stable), phase="Serving")
            return
        rejected = target.rejected(self.status)
        if stable is not None and rejected is not None and candidate is None:
            self.draft.update(phase="RolledBack")
            message = f"{rejected.name} was rolled back: {rejected.message}"
            self.progress = Progress(False, ServiceReason(rejected.reason), message)
        elif stable is not None and model.name == stable.name and model.digest != stable.digest:
            self.draft.update(phase="Serving")
            message = f"{model.name} is the stable version's name, which has the weights {stable.digest[:12]}"
            self.progress = Progress(False, ServiceReason.NAME_TAKEN, message)
        elif candidate is None:
            self._begin(stable)
        else:
            self.draft.update(candidate=target.renamed(candidate))

    def _begin(self, stable: Served | None) -> None:
        """Start a rollout, of servers that still retire if these are what the specification asks for."""
        candidate = self.target.candidate(self.status)
        retiring = [one for one in self.status.retiring if one.identity != candidate.identity]
        settings = self.target.with_settings(candidate, self.status)
        begun = {"candidate": candidate, "step_since": self.now, "retiring": retiring, "settings": settings}
        self.draft.update(**{**NO_ROLLOUT, **begun})
        self.draft.emit(ServiceReason.STARTING, self.target.announcement(candidate, stable, settings))

    def _start_first_version(self, candidate: Served) -> None:
        """Promote the first version as soon as it can answer; there is no version to roll back to before that."""
        blocker = self._request_servers(candidate, 100)
        if blocker is None:
            self._promote(candidate)
            return
        self.draft.update(phase="Pending")
        self.progress = blocker

    def _start_candidate(self, candidate: Served) -> None:
        """Enter the first step when the candidate is verified; reject it after `readySeconds`."""
        blocker = self._request_servers(candidate, self._weight_of(0))
        if blocker is None and self.settings.paused:
            self.draft.update(phase="Paused")
            self.progress = Progress(True, ServiceReason.PAUSED, "ready and verified, rollout.paused is set")
        elif blocker is None:
            self._enter_step(candidate, 0, may_grow=True)
        elif (self.now - self._step_since()).total_seconds() >= self.settings.ready_seconds:
            self._roll_back(candidate, blocker.reason, blocker.message)
        else:
            self.draft.update(phase="Starting")
            self.progress = blocker

    def _advance_candidate(self, candidate: Served) -> None:
        """Reject a candidate that breaks a guard, apply changed settings, and enter the next step when it is time."""
        broken = self._unready(candidate) or self._broken_guard()
        if broken is not None:
            self._roll_back(candidate, broken.reason, broken.message)
            return
        blocker = self._request_servers(candidate, self._weight_of(self.status.step))
        # The specification may allow a smaller or larger share than before.
        may_grow = blocker is None and not self.settings.paused
        if self._enter_step(candidate, self.status.step, may_grow=may_grow) or self._held():
            return
        missing = self._missing_for_next_step()
        if not missing and not self.settings.paused:
            blocker = self._request_servers(candidate, self._weight_of(self.status.step + 1))
        if blocker is not None:
            missing = ", ".join(filter(None, [missing, blocker.message]))
        if self.settings.paused:
            self.draft.update(phase="Paused")
            message = f"at {self.status.weight}%, rollout.paused is set"
            self.progress = Progress(True, ServiceReason.PAUSED, message)
        elif missing:
            self.draft.update(phase="Canary")
            step = f"step {self.status.step + 1} of {len(self.settings.steps)}, {self.status.weight}%"
            self.progress = Progress(True, ServiceReason.CANARY, f"{step}: the next one needs {missing}")
        else:
            self._enter_step(candidate, self.status.step + 1, may_grow=True)

    # -- steps -----------------------------------------------------------------------------------------------------

    def _step_since(self) -> datetime:
        return self.status.step_since or self.now

    def _weight_of(self, number: int) -> int:
        """Return the share of a step; a candidate that took more because the nodes were full keeps it."""
        weight = self.steps[min(number, len(self.steps) - 1)].weight
        if number == self.status.step and self.status.stable_replicas is not None:
            weight = max(weight, self.status.weight)
        return min(weight, self.settings.max_weight)

    def _current_step(self) -> CanaryStep:
        return self.steps[min(self.status.step, len(self.steps) - 1)]

    def _enter_step(self, candidate: Served, number: int, *, may_grow: bool) -> bool:
        """Give the candidate the share of a step, or promote it at the last one; return whether anything changed."""
        number = min(number, len(self.steps) - 1)
        weight = self._weight_of(number)
        if not may_grow:
            weight = min(weight, self.status.weight)
        if number == len(self.steps) - 1 and weight == 100:
            self._promote(candidate)
            return True
        self.draft.update(phase="Canary")
        message = f"{candidate.route} has {weight}% of the questions"
        self.progress = Progress(True, ServiceReason.CANARY, message)
        if (number, weight) == (self.status.step, self.status.weight):
            return False
        began = self.status.canary_since or (self.now if weight else None)
        self.draft.update(step=number, weight=weight, step_since=self.now, canary_since=began, unready_since=None)
        self.draft.emit(ServiceReason.CANARY, f"{candidate.route} gets {weight}% of the questions")
        self._held()
        return True

    def _held(self) -> bool:
        """Return whether `maxWeight` limits the current step's share, and report it."""
        wanted = self._current_step().weight
        if wanted <= self.settings.max_weight:
            return False
        self.draft.update(phase="Held")
        message = f"at {self.status.weight}%: rollout.maxWeight limits the step's {wanted}%"
        self.progress = Progress(True, ServiceReason.HELD, message)
        return True

    def _missing_for_next_step(self) -> str:
        """Describe the time and evidence that the candidate still needs for its next step; "" if none."""
        left = self._current_step().pause_seconds - (self.now - self._step_since()).total_seconds()
        missing = [f"{left:.0f} s more" if left > 0 else "", self._missing_evidence()]
        return ", ".join(one for one in missing if one)

    def _missing_evidence(self) -> str:
        """Describe what the guard still has to see: answers, and before the promotion that the candidate is safe."""
        guards = self.settings.guards
        if self.status.step + 1 >= len(self.settings.steps) and not self._patience_ended():
            return self.decision.missing(limits_of(guards))
        found = self.observed.evidence
        answers = guards.min_answers - (0 if found is None else int(found.early.new.answers.sum()))
        return f"{answers} more answers" if answers > 0 else ""

    def _patience_ended(self) -> bool:
        return (self.now - self._step_since()).total_seconds() >= self.settings.guards.patience_seconds

    def _promote(self, version: Served) -> None:
        old, full = self.status.stable, self.status.stable_replicas is not None
        self.draft.update(
            **NO_ROLLOUT,
            stable=version,
            phase="Serving",
            candidate_figures=None,
            stable_figures=None,
            comparisons=[],
        )
        self.draft.emit(ServiceReason.PROMOTED, f"{version.route} has all of the questions")
        self.progress = Progress(False, ServiceReason.PROMOTED, f"{version.route} has taken over")
        if old is not None:
            self._retire(old, 0 if full else self.settings.keep_seconds)

    def _roll_back(self, candidate: Served, reason: ServiceReason, message: str) -> None:
        """Roll back to the stable version."""
        assert self.status.stable is not None
        rejected = Rejected(
            name=candidate.route,
            digest=candidate.digest,
            revision=self.target.revision,
            attempt=self.settings.attempt,
            reason=reason,
            message=message[:2048],
            time=self.now,
        )
        self.draft.update(**NO_ROLLOUT, phase="RolledBack", rejected=rejected)
        back = f"{self.status.stable.route} has all of the questions again"
        self.draft.emit(reason, f"{candidate.route} is rolled back, {back}: {message}", warn=True)
        self.progress = Progress(False, reason, f"{candidate.route} was rolled back: {message}")
        self._retire(candidate, 0)

    def _retire(self, version: Served, seconds: int) -> None:
        others = [one for one in self.status.retiring if one.identity != version.identity]
        until = self.now + timedelta(seconds=seconds)
        self.draft.update(retiring=[*others, Retiring(**version.model_dump(), until=until)])

    # -- servers ---------------------------------------------------------------------------------------------------

    def _servers_for(self, weight: int) -> int:
        """Return the number of policy servers for a share of the questions, at least one."""
        return max(1, -(-self.all_servers * weight // 100))

    def _request_servers(self, candidate: Served, weight: int) -> Progress | None:
        """Request as many servers as a share needs; return why the candidate may not have that share yet."""
        needed = self._servers_for(weight)
        stable = self.status.stable
        if stable is not None and stable.key == candidate.key:
            return self.blocker(candidate, needed)  # both are adapters on the same servers
        self.draft.update(candidate_replicas=max(needed, min(self.status.candidate_replicas, self.all_servers)))
        blocker = self.blocker(candidate, needed)
        if blocker is not None and self.observed.servers_of(candidate).unschedulable and stable is not None:
            self._make_room(candidate, weight)
        return blocker

    def _make_room(self, candidate: Served, weight: int) -> None:
        """Free servers where the nodes have no room for the candidate's.

        Retiring versions go at once. The candidate takes the share that its ready servers can bear; the stable version
        keeps what its share of the last pass needs, less `maxUnavailable`. So the servers move over in several passes,
        however few fit beside the stable ones.
        """
        retiring = [one.model_copy(update={"until": min(one.until, self.now)}) for one in self.status.retiring]
        self.draft.update(retiring=retiring)
        ready = self.observed.servers_of(candidate).ready
        possible = min(weight, 100 * ready // self.all_servers)
        if self.status.step >= 0 and possible > self.status.weight and not self.settings.paused:
            self.draft.update(weight=possible)
            message = f"{candidate.route} gets {possible}% of the questions, as many as its {ready} servers can bear"
            self.draft.emit(ServiceReason.CANARY, f"{message}: the nodes are full")
        # Shares are whole per cent: one of nine servers bears 11 of them, and the others 89, less what was rounded off.
        left = 99 - self.before.weight if self.before.weight else 100
        keep = self._servers_for(left) - self.settings.max_unavailable
        self.draft.update(stable_replicas=max(1, min(self.status.stable_replicas or self.all_servers, keep)))

    # -- the state of a version ------------------------------------------------------------------------------------

    def blocker(self, version: Served, needed: int = 1) -> Progress | None:
        """Return why a version may not have (more) traffic yet.

        None: at least `needed` servers and all of its others are ready, except those for which full nodes have no room,
        and all routers follow the route file and have verified its weights.
        """
        servers = self.observed.servers_of(version)
        wanted = max(servers.wanted, needed)
        missing = min(self.settings.max_unavailable, servers.unschedulable) if self.status.stable_replicas else 0
        if servers.ready < max(1, wanted - missing):
            message = f"{servers.ready} of {wanted} policy servers of {version.route} are ready"
            return Progress(True, ServiceReason.POLICY_NOT_READY, with_trouble(message, servers))
        problem = self._routers_behind(version)
        if problem:
            return Progress(True, ServiceReason.ROUTERS_BEHIND, problem)
        routers, key = self.observed.active_routers, key_of(version)
        refusing = [router.pod for router in routers if key not in router.versions or not router.versions[key].ready]
        if refusing:
            message = (
                f"{len(refusing)} of {len(routers)} routers give {version.route} no traffic, among them {refusing[0]}"
            )
            causes = "not ready, other weights than its digest, or no trial answer"
            return Progress(True, ServiceReason.NOT_VERIFIED, f"{message}: {causes}")
        return None

    def _routers_behind(self, version: Served) -> str:
        """Describe what keeps the routers from following a route file with this version; "" if nothing."""
        if (version.route, version.digest) not in {(one.name, one.digest) for one in self.before.traffic}:
            return f"{version.route} is not in the route file yet"
        routers, generation = self.observed.active_routers, self.before.routes_generation
        if not routers:
            return f"no router follows route file {generation} yet"
        unread = [router for router in routers if router.generation is None]
        if unread:
            message = f"the figures of {len(unread)} of {len(routers)} routers cannot be read, for example those of"
            remedy = "see its log, and allow the operator to connect to that port (NetworkPolicy)"
            return f"{message} {unread[0].pod} at http://{unread[0].address}/metrics: {remedy}"
        behind = [router for router in routers if (router.generation or 0) < generation]
        return f"{len(behind)} of {len(routers)} routers do not follow route file {generation} yet" if behind else ""

    def _unready(self, version: Served) -> Breach | None:
        """Return a breach if a version with traffic has been unready for `unreadySeconds`."""
        key = key_of(version)
        reports = [router.versions[key] for router in self.observed.routers if key in router.versions]
        ready = self.observed.servers_of(version).ready > 0 and (not reports or any(one.ready for one in reports))
        if ready:
            self.draft.update(unready_since=None)
            return None
        since = self.status.unready_since or self.now
        self.draft.update(unready_since=since)
        if (self.now - since).total_seconds() < self.settings.unready_seconds:
            return None
        return Breach(ServiceReason.UNREADY, f"not ready since {since:%H:%M:%S} UTC, with {self.status.weight}%")

    def _broken_guard(self) -> Breach | None:
        found = self.observed.evidence
        if found is None:
            return None
        self.draft.update(
            candidate_figures=compared(found.early.new, found.ripe.new),
            stable_figures=compared(found.early.old, found.ripe.old),
            comparisons=[comparing(one) for one in self.decision.comparisons],
        )
        return breach(self.decision)


def with_trouble(message: str, servers: Servers) -> str:
    """Append what keeps one of the pods from being ready, if that is known."""
    return f"{message}; {servers.trouble}" if servers.trouble else message
