"""Of an image-text or audio-text config the language model is read, as the class of the whole builds it."""

import itertools

import pytest
import torch
import transformers
from support.hf_configs import TEXT_MODELS, build_class, class_config, shrink
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from parambudget.arch.defaults import with_defaults
from parambudget.cost.params import count
from parambudget.errors import ConfigError
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.multimodal import MULTIMODAL_TYPES, language_model
from parambudget.formats.hf.weights import match_tensors
from parambudget.nn.transformer import Transformer

logging.set_verbosity_error()
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # the classes' own warnings are not under test
]

READ = {kind: own for kind, own in MULTIMODAL_TYPES.items() if own.text_type in FAMILIES}
CANNOT_BE_BUILT = {
    "fast_vlm", "perception_lm", "gemma3n",  # their image encoders are of the package timm
    "fun_asr_nano", "granite_docling",  # their parts must agree in width
    "hunyuan_vl", "granite4_vision",  # their image encoders have no defaults
    "omniasr",  # its head is as wide as the alphabet
}  # fmt: skip
"""Types whose whole class is not built here; what their config class says is compared all the same."""
SMALL_ENCODER = {"num_hidden_layers": 1, "depth": 1, "num_layers": 1, "encoder_layers": 1}
TEXT = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1,
    "vocab_size": 96,
}  # fmt: skip
OWN_TEXT: dict[str, dict[str, object]] = {
    "apertus1p5": {"vocab_size": 266_440},  # its codes of images and sounds have fixed places
    "cohere_compass": {
        "layer_types": ["full_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
    },
    "exaone4_5": {"model_type": "exaone4"},
    "lfm3_vl": {"pad_token_id": 0},
    "opt": {"word_embed_proj_dim": 64, "ffn_dim": 96},
}  # fmt: skip
"""What a type of the whole, or of the language model, wants beside `TEXT`."""


@pytest.mark.parametrize("kind", MULTIMODAL_TYPES)
def test_the_record_of_a_type_is_what_its_config_class_says(kind):
    known = MULTIMODAL_TYPES[kind]
    spec = CONFIG_MAPPING[kind].sub_configs_defaults[known.text_key]
    assert (known.text_type, known.is_fixed) == (spec.model_type, spec.config_class is not AutoConfig)
    assert {key: spec.init_kwargs[key] for key in known.without_text} == known.without_text


@pytest.mark.parametrize("kind", [kind for kind in READ if kind != "fun_asr_nano"])
@pytest.mark.parametrize("given", [{}, {"num_hidden_layers": 3}], ids=["without", "with"])
def test_keys_that_are_left_out_are_those_of_the_class(kind, given):
    """Sizes and what changes the logits, with a config for the language model and without."""
    key = MULTIMODAL_TYPES[kind].text_key
    if given and kind == "exaone4_5":
        given = {**given, "model_type": "exaone4"}  # which its class does not fill in
    theirs = CONFIG_MAPPING[kind](**({key: dict(given)} if given else {})).get_text_config(decoder=True)
    place = language_model({"model_type": kind, **({key: given} if given else {})})
    schema = FAMILIES[place.config["model_type"]].config
    ours = {**schema.defaults, **place.config}
    rotation = getattr(theirs, "rope_parameters", None) or {}
    rotation = rotation.get("full_attention", rotation)
    fields = {*schema.keys.values()} - {
        "tie_word_embeddings",
        "rope_theta",
        "partial_rotary_factor",
        "head_dim",
    }
    known = sorted(key for key in fields if hasattr(theirs, key) and ours[key] is not None)
    assert {key: ours[key] for key in known} == {key: getattr(theirs, key) for key in known}
    if "rope_theta" in schema.keys:
        assert {"rope_theta": ours["rope_theta"], **ours.get("rope_parameters", {})}["rope_theta"] == (
            rotation["rope_theta"]
        )


def small_whole(kind: str, text: dict[str, object], whole: dict[str, object]) -> dict[str, object]:
    """A config of the whole with a small language model and one layer of everything else."""
    config = {"model_type": kind, "text_config": TEXT | text} | whole
    for key, part in CONFIG_MAPPING[kind]().to_dict().items():
        if isinstance(part, dict) and key.endswith("config") and key != "text_config":
            small = {name: value for name, value in SMALL_ENCODER.items() if name in part}
            config[key] = {"model_type": part["model_type"], **small} if "model_type" in part else small
    return config


def language_model_count(config: dict[str, object]) -> int:
    """The parameters of the language model and the head that the class of the whole builds, in no memory."""
    kind = config["model_type"]
    names = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    model_class = getattr(transformers, names[kind])
    with torch.device("meta"):
        model: PreTrainedModel = model_class._from_config(CONFIG_MAPPING[kind].from_dict(config))
    decoder = next(
        module for name, module in model.named_modules() if name.endswith(("language_model", "text_model"))
    )
    head = model.get_output_embeddings()
    parameters = {id(one): one.numel() for part in (decoder, head) for one in part.parameters()}
    return sum(parameters.values())


def our_count(config: dict[str, object]) -> int:
    return count(with_defaults(from_hf(config, "config.json").fields).model).total


TIES = [
    ({} if whole is None else {"tie_word_embeddings": whole}, {"tie_word_embeddings": text})
    for whole, text in itertools.product((None, True, False), (True, False))
]
"""What the whole config and that of the language model say of the head."""
BUILT = sorted(
    kind for kind in READ
    if kind in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES and kind not in CANNOT_BE_BUILT
    and MULTIMODAL_TYPES[kind].text_key == "text_config"
)  # fmt: skip
USUAL = ("gemma3", "llava", "mistral3", "qwen2_5_vl", "qwen3_vl_moe", "voxtral")


def require_equal_counts(kind: str, ties: list[tuple[dict[str, object], dict[str, object]]]) -> None:
    for whole, text in ties:
        config = small_whole(kind, text, whole)
        text_type = MULTIMODAL_TYPES[kind].text_type
        config["text_config"] |= OWN_TEXT.get(kind, OWN_TEXT.get(text_type, {}))
        if kind == "ovis2":
            # Its head has the sizes that the whole config says, and runs if they are the same.
            config |= {key: TEXT[key] for key in ("hidden_size", "vocab_size")}
        assert our_count(config) == language_model_count(config), (whole, text)


@pytest.mark.parametrize("kind", [kind for kind in USUAL if kind in BUILT])
def test_the_count_is_that_of_the_language_model_in_the_whole(kind):
    require_equal_counts(kind, [TIES[0], TIES[3], TIES[4]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILT)
def test_every_type_counts_the_language_model_with_the_ties_of_the_whole(kind):
    require_equal_counts(kind, TIES)


@pytest.mark.parametrize("kind", sorted(TEXT_MODELS))
def test_positions_in_three_dimensions_are_rotary_positions_for_text(kind):
    config = shrink(None, {"model_type": kind, "num_hidden_layers": 2})
    config |= {"first_k_dense_replace": 1} if kind == "glm4v_moe_text" else {}
    imported = from_hf(config, "config.json")
    assert imported.unsupported == ()
    model = with_defaults(imported.fields).model
    model = model.replace(fused_experts=True) if model.moe else model
    theirs = build_class(class_config(config), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    held = theirs.state_dict()
    for tensor in held.values():
        tensor.normal_(0, 0.2, generator=generator)
    ours = Transformer(model)
    rows, parts, _ = match_tensors(kind, ours.state_dict(), model, held)
    for row in rows:
        row.copy_to_parts(held[row.name], parts, model)
    tokens = torch.randint(model.vocab_size, (2, 16), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_text_keys_beside_those_for_images_are_read():
    flat = {
        "model_type": "qwen2_vl", **TEXT, "intermediate_size": 128,
        "vision_config": {"depth": 1}, "image_token_id": 5, "tie_word_embeddings": True,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "rope_theta": 5e5,
    }  # fmt: skip
    imported = from_hf(flat, "")
    assert imported.notes[0] == "of this 'qwen2_vl' only the language model is read, a qwen2_vl_text"
    nested = {key: value for key, value in flat.items() if key not in ("model_type", "vision_config")}
    assert imported.fields == from_hf({"model_type": "qwen2_vl", "text_config": nested}, "").fields
    assert imported.fields["tied"]
    assert imported.fields["rope_theta"] == 5e5
    assert imported.unsupported == ()
    theirs = CONFIG_MAPPING["qwen2_vl"].from_dict(flat).text_config
    assert (theirs.hidden_size, theirs.rope_parameters["rope_theta"]) == (64, 5e5)


def test_the_language_model_of_an_omni_model_is_its_thinkers():
    config = {"model_type": "qwen2_5_omni", "thinker_config": {"text_config": TEXT}, "talker_config": {}}
    imported = from_hf(config, "")
    assert imported.notes[0] == (
        "of this 'qwen2_5_omni' only the thinker_config.text_config is read, a qwen2_5_omni_text"
    )
    assert imported.fields["dim"] == 64
    assert not imported.fields["tied"]


def test_a_language_model_without_a_type_has_that_of_the_class():
    imported = from_hf({"model_type": "llava", "text_config": TEXT}, "")
    assert imported.fields == from_hf({"model_type": "llama", **TEXT}, "").fields
    unknown = {"model_type": "someones_vl", "llm_config": {"model_type": "llama", **TEXT}}
    assert from_hf(unknown, "").fields == imported.fields
    with pytest.raises(ConfigError, match="whose llm_config has no model_type; add that of its class"):
        from_hf({"model_type": "someones_vl", "llm_config": TEXT}, "")


def test_a_missing_language_model_and_ties_that_are_not_read_are_said():
    assert (
        "text_config is missing; that of the class stands for it"
        in from_hf({"model_type": "llava"}, "").notes
    )
    other = {"model_type": "qwen3_vl", "text_config": TEXT | {"tie_word_embeddings": True}}
    note = "tie_word_embeddings=true of the text_config is not what the class goes by"
    assert note in from_hf(other, "").notes
    with pytest.raises(ConfigError, match="text_config is 'x'; it must be an object"):
        from_hf({"model_type": "llava", "text_config": "x"}, "")


def test_a_language_model_that_sees_later_tokens_is_not_taken_for_a_usual_one():
    assert from_hf({"model_type": "paligemma"}, "").unsupported == ("use_bidirectional_attention=True",)
