"""Every setting of an IRPO run (arXiv 2512.10551, Algorithm 1), with its unit and its default.

Docstrings and descriptions of these models are also those of the custom resources (`make crds`).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import AwareDatetime, Field, model_validator

from mechanism.objective import Penalty
from trainers.config.engine import EngineConfig
from trainers.config.fields import Count, Positive, Rate, Settings, Share

_PENALTY = Penalty()


class WorldConfig(Settings):
    """Where queries, users and ads come from. `path` is the folder of the imported data set."""

    kind: Literal["builtin", "everyday", "webis", "naiad", "gem-bench", "native-ads", "tables"] = Field(
        "builtin", description="shipped world, the same with everyday questions, or imported data"
    )
    path: str | None = Field(None, description="folder of the data set; tables: with catalogue.* and queries.*")
    seed: int = Field(0, description="seed of users and bids")
    candidates: Positive = Field(20, description="ads in each prompt")
    plain: float = Field(
        0.0, ge=0, lt=1, description="imported data: share of everyday questions without a need in the training queries"
    )

    @model_validator(mode="after")
    def _path_where_needed(self) -> WorldConfig:
        own = self.kind in ("builtin", "everyday")
        if (self.path is None) != own:
            raise ValueError("world.path belongs to the kinds of imported data, and to them only")
        if own and self.plain:
            raise ValueError("world.plain belongs to the kinds of imported data: everyday has such questions already")
        return self


class WarmStartConfig(Settings):
    """Supervised warm start: teaches a base model to write answers with insertions, without regard to bids."""

    source: Literal["woven", "native"] = Field(
        "woven",
        description="woven: the base model's answers with inserted sentences; native: the answers of the data set, the"
        " ad's name turned into its marker (world kinds naiad and native-ads)",
    )
    instructions: Literal["full", "brief"] = Field("full", description="prompt style to teach; the model keeps it")
    contexts: Positive = Field(400, description="contexts to write examples for")
    answers: Positive = Field(2, description="examples per context")
    steps: Positive = Field(60, description="optimiser steps")
    batch: Positive = Field(4, description="examples per optimiser step")
    learning_rate: Rate = Field(1e-4, description="peak learning rate")


class JudgeConfig(Settings):
    """A user model at an OpenAI-compatible endpoint. Money in micros."""

    base_url: str = Field(pattern="^https?://", description="URL that /chat/completions is appended to")
    model: str = Field(min_length=1, description="model name at that endpoint")
    api_key_env: str | None = Field(
        "LLM_AUCTION_JUDGE_KEY", description="environment variable with the key; null: no key"
    )
    temperature: float = Field(0.3, ge=0, le=2, description="sampling temperature of the judge")
    response_format: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema", description="how strictly the endpoint can enforce the form of its reply"
    )
    timeout: Rate = Field(60.0, description="seconds until a request fails")
    concurrency: Positive = Field(4, description="requests at once")
    cache: str = Field("build/judge-replies", description="folder that keeps accepted replies")
    micros_per_million_read: Count = Field(0, description="price of a million tokens read")
    micros_per_million_written: Count = Field(0, description="price of a million tokens written")
    budget_micros: Count | None = Field(None, description="limit on the cost of judging; none: no limit")


class FeedbackConfig(Settings):
    """Step 1 of an epoch: D_on, the clicks on the policy's answers.

    Source `simulator` deploys the policy on simulated queries; `lake` reads the answers of served policies and their
    clicks from the tables at `path`.
    """

    source: Literal["simulator", "lake"] = Field(
        "simulator", description="simulated users, or the lake of logged events"
    )
    contexts: Positive = Field(1000, description="simulator: contexts; lake: newest logged answers, at most")
    answers: Positive = Field(2, description="simulator: answers shown per context")
    judge: JudgeConfig | None = Field(None, description="simulator: model that clicks; none: simulated users")
    path: str | None = Field(None, description="lake: folder or s3:// URL that the lake worker writes to")
    window_s: Rate = Field(1800.0, description="lake: seconds after an answer within which its clicks count")
    since: AwareDatetime | None = Field(None, description="lake: auctions from this time on; none: all")
    until: AwareDatetime | None = Field(None, description="lake: auctions before this time; none: all")
    held_out: Share = Field(0.2, description="lake: share of the auctions held out of fitting, for the gates")
    delay_correction: bool = Field(True, description="lake: account for clicks that have not come yet")
    min_seen: Rate = Field(
        0.1, lt=1, description="lake: leave out answers too young to show this share of their clicks"
    )

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, values: Any) -> Any:
        """Read the configs of runs of earlier releases, whose logs were `shards`."""
        if isinstance(values, dict) and values.get("source") == "shards":
            return {**values, "source": "lake"}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> FeedbackConfig:
        if (self.path is None) != (self.source == "simulator"):
            raise ValueError("feedback.path belongs to the source lake, and to it only")
        if self.source == "lake" and self.judge is not None:
            raise ValueError("feedback.judge belongs to the source simulator: a lake has been judged already")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("feedback.since must be before feedback.until")
        return self


FeatureGroup = Literal["query", "conversation", "user", "answer", "sentence", "ad", "others", "layout", "ids"]
FEATURE_GROUPS: tuple[FeatureGroup, ...] = get_args(FeatureGroup)
"""All that the pCTR model can read: texts (user: interests and history; sentence: the one that carries the ad; others:
the other ads shown), the layout of the answer, and the ids of user and ad."""


class RewardConfig(Settings):
    """The pCTR model (Eq. 3, 4); `source: oracle` trains on the simulator's true probabilities in its place."""

    source: Literal["learned", "oracle"] = Field("learned", description="fitted pCTR model, or the simulator's truth")
    passes: Positive = Field(25, description="passes over the feedback of all epochs so far")
    batch: Positive = Field(256, description="shown ads per optimiser step")
    learning_rate: Rate = Field(1e-3, description="of AdamW")
    weight_decay: float = Field(1e-2, description="of AdamW")
    user_width: Positive = Field(8, description="width of the user embedding")
    ad_width: Positive = Field(8, description="width of the ad embedding")
    hidden: tuple[Positive, ...] = Field((64, 32), description="widths of the hidden layers")
    features: tuple[FeatureGroup, ...] = Field(FEATURE_GROUPS, description="what the model reads")
    members: Positive = Field(3, description="networks in the ensemble; their predictions are averaged")
    id_dropout: Share = Field(
        0.5, description="share of the examples, while fitting, in which user or ad counts as unknown"
    )
    validation: Share = Field(
        0.1, description="share of the contexts that each member holds out, to stop in time and to measure the fit"
    )


