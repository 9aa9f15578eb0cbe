"""Significance: closed forms, the normal limit, the null hypothesis, and Holm's correction by its definition."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from lirdrec_pyg import EASEConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker, holm, metrics_by_user, paired_bootstrap
from lirdrec_pyg.models import EASE
from lirdrec_pyg.nn import DotProducts


def test_metrics_of_each_user_average_to_the_metrics() -> None:
    graph = synthetic_data(num_users=60, num_items=50).graph
    model = EASE.from_config(EASEConfig(), graph)
    model.fit(graph)
    task = RankingTask.from_graph(graph, "test")
    for k in (5, 20, 50):
        expected = evaluate_ranker(model.ranker(graph), task, (k,))
        for name, values in metrics_by_user(model.ranker(graph), task, k).items():
            assert values.shape == task.user_index.shape
            assert float(values.mean()) == pytest.approx(expected[name])


def test_metrics_of_each_user_by_hand() -> None:
    # Two users with two held-out items each, and the rankings 0, 1, 2 and 2, 1, 0.
    task = RankingTask.of(torch.tensor([[3, 3, 5, 5], [0, 2, 0, 1]]), None, 3)
    user = torch.zeros(6, 1)
    user[3], user[5] = -1, 1
    found = metrics_by_user(DotProducts(user, torch.tensor([[0.0], [1.0], [2.0]])), task, 2)
    ideal = 1 + 1 / math.log2(3)
    assert found["recall@2"].tolist() == [0.5, 0.5]
    assert found["ndcg@2"].tolist() == pytest.approx([1 / ideal, (ideal - 1) / ideal])


def test_bootstrap_of_two_users_in_closed_form() -> None:
    # With differences 0 and 1, half of the resamples are twice the same user, and so deviate by the mean.
    a = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]])
    p = paired_bootstrap(a, torch.zeros(2))
    # Without spread, a difference is certain; without a difference, nothing is.
    assert p[1:3].tolist() == [1 / 10_001, 1.0]
    for of_half in (p[0], p[3]):
        assert float(of_half) == pytest.approx(0.5, abs=5 * 0.5 / 100)  # five standard errors
    assert torch.equal(p, paired_bootstrap(a, torch.zeros(2)))
    assert p[0] == paired_bootstrap(a[0], torch.zeros(2)) == paired_bootstrap(torch.zeros(2), a[0])
    assert p[0] != paired_bootstrap(a[0], torch.zeros(2), seed=1)


def test_bootstrap_of_many_users_is_a_z_test() -> None:
    generator = torch.Generator().manual_seed(0)
    b = torch.rand(2000, generator=generator)
    noise = torch.randn(2000, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std(correction=0)
    z = torch.tensor([0.0, 0.5, 1.0, 1.96, 3.0, 6.0])
    p = paired_bootstrap(b + noise + z.unsqueeze(1) / 2000**0.5, b)
    assert p.tolist() == pytest.approx((2 * norm.sf(z)).tolist(), abs=0.02)


def test_p_values_are_uniform_without_a_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(300, 150, generator=generator) ** 3 for _ in range(2))
    p = torch.stack([paired_bootstrap(x, y, 1000, seed) for seed, (x, y) in enumerate(zip(a, b, strict=True))])
    assert kstest(p, "uniform").pvalue > 0.01


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_by_its_definition_as_a_closed_test(values: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni's test rejects every set of hypotheses that has it."""
    p = torch.tensor(values, dtype=torch.float64)
    n = len(values)
    sets = [part for size in range(1, n + 1) for part in itertools.combinations(range(n), size)]
    bonferroni = {part: min(1.0, len(part) * min(values[j] for j in part)) for part in sets}
    corrected = holm(p)
    assert corrected.tolist() == [max(v for part, v in bonferroni.items() if i in part) for i in range(n)]
    assert (corrected >= p).all()
    assert (corrected <= 1).all()
    assert (corrected[p.argsort()].diff() >= 0).all()


def test_holm_as_published_examples() -> None:
    assert holm(torch.tensor([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
