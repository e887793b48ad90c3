"""Whether a trained model may serve: off-policy estimates from logs, and the gates that read them.

`offpolicy` and `decision` are pure functions of figures; `clicks`, `evidence` and `measure` compute these from logged
answers and models.
"""
