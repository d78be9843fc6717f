"""Values that a flag may be given, by mistake or not."""

from hypothesis import strategies as st

NUMBERS = [
    "0", "-0", "-1", "1", "2", "3", "1.5", "0.5", "1e3", "1e18", "1e999", "-1e999", "1e-400", "1e-9", "nan",
    "inf", "-inf", "0x10", "1_000", "1,000", "007", "1T", "1e18T", "350M", "24GB", "1%", "100%", "%", "1/3",
    "1/0", "9" * 30, "9" * 5_000, str(2**31), str(2**63 - 1), str(2**63), str(2**64), "١٢٣", "１２", "²", "½",
]  # fmt: skip
LISTS = [
    "1:2:0", "9:3", "1:9:2", "1:1000000:1", "64:1000000:64", "1:999999999999", "1:999999999999:999999",
    "1:2:3:4", "::", ":", "1:", ":1", ",", "1,", "1,,2", "1,2,3", "64,128", "1-9", "1..9", "٣:٩",
    ",".join(map(str, range(1, 20_000))),
]  # fmt: skip
TEXTS = [
    "", " ", "\n", "1\n2", "\t", "\r\n", "\\0", "\udcff", "\ufeff1", "\u202e", "\x1b[31m", "[red]x[/red]",
    "[/]", "{}", "{0}", "%s", "'", '"', "`a`", "a" * 10_000, "a b " * 900, "null", "None", "true", "auto",
    "cuda:99", "cuda:-1", "cpu:7", "-", "--", "--help", "hf:", "hf:../x", "gpt2", "$HOME", "~", "👍",
]  # fmt: skip
NAMES = [".", "..", "text", "config.json", "pipe", "nowhere"]
PATHS = [
    "/", "./", "text/000.txt", "config.json/x", "nowhere/x", "/dev/zero", "/dev/null", "/proc/self/mem",
    "a/" * 500, "https://example.com/x",
]  # fmt: skip


def any_value(*, leaves_here: bool = True) -> st.SearchStrategy[str]:
    """Any word of a command line; unless it `leaves_here`, none that names a place in another folder."""
    words = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=20)
    numbers = st.integers().map(str) | st.floats().map(str)
    ranges = st.lists(st.integers(0, 10**7).map(str), min_size=2, max_size=3).map(":".join)
    odd = [*NUMBERS, *LISTS, *TEXTS, *NAMES, *(PATHS if leaves_here else [])]
    return st.one_of(
        st.sampled_from([each for each in odd if leaves_here or "/" not in each]), words, numbers, ranges
    )
