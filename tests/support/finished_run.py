"""The folder of a run as `train` leaves it, without training."""

import json

import parambudget as pb

MODEL = pb.model(dim=64, n_layers=2, n_heads=2, vocab_size=400, context_length=64)
TOKENS = 4096 * 500
SIZES = ["--dim", 64, "--n-layers", 2, "--n-heads", 2, "--vocab-size", 400, "--context-length", 64]
SUMMARY = {
    "finished": True, "parameters": pb.count(MODEL).total, "steps": 500, "tokens": TOKENS, "loss": 3.1,
    "val_loss": 3.25, "val_bits_per_byte": 2.0, "tokens_per_second": 300_000.0, "mfu": None,
    "peak_flops": 989.4e12, "peak_memory_bytes": None, "seconds": 9.0, "update_seconds": 8.0,
    "device": "NVIDIA H100 80GB HBM3", "planned": None, "checkpoint": None,
}  # fmt: skip
TRAIN = {"steps": 500, "batch_size": 16, "gradient_accumulation_steps": 4, "optimizer": "muon"}


def write_run(folder, *, provenance=None, **summary):
    """The folder of a run of MODEL, with the files that train leaves in it."""
    folder.mkdir(parents=True)
    document = {
        "model": MODEL.model_dump(),
        "provenance": provenance or {"train_tokens": 10**9},
        "train": TRAIN,
    }
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "summary.json").write_text(json.dumps(SUMMARY | summary))
    return folder
