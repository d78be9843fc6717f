"""`plan`, `report` and other budgets at the command line: the screens, the files, the errors."""

import json
import re
import shlex

import pytest

NOTE = ["--dim", "896", "--n-layers", "24", "--n-heads", "14", "--intermediate-size", "3584"]
BATCH = ["--batch-size", "16", "--gradient-accumulation-steps", "8"]


def test_a_plan_is_one_screen_that_answers_every_question(run):
    code, out, err = run("plan", *NOTE, "--gpu", "h100", *BATCH, "--hours", 1.5)
    assert (code, err) == (0, "")
    for said in (
        "353,355,520 parameters", "2.384B FLOPs per training token in the full convention (attention",
        "989.4 TFLOP/s dense bfloat16", "fits: ", "16 sequences × 8 micro-steps (a forward and",
        "= 131,072 tokens", "memory peaks while the loss is computed", "temporary buffers",
        " tokens/s (",
        "MFU", "full convention", "hardware limit", "per parameter", "1.5 h", " on 20",
        "nats per token expected",
        "differences are comparable", "learning rate", "sequences at a time fit",
        "parambudget train --dim 896",
    ):  # fmt: skip
        assert said in out, said
    assert len(out.splitlines()) <= 30


def test_a_bound_of_the_loss_is_named_wherever_the_loss_stands(run, tmp_path):
    tiny = tmp_path / "tiny.json"
    run("count", "--dim", 64, "--n-layers", 2, "--n-heads", 2, "--vocab-size", 400, "-o", tiny)
    out = run("plan", tiny, "--gpu", "4090", "--tokens", "100M", "--compare", "gpt2")[1]
    assert "loss      5.991 nats per token at most, the bound ln 400\n" in out
    assert "5.991, the bound ln 400 " in out
    found = run("solve", "--target", "1M", "--vocab-size", 400, "--flops", "1e13")[1]
    assert "the law expects more than ln 400 = 5.991 nats" in found
    run("report", tiny, "--target", "206K", "--gpu", "4090", "--hours", "0.001", "-o", tmp_path / "plan.md")
    assert "5.991, the bound ln 400" in (tmp_path / "plan.md").read_text()


def test_models_are_compared_in_the_same_micro_steps(run, tmp_path):
    current = tmp_path / "current.json"
    run("count", "--dim", 1024, "--n-layers", 24, "--n-heads", 16, "--intermediate-size", 4096, "-o", current)
    out = run("plan", current, "--gpu", "h100", *BATCH, "--hours", 1.5, "--compare", "gpt2-medium")[1]
    table = out[out.index("\n\n") :]
    assert re.search(r"current +gpt2-medium", table)
    assert table.count("16 × 8") == 2
    for row in ("parameters", "peak memory", "tokens/s", "largest micro-batch", "expected loss", "MFU, full"):
        assert row in table
    assert "(-21.9 %)" in table  # 354,823,168 against 454,166,528


def test_a_config_whose_function_cannot_be_expressed_is_planned_with_a_note_and_not_trained(run, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "is_causal": False}))
    code, out, err = run("plan", config, "--gpu", "h100", *BATCH, "--hours", 1.5)
    assert (code, "124,439,808 parameters" in out) == (0, True)
    assert err.startswith("note: config: counted exactly, but built without attention to later tokens")
    for command in ("train", "export"):
        code, out, err = run(command, tmp_path)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "a model here cannot express attention to later tokens (is_causal), so it would" in err


