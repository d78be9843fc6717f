"""The tools that a model can be exported for."""

from typing import Literal

from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export

ExportTarget = Literal["hf", "litgpt", "megatron"]


def export_config(model: ModelConfig, to: ExportTarget, model_type: str | None = None) -> Export:
    """The model in the format of a tool; `model_type` asks for one class of transformers.

    Raises `ConfigError` with the reason where the tool cannot express the model.
    """
    if to == "hf":
        from parambudget.formats.hf.exporter import to_hf

        return to_hf(model, model_type)
    if model_type is not None:
        raise ConfigError(f"`model_type` is a class of transformers, and `to` is {to!r}; leave it out")
    if to == "litgpt":
        from parambudget.formats.litgpt import to_litgpt

        return to_litgpt(model)
    if to == "megatron":
        from parambudget.formats.megatron import to_megatron

        return to_megatron(model)
    raise ConfigError(f"`to` is {to!r}; use 'hf', 'litgpt' or 'megatron'")
