"""Numbers as people write them: "350M" is 350_000_000, 81_559 MiB is "79.6 GiB", 1% is the exact 1/100.

K, M, B and T are powers of 1000; memory is printed in GiB (2**30). This is the only file that scales numbers
for people.
"""

import re
from decimal import Decimal, localcontext
from fractions import Fraction
from math import floor, log10
from typing import Final

from parambudget.errors import ConfigError, InputError

Count = int | str
"""350_000_000 or "350M"."""

_SCALES: Final = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER: Final = re.compile(
    r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)?(\.[0-9]+)?(?:e(-?|\+?)([0-9]{1,2}))?", re.IGNORECASE
)
_LONGEST_NUMBER: Final = 40
_LARGEST_COUNT: Final = 10**18
LONGEST_VALUE: Final = 60
"""Characters of a field's value that a message shows."""


def parse_count(text: str | int, what: str = "count") -> int:
    """A positive count, exact: `350M`, `1.3B`, `0.35e9`, `350_000_000` or `350,000,000`."""
    allowed = "a positive number such as 350M, 1.3B, 0.35e9 or 350_000_000 (K, M, B, T are powers of 1000)"
    if isinstance(text, int) and not isinstance(text, bool):
        value = Fraction(text)
    else:
        written = str(text).strip()
        letter = written[-1:].upper()
        scale = _SCALES.get(letter) if letter.isalpha() else 1
        sign, unsigned = _sign_and_rest(written)
        number = _rational(unsigned[:-1].rstrip() if letter.isalpha() else unsigned)
        if scale is None or number is None:
            raise InputError(f"{what} {shorten(written)!r} is not a count; use {allowed}")
        value = sign * number * scale
    if value.denominator != 1:
        raise InputError(f"{what} {shorten(str(text))!r} is not a whole number; use {allowed}")
    if not 0 < value <= _LARGEST_COUNT:
        raise InputError(f"{what} {shorten(str(text))!r} is out of range; use {allowed}, at most 10^18")
    return int(value)


def parse_size(text: str, what: str) -> int:
    """A whole size as a flag gives it: `896`, `50_257` or `50,257`. No letters, as 32K could mean 32,000 or
    32,768. Whether it may be 0 or less is for the caller to say."""
    sign, unsigned = _sign_and_rest(text.strip())
    match = _NUMBER.fullmatch(unsigned) if len(text) <= _LONGEST_NUMBER else None
    if match is None or match[1] is None or match[2] or match[4]:
        raise ConfigError(
            f"{what} {shorten(text)!r} is not a whole number; write it in full, such as 896 or 50_257"
        )
    return sign * int(match[1].replace(",", ""))


def parse_bytes(text: str, what: str = "memory") -> int:
    """A size of memory: `24GB` is 24 * 10**9 bytes, `24GiB` is 24 * 2**30. A bare number is refused: its unit
    is not clear."""
    if not isinstance(text, str):
        raise InputError(f"{what} {shorten(repr(text))} is not a size; use such as '24GB' or '24GiB'")
    match = re.fullmatch(r"([0-9.,_]+)\s*([KMGT])(i?)B", text.strip(), re.IGNORECASE)
    number = _rational(match[1]) if match else None
    if match is None or number is None or number <= 0:
        raise InputError(f"{what} {shorten(text)!r} is not a size; use such as 24GB (10^9) or 24GiB (2^30)")
    power = "KMGT".index(match[2].upper()) + 1
    size = number * (1024 if match[3] else 1000) ** power
    if not 1 <= size <= _LARGEST_COUNT:
        raise InputError(f"{what} {shorten(text)!r} is out of range; use 1 byte to 10^18 bytes")
    return int(size)


def parse_byte_rate(text: str, what: str = "bandwidth") -> float:
    """Bytes per second: `1008GB/s` is 1008 * 10**9, `400Gb/s` (bits) an eighth of 400 * 10**9. The b tells
    bytes from bits, so its case counts, and a number without a unit is refused."""
    allowed = "use such as 1008GB/s (bytes) or 400Gb/s (bits, eight to a byte)"
    if not isinstance(text, str):
        raise InputError(f"{what} {shorten(repr(text))} has no unit; {allowed}")
    match = re.fullmatch(r"([0-9.,_]+)\s*([kKMGT])(i?)(B|b|bit)(?:/s|ps)", text.strip())
    number = _rational(match[1]) if match else None
    if match is None or number is None or number <= 0:
        raise InputError(f"{what} {shorten(text)!r} is not a rate; {allowed}")
    power = "KMGT".index(match[2].upper()) + 1
    rate = number * (1024 if match[3] else 1000) ** power / (1 if match[4] == "B" else 8)
    if not 1 <= rate <= _LARGEST_COUNT:
        raise InputError(f"{what} {shorten(text)!r} is out of range; {allowed}, at most 10^18 bytes")
    return float(rate)


def parse_tolerance(text: str | float | Fraction) -> Fraction:
    """An exact relative tolerance: `1%`, `0.01` or 0. A number of 1 or more without % is refused, as it could
    mean either."""
    written = str(text).strip()
    percent = written.endswith("%")
    if isinstance(text, Fraction):
        number: Fraction | None = text
    else:
        number = _rational(written.removesuffix("%").strip())
    if number is None or number < 0:
        raise InputError(f"tolerance {shorten(written)!r} is not a share; use 1% or 0.01")
    if not percent and number >= 1:
        raise InputError(
            f"tolerance {written!r} is ambiguous: 1 or more needs a percent sign; use {written}% or 0.01"
        )
    share = number / 100 if percent else number
    if share >= 1:
        raise InputError(f"tolerance {written!r} is 100 % or more; use a share below it, such as 1%")
    return share


