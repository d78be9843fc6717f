"""The share of a model that its vocabulary takes, held against the counts of the models that it speaks of."""

import parambudget as pb
from parambudget.search.vocabulary import embedding_share

SMALL = pb.model(dim=128, n_layers=12, n_heads=2, intermediate_size=640)


def test_an_embedding_of_more_than_a_third_is_said_with_what_smaller_ones_leave():
    said = embedding_share(SMALL)
    whole = pb.count(SMALL)
    assert said is not None
    assert said.share == 1 - whole.body / whole.total
    assert [other.vocab_size for other in said.smaller] == [32_768, 16_384, 8_192]
    for other in said.smaller:
        same = pb.count(SMALL.replace(vocab_size=other.vocab_size))
        assert other.share == 1 - same.body / same.total
        deeper = [
            pb.count(SMALL.replace(vocab_size=other.vocab_size, n_layers=other.n_layers + more)).total
            for more in (0, 1)
        ]
        assert deeper[0] <= whole.total < deeper[1]
    assert str(said).startswith("63 % of the parameters are the embedding of 50,257 entries; the same shape")
    last = said.smaller[2]
    share = f"{last.share:.0%}".replace("%", " %")
    assert str(said).endswith(f"8,192 entries: {share}, or {last.n_layers} layers in as many parameters")


def test_an_embedding_of_a_third_or_less_is_not_said():
    assert embedding_share(pb.model("gpt2")) is None
    assert embedding_share(SMALL.replace(vocab_size=8_192)) is None


def test_a_small_vocabulary_has_no_smaller_one():
    tiny = embedding_share(pb.model(dim=32, n_layers=2, n_heads=1, vocab_size=4_000))
    assert tiny is not None
    assert tiny.smaller == ()
    assert str(tiny).endswith("the embedding of 4,000 entries")


def test_a_head_of_its_own_counts_too():
    tied, untied = (embedding_share(SMALL.replace(tied=tied)) for tied in (True, False))
    assert untied.share > tied.share


def test_a_search_says_it_in_every_form():
    found = pb.solve("10M", top=1)
    assert found.embedding == embedding_share(found[0].model)
    assert found.as_dict()["embedding"]["smaller"][2]["vocab_size"] == 8_192
    assert pb.solve("350M", top=1).embedding is None
    assert "embedding" not in pb.solve("350M", top=1).as_dict()
