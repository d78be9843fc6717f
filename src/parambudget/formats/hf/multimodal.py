"""The language model of an image-text or audio-text config: where it stands, of which type, and who ties it.

A record for every such type of transformers 5 whose language model is a decoder; tests/formats holds them
against the classes. In a type without a record the config of the language model must name its own type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from parambudget.errors import ConfigError
from parambudget.formats.hf.families.registry import class_hint
from parambudget.units import short_repr

Ties = Literal["whole", "text", "either", "never"]
"""Who says that the output head is the embedding: the whole config, that of the language model, either of the
two, or nobody, where the class never ties them."""


@dataclass(frozen=True, kw_only=True)
class MultimodalType:
    """How the class of a `model_type` reads the config of its language model."""

    text_type: str
    """The language model's `model_type`, or that of the part that holds it: an omni model's thinker."""
    is_fixed: bool = False
    """Whether the class takes the text type from here, whatever the config of the language model says."""
    text_key: str = "text_config"
    is_flat: bool = False
    """Whether keys of the language model may stand beside the others, without an object of their own."""
    ties: Ties = "whole"
    tied: bool | None = False
    """The default of the whole config's `tie_word_embeddings`; None for that of the language model."""
    without_text: Mapping[str, Any] = field(default_factory=dict)
    """What the class takes for a config without one for the language model."""
    missing_keys: Mapping[str, Any] = field(default_factory=dict)
    """What it adds to the given config of the language model, where a key is missing or null."""


class LanguageModel(NamedTuple):
    """The config of a language model, and where it stands in the whole one."""

    place: str | None
    """Such as "text_config"; None where the whole config is that of a language model."""
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def _type(text_type: str, **others: Any) -> MultimodalType:
    return MultimodalType(text_type=text_type, **others)


def _own(text_type: str, **others: Any) -> MultimodalType:
    """A type whose class has a config class of its own for the language model."""
    return MultimodalType(text_type=text_type, is_fixed=True, **others)


# fmt: off
_GOT_OCR_TEXT: Final = {
    "vocab_size": 151860, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 32768,
    "tie_word_embeddings": True, "rope_theta": 1_000_000.0, "max_window_layers": 21,
}
_QWEN3_AUDIO_TEXT: Final = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
_GLM_ASR_TEXT: Final = {
    "vocab_size": 59264, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
}
_VOXTRAL_TEXT: Final = {
    "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 30,
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "head_dim": 128,
    "rope_theta": 100_000_000.0,
}
_VOXTRAL_REALTIME_TEXT: Final = {
    "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0, "head_dim": 128, "tie_word_embeddings": True,
    "sliding_window": 8192,
}

