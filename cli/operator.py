"""`llm-auction operator`: run the Kubernetes operator; its parts are in `operators`."""

from __future__ import annotations

from typing import Annotated

import typer


def operator(
    namespace: Annotated[
        list[str] | None, typer.Option(help="Look after this namespace; may be given again. None: all.")
    ] = None,
    kubeconfig: Annotated[
        str, typer.Option(envvar="KUBECONFIG", help="How to reach the API server. None: as a pod, else as kubectl.")
    ] = "",
    threads: Annotated[int, typer.Option(min=1, max=64, help="Objects that are looked at side by side.")] = 4,
    metrics: Annotated[str, typer.Option(help="HOST:PORT of Prometheus metrics; empty: none.")] = "127.0.0.1:9090",
    health: Annotated[str, typer.Option(help="HOST:PORT of /healthz; empty: none.")] = "",
) -> None:
    """Keep IRPOJobs, AuctionServices and RetrainPolicies in line with what they ask for, until a signal ends it."""
    from operators.kube import connect
    from operators.operator import Operator, Settings

    with connect(kubeconfig) as connection:
        Operator(connection, Settings(tuple(dict.fromkeys(namespace or ())), threads, metrics, health)).run()
