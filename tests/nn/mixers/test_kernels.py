"""Fused kernels of other packages: mixers that call them against the plain path, by stand-ins on a CPU."""

import inspect
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from support import fused_kernels
from support.hybrids import LINEAR_MIXERS, STATE_SPACES
from torch.testing import assert_close

from parambudget.arch.config import ModelConfig
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.mixers import kernels
from parambudget.nn.mixers.implementations import in_words, mixer_implementations
from parambudget.nn.transformer import Transformer

pytestmark = pytest.mark.usefixtures("one_thread", "_fresh_choices")

_DELTA = {"delta_key_dim": 16, "delta_value_dim": 24}
MODELS = {
    **{
        name: LINEAR_MIXERS[name].replace(**_DELTA)
        for name in ("gated_delta_net", "channel decays", "norms before mixers alone")
    },
    "bounded decays": LINEAR_MIXERS["channel decays"].replace(**_DELTA, delta_decay_bound=5.0),
    "short_convolution": LINEAR_MIXERS["short_convolution"],
    "lightning_attention": LINEAR_MIXERS["lightning_attention"].replace(lightning_head_dim=16),
    "rg_lru": LINEAR_MIXERS["rg_lru"].replace(lru_n_blocks=2, lru_block_width=16),
    **STATE_SPACES,
    "mamba with norms without scales": STATE_SPACES["mamba"].replace(mamba_norm="unscaled"),
    "mamba2 normed before its gate": STATE_SPACES["mamba2"].replace(mamba2_norm="before_gate"),
}
SCANS = {
    "gated_delta_net": "gated_delta_rule", "lightning_attention": "simple_gla", "mamba": "selective_scan",
    "mamba2": "chunk_scan",
}  # fmt: skip
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
every_kernel = pytest.mark.parametrize("name", kernels._KERNELS)


@pytest.fixture(name="_fresh_choices")
def fresh_choices():
    fused_kernels.forget_choices()
    yield
    fused_kernels.forget_choices()


@pytest.fixture(name="_installed")
def installed(monkeypatch):
    fused_kernels.install(monkeypatch)


def built(model: ModelConfig) -> Transformer:
    module = Transformer(model)
    module.init_weights(torch.Generator().manual_seed(0))
    return module


def calls_of(model: ModelConfig) -> set[str]:
    """The kernels that a model of these calls."""
    kind = next(kind for pattern in model.mixer_pattern for kind in pattern.split("+") if kind in SCANS or
                kind in ("short_convolution", "rg_lru"))  # fmt: skip
    scan = "kda" if getattr(model.gated_delta_net, "delta_channel_decay", False) else SCANS.get(kind)
    convolution = None if kind == "lightning_attention" else "causal_conv1d"
    return {name for name in (scan, convolution) if name is not None}


def outputs_and_gradients(module: Transformer, tokens, **how):
    hidden = module.hidden_states(tokens, **how)
    (hidden * torch.linspace(-1, 1, hidden.shape[-1])).mean().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    module.zero_grad()
    return hidden.detach(), gradients


def plain_and_fused(monkeypatch, module, tokens, **how):
    """The same by both paths; the second with stand-ins."""
    plain = outputs_and_gradients(module, tokens)
    fused_kernels.install(monkeypatch)
    return plain, outputs_and_gradients(module, tokens, **how)


@every_model
def test_kernels_give_the_outputs_and_gradients_of_the_plain_path(model, monkeypatch):
    module, tokens = built(model), torch.randint(model.vocab_size, (2, 70))
    plain, fused = plain_and_fused(monkeypatch, module, tokens)
    assert set(fused_kernels.CALLS) == calls_of(model)
    assert_close(fused[0], plain[0], rtol=1e-4, atol=1e-4)
    for name, gradient in plain[1].items():
        if gradient is not None:
            scale = gradient.abs().max().item()
            assert_close(
                fused[1][name],
                gradient,
                rtol=1e-4,
                atol=1e-4 * max(scale, 1e-6),
                msg=lambda text, name=name: f"{name}: {text}",
            )


