"""Pod settings inside a resource: the subset of Kubernetes' own fields that is passed on unchanged.

The API server refuses any other field instead of ignoring it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from operators.resources.base import ApiModel, DnsLabel, Manifest, Name, Quantity, checked, rule

Image = Annotated[str, Field(pattern=r"^\S+$", max_length=1024)]
Labels = Annotated[dict[str, str], Field(max_length=64)]
MountPath = Annotated[str, Field(pattern="^/[^:]*[^:/]$", max_length=512)]
Resource = Annotated[dict[str, Quantity], Field(max_length=32)]


class KeyOf(ApiModel):
    """A key of a Secret or ConfigMap in the same namespace."""

    name: Name
    """Name of the object."""
    key: Name
    """Key in the object."""


class EnvSource(ApiModel):
    """Source of a variable's value."""

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
    """Value. Put secret values into a Secret and use valueFrom."""
    value_from: EnvSource | None = None
    """Source of the value."""


class NamedObject(ApiModel):
    """An object in the same namespace."""

    name: Name
    """Name of the object."""


class EnvFrom(ApiModel):
    """An object all of whose keys become environment variables."""

    model_config = checked(rule("has(self.secretRef) != has(self.configMapRef)", "give one of secretRef, configMapRef"))
    secret_ref: NamedObject | None = None
    """A Secret, such as the credentials of an object store."""
    config_map_ref: NamedObject | None = None
    """A ConfigMap."""


class ClaimVolume(ApiModel):
    """A PersistentVolumeClaim."""

    claim_name: Name
    """Name of the object."""


class SecretVolume(ApiModel):
    """A Secret, mounted as files."""

    secret_name: Name
    """Name of the object."""


class EmptyDir(ApiModel):
    """A folder that is deleted with its pod."""

    medium: Literal["", "Memory"] = ""
    """Empty: the node's disk. Memory: a tmpfs, which counts as the container's memory."""
    size_limit: Quantity | None = None
    """Size above which the pod is evicted."""


class Resources(ApiModel):
    """Resource requests and limits of a pod's container."""

    requests: Resource | None = None
    """Amounts that the scheduler reserves, such as cpu: 4 and memory: 64Gi."""
    limits: Resource | None = None
    """Amounts that the container may not exceed: beyond its memory limit it is killed."""


class ClaimSpec(ApiModel):
    """The PersistentVolumeClaim of an ephemeral volume."""

    access_modes: list[Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"]] = Field(
        ["ReadWriteOnce"], min_length=1, max_length=4
    )
    """How it may be mounted."""
    storage_class_name: Name | None = None
    """StorageClass, such as one of local disks; by default the cluster's."""
    resources: Resources
    """Its size: requests.storage."""


class ClaimTemplate(ApiModel):
    """Template of a PersistentVolumeClaim."""

    spec: ClaimSpec
    """The claim."""


class EphemeralVolume(ApiModel):
    """A volume of each pod's own, created and deleted with it."""

    volume_claim_template: ClaimTemplate
    """The claim that is created for each pod."""


class Mount(ApiModel):
    """A mount of one of the pod's volumes."""

    name: DnsLabel
    """Name of the volume in the pod."""
    mount_path: MountPath
    """Absolute path in the container."""
    sub_path: Annotated[str, Field(max_length=512)] | None = None
    """Folder inside the volume to mount instead of its root."""
    read_only: bool = False
    """Mount it read-only."""


class Volume(Mount):
    """A volume and its mount in the container."""

    model_config = checked(
        rule(
            "[has(self.persistentVolumeClaim), has(self.secret), has(self.configMap), has(self.emptyDir),"
            " has(self.ephemeral)].filter(x, x).size() == 1",
            "give one of persistentVolumeClaim, secret, configMap, emptyDir, ephemeral",
        )
    )
    persistent_volume_claim: ClaimVolume | None = None
    """A claim. With several pods in a step, several nodes must be able to mount it (ReadWriteMany)."""
    secret: SecretVolume | None = None
    """A Secret, mounted as files."""
    config_map: NamedObject | None = None
    """A ConfigMap, mounted as files."""
    empty_dir: EmptyDir | None = None
    """A folder that is deleted with its pod, for caches."""
    ephemeral: EphemeralVolume | None = None
    """A volume that is created and deleted with its pod, for caches that a node's own disk cannot hold."""

    def source(self) -> Manifest:
        """Render the volume for a pod's specification."""
        return {k: v for k, v in self.to_api().items() if k == "name" or k not in self.mount()}

    def mount(self) -> Manifest:
        """Render the mount for a container's specification."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(Mount.model_fields))


class Toleration(ApiModel):
    """A node taint that pods tolerate."""

    key: Name | None = None
    """Key of the taint. Without it, and with operator Exists, every taint is tolerated."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal compares the value; Exists ignores it."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; without it every effect."""
    toleration_seconds: int | None = None
    """For NoExecute: how long the taint is tolerated."""


class PodSecurity(ApiModel):
    """User and groups of the container. It cannot gain more privileges than that user has."""

    run_as_user: Annotated[int, Field(ge=0)] | None = None
    """User id; by default the image's."""
    run_as_group: Annotated[int, Field(ge=0)] | None = None
    """Group id; by default the image's."""
    run_as_non_root: bool | None = None
    """Refuse to start as root, as the Pod Security Standard `restricted` requires."""
    fs_group: Annotated[int, Field(ge=0)] | None = None
    """Group that owns the files of the volumes."""
    supplemental_groups: Annotated[list[int], Field(max_length=32)] | None = None
    """Additional groups."""


class InitContainer(ApiModel):
    """A container that runs before the training, or with `restartPolicy: Always` beside it (a sidecar)."""

    name: DnsLabel
    """Name of the container."""
    image: Image
    """Its image."""
    command: Annotated[list[str], Field(max_length=64)] | None = None
    """Program and arguments; by default the image's."""
    args: Annotated[list[str], Field(max_length=128)] | None = None
    """Arguments."""
    env: list[EnvVar] = Field([], max_length=128)
    """Environment variables."""
    env_from: list[EnvFrom] = Field([], max_length=16)
    """Secrets and ConfigMaps whose keys become variables."""
    resources: Resources = Resources()
    """CPU and memory."""
    volume_mounts: list[Mount] = Field([], max_length=32)
    """Mounts of the job's `volumes`."""
    restart_policy: Literal["Always"] | None = None
    """Always: a sidecar, which starts before the training and is ended after it. Without it the container must end
    before the training starts."""


class PodFields(ApiModel):
    """Settings that apply to all pods of a part."""

    env: list[EnvVar] = Field([], max_length=128)
    """Environment variables of the containers."""
    env_from: list[EnvFrom] = Field([], max_length=16)
    """Secrets and ConfigMaps whose keys become variables, such as an object store's credentials."""
    volumes: list[Volume] = Field([], max_length=16)
    """Volumes of the pods."""
    node_selector: Labels = Field({})
    """Labels that nodes must have."""
    tolerations: list[Toleration] = Field([], max_length=16)
    """Node taints that the pods tolerate."""
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""
    service_account_name: Name | None = None
    """Service account, such as one with access to an object store. Without it no token is mounted."""
    pod_labels: Labels = Field({})
    """Additional labels of the pods."""
    pod_annotations: Labels = Field({})
    """Additional annotations of the pods."""
