"""A run in the forms of others: Hugging Face data sets, and records of Every Eval Ever. Reads results, runs nothing."""
