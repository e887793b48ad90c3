"""The umbrella chart and its profiles: definitions accept their objects, and commands have the options they pass."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.migrate import migrate
from cli.models import app as models_app
from cli.operator import operator
from cli.serve import serve
from cli.triton import app as triton_app
from cli.worker import app as worker_app
from operators.auctionservice.manifests import PolicyServers, manifests
from operators.auctionservice.observe import Desired
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus, Served, ServerSettings
from operators.resources.retrainpolicy import RetrainPolicySpec
from streaming.topics import MARKS, all_topics
from tests.operators.charts.helm import OPERATOR, PLATFORM, PRODUCTION, TRIAL, WHOLE, Helm, Item, named, one, pods
from tests.operators.service_world import digest, spec
from tests.support.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[3]
PROFILES = [TRIAL, PRODUCTION]
FOREIGN = Path(os.environ.get("LLM_AUCTION_DEFINITIONS", REPOSITORY.parent / "shared" / "data" / "crds"))
"""Definitions of the ecosystem's resources (Strimzi, CloudNativePG, ...), as YAML files."""
OPTIONS: dict[str, Any] = {
    "routers": {
        "enabled": True,
        "policy": {"upstream": {"url": "http://vllm", "model": "m", "tags": True}},
        "autoscaling": {"enabled": True, "by": "answers", "prometheus": "http://prometheus"},
    },
    "expose": {"public": {"host": "ads.example", "tlsSecret": "t"}, "ingress": {"enabled": True}},
}


def test_by_default_the_operator_runs_alone(helm: Helm) -> None:
    items = helm.render(WHOLE)
    assert {name for name, _ in pods(items)} == {"operator"}
    assert not named(items, "AuctionService") | named(items, "Secret")


def test_each_part_can_be_left_out(helm: Helm) -> None:
    assert "operator" not in dict(pods(helm.render(WHOLE, TRIAL, operator={"enabled": False})))
    assert {name for name, _ in pods(helm.render(WHOLE, TRIAL, platform={"enabled": False}))} == {"operator"}


def test_services_that_no_operator_watches_are_refused(helm: Helm) -> None:
    done = helm.try_("template", "shop", WHOLE, "-n", "ads", "--values", TRIAL, operator={"namespaces": ["other"]})
    assert done.returncode != 0
    assert "operator.namespaces: add ads" in done.stderr


def test_both_parts_describe_global_values_alike() -> None:
    schemas, values = [], []
    for chart in (OPERATOR, PLATFORM):
        schemas.append(json.loads((chart / "values.schema.json").read_text())["properties"]["global"])
        values.append(yaml.safe_load((chart / "values.yaml").read_text())["global"])
    assert (schemas[0], values[0]) == (schemas[1], values[1])


@pytest.mark.parametrize("chart", [OPERATOR, PLATFORM])
def test_the_readme_names_every_value(chart: Path) -> None:
    readme = (chart / "README.md").read_text(encoding="utf-8")
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    assert not [name for name in values if name != "enabled" and f"`{name}" not in readme]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_passes_helms_own_checks_and_the_models_of_the_kinds(helm: Helm, profile: Path) -> None:
    helm("lint", "--strict", WHOLE, "--values", profile)
    items = helm.render(WHOLE, profile)
    AuctionServiceSpec.model_validate(one(items, "AuctionService")["spec"])
    RetrainPolicySpec.model_validate(one(items, "RetrainPolicy")["spec"])


@pytest.mark.parametrize("profile", PROFILES)
def test_no_pod_can_be_root_write_its_root_or_use_the_api_without_need(helm: Helm, profile: Path) -> None:
    found = dict(pods(helm.render(WHOLE, profile, platform=OPTIONS)))
    assert {"operator", "router", "judge", "lake", "ledger", "migrate", "test"} <= set(found)
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"]
        assert (pod.get("automountServiceAccountToken") is False) == (name != "operator")
        # the names of services become variables, which the project's own would be taken for
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_the_trial_serves_a_model_that_is_shipped(helm: Helm, tmp_path: Path) -> None:
    from inference.models import resolve
    from trainers.artifacts.registry import Registry

    values = yaml.safe_load(TRIAL.read_text(encoding="utf-8"))["platform"]
    first = values["firstModel"]
    entry = Registry(str(tmp_path)).register(resolve(first["name"]), base=first["name"], version=first["version"])
    assert values["auctionServices"]["ads"]["model"] == {"name": entry.version, "digest": entry.digest}
    script = dict(pods(helm.render(WHOLE, TRIAL)))["first-model"]["containers"][0]
    assert script["args"] == [first["name"], first["version"], "s3://auction"]