def test_a_config_files_training_settings_are_planned_with(run, tmp_path):
    config = tmp_path / "config.json"
    model = {"dim": 896, "n_layers": 24, "n_heads": 14, "intermediate_size": 3584}
    config.write_text(json.dumps({"model": model, "train": {"batch_size": 4, "optimizer": "adamw"}}))
    document = json.loads(run("plan", config, "--gpu", "h100", "--json")[1])
    work = document["speed"]["step"]
    assert (work["batch_size"], work["optimizer"]) == (4, "adamw")
    assert json.loads(run("plan", config, "--gpu", "h100", "--batch-size", 8, "--json")[1])["speed"]["step"][
        "batch_size"
    ] == 8  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu", "h1000"], "no GPU is known as 'h1000'"),
        (["--gpu", "h100", "--hours", "0"], "--hours 0 is not a training time"),
        (["--gpu", "h100", "--hours", "1", "--tokens", "1B"], "--hours and --tokens both set the length"),
        (["--gpu", "h100", "--price", "-1"], "price -1 is not a price"),
        (["--gpu", "h100", "--gpus", "0"], "number of GPUs is 0"),
        (
            ["--gpu", "h100", "--gpus", "16", "--shard-degree", "5"],
            "shard_degree=5 does not divide 16 processes into equal groups of at least 2; use 2 or 4 or",
        ),
        (["--gpu", "h100", "--law", "kaplan"], "unknown loss law 'kaplan'; use "),
        (["--gpu", "h100", "--tokens", "many"], "tokens 'many' is not a count"),
        (["--gpu", "h100", "--batch-size", "0"], "batch_size is 0"),
        (
            ["--gpu", "h100", "--gpus", "8", *BATCH[:2], "--gradient-accumulation-steps", "3"],
            "cannot be divided evenly",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(run, arguments, says):
    code, out, err = run("plan", *NOTE, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_wrong_setting_in_the_file_is_one_line(run, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": {"dim": 128, "n_layers": 2}, "train": {"batch_size": "16"}}))
    code, out, err = run("plan", config, "--gpu", "h100")
    assert (code, out) == (2, "")
    assert "batch_size is '16'; it must be" in err


def test_hours_choose_width_depth_and_size_together(run):
    code, out, err = run("solve", "--hours", 1.5, "--gpu", "h100")
    assert (code, err) == (0, "")
    assert "Checked all " in out
    assert "tokens/s" in out.splitlines()[0]
    assert "--hours 1.5 --gpu h100" in out.splitlines()[-1]


def step_flags(command: str) -> list[str]:
    """Of a printed `train` command, the flags of the step."""
    words = command.split()
    return words[words.index("--batch-size") : words.index("--hours")]


def test_a_model_that_was_chosen_for_a_memory_is_planned_and_trained_in_it(run, tmp_path):
    chosen, most = tmp_path / "chosen.json", 0.94 * 24e9
    search = [
        "solve",
        "--hours",
        24,
        "--gpu",
        "h100",
        "--memory",
        "24GB",
        "--dim",
        "1024:1536:256",
        "--top",
        1,
    ]
    document = json.loads(run(*search, "--json")[1])
    forecast = document["solutions"][0]["forecast"]
    assert forecast["peak_bytes"] <= most
    told = run(*search, "-o", chosen)[1].splitlines()[-1]
    assert step_flags(told) == step_flags(document["solutions"][0]["train"])

    plan = ["plan", chosen, "--gpu", "h100", "--hours", 24]
    planned = json.loads(run(*plan, "--memory", "24GB", "--json")[1])
    assert planned["memory"]["peak_bytes"] == forecast["peak_bytes"]
    assert planned["speed"]["tokens_per_second"]["expected"] == forecast["tokens_per_second"]
    assert (planned["tokens"], planned["loss"]["expected"]) == (forecast["tokens"], forecast["loss"])
    screen = run(*plan, "--memory", "24GB")[1]
    assert "h100-sxm, 989.4 TFLOP/s dense bfloat16, 22.4 GiB of its 79.6 GiB\n" in screen
    assert step_flags(screen.splitlines()[-1]) == step_flags(told)
    # With all of the memory another step is faster; the printed flags are the ones of the smaller one.
    assert json.loads(run(*plan, "--json")[1])["memory"]["peak_bytes"] > most
    trained = json.loads(run(*plan, *step_flags(told), "--json")[1])
    assert trained["memory"]["peak_bytes"] == forecast["peak_bytes"]


def test_a_search_prints_the_run_of_its_first_model_and_what_plan_warns_of(run):
    ask = ["--hours", 0.1, "--gpu", "4090", "--price", 0.5, "--unique-tokens", "10M"]
    out = run("solve", *ask, "--law", "muennighoff-2023", "--top", 1)[1]
    said = " ".join(out.split())
    assert re.search(r"the run of model 1: [\d.]+M tokens, [\d.]+ per parameter, [\d.]+ epochs of the text, "
                     r"6\.0 min, \$0\.05 ", said)  # fmt: skip
    for warning in ("outside the law's range (50M to 9B)", "epochs: the run reads", "not a multiple of 64"):
        assert f"warning: {warning}" in said or warning in said
    assert "note: " in said
    assert "--price 0.5 --law muennighoff-2023 --unique-tokens 10M" in out.splitlines()[-1]
    document = json.loads(run("solve", *ask, "--top", 2, "--json")[1])
    for entry in document["solutions"]:
        forecast = entry["forecast"]
        assert forecast["epochs"] == forecast["tokens"] / 10**7
        assert forecast["tokens_per_parameter"] == forecast["tokens"] / entry["total"]
        assert forecast["dollars"] == pytest.approx(0.05)
        assert any("epochs" in warning for warning in forecast["warnings"])


def test_nodes_of_another_size_are_in_the_plan_and_in_every_command(run):
    nodes = ["--gpu", "h100", "--gpus", 16, "--gpus-per-node", 4, "--hours", 1]
    out = run("plan", "gpt2-xl", *nodes)[1]
    assert "16 x h100-sxm in 4 nodes" in out
    assert "sharded within 4 GPUs, replicated 4 times (chosen here:" in out
    assert "--nnodes 4 " in out
    assert "--nproc-per-node 4 " in out
    assert " --shard --shard-degree 4" in out
    line = ["solve", "--target", "350M", "--n-layers", 24, "--shard-degree", 2, "--top", 1, *nodes, "--json"]
    document = json.loads(run(*line)[1])
    assert "--gpus-per-node 4" in document["command"]
    assert "--shard-degree 2" in document["command"]
    assert document["solutions"][0]["forecast"]["step"]["shard_degree"] == 2
    train = document["solutions"][0]["train"]
    assert "--nnodes 4 " in train
    assert train.count("--shard --shard-degree 2") == 1


def test_the_lattice_of_a_budget_gives_the_same_answer_again(run):
    for asked in (["--flops", "1e18"], ["--target", "350M", "--hours", "1.5", "--gpu", "h100"]):
        out = run("solve", *asked)[1]
        again = out.splitlines()[-1].partition("parambudget ")[2].split()
        models = [line for line in out.splitlines() if re.match(r"[1-5] ", line)]
        assert [line for line in run(*again)[1].splitlines() if re.match(r"[1-5] ", line)] == models


def test_a_size_that_is_not_the_best_for_its_hours_is_told_so(run):
    out = run("solve", "--target", "350M", "--hours", 1.5, "--gpu", "h100")[1]
    assert re.search(r"another size suits the budget better: about \d+", out)
    document = json.loads(run("solve", "--target", "350M", "--hours", 1.5, "--gpu", "h100", "--json")[1])
    assert document["better_size"]["loss"] < document["better_size"]["baseline_loss"]
    assert document["solutions"][0]["forecast"]["tokens_per_second"] > 0


def test_a_report_is_a_document_with_its_pictures(run, tmp_path):
    current, out = tmp_path / "current.json", tmp_path / "plan.md"
    run("count", "--dim", 1024, "--n-layers", 24, "--n-heads", 16, "--intermediate-size", 4096, "-o", current)
    code, told, err = run("report", current, "--target", "350M", "--gpu", "h100", *BATCH, "-o", out)
    assert (code, err) == (0, "")
    text = out.read_text()
    for said in (
        "# From 454.2M to 350M parameters", "**454,166,528**", "| narrower | 24 layers, dim 896",
        "| **shallower** |",
        "| thinner |", "| balanced |", "total = V*d + ", "$ parambudget verify --dim 1024 --n-layers 18",
        "$ parambudget train --dim 896",
        "--batch-size 16 --gradient-accumulation-steps 8", "164 tensors",
        "Expected loss over time", "as of 20",
    ):  # fmt: skip
        assert said in text, said
    pictures = re.findall(r"\]\((.*?\.png)\)", text)
    assert pictures == ["plan-hours.png", "plan-sizes.png", "plan-memory.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in pictures)
    decision, *wrote = told.splitlines()
    assert decision.startswith("Train the shallower option: 18 layers, dim 1024, ")
    assert f"**{decision}**\n" in text
    assert wrote == [f"wrote {out}", *(f"wrote {tmp_path / name}" for name in pictures)]
    assert "- learning rate: Muon's rule was measured at 1.05M body parameters alone" in text


def test_a_plan_says_that_the_text_is_read_too_often_and_compares_it(run):
    length = ["--tokens", "10B", "--unique-tokens"]
    often = run("plan", *NOTE, "--gpu", "h100", *length, "2B", "--compare", "gpt2-medium")[1]
    said = " ".join(often.split())
    assert "5 epochs of the text" in said
    assert "warnings 5 epochs: the run reads 10B tokens from a text of 2B" in said
    assert re.search(r"^epochs +5", often, re.MULTILINE)
    assert "the run reads" not in run("plan", *NOTE, "--gpu", "h100", *length, "2.5B")[1]
    assert "--data YOUR_TEXT" in often


def test_a_report_says_how_often_each_option_reads_the_text(run, tmp_path):
    command = ["report", "gpt2-medium", "--target", "300M", "--gpu", "h100", "--hours", 1.5, *BATCH]
    out = tmp_path / "plan.md"
    run(*command, "-o", out, "--unique-tokens", "20M")
    often = out.read_text()
    section = often.split("## What to expect")[1].split("\n## ")[0]
    head, *rows = [line.split(" | ") for line in section.splitlines() if "|" in line]
    epochs = [float(row[head.index("epochs")]) for row in rows[1:]]
    assert len(epochs) >= 5  # the current model, four options, and another size where it is better
    assert f": {max(epochs):g} epochs: the run reads " in often
    assert "- text: 20M tokens\n" in often
    run(*command, "-o", out)
    assert "epochs" not in out.read_text()


def test_a_report_of_a_model_without_an_ffn_names_none(run, tmp_path):
    out = tmp_path / "plan.md"
    command = ["report", "mamba-130m", "--target", "98.9M", "--gpu", "h100", "--hours", 1]
    code, _, err = run(*command, "-o", out)
    assert (code, err) == (0, "")
    text = out.read_text()
    assert "| 16 layers, dim 768 | 98,962,176 |" in text
    assert "FFN" not in text
    assert "FFN" not in run("plan", "mamba-130m", "mamba-370m", "--gpu", "h100", "--hours", 1)[1]


def test_a_report_of_a_model_with_experts_names_them(run, tmp_path):
    current, out = tmp_path / "current.json", tmp_path / "plan.md"
    experts = ["--n-experts", 8, "--n-experts-per-token", 2, "--expert-intermediate-size", 512]
    run("count", "--dim", 512, "--n-layers", 8, "--n-heads", 8, *experts, "-o", current)
    code, _, err = run("report", current, "--target", "60M", "--gpu", "h100", "-o", out)
    assert (code, err) == (0, "")
    text = out.read_text()
    assert "8 experts of FFN 512, 2 per token" in text
    assert "E = 8 (n_experts)" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "plan.txt", "--gpu", "h100"], "plan.txt is not a Markdown file"),
        (["-o", "nowhere/plan.md", "--gpu", "h100"], "nowhere is not a folder"),
        (["-o", "plan.md", "--gpu", "h1000"], "no GPU is known"),
    ],
)
def test_a_report_that_cannot_be_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("report", "gpt2-large", "--target", "350M", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert list(tmp_path.iterdir()) == []


OWN = ["--gpu-memory", "24GB", "--gpu-tflops", "82", "--gpu-bandwidth", "1008GB/s"]


def test_a_gpu_described_by_flags_is_planned_for_in_every_command(run, tmp_path):
    code, out, err = run("plan", *NOTE, "--gpu", "my card", *OWN, *BATCH, "--hours", 1.5, "--price", "0.5")
    assert (code, err) == (0, "")
    assert "machine   my card, 82 TFLOP/s dense bfloat16, 22.4 GiB\n" in out
    assert "peak and bandwidth given, scaled from the constants of Hopper" in out
    assert "cost      $0.75 at $0.5 an hour" in out
    document = json.loads(run("solve", "--hours", 1, "--top", 1, "--gpu", "my card", *OWN, "--json")[1])
    again = shlex.split(document["command"])
    assert {"my card", "24GB", "82.0", "1008GB/s"} <= {*again}
    assert json.loads(run(*again[1:], "--json")[1])["solutions"] == document["solutions"]
    run("count", *NOTE, "-o", tmp_path / "now.json")
    plan = tmp_path / "plan.md"
    assert run("report", tmp_path / "now.json", "--target", "300M", *OWN, "--hours", 1, "-o", plan)[0] == 0
    assert "machine: own GPU, 82 TFLOP/s dense bfloat16" in plan.read_text()
    assert "| not known |" in plan.read_text()


@pytest.mark.parametrize("command", [["plan", "gpt2"], ["solve", "--target", "9M"]])
@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (
            OWN[:4],
            "--gpu-memory and --gpu-tflops do not describe a GPU without --gpu-bandwidth; give all three",
        ),
        ([*OWN[:5], "1008gb/s"], "gpu_bandwidth '1008gb/s' is not a rate; use such as 1008GB/s (bytes)"),
        ([*OWN, "--gpu", "m3 max"], "nothing is predicted for Apple's GPUs"),
    ],
)
def test_figures_that_describe_no_gpu_are_one_line(run, command, figures, says):
    code, out, err = run(*command, *figures)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_no_training_is_proposed_where_the_trainer_refuses_the_gpu(run, tmp_path):
    out = run("plan", "gpt2", "--gpu", "v100", "--hours", 1)[1]
    assert "v100-16-sxm has no bfloat16: planned with its float16 peak" in out
    assert "125 TFLOP/s dense float16" in out
    assert "parambudget train" not in out
    code, out, err = run("solve", "--hours", 1, "--gpu", "t4", "--top", 1)
    assert (code, out.count("no bfloat16"), err) == (0, 1, "")
    asked = ("solve", "--target", "100M", "--top", 1, "--gpu")
    refused, trained = (json.loads(run(*asked, gpu, "--json")[1])["solutions"][0] for gpu in ("t4", "h100"))
    assert refused["train"] is None
    assert "parambudget train" in trained["train"]
    written = run(*asked, "t4", "-o", tmp_path / "t4.json")[1]
    assert "wrote model 1 of the list" in written
    assert "parambudget train" not in written
    run("count", *NOTE, "-o", tmp_path / "now.json")
    plan = tmp_path / "plan.md"
    run("report", tmp_path / "now.json", "--target", "300M", "--gpu", "v100", "--hours", 1, "-o", plan)
    assert "parambudget train" not in plan.read_text()
    assert "v100-16-sxm has no bfloat16" in plan.read_text()


