"""The model that Triton's python backend calls: requests in, streamed responses out. Runs in the server's process.

`execute` hands every request to an engine and returns, so that Triton can deliver the next one; the engine answers from
a thread of its own. The engine is `Scheduler` here and vLLM in `vllm_engine`. The module `triton_python_backend_utils`
exists only in that process, so it is imported when Triton calls.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mechanism.errors import AuctionError, ConfigError, InputError, PolicyError
from serving.policies.adapters import SharedPolicies
from serving.policies.model import ModelPolicy, folder_digest
from serving.policies.protocol import Completed, PolicyBackend, PolicyEvent
from serving.policies.triton.scheduler import Reply, Scheduler
from serving.policies.triton.wire import (
    ADAPTERS,
    COMPLETED,
    DIGEST_PARAMETER,
    REQUEST,
    TEXT,
    PolicyRequest,
    QueueFull,
    decode_request,
    encode_completed,
    encode_error,
)

TRACEPARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Engine(Protocol):
    """Writes the answers; see `Scheduler`."""

    def submit(self, request: PolicyRequest, reply: Reply) -> None: ...

    def close(self) -> None: ...


class TritonPythonModel:
    """One instance of the model. Subclasses override `engine` or `policies`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; called once by Triton, which reports any exception as the reason not to serve it.

        Raises:
            ConfigError: if the weights are not those that the repository was built from.
        """
        import triton_python_backend_utils as pb  # type: ignore[import-not-found,unused-ignore]

        self._pb: Any = pb
        config = json.loads(args["model_config"])
        self.parameters = {name: str(p["string_value"]) for name, p in config["parameters"].items()}
        self.weights = Path(args["model_repository"]) / args["model_version"] / "weights"
        self.digest = self.parameters[DIGEST_PARAMETER]
        found = folder_digest(self.weights)
        if found != self.digest:
            remedy = "these are not the weights that the repository was built from: build it again"
            raise ConfigError(f"{args['model_name']}: {DIGEST_PARAMETER}", found, remedy)
        # before torch is imported, which reads it once
        on_gpu = args["model_instance_kind"] == "GPU"
        os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"] if on_gpu else ""
        self._engine: Engine = self.engine()

    def engine(self) -> Engine:
        """Load the model and start the engine that writes its answers."""
        slots, waiting = int(self.parameters["slots"]), int(self.parameters["waiting"])
        return Scheduler(self.policies(), slots, waiting, self.report)

    def policies(self) -> Callable[[str], PolicyBackend]:
        """Load the weights folder; return what gives the policy of an adapter on it, and for "" the model's own.

        Raises:
            PolicyError: if it is to run on a GPU and torch finds none.
        """
        shared = SharedPolicies(ModelPolicy.load(str(self.weights), self.digest))
        if os.environ["CUDA_VISIBLE_DEVICES"]:
            import torch

            if not torch.cuda.is_available():
                raise PolicyError("torch finds no GPU: build the repository with --device cpu, or repair the driver")
        adapters = self.weights.parent / ADAPTERS
        return lambda digest: shared.adapter(adapters / digest[:12], digest) if digest else shared.base()

    def report(self, reason: str) -> None:
        """Log why an answer failed; never the question."""
        self._pb.Logger.log_error(f"policy failed: {reason}")

    def execute(self, requests: list[Any]) -> None:
        """Submit requests to the engine and return at once."""
        for request in requests:
            reply = TritonReply(self._pb, request.get_response_sender(), self.digest, _trace_id(request.parameters()))
            try:
                tensor = self._pb.get_input_tensor_by_name(request, REQUEST)
                self._engine.submit(decode_request(_one_string(tensor.as_numpy())), reply)
            except AuctionError as error:
                reply.failed(error)
            except Exception as error:
                self.report(type(error).__name__)
                reply.failed(PolicyError("the request could not be read: the server's log names the kind of failure"))

    def finalize(self) -> None:
        """Stop the engine; called when the model is unloaded, after its last answer."""
        self._engine.close()


class TritonReply:
    """A Triton response sender as the engine's `Reply`."""

    def __init__(self, pb: Any, sender: Any, digest: str, trace_id: str = "") -> None:
        self._pb = pb
        self._sender = sender
        self._digest = digest
        self._trace_id = trace_id

    def event(self, event: PolicyEvent) -> None:
        """Send a delta, or the last response."""
        if isinstance(event, Completed):
            self._send(b"", encode_completed(replace(event, digest=event.digest or self._digest)), last=True)
        else:
            self._send(event.text.encode(), b"")

    def failed(self, error: AuctionError) -> None:
        """Send a Triton error, the last response."""
        code = self._pb.TritonError.INTERNAL
        if isinstance(error, InputError):
            code = self._pb.TritonError.INVALID_ARG
        elif isinstance(error, QueueFull):
            code = self._pb.TritonError.UNAVAILABLE
        elif self._trace_id:
            self._pb.Logger.log_error(f"no answer in trace {self._trace_id}: {error}")
        self._end(self._pb.TritonError(encode_error(error), code))

    def dropped(self) -> None:
        """Acknowledge the cancellation to Triton."""
        self._end(self._pb.TritonError("cancelled by the client", self._pb.TritonError.CANCELLED))

    def cancelled(self) -> bool:
        """Return whether the client cancelled, or its connection broke."""
        return bool(self._sender.is_cancelled())

    def _end(self, error: Any) -> None:
        self._sender.send(self._pb.InferenceResponse(error=error), flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send(self, text: bytes, completed: bytes, last: bool = False) -> None:
        tensors = [
            self._pb.Tensor(name, np.array([value], dtype=np.object_))
            for name, value in ((TEXT, text), (COMPLETED, completed))
        ]
        flags = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
        self._sender.send(self._pb.InferenceResponse(tensors), flags=flags)


def _trace_id(parameters: str) -> str:
    """Return the W3C trace id among a request's parameters (JSON), empty if there is none."""
    given = json.loads(parameters or "{}").get("traceparent", "")
    found = TRACEPARENT.fullmatch(given) if isinstance(given, str) else None
    return found[1] if found else ""


def _one_string(values: Any) -> bytes:
    """Return the only element of a string tensor.

    Raises:
        InputError: if the tensor has another shape.
    """
    flat = values.reshape(-1)
    if len(flat) != 1:
        raise InputError(REQUEST, f"shape {list(values.shape)}", "give one string, shape [1]")
    return bytes(flat[0])
