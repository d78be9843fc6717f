"""The model card of an exported folder: what the records say, and a person's own card is kept."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from support.training_data import small_config, small_data, small_model

import parambudget as pb
from parambudget.arch.presets.registry import preset
from parambudget.cost.flops import flops_per_token, training_flops
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.formats.hf.exporter import to_hf
from parambudget.training import loop
from parambudget.training.exports.model_card import (
    CARD,
    TrainingRecord,
    card_subject,
    is_own_card,
    model_card,
    read_training_record,
)
from parambudget.training.metrics import Run, read_run
from parambudget.units import format_count

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    loop.train(loop.TrainJob(small_model(), small_config(), small_data(folder), folder / "run"), device="cpu")
    return folder / "run"


def rows_of(card: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1] for cells in lines if len(cells) == 2}


def test_a_card_has_the_figures_of_the_run_and_a_valid_front_matter(run, tmp_path):
    pb.export(weights=run, out=tmp_path / "mine")
    text = (tmp_path / "mine" / CARD).read_text()
    card, rows, figures, model = ModelCard(text), rows_of(text), read_run(run), small_model()
    last = figures.steps[-1]
    assert card.data.to_dict() == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["parambudget", "llama"],
    }  # fmt: skip
    assert card.text.startswith("\n# mine\n")
    assert rows["parameters"] == f"{total(model):,}"
    assert rows["training FLOPs per token"].startswith(f"{flops_per_token(model):,} (full convention")
    assert rows["updates"] == "6 of 6"
    assert rows["tokens"] == f"{last.tokens:,}"
    assert rows["FLOPs"].startswith(f"{format_count(training_flops(model, last.tokens))} (")
    assert rows["training loss"] == f"{last.loss:.4f} nats per token, of the last update"
    assert rows["validation loss"] == f"{last.val_loss:.4f} nats per token"
    assert rows["device"] == figures.summary.device
    assert rows["learning_rate"] == "0.003"
    assert "active per token" not in rows


def test_an_earlier_checkpoint_has_the_figures_of_its_own_update(run):
    record = read_training_record(run / "checkpoints" / "step-3", small_model())
    assert [step.step for step in record.run.steps] == [1, 2, 3]
    assert record.run.planned_steps == 6


def test_no_folder_of_the_machine_is_named(run, tmp_path):
    pb.export(weights=run, out=tmp_path / "mine")
    text = (tmp_path / "mine" / CARD).read_text()
    assert str(run.parent) not in text
    assert rows_of(text)["text"] == "text"


def test_a_folder_without_records_has_the_counts_alone(tmp_path):
    pb.export("gpt2", out=tmp_path)
    text = (tmp_path / CARD).read_text()
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "transformers"
    assert rows_of(text)["parameters"] == "124,439,808"
    assert "## Training" not in text


def test_active_parameters_are_those_of_one_token(tmp_path):
    pb.export("mixtral-8x7b-v0.1", "megatron", out=tmp_path)
    rows = rows_of((tmp_path / CARD).read_text())
    assert rows["active per token"] == f"{pb.count(preset('mixtral-8x7b-v0.1')).active:,}"
    assert rows["experts"] == "8 experts per layer, 2 per token"


@pytest.mark.parametrize("change", [lambda _: "# Mine\n", lambda text: text.replace("# ", "# My ", 1)])
def test_a_card_that_a_person_wrote_or_edited_is_kept_and_that_is_said(change, tmp_path):
    pb.export("gpt2", out=tmp_path)
    path = tmp_path / CARD
    path.write_text(change(path.read_text()))
    kept = path.read_text()
    (tmp_path / "config.json").unlink()
    (note,) = pb.export("gpt2", out=tmp_path).notes
    assert note == f"{path} is kept as it is: parambudget did not write it, or it was edited since"
    assert path.read_text() == kept


def test_an_own_card_is_replaced(tmp_path):
    pb.export("gpt2", out=tmp_path)
    (tmp_path / "config.json").unlink()
    assert pb.export("qwen3-0.6b", out=tmp_path).notes == ()
    text = (tmp_path / CARD).read_text()
    assert ("596,049,920" in text, is_own_card(text)) == (True, True)


def test_a_card_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / CARD).mkdir()
    with pytest.raises(InputError, match=r"README.md: it is a directory, not a file; move") as refused:
        pb.export("gpt2", out=tmp_path)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [CARD]


@pytest.mark.parametrize(
    ("qkv_bias", "model_type", "loads"),
    [(True, "qwen2", "PreTrainedTokenizerFast"), (False, "llama", "AutoTokenizer")],
)
def test_a_card_loads_the_tokenizer_that_was_exported(qkv_bias, model_type, loads):
    made = to_hf(small_model(qkv_bias=qkv_bias))
    assert made.name == model_type
    usage = card_subject("hf", made, has_weights=True).usage
    assert f"import AutoModelForCausalLM, {loads}\n" in usage
    assert f"tokenizer = {loads}.from_pretrained(folder)" in usage


def test_a_name_cannot_break_the_card():
    subject = card_subject("hf", to_hf(small_model()))
    record = TrainingRecord(
        {}, {"corpus": "a|b`c<i>\n# d"}, Run(Path("run"), small_model(), (), None, summary=None)
    )
    lines = model_card("x\n<b>y", subject, small_model(), record).splitlines()
    assert r"# x \<b\>y" in lines
    assert r"| text | a\|b\`c\<i\> # d |" in lines
