"""The platform's chart: routers, workers, and what they are connected to."""

from __future__ import annotations

from typing import Any

import pytest

from operators.resources.auctionservice import AuctionServiceSpec
from operators.resources.retrainpolicy import RetrainPolicySpec
from tests.operators.charts.helm import CONNECTED, NAME, PLATFORM, ROUTERS, Helm, named, one, pods, variables
from tests.operators.service_world import spec

pytestmark = pytest.mark.cluster

WORKERS: dict[str, Any] = {
    **CONNECTED,
    "workers": {"judge": {"enabled": True, "replicas": 2}, "lake": {"enabled": True}, "ledger": {"enabled": True}},
}


def router(helm: Helm, **routers: Any) -> dict[str, Any]:
    """Return the specification of a router's pod."""
    settings = ROUTERS["routers"] | routers
    return dict(pods(helm.render(PLATFORM, **(ROUTERS | {"routers": settings}))))["router"]


def test_the_chart_passes_helms_own_checks(helm: Helm) -> None:
    helm("lint", "--strict", PLATFORM, **(ROUTERS | WORKERS))


def test_by_default_nothing_runs(helm: Helm) -> None:
    assert {item["kind"] for item in helm.render(PLATFORM)} == {"NetworkPolicy"}


def test_what_a_router_could_not_send_outlives_its_pod(helm: Helm) -> None:
    routers = one(helm.render(PLATFORM, **ROUTERS), "StatefulSet", "-router")["spec"]
    (claim,) = routers["volumeClaimTemplates"]
    (container,) = routers["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"--state-dir={mounts[claim['metadata']['name']]}" in container["args"]
    assert routers["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


@pytest.mark.parametrize(
    ("policy", "arguments"),
    [
        ({"model": "assistant"}, ["--model=assistant"]),
        (
            {"upstream": {"url": "http://vllm", "model": "qwen", "tags": True}},
            ["--upstream=http://vllm", "--model=qwen", "--upstream-tags"],
        ),
        ({"triton": {"address": "t:8001", "digest": "d"}}, ["--triton=t:8001", "--model=llm-auction", "--digest=d"]),
    ],
)
def test_routers_get_one_policy(helm: Helm, policy: dict[str, Any], arguments: list[str]) -> None:
    given = router(helm, policy={"upstream": {"url": ""}} | policy)["containers"][0]["args"]
    assert set(arguments) <= set(given)
    assert sum(argument.startswith("--model=") for argument in given) == 1


def test_every_setting_of_the_routers_arrives(helm: Helm) -> None:
    upstream = {"url": "http://vllm", "keySecret": {"name": "vllm", "key": "token"}}
    pod = router(
        helm,
        policy={"upstream": upstream},
        options={
            "public-url": "https://ads.example",
            "max-ads": 2,
            "anonymous": True,
            "key-per-day": 10_000_000,
            "repeat-fade": 0.5,
            "highest-bid": ["USD=2.50", "EUR=2"],
        },
        drainSeconds=60,
        env=[{"name": "EXTRA", "value": "1"}],
        nodeSelector={"disk": "fast"},
        tolerations=[{"operator": "Exists"}],
        priorityClassName="high",
    )
    (container,) = pod["containers"]
    assert {"--public-url=https://ads.example", "--max-ads=2", "--anonymous", "--drain=60"} <= set(container["args"])
    assert {"--key-per-day=10000000", "--repeat-fade=0.5"} <= set(container["args"])
    assert {"--highest-bid=USD=2.50", "--highest-bid=EUR=2"} <= set(container["args"])
    assert pod["terminationGracePeriodSeconds"] > 60
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"disk": "fast"}, "high")
    found = variables(container)
    assert found["LLM_AUCTION_UPSTREAM_KEY"] == ("vllm", "token")
    assert found["LLM_AUCTION_SECRET"] == ("keys", "secret")
    assert found["LLM_AUCTION_ADMIN_KEY"] == ("keys", "admin-key")
    assert found["LLM_AUCTION_DATABASE"] == ("db", "database")
    assert found["LLM_AUCTION_KAFKA_SERVERS"] == "kafka:9093"
    assert found["LLM_AUCTION_KAFKA_PASSWORD"] == ("kafka", "password")
    assert found["EXTRA"] == "1"


