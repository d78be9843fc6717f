"""Ladders against the runs that they predict, on a processor and the text that comes with Python.

Five sizes at two ratios predict a model of about 1.1M parameters on 4.5M tokens; then that is trained. Beside
the ladder's prediction stands that of a published law anchored at the ladder's largest run. A second, smaller
ladder does the same where a small text is read several times. Everything is kept in FOLDER and resumed from
there: stop it at any time, and start the same line again. It takes about an hour on one core. On a quiet
machine a second thread helps (1.1M parameters: 13,400 tokens/s with two, 7,300 with one); beside other
programs threads wait for each other (1,400 with two, 7,800 with one), and one is better.

    OMP_NUM_THREADS=1 python benchmarks/ladder_proof.py FOLDER
"""

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import parambudget as pb
from parambudget.ladders.ladder_file import LADDER_FILE, run_path
from parambudget.render.figures import ladder_figure, save_png
from parambudget.render.ladder import interval_in_words, ladder_fit_screen, ladder_plan_screen, outcome_line
from parambudget.scaling.loss import DEFAULT_LAW, expected_loss, law_parameters
from parambudget.training.anchor_source import read_measured_run
from parambudget.training.run.defaults import MOST_EVAL_TOKENS


@dataclass(frozen=True)
class Proof:
    """A ladder and the run that it predicts."""

    model: pb.ModelConfig
    tokens: int
    share: str
    """Of the target's FLOPs: a tenth of so small a target has no room for models ten times smaller."""
    ratios: tuple[float, float]
    sizes: int


ONCE = Proof(
    pb.model(dim=128, n_layers=4, n_heads=2, intermediate_size=512, vocab_size=512, context_length=256),
    tokens=4_500_000, share="130%", ratios=(5, 15), sizes=5,
)  # fmt: skip
REPEATED = Proof(
    pb.model(dim=80, n_layers=3, n_heads=5, intermediate_size=320, vocab_size=512, context_length=256),
    tokens=1_800_000, share="200%", ratios=(4, 12), sizes=4,
)  # fmt: skip
SMALL_TEXT = ("asyncio", "email", "unittest")
"""Packages of Python's library: what is read again."""
WIDTH = 120


def main() -> None:
    """Both proofs, one after the other."""
    folder = Path(sys.argv[1])
    prove(ONCE, folder / "once", "builtin")
    prove(REPEATED, folder / "repeated", small_text(folder / "text"))


def small_text(folder: Path) -> str:
    """A part of Python's library as text files."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in SMALL_TEXT:
        for source in sorted((Path(sysconfig.get_path("stdlib")) / package).glob("*.py")):
            (folder / f"{package}-{source.stem}.txt").write_text(source.read_text("utf-8"), "utf-8")
    return str(folder)


def prove(proof: Proof, folder: Path, data: str) -> None:
    """Plan, train and fit the ladder; train the target; print both."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ladder" / LADDER_FILE).exists():
        made = pb.plan_ladder(
            target=proof.model, tokens=proof.tokens, data=data, share=proof.share, ratios=proof.ratios,
            sizes=proof.sizes, seeds=2, out=folder / "ladder",
        )  # fmt: skip
        assert made.plan is not None
        print("\n".join(ladder_plan_screen(made.plan, WIDTH)))
    ladder = pb.Ladder(folder / "ladder")
    for number, outcome in enumerate(ladder.run(device="cpu"), 1):
        print(outcome_line(number, len(ladder.document.rungs), outcome), flush=True)
    fit = ladder.fit()
    fit.save(ladder.law_path)
    save_png(ladder_figure(fit), ladder.folder / "fit.png")
    print("\n".join(["", *ladder_fit_screen(fit, ladder.law_path, WIDTH), ""]), flush=True)

    trained = pb.train(
        proof.model, folder / "target", data=data, tokens=proof.tokens, resume=True,
        eval_tokens=MOST_EVAL_TOKENS,
    )  # fmt: skip
    assert trained.val_loss is not None
    largest = max(fit.points, key=lambda point: point.entry.flops)
    anchored = read_measured_run(str(run_path(ladder.folder, largest.entry.name))).law_at_its_level(
        DEFAULT_LAW
    )
    published = expected_loss(anchored, law_parameters(proof.model), trained.tokens, fit.target.unique_tokens)
    inside = "inside" if fit.prediction.contains(trained.val_loss) else "OUTSIDE"
    print(f"measured                           {trained.val_loss:.4f}")
    print(
        f"predicted by the ladder            {interval_in_words(fit.prediction)}, off by "
        f"{fit.prediction.expected / trained.val_loss - 1:+.2%}, {inside} its interval"
    )
    print(
        f"{DEFAULT_LAW.name}, anchored at its largest run {published:.4f}, off by "
        f"{published / trained.val_loss - 1:+.2%}"
    )


if __name__ == "__main__":
    main()
