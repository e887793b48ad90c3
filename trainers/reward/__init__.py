"""Step 1 of an epoch: the pCTR model, learned from clicks (Eq. 3, 4). Training only; never on the request path."""
