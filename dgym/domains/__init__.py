"""What is learned: one module a domain."""
