"""What a person should know about how a Hugging Face config was read, in one line each."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from parambudget.formats.hf.schema import ANY, Config, Family

_COUNTED_FIELDS: Final = (
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "intermediate_size",
    "vocab_size",
    "tied",
)
_COUNTED_KEYS: Final = frozenset({
    "first_k_dense_replace", "kv_lora_rank", "moe_intermediate_size", "n_routed_experts", "n_shared_experts",
    "num_experts", "num_experts_per_tok", "num_kv_heads", "num_local_experts", "q_lora_rank",
    "shared_expert_intermediate_size",
})  # fmt: skip
_SILENT: Final = re.compile(
    r"""_?(name_or_path|architectures|auto_map|model_type|transformers_version|torch_dtype|dtype|prefix
    |quantization_config|compression_config|rope_scaling|rope_parameters|rope_theta|attn_config|verbose
    |is_decoder|is_encoder_decoder|task_specific_params|problem_type|tokenizer_class|n_ctx|per_layer_config
    |label2id|id2label|num_labels|pretraining_tp|classifier.*|summary_.*|output_.*|return_.*|use_cache|chunk_.*
    |.*dropout.*|.*pdrop|layerdrop|init_device|.*token.*|unk_.*|.*aux_loss.*|.*jitter.*|.*z_loss.*|ep_size
    |gradient_checkpointing|.*softmax_in_fp32|.*_fusion|skip_bias_add.*|offset_alibi|slow_but_exact
    |hidden_act_.*|model_max_length|max_sequence_length|attn_implementation|cache_implementation
    |experts_implementation|.*initializer.*|reorder_and_upcast_attn|torchscript|rotary|hf_.*|sep_.*|eos_.*
    |bos_.*|pad_.*|vocab_file|max_length|min_length|temperature|top_k|top_p|do_sample|num_beams)""",
    re.VERBOSE,
)
"""Keys that say nothing about the architecture: training, files, tokens, generation."""


def notes_on(family: Family, given: Mapping[str, Any], kind: str, unsaid: Sequence[str]) -> tuple[str, ...]:
    """What the count does not show: functions that cannot be said, keys that the class does not read."""
    notes = []
    if unsaid:
        notes.append(f"counted exactly, but built without {', '.join(unsaid)}: a model with other logits")
    unread = sorted(key for key, value in given.items() if _worth_a_note(key, value, family))
    if unread:
        notes.append(f"not read by {kind}: {', '.join(unread)}")
    return (*notes, *_of_other_heads(given), *_left_to_the_class(family, given))


def _left_to_the_class(family: Family, given: Mapping[str, Any]) -> list[str]:
    """Sizes and ties that the config does not say."""
    sizes = {family.keys[field] for field in _COUNTED_FIELDS if field in family.keys} | _COUNTED_KEYS
    absent = [key for key in family.defaults if key in sizes and key not in given]
    said = [f"{key}={json.dumps(family.defaults[key])}" for key in absent]
    return [f"left to the class: {', '.join(said)}"] if said else []


def unsaid_by(family: Family, config: Config) -> list[str]:
    """What the class computes and `ModelConfig` cannot say."""
    told = [
        family.wording.get(key, f"{key}={config[key]!r}")
        for key, value in family.unsaid.items()
        if config[key] != value and (config[key] or value)
    ]
    return [*told, *family.always_unsaid]


def _worth_a_note(key: str, value: Any, family: Family) -> bool:
    """A key that the class does not read; null, false and nothing say nothing."""
    if key in family.defaults or not value or key in ("num_nextn_predict_layers", "num_mtp_layers"):
        return False
    if key in family.inert:
        return family.inert[key] is not ANY and family.inert[key] != value
    return not _SILENT.fullmatch(key)


def _of_other_heads(given: Mapping[str, Any]) -> list[str]:
    """Heads other than the one over the vocabulary."""
    notes = []
    if given.get("num_nextn_predict_layers"):
        notes.append("layers for predicting further tokens are no part of the class: not counted")
    architectures = given.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    if names and not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        notes.append(f"counted with a head over the vocabulary, not as {names[0]}")
    return notes
