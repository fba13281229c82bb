"""The same weights in the format of the other library: open_clip's state dict -> transformers'."""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def _split(name: str, fused: Tensor) -> State:
    leaf = name.rsplit(".", 1)[-1]
    where = name.removesuffix(f".{leaf}")
    return {f"{where}.{part}_proj.{leaf}": piece for part, piece in zip("qkv", fused.chunk(3), strict=True)}


def _text_layers(state: State, prefix: str, to: str) -> State:
    """open_clip's own residual blocks -> encoder layers."""
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
             "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    found: State = {}
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        number, rest = key.removeprefix(prefix).split(".", 1)
        layer = f"{to}.encoder.layers.{number}"
        if rest.startswith("attn.in_proj_"):
            found |= _split(f"{layer}.self_attn.{rest.removeprefix('attn.in_proj_')}", value)
        else:
            part, leaf = rest.rsplit(".", 1)
            found[f"{layer}.{names[part]}.{leaf}"] = value
    return found


def _norm(state: State, name: str, to: str) -> State:
    return {f"{to}.{leaf}": state[f"{name}.{leaf}"] for leaf in ("weight", "bias")}


def clip(state: State) -> State:
    """Of open_clip.model.CLIP -> of transformers.CLIPModel."""
    vision, text = "vision_model", "text_model"
    return {
        f"{vision}.embeddings.class_embedding": state["visual.class_embedding"],
        f"{vision}.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        f"{vision}.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        **_norm(state, "visual.ln_pre", f"{vision}.pre_layrnorm"),
        **_text_layers(state, "visual.transformer.resblocks.", vision),
        **_norm(state, "visual.ln_post", f"{vision}.post_layernorm"),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        f"{text}.embeddings.token_embedding.weight": state["token_embedding.weight"],
        f"{text}.embeddings.position_embedding.weight": state["positional_embedding"],
        **_text_layers(state, "transformer.resblocks.", text),
        **_norm(state, "ln_final", f"{text}.final_layer_norm"),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }


def siglip(state: State) -> State:
    """Of open_clip.model.CustomTextCLIP around timm's SigLIP -> of transformers.SiglipModel."""
    vision, text = "vision_model", "text_model"
    pool = "visual.trunk.attn_pool"
    found = {
        f"{vision}.embeddings.position_embedding.weight": state["visual.trunk.pos_embed"][0],
        f"{vision}.head.probe": state[f"{pool}.latent"],
        **_norm(state, "visual.trunk.patch_embed.proj", f"{vision}.embeddings.patch_embedding"),
        **_norm(state, "visual.trunk.norm", f"{vision}.post_layernorm"),
        **_norm(state, f"{pool}.proj", f"{vision}.head.attention.out_proj"),
        **_norm(state, f"{pool}.norm", f"{vision}.head.layernorm"),
        f"{text}.embeddings.token_embedding.weight": state["text.token_embedding.weight"],
        f"{text}.embeddings.position_embedding.weight": state["text.positional_embedding"],
        **_text_layers(state, "text.transformer.resblocks.", text),
        **_norm(state, "text.ln_final", f"{text}.final_layer_norm"),
        **_norm(state, "text.text_projection", f"{text}.head"),
        "logit_scale": state["logit_scale"].reshape(1),
        "logit_bias": state["logit_bias"].reshape(1),
    }
    for leaf in ("weight", "bias"):
        found[f"{vision}.head.attention.in_proj_{leaf}"] = torch.cat([state[f"{pool}.{part}.{leaf}"] for part in ("q", "kv")])
        for layer in ("fc1", "fc2"):
            found[f"{vision}.head.mlp.{layer}.{leaf}"] = state[f"{pool}.mlp.{layer}.{leaf}"]
    prefix = "visual.trunk.blocks."
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1",
             "mlp.fc2": "mlp.fc2"}  # fmt: skip
    for key, value in state.items():
        if key.startswith(prefix):
            number, rest = key.removeprefix(prefix).split(".", 1)
            layer = f"{vision}.encoder.layers.{number}"
            part, leaf = rest.rsplit(".", 1)
            if part == "attn.qkv":
                found |= _split(f"{layer}.self_attn.{leaf}", value)
            else:
                found[f"{layer}.{names[part]}.{leaf}"] = value
    return found
