"""Which version serves.

`promotion_and_rollback` changes the route file and keeps the history; `guard` decides whether a promoted version stays;
`monitor` reads the log for it (`log_cohorts`) and carries the decision out.
"""
