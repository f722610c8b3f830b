"""What the teacher sees: one module an environment."""
