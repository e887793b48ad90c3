"""IRPOJob: a training run, one Kubernetes Job per step. Its configuration has the trainer's own schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from mechanism.errors import ConfigError
from operators.resources.base import (
    ApiModel,
    Condition,
    Manifest,
    Moment,
    Name,
    Quantity,
    Status,
    checked,
    immutable,
    rule,
)
from operators.resources.pods import (
    EnvVar,
    Image,
    InitContainer,
    Labels,
    NamedObject,
    PodFields,
    PodSecurity,
    Resources,
)
from operators.resources.scheduling import Affinity, ResourceClaim
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
    """Size of /dev/shm, which counts as the pod's memory; by default the runtime's 64 MB. NCCL needs gigabytes."""
    env: list[EnvVar] = Field([], max_length=128)
    """Variables of this step. They override the job's."""
    node_selector: Labels = Field({})
    """Labels that nodes must have, in addition to the job's."""
    pod_annotations: Labels = Field({})
    """Annotations of this step's pods, in addition to the job's."""
    resource_claims: list[ResourceClaim] = Field([], max_length=16)
    """Devices of dynamic resource allocation for each pod, such as GPUs of a DRA driver (then without `gpus`)."""


class SharedPods(StepPods):
    """The pods of a step over contexts, each with its share of them."""

    pods: PodCount = 1
    """Number of pods among which the contexts are divided."""


class OptimisationPods(StepPods):
    """The pods that optimise together: one torchrun in each, with a c10d rendezvous at the first."""

    model_config = checked(
        rule(
            "self.gpus == 0 || self.gpus == self.processesPerPod",
            "with GPUs, give processesPerPod the same number as gpus: one process for each",
        )
    )
    pods: PodCount = 1
    """Number of pods, usually one per node."""
    processes_per_pod: Annotated[int, Field(ge=1, le=16)] = 1
    """Training processes in each pod, one for each of its GPUs."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 29_400
    """Rendezvous port of the first pod."""
    ipc_lock: bool = False
    """Add the capability IPC_LOCK, which InfiniBand and other RDMA devices need to register memory."""


class Steps(ApiModel):
    """The pods of each step of an epoch, in order."""

    feedback: SharedPods | None = None
    """Feedback by simulated users as a step of its own: the policy answers, users click. Without it the pod of `reward`
    does this as well. The first of these steps also runs the warm start."""
    reward: StepPods = StepPods()
    """The reward update: the click predictor is fitted to the feedback. One pod."""
    rollouts: SharedPods = SharedPods()
    """Several sampled answers of the policy for each context."""
    pairs: SharedPods = SharedPods()
    """Preference pairs of the answers, with their log probabilities under the reference policy."""
    optimisation: OptimisationPods = OptimisationPods()
    """Preference optimisation, with DeepSpeed if config.optimisation.zero_stage is set."""
    evaluation: SharedPods = SharedPods()
    """Evaluation on validation contexts, and the guards. One more pod registers the best epoch at the end."""


class Gpu(ApiModel):
    """The kind of GPUs for steps that request any."""

    type: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Value of the node label, such as NVIDIA-H100-80GB-HBM3; by default any."""
    node_label: Annotated[str, Field(min_length=1, max_length=317)] = "nvidia.com/gpu.product"
    """Label of nodes that names the kind of their GPUs."""
    resource: Annotated[str, Field(min_length=1, max_length=253)] = "nvidia.com/gpu"
    """Name of the resource that counts them."""


class Storage(ApiModel):
    """Storage of the run and its models, the same for all pods."""

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
    """Only with an object store: absolute path below a volume that all pods share, for local copies and for checkpoints
    of preference optimisation."""


Training = Annotated[Manifest, AfterValidator(check_training), WithJsonSchema(training_schema())]


