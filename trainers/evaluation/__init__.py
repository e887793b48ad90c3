"""Evaluation: policies and baseline mechanisms on the same held-out queries, and the report for people and programs.

`harness`, `methods` and `sweeps` run mechanisms; `metrics` and `quality` turn their answers into figures; `report` is
the schema of the result; `text` and `page` show it.
"""
