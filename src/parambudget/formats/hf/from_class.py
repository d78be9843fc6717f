"""The parameters of a config.json, counted from the class that the installed transformers has for it.

For what has no family here. The class is built on the meta device, in no memory, and its parameters are read:
nothing is derived, and nothing of it is a `ModelConfig`. Code that a config names (auto_map) never runs.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from parambudget._files import read_json
from parambudget.arch.validation import MOST_LAYERS
from parambudget.errors import ConfigError
from parambudget.formats.hf.class_count import CLASS_COMPONENTS, ClassComponent, ClassCount
from parambudget.formats.unread import require_readable
from parambudget.units import count_phrase, short_repr, shorten

_MAPPINGS: Final = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_MAPPING_NAMES",
)  # fmt: skip
"""Where the class of a type is looked up if the config names none: language models first."""
_HOW_TO_RUN: Final = (
    "quantization_config", "attn_implementation", "_attn_implementation", "experts_implementation",
    "_experts_implementation", "dtype", "torch_dtype",
    "use_pretrained_backbone",
)  # fmt: skip
"""Keys that say where weights are, how they are stored or what they are computed with."""
_NUMBER_OF_LAYERS: Final = re.compile(r"(layers?|depth|blocks)$")
_TOP_K: Final = (
    "top_k", "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "topk", "moe_k",
    "num_selected_experts", "top_k_experts", "num_activated_experts",
)  # fmt: skip
"""What routers, their blocks and configs call the number of experts that a token uses."""
_NUMBER_OF_EXPERTS: Final = re.compile(r"^(moe_)?(num|n)_(.*_)?experts$")
_ZERO_EXPERTS: Final = re.compile(r"zero_expert_num|n_zero_experts")
_OTHER_MODALITIES: Final = re.compile(
    r"vision|visual|audio|image|speech|video|codec|vq|qformer|multi_modal|multimodal|mm_|projector|tower"
    r"|aligner|connector|talker|code2wav|token2wav|abstractor|perceiver"
)
_PLACES: Final[Mapping[ClassComponent, re.Pattern[str]]] = {
    "norm": re.compile(r"norm|(^|_)ln(_|\d|$)", re.IGNORECASE),
    "router": re.compile(r"router|TopKGate|^(gate|wg|shared_expert_gate) (?!.*(Attention|Mixer))"),
    "mixer": re.compile(
        r"attn|attention|mamba|mixer|ssm|rwkv|lstm|recurrent|rg_lru|linear_att|delta|short_?conv|^conv",
        re.IGNORECASE,
    ),
    "ffn": re.compile(
        r"mlp|ffn|feed_?forward|densereludense|^(fc\d|intermediate|moe|shared_experts?) |SparseMoeBlock|MoE$"
        r"|(?<!Self)Output$",
        re.IGNORECASE,
    ),
    "embedding": re.compile(r"embed|^(wte|wpe|shared) ", re.IGNORECASE),
}  # fmt: skip
"""What the name and class of a module say about the parameters within, tried in this order."""


def count_class(source: str | PathLike[str]) -> ClassCount:
    """The parameters of the class that the installed transformers has for a config.json or a folder with one.

    Exact for whatever it can build, encoders and image-text models included. Raises `ConfigError` for what it
    does not know, and for configs that its class refuses.
    """
    path = Path(source)
    path = path / "config.json" if os.path.isfile(path / "config.json") else path
    require_readable(str(path))
    document = read_json(path, finite=False)
    if not isinstance(document, dict) or "model_type" not in document:
        raise ConfigError(
            f"{path} has no model_type, which says what its class is; give a config.json with one"
        )
    try:
        return count_document(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def count_document(document: Mapping[str, Any]) -> ClassCount:
    """The same for the content of a config.json, which has a `model_type`."""
    with _quiet_transformers():
        model = _build(document)
        places = dict(model.named_modules())
        expert_places = _expert_places(places)
        head = _output_head(model)
        in_head = {id(parameter) for parameter in head.parameters()} if head is not None else set()
        components: dict[ClassComponent, int] = dict.fromkeys(CLASS_COMPONENTS, 0)
        for name, parameter in model.named_parameters():
            # A tied head comes once, by the name of the embedding.
            is_head = id(parameter) in in_head and not _is_embedding(name, places)
            component = "lm_head" if is_head else _component(name, places, expert_places)
            components[component] += parameter.numel()
        idle, notes = _idle_parameters(model, places, expert_places)
    total = sum(components.values())
    return ClassCount(
        str(document["model_type"]), type(model).__name__, transformers.__version__, total,
        None if idle is None else total - idle, components,
        (*notes, *(["the class has no output head"] if head is None else [])),
    )  # fmt: skip


def _output_head(model: PreTrainedModel) -> nn.Module | None:
    """The output head; None where the class has none, or several parts with one each."""
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def _build(document: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a config, in no memory."""
    model_type = document["model_type"]
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        remote = ": its code is that of its author (auto_map), which is never run" * ("auto_map" in document)
        raise ConfigError(
            f"transformers {transformers.__version__} has no class for model_type {short_repr(model_type)}"
            f"{remote}; install a version that has it"
        )
    _check_layers(document)
    model_class = _find_class(document, model_type)
    given = {key: value for key, value in document.items() if key not in _HOW_TO_RUN}
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(given)
        with torch.device("meta"):
            return model_class._from_config(config)
    except Exception as error:  # whatever the class raises for a config that it cannot build
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 200)
        raise ConfigError(
            f"{model_class.__name__} of transformers {transformers.__version__} cannot be built from it "
            f"({reason}); correct the config, or install what the class needs"
        ) from None


