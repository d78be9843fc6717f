"""Hugging Face configs are read exactly: held against the classes over random switches."""

import pytest
from hf_configs import FAMILIES, NEEDED, built, configs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.utils import logging

from parambudget.arch.defaults import complete
from parambudget.arch.hf.read import from_hf
from parambudget.cost.count import Breakdown, count

logging.set_verbosity_error()
every_kind = pytest.mark.parametrize("kind", FAMILIES)


def read(config) -> Breakdown:
    return count(complete(from_hf(config, "config.json").fields).model)


def counted(config):
    breakdown = read(config)
    return {name: n for name, n in breakdown.components.items() if n}, breakdown.active


@every_kind
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_configs_count_what_the_class_builds(kind, data):
    config = data.draw(configs(kind))
    assert counted(config) == built(config)


@every_kind
def test_a_config_without_keys_has_the_class_defaults(kind):
    """Only depth is given, so that the class is quick to build, and what it cannot do without itself."""
    config = {"model_type": kind, FAMILIES[kind].keys["n_layers"]: 2} | NEEDED.get(kind, {})
    assert counted(config) == built(config)
