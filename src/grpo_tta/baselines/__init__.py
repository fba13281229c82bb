"""Methods that GRPO-TTA is measured against, one file each, on the same policy and the same views.

Each is written from its paper and its published settings. DPE (arXiv 2410.12790) is left out: it tunes residuals of
textual and visual prototypes, but its settings differ by data set, its class descriptions come from a language model,
and the weight of its alignment loss and the rule by which its prototypes evolve could not be settled from what we had;
a guess under its name would be no baseline.
"""
