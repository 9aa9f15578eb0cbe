"""What PyTorch does with a module works with every layer: compile, export, copy, convert, save."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from adjacencies import FORMS, Form, plain
from torch import Tensor, nn

from lirdrec_pyg.nn import (
    AttentionFusion,
    BipartiteConv,
    BipartiteLGConv,
    BPRLoss,
    ItemGraphConv,
    MeanFusion,
    ModalityEncoder,
    MultimodalDCT,
    ProgressiveWeightCopying,
    SeenItems,
    SparseOperator,
    StaticFusion,
    top_k,
    unit_vectors,
)

NUM_USERS, NUM_ITEMS, WIDTH = 6, 5, 8
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def edges(num_sources: int, num_targets: int) -> Tensor:
    return (torch.rand(num_sources, num_targets) < 0.6).nonzero().T.contiguous()


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
# The other layers, by name: the layer and its inputs.
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "ModalityEncoder": (lambda: ModalityEncoder(5, WIDTH), lambda: (torch.randn(NUM_ITEMS, 5),)),
    "MultimodalDCT": (MultimodalDCT, lambda: ([torch.randn(NUM_ITEMS, 5), torch.randn(NUM_ITEMS, 4)],)),
    "MultimodalDCT 2d": (lambda: MultimodalDCT("2d"), lambda: ([torch.randn(NUM_ITEMS, 5)],)),
    "ProgressiveWeightCopying": (
        lambda: ProgressiveWeightCopying(NUM_USERS, 3, WIDTH),
        lambda: (torch.randn(NUM_USERS, 3, WIDTH),),
    ),
    "ProgressiveWeightCopying of some users": (
        lambda: ProgressiveWeightCopying(NUM_USERS, 3, WIDTH),
        lambda: (torch.randn(2, 3, WIDTH), torch.tensor([4, 1])),
    ),
    "MeanFusion": (MeanFusion, lambda: (torch.randn(NUM_USERS, 3, WIDTH),)),
    "StaticFusion": (lambda: StaticFusion(NUM_USERS, 3), lambda: (torch.randn(NUM_USERS, 3, WIDTH),)),
    "AttentionFusion": (lambda: AttentionFusion(3, WIDTH), lambda: (torch.randn(NUM_USERS, 3, WIDTH),)),
    "BPRLoss": (
        lambda: BPRLoss(0.1),
        lambda: (torch.randn(4), torch.randn(4), torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)),
    ),
}


def graph_inputs(name: str, form: Form = plain) -> tuple[Any, ...]:
    _, vectors, size = GRAPH_LAYERS[name]
    graph = edges(*size)
    adj, weight = form(graph, torch.rand(graph.size(1)), size)
    # BipartiteConv has the reverse edges before the weights.
    return (*vectors(), adj, None, weight) if name == "BipartiteConv" else (*vectors(), adj, weight)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    **LAYERS,
    **{name: (make, lambda name=name: graph_inputs(name)) for name, (make, _, _) in GRAPH_LAYERS.items()},
}
EVERY_LAYER = pytest.mark.parametrize("name", CASES)
GRAPH_LAYER = pytest.mark.parametrize("name", GRAPH_LAYERS)


def convert(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(convert(entry, dtype) for entry in value)
    if value is None or (isinstance(value, Tensor) and not value.is_floating_point()):
        return value
    return value.to(dtype)


def dense_leaves(value: Any) -> list[Tensor]:
    """Vectors and weights among the inputs, as leaves that have gradients."""
    if isinstance(value, (list, tuple)):
        return [leaf for entry in value for leaf in dense_leaves(entry)]
    if isinstance(value, Tensor) and value.layout == torch.strided and value.is_floating_point():
        return [value.requires_grad_()]
    return []


def outputs_and_gradients(layer: Callable[..., Any], module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What the layer returns, and the gradients of all its inputs and parameters."""
    leaves = [*dense_leaves(inputs), *module.parameters()]
    out = layer(*inputs)
    outs = out if isinstance(out, tuple) else (out,)
    grads = torch.autograd.grad(sum(o.double().square().sum() for o in outs), leaves, materialize_grads=True)
    return (*outs, *grads)


def assert_compiles(module: nn.Module, inputs: tuple[Any, ...], **options: Any) -> None:
    torch.compiler.reset()
    expected = outputs_and_gradients(module, module, inputs)
    torch.testing.assert_close(outputs_and_gradients(torch.compile(module, **options), module, inputs), expected)


def test_the_layers_are_all_that_there_are() -> None:
    import lirdrec_pyg.nn

    public = (getattr(lirdrec_pyg.nn, name) for name in lirdrec_pyg.nn.__all__)
    modules = {x.__name__ for x in public if isinstance(x, type) and issubclass(x, nn.Module)}
    assert modules == {name.split()[0] for name in CASES}


@EVERY_LAYER
def test_torch_compile_makes_one_graph_of_it(name: str) -> None:
    make, inputs = CASES[name]
    assert_compiles(make(), inputs(), backend="aot_eager", fullgraph=True)


@FORMS
@GRAPH_LAYER
def test_torch_compile_takes_every_form_of_the_graph(name: str, form: Form) -> None:
    assert_compiles(GRAPH_LAYERS[name][0](), graph_inputs(name, form), backend="aot_eager")


def test_torch_compile_by_the_default_backend() -> None:
    assert_compiles(BipartiteLGConv(), graph_inputs("BipartiteLGConv"))


def test_a_compiled_fusion_goes_on_with_its_schedule() -> None:
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


