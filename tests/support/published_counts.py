"""Exact counts of published models with experts or other choices than most, by the names of their presets.

Counts: unique parameters of the instantiated Hugging Face classes (transformers 5.23 on the meta device), of
those what one token meets (all but the routed experts that are not chosen), and those of routers and gates.
"""

from typing import NamedTuple

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import PRESETS


class Published(NamedTuple):
    """One model and its counts."""

    model: ModelConfig
    total: int
    active: int
    router: int = 0


COUNTS = (
    ("mixtral-8x7b-v0.1", 46_702_792_704, 12_879_925_248, 1_048_576),
    ("qwen3-30b-a3b", 30_532_122_624, 3_353_032_704, 12_582_912),
    ("qwen1.5-moe-a2.7b", 14_315_784_192, 2_689_173_504, 2_998_272),
    ("phi-3.5-moe", 41_873_153_344, 6_640_999_744, 2_097_152),
    ("olmoe-1b-7b", 6_919_161_856, 1_282_017_280, 2_097_152),
    ("granite-3.0-1b-a400m", 1_334_628_352, 428_658_688, 786_432),
    ("glm-4.5-air", 106_852_245_504, 13_424_123_904, 23_592_960),
    ("gpt-oss-20b", 20_914_757_184, 4_187_440_704, 2_212_608),
    ("opt-125m", 125_239_296, 125_239_296),
    ("opt-350m", 331_196_416, 331_196_416),
    ("bloom-560m", 559_214_592, 559_214_592),
    ("bloom-7b1", 7_069_016_064, 7_069_016_064),
    ("mpt-7b", 6_649_286_656, 6_649_286_656),
    ("deepseek-v2-lite", 15_706_484_224, 2_661_150_208, 3_407_872),
    ("deepseek-v3", 671_026_404_352, 37_552_282_624, 106_430_464),
    ("kimi-k2", 1_026_408_209_408, 32_861_477_888, 165_150_720),
)
PUBLISHED = {name: Published(PRESETS[name].model, *counts) for name, *counts in COUNTS}