@pytest.mark.parametrize("name", ["gated_delta_net", "mamba", "mamba2"])
def test_kernels_are_the_same_where_blocks_are_recomputed(name, monkeypatch):
    module, tokens = built(MODELS[name]), torch.randint(96, (2, 20))
    plain, fused = plain_and_fused(monkeypatch, module, tokens, gradient_checkpointing=True)
    assert fused_kernels.CALLS
    assert_close(fused, plain, rtol=1e-3, atol=1e-5)


@every_model
@torch.no_grad()
def test_generation_continues_from_the_state_of_a_kernel(model, monkeypatch):
    module, tokens = built(model), torch.randint(model.vocab_size, (2, 40))
    expected = module.hidden_states(tokens)
    fused_kernels.install(monkeypatch)
    with kv_cache(module, 40) as advance:
        parts = [advance(tokens[:, :30])]
        assert set(fused_kernels.CALLS) == calls_of(model)
        fused_kernels.CALLS.clear()
        parts += [advance(tokens[:, i : i + 1]) for i in range(30, 40)]
    assert not fused_kernels.CALLS, "what goes on from a state takes the plain path"
    assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_prompt_shorter_than_the_convolution_leaves_zeros_before_it(monkeypatch):
    module, tokens = built(MODELS["mamba"]), torch.randint(96, (1, 5))
    expected = module.hidden_states(tokens)
    fused_kernels.install(monkeypatch)
    with kv_cache(module, 5) as advance:
        parts = [advance(tokens[:, i : i + 1]) for i in range(5)]
    assert "causal_conv1d" in fused_kernels.CALLS
    assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)


@every_model
def test_in_bfloat16_kernels_get_the_precisions_that_they_take(model, monkeypatch):
    """The stand-ins refuse mixtures that the kernels refuse; the tolerance is that of bfloat16."""
    module, tokens = built(model), torch.randint(model.vocab_size, (2, 12))
    with torch.autocast("cpu", torch.bfloat16):
        plain, fused = plain_and_fused(monkeypatch, module, tokens)
    assert set(fused_kernels.CALLS) == calls_of(model)
    assert_close(fused[0], plain[0], rtol=0.1, atol=0.1)
    for name, gradient in plain[1].items():
        assert gradient is None or fused[1][name].isfinite().all(), name


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    "name",
    ["gated_delta_net", "channel decays", "short_convolution", "lightning_attention", "mamba", "mamba2"],
)
def test_a_kernel_does_not_break_the_graph_of_a_compiled_mixer(name):
    torch.compiler.reset()
    mixer = built(MODELS[name]).layers[0].mixer
    x = torch.randn(2, 20, 48, requires_grad=True)
    expected = torch.autograd.grad(mixer(x).square().mean(), [x, *mixer.parameters()])
    fused_kernels.CALLS.clear()
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True, dynamic=False)
    found = torch.autograd.grad(compiled(x).square().mean(), [x, *mixer.parameters()])
    assert set(fused_kernels.CALLS) == calls_of(MODELS[name])
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("_installed")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's check reads that of its own copies
@every_kernel
def test_the_operator_is_what_it_says_to_torch(name):
    """Shapes without memory, gradients and schema, by torch's own check."""
    torch.library.opcheck(torch.ops.parambudget.mixer_kernel, (name, inputs_of(name)))


