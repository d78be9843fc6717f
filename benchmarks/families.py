"""How exactly Hugging Face configs are read: the table of docs/families.md.

For every type that is read: its presets against the counts of the class that they state, which
tests/formats/test_hf_classes.py holds against the class itself, and random configs of the type against what
the class builds of them on the meta device: total, breakdown and active parameters. The largest error is in
parameters, of a total or of a component.

python benchmarks/families.py [CONFIGS]
"""

import logging
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.hf_configs import FAMILIES, INSTANTIATED_AS, built, configs
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from parambudget.arch.defaults import with_defaults
from parambudget.arch.presets.registry import PRESETS
from parambudget.cost.params import count
from parambudget.formats.hf.importer import from_hf

REMOTE = {"kimi-k2": "kimi_k2", "mobilellm": "mobilellm"}
"""Starts of names of presets whose type is not that of the class that was counted."""


def class_of(kind: str) -> str:
    """The class of a type, as transformers names it."""
    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[INSTANTIATED_AS.get(kind, kind)]


def presets_of(kind: str) -> list[str]:
    """The presets that were published as this type."""
    remote = {name: own for name in PRESETS for start, own in REMOTE.items() if name.startswith(start)}
    counted = {name: row.source.split("counted: ")[1] for name, row in PRESETS.items()}
    if kind in REMOTE.values():
        return [name for name, own in remote.items() if own == kind]
    return [name for name, found in counted.items() if found == class_of(kind) and name not in remote]


def largest_error(kind: str, configs_of_kind: int) -> int:
    """Over random configs: of every component, of the total and of the active parameters."""
    errors = [0]

    @settings(
        max_examples=configs_of_kind, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(configs(kind))
    def check(config: dict[str, Any]) -> None:
        ours = count(with_defaults(from_hf(config, kind).fields).model)
        theirs, active = built(config)
        errors.append(abs(ours.active - active))
        errors.extend(abs(ours.components[name] - theirs.get(name, 0)) for name in ours.components)

    check()
    return max(errors)


def main() -> None:
    """Print the table in Markdown."""
    logging.disable(logging.CRITICAL)
    configs_of_kind = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("| `model_type` | class | presets | random configs | largest error |")
    print("|---|---|---|---|---|")
    for kind in FAMILIES:
        names = presets_of(kind)
        off = [abs(count(PRESETS[name].model).total - PRESETS[name].published_count) for name in names]
        error = max([*off, largest_error(kind, configs_of_kind)])
        print(f"| {kind} | {class_of(kind)} | {len(names)} | {configs_of_kind} | {error} |", flush=True)


if __name__ == "__main__":
    main()