class IRPOJobSpec(PodFields):
    """What to train, on which pods, and when to give up."""

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
                "initContainers",
                "hostNetwork",
            ],
            [
                "priorityClassName",
                "serviceAccountName",
                "queueName",
                "gates",
                "affinity",
                "runtimeClassName",
                "schedulerName",
            ],
        ),
        rule(
            "self.steps.optimisation.pods * self.steps.optimisation.processesPerPod < 1 ||"
            " self.config.optimisation.batch"
            " % (self.steps.optimisation.pods * self.steps.optimisation.processesPerPod) == 0",
            "config.optimisation.batch must be a multiple of steps.optimisation.pods times processesPerPod",
        ),
        rule(
            "self.steps.rollouts.pods <= self.config.rollout.contexts",
            "steps.rollouts.pods must be at most config.rollout.contexts: each pod needs at least one context",
        ),
        rule(
            "self.steps.pairs.pods <= self.config.rollout.contexts",
            "steps.pairs.pods must be at most config.rollout.contexts: each pod needs at least one context",
        ),
        rule(
            "self.steps.evaluation.pods <= self.config.evaluation.validation",
            "steps.evaluation.pods must be at most config.evaluation.validation: each pod needs at least one context",
        ),
        rule(
            "!has(self.steps.feedback) || self.config.feedback.source != 'lake'",
            "leave out steps.feedback with feedback.source lake: the step reward takes one snapshot of the log",
        ),
        rule(
            "!has(self.steps.feedback) || self.steps.feedback.pods <= self.config.feedback.contexts",
            "steps.feedback.pods must be at most config.feedback.contexts: each pod needs at least one context",
        ),
        rule(
            "self.config.epochs <= 999", "config.epochs must be at most 999: the names of Jobs have three digits for it"
        ),
        rule(
            "!self.storage.url.startsWith('/') || self.volumes.exists(v, !v.readOnly && has(v.persistentVolumeClaim) &&"
            " (self.storage.url == v.mountPath || self.storage.url.startsWith(v.mountPath + '/')))",
            "storage.url must lie below the mountPath of a writable volume with a persistentVolumeClaim",
        ),
        rule(
            "!has(self.storage.cache) || self.volumes.exists(v, !v.readOnly && has(v.persistentVolumeClaim) &&"
            " (self.storage.cache == v.mountPath || self.storage.cache.startsWith(v.mountPath + '/')))",
            "storage.cache must lie below the mountPath of a writable volume with a persistentVolumeClaim",
        ),
        rule(
            "self.storage.url.startsWith('/') || has(self.storage.cache) || self.config.optimisation.checkpoint_steps"
            " == 0",
            "config.optimisation.checkpoint_steps needs storage.cache where storage.url is an object store",
        ),
        rule(
            "!has(self.gates) || self.config.feedback.source == 'lake'",
            "gates read the log that the base model wrote: leave them out, or set config.feedback.source to lake",
        ),
        rule("self.volumes.all(v, self.volumes.exists_one(w, w.name == v.name))", "volumes must have different names"),
        rule(
            "self.initContainers.all(c, c.name != 'train' && self.initContainers.exists_one(d, d.name == c.name))",
            "initContainers must have different names, other than train",
        ),
        rule(
            "self.initContainers.all(c, c.volumeMounts.all(m, self.volumes.exists(v, v.name == m.name)))",
            "volumeMounts of initContainers must name one of the job's volumes",
        ),
    )

    config: Training
    """Configuration of the run, as in a file for `llm-auction train`: base model, epochs, feedback from the simulator
    or from the lake, lambda, delta_th, M, beta, the reference policy. Its name is the job's."""
    image: Image
    """Container image with llm-auction and its extra `train`."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When to pull the image."""
    image_pull_secrets: list[NamedObject] = Field([], max_length=16)
    """Pull Secrets of the image's registry."""
    gates: GatesField | None = None
    """Gates that the result must pass before it may serve, with the trainer's field names. They are measured on the
    held-out part of the log when the model is registered; a model that does not pass is registered as refused. `{}`
    applies all gates with their defaults; without the field there are none."""
    storage: Storage
    """Storage of the run and its models."""
    steps: Steps = Steps()
    """The pods of each step."""
    gpu: Gpu = Gpu()
    """The kind of GPUs for steps that request any."""
    pod_security: PodSecurity = PodSecurity()
    """User and groups of the containers."""
    init_containers: list[InitContainer] = Field([], max_length=16)
    """Containers that run before the training in each pod, and sidecars beside it."""
    affinity: Affinity | None = None
    """Where the pods run, beside `nodeSelector` and `tolerations`."""
    runtime_class_name: Name | None = None
    """RuntimeClass of the pods, such as nvidia."""
    scheduler_name: Name | None = None
    """Scheduler of the pods; by default the cluster's."""
    host_network: bool = False
    """Use the nodes' network, which some RDMA fabrics need. Two pods of a step on one node must not share its port."""
    queue_name: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Kueue LocalQueue that admits the Job of each step."""
    gang_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """Seconds for which a step may hold nodes for some of its pods while others find none. Then all of its pods are
    deleted and wait for the back-off, which uses no restart: two jobs that each hold a part of what the other needs
    would wait for ever. 0: never, for schedulers that place all pods of a step or none."""
    suspend: bool = False
    """Delete all pods. When it is set back to false, the run continues from its last checkpoint."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=315_360_000)] | None = None
    """Seconds from the first step after which the job fails; time suspended does not count."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Number of restarts after failures that a restart can fix, over the whole job."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """Seconds before a restart; doubled for each further one without progress, up to 600. A step that is done, or that
    ran for ten minutes, is progress."""
    node_loss_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """Seconds for which a node may be NotReady before its pods are deleted and the step restarts."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds after its end at which the job and its objects are deleted; by default never. The run directory and the
    registered model are kept in any case."""

    def run_config(self, name: str) -> RunConfig:
        """Return the trainer's configuration of a job with this name.

        Raises:
            ConfigError: if the trainer's schema refuses it.
        """
        processes = self.steps.optimisation.pods * self.steps.optimisation.processes_per_pod
        optimisation = {**self.config.get("optimisation", {}), "processes": processes}
        try:
            return RunConfig.model_validate({"name": name, **self.config, "optimisation": optimisation})
        except ValueError as error:
            raise ConfigError("spec.config", str(error), "correct it and create the job again") from error


class Failure(ApiModel):
    """The last failure of a step."""

    reason: str
    """Reason in one word; see docs/operators.md."""
    message: str
    """What happened, with the container's termination message if it has one."""
    epoch: int
    """Epoch of the step."""
    step: str
    """Name of the step."""
    pod: str | None = None
    """The pod that failed first."""
    node: str | None = None
    """Node of that pod."""
    exit_code: int | None = None
    """Exit code of that pod's container."""
    time: Moment
    """Time at which the operator noticed it."""


