"""The baselines with the settings of their official code."""

from __future__ import annotations

from grpo_tta.baselines.boostadapter import BoostAdapterSettings, boostadapter_method
from grpo_tta.baselines.clipartt import CLIPArTTSettings, clipartt_method
from grpo_tta.baselines.encoder_entropy import EncoderEntropySettings, encoder_entropy_method
from grpo_tta.baselines.mta import MTASettings, mta_method
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf_method
from grpo_tta.baselines.tda import TDASettings, tda_method
from grpo_tta.baselines.template_ensemble import template_ensemble_method
from grpo_tta.baselines.tent import TentSettings, tent_method
from grpo_tta.baselines.tpt import TPTSettings, tpt_method
from grpo_tta.baselines.ttl import TTLSettings, ttl_method
from grpo_tta.baselines.vte import VTESettings, vte_method
from grpo_tta.baselines.watt import WATTSettings, watt_method
from grpo_tta.baselines.zero import ZeroSettings, zero_method
from grpo_tta.engine.interface import Method


def baseline_methods() -> list[Method]:
    """Every baseline that has no other reward model than the model itself, made anew at each call."""
    return [
        template_ensemble_method(),
        vte_method(VTESettings()),
        zero_method(ZeroSettings()),
        mta_method(MTASettings()),
        tpt_method(TPTSettings()),
        encoder_entropy_method(EncoderEntropySettings()),
        encoder_entropy_method(EncoderEntropySettings(tuned="whole"), "encoder-entropy-full"),
        rlcf_method(RLCFSettings()),
        rlcf_method(RLCFSettings(tuned="whole"), name="rlcf-full"),
        ttl_method(TTLSettings()),
        tent_method(TentSettings()),
        clipartt_method(CLIPArTTSettings()),
        watt_method(WATTSettings()),
        tda_method(TDASettings()),
        boostadapter_method(BoostAdapterSettings()),
    ]