def inputs_of(name: str) -> list[torch.Tensor]:
    def draw(*shape):
        return torch.rand(shape).requires_grad_()

    delta = [draw(2, 5, 2, 16), draw(2, 5, 2, 16), draw(2, 5, 4, 24)]
    return {
        "gated_delta_rule": [*delta, draw(2, 5, 4), draw(2, 5, 4)],
        "kda": [*delta, draw(2, 5, 4, 16), draw(2, 5, 4)],
        "simple_gla": [*(draw(2, 5, 2, 16) for _ in range(3)), draw(2)],
        "selective_scan": [
            draw(2, 8, 5), draw(2, 8, 5), draw(8, 3), draw(2, 3, 5), draw(2, 3, 5), draw(8), draw(2, 8, 5),
            draw(8),
        ],
        "chunk_scan": [draw(2, 5, 4, 6), draw(2, 5, 4), draw(4), draw(2, 5, 2, 3), draw(2, 5, 2, 3)],
        "causal_conv1d": [draw(2, 5, 8), draw(8, 4), draw(8)],
    }[name]  # fmt: skip


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("name", "place", "wrong"),
    [
        ("gated_delta_rule", 0, torch.rand(2, 2, 5, 16)),  # heads before tokens
        ("gated_delta_rule", 3, torch.rand(2, 5, 4, 1)),
        ("gated_delta_rule", 2, torch.rand(2, 5, 4, 24).bfloat16()),
        ("kda", 3, torch.rand(2, 5, 4)),
        ("kda", 4, torch.rand(2, 5, 2)),
        ("simple_gla", 3, torch.rand(2).double()),
        ("selective_scan", 0, torch.rand(2, 5, 8)),  # tokens before channels
        ("selective_scan", 1, torch.rand(2, 8, 5).bfloat16()),
        ("selective_scan", 5, torch.rand(8).bfloat16()),
        ("chunk_scan", 1, torch.rand(2, 4, 5)),
        ("chunk_scan", 3, torch.rand(2, 5, 2, 3).bfloat16()),
        ("causal_conv1d", 0, torch.rand(2, 5, 12)),
        ("causal_conv1d", 1, torch.rand(8, 5)),
        ("causal_conv1d", 2, torch.rand(8).bfloat16()),
    ],
)
def test_stand_ins_refuse_what_the_kernels_refuse(name, place, wrong):
    inputs = inputs_of(name)
    kernels.call_kernel(name, *inputs)
    inputs[place] = wrong
    with pytest.raises(AssertionError):
        kernels.call_kernel(name, *inputs)


@pytest.mark.usefixtures("_installed")
def test_no_gradient_goes_through_the_state_of_a_kernel():
    _, state = kernels.call_kernel("kda", *inputs_of("kda"))
    assert not state.requires_grad


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gated_delta_net", {"delta_key_dim": 8}), ("gated_delta_net", {"delta_key_dim": 320}),
        ("channel decays", {"delta_value_dim": 8}), ("lightning_attention", {"lightning_head_dim": 8}),
        ("mamba", {"mamba_state_dim": 257}),
    ],
)  # fmt: skip
def test_widths_that_a_package_does_not_take_are_computed_in_plain_torch(name, change):
    module = built(MODELS[name].replace(**change))
    module(torch.randint(96, (1, 9)))
    assert set(fused_kernels.CALLS) <= {"causal_conv1d"}
    described = mixer_implementations(module, torch.device("cpu"))
    assert described["scan"].reason == "no package takes its widths"


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("change", [{"short_conv_width": 5}, {"short_conv_width": 1}, {"dim": 44}])
def test_convolutions_that_the_package_does_not_take_are_computed_in_plain_torch(change):
    module = built(MODELS["short_convolution"].replace(**change))
    module(torch.randint(96, (1, 9)))
    assert not fused_kernels.CALLS


@pytest.mark.usefixtures("_installed")
def test_a_slice_of_channels_reaches_the_convolution_in_a_layout_that_it_takes():
    x, weight = torch.rand(2, 5, 12)[..., :8], torch.rand(8, 4)
    with pytest.raises(AssertionError):
        fused_kernels.causal_conv1d_fn(x.transpose(1, 2), weight)
    assert kernels.call_kernel("causal_conv1d", x, weight)[0].shape == (2, 5, 8)


def test_only_half_precision_on_cuda_takes_kernels(monkeypatch):
    devices, dtypes = kernels.DEVICES, kernels.DTYPES
    fused_kernels.install(monkeypatch)
    x = torch.ones(1)
    assert kernels.is_usable("kda", x)
    monkeypatch.setattr(kernels, "DTYPES", dtypes)
    assert not kernels.is_usable("kda", x)
    assert kernels.is_usable("kda", x.bfloat16())
    monkeypatch.setattr(kernels, "DEVICES", devices)
    assert not kernels.is_usable("kda", x.bfloat16())
    assert devices == {"cuda"}


def test_a_model_on_a_cpu_asks_for_no_package(monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "choice", asked.append)
    built(MODELS["gated_delta_net"])(torch.randint(96, (1, 9)))
    assert not asked


def test_a_package_that_is_not_installed_leaves_the_plain_path(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda _: None)
    assert str(kernels.choice("kda")) == "plain torch (flash-linear-attention is not installed)"
    assert not kernels.is_installed("kda")


