"""Config classes in the line of Llama: their keys, and their own defaults written out.

Read from the classes of transformers 5 and held against them in tests/formats/test_hf_importer.py, which
draws their switches at random and compares total and breakdown. docs/families.md says how to add a family.
"""

from collections.abc import Mapping
from typing import Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.schema import ANY, LAYERNORM, LLAMA, UNREAD, Family, llama_defaults, without

_PARTLY: Final = {"rotary_fraction": "partial_rotary_factor"}

# fmt: off
_LLAMA_FAMILY: Final = Family(
    LLAMA,
    llama_defaults(head_dim=None, attention_bias=False, mlp_bias=False),
    derive=(rules.all_biases,),
    heads="divide",
)

LLAMA_LIKE: Final[Mapping[str, Family]] = {
    "arcee": Family(
        LLAMA,
        llama_defaults(
            hidden_size=2560, intermediate_size=18432, max_position_embeddings=4096, hidden_act="relu2",
            rms_norm_eps=1e-5, head_dim=None, attention_bias=False, mlp_bias=False,
        ),
        {"gated": False},
        (rules.all_biases,),
        heads="divide",
    ),
    "cohere": Family(
        LLAMA | {"norm_eps": "layer_norm_eps", "logit_multiplier": "logit_scale"},
        llama_defaults(
            rms_norm_eps=UNREAD,
            hidden_size=8192, num_hidden_layers=40, num_attention_heads=64, intermediate_size=22528,
            vocab_size=256000, max_position_embeddings=8192, tie_word_embeddings=True, layer_norm_eps=1e-5,
            rope_theta=500_000.0, attention_bias=False, use_qk_norm=False, logit_scale=0.0625,
        ),
        {
            "norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm",
            "rotary_interleaved": True,
        },
        (rules.attention_bias, rules.cohere),
    ),
    "gemma": Family(
        LLAMA,
        llama_defaults(
            hidden_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=16,
            head_dim=256, intermediate_size=24576, vocab_size=256000, max_position_embeddings=8192,
            hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True, attention_bias=False,
            use_bidirectional_attention=None,
        ),
        derive=(rules.attention_bias, rules.scaled_embeddings, rules.old_gelu),
        unsaid={"use_bidirectional_attention": None},
        inert={"hidden_activation": "gelu_pytorch_tanh"},
    ),
    "glm": Family(
        LLAMA | _PARTLY | {"qkv_bias": "attention_bias"},
        llama_defaults(
            num_hidden_layers=40, num_key_value_heads=2, head_dim=128, intermediate_size=13696,
            vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1.5625e-7, attention_bias=True,
            partial_rotary_factor=0.5,
        ),
        {"rotary_interleaved": True},
    ),
    "glm4": Family(
        LLAMA | _PARTLY | {"qkv_bias": "attention_bias"},
        llama_defaults(
            num_hidden_layers=40, num_key_value_heads=2, head_dim=128, intermediate_size=13696,
            vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1.5625e-7, attention_bias=True,
            partial_rotary_factor=0.5,
        ),
        {"norm_placement": "sandwich", "rotary_interleaved": True},
    ),
    "granite": Family(
        LLAMA,
        llama_defaults(
            attention_bias=False, mlp_bias=False, embedding_multiplier=1.0, residual_multiplier=1.0,
            attention_multiplier=1.0, logits_scaling=1.0,
        ),
        derive=(rules.all_biases, rules.granite),
    ),
    "llama": _LLAMA_FAMILY,
    "mistral": Family(
        LLAMA,
        llama_defaults(
            intermediate_size=14336, num_key_value_heads=8, head_dim=None, max_position_embeddings=131072,
            sliding_window=4096,
        ),
        derive=(layer_rules.every,),
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
    ),
    "mobilellm": Family(
        _LLAMA_FAMILY.keys,
        {**_LLAMA_FAMILY.defaults, "share_embedding": False, "layer_sharing": False},
        derive=(rules.all_biases, rules.shared_embedding),
        heads="divide",
        unsaid={"layer_sharing": False},
    ),
    "nemotron": Family(
        LLAMA | _PARTLY | {"norm_eps": "norm_eps"},
        llama_defaults(
            rms_norm_eps=UNREAD, hidden_size=6144, num_attention_heads=48, intermediate_size=24576,
            head_dim=None, vocab_size=256000, max_position_embeddings=4096, hidden_act="relu2",
            norm_eps=1e-5, initializer_range=0.0134, attention_bias=False, mlp_bias=False,
            partial_rotary_factor=0.5,
        ),
        LAYERNORM | {"gated": False},
        (rules.all_biases, rules.said_kv_heads),
    ),
    "olmo": Family(
        without(LLAMA, "norm_eps") | {"qkv_clip": "clip_qkv"},
        llama_defaults(rms_norm_eps=UNREAD, vocab_size=50304, attention_bias=False, clip_qkv=None),
        {"norm": "layernorm", "norm_weight": False, "norm_bias": False, "norm_eps": 1e-5},
        (rules.attention_bias,),
    ),
    "olmo2": Family(
        LLAMA,
        llama_defaults(vocab_size=50304, rms_norm_eps=1e-5, attention_bias=False),
        {"norm_placement": "reordered", "qk_norm": "full"},
        (rules.attention_bias,),
    ),
    "phi": Family(
        LLAMA | _PARTLY | {"norm_eps": "layer_norm_eps"},
        llama_defaults(
            hidden_size=2048, num_hidden_layers=24, intermediate_size=8192, vocab_size=51200,
            rms_norm_eps=UNREAD, hidden_act="gelu_new", layer_norm_eps=1e-5, qk_layernorm=False,
            partial_rotary_factor=0.5,
        ),
        LAYERNORM | {
            "gated": False, "block": "parallel_shared_norm", "qkv_bias": True, "attention_out_bias": True,
            "ffn_bias": True, "head_bias": True,
        },
        (rules.phi,),
    ),
    "phi3": Family(
        LLAMA | _PARTLY,
        llama_defaults(
            hidden_size=3072, intermediate_size=8192, vocab_size=32064, max_position_embeddings=4096,
            rms_norm_eps=1e-5, partial_rotary_factor=1.0, sliding_window=None,
        ),
        derive=(layer_rules.every,),
        inert={
            "attention_bias": False, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False,
            "mlp_bias": False, "original_max_position_embeddings": ANY,
        },
    ),
    "seed_oss": Family(
        LLAMA | {
            "qkv_bias": "attention_bias", "attention_out_bias": "attention_out_bias", "ffn_bias": "mlp_bias",
        },
        llama_defaults(
            num_hidden_layers=64, num_attention_heads=80, num_key_value_heads=8, head_dim=128,
            intermediate_size=27648, vocab_size=155136, max_position_embeddings=524288, attention_bias=True,
            attention_out_bias=False, mlp_bias=False,
        ),
        nullable=frozenset({"head_dim", "num_key_value_heads"}),
    ),
    "stablelm": Family(
        without(LLAMA, "head_dim") | _PARTLY | {"norm_eps": "layer_norm_eps", "qkv_bias": "use_qkv_bias"},
        llama_defaults(
            hidden_size=2560, num_key_value_heads=32, intermediate_size=6912, vocab_size=50304,
            rms_norm_eps=UNREAD, head_dim=UNREAD, max_position_embeddings=4096, layer_norm_eps=1e-5,
            use_qkv_bias=False, qk_layernorm=False,
            use_parallel_residual=False, partial_rotary_factor=0.25,
        ),
        LAYERNORM,
        (rules.stablelm,),
    ),
    "starcoder2": Family(
        LLAMA | {"norm_eps": "norm_epsilon"},
        llama_defaults(
            hidden_size=3072, num_hidden_layers=30, num_attention_heads=24, num_key_value_heads=2,
            head_dim=None, intermediate_size=12288, vocab_size=49152, max_position_embeddings=4096,
            rms_norm_eps=UNREAD, hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5,
            initializer_range=0.018042,
            tie_word_embeddings=True, use_bias=True, sliding_window=None,
        ),
        LAYERNORM | {"gated": False},
        (rules.starcoder2, layer_rules.every),
        inert={
            "layer_norm_epsilon": 1e-5, "mlp_type": "default", "norm_type": "layer_norm",
            "scale_attention_softmax_in_fp32": True, "scale_attn_weights": True,
        },
    ),
}
# fmt: on
