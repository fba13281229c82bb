"""Folders of small random models of the true architectures, in the formats that users bring them in.

Width, depth and image size are reduced where the library's configuration allows it; classes, block structure and the order
of operations are the libraries' own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import nn

from grpo_tta.backbones.catalogue import TRANSFORMERS, Family, family_of

LABELS = ("cat", "dog", "red fish")
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
WORDS = ("a", "photo", "of", "this", "is", "the", "cat", "dog", "fish", "red", "bird", "drawing")
SIGLIP_CONTEXT = 16

# name -> changes of the visual configuration
NATIVE: dict[str, dict[str, Any]] = {
    "ViT-B-32-quickgelu": {"image_size": 64, "width": 128, "layers": 3},
    "ViT-B-16-quickgelu": {"image_size": 32, "width": 128, "layers": 3},
    "ViT-L-14-quickgelu": {"image_size": 28, "width": 128, "layers": 4},
    "ViT-L-14-336-quickgelu": {"image_size": 42, "width": 128, "layers": 4},
    "ViT-B-32": {"image_size": 64, "width": 128, "layers": 3},
    "ViT-B-16": {"image_size": 32, "width": 128, "layers": 3},
    "ViT-H-14": {"image_size": 28, "width": 160, "layers": 2},
    "RN50": {"image_size": 64, "width": 8, "layers": [1, 2, 1, 1], "head_width": 16},
    "RN50-quickgelu": {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1], "head_width": 16},
}
# name -> (timm's arguments, size of the image)
TIMM: dict[str, tuple[dict[str, Any], int]] = {
    "ViT-B-16-SigLIP": ({"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 2}, 32),
    "ViT-SO400M-14-SigLIP2": ({"img_size": 28, "embed_dim": 64, "depth": 2, "num_heads": 2}, 28),
    "EVA01-g-14": ({"img_size": 28, "embed_dim": 64, "depth": 2, "num_heads": 2}, 28),
    "EVA02-B-16": ({"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 2}, 32),
    "EVA02-L-14-336": ({"img_size": 42, "embed_dim": 64, "depth": 3, "num_heads": 2}, 42),
    "EVA02-E-14": ({"img_size": 28, "embed_dim": 64, "depth": 2, "num_heads": 2}, 28),
    "PE-Core-B-16": ({"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 2, "attn_pool_num_heads": 2}, 32),
    "MobileCLIP-S1": ({"layers": (1, 1, 1, 2), "embed_dims": (16, 32, 64, 128)}, 64),
    "MobileCLIP2-S3": ({"layers": (1, 1, 1, 1, 1), "embed_dims": (16, 32, 64, 128, 128)}, 64),
    "MobileCLIP-B": ({"img_size": 64, "depth": 2}, 64),
    "ViTamin-S": ({"img_size": 64, "depth": 1}, 64),
    "convnext_base_w": ({"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 128)}, 64),
}
HF = ("transformers-clip", "transformers-siglip", "transformers-siglip2")
# image classifiers: name -> (what it tunes, its norms, size of the image)
CLASSIFIERS: dict[str, tuple[tuple[str, ...], str, int]] = {
    "timm:resnet50": (("norm",), "BatchNorm", 32),
    "timm:vit_small_patch16_224": (("norm", "low-rank"), "LayerNorm", 32),
}
NAMES = (*NATIVE, *TIMM, *HF, *CLASSIFIERS)


def family(name: str) -> Family:
    """What the table says of the family, by the configuration as the library publishes it."""
    if name in HF:
        return TRANSFORMERS[name.removeprefix("transformers-")]
    if name in CLASSIFIERS:
        return Family(name, *CLASSIFIERS[name][:2])
    found = family_of(open_clip.get_model_config(name)["vision_cfg"])
    assert found is not None
    return found


def write(name: str, folder: Path) -> Path:
    """Writes a random model of this name into a new folder."""
    folder.mkdir()
    if name in CLASSIFIERS:
        write_classifier(name.removeprefix("timm:"), folder, LABELS, CLASSIFIERS[name][2])
        return folder
    makers: Mapping[str, Callable[[Path], None]] = dict(zip(HF, (_write_clip, _write_siglip, _write_siglip2), strict=True))
    if name in makers:
        makers[name](folder)
    else:
        write_open_clip(open_clip_config(name, folder), folder)
    return folder


def open_clip_config(name: str, folder: Path) -> dict[str, Any]:
    """open_clip's own configuration, made small. A small timm encoder is described in a folder of its own beside."""
    config = open_clip.get_model_config(name)
    kept = ("no_causal_mask", "pool_type", "proj_bias", "norm_kwargs", "act_kwargs", "hf_tokenizer_name", "tokenizer_kwargs")
    config["text_cfg"] = TEXT | {key: config["text_cfg"][key] for key in kept if key in config["text_cfg"]}
    config["embed_dim"] = 64
    if name in NATIVE:
        config["vision_cfg"] |= NATIVE[name]
        return config
    arguments, size = TIMM[name]
    trunk = {"architecture": config["vision_cfg"]["timm_model_name"], "num_classes": 0, "model_args": arguments}
    (folder / "trunk").mkdir()
    (folder / "trunk" / "config.json").write_text(json.dumps(trunk | {"pretrained_cfg": {}}))
    config["vision_cfg"] |= {"timm_model_name": f"local-dir:{folder / 'trunk'}", "image_size": size}
    if "hf_tokenizer_name" in config["text_cfg"]:
        config["text_cfg"] |= {"context_length": SIGLIP_CONTEXT, "vocab_size": 64}
    return config