def test_energy_and_emissions_stand_beside_the_dollars(run, tmp_path):
    asked = ("plan", *NOTE, "--gpu", "h100", *BATCH, "--hours", 1.5)
    line = (
        "energy    0.982 kWh, 0.464 kg CO2e, assuming 85% of 700 W a GPU, PUE 1.1 and 473 g CO2e/kWh (world "
        "average of 2024, Ember's Global Electricity Review 2025)"
    )
    assert line in run(*asked)[1]
    assert (
        "0.982 kWh, 0.0295 kg CO2e, assuming 85% of 700 W a GPU, PUE 1.1 and 30 g CO2e/kWh (given)"
        in (run(*asked, "--grid-intensity", 30)[1])
    )
    assert re.search(r"kg CO2e +0.464 +0.464 \(0 %\)", run(*asked, "--compare", "gpt2-medium")[1])
    assert "energy    not estimated: the power of own GPU is not known\n" in run("plan", *NOTE, *OWN)[1]
    run("count", *NOTE, "-o", tmp_path / "now.json")
    plan = tmp_path / "plan.md"
    now = ("report", tmp_path / "now.json", "--target", "300M", "--gpu", "h100", "--hours", 2, "-o", plan)
    assert run(*now, "--grid-intensity", 100)[0] == 0
    assert "| dollars | kWh | kg CO2e |" in plan.read_text()
    assert "| 5.90 | 1.31 | 0.131 |" in plan.read_text()
    assert "85% of 700 W a GPU, PUE 1.1 and 100 g CO2e/kWh (given); board power: " in plan.read_text()


