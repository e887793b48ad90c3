"""What the operator does for an AuctionService: the decision is `reconcile.reconcile`, a pure function."""
