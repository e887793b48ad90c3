"""The lake: events as rows of Delta Lake tables, and the training set as a query over them."""

from streaming.lake.training_set import Row, Totals, TrainingSet, Versions

__all__ = ["Row", "Totals", "TrainingSet", "Versions"]
