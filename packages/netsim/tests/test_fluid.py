"""Max-min fair rates against linear programs, and the laws of fair shares and of flows that end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import coo_array, vstack

from penstock.netsim.fluid import fluid, link_loads, max_min_rates


def random_case(rng, flows=6, links=5, hops=3):
    """Links of each flow (at least one, -1 where there is none) and capacities, some of them equal."""
    count = int(rng.integers(1, flows + 1))
    link_FH = np.full((count, hops), -1)
    for row in link_FH:
        length = int(rng.integers(1, hops + 1))
        row[rng.permutation(hops)[:length]] = rng.permutation(links)[:length]
    return link_FH, rng.choice([1.0, 2.0, 3.0, float(rng.uniform(0.1, 10))], links)


@st.composite
def cases(draw):
    return random_case(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), flows=12, links=8)


class LinearPrograms:
    """Max-min rates of many cases at once, by definition: raise the smallest rate as far as the links allow, fix the
    flows that cannot have more in any solution (those with a price), and go on with the others.

    The cases share one sparse program, whose objective is the sum of their smallest rates: they do not interact.
    """

    def __init__(self, listed):
        self.case_F = np.repeat(np.arange(len(listed)), [len(link_FH) for link_FH, _ in listed])
        self.capacity = np.concatenate([capacity_L for _, capacity_L in listed])
        links = len(listed[0][1])
        on = [
            (flow, case * links + link)
            for flow, (case, row) in enumerate(
                (case, row) for case, (link_FH, _) in enumerate(listed) for row in link_FH
            )
            for link in row[row >= 0]
        ]
        self.flow_N, self.link_N = np.array(on).T
        self.rate_F = np.full(len(self.case_F), np.nan)

    def solve(self):
        while np.isnan(self.rate_F).any():
            self.fix_the_smallest()
        return self.rate_F

    def fix_the_smallest(self):
        """Variables: a rate for each flow and a smallest open rate for each case."""
        flows, cases_ = len(self.rate_F), int(self.case_F.max()) + 1
        open_ = np.flatnonzero(np.isnan(self.rate_F))
        on_links = coo_array(
            (np.ones(len(self.flow_N)), (self.link_N, self.flow_N)), (len(self.capacity), flows + cases_)
        )
        row = np.arange(len(open_))
        above = coo_array(
            (
                np.concatenate([np.ones(len(open_)), -np.ones(len(open_))]),
                (np.concatenate([row, row]), np.concatenate([flows + self.case_F[open_], open_])),
            ),
            (len(open_), flows + cases_),
        )
        fixed = [(0, None) if np.isnan(rate) else (rate, rate) for rate in self.rate_F]
        active = np.isin(np.arange(cases_), self.case_F[open_])
        result = linprog(
            np.concatenate([np.zeros(flows), -active.astype(float)]),
            A_ub=vstack([on_links, above], format="csr"),
            b_ub=np.concatenate([self.capacity * (1 + 1e-12), np.zeros(len(open_))]),
            bounds=[*fixed, *((0, None) if use else (0, 0) for use in active)],
            method="highs",
        )
        assert result.status == 0, result.message
        price = -result.ineqlin.marginals[len(self.capacity) :]
        blocked = open_[price > 1e-9]
        self.rate_F[blocked] = result.x[flows + self.case_F[blocked]]


def test_rates_equal_linear_programs_on_ten_thousand_cases():
    rng = np.random.default_rng(0)
    for _ in range(20):
        listed = [random_case(rng) for _ in range(500)]
        expected = LinearPrograms(listed).solve()
        found = np.concatenate([max_min_rates(*case) for case in listed])
        assert found == pytest.approx(expected, rel=1e-6)


@given(cases())
def test_no_link_carries_more_than_it_can(case):
    link_FH, capacity_L = case
    assert (link_loads(link_FH, max_min_rates(*case), len(capacity_L)) <= capacity_L * (1 + 1e-9)).all()


@given(cases())
def test_every_flow_has_a_bottleneck(case):
    """A full link on its route where no flow has more than it: the condition that defines max-min fairness."""
    link_FH, capacity_L = case
    rate_F = max_min_rates(*case)
    load_L = link_loads(link_FH, rate_F, len(capacity_L))
    for row, rate in zip(link_FH, rate_F, strict=True):
        bottlenecks = [
            link
            for link in row[row >= 0]
            if load_L[link] >= capacity_L[link] * (1 - 1e-9)
            and rate >= rate_F[(link_FH == link).any(axis=1)].max() * (1 - 1e-9)
        ]
        assert bottlenecks


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_flows_and_links_does_not_matter(case, random):
    link_FH, capacity_L = case
    flow_order = np.array(random.sample(range(len(link_FH)), len(link_FH)))
    link_order = np.array(random.sample(range(len(capacity_L)), len(capacity_L)))
    renamed_FH = np.where(link_FH >= 0, np.append(link_order, -1)[link_FH], -1)[flow_order]
    capacities_L = np.empty_like(capacity_L)
    capacities_L[link_order] = capacity_L
    assert max_min_rates(renamed_FH, capacities_L) == pytest.approx(max_min_rates(*case)[flow_order])


@given(cases())
def test_faster_links_scale_all_rates(case):
    link_FH, capacity_L = case
    assert max_min_rates(link_FH, 7 * capacity_L) == pytest.approx(7 * max_min_rates(*case))


def test_a_flow_without_links_is_not_limited():
    assert max_min_rates(np.array([[-1], [0]]), np.array([3.0])).tolist() == [np.inf, 3.0]


def test_freed_capacity_goes_to_who_is_left():
    """Flows of 10 and 30 bytes share a link of 2 B/s: 1 B/s each for 10 s, then 2 B/s for the other's 20 bytes."""
    result = fluid(np.array([[0], [0]]), np.array([10.0, 30.0]), np.array([2.0]))
    assert result.finish_F == pytest.approx([10, 20])
    assert result.begin_E == pytest.approx([0, 10])
    assert result.use_EL.ravel() == pytest.approx([1, 1])


