"""How exactly Hugging Face configs are read, and where every type of transformers stands: the tables of
docs/families.md.

For every supported type, two comparisons: its presets with the published counts of their class, which
tests/formats/hf/test_classes.py compares with the class itself; and random configs with what the class builds
of them on the meta device, by total, component and active parameters. The largest error is in parameters.

python benchmarks/families.py [CONFIGS]
python benchmarks/families.py types       # the two tables of types alone: a minute
"""

import logging
import re
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.hf_configs import INSTANTIATED_AS, REQUIRED_KEYS, TEXT_MODELS, class_counts, configs
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from parambudget.arch.defaults import with_defaults
from parambudget.arch.presets.registry import PRESETS
from parambudget.cost.params import count
from parambudget.errors import ConfigError
from parambudget.formats.hf.exporter import EXPORTABLE
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.families.remote_code import REMOTE_CODE_FAMILIES
from parambudget.formats.hf.from_class import count_document
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.multimodal import MULTIMODAL_TYPES

REMOTE_CODE = {"kimi-k2": "kimi_k2", "mobilellm": "mobilellm"}
"""Prefixes of presets whose class is remote code, so that another class was counted; and their type."""

SHARED_CLASSES = (
    frozenset({"exaone", "gpt-sw3", "internlm3", "iquestcoder", "sarvam_mla", "sarvam_moe"})
    | REMOTE_CODE_FAMILIES.keys()
)
"""Types whose class is that of another type, which has the presets that were counted with it."""


ENCODERS = {
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
    "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
}  # fmt: skip
ENCODER_DECODERS = {
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "musicgen",
    "musicgen_melody", "mvp", "pegasus", "plbart", "prophetnet", "trocr", "whisper",
}  # fmt: skip
MULTIMODAL = {
    "dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "git", "got_ocr2",
    "llama4", "mllama", "moshi", "moss_transcribe_diarize", "phi4_multimodal", "qwen3_5", "qwen3_5_moe",
    "qwen4_exp",
}  # fmt: skip
DRAFT_MODELS = {"gemma4_assistant", "gemma4_unified_assistant"}


LEFT_OUT = {
    "Encoders, which the classes can run as decoders": ENCODERS,
    "Decoders of encoder-decoder models": ENCODER_DECODERS,
    "Models of images or sound, most with a text type of their own": MULTIMODAL,
    "Draft models, which read the states of a larger model": DRAFT_MODELS,
}
"""Types with a causal language model that are not decoder-only text types, by the reason."""


def decoder_only_types() -> dict[str, str]:
    """The decoder-only text types of the installed transformers, each with its class."""
    others = set().union(*LEFT_OUT.values())
    return {kind: name for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if kind not in others}


def where_it_stands(model_type: str) -> str:
    """How a type is counted: read, with a module or without one, from its class alone, or not at all."""
    if model_type in FAMILIES:
        lost = FAMILIES[model_type].config.always_unsupported
        return f"counted only, because of {', '.join(lost)}" if lost else "read, with module"
    try:
        count_document({"model_type": model_type} | REQUIRED_KEYS.get(model_type, {}))
    except ConfigError as error:
        reason = re.search(r"cannot be built from it \((.*)\);", str(error))
        if reason is None:
            return f"refused: {error}"
        return f"`--class`, but not its own default config ({reason[1]})"
    return "`--class`"


def print_types() -> None:
    """Print where every decoder-only type stands, and the multimodal types by their language models."""
    print("| `model_type` | class | |")
    print("|---|---|---|")
    for model_type, model_class in sorted(decoder_only_types().items()):
        print(f"| {model_type} | {model_class} | {where_it_stands(model_type)} |", flush=True)
    for reason, types in LEFT_OUT.items():
        print(f"\n{reason}: {', '.join(sorted(types))}.")
    print("\n| language model | in | |")
    print("|---|---|---|")
    for text_type, wholes in wholes_by_text_type().items():
        stands = where_it_stands(text_type) if text_type in FAMILIES else "`--class` (the whole)"
        print(f"| {text_type} | {', '.join(wholes)} | {stands} |")


def wholes_by_text_type() -> dict[str, list[str]]:
    """The multimodal types by the type of their language models, unless the config names another."""
    found: dict[str, list[str]] = {}
    for whole, known in MULTIMODAL_TYPES.items():
        inner = MULTIMODAL_TYPES.get(known.text_type, known)
        found.setdefault(inner.text_type, []).append(whole)
    return dict(sorted(found.items()))


def class_of(model_type: str) -> str:
    """The class in transformers that was counted for a type."""
    if model_type in TEXT_MODELS:
        return TEXT_MODELS[model_type][1]
    model_class = FAMILIES[INSTANTIATED_AS.get(model_type, model_type)].model_class
    assert model_class is not None
    return model_class


def presets_of(model_type: str) -> list[str]:
    """The presets that were published as this type."""
    remote = {name: own for name in PRESETS for prefix, own in REMOTE_CODE.items() if name.startswith(prefix)}
    if model_type in SHARED_CLASSES:
        return []
    if model_type in REMOTE_CODE.values():
        return [name for name, own in remote.items() if own == model_type]
    if any(FAMILIES[name].model_class == class_of(model_type) for name in _earlier_types(model_type)):
        return []  # another type's class, under which presets are counted
    counted = {name: row.source.split("counted: ")[1] for name, row in PRESETS.items()}
    return [name for name, it in counted.items() if it == class_of(model_type) and name not in remote]


def _earlier_types(model_type: str) -> list[str]:
    """The types that an export tries before that one."""
    order = list(EXPORTABLE)
    return order[: order.index(model_type)] if model_type in EXPORTABLE else []


def largest_error(model_type: str, n_configs: int) -> int:
    """The largest error of any component, total or active count over random configs."""
    errors = [0]

    @settings(max_examples=n_configs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(configs(model_type))
    def check(config: dict[str, Any]) -> None:
        ours = count(with_defaults(from_hf(config, model_type).fields).model)
        theirs, active = class_counts(config)
        errors.append(abs(ours.active - active))
        errors.extend(abs(ours.by_component[name] - theirs.get(name, 0)) for name in ours.by_component)

    check()
    return max(errors)


def main() -> None:
    """Print the tables in Markdown."""
    logging.disable(logging.CRITICAL)
    if sys.argv[1:] == ["types"]:
        print_types()
        return
    n_configs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("| `model_type` | class | presets | random configs | largest error |")
    print("|---|---|---|---|---|")
    for model_type in FAMILIES:
        names = presets_of(model_type)
        off = [abs(count(PRESETS[name].model).total - PRESETS[name].published_count) for name in names]
        error = max([*off, largest_error(model_type, n_configs)])
        print(f"| {model_type} | {class_of(model_type)} | {len(names)} | {n_configs} | {error} |", flush=True)
    print()
    print_types()


if __name__ == "__main__":
    main()
