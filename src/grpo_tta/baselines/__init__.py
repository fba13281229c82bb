"""Methods that GRPO-TTA is measured against, one file each, on the same policy and the same views."""
