"""The router: who may bid, who writes the answer, what is charged, and which model version serves."""
