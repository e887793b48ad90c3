"""What to do next for a service: a pure function of what is wanted, what is seen and the time.

A new version first gets servers and no traffic. When they are ready and every router has verified its weights it gets
the shares of `rollout.steps`, each until enough time has passed and enough answers were compared. A broken guard, or
servers that stay unready, end it: the last good version has everything again, in the same round.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from mechanism.weights import model_version
from operators.actions import Action, Apply, Delete, Note, Outcome, Say
from operators.auctionservice.guards import Breach, Counts, breach
from operators.auctionservice.manifests import ROUTER, ROUTES_ANNOTATION, manifests, selector, short
from operators.auctionservice.observed import Desired, Observed, Servers
from operators.conditions import ServiceCondition, ServiceReason
from operators.resources.auctionservice import (
    AuctionServiceStatus,
    CanaryStep,
    Model,
    Rejected,
    Retiring,
    Traffic,
)
from operators.resources.status import with_condition

LOOK_AGAIN_S = 60.0
"""How often a service is looked at when nothing happens: an event may have been missed."""
ROLLOUT_S = 5.0
"""The same while a version takes over or servers are about to go."""
WHOLE = CanaryStep(weight=100, pause_seconds=0)


def reconcile(observed: Observed, desired: Desired, now: datetime) -> Outcome[AuctionServiceStatus]:
    """What to do for a service now, and the status to show."""
    if desired.deleting:
        return Outcome(desired.status)  # Kubernetes removes the children by their owner
    return _Round(observed, desired, now.replace(microsecond=0)).decide()


class _Round:
    """One look at one service. Collects the changes of its status, the actions and the events."""

    def __init__(self, observed: Observed, desired: Desired, now: datetime) -> None:
        self.seen, self.service, self.now = observed, desired, now
        self.spec, self.rollout = desired.spec, desired.spec.rollout
        self.before = desired.status
        self.status = desired.status.model_copy(update={"observed_generation": desired.generation})
        self.events: list[Say] = []
        self.progress: tuple[bool, ServiceReason, str] = (False, ServiceReason.SERVING, "no version is taking over")

    def decide(self) -> Outcome[AuctionServiceStatus]:
        self._take_target()
        if self.status.stable is None:
            self._first()
        elif self.status.candidate is not None:
            self._roll_out()
        self._route()
        self._let_go()
        self._tell()
        return Outcome(self.status, self._actions(), tuple(self.events), self._again())

    # -- which version ---------------------------------------------------------------------------------------------

    def _take_target(self) -> None:
        """Whether the version that is asked for is the stable one, was given up before, or is to take over."""
        target, stable, candidate = self.spec.model, self.status.stable, self.status.candidate
        rejected = self.status.rejected
        unwanted = candidate is not None and candidate.digest != target.digest
        if unwanted:
            assert candidate is not None
            self._say(ServiceReason.ABORTED, f"{candidate.name} was taking over and is no longer wanted", warn=True)
            self._set(candidate=None, step=-1, weight=0, step_since=None, unready_since=None)
            self._retire(candidate, 0)
            candidate = None
        if stable is not None and target.digest == stable.digest:
            self._set(stable=target, phase="Serving")  # perhaps by another name
            return
        tried = rejected is not None and (rejected.digest, rejected.attempt) == (target.digest, self.rollout.attempt)
        if stable is not None and tried and candidate is None:
            assert rejected is not None
            self._set(phase="RolledBack")
            self.progress = (False, ServiceReason(rejected.reason), f"{target.name} was given up: {rejected.message}")
        elif stable is not None and target.name == stable.name:
            self._set(phase="Serving")
            message = f"{target.name} is the stable version's name, which has the weights {stable.digest[:12]}"
            self.progress = (False, ServiceReason.NAME_TAKEN, message)
        elif candidate is None:
            kept = [one for one in self.status.retiring if one.digest != target.digest]
            self._set(candidate=target, step=-1, weight=0, step_since=self.now, unready_since=None, retiring=kept)
            self._say(ServiceReason.STARTING, f"{target.name} gets policy servers, and no traffic yet")
        else:
            self._set(candidate=target)

    def _first(self) -> None:
        """The first version is stable as soon as it can answer; before that there is nothing to go back to."""
        candidate = self.status.candidate
        assert candidate is not None
        waiting = self._unverified(candidate)
        if waiting is None:
            self._promote(candidate)
            return
        self._set(phase="Pending")
        self.progress = (True, *waiting)

    def _roll_out(self) -> None:
        candidate, since = self.status.candidate, self.status.step_since or self.now
        assert candidate is not None
        waiting = self._unverified(candidate)
        if self.status.step < 0:
            if waiting is None and self.rollout.paused:
                self._set(phase="Paused")
                self.progress = (True, ServiceReason.PAUSED, "ready and verified, rollout.paused is set")
            elif waiting is None:
                self._enter(0, may_grow=True)
            elif (self.now - since).total_seconds() >= self.rollout.ready_seconds:
                self._reject(*waiting)
            else:
                self._set(phase="Starting")
                self.progress = (True, *waiting)
            return
        broken = self._unready(candidate) or self._breach(candidate)
        if broken is not None:
            self._reject(broken.reason, broken.message)
            return
        # The spec may allow less or more by now.
        may_grow = waiting is None and not self.rollout.paused
        if self._enter(self.status.step, may_grow=may_grow) or self._held():
            return
        needs = self._needs(since, waiting)
        if self.rollout.paused:
            self._set(phase="Paused")
            self.progress = (True, ServiceReason.PAUSED, f"at {self.status.weight}%, rollout.paused is set")
        elif needs:
            self._set(phase="Canary")
            step = f"step {self.status.step + 1} of {len(self.rollout.steps)}, {self.status.weight}%"
            self.progress = (True, ServiceReason.CANARY, f"{step}: the next one needs {needs}")
        else:
            self._enter(self.status.step + 1, may_grow=True)

    def _enter(self, step: int, *, may_grow: bool) -> bool:
        """Takes the candidate to a step, or keeps it there; the last one is its promotion. Whether anything changed."""
        planned = [*self.rollout.steps, WHOLE]
        step = min(step, len(planned) - 1)
        weight = min(planned[step].weight, self.rollout.max_weight)
        if not may_grow:
            weight = min(weight, self.status.weight)
        candidate = self.status.candidate
        assert candidate is not None
        if step == len(planned) - 1 and weight == 100:
            self._promote(candidate)
            return True
        self._set(phase="Canary")
        self.progress = (True, ServiceReason.CANARY, f"{candidate.name} has {weight}% of the questions")
        if (step, weight) == (self.status.step, self.status.weight):
            return False
        self._set(step=step, weight=weight, step_since=self.now, unready_since=None)
        self._say(ServiceReason.CANARY, f"{candidate.name} gets {weight}% of the questions")
        self._held()
        return True

    def _held(self) -> bool:
        """Whether the hold keeps the candidate from its step's share."""
        planned = [*self.rollout.steps, WHOLE]
        wanted = planned[min(self.status.step, len(planned) - 1)].weight
        if wanted <= self.rollout.max_weight:
            return False
        self._set(phase="Held")
        message = f"at {self.status.weight}%: rollout.maxWeight allows no more, the step would be {wanted}%"
        self.progress = (True, ServiceReason.HELD, message)
        return True

    def _needs(self, since: datetime, waiting: tuple[ServiceReason, str] | None) -> str:
        """What a candidate lacks for its next step; empty: nothing."""
        planned = [*self.rollout.steps, WHOLE]
        pause = planned[min(self.status.step, len(planned) - 1)].pause_seconds
        assert self.status.candidate is not None
        answers = self._counts(self.status.candidate).answers
        left = pause - (self.now - since).total_seconds()
        lacking = [
            f"{left:.0f} s more" if left > 0 else "",
            f"{self.rollout.guards.min_answers - answers} more answers"
            if answers < self.rollout.guards.min_answers
            else "",
            waiting[1] if waiting is not None else "",
        ]
        return ", ".join(one for one in lacking if one)

    def _promote(self, model: Model) -> None:
        old = self.status.stable
        self._set(
            stable=model,
            candidate=None,
            step=-1,
            weight=0,
            step_since=None,
            unready_since=None,
            phase="Serving",
            candidate_figures=None,
            stable_figures=None,
        )
        self._say(ServiceReason.PROMOTED, f"{model.name} has all of the questions")
        self.progress = (False, ServiceReason.PROMOTED, f"{model.name} has taken over")
        if old is not None:
            self._retire(old, self.rollout.keep_seconds)

    def _reject(self, reason: ServiceReason, message: str) -> None:
        """Back to the last good version."""
        candidate = self.status.candidate
        assert candidate is not None
        assert self.status.stable is not None
        gone = Rejected(
            name=candidate.name,
            digest=candidate.digest,
            attempt=self.rollout.attempt,
            reason=reason,
            message=message[:2048],
            time=self.now,
        )
        self._set(
            candidate=None, step=-1, weight=0, step_since=None, unready_since=None, phase="RolledBack", rejected=gone
        )
        back = f"{self.status.stable.name} has all of the questions again"
        self._say(reason, f"{candidate.name} is given up, {back}: {message}", warn=True)
        self.progress = (False, reason, f"{candidate.name} was given up: {message}")
        self._retire(candidate, 0)

    def _retire(self, model: Model, seconds: int) -> None:
        others = [one for one in self.status.retiring if one.digest != model.digest]
        until = self.now + timedelta(seconds=seconds)
        self._set(retiring=[*others, Retiring(name=model.name, digest=model.digest, until=until)])

    # -- what is seen ----------------------------------------------------------------------------------------------

    def _unverified(self, model: Model) -> tuple[ServiceReason, str] | None:
        """Why a version may not have (more) traffic yet; None: its servers are ready, all routers have verified it."""
        servers = self._servers(model)
        if servers.ready < servers.wanted or not servers.wanted:
            message = f"{servers.ready} of {servers.wanted} policy servers of {model.name} are ready"
            return ServiceReason.POLICY_NOT_READY, _with(message, servers)
        published = {(one.name, one.digest) for one in self.before.traffic}
        if (model.name, model.digest) not in published:
            return ServiceReason.ROUTERS_BEHIND, f"{model.name} is not in the route file yet"
        told = [router for router in self.seen.routers if router.generation is not None or router.ready]
        silent = [router for router in told if router.generation is None]
        if silent:
            message = f"the figures of {len(silent)} of {len(told)} routers cannot be read, those of {silent[0].pod} at"
            remedy = "see its log, and let the operator reach that port (NetworkPolicy)"
            return ServiceReason.ROUTERS_BEHIND, f"{message} http://{silent[0].address}/metrics for one: {remedy}"
        behind = [router.pod for router in told if (router.generation or 0) < self.before.routes_generation]
        if not told or behind:
            which = f"{len(behind)} of {len(told)} routers" if told else "no router"
            words = "do not follow" if told else "follows"
            return ServiceReason.ROUTERS_BEHIND, f"{which} {words} route file {self.before.routes_generation} yet"
        key = (model.name, model_version(model.digest))
        against = [r.pod for r in told if key not in r.versions or not r.versions[key].ready]
        if against:
            message = f"{len(against)} of {len(told)} routers give {model.name} no traffic, {against[0]} for one"
            return (
                ServiceReason.NOT_VERIFIED,
                f"{message}: not ready, other weights than its digest, or no trial answer",
            )
        return None

    def _unready(self, model: Model) -> Breach | None:
        """Servers of a version with traffic that have been unready for too long."""
        key = (model.name, model_version(model.digest))
        told = [r for r in self.seen.routers if key in r.versions]
        ready = self._servers(model).ready > 0 and (not told or any(r.versions[key].ready for r in told))
        if ready:
            self._set(unready_since=None)
            return None
        since = self.status.unready_since or self.now
        self._set(unready_since=since)
        if (self.now - since).total_seconds() < self.rollout.unready_seconds:
            return None
        return Breach(ServiceReason.UNREADY, f"not ready since {since:%H:%M:%S} UTC, with {self.status.weight}%")

    def _breach(self, candidate: Model) -> Breach | None:
        assert self.status.stable is not None
        new, stable = self._counts(candidate), self._counts(self.status.stable)
        self._set(candidate_figures=new.compared(), stable_figures=stable.compared())
        return breach(new, stable, self.rollout.guards)

    def _counts(self, model: Model) -> Counts:
        return self.seen.counts.get(model_version(model.digest), Counts())

    def _servers(self, model: Model) -> Servers:
        return self.seen.policies.get(short(model.digest), Servers(0, 0))

    def _followed(self) -> bool:
        """Whether no router can still send anything to a version that the route file has no more."""
        if self.status.routes_generation != self.before.routes_generation:
            return False
        told = [router for router in self.seen.routers if router.generation is not None or router.ready]
        return all((router.generation or 0) >= self.status.routes_generation for router in told)

    # -- what follows ----------------------------------------------------------------------------------------------

    def _route(self) -> None:
        """The route file: weights sum to 100, and a new version has its step's share."""
        stable, candidate, weight = self.status.stable, self.status.candidate, self.status.weight
        shares = [(stable, 100 - weight)] if stable is not None else []
        if candidate is not None:
            shares.append((candidate, weight if stable is not None else 100))
        traffic = []
        for model, share in shares:
            waiting = self._unverified(model)
            told = "" if waiting is None else waiting[1]
            traffic.append(
                Traffic(name=model.name, digest=model.digest, weight=share, ready=waiting is None, reason=told)
            )
        now, before = ([(t.name, t.digest, t.weight) for t in part] for part in (traffic, self.before.traffic))
        generation = self.before.routes_generation + (now != before)
        self._set(traffic=traffic, routes_generation=generation)

    def _let_go(self) -> None:
        """Servers without traffic go when their time is over and no router knows them any more."""
        followed = self._followed()
        kept = [one for one in self.status.retiring if one.until > self.now or not followed]
        self._set(retiring=kept)

    def _tell(self) -> None:
        ready = sum(router.ready for router in self.seen.routers)
        marks = ",".join(f"{key}={value}" for key, value in selector(self.service.name, ROUTER).items())
        self._set(
            routers=f"{ready}/{max(self.seen.router.wanted, len(self.seen.routers))}",
            router_replicas=len(self.seen.routers),
            router_selector=marks,
        )
        stable = self.status.stable
        if stable is None:
            self._condition(ServiceCondition.AVAILABLE, False, ServiceReason.NO_STABLE_VERSION, self.progress[2])
        elif not ready:
            message = _with("no router is ready", self.seen.router)
            self._condition(ServiceCondition.AVAILABLE, False, ServiceReason.ROUTERS_NOT_READY, message)
        elif not self._servers(stable).ready:
            message = _with(f"no policy server of {stable.name} is ready", self._servers(stable))
            self._condition(ServiceCondition.AVAILABLE, False, ServiceReason.POLICY_NOT_READY, message)
        else:
            message = f"{stable.name} answers behind {ready} routers"
            self._condition(ServiceCondition.AVAILABLE, True, ServiceReason.SERVING, message)
        if self.seen.refused is not None:
            self.progress = (True, ServiceReason.CHILD_REFUSED, self.seen.refused.message)
        self._tell_of_progress()
        rejected = self.status.rejected
        if self.status.phase == "RolledBack" and rejected is not None:
            message = f"{rejected.name}: {rejected.message}"
            self._condition(ServiceCondition.ROLLED_BACK, True, ServiceReason(rejected.reason), message)
        else:
            message = f"{self.spec.model.name} has not been given up"
            self._condition(ServiceCondition.ROLLED_BACK, False, ServiceReason.NONE_REJECTED, message)

    def _tell_of_progress(self) -> None:
        """The condition, and an event where its reason is another one that nobody has told of yet."""
        _, reason, message = self.progress
        before = next((one for one in self.status.conditions if one.type == ServiceCondition.PROGRESSING), None)
        if reason not in {said.reason for said in self.events} and (before is None or before.reason != reason):
            self._say(reason, message)
        self._condition(ServiceCondition.PROGRESSING, *self.progress)

    def _actions(self) -> tuple[Action, ...]:
        models = [m for m in (self.status.stable, self.status.candidate) if m is not None]
        models += [Model(name=one.name, digest=one.digest) for one in self.status.retiring]
        wanted = manifests(self.service, self.status, models)
        names = {(item["kind"], item["metadata"]["name"]) for item in wanted}
        strays = [child for child in self.seen.children if (child.kind, child.name) not in names]
        return (
            *(Apply(item) for item in wanted),
            *(Delete(child.api_version, child.kind, child.name, child.uid) for child in strays),
            *self._hurry(),
        )

    def _hurry(self) -> list[Note]:
        """A kubelet brings a changed ConfigMap at its next look at the pod, which may be a minute away; a change of
        the pod has it look at once. In a round after that of the change, when its own copy is new."""
        if self.status.routes_generation != self.before.routes_generation:
            return []
        generation = self.status.routes_generation
        behind = [one for one in self.seen.routers if one.generation is not None and one.generation < generation]
        return [Note(one.pod, one.uid, {ROUTES_ANNOTATION: str(generation)}) for one in behind]

    def _again(self) -> float:
        busy = self.status.candidate is not None or self.status.retiring
        return ROLLOUT_S if busy else LOOK_AGAIN_S

    def _set(self, **changes: object) -> None:
        self.status = self.status.model_copy(update=changes)

    def _say(self, reason: ServiceReason, message: str, warn: bool = False) -> None:
        self.events.append(Say(reason, message, "Warning" if warn else "Normal"))

    def _condition(self, kind: ServiceCondition, holds: bool, reason: ServiceReason, message: str) -> None:
        conditions = with_condition(
            self.status.conditions, kind, holds, reason, message, self.now, self.service.generation
        )
        self._set(conditions=conditions)


def _with(message: str, servers: Servers) -> str:
    """A message with what keeps a pod from being ready, where that is known."""
    return f"{message}; {servers.trouble}" if servers.trouble else message
