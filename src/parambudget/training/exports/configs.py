"""A model's config for another tool, with what its source says about training, and a model card beside it."""

from collections.abc import Mapping
from pathlib import Path

from parambudget._files import atomic_write
from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export, write_into
from parambudget.formats.source import read_source
from parambudget.formats.targets import ExportTarget, export_config
from parambudget.training.config import TrainConfig, with_absent_settings
from parambudget.training.exports.model_card import CARD, card_subject, kept_card, model_card
from parambudget.training.exports.torchtitan import to_torchtitan


def export_for(
    model: ModelConfig, to: ExportTarget, model_type: str | None = None, source: str | Path | None = None
) -> Export:
    """The model in the format of a tool. For torchtitan, the settings in the config file `source` are too.

    Raises `ConfigError` with the reason where the tool cannot express them.
    """
    if to != "torchtitan":
        return export_config(model, to, model_type)
    if model_type is not None:
        raise ConfigError(f"`model_type` is a class of transformers, and `to` is {to!r}; leave it out")
    settings: Mapping[str, object] = {} if source is None else read_source(source).train
    return to_torchtitan(model, TrainConfig.read(with_absent_settings(settings)) if settings else None)


def write_config(
    folder: Path, made: Export, model: ModelConfig, to: ExportTarget, *, force: bool = False
) -> tuple[Path, list[str]]:
    """Write the tool's file and a model card into a folder; returns the file, and notes.

    An existing file is replaced with `force` only, and a card that a person wrote is kept.
    """
    kept = kept_card(folder)  # an unreadable one is refused before anything is written
    path = write_into(folder, made, force=force)
    if not kept:
        atomic_write(folder / CARD, model_card(folder.resolve().name, card_subject(to, made), model))
    return path, kept