def test_the_trials_parts_find_each_other(helm: Helm) -> None:
    items = helm.render(WHOLE, TRIAL)
    services = {i["metadata"]["name"]: i["spec"]["ports"][0]["port"] for i in items if i["kind"] == "Service"}
    router = one(items, "AuctionService")["spec"]["router"]
    env = {entry["name"]: entry.get("value") for entry in router["env"]}
    host, _, port = env["LLM_AUCTION_KAFKA_SERVERS"].partition(":")
    assert services[host] == int(port)
    assert f"advertised.listeners=CLIENTS://{host}:{port}" in one(items, "ConfigMap")["data"]["server.properties"]
    database = router["database"]["secretKeyRef"]
    secret = one(items, "Secret", database["name"])["stringData"]
    assert secret[database["key"]] == f"postgresql://auction:{secret['password']}@{database['name']}:5432/auction"
    assert services[database["name"]] == 5432


def test_strimzis_topics_are_those_that_the_commands_create(helm: Helm) -> None:
    items = helm.render(WHOLE, PRODUCTION, platform={"eventLog": {"partitions": 7, "retentionDays": 9}})
    found = {item["metadata"]["name"]: item["spec"] for item in items if item["kind"] == "KafkaTopic"}
    wanted = {topic.name: topic for topic in (*all_topics(7, timedelta(days=9)), MARKS)}
    assert set(found) == set(wanted)
    for name, topic in wanted.items():
        config = found[name]["config"]
        assert found[name]["partitions"] == topic.partitions, name
        assert config["cleanup.policy"] == "delete", name
        kept = config.get("retention.ms")
        assert (None if kept is None else timedelta(milliseconds=kept)) == topic.retention, name


def test_in_production_clients_of_kafka_show_a_certificate(helm: Helm) -> None:
    items = helm.render(WHOLE, PRODUCTION)
    (listener,) = one(items, "Kafka")["spec"]["kafka"]["listeners"]
    assert (listener["tls"], listener["authentication"]) == (True, {"type": "tls"})
    user = one(items, "KafkaUser")["metadata"]["name"]
    for pod in (one(items, "StatefulSet", "-judge")["spec"]["template"]["spec"],):
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        env = {entry["name"]: entry.get("value", "") for entry in container["env"]}
        assert env["LLM_AUCTION_KAFKA_KEY_FILE"] == f"{mounts['kafka-user']}/user.key"
        assert env["LLM_AUCTION_KAFKA_CA_FILE"] == f"{mounts['kafka-authority']}/ca.crt"
        secrets = {volume["name"]: volume.get("secret", {}).get("secretName") for volume in pod["volumes"]}
        assert (secrets["kafka-user"], secrets["kafka-authority"]) == (user, f"{user}-cluster-ca-cert")
    router = one(items, "AuctionService")["spec"]["router"]
    assert {volume["name"] for volume in router["volumes"]} == {"kafka-user", "kafka-authority"}


def test_the_ledgers_database_is_backed_up_and_can_be_recovered(helm: Helm) -> None:
    items = helm.render(WHOLE, PRODUCTION)
    cluster = one(items, "Cluster")
    assert cluster["spec"]["backup"]["barmanObjectStore"]["destinationPath"] == "s3://auction-backups/database"
    assert one(items, "ScheduledBackup")["spec"]["cluster"]["name"] == cluster["metadata"]["name"]
    at = "2026-11-29T08:00:00Z"
    changes = {"recoverFrom": "shop-llm-auction-db", "recoverTo": at, "backup": {"serverName": "second"}}
    recovered = one(helm.render(WHOLE, PRODUCTION, platform={"database": {"cloudNativePG": changes}}), "Cluster")[
        "spec"
    ]
    recovery = recovered["bootstrap"]["recovery"]
    assert (recovery["source"], recovery["recoveryTarget"]) == ("backup", {"targetTime": at})
    assert recovered["externalClusters"][0]["barmanObjectStore"]["serverName"] == "shop-llm-auction-db"
    assert recovered["backup"]["barmanObjectStore"]["serverName"] == "second"


