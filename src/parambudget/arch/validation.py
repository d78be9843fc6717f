"""Choices and sizes of a model that contradict each other, in one line: what, and what to do."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo


def one_line(error: ValidationError, cls: type[BaseModel]) -> str:
    """The first finding of a pydantic report in the house's form: what, got, allowed."""
    findings = error.errors(include_url=False)
    # A misspelt or malformed field is why another one is missing.
    finding = min(findings, key=lambda one: {"extra_forbidden": 0, "missing": 2}.get(one["type"], 1))
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"])
    names = [part for part in finding["loc"] if isinstance(part, str)]
    field = names[-1]
    if finding["type"] == "extra_forbidden":
        from difflib import get_close_matches

        known = _known(_of(names[:-1], cls))
        near = get_close_matches(field, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(known)}"
        return f"unknown field {'.'.join(names)!r}; {hint}"
    if finding["type"] == "missing":
        what = str(_of(names[:-1], cls).model_fields[field].description).rstrip(".")
        return f"{field} is missing ({what[0].lower()}{what[1:]}); give it"
    message = (
        finding["msg"]
        .removeprefix("Input should be ")
        .removeprefix("Tuple should ")
        .replace("have at least 1 item after validation, not 0", "one word or more")
        .replace("'", '"')
    )
    got = repr(finding["input"])
    return f"{field} is {got if len(got) < 60 else got[:57] + '...'}; it must be {message}"


def block_of(info: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that holds a nested block or nothing; None for any other field."""
    kinds = (info.annotation, *getattr(info.annotation, "__args__", ()))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _known(cls: type[BaseModel]) -> list[str]:
    """The names of the fields, those of nested blocks behind the others."""
    blocks = [block for info in cls.model_fields.values() if (block := block_of(info))]
    return [name for one in (cls, *blocks) for name, info in one.model_fields.items() if not info.exclude]


def _of(path: list[str], cls: type[BaseModel]) -> type[BaseModel]:
    """The class of the block at a path into a config."""
    for name in path:
        cls = block_of(cls.model_fields[name]) or cls
    return cls


MOST_LAYERS: Final = 10_000
LARGEST_SIZE: Final = 2**31

Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
Count = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
Share = Annotated[float, Field(gt=0, le=1)]
# JSON knows no tuple: a list is taken too.
PATTERN: Final[Any] = Field(strict=False, min_length=1)
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def divisors(n: int) -> list[int]:
    """Every divisor of n, ascending."""
    low = [k for k in range(1, int(n**0.5) + 1) if n % k == 0]
    return low + [n // k for k in reversed(low) if k * k != n]


def disagreements(m: Any) -> Iterator[str]:
    """What contradicts what in a model whose fields are each valid by themselves."""
    yield from _of_attention(m)
    yield from _of_norms(m)
    yield from _of_embeddings(m)
    yield from _of_patterns(m)
    if m.moe and not m.n_moe_layers:
        yield (
            f"no layer of n_layers={m.n_layers} has experts (n_first_dense={m.moe.n_first_dense}, "
            f"moe_pattern={','.join(m.moe.moe_pattern)}); change one of them or leave out the experts"
        )
    if m.position == "rotary":
        yield from _of_rotary_positions(m)


def _of_attention(m: Any) -> Iterator[str]:
    if m.n_heads % m.n_kv_heads:
        yield (
            f"n_kv_heads={m.n_kv_heads} does not divide n_heads={m.n_heads}; use one of {divisors(m.n_heads)}"
        )
    if m.mla is None:
        return
    wide = m.mla.qk_nope_head_dim + m.mla.qk_rope_head_dim
    if m.head_dim != wide:
        yield (
            f"head_dim={m.head_dim} is not qk_nope_head_dim + qk_rope_head_dim = {wide}; leave head_dim out"
        )
    if m.n_kv_heads != m.n_heads:
        yield (
            f"n_kv_heads={m.n_kv_heads} of n_heads={m.n_heads}: in latent attention every head has keys of "
            "its own; leave n_kv_heads out"
        )
    if m.qkv_clip is not None:
        yield f"qkv_clip={m.qkv_clip} is not defined in latent attention; leave it out"
    if m.qk_norm != "none":
        yield (
            f"qk_norm={m.qk_norm!r} is not defined in latent attention, which norms the latents; use 'none'"
        )


def _of_patterns(m: Any) -> Iterator[str]:
    """A pattern, or a base of its own, of layers that there are not."""
    if m.window is None and m.window_pattern != ("local",):
        yield f"window_pattern={','.join(m.window_pattern)} needs a window; give its tokens"
    if m.rope_theta_local is not None and not (m.position == "rotary" and m.n_local_layers):
        yield "rope_theta_local is for rotary positions in local layers, and there are none; leave it out"
    if m.position != "rotary" and m.rotary_pattern != ("rotary",):
        yield f"rotary_pattern={','.join(m.rotary_pattern)} needs position='rotary', not {m.position!r}"
    if "rotary" not in m.rotary_pattern:
        yield "rotary_pattern has no rotary layer; set position='none' instead"


def _of_embeddings(m: Any) -> Iterator[str]:
    if m.position_offset and m.position != "learned":
        yield f"position_offset={m.position_offset} needs position='learned', not {m.position!r}"
    if m.embedding_dim == m.dim:
        yield f"embedding_dim={m.embedding_dim} is dim, which needs no projection; leave it out"
    if m.ffn_clamp is not None and not m.gated:
        yield "ffn_clamp cuts off the gate, and gated=false has none; leave it out"


def _of_norms(m: Any) -> Iterator[str]:
    if m.qk_norm_bias and (m.norm == "rmsnorm" or not m.norm_weight or m.qk_norm == "none"):
        yield (
            "qk_norm_bias=true needs a qk_norm with norm='layernorm' and norm_weight=true; set one of them"
        )
    if m.norm_bias and (m.norm == "rmsnorm" or not m.norm_weight):
        yield "norm_bias=true needs norm='layernorm' with norm_weight=true; set one of them"
    if m.block != "sequential" and m.norm_placement == "post":
        yield f"block={m.block!r} with norm_placement='post' is not defined; use 'pre'"
    if m.block == "parallel_shared_norm" and m.norm_placement == "reordered":
        yield (
            "block='parallel_shared_norm' shares the norm before the branches, and "
            "norm_placement='reordered' has none there; use block='parallel' or norm_placement='pre'"
        )


def _of_rotary_positions(m: Any) -> Iterator[str]:
    part = "qk_rope_head_dim" if m.mla else "head_dim"
    whole = f"{part}={m.mla.qk_rope_head_dim if m.mla else m.head_dim}"
    if m.rotary_dim < 2:
        yield (
            f"rotary positions need 2 or more of {whole} rotated, got {m.rotary_dim} "
            f"(rotary_fraction={m.rotary_fraction}); raise rotary_fraction or set position='none'"
        )
    elif m.rotary_dim % 2:
        yield (
            f"rotary positions turn pairs, and {m.rotary_dim} of {whole} would turn; "
            f"use an even {part}, another rotary_fraction, or position='none'"
        )