def write_open_clip(config: dict[str, Any], folder: Path) -> nn.Module:
    """A random model by open_clip's own factory, with its weights and, where it needs one, its tokenizer."""
    siglip = "hf_tokenizer_name" in config["text_cfg"]
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"} if siglip else {}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    randomise(model)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    if siglip:
        write_word_tokenizer(folder)
    return model


def write_classifier(name: str, folder: Path, labels: Sequence[str], size: int, **arguments: Any) -> nn.Module:
    """A random classifier of timm in timm's format, which reads images of this size. Arguments are the network's own."""
    torch.manual_seed(0)
    if name.startswith("vit"):
        arguments["img_size"] = size
    model = timm.create_model(name, num_classes=len(labels), **arguments)
    randomise(model)
    config = {"architecture": name, "num_classes": len(labels), "model_args": arguments, "label_names": list(labels),
              "pretrained_cfg": {"input_size": [3, size, size]}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    return model


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Gives every weight a value that matters: no affine is the identity, no branch is switched off by a zero, and attention
    attends to some tokens more than to others (as initialised it hardly does, and positions would not matter)."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if name.startswith("logit"):
            continue
        if parameter.numel() == max(parameter.shape, default=1):  # affines, biases, layer scales
            parameter.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * noise)
        elif any(part in name for part in ("embed", "token", "latent", "probe")) and "patch_embed" not in name:
            parameter.copy_(0.5 * noise)
        else:
            gain = 1.5 if parameter.ndim < 4 else 0.3  # convolutions come in sums of branches
            parameter.copy_(noise * (gain * parameter.shape[0] / parameter.numel()) ** 0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn_like(buffer))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand_like(buffer))
    if hasattr(model, "logit_scale"):
        model.logit_scale.fill_(2.3)
    if getattr(model, "logit_bias", None) is not None:
        model.logit_bias.fill_(-2.0)


def clip_config() -> Any:
    from transformers import CLIPConfig

    return CLIPConfig(
        text_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
                     "pad_token_id": 49407, "hidden_act": "quick_gelu"},
        vision_config={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 16, "hidden_act": "quick_gelu"},
        projection_dim=64,
    )  # fmt: skip


def siglip_config(act: str) -> Any:
    from transformers import SiglipConfig

    return SiglipConfig(**_siglip_backbones(act, {"image_size": 32, "patch_size": 16}))


def _siglip_backbones(act: str, grid: dict[str, int]) -> dict[str, Any]:
    shape = {"hidden_size": 64, "num_attention_heads": 2, "hidden_act": act, "layer_norm_eps": 1e-6}
    text = {"intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 64, "max_position_embeddings": SIGLIP_CONTEXT,
            "projection_size": 64, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    return {
        "text_config": shape | text,
        "vision_config": shape | {"intermediate_size": 256, "num_hidden_layers": 2} | grid,
    }


def _write_clip(folder: Path) -> None:
    from transformers import CLIPModel

    torch.manual_seed(0)
    model = CLIPModel(clip_config())
    randomise(model)
    save_transformers_clip(model, folder)


def save_transformers_clip(model: Any, folder: Path) -> None:
    from transformers import CLIPImageProcessorPil

    model.save_pretrained(folder)
    size = model.config.vision_config.image_size
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(folder)
    write_clip_tokenizer(folder)


def _write_siglip(folder: Path) -> None:
    from transformers import SiglipModel

    torch.manual_seed(0)
    model = SiglipModel(siglip_config("gelu_pytorch_tanh"))
    randomise(model)
    save_transformers_siglip(model, folder)


def save_transformers_siglip(model: Any, folder: Path) -> None:
    from transformers import SiglipImageProcessorPil

    model.save_pretrained(folder)
    size = model.config.vision_config.image_size
    SiglipImageProcessorPil(size={"height": size, "width": size}, resample=3).save_pretrained(folder)
    write_word_tokenizer(folder)


def _write_siglip2(folder: Path) -> None:
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    torch.manual_seed(0)
    model = Siglip2Model(Siglip2Config(**_siglip_backbones("gelu_pytorch_tanh", {"num_patches": 9, "patch_size": 8})))
    randomise(model)
    model.save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=9).save_pretrained(folder)
    write_piece_tokenizer(folder)


def write_clip_tokenizer(folder: Path) -> None:
    """CLIP's byte pairs, which open_clip carries, in transformers' files."""
    source = SimpleTokenizer()
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({ends.get(token, token): n for token, n in source.encoder.items()}))
    pairs = [" ".join(pair) for pair in source.bpe_ranks]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))


def write_word_tokenizer(folder: Path) -> None:
    """A token a word, ended by token 1 and padded with it, lower case without punctuation: SigLIP's conventions."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "</s>": 1, "<s>": 2} | {word: n for n, word in enumerate(WORDS, 3)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_input_names=["input_ids"]
    )
    fast.save_pretrained(folder)


def write_piece_tokenizer(folder: Path) -> None:
    """Letters, and the words of the usual template as one piece each: transformers makes a Gemma tokenizer of every SigLIP 2's
    vocabulary and merges, whatever else the file says."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    merges = [(word[:n], word[n]) for word in ("▁a", "▁of", "▁photo") for n in range(1, len(word))]
    pieces = ["<unk>", "</s>", "<s>", *sorted({letter for word in WORDS for letter in word} | {"▁", "."})]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_input_names=["input_ids"]
    )
    fast.save_pretrained(folder)
