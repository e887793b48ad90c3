"""Every setting of an IRPO run (arXiv 2512.10551, Algorithm 1), with its unit and its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all sections: unknown names are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WorldConfig(Settings):
    """Where queries, users and ads come from. `path` is a folder (webis) or two files (tables)."""

    kind: Literal["builtin", "webis", "tables"] = "builtin"
    path: str | None = Field(None, description="webis: folder; tables: folder with catalogue.* and queries.*")
    seed: int = 0
    candidates: Positive = Field(20, description="ads in each prompt")

    @model_validator(mode="after")
    def _path_where_needed(self) -> WorldConfig:
        if (self.path is None) != (self.kind == "builtin"):
            raise ValueError("world.path belongs to the kinds webis and tables, and to them only")
        return self


class WarmStartConfig(Settings):
    """Supervised warm start: teaches a base model to write answers with insertions. Blind to bids."""

    instructions: Literal["full", "brief"] = Field("full", description="prompt style to teach, and to keep")
    contexts: Positive = 400
    answers: Positive = 2
    steps: Positive = 60
    batch: Positive = 4
    learning_rate: Rate = 1e-4


class JudgeConfig(Settings):
    """A user model behind an OpenAI-compatible endpoint. Money in micros; no budget: no limit."""

    base_url: str = Field(pattern="^https?://", description="what /chat/completions is appended to")
    model: str = Field(min_length=1)
    api_key_env: str | None = Field("LLM_AUCTION_JUDGE_KEY", description="variable with the key; null: no key")
    temperature: float = Field(0.3, ge=0, le=2)
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    timeout: Rate = Field(60.0, description="seconds")
    concurrency: Positive = 4
    cache: str = Field("build/judge-replies", description="folder of accepted replies")
    micros_per_million_read: Count = 0
    micros_per_million_written: Count = 0
    budget_micros: Count | None = None


class FeedbackConfig(Settings):
    """Step 1 of an epoch: D_on, the clicks on the policy's answers. Source `simulator` deploys the policy on simulated
    queries; `shards` takes what served policies wrote and users clicked, from the log's shards at `path`."""

    source: Literal["simulator", "shards"] = "simulator"
    contexts: Positive = Field(1000, description="simulator: contexts; shards: logged answers at most, the newest")
    answers: Positive = Field(2, description="simulator: answers shown per context")
    judge: JudgeConfig | None = Field(None, description="simulator: none: its own users click")
    path: str | None = Field(None, description="shards: folder or URL that the feedback worker writes to")
    since: AwareDatetime | None = Field(None, description="shards: auctions from this moment on; none: all there are")
    until: AwareDatetime | None = Field(None, description="shards: auctions before this moment; none: all there are")
    held_out: Share = Field(0.2, description="shards: share of the auctions that is kept from fitting, for the gates")
    delay_correction: bool = Field(True, description="shards: reckon with clicks that have not come yet")
    min_seen: Rate = Field(
        0.1, lt=1, description="shards: answers so young that fewer of their clicks can have come are left out"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> FeedbackConfig:
        if (self.path is None) != (self.source == "simulator"):
            raise ValueError("feedback.path belongs to the source shards, and to it only")
        if self.source == "shards" and self.judge is not None:
            raise ValueError("feedback.judge belongs to the source simulator: shards have been judged already")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("feedback.since must be before feedback.until")
        return self


class RewardConfig(Settings):
    """The pCTR model (Eq. 3, 4). `source: oracle` skips it and trains on the simulator's true probabilities."""

    source: Literal["learned", "oracle"] = "learned"
    passes: Positive = Field(25, description="passes over the feedback of all epochs so far")
    batch: Positive = 256
    learning_rate: Rate = 1e-3
    weight_decay: float = 1e-2
    user_width: Positive = 64
    ad_width: Positive = 32
    hidden: tuple[Positive, ...] = (128, 64, 32)
    validation: Share = 0.1


class RolloutConfig(Settings):
    """Step 2a: sample answers from the current policy. Sampling settings left out are the model's own."""

    contexts: Positive = 1000
    samples: Positive = Field(5, description="M")
    temperature: Rate | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    max_new_tokens: Positive | None = None


class PenaltyConfig(Settings):
    """s_resp (Eq. 2, 8), in bid points: every ad costs a little, each past `flood_after` more, every fault a lot."""

    per_ad: float = Field(10.0, ge=0)
    flood_after: Count = 2
    per_extra_ad: float = Field(20.0, ge=0)
    per_fault: float = Field(50.0, ge=0)


class PreferenceConfig(Settings):
    """Step 2b: winner and losers of each context (Eq. 6)."""

    delta: float = Field(10.0, ge=0, description="delta_th, in bid points")
    lam: float = Field(1.0, ge=0, description="lambda")
    losers: Positive | None = Field(None, description="of more losers than these, as many drawn at random; none: all")
    counterfactual_bids: Count = Field(0, description="further bid vectors under which each sampled set is re-scored")


class OptimisationConfig(Settings):
    """Step 2c: direct preference optimisation, by TRL's DPOTrainer, alone or under DeepSpeed."""

    beta: Rate = 0.1
    learning_rate: Rate = Field(1e-6, description="of the first epoch; within an epoch it falls along a cosine")
    epoch_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate from each epoch to the next")
    passes: Positive = 1
    batch: Positive = Field(64, description="contexts per optimiser step, over all processes")
    batch_per_process: Positive = Field(16, description="contexts per forward pass of one process")
    warm_up: Share = 0.1
    sft_weight: float = Field(0.0, ge=0, description="weight of the winner's negative log-likelihood per token")
    reference: Literal["epoch_start", "base"] = "epoch_start"
    shared_prefix: bool = Field(
        True, description="encode each prompt once for all its answers; false: TRL's own pairs, every token counted"
    )
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    processes: Positive = 1
    zero_stage: Literal[0, 1, 2, 3] | None = Field(None, description="DeepSpeed ZeRO stage; none: no DeepSpeed")
    gradient_checkpointing: bool = False
    checkpoint_steps: Count = Field(0, description="optimiser steps between checkpoints inside the phase; 0: none")

    @model_validator(mode="after")
    def _fits_together(self) -> OptimisationConfig:
        if self.batch % self.processes:
            raise ValueError("optimisation.batch must be a multiple of optimisation.processes")
        if self.sft_weight > 0 and not self.shared_prefix:
            raise ValueError("optimisation.sft_weight needs optimisation.shared_prefix")
        return self

    def at_epoch(self, epoch: int) -> OptimisationConfig:
        """The settings of an epoch (1, 2, ...). Late epochs take smaller steps, or the number of ads swings about the
        best one: every epoch overshoots what its own samples showed."""
        return self.model_copy(update={"learning_rate": self.learning_rate * self.epoch_decay ** (epoch - 1)})


class GuardConfig(Settings):
    """When to stop a run. The last good epoch is kept."""

    min_ads_per_answer: float = Field(0.1, ge=0, description="fewer ads per answer than this is a collapse")
    max_kl_to_base: Rate = Field(200.0, description="nats per answer")
    reward_hacking_drop: Rate = Field(0.15, description="share the true reward may lose while the learned one rises")


class EvaluationConfig(Settings):
    """What is measured. `validation` contexts choose the best epoch; `queries` held-out ones make the report."""

    validation: Positive = 256
    queries: Positive = 500
    mosaic_samples: Positive = 20
    swept_contexts: Count = Field(100, description="contexts whose most relevant ad's bid is swept")
    continuity_answers: Count = Field(200, description="answers at each of 100 bids for the continuity curve")


class RunConfig(Settings):
    """One IRPO run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    base: str = Field("tiny", description="model: tiny, smollm2-135m, a folder or a Hugging Face id")
    seed: int = 0
    epochs: Positive = 4
    sampling_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights while answers are written; bfloat16 pays where processors compute in it"
    )
    world: WorldConfig = WorldConfig()
    warm_start: WarmStartConfig | None = None
    feedback: FeedbackConfig = FeedbackConfig()
    reward: RewardConfig = RewardConfig()
    rollout: RolloutConfig = RolloutConfig()
    penalty: PenaltyConfig = PenaltyConfig()
    preference: PreferenceConfig = PreferenceConfig()
    optimisation: OptimisationConfig = OptimisationConfig()
    guards: GuardConfig = GuardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _logs_last_an_epoch(self) -> RunConfig:
        if self.feedback.source == "shards":
            if self.epochs != 1:
                raise ValueError("epochs must be 1 with feedback.source shards: only a policy that serves has a log")
            if self.reward.source == "oracle":
                raise ValueError("reward.source oracle knows simulated users only, not those of feedback.source shards")
            if self.warm_start is not None:
                raise ValueError("warm_start needs a simulated world: register a warmed model and start from it")
        return self