def test_what_holds_money_or_events_outlives_an_uninstall(helm: Helm) -> None:
    for profile in PROFILES:
        for item in helm.render(WHOLE, profile):
            if item["kind"] in ("Secret", "Kafka", "KafkaNodePool", "KafkaTopic", "Cluster"):
                kept = item["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
                assert kept == "keep", item["metadata"]["name"]


@dataclass(frozen=True)
class Accepting:
    """An API server with the definitions of the profiles' resources."""

    plane: ControlPlane
    foreign: frozenset[str]


@pytest.fixture(scope="module")
def accepting(own_control_plane: ControlPlane, definitions: None) -> Accepting:
    """Define the ecosystem's resources in the API server, where they are at hand."""
    if not FOREIGN.is_dir():
        pytest.skip(
            f"the definitions of the ecosystem's resources are not in {FOREIGN}: LLM_AUCTION_DEFINITIONS names it"
        )
    known = set()
    for file in sorted(FOREIGN.glob("*.yaml")):
        known.add(yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]["group"])
        own_control_plane.kubectl("apply", "--server-side", "-f", str(file))
    own_control_plane.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
    return Accepting(own_control_plane, frozenset(known))


@pytest.mark.parametrize("profile", PROFILES)
def test_an_api_server_accepts_every_object_of_a_profile(
    helm: Helm, accepting: Accepting, namespace: str, profile: Path, tmp_path: Path
) -> None:
    items = helm.render(WHOLE, profile, platform=OPTIONS)
    sent = [item for item in items if item["kind"] != "ExternalSecret"]
    groups = {item["apiVersion"].partition("/")[0] for item in sent}
    assert groups & accepting.foreign or profile is TRIAL
    for item in sent:
        item["metadata"]["namespace"] = namespace
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(sent), encoding="utf-8")
    command = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-o", "name", "-f", str(file))
    accepted = accepting.plane.kubectl(*command, seconds=120).split()
    assert len(accepted) == len(sent)


def options(command: Any) -> set[str]:
    """Return the options of a command."""
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def group(app: typer.Typer) -> dict[str, Any]:
    """Return the commands of a group."""
    found: Any = typer.main.get_command(app)
    return dict(found.commands)


def single(function: Any) -> Any:
    """Return a function as a command."""
    app = typer.Typer()
    app.command()(function)
    return typer.main.get_command(app)


def test_the_commands_have_every_option_that_the_chart_and_the_operator_pass(helm: Helm) -> None:
    known = {
        "operator": single(operator),
        "serve": single(serve),
        "migrate": single(migrate),
        "build": group(triton_app)["build"],
        "follow": group(triton_app)["follow"],
        **group(worker_app),
    }
    service = AuctionServiceSpec.model_validate(
        spec(policy__source={"registry": "/models"}, policy__gpus=1, router__publicUrl="https://ads.example")
    )
    desired = Desired("ads", "shop", "u-1", 1, datetime.now(UTC), service, AuctionServiceStatus())
    made: list[Item] = manifests(
        desired,
        AuctionServiceStatus(),
        [
            PolicyServers(Served(name="v1", digest=digest("v1"), base=base), ServerSettings.of(service), 1)
            for base in ("", digest("base"))
        ],
    )
    seen = set()
    for _, pod in (*pods(helm.render(WHOLE, TRIAL, platform=OPTIONS)), *pods(made)):
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            command = container.get("command", [""])
            if command[0] != "llm-auction":
                continue
            name = next(word for word in reversed(command) if word in known)
            seen.add(name)
            given = {argument.partition("=")[0] for argument in container["args"]}
            assert given <= options(known[name])
    assert seen == {"operator", "serve", "migrate", "build", "follow", "judge", "lake", "ledger"}


def test_the_first_models_script_uses_options_that_exist(helm: Helm) -> None:
    script = dict(pods(helm.render(WHOLE, TRIAL)))["first-model"]["containers"][0]["command"][-1]
    commands = group(models_app)
    for name in ("show", "register"):
        part = next(piece for piece in script.split("||") if f"models {name}" in piece)
        assert {word for word in part.split() if word.startswith("--")} <= options(commands[name])
