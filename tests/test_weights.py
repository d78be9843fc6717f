"""Weights go to transformers and come back: the same logits, or a line that says what is wrong."""

import json

import pytest
import torch
from of_each_class import OF_EACH_CLASS, random_module, theirs, written
from safetensors.torch import load_file, save_file

from parambudget.build.export import write_weights
from parambudget.build.names.entries import entries
from parambudget.build.pretrained import described, fill, load_pretrained, own_tensors
from parambudget.errors import InputError

EXACT = {kind: model for kind, model in OF_EACH_CLASS.items() if kind != "phimoe"}
"""Phi-3.5-MoE's sparse mixer is nothing that we compute."""
MOST_OFF = 1e-4
of_each_class = pytest.mark.parametrize(("kind", "model"), EXACT.items(), ids=EXACT)
with_experts = pytest.mark.parametrize("kind", [kind for kind, model in EXACT.items() if model.moe])


def some_tokens(model):
    return torch.randint(model.vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))


def most_off(ours, others, model):
    """Largest difference of two models' logits on some tokens."""
    tokens = some_tokens(model)
    with torch.no_grad():
        logits = [each(tokens) for each in (ours, others)]
    return (logits[0] - getattr(logits[1], "logits", logits[1])).abs().max().item()


@of_each_class
def test_transformers_computes_the_same_logits_and_its_own_weights_come_back(kind, model, tmp_path):
    module = random_module(model)
    other = theirs(written(tmp_path / "ours", module, kind, shard_bytes=50_000))
    assert most_off(module, other, model) <= MOST_OFF
    other.save_pretrained(tmp_path / "theirs")
    assert most_off(load_pretrained(tmp_path / "theirs"), other, model) <= MOST_OFF


@of_each_class
def test_every_tensor_of_ours_is_in_just_one_of_theirs(kind, model):
    found = entries(kind, model)
    assert len({entry.theirs for entry in found}) == len(found)
    elements = sum(torch.Size(shape).numel() for entry in found for shape in entry.shapes)
    assert elements == sum(tensor.numel() for tensor in own_tensors(random_module(model)).values())


@with_experts
def test_experts_in_one_tensor_make_the_same_files_as_single_ones(kind, tmp_path):
    module = random_module(EXACT[kind])
    written(tmp_path / "single", module, kind)
    together = random_module(EXACT[kind].replace(fused_experts=True))
    fill(together, described(tmp_path / "single"))
    written(tmp_path / "fused", together, kind)
    single, fused = (load_file(tmp_path / name / "model.safetensors") for name in ("single", "fused"))
    assert single.keys() == fused.keys()
    assert all(torch.equal(single[name], fused[name]) for name in single)


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "llama", random_module(OF_EACH_CLASS["llama"]), "llama")


def rewritten(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_shard_holds_no_more_than_it_may_and_the_index_names_every_tensor(tmp_path):
    module = random_module(OF_EACH_CLASS["llama"])
    folder = written(tmp_path / "many", module, "llama", shard_bytes=100_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    for shard in shards:
        sizes = [tensor.nbytes for tensor in load_file(shard).values()]
        assert sum(sizes) <= 100_000 or len(sizes) == 1
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = {name: shard.name for shard in shards for name in load_file(shard)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(t.nbytes for s in shards for t in load_file(s).values())
    assert most_off(load_pretrained(folder), module, module.model) == 0


def test_half_precision_weights_are_read_in_single_precision(folder):
    rewritten(folder, lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    module = load_pretrained(folder)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_base_model_without_its_head_s_prefix_is_read(tmp_path):
    module = random_module(OF_EACH_CLASS["gpt2"])
    folder = written(tmp_path / "gpt2", module, "gpt2")

    def bare(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)  # the mask, as in GPT-2's own files

    rewritten(folder, bare)
    assert fill(module, described(folder)) == ()
    assert most_off(load_pretrained(folder), module, module.model) == 0


def test_tensors_that_are_no_part_of_the_model_are_named(folder):
    rewritten(folder, lambda tensors: tensors.update({"model.layers.9.extra.weight": torch.ones(2)}))
    assert fill(random_module(OF_EACH_CLASS["llama"]), described(folder)) == ("model.layers.9.extra.weight",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda tensors: tensors.pop("model.norm.weight"),
            "has no tensor model.norm.weight, which its config.json asks for; are all its files there?",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(8)}),
            "model.norm.weight in {folder} is (8,), and its config.json asks for (64,); do the files belong",
        ),
    ],
)
def test_files_that_do_not_fit_their_config_are_refused_in_one_line(folder, change, told):
    rewritten(folder, change)
    with pytest.raises(InputError) as refused:
        load_pretrained(folder)
    assert told.format(folder=folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_weights_and_broken_ones_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"the weights in .* cannot be read"):
        load_pretrained(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"has neither model.safetensors nor model.safetensors.index.json"):
        load_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="is not an index of weights"):
        load_pretrained(folder)


def test_an_index_cannot_name_files_elsewhere(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"the weights in .* cannot be read"):
        load_pretrained(folder)


def test_only_one_shard_of_weights_is_in_memory_at_a_time(tmp_path):
    module = random_module(OF_EACH_CLASS["llama"])
    own = own_tensors(module)
    held: list[int] = []

    def get(name):
        held.append(sum(1 for _ in tmp_path.glob("model-*.safetensors")))
        return own[name]

    write_weights(tmp_path, "llama", module.model, own, get, shard_bytes=100_000)
    assert held[0] == 0
    assert held[-1] > 1, "the last tensor was read after earlier shards were written"
