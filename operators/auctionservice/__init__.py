"""AuctionService: `observe` reads the cluster, `rollout` moves the traffic to a new version, `reconcile` does the rest.

`reconcile` and `rollout` are pure, `manifests` renders the objects, `meter` collects what the routers counted, `guard`
has both versions compared.
"""