def _check_layers(document: Mapping[str, Any]) -> None:
    """Refuse a number of layers that no class would be built with in time: each is a module."""
    for key, value in document.items():
        if isinstance(value, dict):
            _check_layers(value)
        elif _NUMBER_OF_LAYERS.search(key) and isinstance(value, int) and value > MOST_LAYERS:
            raise ConfigError(f"{key} is {short_repr(value)}; it must be at most {MOST_LAYERS:,}")


def _find_class(document: Mapping[str, Any], model_type: str) -> type[PreTrainedModel]:
    """The class that the config names, if transformers has it for this type; else that of its type."""
    architectures = document.get("architectures")
    for name in architectures if isinstance(architectures, list) else []:
        model_class = _model_class(name)
        wanted = getattr(model_class, "config_class", None)
        if model_class and isinstance(wanted, type) and issubclass(CONFIG_MAPPING[model_type], wanted):
            return model_class
    for table in _MAPPINGS:
        found = getattr(modeling_auto, table, {}).get(model_type, ())
        for name in (found,) if isinstance(found, str) else found:
            if model_class := _model_class(name):
                return model_class
    raise ConfigError(f"transformers {transformers.__version__} has no model for model_type {model_type!r}")


def _model_class(name: object) -> type[PreTrainedModel] | None:
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, PreTrainedModel) else None


def _component(name: str, places: Mapping[str, nn.Module], expert_places: Sequence[str]) -> ClassComponent:
    """The component of a parameter: what its module, or the closest one around it, is named for."""
    if _OTHER_MODALITIES.search(name):
        return "other"
    if any(name.startswith(f"{place}.") for place in expert_places):
        return "experts"
    if name.endswith("correction_bias"):
        return "router"
    words = name.split(".")
    for place in (name, *(".".join(words[:depth]) for depth in range(len(words) - 1, 0, -1))):
        module = places.get(place)
        if isinstance(module, PreTrainedModel):
            break
        described = f"{place.rpartition('.')[2]} {'' if module is None else type(module).__name__}"
        for component, pattern in _PLACES.items():
            if pattern.search(described):
                return component
        if isinstance(module, nn.Embedding):
            return "embedding"
    return "other"