@pytest.mark.parametrize(
    ("intensity", "says"), [("-3", "is -3.0; use grams"), ("many", "should be a valid number")]
)
def test_a_grid_intensity_that_cannot_be_is_one_line(run, intensity, says):
    code, out, err = run("plan", "gpt2", "--gpu", "h100", "--grid-intensity", intensity)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_a_plan_of_inference_is_a_screen_and_a_document(run):
    asked = ("plan", "llama-3-8b", "--inference", "--gpu", "4090", "--context-length", 2048)
    code, out, err = run(*asked, "--batch-size", 4)
    assert (code, err) == (0, "")
    for said in (
        "machine   rtx-4090, 24.0 GiB\n", "memory    fits: 16.7 GiB of 24.0 GiB",
        "up to 27 sequences of 2,048", "in bfloat16 (`sample`",
        "weights 15.0 GiB, cache of keys and values 1.0 GiB (4 sequences of 2,048 tokens)",
    ):  # fmt: skip
        assert said in out, said
    assert "learning rate" not in out
    document = json.loads(run(*asked, "--batch-size", 4, "--json")[1])
    assert (document["mode"], document["fits"], document["largest_batch_size"]) == ("inference", True, 27)
    assert document["memory"]["cache_bytes"] == 2**30
    assert document["model"]["context_length"] == 8192
    code, out, _ = run(*asked, "--batch-size", 400)
    assert (code, "DOES NOT FIT" in out, "would fit: --batch-size 27\n" in out) == (1, True, True)


