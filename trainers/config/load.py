"""Reading, overriding and writing configurations.

Every failure is a ConfigError that names the file, the field, the value and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mechanism.errors import ConfigError
from trainers.config.fields import Settings
from trainers.config.gates import GateSettings
from trainers.config.retrain import RetrainConfig
from trainers.config.schema import RunConfig

Kind = TypeVar("Kind", bound=Settings)
SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def load_config(name_or_path: str, settings: Iterable[str] = ()) -> RunConfig:
    """Load a shipped configuration by name (`quick`) or a YAML file, with `key.path=value` overrides."""
    text, place = _text(name_or_path, "configs")
    return parse_config(text, place, settings)


def load_retraining(name_or_path: str, settings: Iterable[str] = ()) -> RetrainConfig:
    """Load a shipped retraining configuration by name (`tiny`) or a YAML file, with overrides."""
    text, place = _text(name_or_path, "configs/retraining")
    return parse_retraining(text, place, settings)


def parse_config(text: str, place: str, settings: Iterable[str] = ()) -> RunConfig:
    """Parse a configuration from YAML text; `place` names it in errors."""
    return _parsed(RunConfig, text, place, settings)


def parse_retraining(text: str, place: str, settings: Iterable[str] = ()) -> RetrainConfig:
    """Parse a retraining configuration from YAML text; `place` names it in errors."""
    return _parsed(RetrainConfig, text, place, settings)


def load_gates(path: str) -> GateSettings:
    """Load the gates' settings from a YAML file.

    Raises:
        ConfigError: if the file is missing or does not fit the schema.
    """
    if not Path(path).is_file():
        raise ConfigError("gates", path, "the file does not exist")
    return _parsed(GateSettings, Path(path).read_text(encoding="utf-8"), path, ())


def _text(name_or_path: str, folder: str) -> tuple[str, str]:
    """Return the YAML text and its name in errors.

    Raises:
        ConfigError: if there is no such file or shipped configuration.
    """
    path = Path(name_or_path)
    if not path.suffix:
        configs = resources.files("trainers").joinpath(*folder.split("/"))
        shipped = configs / f"{name_or_path}.yaml"
        if not shipped.is_file():
            known = sorted(p.name.removesuffix(".yaml") for p in configs.iterdir() if p.name.endswith(".yaml"))
            raise ConfigError("configuration", name_or_path, f"give a .yaml file or one of {', '.join(known)}")
        return shipped.read_text(encoding="utf-8"), name_or_path
    if not path.is_file():
        raise ConfigError("configuration", name_or_path, "the file does not exist")
    return path.read_text(encoding="utf-8"), str(path)


def _parsed(kind: type[Kind], text: str, place: str, settings: Iterable[str]) -> Kind:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(place, str(error).splitlines()[0], "this is not YAML") from error
    if not isinstance(data, dict):
        raise ConfigError(place, data, "a configuration is a mapping of sections; see trainers/configs/quick.yaml")
    return _validate(kind, apply_settings(data, settings), place)


def apply_settings(data: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `data` with `key.path=value` overrides; values are parsed as YAML.

    Raises:
        ConfigError: if an override is not of that form or its path leads through a value.
    """
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(data))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError("--set", setting, "write key.path=value, as in optimisation.learning_rate=1e-5")
        *parents, last = key.strip().split(".")
        section = result
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError("--set", setting, f"{parent} is a value and has no fields")
        section[last] = _value_of(value, setting)
    return result


def _value_of(text: str, setting: str) -> Any:
    """Parse a setting's value as YAML; 1e-5, a string in YAML 1.1, becomes the number.

    Raises:
        ConfigError: if the value is not YAML.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("--set", setting, "the value is not YAML") from error
    return float(value) if isinstance(value, str) and SCIENTIFIC.fullmatch(value) else value


def dump_config(config: Settings) -> str:
    """Return YAML text of the whole configuration, defaults included, so that a run's own file describes it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _validate(kind: type[Kind], data: dict[str, Any], place: str) -> Kind:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "(whole)"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{place}: {field}", first.get("input"), first["msg"] + more) from error
