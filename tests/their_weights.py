"""A model of transformers, tensor by tensor, as its files hold it and under our names."""

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import tensors
from parambudget.build.module import Transformer
from parambudget.build.names.entries import Entry, entries
from parambudget.build.pretrained import expected_shape, own_tensors, put
from parambudget.build.verify import places

HEADS = {"lm_head.weight", "embed_out.weight"}


def in_files(theirs: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Its tensors by the names of published files, a tied head once."""
    held = revert_weight_conversion(theirs, dict(theirs.state_dict()))
    tied = theirs.config.tie_word_embeddings
    return {name: tensor for name, tensor in held.items() if not (tied and name in HEADS)}


def named(theirs: PreTrainedModel, model: ModelConfig) -> list[Entry]:
    return entries(theirs.config.model_type, model)


def assert_all_are_of_the_table(theirs: PreTrainedModel, model: ModelConfig) -> None:
    """Every tensor of theirs has a name and shape that ours make, and every row of the table is in one."""
    ours = named(theirs, model)
    assert {name: tensor.shape for name, tensor in in_files(theirs).items()} == {
        entry.theirs: expected_shape(entry) for entry in ours
    }
    elements = sum(torch.Size(shape).numel() for entry in ours for shape in entry.shapes)
    rows = [row for row in tensors(model) if row.shared_with is None]
    learned = sum(torch.Size(row.shape).numel() * len(places(row, model)) for row in rows)
    buffers = model.n_moe_layers * model.moe.n_experts if model.moe and model.moe.correction_bias else 0
    assert elements == learned + buffers


@torch.no_grad()
def copied(theirs: PreTrainedModel, model: ModelConfig) -> Transformer:
    """Our module with their weights."""
    module, held = Transformer(model).eval(), in_files(theirs)
    own = own_tensors(module)
    for entry in named(theirs, model):
        for name, part in entry.split(held[entry.theirs]).items():
            put(own, name, part)
    return module
