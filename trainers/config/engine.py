"""Which engine samples the answers of a run, and how it is reached."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainers.config.fields import Positive, Rate, Settings

OF_KIND = {
    **dict.fromkeys(("url", "model", "api_key_env", "tags", "timeout", "attempts", "concurrency"), "server"),
    "memory": "vllm",
}
"""The kind of engine that alone reads a setting."""


class EngineConfig(Settings):
    """What samples the answers of feedback and rollouts, always under the marker constraint.

    `transformers`: this process. `server`: an OpenAI-compatible server at `url` that decodes by structural tags and
    serves the run's base model. `vllm`: vLLM in this process. The last two run the current adapter on the base.
    """

    kind: Literal["transformers", "server", "vllm"] = Field("transformers", description="what samples the answers")
    url: str | None = Field(None, pattern="^https?://", description="server: URL that /completions is appended to")
    model: str | None = Field(None, min_length=1, description="server: its name of the run's base model")
    api_key_env: str | None = Field(
        None, description="server: environment variable with the key; none: the server wants no key"
    )
    tags: Literal["tokens", "text"] = Field(
        "tokens",
        description="server: structural tags in the model's tokens, or in characters for servers whose xgrammar"
        " knows no token grammars",
    )
    timeout: Rate = Field(600.0, description="server: seconds until a request fails")
    attempts: Positive = Field(5, description="server: requests until a failure counts, with growing pauses")
    concurrency: Positive = Field(32, description="server: contexts that are answered at once")
    memory: float = Field(
        0.5, gt=0, lt=1, description="vllm: share of the GPU's memory that it may use while it samples"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> EngineConfig:
        if self.kind == "server" and (self.url is None or self.model is None):
            raise ValueError("rollout.engine: the kind server needs url and model")
        for name, value in self.model_dump(include=set(OF_KIND)).items():
            if self.kind != OF_KIND[name] and value != EngineConfig.model_fields[name].default:
                raise ValueError(f"rollout.engine.{name} belongs to the kind {OF_KIND[name]}, and to it only")
        return self
