"""Skills: how problems are grouped, and how teachers refine the groups."""
