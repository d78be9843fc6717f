"""What is not a model is named for what it is, with what to give instead."""

import json
from pathlib import Path

import pytest

import parambudget as pb
from parambudget.errors import ParambudgetError
from parambudget.formats.source import load, load_whole_function, read_source
from parambudget.training.run.request import RunOptions, build_request

ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}
GENERATION = {"_from_model_config": True, "eos_token_id": 1}
FILES = {
    "adapter_config.json": (ADAPTER, "is an adapter (LoRA or another kind of PEFT)"),
    "renamed-adapter.json": (ADAPTER, "config.json of its base model, meta-llama/Llama-2-7b-hf, or merge"),
    "generation_config.json": (GENERATION, "says how text is generated, not what the model is; give the con"),
    "renamed-generation.json": (GENERATION, "says how text is generated"),
    "tokenizer_config.json": ({}, "is the config of a tokenizer; give the config.json of the model"),
    "model.safetensors.index.json": ({}, "lists the files of the weights; give the config.json"),
    "model_config.yaml": ({}, "is of litgpt, whose model_config.yaml is written here and not read; give the"),
    "other.yaml": ({}, "is a YAML file; give the config.json"),
    "model.gguf": ({}, "is a GGUF file; give the config.json"),
    "without-type.json": (
        {"architectures": ["LlamaForCausalLM"], "hidden_size": 64},
        'is a Hugging Face config (architectures) without model_type, which says how it is read; add it, it '
        'is "llama" for LlamaForCausalLM',
    ),
    "renamed-unet.json": (
        {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30"},
        "is of the diffusers library (UNet2DConditionModel), not of a language model; give the config.json",
    ),
    "model_index.json": ({"_class_name": "X"}, "lists the parts of a diffusers pipeline"),
    "without-class.json": ({"hidden_size": 64}, "without model_type, which says how it is read; add it"),
}  # fmt: skip
NAMES = {
    "https://huggingface.co/org/Nothing-8B": "hf download org/Nothing-8B --local-dir Nothing-8B",
    "https://huggingface.co/a/b/blob/main/config.json": "hf download a/b --local-dir b",
    "https://huggingface.co/a/b/resolve/main/config.json": "hf download a/b --local-dir b",
    "huggingface.co/a/b/": "hf download a/b --local-dir b",
    "hf:a/b": "hf download a/b --local-dir b",
    "meta-llama/Nothing-8B": "meta-llama/Nothing-8B is no file or folder here, and no model is downloaded",
    "https:/huggingface.co/a/b": "https://huggingface.co/a/b is no file or folder here",
    "https:/example.com/config.json": "https://example.com/config.json is a URL; download the file",
    "": "the model's name is empty; give a config file",
    "https://example.com/config.json": "https://example.com/config.json is a URL; download the file",
}


def refusal(read, source: object) -> str:
    with pytest.raises(ParambudgetError) as refused:
        read(source)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize(("name", "content", "says"), [(name, *row) for name, row in FILES.items()])
def test_a_file_is_named_for_what_it_is(tmp_path, name, content, says):
    (tmp_path / name).write_text(json.dumps(content))
    assert says in refusal(read_source, tmp_path / name)


CONTENTS = {
    "README.md": (b"# A model\n", "is text, not JSON; give the config.json"),
    "picture": (b"\x89PNG\r\n\x1a\n\0", "is an image; give the config.json"),
    "config.json": (b"\xff\xd8\xff\xe0\0", "is an image; give the config.json"),
    "model.onnx": (b"\x08\0onnx", "is no text; give the config.json"),
    "damaged.json": (b"oops", "is not valid JSON"),
    "damaged.txt": (b'{"dim": ', "is not valid JSON"),
}


@pytest.mark.parametrize(("name", "content", "says"), [(name, *row) for name, row in CONTENTS.items()])
def test_a_file_of_another_kind_is_named_by_its_content(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in refusal(read_source, tmp_path / name)


WITHOUT_WEIGHTS = {
    "adapter_config.json": (ADAPTER, "is an adapter (LoRA"),
    "params.json": ({"dim": 64, "multiple_of": 8}, "is of Meta's or Mistral's own format, of which the par"),
    "without-type.json": ({"hidden_size": 64}, "is a Hugging Face config (hidden_size) without model_type"),
    "config.json": (
        {"model_type": "gpt2"},
        "holds no weights; give the folder of a run or of a Hugging Face",
    ),
    "model.safetensors": ({}, "holds weights; give the folder of a run or of a Hugging Face model"),
    "list.json": ([1], "holds no model; give the folder of a run"),
}


@pytest.mark.parametrize("read", [pb.load_pretrained, lambda path: pb.generate(path, "")])
@pytest.mark.parametrize(("name", "content", "says"), [(name, *row) for name, row in WITHOUT_WEIGHTS.items()])
def test_a_file_without_weights_is_named_where_they_are_wanted(tmp_path, name, content, says, read):
    (tmp_path / name).write_text(json.dumps(content))
    assert says in refusal(read, tmp_path / name)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("https://huggingface.co/org/Nothing-8B", "https://huggingface.co/org/Nothing-8B is no file"),
        ("a" * 5_000, "aaa is not "),
    ],
)
def test_a_name_without_weights_is_named_where_they_are_wanted(source, says):
    for read in (pb.load_pretrained, lambda path: pb.generate(path, "")):
        assert says in refusal(read, Path(source))