def test_the_number_of_routers_is_fixed_or_scaled(helm: Helm) -> None:
    items = helm.render(PLATFORM, **ROUTERS)
    assert one(items, "StatefulSet", "-router")["spec"]["replicas"] == 2
    assert one(items, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    for by, kind, extra in (
        ("cpu", "HorizontalPodAutoscaler", {}),
        ("answers", "ScaledObject", {"prometheus": "http://p"}),
    ):
        scaling = {"enabled": True, "by": by, "maxReplicas": 7, **extra}
        scaled = helm.render(PLATFORM, **(ROUTERS | {"routers": ROUTERS["routers"] | {"autoscaling": scaling}}))
        assert "replicas" not in one(scaled, "StatefulSet", "-router")["spec"]
        target = one(scaled, kind)["spec"]
        assert target["scaleTargetRef"]["name"] == f"{NAME}-router"
        assert 7 in (target.get("maxReplicas"), target.get("maxReplicaCount"))


def test_each_replica_of_a_worker_owns_its_share_of_the_partitions(helm: Helm) -> None:
    values = WORKERS | {"eventLog": WORKERS["eventLog"] | {"partitions": 12, "retentionDays": 7}}
    judge = one(helm.render(PLATFORM, **values), "StatefulSet", "-judge")
    assert judge["spec"]["replicas"] == 2
    (container,) = judge["spec"]["template"]["spec"]["containers"]
    assert {"--member=$(ORDINAL)/2", "--partitions=12", "--retention-days=7"} <= set(container["args"])
    ordinal = next(variable for variable in container["env"] if variable["name"] == "ORDINAL")
    assert ordinal["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"


def test_workers_reach_what_they_need_and_no_more(helm: Helm) -> None:
    found = {name: variables(pod["containers"][0]) for name, pod in pods(helm.render(PLATFORM, **WORKERS))}
    assert found["lake"]["LLM_AUCTION_LAKE"] == "s3://auction/p/lake"
    assert found["lake"]["AWS_SECRET_ACCESS_KEY"] == ("s3", "AWS_SECRET_ACCESS_KEY")
    assert found["ledger"]["LLM_AUCTION_DATABASE"] == ("db", "database")
    assert found["judge"]["LLM_AUCTION_LOG"] == "kafka"
    for name, secret in (("judge", "db"), ("judge", "s3"), ("judge", "keys"), ("lake", "db"), ("ledger", "s3")):
        assert secret not in {value[0] for value in found[name].values() if isinstance(value, tuple)}


def test_routers_erase_readers_from_a_lake_that_they_reach(helm: Helm) -> None:
    items = helm.render(PLATFORM, **(ROUTERS | {"auctionServices": {"ads": {"model": spec()["model"]}}}))
    for env in (
        variables(dict(pods(items))["router"]["containers"][0]),
        variables(one(items, "AuctionService")["spec"]["router"]),
    ):
        assert env["LLM_AUCTION_LAKE"] == "s3://auction/p/lake"
        assert env["AWS_ACCESS_KEY_ID"] == ("s3", "AWS_ACCESS_KEY_ID")
    folder = ROUTERS | {"workers": {"lake": {"url": "/lake"}}}
    assert "LLM_AUCTION_LAKE" not in variables(dict(pods(helm.render(PLATFORM, **folder)))["router"]["containers"][0])


def test_settings_of_all_workers_arrive_in_each(helm: Helm) -> None:
    shared: dict[str, Any] = {
        "env": [{"name": "EXTRA", "value": "1"}],
        "envFrom": [{"secretRef": {"name": "more"}}],
        "volumes": [{"name": "lake", "persistentVolumeClaim": {"claimName": "lake"}}],
        "volumeMounts": [{"name": "lake", "mountPath": "/lake"}],
        "priorityClassName": "high",
        "podAnnotations": {"note": "x"},
    }
    items = helm.render(PLATFORM, **(WORKERS | {"workers": WORKERS["workers"] | shared}))
    for name in ("judge", "lake", "ledger"):
        template = one(items, "StatefulSet", f"-{name}")["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert variables(container)["EXTRA"] == "1"
        assert container["envFrom"] == shared["envFrom"]
        assert shared["volumeMounts"][0] in container["volumeMounts"]
        assert shared["volumes"][0] in template["spec"]["volumes"]
        assert template["spec"]["priorityClassName"] == "high"
        assert template["metadata"]["annotations"] == {"note": "x"}
        assert one(items, "PodDisruptionBudget", f"-{name}")["spec"]["maxUnavailable"] == 1


def test_an_auctionservice_gets_what_the_platform_knows(helm: Helm) -> None:
    given = spec(policy__replicas=3)
    for known in ("image", "database", "secret"):
        given["router"].pop(known)
    given["policy"].pop("image")
    given["policy"].pop("source")
    given["policy"].pop("volumes", None)
    given["router"]["env"] = [{"name": "LLM_AUCTION_KAFKA_SERVERS", "value": "mine:9092"}]
    items = helm.render(PLATFORM, **CONNECTED, auctionServices={"ads": given})
    rendered = one(items, "AuctionService")["spec"]
    AuctionServiceSpec.model_validate(rendered)
    assert rendered["router"]["database"] == {"secretKeyRef": {"name": "db", "key": "database"}}
    assert rendered["router"]["secret"] == {"secretKeyRef": {"name": "keys", "key": "secret"}}
    assert rendered["policy"]["source"] == {"registry": "s3://auction/p"}
    assert (rendered["policy"]["replicas"], rendered["model"]) == (3, given["model"])
    found = variables(rendered["router"])
    assert found["LLM_AUCTION_KAFKA_SERVERS"] == "mine:9092"
    assert found["LLM_AUCTION_KAFKA_USER"] == ("kafka", "user")
    assert len(rendered["router"]["env"]) == len(found)
    assert one(items, "PodDisruptionBudget", "ads-policy")["spec"]["maxUnavailable"] == 1


def test_an_auctionservice_that_brings_everything_is_left_as_it_is(helm: Helm) -> None:
    rendered = one(helm.render(PLATFORM, auctionServices={"ads": spec()}), "AuctionService")["spec"]
    assert AuctionServiceSpec.model_validate(rendered) == AuctionServiceSpec.model_validate(spec())


def test_a_retrainpolicy_gets_lake_registry_and_credentials(helm: Helm) -> None:
    policies = {
        "nightly": {"service": {"name": "ads"}, "template": {"spec": {"config": {}, "activeDeadlineSeconds": 60}}}
    }
    rendered = one(helm.render(PLATFORM, **CONNECTED, retrainPolicies=policies), "RetrainPolicy")["spec"]
    RetrainPolicySpec.model_validate(rendered)
    assert rendered["source"] == {"lake": "s3://auction/p/lake"}
    job = rendered["template"]["spec"]
    assert (job["storage"], job["activeDeadlineSeconds"]) == ({"url": "s3://auction/p"}, 60)
    assert variables(job)["AWS_ACCESS_KEY_ID"] == ("s3", "AWS_ACCESS_KEY_ID")


def test_keys_come_from_a_secret_a_store_or_are_drawn(helm: Helm) -> None:
    assert not named(helm.render(PLATFORM, **ROUTERS), "Secret")
    drawn = one(helm.render(PLATFORM, secrets={"generate": True}), "Secret")
    assert drawn["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert {name: len(value) for name, value in drawn["stringData"].items()} == {"secret": 48, "admin-key": 48}
    store = {"enabled": True, "key": "auction", "store": {"name": "vault"}}
    external = one(helm.render(PLATFORM, secrets={"externalSecret": store, "rotating": True}), "ExternalSecret")
    fields = [entry["secretKey"] for entry in external["spec"]["data"]]
    assert (external["spec"]["target"]["name"], fields) == (f"{NAME}-keys", ["secret", "admin-key", "other-secrets"])


def test_during_a_rotation_the_former_secret_verifies(helm: Helm) -> None:
    rotating = {"secrets": {"name": "keys", "rotating": True}}
    items = helm.render(PLATFORM, **(ROUTERS | rotating | {"auctionServices": {"ads": {"model": spec()["model"]}}}))
    found = variables(dict(pods(items))["router"]["containers"][0])
    assert found["LLM_AUCTION_OTHER_SECRETS"] == ("keys", "other-secrets")
    others = one(items, "AuctionService")["spec"]["router"]["otherSecrets"]
    assert others == {"secretKeyRef": {"name": "keys", "key": "other-secrets"}}


@pytest.mark.parametrize(
    ("database", "hook", "secret"),
    [
        ({"provider": "existing", "secret": {"name": "db"}}, "pre-install,pre-upgrade", ("db", "database")),
        ({"provider": "cloudnative-pg"}, "pre-upgrade", (f"{NAME}-db-app", "uri")),
        ({"provider": "trial"}, "pre-upgrade", (f"{NAME}-postgres", "database")),
    ],
)
def test_the_database_is_migrated_before_the_new_pods(
    helm: Helm, database: dict[str, Any], hook: str, secret: tuple[str, str]
) -> None:
    job = one(helm.render(PLATFORM, database=database), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == hook
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert (container["command"], variables(container)["LLM_AUCTION_DATABASE"]) == (["llm-auction", "migrate"], secret)
    assert not named(helm.render(PLATFORM, database=database, migrations={"enabled": False}), "Job")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"workers": {"lake": {"enabled": True}}}, "workers.lake.url"),
        ({"workers": {"ledger": {"enabled": True}}}, "database.provider"),
        ({"workers": {"ledger": {"enabled": True, "databaseSecret": {"name": "x"}}}}, "databaseSecret"),
        ({"auctionServices": {"Ads": {}}}, "Ads"),
        ({"routers": {"enabled": True}}, "signing secret"),
        ({"routers": {"enabled": True}, "secrets": {"name": "k"}}, "routers share a database"),
        (ROUTERS | {"routers": {"enabled": True}}, "give model, upstream.url or triton.address"),
        ({"routers": {"options": {"port": 1}}}, "propertyName 'port'"),
        (ROUTERS | {"routers": ROUTERS["routers"] | {"options": {"encoder": False}}}, "give no-encoder: true"),
        ({"database": {"provider": "existing"}}, "name"),
        ({"database": {"provider": "mysql"}}, "provider"),
        ({"eventLog": {"provider": "existing"}}, "servers"),
        ({"objectStore": {"provider": "existing"}}, "url"),
        ({"secrets": {"externalSecret": {"enabled": True}}}, "key"),
        (
            {"secrets": {"generate": True, "externalSecret": {"enabled": True, "key": "k", "store": {"name": "s"}}}},
            "both",
        ),
        ({"firstModel": {"name": "tiny", "version": "tiny"}}, "give objectStore"),
        ({"expose": {"ingress": {"enabled": True}}}, "expose.public.host"),
        ({"secrets": {"rotating": True}}, "secrets.rotating"),
        ({"expose": {"ingress": {"enabled": True}, "public": {"host": "ads.example"}}}, "expose.service"),
    ],
)
def test_invalid_values_are_refused(helm: Helm, values: dict[str, Any], expected: str) -> None:
    done = helm.try_("template", "shop", PLATFORM, **values)
    assert done.returncode != 0
    assert expected in done.stderr
