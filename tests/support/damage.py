"""Files as faults, and people, leave them."""

import json

from hypothesis import strategies as st

from parambudget._documents import SEAL, sealed_fields

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([2**31, 2**32 - 1, 2**63, 10**400])
    | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content of a file with bytes changed, with a value changed (under a seal that matches, if it had
    one), or anything else."""
    ways = ["bytes", "JSON", "anything", *["value"] * content.startswith(b"{")]
    how = draw(st.sampled_from(ways))
    if how == "anything":
        return draw(st.binary(max_size=200))
    if how == "JSON":
        return json.dumps(draw(ANY_JSON)).encode()
    if how == "bytes":
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 20)))
        return content[:start] + draw(st.binary(max_size=20)) + content[end:]
    first, newline, rest = content.partition(b"\n") if content.count(b"\n{") else (content, b"", b"")
    return json.dumps(draw(changed_value(json.loads(first)))).encode() + newline + rest


@st.composite
def changed_value(draw: st.DrawFn, document: dict) -> dict:
    """The document with one value anywhere in it replaced or removed."""
    is_sealed = document.pop(SEAL, None) is not None
    place, key = document, draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
        place = place[key]
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    if draw(st.booleans()):
        del place[key]
    else:
        place[key] = draw(ANY_JSON)
    return sealed_fields(document) if is_sealed else document
