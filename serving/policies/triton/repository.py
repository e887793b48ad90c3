"""Build a Triton model repository from a registered model, a model folder or a model's name. No Triton needed.

A model `policy-<first 12 of the digest>` holds: `config.pbtxt`; `1/model.py`, which Triton's python backend loads;
`1/code/`, the modules of this project that it needs, so that every version runs the code it was built with; and
`1/weights/`. `1/adapters/` has the adapters that share these weights: versions of a policy that need no server of their
own. Other versions are models of their own; `serving.policies.versioned` moves the traffic. The server's Python needs
torch, transformers, safetensors, jinja2 and msgspec (and vllm for that kind).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mechanism.errors import ConfigError, InputError
from mechanism.weights import COMPLETE, ENTRY
from serving.policies.model import checked_digest, read_entry, weights_files
from serving.policies.triton.wire import ADAPTERS, COMPLETED, DIGEST_PARAMETER, REQUEST, TEXT, model_name

Kind = Literal["python", "vllm"]
Device = Literal["cpu", "gpu"]

CODE_ROOT = Path(__file__).parents[3]
SOURCES = (
    "mechanism/**/*.py",
    "inference/*.py",
    "serving/__init__.py",
    "serving/policies/__init__.py",
    "serving/policies/adapters.py",
    "serving/policies/model.py",
    "serving/policies/protocol.py",
    "serving/policies/triton/__init__.py",
    "serving/policies/triton/backend.py",
    "serving/policies/triton/scheduler.py",
    "serving/policies/triton/vllm_engine.py",
    "serving/policies/triton/vllm_marks.py",
    "serving/policies/triton/vllm_processor.py",
    "serving/policies/triton/wire.py",
)
"""Modules that run in the server's process, relative to the project's root."""
MODULES: dict[Kind, str] = {"python": "serving.policies.triton.backend", "vllm": "serving.policies.triton.vllm_engine"}
MODEL_PY = '''"""The module that Triton's python backend loads. It runs the code that the model was built with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "code"))

