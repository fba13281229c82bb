"""GRPO-TTA itself, the paper (arXiv 2605.03403): `grpo` is one episode from top to bottom."""
