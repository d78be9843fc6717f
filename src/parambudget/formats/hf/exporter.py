"""A model as a Hugging Face config.json: the plainest class that is the model, or refused with the reason.

The tables of `read` are turned round, and what comes out is read again by it: a class is taken exactly when
that gives the same model. So there is one source of truth, and a wrong key can refuse, but not mislead.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from parambudget.arch.config import ModelConfig, flat
from parambudget.arch.defaults import complete
from parambudget.arch.hf.written import KEYS, activation
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Attempt, Export, chosen
from parambudget.formats.hf.importer import FAMILIES, from_hf
from parambudget.formats.hf.schema import ABSENT, Family

CLASSES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM",
    "olmo2": "Olmo2ForCausalLM", "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM", "phi": "PhiForCausalLM",
    "gpt_neo": "GPTNeoForCausalLM", "gptj": "GPTJForCausalLM", "opt": "OPTForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM", "falcon": "FalconForCausalLM", "bloom": "BloomForCausalLM",
    "mpt": "MptForCausalLM", "gpt_bigcode": "GPTBigCodeForCausalLM",
    "stablelm": "StableLmForCausalLM", "smollm3": "SmolLM3ForCausalLM", "olmo": "OlmoForCausalLM",
    "cohere": "CohereForCausalLM", "cohere2": "Cohere2ForCausalLM", "granite": "GraniteForCausalLM",
    "glm": "GlmForCausalLM", "glm4": "Glm4ForCausalLM", "nemotron": "NemotronForCausalLM",
    "arcee": "ArceeForCausalLM", "seed_oss": "SeedOssForCausalLM",
    "codegen": "CodeGenForCausalLM", "openai-gpt": "OpenAIGPTLMHeadModel", "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM", "olmoe": "OlmoeForCausalLM", "gpt_oss": "GptOssForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM", "phimoe": "PhimoeForCausalLM",
}  # fmt: skip
"""Types and their classes in the order in which they are tried: plain and widely supported ones first.

Source: `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` of transformers 5.24.
"""
NO_DROPOUT: Final[Mapping[str, tuple[str, ...]]] = {
    "gpt2": ("attn_pdrop", "embd_pdrop", "resid_pdrop"), "opt": ("dropout",),
    "gpt_bigcode": ("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    "openai-gpt": ("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    "seed_oss": ("attention_dropout", "residual_dropout"),
}  # fmt: skip
"""Keys of dropout that the class would otherwise have at 0.1: a `ModelConfig` has none."""
_HEADS_OF_LATENTS: Final = ("deepseek_v2", "deepseek_v3")
"""Classes that divide heads by a number of key/value heads that they do not otherwise use."""


def to_hf(model: ModelConfig, kind: str | None = None) -> Export:
    """The config.json of the first class that is this model, or of the `kind` asked for.

    What a class computes beyond the model is a note. Raises `ConfigError` with what the nearest class lacks.
    """
    if kind is not None and kind not in CLASSES:
        raise ConfigError(f"{kind!r} is no class to export to; use one of {', '.join(CLASSES)}")
    kinds = CLASSES if kind is None else (kind,)
    able = [one for one in kinds if _has_the_blocks(FAMILIES[one], model)]
    if not able:
        raise ConfigError(
            f"{kind} is a class with {_blocks_of(FAMILIES[str(kind)])}, and this model has none; use another"
        )
    told = "no class of transformers" if kind is None else f"no form of {kind}"
    return chosen(model, [partial(_attempt, one, model) for one in able], told)


def _has_the_blocks(family: Family, model: ModelConfig) -> bool:
    """Whether the class's keys for experts and latents have anything to say; where it has dense layers too,
    experts may be in none."""
    if "kv_lora_rank" in family.defaults and model.mla is None:
        return False
    only_experts = "num_experts_per_tok" in family.defaults and "intermediate_size" not in family.keys
    return model.moe is not None or not only_experts


def _blocks_of(family: Family) -> str:
    return "latent attention" if "kv_lora_rank" in family.defaults else "experts"


def _attempt(kind: str, model: ModelConfig) -> Attempt:
    document = _written(kind, FAMILIES[kind], model)
    imported = from_hf(document, kind)
    said = (
        f"{CLASSES[kind]} has the same count, but computes {', '.join(imported.unsaid)}: a model with other "
        "logits",
    )
    export = Export(kind, document, said if imported.unsaid else (), imported.unsaid)
    return Attempt(export, complete(imported.fields).model)


def _written(kind: str, family: Family, model: ModelConfig) -> dict[str, Any]:
    """The class's keys with what the model says under them."""
    own = flat(model)
    said = {key: own.get(field) for field, key in family.keys.items()}
    if "activation" in family.keys:
        said[family.keys["activation"]] = activation(model)
    if family.keys.get("rope_theta_local"):
        said[family.keys["rope_theta_local"]] = model.rope_theta_local or model.rope_theta
    said |= {key: KEYS[key](model) for key in family.defaults if key in KEYS and key not in said}
    document = {key: value for key, value in said.items() if value is not None or _takes_null(family, key)}
    if document.get("use_sliding_window") is False:
        for key in ("layer_types", "sliding_window"):
            document.pop(key, None)
    if family.usual_rotation:
        document["rope_parameters"] = {"rope_type": "default", "rope_theta": document.pop("rope_theta")}
    if kind in _HEADS_OF_LATENTS and model.mla:
        document |= {"num_key_value_heads": model.n_heads, "head_dim": model.mla.qk_rope_head_dim}
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        **_in_objects(document),
        **dict.fromkeys(NO_DROPOUT.get(kind, ()), 0.0),
        # Of a tokenizer that there is not: some classes' own would be outside of a small vocabulary.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }


def _takes_null(family: Family, key: str) -> bool:
    default = family.defaults.get(key, ABSENT)
    return default is None or key in family.nullable


def _in_objects(document: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of an object within the config put into it."""
    whole: dict[str, Any] = {}
    for key, value in document.items():
        outer, _, inner = key.partition(".")
        if inner:
            whole.setdefault(outer, {})[inner] = value
        else:
            whole[key] = value
    return whole
