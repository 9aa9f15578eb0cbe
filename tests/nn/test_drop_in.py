"""Contract of all layers: compile, export, copy, convert, save and reset, as PyTorch does with any module."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config
from adjacencies import FORMS, FORMS_BUT_PLAIN, Form, plain
from torch import Tensor, nn

import lirdrec_pyg.nn
from lirdrec_pyg.nn import (
    AttentionFusion,
    BipartiteConv,
    BipartiteLGConv,
    BPRLoss,
    ItemGraphConv,
    MeanFusion,
    ModalityEncoder,
    MultimodalDCT,
    PrincipalComponents,
    ProgressiveWeightCopying,
    SeenItems,
    SoftmaxLoss,
    SparseOperator,
    StaticFusion,
    top_k,
    unit_vectors,
)

NUM_USERS, NUM_ITEMS, WIDTH = 6, 5, 8
HALF_DTYPES = (torch.bfloat16, torch.float16)


def edges(num_sources: int, num_targets: int) -> Tensor:
    return (torch.rand(num_sources, num_targets) < 0.6).nonzero().T.contiguous()


def branches() -> Tensor:
    return torch.randn(NUM_USERS, 3, WIDTH)


def principal_components() -> nn.Module:
    module = PrincipalComponents(5, 3)
    module.fit(torch.randn(9, 5))
    return module


def softmax_inputs() -> tuple[Any, ...]:
    user, item = unit_vectors(torch.randn(NUM_USERS, WIDTH)), unit_vectors(torch.randn(NUM_ITEMS, WIDTH))
    row, positive = torch.tensor([0, 0, 2, 5]), torch.tensor([1, 3, 3, 0])
    return user, item, torch.stack([row, positive]), row, item[positive].clone(), torch.rand(4), 2 * NUM_ITEMS


# Layers on a graph, by name: the layer, its vectors, and the size (sources, targets) of its graph.
GRAPH_LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]], tuple[int, int]]] = {
    "BipartiteConv": (
        lambda: BipartiteConv(2),
        lambda: (torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)),
        (NUM_USERS, NUM_ITEMS),
    ),
    "BipartiteLGConv": (
        BipartiteLGConv,
        lambda: ((torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)),),
        (NUM_USERS, NUM_ITEMS),
    ),
    "ItemGraphConv": (lambda: ItemGraphConv(2), lambda: (torch.randn(NUM_ITEMS, WIDTH),), (NUM_ITEMS, NUM_ITEMS)),
}


def graph_inputs(name: str, form: Form = plain) -> tuple[Any, ...]:
    _, vectors, size = GRAPH_LAYERS[name]
    graph = edges(*size)
    adj, weight = form(graph, torch.rand(graph.size(1)), size)
    # BipartiteConv has the reverse edges before the weights.
    return (*vectors(), adj, None, weight) if name == "BipartiteConv" else (*vectors(), adj, weight)


# All layers, by name: the layer and its inputs.
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "ModalityEncoder": (lambda: ModalityEncoder(5, WIDTH), lambda: (torch.randn(NUM_ITEMS, 5),)),
    "PrincipalComponents": (principal_components, lambda: (torch.randn(NUM_ITEMS, 5),)),
    "MultimodalDCT": (MultimodalDCT, lambda: ([torch.randn(NUM_ITEMS, 5), torch.randn(NUM_ITEMS, 4)],)),
    "MultimodalDCT 2d": (lambda: MultimodalDCT("2d"), lambda: ([torch.randn(NUM_ITEMS, 5)],)),
    "ProgressiveWeightCopying": (lambda: ProgressiveWeightCopying(NUM_USERS, 3, WIDTH), lambda: (branches(),)),
    "ProgressiveWeightCopying of some users": (
        lambda: ProgressiveWeightCopying(NUM_USERS, 3, WIDTH),
        lambda: (branches()[:2], torch.tensor([4, 1])),
    ),
    "MeanFusion": (MeanFusion, lambda: (branches(),)),
    "StaticFusion": (lambda: StaticFusion(NUM_USERS, 3), lambda: (branches(),)),
    "AttentionFusion": (lambda: AttentionFusion(3, WIDTH), lambda: (branches(),)),
    "BPRLoss": (
        lambda: BPRLoss(0.1),
        lambda: (torch.randn(4), torch.randn(4), torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)),
    ),
    "SoftmaxLoss": (lambda: SoftmaxLoss(0.2), softmax_inputs),
    **{name: (make, lambda name=name: graph_inputs(name)) for name, (make, _, _) in GRAPH_LAYERS.items()},
}
EVERY_LAYER = pytest.mark.parametrize("name", CASES)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """``value`` with all tensors and operators in it converted by ``function``."""
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(entry, function) for entry in value)
    return value if value is None or isinstance(value, int) else function(value)


def convert(value: Any, dtype: torch.dtype) -> Any:
    """``value`` in another dtype, except for indices."""
    return mapped(value, lambda x: x if isinstance(x, Tensor) and not x.is_floating_point() else x.to(dtype))


def dense_leaves(value: Any) -> list[Tensor]:
    """Vectors and weights among the inputs, as leaves with gradients."""
    if isinstance(value, (list, tuple)):
        return [leaf for entry in value for leaf in dense_leaves(entry)]
    if isinstance(value, Tensor) and value.layout == torch.strided and value.is_floating_point():
        return [value.requires_grad_()]
    return []


def flat(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [tensor for entry in out for tensor in flat(entry)]


def outputs_and_gradients(layer: Callable[..., Any], module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The outputs, and the gradients of all inputs and parameters."""
    leaves = [*dense_leaves(inputs), *module.parameters()]
    outs = flat(layer(*inputs))
    grads = torch.autograd.grad(sum(o.double().square().sum() for o in outs), leaves, materialize_grads=True)
    return [*outs, *grads]


