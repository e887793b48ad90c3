"""Whether a new version of a policy may stay: the canary's statistics, without I/O.

`cohorts` counts answers by version and by the minute of the answer, `sequential` compares two versions with intervals
that hold however often they are looked at, `checks` applies the `limits` to each figure, `decision` draws the
conclusion. The guard behind a route file (`serving.canary`, from the event log) and the operator's
(`operators.auctionservice`, from the routers' counters) decide by it alike.
"""
