"""What the operator does for a RetrainPolicy: the decision is `reconcile.reconcile`, a pure function."""
