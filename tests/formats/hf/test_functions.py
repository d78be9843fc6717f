"""A config is read as the function that its class computes, or what cannot be said of it is named."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hf_configs import CONSTANT, SCHEMAS, build_class, class_config, configs, shrink
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from parambudget.arch.defaults import with_defaults
from parambudget.errors import ConfigError
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.weights import match_tensors
from parambudget.nn.transformer import Transformer

logging.set_verbosity_error()
pytestmark = pytest.mark.usefixtures("one_thread")

OWN_CLASS = [kind for kind, family in FAMILIES.items() if family.model_class is not None]
CANNOT_RUN = (AttributeError, RuntimeError, TypeError, ValueError)
"""What a class raises for a config that it can build and not run, such as a window of null in one layer."""
WITHOUT_EFFECT = {
    # training and caches
    "attention_dropout", "attn_pdrop", "classifier_dropout", "dropout", "embd_pdrop", "embed_dropout",
    "embedding_dropout", "hidden_dropout", "input_jitter_noise", "layerdrop", "resid_dropout", "resid_pdrop",
    "residual_dropout", "router_aux_loss_coef", "router_jitter_noise", "use_cache", "emb_pdrop",
    "activation_dropout", "attention_probs_dropout_prob", "aux_loss_coef", "embedding_initializer_range",
    "hidden_dropout_prob", "mlp_dropout", "moe_jitter_eps", "moe_loss_weight",
    # how something is computed, not what
    "attention_softmax_in_fp32", "chunk_size", "dtype", "init_device", "mamba_chunk_size", "pretraining_tp",
    "reorder_and_upcast_attn",
    "scale_attention_softmax_in_fp32", "slow_but_exact", "use_bettertransformer", "_is_quantized",
    # what is returned, and by which heads
    "num_labels", "output_attentions", "output_hidden_states", "output_router_logits", "problem_type",
    "return_dict", "summary_activation", "summary_first_dropout", "summary_last_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "tokenizer_class",
    # tokens
    "bos_token_id", "cls_token_id", "decoder_start_token_id", "eod_token_id", "eos_token_id",
    "pad_token_id", "sep_token_id",
    # layers that the class does not have
    "num_mtp_layers", "num_nextn_predict_layers", "is_decoder",
}  # fmt: skip
"""Keys of the classes that change no logit of a forward pass in evaluation."""
READ_ELSEWHERE = {
    "attn_config", "ffn_config", "is_causal", "per_layer_config", "rope_parameters", "rope_scaling",
    "quantization_config",  # the weights say how they are stored
    # of the rescaled frequencies
    "default_rope_type", "original_max_position_embeddings", "partial_rotary_factor",
}  # fmt: skip
"""Keys that the importer reads for every family."""
OTHER_MODALITY = re.compile(
    "Vision|Audio|Unfold|PixelShuffle|Projector|Multimodal|ForConditionalGeneration|(3n|4|Unified)Model$"
)
"""Classes of modules with language models that read configs of images and sounds."""
ONLY_IN_GENERATION = {"attention_chunk_size", "kv_sharing_modes", "layer_types", "sliding_window"}
"""What a cache reads, and no forward pass without one, as the last test shows."""
NOT_OF_THE_FILE = {
    *dir(PreTrainedConfig), "auto_map", "crossattention", "decoder", "generator", "gradient_checkpointing",
    "head_dim", "initializer_range", "n_ctx", "output_cross_attentions", "q_attn",
    # Gemma 3's class for images and text
    "image_size", "image_token_id", "is_sliding", "layer_norm_eps", "mm_tokens_per_image", "patch_size",
    "text_config", "vision_aspect_ratio", "vision_config", "vision_feature_layer",
    "vision_feature_select_strategy",
    "logits_scaling",  # which MiniCPM 3's class derives from others
    "layers_block_type", "layers_num_experts",  # which Bamba's and Jamba's do
    "weights",  # of XGLM's table of positions
    # Derived by RecurrentGemma's class, or looked for because it has no initializer_range
    "bias", "init_std", "initializer_factor", "model", "text_encoder",
    "A", "input_residual", "post_attention_residual",  # parameters of Doge
    "SCB", "quant_state",  # of quantized weights, which RWKV's class rescales
    # Apertus 1.5's class for images and sound
    "attn_resolutions", "audio_config", "audio_token_id", "audio_token_offset", "base_channels",
    "channel_multiplier", "codebook_size", "embed_dim", "hop_length", "image_token_offset", "in_channels",
    "latent_channels", "num_res_blocks", "resolution",
    "spatial_merge_size", "video_token_id",  # of the whole of Cohere's Compass
    # Aria's
    "max_value_projector_patch_to_query_dict", "projector_patch_to_query_dict",
    # Gemma 3n's, Gemma 4's and Llama 4's
    "gradient_clipping", "is_compileable", "qk_norm", "standardize", "use_clipped_linears",
}  # fmt: skip
"""Attributes that no config.json gives to a language model, or that its class fails with."""
CHANGES = {
    "activation": "relu", "activation_function": "relu", "alibi": True, "attention_bias": True,
    "attention_chunk_size": 4, "attention_multiplier": 3.0, "attn_logit_softcapping": 1.0,
    "chunk_size_feed_forward": 1, "clip_qkv": 0.1, "embedding_multiplier": 3.0,
    "final_logit_softcapping": 1.0, "first_k_dense_replace": 1, "head_dim": 4, "hidden_act": "relu",
    "hidden_activation": "relu",
    "is_causal": False, "is_decoder": False, "layer_norm_eps": 0.3, "layer_norm_epsilon": 0.3,
    "layer_types": ["sliding_attention"] * 2, "logit_scale": 0.5, "logits_scaling": 3.0,
    "max_window_layers": 0, "mlp_bias": True, "moe_layer_freq": 2, "no_rope_layers": [0, 0], "norm_eps": 0.3,
    "norm_topk_prob": True, "num_experts_per_tok": 1, "qk_layernorm": True, "query_pre_attn_scalar": 3,
    "residual_multiplier": 3.0, "rms_norm_eps": 0.3, "rope_interleave": False, "rope_theta": 50.0,
    "rotary_dim": 2, "rotary_emb_base": 50.0, "rotary_pct": 0.5, "routed_scaling_factor": 3.0,
    "scale_attn_weights": False, "scoring_func": "softmax", "sliding_window": 3, "sliding_window_pattern": 1,
    "swiglu_alpha": 0.3, "swiglu_limit": 0.1, "tie_word_embeddings": True,
    "use_bidirectional_attention": True, "use_parallel_residual": False, "use_qk_norm": True,
    "use_sliding_window": True,
    "attention_in_multiplier": 3.0, "attention_out_multiplier": 3.0, "attn_layer_indices": [0],
    "attn_layer_offset": 0, "key_multiplier": 3.0, "lm_head_multiplier": 3.0, "mamba_hidden_act": "relu",
    "mixer_rms_eps": 0.3, "mlp_hidden_act": "silu", "mlp_multipliers": [0.3, 3.0],
    "position_embedding_type": "rope", "ssm_in_multiplier": 3.0, "ssm_out_multiplier": 3.0,
    "ssm_multipliers": [0.3, 3.0, 0.5, 2.0, 0.1], "time_step_limit": [0.3, 0.4], "time_step_min": 2.0,
}  # fmt: skip
"""Keys of any family, with a value that changes the function where it is read."""
ONLY_COUNTED_AS = {"deepseek", "minicpm", "orion"}
"""Types of remote code whose stand-in has the same parameters and computes something else."""
same_function = pytest.mark.parametrize("kind", [kind for kind in SCHEMAS if kind not in ONLY_COUNTED_AS])


@same_function
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_configs_are_read_as_the_function_of_the_class(kind, data):
    config = shrink(data.draw, data.draw(configs(kind)))
    try:
        imported = from_hf(config, "config.json")
    except ConfigError:
        return
    if imported.unsupported:
        return
    model = with_defaults(imported.fields).model
    model = model.replace(fused_experts=True) if model.moe else model
    theirs = random_class(config)
    held = theirs.state_dict()
    tokens = torch.randint(
        model.vocab_size, (2, min(20, model.context_length)), generator=torch.Generator().manual_seed(1)
    )
    ours = Transformer(model)
    with torch.no_grad():
        try:
            expected = theirs(tokens).logits
        except CANNOT_RUN:
            return
        rows, parts, _ = match_tensors(theirs.config.model_type, ours.state_dict(), model, held)
        for row in rows:
            row.copy_to_parts(held[row.name], parts, model)
        tolerance = 1e-4 * max(1, float(expected.abs().max()))
        torch.testing.assert_close(ours(tokens), expected, rtol=0, atol=tolerance)


def random_class(config: dict[str, object]) -> PreTrainedModel:
    """The class's model with large random weights, so that no function hides behind a small one."""
    theirs = build_class(class_config(config), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        if not CONSTANT.search(name):
            tensor.normal_(0, 0.3, generator=generator)
    return theirs


@pytest.mark.parametrize("kind", OWN_CLASS)
@pytest.mark.filterwarnings("ignore")  # the class's own warnings are not under test
def test_a_key_changes_our_reading_if_it_changes_the_class(kind):
    base = shrink(None, {"model_type": kind, SCHEMAS[kind].keys["n_layers"]: 2})
    base |= {"first_k_dense_replace": 2} if "first_k_dense_replace" in SCHEMAS[kind].defaults else {}
    expected, read = class_logits(base), from_hf(base, "")
    ignored = []
    for key, value in CHANGES.items():
        try:
            changed = from_hf(base | {key: value}, "")
        except ConfigError:
            continue
        if (changed.fields, changed.unsupported) != (read.fields, read.unsupported):
            continue
        found = class_logits(base | {key: value})
        if found is not None and not torch.equal(found, expected):
            ignored.append(key)
    assert ignored == []


def class_logits(config: dict[str, object]) -> torch.Tensor | None:
    """None for a config that the class cannot build or run."""
    tokens = torch.randint(30, (1, 12), generator=torch.Generator().manual_seed(1))
    try:
        with torch.no_grad():
            return random_class(config)(tokens).logits
    except (*CANNOT_RUN, StrictDataclassError, LookupError):
        return None


@pytest.mark.parametrize("kind", OWN_CLASS)
def test_every_key_of_a_class_is_read_noted_or_without_effect(kind):
    """Fields of the config class, what its code reads, and what a forward pass reads in shared code."""
    schema = SCHEMAS[kind]
    known = {*schema.defaults, *schema.aliases, *schema.keys.values(), *schema.ignored_keys}
    known |= {key.rpartition(".")[2] for key in known}
    known |= WITHOUT_EFFECT | READ_ELSEWHERE | ONLY_IN_GENERATION | NOT_OF_THE_FILE
    fields = CONFIG_MAPPING[kind].__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
    found = {*fields, *names_in_source(kind), *names_in_a_forward_pass(kind)}
    assert sorted({name for name in found if not name.startswith("_")} - known) == []


def names_in_source(kind: str) -> Iterator[str]:
    """The attributes that the module of a class reads of something called config."""
    source = inspect.getsource(sys.modules[getattr(transformers, FAMILIES[kind].model_class).__module__])
    classes = [
        node for node in ast.parse(source).body if not OTHER_MODALITY.search(getattr(node, "name", ""))
    ]
    for node in (inner for outer in classes for inner in ast.walk(outer)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            if name.endswith("config"):
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            yield from (one.value for one in node.args[1:2] if isinstance(one, ast.Constant))


def names_in_a_forward_pass(kind: str) -> set[str]:
    """The attributes that are read of the config from its model's construction to its logits."""
    config = class_config(shrink(None, {"model_type": kind, SCHEMAS[kind].keys["n_layers"]: 2}))
    with recorded_names(type(config)) as names, torch.no_grad():
        build_class(config, attn_implementation="eager").eval()(torch.ones(1, 4).long())
    methods = {name for name in names if callable(getattr(type(config), name, None))}
    return names - methods


@contextmanager
def recorded_names(kind: type) -> Iterator[set[str]]:
    names: set[str] = set()
    original = kind.__getattribute__

    def recording(self: object, name: str) -> object:
        names.add(name)
        return original(self, name)

    kind.__getattribute__ = recording
    try:
        yield names
    finally:
        kind.__getattribute__ = original


@torch.no_grad()
def test_rwkv_is_the_class_in_training_and_in_evaluation_but_for_its_halved_stream():
    """Every two layers the class halves the stream, and once, in place, the weights of what is added to it:
    norms then add as much to smaller variances."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "vocab_size": 30, "attention_hidden_size": 24}
    theirs = transformers.RwkvForCausalLM(
        transformers.RwkvConfig(**sizes, rescale_every=2, context_length=16, use_cache=False)
    )
    generator = torch.Generator().manual_seed(0)
    for tensor in theirs.parameters():
        tensor.add_(torch.empty_like(tensor).normal_(0, 0.2, generator=generator))
    imported = from_hf(theirs.config.to_dict(), "config.json")
    assert (imported.notes, imported.unsupported) == ((), ())
    ours = Transformer(with_defaults(imported.fields).model)
    held = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    rows, parts, _ = match_tensors("rwkv", ours.state_dict(), ours.model, held)
    for row in rows:
        row.copy_to_parts(held[row.name], parts, ours.model)
    tokens = torch.randint(30, (2, 16), generator=generator)
    found = ours(tokens)
    torch.testing.assert_close(theirs.train()(tokens).logits, found, rtol=0, atol=1e-4)
    torch.testing.assert_close(theirs.eval()(tokens).logits, found, rtol=0, atol=1e-3)
    changed = [name for name, tensor in theirs.state_dict().items() if not torch.equal(tensor, held[name])]
    assert changed == [
        f"rwkv.blocks.{layer}.{name}.weight"
        for layer in (2, 3, 4, 5)
        for name in ("attention.output", "feed_forward.value")
    ]
    assert to_hf(ours.model, "rwkv").document["rescale_every"] == 0


@pytest.mark.parametrize("shares", [(0.334, 0.334), (0.334, 0.5), (0.5, 0.334)], ids=str)
@torch.no_grad()
def test_odd_rotary_widths_of_each_kind_of_layer_are_those_of_the_class(shares):
    """A third of 16 elements is 5: the class has three frequencies of five."""
    bases = {"full_attention": 5e6, "sliding_attention": 1e4}
    config = {
        "model_type": "mimo_v2_flash", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "v_head_dim": 12, "intermediate_size": 48,
        "vocab_size": 40, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "sliding_window": 5, "layer_types": [*bases], "mlp_layer_types": ["dense", "sparse"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": share}
            for (kind, base), share in zip(bases.items(), shares, strict=True)
        },
    }  # fmt: skip
    imported = from_hf(config, "config.json")
    assert imported.unsupported == ()
    model = with_defaults(imported.fields).model.replace(fused_experts=True)
    widths = [6 if share == 0.334 else 8 for share in shares]
    assert [model.rotary_width(local=local) for local in (False, True)] == widths
    theirs, ours = random_class(config), Transformer(model)
    held, tokens = theirs.state_dict(), torch.arange(40).reshape(2, 20)
    rows, parts, _ = match_tensors("mimo_v2_flash", ours.state_dict(), model, held)
    for row in rows:
        row.copy_to_parts(held[row.name], parts, model)
    expected = theirs(tokens).logits
    torch.testing.assert_close(ours(tokens), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
