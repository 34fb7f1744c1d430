"""Computing texts without padding: rows of a batch laid end to end, attention within each, copies beside computing.

On an NVIDIA GPU the attention is torch's own kernel for sequences of different lengths (`torch.nn.attention.varlen`);
no further package is needed. On a processor the same path runs with torch's fused attention, sequence by sequence: it
is exact there, and what the tests compare with the host.

    register()
    SentenceTransformer(name, model_kwargs={"attn_implementation": ATTENTION})

Importing this package imports neither torch nor transformers; calling its functions does.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ATTENTION", "register"]

#: The name under which transformers knows this attention: what `attn_implementation` is to be.
ATTENTION: Final = "embedprefs_varlen"


def register() -> None:
    """Make the attention known to transformers under `ATTENTION`, with its mask function; once or many times.

    transformers looks both up by the same name. Without a mask function it would leave the mask out of padded batches
    too, and padding would be read as text.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    from embedprefs.engine.gpu.attention import packed_attention, packed_mask

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, packed_mask)
