"""Values that a flag may be given, by mistake or not."""

from hypothesis import strategies as st

NUMBERS = [
    "0", "-0", "-1", "1", "2", "3", "1.5", "1e3", "1e18", "1e999", "-1e999", "1e-400", "nan", "inf", "-inf",
    "0x10", "1_000", "1,000", "007", "1T", "1e18T", "1%", "100%", "%", "1/3", "1/0", "9" * 30, "9" * 5_000, str(2**31), str(2**63 - 1),
    str(2**63), str(2**64), "١٢٣", "１２", "²", "½", "350M", "24GB", "0.0", "1e-9", "0.5",
]  # fmt: skip
LISTS = [
    "1:2:0", "9:3", "1:9:2", "1:1000000:1", "64:1000000:64", "1:999999999999", "1:999999999999:999999", "1:2:3:4", "::", ":", "1:", ":1", ",", "1,", "1,,2", "1,2,3", "64,128",
    ",".join(map(str, range(1, 20_000))), "1-9", "1..9", "٣:٩",
]  # fmt: skip
TEXTS = [
    "", " ", "\n", "1\n2", "\t", "\r\n", "\\0", "\udcff", "\ufeff1", "\u202e", "\x1b[31m", "[red]x[/red]", "[/]", "{}", "{0}", "%s", "'", '"', "`a`",
    "a" * 10_000, "null", "None", "true", "false", "auto", "cuda:99", "cuda:-1", "cpu:7", "-", "--", "--help", "-h", "hf:", "hf:/", "hf:../x", "gpt2", "$HOME", "~", "👍",
]  # fmt: skip
PATHS = [
    ".", "..", "/", "./", "text", "text/000.txt", "config.json", "config.json/x", "pipe", "nowhere/x", "/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", "a/" * 500, "https://example.com/x", "s3://x",
]  # fmt: skip
ODD = [*NUMBERS, *LISTS, *TEXTS, *PATHS]
