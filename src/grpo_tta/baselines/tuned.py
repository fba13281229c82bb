"""The peers with settings tuned as ours were: on the tuning split of the nano suite, with the default's number of views.

The best of a grid each (`recipes/tune_peers.py`; the grids hold the official settings). TDA's best are its official ones, so
it has no variant here. Claims are made against the better of the two forms of a peer.
"""

from __future__ import annotations

from grpo_tta.baselines.mta import MTASettings, mta_method
from grpo_tta.baselines.vte import VTESettings, vte_method
from grpo_tta.baselines.zero import ZeroSettings, zero_method
from grpo_tta.contract import Method


def tuned_peer_methods() -> list[Method]:
    """Made anew at each call."""
    return [
        vte_method(VTESettings(views=24, selected=6), "vte-tuned"),
        zero_method(ZeroSettings(views=24, kept=0.5), "zero-tuned"),
        mta_method(MTASettings(views=24, entropy_weight=1.0, affinity_weight=4.0, neighbours=1.0), "mta-tuned"),
    ]
