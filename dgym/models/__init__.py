"""What touches torch, transformers and peft, and knows nothing of teaching."""