def test_a_plan_of_inference_keeps_to_a_memory(run):
    asked = ("plan", "gpt2", "--inference", "--gpu", "h100", "--json")
    whole, part = (json.loads(run(*asked, *memory)[1]) for memory in ((), ("--memory", "24GB")))
    assert part["machine"]["memory_bytes"] == 24 * 10**9 < whole["machine"]["memory_bytes"]
    assert part["largest_batch_size"] < whole["largest_batch_size"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--hours", "3"], "--hours 3 has no effect: nothing is trained"),
        (["--price", "2"], "--price 2 has no effect: how long it runs is not planned"),
        (["--gpus", "8"], "--gpus 8 has no effect: a model generates on one GPU"),
        (["--compare", "gpt2"], "--compare gpt2 has no effect: one model is planned at a time"),
        (["--optimizer", "adamw"], "--optimizer adamw has no effect: it is how an update of training"),
        (["--shard"], "--shard has no effect"),
        (["--grid-intensity", "30"], "--grid-intensity 30 has no effect"),
        (["--stack", "best"], "--stack best has no effect: the speed of generating is not planned"),
        (["--mfu", "0.3"], "--mfu 0.3 has no effect"),
        (["--network", "400Gb/s"], "--network 400Gb/s has no effect: a model generates on one GPU"),
        (["--context-length", "2000"], "--context-length is 2000; use a whole number above 0, at most 1,024"),
    ],
)
def test_flags_of_training_have_no_effect_on_inference(run, flags, says):
    code, out, err = run("plan", "gpt2", "--inference", "--gpu", "h100", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
