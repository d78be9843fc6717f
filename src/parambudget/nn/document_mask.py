"""Attention within documents: a window of text holds several, and a token sees only those of its own.

B batch   T tokens
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import uses_eager_attention

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def documents_of(tokens_BT: Tensor, end_of_text: int) -> Tensor:
    """The number of every token's document in its window, (B, T), int32.

    The token that ends a text is the first of the next one: it is what every text then begins with, and
    nothing has to be predicted from another document.
    """
    return (tokens_BT == end_of_text).cumsum(1, dtype=torch.int32)


def document_mask(m: ModelConfig, documents_BT: Tensor, *, local: bool, like: Tensor) -> "Tensor | BlockMask":
    """What windowed (`local`) or global layers may see: tokens of the same document up to their own.

    On a GPU in half precision the blocks of scores that have to be computed, for FlexAttention; else the bias
    added to the scores, (B, 1, T, T), with the dtype of `like`.

    Source: Dong et al. 2024 (FlexAttention), arXiv 2412.05496.
    """
    window, chunked = m.window if local else None, m.window_kind == "chunked"
    n_sequences, n_tokens = documents_BT.shape
    if takes_block_mask(m, like.device.type, like.dtype):
        from torch.nn.attention.flex_attention import create_block_mask  # slow to import

        def is_visible(sequence: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
            visible = (query >= key) & (documents_BT[sequence, query] == documents_BT[sequence, key])
            if window is None:
                return visible
            return visible & (query // window == key // window if chunked else query - key < window)

        return create_block_mask(is_visible, n_sequences, None, n_tokens, n_tokens, str(like.device))
    visible_BTT = (documents_BT.unsqueeze(2) == documents_BT.unsqueeze(1)).tril()
    if window is not None and chunked:
        chunks = torch.arange(n_tokens, device=like.device) // window
        visible_BTT = visible_BTT & (chunks.unsqueeze(1) == chunks)
    elif window is not None:
        visible_BTT = visible_BTT.triu(1 - window)
    bias = torch.zeros(visible_BTT.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill(~visible_BTT, -torch.inf).unsqueeze(1)


def takes_block_mask(m: ModelConfig, device_type: str, dtype: torch.dtype) -> bool:
    """Whether FlexAttention computes these scores; it is slow where it is not compiled for a GPU. An indexer
    chooses single keys, not blocks."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device_type == "cuda" and half and not uses_eager_attention(m) and m.indexer is None
