"""The supervisor behind `llm-auction run`: child processes, and the loop of serving and retraining on one machine."""
