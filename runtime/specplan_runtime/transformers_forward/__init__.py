"""The forward pass of transformers' own models, with caches and logits of the plan."""
