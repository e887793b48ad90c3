"""Whether a trained model may serve: off-policy estimates from logs, and the gates that read them.

`offpolicy` and `decision` are pure functions of figures; `evidence` gathers them from logged answers and models.
"""