class IRPOJobStatus(Status):
    """State of the job as the operator observed it."""

    phase: Literal["Pending", "Queued", "Running", "Restarting", "Suspending", "Suspended", "Complete", "Failed"] = (
        "Pending"
    )
    """Summary in one word."""
    epoch: int = 0
    """The current epoch, from 1."""
    step: str = ""
    """The current step."""
    progress: str = ""
    """Steps done, of all steps."""
    steps_done: int = 0
    """Number of steps done."""
    attempt: int = 0
    """Number of restarts and suspensions so far; part of the names of Jobs and pods."""
    restarts: int = 0
    """Number of restarts used, of `maxRestarts`."""
    restarts_without_progress: int = 0
    """Restarts since a step was done or a pod had run for ten minutes: the back-off doubles with each."""
    out_of_memory: int = 0
    """Number of times that the current step ran out of memory."""
    not_before: Moment | None = None
    """Earliest time of the current step's restart."""
    start_time: Moment | None = None
    """Start of the first step."""
    active_since: Moment | None = None
    """Start of the current active period; missing while the job is suspended."""
    active_seconds: int = 0
    """Duration of the earlier active periods."""
    completion_time: Moment | None = None
    """End of the job, whether complete or failed."""
    best_epoch: int | None = None
    """The epoch with the best policy; 0 if none is better than the base model."""
    model_version: str | None = None
    """The registered model."""
    model_digest: str | None = None
    """sha256 of its weights, as `spec.model.digest` of an AuctionService needs it."""
    model_status: Literal["trained", "candidate", "refused"] | None = None
    """Result of the gates: a candidate may serve, a refused model may not, a trained one was not measured."""
    refused_by: str = ""
    """The gates that refused it, with their reasons."""
    last_failure: Failure | None = None
    """The last failure of a step."""
    conditions: list[Condition] = Field([])
    """Accepted, Progressing, Suspended, Complete and Failed, with reasons and messages."""