def assert_compiles(module: nn.Module, inputs: tuple[Any, ...], **options: Any) -> None:
    torch.compiler.reset()
    expected = outputs_and_gradients(module, module, inputs)
    torch.testing.assert_close(outputs_and_gradients(torch.compile(module, **options), module, inputs), expected)


def test_every_layer_is_covered() -> None:
    public = (getattr(lirdrec_pyg.nn, name) for name in lirdrec_pyg.nn.__all__)
    modules = {x.__name__ for x in public if isinstance(x, type) and issubclass(x, nn.Module)}
    assert modules == {name.split()[0] for name in CASES}


@pytest.mark.slow
@EVERY_LAYER
def test_torch_compile_in_one_graph(name: str) -> None:
    make, inputs = CASES[name]
    assert_compiles(make(), inputs(), backend="aot_eager", fullgraph=True)


@pytest.mark.slow
@FORMS_BUT_PLAIN
def test_torch_compile_supports_every_form_of_the_graph(form: Form) -> None:
    for name, (make, _, _) in GRAPH_LAYERS.items():
        assert_compiles(make(), graph_inputs(name, form), backend="aot_eager")


@pytest.mark.slow
def test_torch_compile_with_the_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # starts no further processes
    assert_compiles(BipartiteLGConv(), graph_inputs("BipartiteLGConv"))


@pytest.mark.slow
def test_a_compiled_fusion_follows_its_schedule() -> None:
    torch.compiler.reset()
    eager = ProgressiveWeightCopying(NUM_USERS, 2, WIDTH)
    module = copy.deepcopy(eager)
    compiled = torch.compile(module, backend="aot_eager")
    for _ in range(3):
        x = torch.randn(NUM_USERS, 2, WIDTH)
        for each in (eager, module):
            each.start_epoch()
        torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(module.state_dict(), eager.state_dict())


