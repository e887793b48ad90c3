"""Evaluation: policies and rival mechanisms on the same held-out queries, and what people and programs read of it.

`records`, `comparison` and `quality` turn measured answers into figures; `report` is their one schema; `table`, `plots`
and `html` show it. Running mechanisms is left to `harness`, `methods` and `sweeps`.
"""