def shorten(text: str, most: int = _LONGEST_NUMBER) -> str:
    """A text cut to a length that fits into a message of one line."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def short_repr(value: object) -> str:
    """The value of a field as a message shows it."""
    return shorten(repr(value), LONGEST_VALUE)


def _sign_and_rest(written: str) -> tuple[int, str]:
    """-1 and the rest of a text that begins with a minus, else 1 and the text."""
    return (-1, written[1:]) if written.startswith("-") else (1, written)


def _rational(written: str) -> Fraction | None:
    """The exact number that a text writes, or None if it is not one."""
    match = _NUMBER.fullmatch(written) if len(written) <= _LONGEST_NUMBER else None
    if match is None or not (match[1] or match[2]):
        return None
    whole = re.sub("[,_]", "", match[1] or "0")
    power = Fraction(10) ** int(match[4] or 0)
    return Fraction(f"{whole}{match[2] or ''}") * (1 / power if match[3] == "-" else power)


def format_count(count: float) -> str:
    """A count in at most four significant digits: 174_604_369_920 is "174.6B"."""
    # The rounded count picks the letter, so that 999,960,000 is "1B" and not "1000M".
    rounded = float(f"{abs(count):.4g}")
    for letter, scale in reversed(_SCALES.items()):
        if rounded >= scale:
            scaled = count / scale
            return f"{scaled:.4g}{letter}" if abs(scaled) < 9_999 else f"{scaled:,.0f}{letter}"
    return f"{count:.4g}"


def count_phrase(count: int, noun: str) -> str:
    """A whole number of things: "1 update", "4,096 updates"."""
    return f"{count:,} {plural(count, noun)}"


def plural(count: float | str, noun: str) -> str:
    """The noun as it stands beside a number, or beside what is printed of it: "epoch" for 1, else
    "epochs"."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return noun if count in (1, "1") else many


def gib(size_bytes: float) -> float:
    """Memory in GiB (2**30 bytes), as a number for the axis of a figure."""
    return size_bytes / 2**30


def format_bytes(size_bytes: float) -> str:
    """Memory in GiB (2**30 bytes), or MiB below one: 81_559 * 2**20 is "79.6 GiB"."""
    if size_bytes < 2**30:
        return f"{size_bytes / 2**20:.1f} MiB"
    return f"{gib(size_bytes):.1f} GiB"


def format_exact_bytes(size_bytes: int) -> str:
    """Memory as a flag takes it, to the byte: 24 * 10**9 is "24GB"."""
    return f"{size_bytes // 10**9}.{size_bytes % 10**9:09d}".rstrip("0").rstrip(".") + "GB"


def format_amount(amount: float) -> str:
    """An estimate in three digits, or in whole numbers from 100 on: "0.35", "3.93", "12,345"."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"


def format_byte_rate(bytes_per_second: float) -> str:
    """Bytes per second, in powers of 1000: 1.008e12 is "1.01 TB/s", 672e9 is "672 GB/s"."""
    if bytes_per_second >= 1e12:
        return f"{bytes_per_second / 1e12:.2f} TB/s"
    return f"{bytes_per_second / 1e9:,.4g} GB/s"


def format_flop_rate(flops_per_second: float) -> str:
    """Arithmetic per second: 989.4e12 is "989.4 TFLOP/s"."""
    for scale, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if flops_per_second >= scale:
            return f"{flops_per_second / scale:.4g} {letter}FLOP/s"
    return f"{flops_per_second / 1e6:.4g} MFLOP/s"


FULL_CONVENTION: Final = "full convention: FLOPs are counted with attention over the whole context"
"""What `format_mfu` says in two words; printed once on each screen that has an MFU."""


def format_mfu(mfu: float, peak_flops: float) -> str:
    """Model FLOPs utilisation and the peak it refers to: "45.1% of 989.4 TFLOP/s dense, full convention"."""
    return f"{mfu:.1%} of {format_flop_rate(peak_flops)} dense, full convention"


def format_share(share: float | Fraction, digits: int = 3) -> str:
    """A signed relative difference: 0.00003 is "+0.003 %", exactly zero is "0 %", and 40 is "41 times". An
    exact one that would round to zero has its first digit."""
    if share >= 10:
        return f"{float(share) + 1:,.0f} times"
    percent = float(share) * 100
    if isinstance(share, Fraction) and 0 < abs(percent) < 0.5 * 10**-digits:
        digits = -floor(log10(abs(percent)))
    return f"{percent:+.{digits}f} %" if share else "0 %"


def format_tolerance(share: Fraction) -> str:
    """A tolerance exactly as a flag takes it: Fraction(1, 200) is "0.5%"."""
    for part, sign in ((share * 100, "%"), (share, "")):
        with localcontext(prec=16):
            written = f"{Decimal(part.numerator) / part.denominator:f}"
        if sign == "" or Fraction(written) == part:
            break
    return f"{written}{sign}"


def format_seconds(seconds: float) -> str:
    """A duration: "42 s", "12.3 min", "1.5 h" or "3.2 days"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