@EVERY_LAYER
def test_torch_export(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make().eval(), inputs()
    program = torch.export.export(module, arguments)
    torch.testing.assert_close(program.module()(*arguments), module(*arguments))


class Ranking(nn.Module):
    """What serves recommendations: vectors, and what each user has already."""

    def __init__(self, user: Tensor, item: Tensor, seen: SeenItems, k: int) -> None:
        super().__init__()
        for name, value in {"user": user, "item": item, "start": seen.start, "seen": seen.item}.items():
            self.register_buffer(name, value)
        self.k = k

    def forward(self, user_index: Tensor) -> tuple[Tensor, Tensor]:
        (block,) = top_k(self.user, self.item, user_index, self.k, SeenItems(self.start, self.seen))
        return block.score, block.item


@pytest.mark.parametrize("num_items", [30, 2000])
def test_torch_export_of_scoring_takes_any_users_afterwards(num_items: int) -> None:
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
def test_a_deep_copy_shares_nothing_and_does_the_same(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make().eval(), inputs()
    copied, before = copy.deepcopy(module), module(*arguments)
    torch.testing.assert_close(copied(*arguments), before, rtol=0, atol=0)
    with torch.no_grad():
        for value in copied.state_dict().values():
            value.zero_()
    torch.testing.assert_close(module(*arguments), before, rtol=0, atol=0)


@EVERY_LAYER
def test_to_another_dtype_and_back(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make().eval(), inputs()
    before = module(*arguments)
    assert module.to(torch.float64) is module
    # Indices are as they were.
    wide = module(*convert(arguments, torch.float64))
    for out in wide if isinstance(wide, tuple) else (wide,):
        assert out.dtype == torch.float64
    torch.testing.assert_close(module.to(torch.float32)(*arguments), before)


@EVERY_LAYER
def test_to_another_device(name: str) -> None:
    module = CASES[name][0]().to("meta")
    assert all(value.is_meta for value in module.state_dict().values())
    assert not any(value.is_meta for value in module.to_empty(device="cpu").state_dict().values())


@HALF
@EVERY_LAYER
def test_half_precision_is_near_to_single(name: str, dtype: torch.dtype) -> None:
    make, inputs = CASES[name]
    module, arguments = make(), inputs()
    expected = outputs_and_gradients(module, module, arguments)
    half = copy.deepcopy(module).to(dtype)
    actual = outputs_and_gradients(half, half, tuple(_detached(convert(arguments, dtype))))
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=0.1 * float(wanted.detach().abs().max()) + 1e-3)


@HALF
@FORMS
@GRAPH_LAYER
def test_half_precision_of_every_form_of_the_graph(name: str, form: Form, dtype: torch.dtype) -> None:
    module, arguments = GRAPH_LAYERS[name][0](), graph_inputs(name, form)
    expected = outputs_and_gradients(module, module, arguments)
    actual = outputs_and_gradients(module, module, tuple(_detached(convert(arguments, dtype))))
    for got, wanted in zip(actual, expected, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=0.1 * float(wanted.detach().abs().max()))


def _detached(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_detached(entry) for entry in value)
    return value.detach() if isinstance(value, Tensor) else value


@HALF
def test_the_schedule_of_a_fusion_in_half_precision_is_that_of_double(dtype: torch.dtype) -> None:
    module, reference = (ProgressiveWeightCopying(NUM_USERS, 2, WIDTH, network_weight=0.95) for _ in range(2))
    module.to(dtype)
    assert module.theta.dtype == dtype
    for _ in range(20):
        module.start_epoch()
        reference.start_epoch()
        assert torch.equal(module.network_weight, reference.network_weight)
        assert torch.equal(module.memory_weight, reference.memory_weight)


@HALF
def test_the_regulariser_of_many_vectors_in_half_precision_is_finite(dtype: torch.dtype) -> None:
    user = torch.randn(20_000, 16).to(dtype).requires_grad_()
    loss = BPRLoss(1.0)(torch.zeros(1, dtype=dtype), torch.zeros(1, dtype=dtype), user, user)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.693 + 2, abs=0.05)
    assert user.grad is not None
    assert user.grad.isfinite().all()


@EVERY_LAYER
def test_a_saved_state_makes_the_same_layer(name: str) -> None:
    make, inputs = CASES[name]
    module, arguments = make().eval(), inputs()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = make().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(*arguments), module(*arguments), rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(*arguments), module(*arguments), rtol=0, atol=0)


def test_an_operator_is_pickled_for_the_processes_of_a_loader() -> None:
    index = edges(NUM_USERS, NUM_ITEMS)
    operator = SparseOperator(index, torch.rand(index.size(1)), (NUM_USERS, NUM_ITEMS))
    loaded = pickle.loads(pickle.dumps(operator))
    assert torch.equal(loaded.to_dense(), operator.to_dense())
    assert torch.equal(loaded.t().to_dense(), operator.t().to_dense())


@EVERY_LAYER
def test_reset_parameters_follows_the_seed(name: str) -> None:
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


@EVERY_LAYER
def test_the_repr_makes_the_layer_again(name: str) -> None:
    """As far as the settings go that it shows."""
    module = CASES[name][0]()
    assert repr(eval(repr(module))) == repr(module)
    assert repr(module).startswith(f"{type(module).__name__}(")


def test_unit_vectors_can_be_compiled_and_exported() -> None:
    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return unit_vectors(x)

    x = torch.randn(NUM_USERS, WIDTH)
    assert_compiles(Unit(), (x,), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.export.export(Unit(), (x,)).module()(x), unit_vectors(x))