class RolloutConfig(Settings):
    """Step 2a: answers sampled from the current policy. Missing sampling settings are the model's own."""

    contexts: Positive = Field(1000, description="contexts to answer")
    samples: int = Field(5, ge=2, description="M, answers per context; at least a winner and a loser")
    bids: Literal["fresh", "as_bid"] = Field(
        "fresh", description="fresh bids for every context (lake: from all bids of the log); lake only: as bid"
    )
    new_titles: Share = Field(0.0, description="share of the contexts in which ads get invented titles and ids")
    temperature: Rate | None = Field(None, description="sampling temperature")
    top_p: Share | None = Field(None, description="nucleus sampling: share of the probability that is kept")
    top_k: Count | None = Field(None, description="number of most probable tokens that are kept; 0: all")
    max_new_tokens: Positive | None = Field(None, description="longest answer, in tokens")
    engine: EngineConfig = EngineConfig()


class PenaltyConfig(Settings):
    """s_resp (Eq. 2, 8), in bid points: every ad costs a little, each past `flood_after` more, every fault a lot."""

    # One set of defaults for training, baselines and the canary guard: those of the objective.

    per_ad: float = Field(_PENALTY.per_ad, ge=0, description="for each ad")
    flood_after: Count = Field(
        _PENALTY.flood_after, description="number of ads in an answer up to which none counts as extra"
    )
    per_extra_ad: float = Field(
        _PENALTY.per_extra_ad, ge=0, description="for each ad past flood_after, in addition to per_ad"
    )
    per_fault: float = Field(_PENALTY.per_fault, ge=0, description="for each invalid insertion")

    def penalty(self) -> Penalty:
        """Return the weights as the objective takes them."""
        return Penalty(**self.model_dump())


