"""The folder of a ladder whose runs have finished, without training them: their losses follow a law."""

import json

import parambudget as pb
from parambudget._documents import write_with_seal
from parambudget.ladders.ladder_file import LADDER_FILE, LadderDocument, RungEntry, run_path
from parambudget.scaling.loss import law_parameters

TARGET = pb.model(dim=128, n_layers=4, n_heads=2, vocab_size=300, context_length=64)
SHA = "ab" * 32
SHAPES = [(32, 1), (32, 2), (48, 2), (64, 2), (64, 4)]


def document_of(rungs, **changes):
    return LadderDocument(**{
        "version": "0", "data": "builtin", "corpus": "a text", "corpus_sha256": SHA, "tokens_sha256": SHA,
        "tokenizer_sha256": SHA, "unique_tokens": 10**9, "vocab_size": 300, "context_length": 64,
        "target": TARGET.model_dump(), "target_tokens": 20_000_000, "machine": None, "expected_loss": 3.0,
        "expected_width": 0.1, "rungs": tuple(rungs),
    } | changes)  # fmt: skip


def write_finished_run(folder, entry, model, loss, **changes):
    """What `train` leaves of a run that has finished, as far as a fit reads it."""
    out = run_path(folder, entry.name)
    out.mkdir(parents=True)
    provenance = {"tokens_sha256": SHA, "train_tokens": 10**9}
    config = {"model": model.model_dump(), "provenance": provenance, "train": {"steps": 10}}
    summary = {
        "finished": True, "parameters": pb.count(model).total, "steps": 10, "tokens": entry.tokens,
        "loss": loss, "val_loss": loss, "val_bits_per_byte": None, "tokens_per_second": 1.0, "mfu": None,
        "peak_flops": None, "peak_memory_bytes": None, "seconds": 1.0, "update_seconds": 1.0,
        "device": "CPU", "planned": None, "checkpoint": None,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config | changes.pop("config", {})))
    (out / "summary.json").write_text(json.dumps(summary | changes))


def law_loss(n, d):
    return 1.2 + 30 / n**0.33 + 60 / d**0.36


def write_finished_ladder(folder):
    """Ten runs, two lengths of five sizes."""
    entries = []
    for dim, n_layers in SHAPES:
        model = pb.model(dim=dim, n_layers=n_layers, n_heads=2, vocab_size=300, context_length=64)
        n = float(law_parameters(model))
        for ratio in (5, 15):
            entry = RungEntry(f"{dim}-{n_layers}-{ratio}", n, round(ratio * n), 0, 6 * ratio * n * n, None)
            write_finished_run(folder, entry, model, law_loss(n, entry.tokens))
            entries.append(entry)
    write_with_seal(folder / LADDER_FILE, document_of(entries))
    return folder
