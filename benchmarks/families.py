"""How exactly Hugging Face configs are read: the table of docs/families.md.

For every supported type, two comparisons: its presets with the published counts of their class, which
tests/formats/hf/test_classes.py compares with the class itself; and random configs with what the class builds
of them on the meta device, by total, component and active parameters. The largest error is in parameters.

python benchmarks/families.py [CONFIGS]
"""

import logging
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.hf_configs import INSTANTIATED_AS, class_counts, configs

from parambudget.arch.defaults import with_defaults
from parambudget.arch.presets.registry import PRESETS
from parambudget.cost.params import count
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.importer import from_hf

REMOTE_CODE = {"kimi-k2": "kimi_k2", "mobilellm": "mobilellm"}
"""Prefixes of presets whose class is remote code, so that another class was counted; and their type."""


def class_of(model_type: str) -> str:
    """The class in transformers that was counted for a type."""
    model_class = FAMILIES[INSTANTIATED_AS.get(model_type, model_type)].model_class
    assert model_class is not None
    return model_class


def presets_of(model_type: str) -> list[str]:
    """The presets that were published as this type."""
    remote = {name: own for name in PRESETS for prefix, own in REMOTE_CODE.items() if name.startswith(prefix)}
    if model_type in REMOTE_CODE.values():
        return [name for name, own in remote.items() if own == model_type]
    counted = {name: row.source.split("counted: ")[1] for name, row in PRESETS.items()}
    return [name for name, it in counted.items() if it == class_of(model_type) and name not in remote]


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
    """Print the table in Markdown."""
    logging.disable(logging.CRITICAL)
    n_configs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("| `model_type` | class | presets | random configs | largest error |")
    print("|---|---|---|---|---|")
    for model_type in FAMILIES:
        names = presets_of(model_type)
        off = [abs(count(PRESETS[name].model).total - PRESETS[name].published_count) for name in names]
        error = max([*off, largest_error(model_type, n_configs)])
        print(f"| {model_type} | {class_of(model_type)} | {len(names)} | {n_configs} | {error} |", flush=True)


if __name__ == "__main__":
    main()
