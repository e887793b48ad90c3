"""What is charged: each billable event once, never past a budget."""
