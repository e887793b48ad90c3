"""The ledger: every click, impression and participation charged once, never past a budget.

`charging.charge_events` decides what an event costs, in the transaction of `charging.Ledger.book`. `entries` are the
records that go in and come out, `counters` what reports read, `worker` reads the event log, `background` runs the
worker beside a router.
"""
