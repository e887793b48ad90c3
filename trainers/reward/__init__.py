"""Step 1 of an epoch: the pCTR model, fitted to clicks (Eq. 3, 4). Training only; never on the request path."""