class PreferenceConfig(Settings):
    """Step 2b: winner and losers of each context (Eq. 6)."""

    delta: float = Field(10.0, ge=0, description="delta_th, bid points by which a winner's reward must beat a loser's")
    lam: float = Field(1.0, ge=0, description="lambda, weight of a point of penalty against a point of revenue")
    quality_weight: float = Field(
        0.0, ge=0, description="bid points that an answer without any quality (0..1) loses: off topic, cut off, looping"
    )
    losers: Positive | None = Field(None, description="most losers in a group, drawn at random; none: all")
    counterfactual_bids: Count = Field(
        0, description="additional bid vectors under which each sampled set is re-scored"
    )
    edited: Count = Field(0, description="sampled answers of each set that are edited; their edits join the set")
    swaps: Count = Field(0, description="edits of each edited answer that show another ad in place of one of its ads")
    removals: Count = Field(0, description="edits of each edited answer that lack the sentence of one of its ads")

    @model_validator(mode="after")
    def _edits_of_something(self) -> PreferenceConfig:
        if (self.edited == 0) != (self.swaps + self.removals == 0):
            raise ValueError(
                "preference.edited needs preference.swaps or preference.removals above 0, and they need it"
            )
        return self


class OptimisationConfig(Settings):
    """Step 2c: direct preference optimisation by TRL's DPOTrainer, in one process or under DeepSpeed.

    The other objectives learn from the same rollouts, for comparison.
    """

    objective: Literal["preference", "winners", "rloo"] = Field(
        "preference",
        description="preference: winner over losers; winners: supervised learning of the winners (best-of-M"
        " distillation); rloo: REINFORCE with a leave-one-out baseline over all answers",
    )
    loss: Literal["sigmoid", "margin"] = Field(
        "sigmoid", description="preference: sigmoid: the winner beats each loser; margin: every pair, by how much"
    )
    reward_scale: Rate = Field(
        10.0, description="margin, rloo: bid points of one unit of reward; margin: ln-odds of a pair are points over it"
    )
    clip: Rate = Field(0.2, lt=1, description="rloo: largest change of an answer's probability that is rewarded")
    kl_weight: float = Field(
        0.0, ge=0, description="rloo: weight of a nat of divergence from the reference, in units of reward"
    )
    beta: Rate = Field(0.1, description="beta of the DPO loss; higher: closer to the reference")
    learning_rate: float = Field(
        1e-6, gt=0, le=1, description="learning rate of the first epoch; it decays along a cosine within an epoch"
    )
    epoch_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate from each epoch to the next")
    lora_rank: Count = Field(
        0,
        description="rank of a new LoRA adapter on a base without one; 0: all parameters are trained. A base that is"
        " an adapter always has its adapter trained",
    )
    passes: Positive = Field(1, description="passes over the epoch's preference groups")
    batch: Positive = Field(64, description="contexts per optimiser step, over all processes")
    batch_per_process: Positive = Field(16, description="contexts per forward pass of one process")
    warm_up: Share = Field(0.1, description="share of the steps over which the learning rate rises to its peak")
    sft_weight: float = Field(0.0, ge=0, description="weight of the winner's negative log-likelihood per token")
    reference: Literal["epoch_start", "base"] = Field(
        "epoch_start", description="reference policy: the policy at the start of the epoch, or the base model"
    )
    shared_prefix: bool = Field(
        True, description="encode each prompt once for all its answers; false: TRL's pairs, every token counted"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision that training computes in; auto: bfloat16 where the processor is fast at it"
    )
    processes: Positive = Field(1, description="training processes, over all nodes")
    zero_stage: Literal[0, 1, 2, 3] | None = Field(None, description="DeepSpeed ZeRO stage; none: no DeepSpeed")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    checkpoint_steps: Count = Field(0, description="optimiser steps between checkpoints inside the phase; 0: none")

    @model_validator(mode="after")
    def _fits_together(self) -> OptimisationConfig:
        if self.batch % self.processes:
            raise ValueError("optimisation.batch must be a multiple of optimisation.processes")
        if self.sft_weight > 0 and not self.shared_prefix:
            raise ValueError("optimisation.sft_weight needs optimisation.shared_prefix")
        if self.sft_weight > 0 and self.objective != "preference":
            raise ValueError("optimisation.sft_weight belongs to the objective preference")
        if not self.shared_prefix and (self.objective, self.loss) != ("preference", "sigmoid"):
            raise ValueError("optimisation.shared_prefix false needs the objective preference with the loss sigmoid")
        return self

    def at_epoch(self, epoch: int) -> OptimisationConfig:
        """Return the settings of an epoch (1, 2, ...).

        Late epochs take smaller steps: each epoch overshoots what its samples showed, and with equal steps the number
        of ads oscillates about the best one.
        """
        return self.model_copy(update={"learning_rate": self.learning_rate * self.epoch_decay ** (epoch - 1)})