from {module} import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model of a repository: its name on Triton, the digest of its weights, its folder.

    `base` is the digest of the model's weights where the digest is that of an adapter on them.
    """

    name: str
    digest: str
    folder: Path
    base: str = ""


def build_repository(
    model: str,
    out: Path,
    version: str | None = None,
    kind: Kind = "python",
    instances: int = 1,
    device: Device = "cpu",
    slots: int = 16,
    waiting: int = 64,
    link: bool = False,
) -> BuiltModel:
    """Add a model to the repository folder `out`, whole or not at all; an existing one is replaced, its adapters stay.

    `model` is a model's name (`tiny`, `smollm2-135m`), a folder in Hugging Face layout or, with `version`, the folder
    of a registry that has this version (or "latest"), whose digests are checked. An instance writes `slots` answers at
    once and queues `waiting` more. `link` makes hard links of the weights if the file system can. A model that is not
    there or damaged is an InputError, one that cannot be loaded a PolicyError.

    Raises:
        ConfigError: if a number or the combination of kind and device is out of range.
    """
    for name, value, least in (("instances", instances, 1), ("slots", slots, 1), ("waiting", waiting, 0)):
        if value < least:
            raise ConfigError(name, value, f"give a whole number of {least} or more")
    if kind == "vllm" and device == "cpu":
        raise ConfigError("kind", kind, "vLLM is for GPUs: add --device gpu, or leave the kind at python")
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".building-", dir=out))
    try:
        staging.chmod(0o755)
        with model_folder(model, version, staging / "saved") as source:
            digest = checked_digest(source)
            name = model_name(digest)
            built = staging / name
            shutil.copytree(
                source,
                built / "1" / "weights",
                copy_function=_link if link else shutil.copyfile,
                ignore=shutil.ignore_patterns(COMPLETE, ".*"),
            )
        _copy_code(built / "1" / "code")
        (built / "1" / "model.py").write_text(MODEL_PY.format(module=MODULES[kind]), encoding="utf-8")
        parameters: dict[str, str | int] = {DIGEST_PARAMETER: digest, "kind": kind, "slots": slots, "waiting": waiting}
        config = config_pbtxt(name, instances, device, parameters)
        (built / "config.pbtxt").write_text(config, encoding="utf-8")
        if (out / name).exists():
            (out / name).rename(staging / "before")
            adapters = staging / "before" / "1" / ADAPTERS
            if adapters.is_dir():
                adapters.rename(built / "1" / ADAPTERS)
        built.rename(out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return BuiltModel(name, digest, out / name)


def build_adapter(
    model: str,
    out: Path,
    version: str | None = None,
    kind: Kind = "python",
    instances: int = 1,
    device: Device = "cpu",
    slots: int = 16,
    waiting: int = 64,
    link: bool = False,
) -> BuiltModel:
    """Add an adapter to the model of its base, which is built if it is not there; arguments as of `build_repository`.

    A server that serves the base finds the adapter at the first request for it, so no other server is needed.

    Raises:
        InputError: if the model is no adapter.
    """
    from inference.adapter_files import base_of

    source = _place(model) if version is None else registered(Path(model), version)
    base = base_of(source)
    if base is None:
        raise InputError(
            "MODEL", model, "give the folder of an adapter, or a registered one; leave --shared out of others"
        )
    digest = checked_digest(source)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as folder:
        staging = Path(folder)
        with model_folder(base, None, staging / "saved") as weights:
            base_digest = checked_digest(weights)
        name = model_name(base_digest)
        if not (out / name).exists():
            build_repository(base, out, None, kind, instances, device, slots, waiting, link)
        copy = _link if link else shutil.copyfile
        shutil.copytree(
            source, staging / digest[:12], copy_function=copy, ignore=shutil.ignore_patterns(COMPLETE, ".*")
        )
        place = out / name / "1" / ADAPTERS / digest[:12]
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            (staging / digest[:12]).rename(place)
    return BuiltModel(name, digest, out / name, base_digest)


def config_pbtxt(name: str, instances: int, device: Device, parameters: dict[str, str | int]) -> str:
    """Render the model's configuration in Triton's text format."""
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        "max_batch_size: 0",
        "model_transaction_policy { decoupled: true }",
        f'input [ {{ name: "{REQUEST}" data_type: TYPE_STRING dims: [ 1 ] }} ]',
        f'output [ {{ name: "{TEXT}" data_type: TYPE_STRING dims: [ 1 ] }},',
        f'         {{ name: "{COMPLETED}" data_type: TYPE_STRING dims: [ 1 ] }} ]',
        f"instance_group [ {{ kind: KIND_{device.upper()} count: {instances} }} ]",
        *(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()),
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def model_folder(model: str, version: str | None, saved: Path) -> Iterator[Path]:
    """Yield the model's folder in Hugging Face layout. A model without one is loaded (torch) and saved to `saved`.

    Raises:
        InputError: if no model has this name or folder.
    """
    if version is not None:
        yield registered(Path(model), version)
        return
    source = Path(model)
    if not source.is_dir():
        from inference.adapter_files import base_of
        from inference.policy import Policy

        source = _place(model)
        if base_of(source) or not source.is_dir():
            Policy.load(model).save(saved)
            source = saved
    if not (source / "config.json").is_file() or not weights_files(source):
        remedy = "give a model's name, a folder in Hugging Face layout, or a registry with --version"
        raise InputError("MODEL", model, remedy)
    yield source


def registered(registry: Path, version: str) -> Path:
    """Return the folder of a registered version; "latest" is the youngest.

    Raises:
        InputError: if the registry does not have this version; the message lists the newest ones.
    """
    models = registry / "models"
    entries = {
        folder.name: read_entry(folder)
        for folder in sorted(models.iterdir() if models.is_dir() else [])
        if (folder / ENTRY).is_file() and (folder / COMPLETE).is_file()
    }
    if version == "latest" and entries:
        version = max(entries, key=lambda name: (entries[name].created, name))
    if version not in entries:
        known = ", ".join(list(entries)[-10:]) or "none"
        raise InputError(f"{registry}: version", version, f"known are {known}; fetch a remote registry first")
    return models / version


def _place(model: str) -> Path:
    """Return the folder of a model by its name or folder. A folder needs no torch, which the routers' image lacks."""
    if Path(model).is_dir():
        return Path(model)
    from inference.models import resolve

    return Path(resolve(model))


def _copy_code(target: Path) -> None:
    for pattern in SOURCES:
        for file in sorted(CODE_ROOT.glob(pattern)):
            place = target / file.relative_to(CODE_ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def _link(source: str, target: str) -> str:
    """Make a hard link, or a copy if the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