@pytest.mark.parametrize(("name", "says"), NAMES.items())
def test_a_name_on_the_hub_gets_the_command_that_downloads_it(name, says):
    assert says in refusal(read_source, name)


def test_a_wrong_path_in_an_existing_folder_is_no_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert "unknown preset 'runs/mine'" in refusal(read_source, "runs/mine")


def initialize(source: object) -> None:
    build_request(None, {}, {}, RunOptions(init=Path(str(source))))


@pytest.mark.parametrize("read", [read_source, pb.load_pretrained, pb.generate, initialize])
def test_a_folder_without_a_model_is_named_wherever_it_is_given(tmp_path, read):
    if read is pb.generate:

        def read(source: object) -> None:
            pb.generate(str(source), "")

    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    assert "is an adapter (LoRA" in refusal(read, tmp_path)
    (tmp_path / "adapter_config.json").rename(tmp_path / "pytorch_model.bin")
    assert "has pytorch_model.bin and no config.json; put the model's" in refusal(read, tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "lit_config.json")
    assert "is of litgpt" in refusal(read, tmp_path)


@pytest.mark.parametrize("read", [pb.load_pretrained, pb.generate])
def test_a_config_without_its_type_is_named_beside_weights_too(tmp_path, read):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    message = refusal(
        lambda source: read(source) if read is pb.load_pretrained else read(source, ""), tmp_path
    )
    assert 'it is "gpt2" for GPT2LMHeadModel' in message


@pytest.fixture
def bidirectional(tmp_path: Path) -> Path:
    """A config whose class computes what no model here can."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2", "is_causal": False}))
    return path


def test_counting_goes_on_where_the_function_cannot_be_expressed(bidirectional):
    assert (
        load(bidirectional, {}).notes[0].startswith("counted exactly, but built without attention to later")
    )
    with pytest.warns(UserWarning, match="counted exactly, but built without attention to later tokens"):
        assert pb.count(bidirectional).total == 124_439_808


@pytest.mark.parametrize(
    "use",
    [
        lambda path: load_whole_function(path, {}),
        lambda path: pb.export(path),
        lambda path: build_request(path, {}, {}, RunOptions()),
        lambda path: pb.load_pretrained(path.parent),
        lambda path: build_request(None, {}, {}, RunOptions(init=path.parent)),
    ],
    ids=["load", "export", "train FOLDER", "load_pretrained", "train --init"],
)
def test_what_needs_the_function_refuses_what_cannot_be_expressed(bidirectional, use):
    says = r"config.json: a model here cannot express attention to later tokens \(is_causal\)"
    with pytest.raises(ParambudgetError, match=says):
        use(bidirectional)
