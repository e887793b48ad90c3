"""IRPOJob: one training run, each of its steps a Kubernetes Job. The configuration is the trainer's own schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from mechanism.errors import ConfigError
from operators.resources.base import (
    ApiModel,
    Condition,
    Moment,
    Quantity,
    checked,
    immutable,
    rule,
)
from operators.resources.pods import EnvVar, Image, Labels, NamedObject, PodFields, PodSecurity, Resources
from operators.resources.training import GatesField, check_training, training_schema
from trainers.config import RunConfig

Seconds = Annotated[int, Field(ge=0, le=315_360_000)]
PodCount = Annotated[int, Field(ge=1, le=1024)]


class StepPods(ApiModel):
    """The pods of one step."""

    resources: Resources = Resources()
    """CPU and memory of each pod."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs of each pod."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, which counts as the pod's memory; none: the container runtime's 64 MB. NCCL wants gigabytes."""
    env: list[EnvVar] = Field([], max_length=128)
    """Variables of this step, beside and before the job's."""
    node_selector: Labels = Field({})
    """Labels that nodes must have, beside the job's."""
    pod_annotations: Labels = Field({})
    """Annotations of this step's pods, beside the job's."""


class RolloutPods(StepPods):
    """The pods that sample answers."""

    pods: PodCount = 1
    """Over how many pods the contexts are divided."""


class OptimisationPods(StepPods):
    """The pods that optimise together: one torchrun in each, meeting at the first by c10d rendezvous."""

    model_config = checked(
        rule(
            "self.gpus == 0 || self.gpus == self.processesPerPod",
            "with GPUs, give processesPerPod the same number as gpus: a process for each",
        )
    )
    pods: PodCount = 1
    """How many pods optimise together; a pod is a node's share."""
    processes_per_pod: Annotated[int, Field(ge=1, le=16)] = 1
    """Training processes in each pod: one for each of its GPUs."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 29_400
    """Port of the first pod at which the others meet it."""
    ipc_lock: bool = False
    """Adds the capability IPC_LOCK, which registering memory with InfiniBand and other RDMA devices needs."""


class Steps(ApiModel):
    """The pods of each step of an epoch, in order."""

    reward: StepPods = StepPods()
    """Feedback and the reward update: the policy answers, users click, the click predictor is fitted. One pod. In the
    first epoch it makes the warm start, too."""
    rollouts: RolloutPods = RolloutPods()
    """Several answers of the policy to each context."""
    pairs: StepPods = StepPods()
    """Winners and losers among the answers, and what the reference policy thinks of them. One pod."""
    optimisation: OptimisationPods = OptimisationPods()
    """Preference optimisation, under DeepSpeed where config.optimisation.zero_stage is set."""
    evaluation: StepPods = StepPods()
    """Figures on validation contexts, and the guards. One pod; at the end one more registers the best epoch."""


class Gpu(ApiModel):
    """Which GPUs the steps that ask for any get."""

    type: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Value of the node label, such as NVIDIA-H100-80GB-HBM3; none: any."""
    node_label: Annotated[str, Field(min_length=1, max_length=317)] = "nvidia.com/gpu.product"
    """Node label that names a node's GPUs."""
    resource: Annotated[str, Field(min_length=1, max_length=253)] = "nvidia.com/gpu"
    """Name of the resource that counts them."""


class Storage(ApiModel):
    """Where the run and its models are kept, for all pods alike."""

    model_config = checked(
        rule(
            "self.url.startsWith('/') || self.url.contains('://')",
            "url must be an absolute path below a volume's mountPath, or a URL such as s3://bucket/prefix",
        ),
        rule("!self.url.endsWith('/')", "url must not end with a slash"),
    )
    url: Annotated[str, Field(min_length=2, max_length=1024)]
    """Absolute path below a volume, or the URL of an object store (s3://bucket/prefix). The run directory is
    `<url>/<name of the job>`, the model registry `<url>/models`."""
    cache: Annotated[str, Field(pattern="^/", max_length=512)] | None = None
    """With an object store: absolute path below a volume that all pods share, for local copies and for checkpoints
    inside preference optimisation."""


Training = Annotated[dict[str, Any], AfterValidator(check_training), WithJsonSchema(training_schema())]