@pytest.mark.slow
@EVERY_LAYER
def test_torch_export(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make().eval(), inputs()
    program = torch.export.export(module, arguments)
    torch.testing.assert_close(program.module()(*arguments), module(*arguments))


class Ranking(nn.Module):
    """A module that serves recommendations from vectors and training items."""

    def __init__(self, user: Tensor, item: Tensor, seen: SeenItems, k: int) -> None:
        super().__init__()
        for name, value in {"user": user, "item": item, "start": seen.start, "seen": seen.item}.items():
            self.register_buffer(name, value)
        self.k = k

    def forward(self, user_index: Tensor) -> tuple[Tensor, Tensor]:
        (block,) = top_k(self.user, self.item, user_index, self.k, SeenItems(self.start, self.seen))
        return block.score, block.item


# 2000 items are ranked by chunks.
@pytest.mark.slow
@pytest.mark.parametrize("num_items", [30, 2000])
def test_torch_export_of_a_ranking_supports_any_number_of_users(num_items: int) -> None:
    ranking = Ranking(torch.randn(40, 8), torch.randn(num_items, 8), SeenItems.of(edges(40, 20), 40), k=7)
    users = torch.export.Dim("users", max=512)
    with torch.no_grad():
        program = torch.export.export(ranking, (torch.tensor([3, 1]),), dynamic_shapes=({0: users},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for index in (torch.arange(40), torch.tensor([5, 5, 39])):
        torch.testing.assert_close(loaded(index), ranking(index), rtol=0, atol=0)


@EVERY_LAYER
def test_copies_are_equal_and_independent(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make().eval(), inputs()
    before = module(*arguments)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    restored = make().eval()
    restored.load_state_dict(torch.load(file, weights_only=True))
    for copied in (restored, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(copied(*arguments), before, rtol=0, atol=0)
        with torch.no_grad():
            for value in copied.state_dict().values():
                value.zero_()
        torch.testing.assert_close(module(*arguments), before, rtol=0, atol=0)


@EVERY_LAYER
def test_conversion_to_another_dtype_and_device(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make().eval(), inputs()
    before = module(*arguments)
    assert module.to(torch.float64) is module
    assert all(out.dtype == torch.float64 for out in flat(module(*convert(arguments, torch.float64))))
    torch.testing.assert_close(module.to(torch.float32)(*arguments), before)
    assert all(value.is_meta for value in module.to("meta").state_dict().values())
    assert not any(value.is_meta for value in module.to_empty(device="cpu").state_dict().values())


@EVERY_LAYER
def test_half_precision_is_close_to_single(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make(), inputs()
    expected = outputs_and_gradients(module, module, arguments)
    for dtype in HALF_DTYPES:
        half = copy.deepcopy(module).to(dtype)
        actual = outputs_and_gradients(half, half, mapped(convert(arguments, dtype), lambda x: x.detach()))
        for got, wanted in zip(actual, expected, strict=True):
            limit = 0.1 * float(wanted.detach().abs().max()) + 1e-3
            torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=limit)


@FORMS
def test_half_precision_of_every_form_of_the_graph(form: Form) -> None:
    for name, (make, _, _) in GRAPH_LAYERS.items():
        module, arguments = make(), graph_inputs(name, form)
        expected = outputs_and_gradients(module, module, arguments)
        for dtype in HALF_DTYPES:
            half = mapped(convert(arguments, dtype), lambda x: x.detach() if isinstance(x, Tensor) else x)
            for got, wanted in zip(outputs_and_gradients(module, module, half), expected, strict=True):
                assert got.dtype == dtype
                limit = 0.1 * float(wanted.detach().abs().max())
                torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=limit)


@EVERY_LAYER
def test_reset_parameters_and_repr(name: str) -> None:
    module = CASES[name][0]()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        drawn.append([parameter.clone() for parameter in module.parameters()])
    assert not drawn[0] or hasattr(module, "reset_parameters")
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not any(map(torch.equal, drawn[0], drawn[2]))
    # The repr creates an equal layer.
    assert repr(eval(repr(module))) == repr(module)
    assert repr(module).startswith(f"{type(module).__name__}(")


def test_the_schedule_of_a_fusion_in_half_precision_stays_in_double() -> None:
    for dtype in HALF_DTYPES:
        module, reference = (ProgressiveWeightCopying(NUM_USERS, 2, WIDTH, network_weight=0.95) for _ in range(2))
        module.to(dtype)
        assert module.theta.dtype == dtype
        for _ in range(20):
            module.start_epoch()
            reference.start_epoch()
            assert torch.equal(module.network_weight, reference.network_weight)
            assert torch.equal(module.memory_weight, reference.memory_weight)


def test_the_regularizer_of_many_vectors_in_half_precision_is_finite() -> None:
    for dtype in HALF_DTYPES:
        user = torch.randn(20_000, 16).to(dtype).requires_grad_()
        loss = BPRLoss(1.0)(torch.zeros(1, dtype=dtype), torch.zeros(1, dtype=dtype), user, user)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0.693 + 2, abs=0.05)
        assert user.grad is not None
        assert user.grad.isfinite().all()


def test_an_operator_can_be_pickled_for_loader_processes() -> None:
    index = edges(NUM_USERS, NUM_ITEMS)
    operator = SparseOperator(index, torch.rand(index.size(1)), (NUM_USERS, NUM_ITEMS))
    loaded = pickle.loads(pickle.dumps(operator))
    assert torch.equal(loaded.to_dense(), operator.to_dense())
    assert torch.equal(loaded.t().to_dense(), operator.t().to_dense())


@pytest.mark.slow
def test_unit_vectors_can_be_compiled_and_exported() -> None:
    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return unit_vectors(x)

    x = torch.randn(NUM_USERS, WIDTH)
    assert_compiles(Unit(), (x,), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.export.export(Unit(), (x,)).module()(x), unit_vectors(x))
