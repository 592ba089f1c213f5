"""A plan as the engines that people deploy with take it: each engine's own options, and its own arithmetic."""