def test_links_that_take_turns_at_being_full_make_an_exchange_longer_than_its_busiest_link():
    """Two long flows meet on link 1; until three short ones have ended, links 0 and 2 slow them and link 1 idles.

    10 s at 2.5 B/s leave each 75 of its 100 bytes, which take 15 s at 5 B/s; link 1 alone would need 20 s for all.
    """
    link_FH = np.array([[0, 1], [1, 2], *[[0, -1]] * 3, *[[2, -1]] * 3])
    bytes_F, capacity_L = np.array([100.0, 100, *[25] * 6]), np.full(3, 10.0)
    assert (link_loads(link_FH, bytes_F, 3) / capacity_L).max() == pytest.approx(20)
    assert fluid(link_FH, bytes_F, capacity_L).finish_F == pytest.approx([25, 25, *[10] * 6])


def dumb_fluid(link_FH, bytes_F, capacity_L):
    left_F, finish_F, now = bytes_F.copy(), np.zeros(len(bytes_F)), 0.0
    while (left_F > 0).any():
        alive = np.flatnonzero(left_F > 0)
        rate_F = max_min_rates(link_FH[alive], capacity_L)
        step = (left_F[alive] / rate_F).min()
        left_F[alive] -= rate_F * step
        now += step
        done = alive[left_F[alive] <= 1e-9 * bytes_F[alive]]
        left_F[done], finish_F[done] = 0.0, now
    return finish_F


@settings(deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_ends_equal_stepping_from_end_to_end(case, seed):
    link_FH, capacity_L = case
    bytes_F = np.random.default_rng(seed).integers(1, 5, len(link_FH)).astype(float)
    assert fluid(link_FH, bytes_F, capacity_L).finish_F == pytest.approx(dumb_fluid(link_FH, bytes_F, capacity_L))


@settings(deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_work_is_conserved(case, seed):
    """What the links carried over all events is what the flows brought."""
    link_FH, capacity_L = case
    bytes_F = np.random.default_rng(seed).uniform(0, 5, len(link_FH))
    result = fluid(link_FH, bytes_F, capacity_L)
    lasted_E = np.diff(np.append(result.begin_E, result.finish_F.max()))
    carried_L = (result.use_EL * lasted_E[:, None]).sum(axis=0) * capacity_L
    assert carried_L == pytest.approx(link_loads(link_FH, bytes_F, len(capacity_L)))


@settings(deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_no_exchange_ends_before_its_busiest_link_has(case, seed):
    link_FH, capacity_L = case
    bytes_F = np.random.default_rng(seed).uniform(0, 5, len(link_FH))
    busiest = (link_loads(link_FH, bytes_F, len(capacity_L)) / capacity_L).max()
    assert fluid(link_FH, bytes_F, capacity_L).finish_F.max() >= busiest * (1 - 1e-9)


def test_a_tolerance_of_one_percent_costs_less_than_one_percent():
    rng = np.random.default_rng(0)
    gpus = 24
    source_F, target_F = (axis[~np.eye(gpus, dtype=bool)] for axis in np.mgrid[0:gpus, 0:gpus])
    link_FH = np.stack([source_F, gpus + target_F, 2 * gpus + source_F // 8, 2 * gpus + 3 + target_F // 8], axis=1)
    capacity_L = np.concatenate([np.full(2 * gpus, 1.0), np.full(6, 4.0)])
    bytes_F = rng.lognormal(0, 1, len(link_FH))
    exact, near = (fluid(link_FH, bytes_F, capacity_L, tolerance) for tolerance in (0.0, 0.01))
    assert near.finish_F.max() == pytest.approx(exact.finish_F.max(), rel=0.01)
    assert np.median(np.abs(near.finish_F / exact.finish_F - 1)) < 0.01
    assert len(near.begin_E) < len(exact.begin_E) / 2


def test_nothing_to_send_takes_no_time():
    assert fluid(np.array([[0], [-1]]), np.array([0.0, 5.0]), np.array([1.0])).finish_F.tolist() == [0.0, 0.0]
    assert fluid(np.zeros((0, 1), dtype=int), np.zeros(0), np.array([1.0])).finish_F.tolist() == []
