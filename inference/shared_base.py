"""A base model whose adapters share its weights: each version is a policy of its own, one base lies in memory.

The adapters stay apart from the base and one of them is active at a time, so a version's steps run between `activate`
calls. An answer is the same as with the adapter merged, but for the rounding of sums.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft.tuners.lora import LoraLayer

from inference.adapters import attach_adapter
from inference.models import LoadedModel, read_policy_settings
from inference.policy import Policy
from mechanism.errors import PolicyError


class SharedBase:
    """A base policy, without an adapter of its own, and the adapters that are loaded on its model. Not thread-safe."""

    def __init__(self, base: Policy) -> None:
        self._loaded = LoadedModel(base.model, base.tokenizer, base.prompt_settings, base.sampling, base.opener)
        self._adapters: set[str] = set()
        self._active = ""

    @property
    def adapters(self) -> frozenset[str]:
        """Names of the adapters that are loaded."""
        return frozenset(self._adapters)

    def policy(self, folder: Path, name: str) -> Policy:
        """Load the adapter of a folder under a name; return its policy, with the prompt and sampling of that folder.

        Raises:
            PolicyError: if the name is taken, or the adapter belongs to another model.
        """
        if name in self._adapters:
            raise PolicyError(f"adapter {name} is loaded already")
        settings = read_policy_settings(folder)
        # peft warns of a second adapter where it finds the settings of the first one
        vars(self._loaded.model).pop("peft_config", None)
        try:
            attach_adapter(self._loaded.model, folder, name)
        except PolicyError:
            self._delete(name)
            raise
        self._switch("")  # layers that had an adapter before still have that one active
        for weights in self._loaded.model.parameters():
            weights.requires_grad_(False)
        self._adapters.add(name)
        own = replace(self._loaded, prompt=settings.prompt, sampling=settings.sampling, opener=settings.opener)
        return Policy(own)

    def activate(self, name: str) -> None:
        """Make the next steps of the model those of an adapter; "": of the base alone."""
        if name != self._active:
            self._switch(name)

    def remove(self, name: str) -> None:
        """Drop an adapter's weights."""
        self._delete(name)
        self._adapters.discard(name)

    def _switch(self, name: str) -> None:
        for layer in self._layers():
            layer.set_adapter([name] if name else [], inference_mode=True)
        self._active = name

    def _delete(self, name: str) -> None:
        self._switch("")
        for layer in self._layers():
            layer.delete_adapter(name)

    def _layers(self) -> list[LoraLayer]:
        return [module for module in self._loaded.model.modules() if isinstance(module, LoraLayer)]
