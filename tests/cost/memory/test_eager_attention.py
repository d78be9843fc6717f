"""Memory where all scores are written down, and of layers that run again: there the softmax is the peak."""

import pytest
from support.steps import step_of
from support.storage_tracker import peak_of_an_update
from support.tiny_model import SMALL

from parambudget.cost.memory.peak import training_memory
from parambudget.cost.step import ON_CPU

LATENT = {
    "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 40, "head_dim": 48,
    "n_kv_heads": 6,
}  # fmt: skip
CHOICES = {
    "in groups": {}, "every head its own": {"n_kv_heads": 6}, "capped": {"attention_softcap": 5.0},
    "latent": LATENT,
}  # fmt: skip


@pytest.mark.parametrize("changes", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("again", [True, False], ids=["again", "once"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_softmax_is_planned_with_queries_keys_and_values_in_all_their_forms(changes, batch_size, again):
    model = SMALL.replace(
        dim=152, n_heads=6, n_kv_heads=2, head_dim=40, intermediate_size=20, vocab_size=460,
        context_length=160, attention_sinks=True,
    ).replace(**changes)  # fmt: skip
    way = {"batch_size": batch_size, "optimizer": "adamw", "gradient_checkpointing": again}
    planned = training_memory(model, step_of(backend=ON_CPU, **way)).peak_bytes
    assert planned == pytest.approx(peak_of_an_update(model, **way), rel=5e-3)