def _is_embedding(name: str, places: Mapping[str, nn.Module]) -> bool:
    """Whether the module of a parameter is an embedding."""
    return isinstance(places.get(name.rpartition(".")[0]), nn.Embedding)


def _expert_places(places: Mapping[str, nn.Module]) -> list[str]:
    """Where the routed experts are: the innermost modules that are called experts, or are of such a class."""
    called = [
        place
        for place, module in places.items()
        if not (attribute := place.rpartition(".")[2]).startswith("shared")
        and (attribute == "experts" or type(module).__name__.endswith("Experts"))
    ]
    return [place for place in called if not any(other.startswith(f"{place}.") for other in called)]


def _idle_parameters(
    model: PreTrainedModel, places: Mapping[str, nn.Module], expert_places: Sequence[str]
) -> tuple[int | None, Sequence[str]]:
    """Parameters of the experts that a token skips, and how that is known; None where it is not."""
    idle, blocks = 0, dict[str, tuple[int, int, str]]()
    for place in expert_places:
        block, experts = place.rpartition(".")[0], places[place]
        n_experts, chosen = _number_of_experts(experts), _experts_per_token(places[block], experts)
        if n_experts is None or chosen is None or chosen[0] > n_experts:
            return None, ("active is not known: the class does not say how many experts a token uses",)
        stored = sum(parameter.numel() for parameter in experts.parameters())
        idle += stored // n_experts * (n_experts - chosen[0])
        blocks[block] = (chosen[0], n_experts, chosen[1])
    configs = list(_configs(model.config))
    if not blocks and any(_is_positive(config, _NUMBER_OF_EXPERTS, more_than=1) for config in configs):
        return None, ("active is not known: the config has experts, and no module of the class is named so",)
    if any(_is_positive(config, _ZERO_EXPERTS) for config in configs):
        return None, ("active is not known: some experts have no parameters, and tokens may use those",)
    found = list(blocks.values())
    return idle, [
        f"active: {one[0]} of {one[1]} experts in {count_phrase(found.count(one), 'block')}, by {one[2]}"
        for one in dict.fromkeys(found)
    ]


def _number_of_experts(experts: nn.Module) -> int | None:
    """The experts that a module holds; None where it does not tell, or where they are not alike."""
    if isinstance(experts, nn.ModuleList | nn.ModuleDict):
        sizes = {sum(each.numel() for each in expert.parameters()) for expert in experts.children()}
        return len(experts) if len(sizes) == 1 else None
    parameters = list(experts.parameters())
    for name in ("num_experts", "n_experts", "num_local_experts", "moe_num_experts", "n_routed_experts"):
        n_experts = getattr(experts, name, None)
        if isinstance(n_experts, int) and n_experts > 0:
            return n_experts if all(each.shape[0] % n_experts == 0 for each in parameters) else None
    first = {each.shape[0] for each in parameters}
    return first.pop() if len(first) == 1 else None


def _experts_per_token(parent: nn.Module, experts: nn.Module) -> tuple[int, str] | None:
    """The experts that a token uses, by the router, the module around the experts or the config, and which of
    them said so; None where none does, or where they differ."""
    around = [*(child for child in parent.children() if child is not experts), experts, parent]
    found = [(value, module) for module in around for value in _numbers(module)]
    if not found:
        configs = [config for module in (parent, experts) if (config := getattr(module, "config", None))]
        found = [(value, config) for config in configs for value in _numbers(config)]
    if len({value for value, _ in found}) != 1:
        return None
    value, holder = found[0]
    return value, type(holder).__name__


def _numbers(holder: object) -> Iterator[int]:
    for name in _TOP_K:
        value = getattr(holder, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield value


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config and those within it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _configs(value)


def _is_positive(config: PreTrainedConfig, keys: re.Pattern[str], more_than: int = 0) -> bool:
    """Whether the config has a number above `more_than` under one of such keys."""
    values = (value for key, value in vars(config).items() if keys.search(key))
    return any(isinstance(value, int) and value > more_than for value in values)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep what transformers and its classes log and warn about off the screen."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