class GuardConfig(Settings):
    """Limits that stop a run. The last good epoch is kept."""

    min_ads_per_answer: float = Field(0.1, ge=0, description="fewer ads per answer count as a collapse")
    max_kl_to_base: Rate = Field(60.0, description="KL divergence from the base, nats per answer")
    reward_hacking_drop: Rate = Field(
        0.15, description="share of the true reward that may be lost while the learned one rises"
    )


class EvaluationConfig(Settings):
    """What is measured: `validation` contexts choose the best epoch, `queries` held-out ones make the report."""

    validation: Positive = Field(256, description="validation contexts of each epoch")
    queries: Positive = Field(500, description="held-out queries of the report")
    temperatures: tuple[Rate, ...] = Field(
        (), description="temperatures to choose from by the learned reward for serving; none: as trained"
    )
    mosaic_samples: Positive = Field(50, description="most answers per query that MOSAIC samples (5, 20 and 50)")
    swept_contexts: Count = Field(100, description="contexts in which the bid of a relevant ad is swept")
    continuity_queries: Count = Field(
        50, description="queries in which the bids of two ads are swept in search of steps; 0: none"
    )
    screened: Positive = Field(64, description="validation contexts that every setting of a rival is tried on")
    finalists: Positive = Field(3, description="settings of a rival that are then tried on all validation contexts")
    mosaic_contexts: Positive = Field(
        32, description="validation contexts for every setting of MOSAIC, each with as many answers as it samples"
    )


class RunConfig(Settings):
    """One IRPO run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    base: str = Field(
        "tiny",
        description="model: tiny, smollm2-135m, a folder, a registered version by URL (s3://bucket/prefix/models/v0003)"
        " or a Hugging Face id",
    )
    seed: int = Field(0, description="seed of every random step")
    epochs: Positive = Field(4, description="rounds of feedback, reward update, rollouts, pairs and optimisation")
    sampling_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision of the weights while sampling; auto: bfloat16 on GPUs, float32 on processors"
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
        if self.rollout.bids == "as_bid" and self.feedback.source != "lake":
            raise ValueError("rollout.bids as_bid needs feedback.source lake: a simulated world has no advertisers")
        if self.optimisation.lora_rank and self.warm_start is not None:
            raise ValueError(
                "optimisation.lora_rank needs a run without warm_start: an adapter names its base model, which a"
                " warm start would make a folder of this run"
            )
        native = self.warm_start is not None and self.warm_start.source == "native"
        if native and self.world.kind not in ("naiad", "native-ads"):
            raise ValueError("warm_start.source native needs a world of kind naiad or native-ads, which hold answers")
        foreign = self.preference.edited or self.preference.counterfactual_bids
        if self.optimisation.objective == "rloo" and foreign:
            raise ValueError(
                "optimisation.objective rloo needs preference.edited and preference.counterfactual_bids of 0: its"
                " importance ratios hold for answers that the policy wrote under the bids that score them"
            )
        if self.feedback.source == "lake":
            if self.epochs != 1:
                raise ValueError("epochs must be 1 with feedback.source lake: only a policy that serves has a log")
            if self.reward.source == "oracle":
                raise ValueError("reward.source oracle knows simulated users only, not those of feedback.source lake")
            if self.warm_start is not None:
                raise ValueError("warm_start needs a simulated world: register a warmed model and start from it")
        return self