class Broken(ModuleType):
    """A package whose extension does not fit the installed torch, or the like."""

    def __getattr__(self, name: str) -> object:
        raise OSError("undefined symbol: _ZN3c10\nand much more")


@pytest.mark.usefixtures("_installed")
def test_a_package_that_fails_to_load_is_the_plain_path_and_says_why(monkeypatch):
    broken = Broken("causal_conv1d")
    broken.__spec__ = sys.modules["causal_conv1d"].__spec__
    monkeypatch.setitem(sys.modules, "causal_conv1d", broken)
    assert str(kernels.choice("causal_conv1d")) == (
        "plain torch (causal-conv1d cannot be used: OSError: undefined symbol: _ZN3c10)"
    )


@pytest.mark.usefixtures("_installed")
def test_an_older_package_is_the_plain_path(monkeypatch):
    monkeypatch.setattr(sys.modules["mamba_ssm"], "__version__", "2.2.6.post3")
    assert str(kernels.choice("chunk_scan")) == "plain torch (mamba-ssm 2.2.6.post3 is older than 2.3.2)"


@pytest.mark.usefixtures("_installed")
def test_a_function_that_lacks_a_parameter_is_not_called(monkeypatch):
    earlier = fused_kernels.chunk_simple_gla
    monkeypatch.setattr(sys.modules["fla.ops.kda"], "chunk_kda", earlier)
    assert kernels.choice("kda").reason.endswith("chunk_kda has no beta, use_qk_l2norm_in_kernel")


@pytest.mark.usefixtures("_installed")
def test_mamba_ssm_without_its_extension_has_no_selective_scan(monkeypatch):
    interface = sys.modules["mamba_ssm.ops.selective_scan_interface"]
    monkeypatch.setattr(interface, "selective_scan_cuda", None)
    assert kernels.choice("selective_scan").reason.endswith("it was built without selective_scan_cuda")
    assert kernels.is_installed("chunk_scan")


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(("value", "plain"), [("1", True), ("0", False), ("", False)])
def test_a_variable_keeps_mixers_on_the_plain_path(monkeypatch, value, plain):
    monkeypatch.setenv("PARAMBUDGET_PLAIN_MIXERS", value)
    assert (kernels.choice("kda").version is None) == plain


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gated_delta_net", "scan: flash-linear-attention 0.6.0, convolution: causal-conv1d 1.7.0"),
        ("mamba", "scan: mamba-ssm 2.3.2.post1, convolution: causal-conv1d 1.7.0"),
        ("short_convolution", "convolution: causal-conv1d 1.7.0"),
        ("lightning_attention", "scan: flash-linear-attention 0.6.0"),
        ("rg_lru", "scan: plain torch (no package has it), convolution: causal-conv1d 1.7.0"),
        ("rwkv alone", "scan: plain torch (no package has it)"),
    ],
)
def test_what_computes_a_mixer_is_said_in_words(name, words):
    model = LINEAR_MIXERS[name].replace(channel_mix=True) if name == "rwkv alone" else MODELS[name]
    module = Transformer(model, device="meta")
    described = mixer_implementations(module, torch.device("cpu"))
    assert in_words(described) == words
    assert in_words(described, reasons=False) == words.replace(" (no package has it)", "")
    assert "1.7.0" not in in_words(mixer_implementations(module, torch.device("meta")))


@every_kernel
def test_the_installed_package_has_the_parameters_that_are_passed(name):
    kernel = kernels._KERNELS[name]
    if find_spec(kernel.package.module) is None:
        pytest.skip(f"needs {kernel.package.name}, which is not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no GPU
            function = getattr(import_module(kernel.place), kernel.function)
    except Exception as error:  # its extension needs a GPU, or the like
        pytest.skip(f"{kernel.package.name} cannot be imported here: {error}")
    ours = inspect.signature(getattr(fused_kernels, kernel.function)).parameters
    theirs = inspect.signature(function).parameters
    assert kernel.keywords <= theirs.keys()
    positional = [name for name in ours if name not in kernel.keywords][: len(inputs_of(name))]
    assert list(theirs)[: len(positional)] == list(ours)[: len(positional)]
