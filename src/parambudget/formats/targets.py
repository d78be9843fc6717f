"""The tools that a model can be exported for."""

from typing import Final, Literal, get_args

from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export

ExportTarget = Literal["hf", "gguf", "litgpt", "megatron", "torchtitan"]
WITH_WEIGHTS: Final[tuple[ExportTarget, ...]] = ("hf", "gguf")
"""The tools for which weights are written too."""
GGUFDtype = Literal["f32", "f16", "bf16", "q8_0"]
"""How matrices are stored: in full, in half precision, or in blocks of 32 numbers of 8 bits with a scale."""
GGUF_DTYPES: Final[tuple[GGUFDtype, ...]] = get_args(GGUFDtype)


def export_config(model: ModelConfig, to: ExportTarget, model_type: str | None = None) -> Export:
    """The model in the format of a tool; `model_type` asks for one class of transformers. That for torchtitan
    has settings of a run too: `training.exports.configs.export_for` makes it.

    Raises `ConfigError` with the reason where the tool cannot express the model.
    """
    if to == "hf":
        from parambudget.formats.hf.exporter import to_hf

        return to_hf(model, model_type)
    if model_type is not None:
        raise ConfigError(f"`model_type` is a class of transformers, and `to` is {to!r}; leave it out")
    if to == "gguf":
        raise ConfigError("a GGUF file holds weights; name a run, a checkpoint or a folder with `weights`")
    if to == "litgpt":
        from parambudget.formats.litgpt import to_litgpt

        return to_litgpt(model)
    if to == "megatron":
        from parambudget.formats.megatron import to_megatron

        return to_megatron(model)
    raise ConfigError(f"`to` is {to!r}; use 'hf', 'gguf', 'litgpt', 'megatron' or 'torchtitan'")
