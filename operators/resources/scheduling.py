"""Where pods run and what they claim: Kubernetes' own affinity, and devices of dynamic resource allocation (DRA)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from operators.resources.base import ApiModel, DnsLabel, Name, checked, rule

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
Weight = Annotated[int, Field(ge=1, le=100)]


class NodeRequirement(ApiModel):
    """A requirement on a label of nodes."""

    key: LabelKey
    """Name of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """Relation of the label's value to `values`."""
    values: list[LabelValue] = Field([], max_length=64)
    """Values; one number for Gt and Lt, none for Exists and DoesNotExist."""


class NodeTerm(ApiModel):
    """Requirements that a node must all meet."""

    match_expressions: list[NodeRequirement] = Field(min_length=1, max_length=32)
    """Requirements on labels."""


class NodeTerms(ApiModel):
    """Alternatives, of which a node must meet one."""

    node_selector_terms: list[NodeTerm] = Field(min_length=1, max_length=32)
    """The alternatives."""


class PreferredNode(ApiModel):
    """A preference for nodes."""

    weight: Weight
    """Weight against other preferences."""
    preference: NodeTerm
    """The preferred nodes."""


class NodeAffinity(ApiModel):
    """Nodes by their labels."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    """Nodes on which the pods may run."""
    preferred_during_scheduling_ignored_during_execution: list[PreferredNode] = Field([], max_length=32)
    """Nodes on which they should run."""


class LabelRequirement(ApiModel):
    """A requirement on a label of pods."""

    key: LabelKey
    """Name of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """Relation of the label's value to `values`."""
    values: list[LabelValue] = Field([], max_length=64)
    """Values; none for Exists and DoesNotExist."""


class LabelSelector(ApiModel):
    """Pods by their labels."""

    match_labels: Annotated[dict[str, str], Field(max_length=64)] = Field({})
    """Labels that they have."""
    match_expressions: list[LabelRequirement] = Field([], max_length=32)
    """Requirements on labels."""


class PodTerm(ApiModel):
    """Other pods, and what counts as near them."""

    label_selector: LabelSelector
    """The other pods, in the same namespace."""
    topology_key: LabelKey
    """Label of nodes: nodes with the same value are one place, such as kubernetes.io/hostname or a rack."""


class PreferredPods(ApiModel):
    """A preference for places near, or away from, other pods."""

    weight: Weight
    """Weight against other preferences."""
    pod_affinity_term: PodTerm
    """The other pods."""


class PodAffinity(ApiModel):
    """Places by the pods that run there."""

    required_during_scheduling_ignored_during_execution: list[PodTerm] = Field([], max_length=32)
    """What must hold."""
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] = Field([], max_length=32)
    """What should hold."""


class Affinity(ApiModel):
    """Where pods run, as in a pod's `spec.affinity`."""

    node_affinity: NodeAffinity | None = None
    """Nodes by their labels."""
    pod_affinity: PodAffinity | None = None
    """Places near other pods: one rack, or one domain of a fast network."""
    pod_anti_affinity: PodAffinity | None = None
    """Places away from other pods."""


class ResourceClaim(ApiModel):
    """Devices of dynamic resource allocation for each pod of a step."""

    model_config = checked(
        rule(
            "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
            "give one of resourceClaimName and resourceClaimTemplateName",
        )
    )
    name: DnsLabel
    """Name of the claim in the pod."""
    resource_claim_name: Name | None = None
    """A ResourceClaim that all pods share."""
    resource_claim_template_name: Name | None = None
    """A ResourceClaimTemplate, from which each pod gets its own claim."""
    request: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Request of the claim that the container uses; without it all of them."""
