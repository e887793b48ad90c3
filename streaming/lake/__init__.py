"""The lake: events as rows of Delta Lake tables, and the training set as a query over them."""

from streaming.lake.training_rows import Row, Totals, Versions
from streaming.lake.training_set import TrainingSet

__all__ = ["Row", "Totals", "TrainingSet", "Versions"]
