"""The sensitive topics, and the codes by which records and metrics name them."""

from __future__ import annotations

from enum import StrEnum

PREFIX = "sensitive:"
PUBLISHER_CODE = "sensitive:publisher"
"""The code of a conversation that holds one of the publisher's own blocked terms."""


class Topic(StrEnum):
    """What a conversation may be about that no ad belongs to, the most urgent first."""

    SELF_HARM = "self_harm"
    DANGER = "danger"
    """Acute danger to life: fire, violence in progress, poisoning, an emergency."""
    MINORS = "minors"
    """The reader is a minor, or the talk is of harm to one."""
    HATE = "hate"
    VIOLENCE = "violence"
    ADULT = "adult"
    GRIEF = "grief"
    HEALTH = "health"
    """Symptoms, diagnosis and treatment; not fitness, food or care products."""
    IDENTITY = "identity"
    """Sexual orientation, gender identity, ethnic origin, disability: what special protection of data covers."""
    FINANCIAL_DISTRESS = "financial_distress"
    LEGAL_DISTRESS = "legal_distress"
    CRIME = "crime"
    DRUGS = "drugs"
    GAMBLING = "gambling"
    RELIGION = "religion"
    POLITICS = "politics"

    @property
    def code(self) -> str:
        """The reason code, such as `sensitive:grief`."""
        return PREFIX + self.value


ACUTE = frozenset({Topic.SELF_HARM, Topic.DANGER})
"""Topics that help lines are offered for, that no age of a message weakens, and that no setting can allow."""
CERTAIN = frozenset(
    {Topic.SELF_HARM, Topic.DANGER, Topic.MINORS, Topic.HATE, Topic.ADULT}
    | {Topic.GRIEF, Topic.IDENTITY, Topic.FINANCIAL_DISTRESS}
)
"""Topics whose phrases hardly ever stand in a commercial message: 18 of 771 finds in the examples."""
NEVER_ALLOWED = ACUTE | {Topic.MINORS, Topic.HATE, Topic.VIOLENCE, Topic.ADULT}
"""Topics that not even an administrator can open to ads."""
