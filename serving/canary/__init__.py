"""Which version serves.

`promotion_and_rollback` changes the route file and keeps the history; `guard` decides whether a promoted version stays;
`monitor` carries the decision out on what `lake_cohorts` reads.
"""
