"""What a resource may say about the pods that are made for it: Kubernetes' own shapes, cut to what is passed on whole.

A field that is missing here is refused by the API server's validation and not ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from operators.resources.base import ApiModel, Name, Quantity, checked, rule

Image = Annotated[str, Field(pattern=r"^\S+$", max_length=1024)]
Labels = Annotated[dict[str, str], Field(max_length=64)]
MountPath = Annotated[str, Field(pattern="^/[^:]*[^:/]$", max_length=512)]
Resource = Annotated[dict[str, Quantity], Field(max_length=32)]


class KeyOf(ApiModel):
    """One key of a Secret or ConfigMap in the same namespace."""

    name: Name
    """Name of the object."""
    key: Name
    """Key in it."""


class EnvSource(ApiModel):
    """Where a variable's value is kept."""

    model_config = checked(
        rule("has(self.secretKeyRef) != has(self.configMapKeyRef)", "give one of secretKeyRef and configMapKeyRef")
    )
    secret_key_ref: KeyOf | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyOf | None = None
    """A key of a ConfigMap."""


class EnvVar(ApiModel):
    """An environment variable."""

    model_config = checked(rule("!(has(self.value) && has(self.valueFrom))", "give value or valueFrom, not both"))
    name: Annotated[str, Field(pattern="^[-._a-zA-Z][-._a-zA-Z0-9]*$", max_length=253)]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """Its value. A secret belongs into a Secret, not here."""
    value_from: EnvSource | None = None
    """Where its value is kept."""


class NamedObject(ApiModel):
    """An object of the same namespace."""

    name: Name
    """Its name."""


class EnvFrom(ApiModel):
    """An object whose every key becomes a variable."""

    model_config = checked(rule("has(self.secretRef) != has(self.configMapRef)", "give one of secretRef, configMapRef"))
    secret_ref: NamedObject | None = None
    """A Secret, such as the credentials of an object store."""
    config_map_ref: NamedObject | None = None
    """A ConfigMap."""


class ClaimVolume(ApiModel):
    """A PersistentVolumeClaim."""

    claim_name: Name
    """Its name."""


class SecretVolume(ApiModel):
    """A Secret as files."""

    secret_name: Name
    """Its name."""


class EmptyDir(ApiModel):
    """A folder that ends with its pod."""

    medium: Literal["", "Memory"] = ""
    """Empty: the node's disk. Memory: a tmpfs, which counts as the container's memory."""
    size_limit: Quantity | None = None
    """How large it may get before the pod is evicted."""


class Volume(ApiModel):
    """A volume and where the container sees it."""

    model_config = checked(
        rule(
            "[has(self.persistentVolumeClaim), has(self.secret), has(self.configMap), has(self.emptyDir)]"
            ".filter(x, x).size() == 1",
            "give one of persistentVolumeClaim, secret, configMap, emptyDir",
        )
    )
    name: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    """Name of the volume in the pod."""
    mount_path: MountPath
    """Absolute path in the container."""
    sub_path: Annotated[str, Field(max_length=512)] | None = None
    """Folder inside the volume to mount in place of its root."""
    read_only: bool = False
    """Mount it so that nothing can be written."""
    persistent_volume_claim: ClaimVolume | None = None
    """A claim. With several pods in a phase it must be of a kind that several nodes can mount (ReadWriteMany)."""
    secret: SecretVolume | None = None
    """A Secret as files."""
    config_map: NamedObject | None = None
    """A ConfigMap as files."""
    empty_dir: EmptyDir | None = None
    """A folder that ends with its pod, for caches."""

    def source(self) -> dict[str, Any]:
        """The volume as a pod's specification has it."""
        return {k: v for k, v in self.to_api().items() if k not in ("mountPath", "subPath", "readOnly")}

    def mount(self) -> dict[str, Any]:
        """The mount as a container's specification has it."""
        return {k: v for k, v in self.to_api().items() if k in ("name", "mountPath", "subPath", "readOnly")}


class Toleration(ApiModel):
    """A taint of nodes that pods put up with."""

    key: Name | None = None
    """Key of the taint; none, with operator Exists: any."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal compares the value, Exists does not."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; none: any."""
    toleration_seconds: int | None = None
    """For NoExecute: how long it is put up with."""


class Resources(ApiModel):
    """What a pod's container asks of its node."""

    requests: Resource | None = None
    """Amounts that the scheduler keeps free for it, such as cpu: 4 and memory: 64Gi."""
    limits: Resource | None = None
    """Amounts that it may not exceed: past its memory it is killed."""


class PodSecurity(ApiModel):
    """As which user the container runs. It never gets more privileges than that user has."""

    run_as_user: Annotated[int, Field(ge=0)] | None = None
    """User id; none: the image's."""
    run_as_group: Annotated[int, Field(ge=0)] | None = None
    """Group id; none: the image's."""
    run_as_non_root: bool | None = None
    """Refuse to start as root. The namespace's Pod Security Standard `restricted` asks for it."""
    fs_group: Annotated[int, Field(ge=0)] | None = None
    """Group that owns the volumes' files."""
    supplemental_groups: Annotated[list[int], Field(max_length=32)] | None = None
    """Further groups."""


class PodFields(ApiModel):
    """What a resource says alike about all pods of a part."""

    env: list[EnvVar] = Field([], max_length=128)
    """Environment variables of the containers."""
    env_from: list[EnvFrom] = Field([], max_length=16)
    """Secrets and ConfigMaps whose keys become variables, such as an object store's credentials."""
    volumes: list[Volume] = Field([], max_length=16)
    """Volumes."""
    node_selector: Labels = Field({})
    """Labels that nodes must have."""
    tolerations: list[Toleration] = Field([], max_length=16)
    """Taints that the pods put up with."""
    priority_class_name: Name | None = None
    """PriorityClass."""
    service_account_name: Name | None = None
    """Service account, such as one that may read an object store. Its token is not mounted unless this names one."""
    pod_labels: Labels = Field({})
    """Further labels of the pods."""
    pod_annotations: Labels = Field({})
    """Annotations of the pods."""
