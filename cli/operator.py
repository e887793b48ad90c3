"""`llm-auction operator`: run the Kubernetes operator of `operators`."""

from __future__ import annotations

from typing import Annotated

import typer


def operator(
    namespace: Annotated[
        list[str] | None, typer.Option(help="Watch this namespace only; may be repeated. Default: all.")
    ] = None,
    kubeconfig: Annotated[
        str,
        typer.Option(envvar="KUBECONFIG", help="Kubeconfig file. Default: a pod's service account, else kubectl's."),
    ] = "",
    threads: Annotated[int, typer.Option(min=1, max=64, help="Objects that are reconciled at the same time.")] = 4,
    metrics: Annotated[str, typer.Option(help="HOST:PORT of Prometheus metrics; empty: none.")] = "127.0.0.1:9090",
    health: Annotated[str, typer.Option(help="HOST:PORT of /healthz and /readyz; empty: none.")] = "",
    lease: Annotated[
        str, typer.Option(help="NAMESPACE/NAME of the Lease by which one of several replicas leads; empty: no others.")
    ] = "",
) -> None:
    """Reconcile IRPOJobs, AuctionServices and RetrainPolicies until SIGTERM or Ctrl+C."""
    from operators.kube import connect
    from operators.operator import Operator, Settings

    with connect(kubeconfig) as connection:
        Operator(connection, Settings(tuple(dict.fromkeys(namespace or ())), threads, metrics, health, lease)).run()
