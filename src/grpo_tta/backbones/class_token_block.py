"""The last block of a ViT whose head reads the class token alone."""

from __future__ import annotations

from typing import Any, final

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


@final
class ClassTokenBlock(nn.Module):
    """open_clip's block for the class token only: `[N, T, W]` -> `[N, 1, W]`.

    The class token attends to all tokens, but only its own query, output projection and MLP are computed, which leaves
    the keys and values as the only work on the other tokens: about a sixth of the block. Same modules, same order, same
    parameter names as the block that it stands for.
    """

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        object.__setattr__(self, "_block", block)  # not as a child: that would name every parameter twice

    def forward(self, tokens: Tensor) -> Tensor:
        block: Any = self._block
        # torch's attention turns the token axis to the front; a product of a tensor that is only turned, not laid out anew,
        # takes nine times as long in bfloat16.
        normed = block.ln_1(tokens).transpose(0, 1).contiguous().transpose(0, 1)
        x = tokens[:, :1] + block.ls_1(block.attention(q_x=normed[:, :1], k_x=normed, v_x=normed))
        return x + block.ls_2(block.mlp(block.ln_2(x)))


def reads_class_token(visual: Any) -> bool:
    """Whether the head of open_clip's VisionTransformer reads the class token alone, after a block of the plain kind."""
    last = visual.transformer.resblocks[-1]
    return (
        type(last) is ResidualAttentionBlock
        and not hasattr(last, "ln_1_kv")
        and last.attn.batch_first
        and visual.attn_pool is None
        and visual.pool_type == "tok"
    )