class IRPOJobSpec(PodFields):
    """What to train, on which pods, and how long to try."""

    model_config = checked(
        *immutable(
            [
                "config",
                "image",
                "imagePullPolicy",
                "imagePullSecrets",
                "storage",
                "steps",
                "gpu",
                "env",
                "envFrom",
                "volumes",
                "nodeSelector",
                "tolerations",
                "podLabels",
                "podAnnotations",
                "podSecurity",
                "nodeLossSeconds",
            ],
            ["priorityClassName", "serviceAccountName", "queueName", "gates"],
        ),
        rule(
            "self.steps.optimisation.pods * self.steps.optimisation.processesPerPod < 1 ||"
            " self.config.optimisation.batch"
            " % (self.steps.optimisation.pods * self.steps.optimisation.processesPerPod) == 0",
            "config.optimisation.batch must be a multiple of steps.optimisation.pods times processesPerPod",
        ),
        rule(
            "self.steps.rollouts.pods <= self.config.rollout.contexts",
            "steps.rollouts.pods must be at most config.rollout.contexts: each pod answers some of them",
        ),
        rule("self.config.epochs <= 999", "config.epochs must be at most 999: the names of Jobs have room for these"),
        rule(
            "!self.storage.url.startsWith('/') || self.volumes.exists(v, !v.readOnly && has(v.persistentVolumeClaim) &&"
            " (self.storage.url == v.mountPath || self.storage.url.startsWith(v.mountPath + '/')))",
            "storage.url must lie below the mountPath of a volume with a persistentVolumeClaim that can be written",
        ),
        rule(
            "!has(self.storage.cache) || self.volumes.exists(v, !v.readOnly && has(v.persistentVolumeClaim) &&"
            " (self.storage.cache == v.mountPath || self.storage.cache.startsWith(v.mountPath + '/')))",
            "storage.cache must lie below the mountPath of a volume with a persistentVolumeClaim that can be written",
        ),
        rule(
            "self.storage.url.startsWith('/') || has(self.storage.cache) || self.config.optimisation.checkpoint_steps"
            " == 0",
            "config.optimisation.checkpoint_steps needs storage.cache where storage.url is an object store",
        ),
        rule(
            "!has(self.gates) || self.config.feedback.source == 'shards'",
            "gates read the log that the base model wrote: leave them out, or set config.feedback.source to shards",
        ),
        rule("self.volumes.all(v, self.volumes.exists_one(w, w.name == v.name))", "volumes must have different names"),
    )

    config: Training
    """The run's configuration, as in the file for `llm-auction train`: base model, epochs, feedback from the simulator
    or from shards of the event log, lambda, delta_th, M, beta, the reference policy. Its name is the job's."""
    image: Image
    """Container image with llm-auction and its extra `train`."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    image_pull_secrets: list[NamedObject] = Field([], max_length=16)
    """Secrets for the image's registry."""
    gates: GatesField | None = None
    """What must hold before the result may serve, in the trainer's spelling. It is measured on the held-out part of
    the log when the model is registered; a model that does not pass is registered as refused. `{}` asks for all gates
    at their defaults; without the field there are none."""
    storage: Storage
    """Where the run and its models are kept."""
    steps: Steps = Steps()
    """The pods of each step."""
    gpu: Gpu = Gpu()
    """Which GPUs the steps that ask for any get."""
    pod_security: PodSecurity = PodSecurity()
    """As which user the containers run."""
    queue_name: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """LocalQueue of Kueue that admits each step's Job."""
    suspend: bool = False
    """Frees every pod; set back to false, the run goes on from its last checkpoint."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=315_360_000)] | None = None
    """Seconds that the job may be active, from its first step and without the time it is suspended; then it fails."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often a step may be started again after a failure that a new start may heal, over the whole job."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """Wait before the first restart; it doubles with each further one, up to 600 seconds."""
    node_loss_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """For how long a node may be NotReady before its pods are given up and the step starts again."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds after its end when the job is deleted with all that belongs to it; none: it stays. The run directory
    and the registered model stay in any case."""

    def run_config(self, name: str) -> RunConfig:
        """The trainer's configuration of a job of that name. Raises ConfigError for what its schema refuses."""
        processes = self.steps.optimisation.pods * self.steps.optimisation.processes_per_pod
        optimisation = {**self.config.get("optimisation", {}), "processes": processes}
        try:
            return RunConfig.model_validate({"name": name, **self.config, "optimisation": optimisation})
        except ValueError as error:
            raise ConfigError("spec.config", str(error), "mend it and create the job anew") from error


class Failure(ApiModel):
    """How a step last failed."""

    reason: str
    """One word; see docs/operators.md."""
    message: str
    """What happened, with the container's last words where it has any."""
    epoch: int
    """Epoch of the step."""
    step: str
    """The step."""
    pod: str | None = None
    """The pod that failed first."""
    node: str | None = None
    """Its node."""
    exit_code: int | None = None
    """Exit code of its container."""
    time: Moment
    """When it was noticed."""


class IRPOJobStatus(ApiModel):
    """What the operator has seen and done."""

    observed_generation: int = 0
    """The generation of the job that this status is about."""
    phase: Literal["Pending", "Queued", "Running", "Restarting", "Suspending", "Suspended", "Complete", "Failed"] = (
        "Pending"
    )
    """In one word; the conditions say more."""
    epoch: int = 0
    """The epoch that is being worked on, from 1."""
    step: str = ""
    """The step that is being worked on."""
    progress: str = ""
    """Steps done, of all."""
    steps_done: int = 0
    """How many steps are done."""
    attempt: int = 0
    """Counts the starts of steps that were not the step's first; it is part of the names of the pods."""
    restarts: int = 0
    """How many of `maxRestarts` are used."""
    out_of_memory: int = 0
    """How often the present step ran out of memory."""
    not_before: Moment | None = None
    """When the present step may start again."""
    start_time: Moment | None = None
    """When the first step was started."""
    active_since: Moment | None = None
    """Since when the job is active; missing while it is suspended."""
    active_seconds: int = 0
    """How long it was active before."""
    completion_time: Moment | None = None
    """When it ended, well or not."""
    best_epoch: int | None = None
    """The epoch whose policy is the best; 0: none is better than the base model."""
    model_version: str | None = None
    """The registered model."""
    model_digest: str | None = None
    """sha256 of its weights, as an AuctionService asks for it."""
    model_status: Literal["trained", "candidate", "refused"] | None = None
    """What the gates made of it: a candidate may serve, a refused model may not, a trained one they never saw."""
    refused_by: str = ""
    """Which gates refused it, and why."""
    last_failure: Failure | None = None
    """How a step last failed."""
    conditions: list[Condition] = Field([])
    """Accepted, Progressing, Suspended, Complete and Failed, with reasons and messages."""