MULTIMODAL_TYPES: Final[Mapping[str, MultimodalType]] = {
    "apertus1p5": _own("apertus1p5_text"),
    "aria": _own("aria_text"),
    "aya_vision": _type("cohere2", tied=True),
    "blip-2": _type("opt", ties="text"),
    "cohere2_vision": _type("cohere2", tied=True),
    "cohere_compass": _own("cohere_compass_text"),
    "cosmos3_edge": _own("cosmos3_edge_text", ties="never"),
    "cosmos3_omni": _type("qwen3_vl_text"),
    "deepseek_ocr2": _own("deepseek_ocr2_text"),
    "deepseek_vl": _type("llama", tied=True),
    "deepseek_vl_hybrid": _type("llama", tied=True),
    "emu3": _own("emu3_text_model"),
    "ernie4_5_vl_moe": _own("ernie4_5_vl_moe_text", tied=True),
    "exaone4_5": _type("exaone4"),
    "fast_vlm": _type("qwen2", ties="either", without_text={
        "hidden_size": 3584, "vocab_size": 152128, "intermediate_size": 18944, "num_attention_heads": 28,
        "num_key_value_heads": 4, "num_hidden_layers": 28,
    }),
    "fun_asr_nano": _type("qwen3", tied=True, without_text=_QWEN3_AUDIO_TEXT | {
        "max_position_embeddings": 40960, "tie_word_embeddings": True,
    }),
    "fuyu": _type("persimmon", is_flat=True, without_text={
        "vocab_size": 262144, "max_position_embeddings": 16384, "hidden_size": 4096,
        "intermediate_size": 16384, "num_hidden_layers": 36, "num_attention_heads": 64,
    }),
    "gemma3": _own("gemma3_text", tied=True),
    "gemma3n": _own("gemma3n_text", tied=True),
    "gemma4": _own("gemma4_text", tied=True),
    "gemma4_unified": _own("gemma4_unified_text", tied=True),
    "glm46v": _type("glm4v_text"),
    "glm4v": _own("glm4v_text", ties="either"),
    "glm4v_moe": _own("glm4v_moe_text", ties="either"),
    "glm5_next": _own("glm5_next_text"),
    "glm_ocr": _own("glm_ocr_text", ties="either"),
    "glmasr": _type("llama", tied=True, without_text=_GLM_ASR_TEXT, missing_keys=_GLM_ASR_TEXT),
    "glmga": _type("glm4v_text"),
    "got_ocr2": _type("qwen2", tied=True, without_text=_GOT_OCR_TEXT),
    "granite4_vision": _own("granite4_vision_text"),
    "granite_docling": _own("granite_docling_text", tied=True),
    "granite_speech": _type("granite", tied=True),
    "granite_speech_plus": _type("granite", tied=True),
    "hunyuan_vl": _own("hunyuan_vl_text", is_flat=True, ties="either", tied=True),
    "hy_v4_vl": _own("hy_v4_vl_text"),
    "hyperclovax_vision_v2": _type("hyperclovax", tied=True),
    "idefics2": _type("mistral", without_text={"max_position_embeddings": 32768, "rms_norm_eps": 1e-5}),
    "idefics3": _type("llama", without_text={"rms_norm_eps": 1e-5}),
    "instructblip": _type("opt", ties="text"),
    "instructblipvideo": _type("opt", ties="text"),
    "internvl": _type("qwen2", tied=True),
    "janus": _type("llama", tied=True),
    "kimi_k25": _type("deepseek_v3", tied=True),
    "lfm2_vl": _type("lfm2", tied=True),
    "lfm3_vl": _type("lfm3", tied=True),
    "lighton_ocr": _type("qwen3", tied=True, without_text=_QWEN3_AUDIO_TEXT | {
        "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1_000_000.0,
    }),
    "llama4": _own("llama4_text", ties="text"),
    "llava": _type("llama", ties="either"),
    "llava_next": _type("llama"),
    "llava_next_video": _type("llama", ties="either"),
    "llava_onevision": _type("qwen2", ties="either"),
    "minicpm_ocr": _type("qwen3_5_text", tied=True),
    "minicpmv4_6": _type("qwen3_5_text"),
    "minicpmv4_7": _type("qwen3_5_text"),
    "minimax_m3_vl": _own("minimax_m3_vl_text", ties="either"),
    "mistral3": _type("mistral", tied=True, without_text={
        "vocab_size": 131072, "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "rope_theta": 1_000_000_000.0, "sliding_window": None,
    }),
    "mistral_large4": _own("mistral_large4_text"),
    "mllama": _own("mllama_text_model", ties="never"),
    "molmo2": _own("molmo2_text"),
    "moss_transcribe_diarize": _type("qwen3", tied=True, without_text=_QWEN3_AUDIO_TEXT | {
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_theta": 1_000_000.0, "rope_type": "default"},
    }),
    "omniasr": _type("llama", ties="never", without_text={
        "vocab_size": 11984, "intermediate_size": 2816, "max_position_embeddings": 8192,
        "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    }),
    "ovis2": _type("qwen2", tied=True),
    "paddleocr_vl": _own("paddleocr_vl_text", is_flat=True, ties="either", tied=True),
    "paligemma": _type("gemma", tied=True, missing_keys={"use_bidirectional_attention": True}, without_text={
        "hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16384, "num_attention_heads": 8,
        "num_key_value_heads": 1, "vocab_size": 257152,
    }),
    "perception_lm": _type("llama", tied=None),
    "pp_chart2table": _type("qwen2", tied=True, without_text=_GOT_OCR_TEXT),
    "qianfan_ocr": _type("qwen3"),
    "qwen2_5_omni": _own("qwen2_5_omni_thinker", text_key="thinker_config"),
    "qwen2_5_omni_thinker": _own("qwen2_5_omni_text"),
    "qwen2_5_vl": _own("qwen2_5_vl_text", is_flat=True, ties="either"),
    "qwen2_audio": _type("qwen2", ties="never"),
    "qwen2_vl": _own("qwen2_vl_text", is_flat=True, ties="either"),
    "qwen3_5": _own("qwen3_5_text"),
    "qwen3_5_moe": _own("qwen3_5_moe_text"),
    "qwen3_asr": _type("qwen3", tied=True, without_text={
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 65536,
        "tie_word_embeddings": True,
    }),
    "qwen3_omni_moe": _own("qwen3_omni_moe_thinker", text_key="thinker_config"),
    "qwen3_omni_moe_thinker": _own("qwen3_omni_moe_text"),
    "qwen3_vl": _own("qwen3_vl_text"),
    "qwen3_vl_moe": _own("qwen3_vl_moe_text"),
    "qwen4_exp": _own("qwen4_exp_text"),
    "shieldgemma2": _type("gemma3_text", ties="either"),
    "smolvlm": _type("llama", without_text={"rms_norm_eps": 1e-5}),
    "step3p7": _own("step3p5"),
    "unlimited_ocr": _own("unlimited_ocr_text"),
    "vibevoice_asr": _type("qwen2", ties="never"),
    "video_llama_3": _type("qwen2", ties="either"),
    "video_llava": _type("llama"),
    "vipllava": _type("llama"),
    "voxtral": _type("llama", ties="never", without_text=_VOXTRAL_TEXT, missing_keys=_VOXTRAL_TEXT),
    "voxtral_realtime": _type(
        "voxtral_realtime_text", tied=True, without_text=_VOXTRAL_REALTIME_TEXT,
        missing_keys=_VOXTRAL_REALTIME_TEXT,
    ),
}
# fmt: on

_TEXT_KEYS: Final = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where a type without a record may have the config of its language model."""
_OTHER_MODALITIES: Final = ("vision_config", "audio_config")
_TIE: Final = "tie_word_embeddings"


def language_model(document: Mapping[str, Any]) -> LanguageModel:
    """The config of the language model in a multimodal one, with its `model_type` and its own ties; any other
    config as it is.

    Raises `ConfigError` for anything but a decoder-only language model.
    """
    model_type = document["model_type"]
    if document.get("is_encoder_decoder"):
        raise _encoder_decoder(document)
    known = MULTIMODAL_TYPES.get(model_type) if isinstance(model_type, str) else None
    found = _find_text(document) if known is None else _text_of(document, known)
    if found.place is None:
        if any(isinstance(document.get(name), dict) for name in _OTHER_MODALITIES):
            hint = class_hint(model_type) or "give the language model's own"
            raise ConfigError(f"a multimodal config ({short_repr(model_type)}) without text_config; {hint}")
        return found
    if found.config.get("is_encoder_decoder"):
        raise _encoder_decoder(document)
    inner = language_model(found.config)
    if inner.place is None:
        return found
    return inner._replace(place=f"{found.place}.{inner.place}", notes=(*found.notes, *inner.notes))


def _text_of(document: Mapping[str, Any], known: MultimodalType) -> LanguageModel:
    """The language model of a type that has a record."""
    key, notes = known.text_key, list[str]()
    place, given = key, document.get(key)
    if isinstance(given, dict):
        text = {**known.missing_keys, **given}
    elif given is not None:
        raise ConfigError(f"{key} is {short_repr(given)}; it must be an object")
    elif known.is_flat and (beside := _flat_keys(document)):
        place, text = _BESIDE, beside
    else:
        text = {**known.missing_keys, **known.without_text}
        notes.append(f"{key} is missing; that of the class stands for it")
    text["model_type"] = known.text_type if known.is_fixed else text.get("model_type", known.text_type)
    own = text.get(_TIE)
    text |= _ties(document, known)
    if own is not None and text[_TIE] != own:
        notes.append(f"{_TIE}={str(own).lower()} of the {place} is not what the class goes by")
    return LanguageModel(place, text, tuple(notes))


_BESIDE: Final = "language model"
"""In place of a key, where the keys of the language model stand beside the others."""


def _flat_keys(document: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config that may be the language model's, where they stand beside the others."""
    others = ("model_type", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype", _TIE)
    return {
        key: value
        for key, value in document.items()
        if key not in others and not key.endswith(("_config", "_token_id"))
    }


def _ties(document: Mapping[str, Any], known: MultimodalType) -> dict[str, Any]:
    """What the whole config says of the language model's ties; nothing where that says so itself."""
    tied = document.get(_TIE, known.tied)
    if known.ties == "never":
        return {_TIE: False}
    if known.ties == "text" or tied is None or (known.ties == "either" and not tied):
        return {}
    return {_TIE: tied}


def _find_text(document: Mapping[str, Any]) -> LanguageModel:
    """The language model of a type without a record, by the keys that are usual."""
    key = next((key for key in _TEXT_KEYS if isinstance(document.get(key), dict)), None)
    if key is None:
        return LanguageModel(None, document)
    # Its ties are those of the whole model, which has the output head.
    text = {name: document[name] for name in (_TIE,) if name in document} | document[key]
    if "model_type" not in text:
        model_type = short_repr(document["model_type"])
        raise ConfigError(
            f"a multimodal config ({model_type}) whose {key} has no model_type; add that of its class"
        )
    return LanguageModel(key, text)


def _encoder_decoder(document: Mapping[str, Any]) -> ConfigError:
    model_type = document["model_type"]
    hint = class_hint(model_type)
    return ConfigError(
        f"an encoder-decoder config ({short_repr(model_type)}); only decoder-only models are read"
        + (f"; {hint}" if hint else "")
    )
