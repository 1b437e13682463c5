from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from cuts3d_cli.cut.iterations import advance, begin, extract, run_iterations
from cuts3d_cli.cut.methods import METHODS, get_method
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.types import Candidate
from cuts3d_cli.timing import StepTimer
from tests.support.clouds import GRID, cut_settings, touching_blobs, two_class_features

GIVEN = Eigenpair(vector=np.ones(4), value=0.5, solver="lanczos")
FALLEN_BACK = Eigenpair(vector=np.ones(4), value=0.5, solver="dense", fell_back=True)


@dataclass(frozen=True)
class NodeByNode:
    """Finds one node of a row after the other."""

    wanted: int
    nodes: int = 4
    stops_at: int | None = None

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        return len(found) == self.wanted

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        return "no node is left" if len(found) == self.nodes else None

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        return (np.arange(self.nodes) < len(found))[None]

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Sequence[Candidate] | str:
        if len(found) == self.stops_at:
            return "enough"
        mask = (np.arange(self.nodes) == len(found))[None]
        candidate = Candidate(
            iteration=len(found), bipartition=mask, mask=mask, source=len(found), sink=None, vector=np.zeros((1, 4))
        )
        return [candidate]


@pytest.mark.parametrize(
    ("rules", "solved", "stopped"),
    [
        (NodeByNode(0), 0, None),
        (NodeByNode(2), 2, None),
        (NodeByNode(4), 4, None),  # complete and exhausted: it has what it wants
        (NodeByNode(9), 4, "no node is left"),
        (NodeByNode(9, nodes=0), 0, "no node is left"),
        (NodeByNode(9, stops_at=2), 3, "enough"),
    ],
)
def test_it_goes_on_until_it_has_enough_or_cannot(rules: NodeByNode, solved: int, stopped: str | None):
    asked: list[int] = []

    def solve(removed: NDArray[np.bool_]) -> Eigenpair:
        asked.append(int(removed.sum()))
        return FALLEN_BACK if len(asked) == 2 else GIVEN

    found = run_iterations(rules, solve=solve, timer=StepTimer())
    assert asked == list(range(solved))
    assert found.finished
    assert found.stopped == stopped
    assert found.fallbacks == (solved >= 2)
    assert found.eigenproblems == solved
    assert [item.eigenproblem for item in found.candidates] == [item.iteration for item in found.candidates]
    assert [item.iteration for item in found.candidates] == list(range(solved - (stopped == "enough")))
    assert set(found.seconds) == ({"eigen", "cut"} if solved else set())


def test_a_step_changes_nothing_that_was_there():
    rules = NodeByNode(2)
    first = begin(rules)
    second = advance(first, GIVEN, rules)
    assert (len(first.candidates), len(second.candidates)) == (0, 1)
    assert (first.finished, second.finished, advance(second, GIVEN, rules).finished) == (False, False, True)


@pytest.mark.parametrize("name", METHODS)
def test_every_step_may_happen_in_another_process(name: str):
    left, right = touching_blobs()
    features = two_class_features(left | right)
    depth = np.where(left, 0.2, np.where(right, 0.6, 0.9))
    method = get_method(name)
    whole = extract(features, depth, method=method, settings=cut_settings())
    rules = method.rules(depth, grid=GRID, settings=cut_settings())
    extraction = begin(rules)
    for item in whole.candidates:
        assert not extraction.finished
        pair = Eigenpair(vector=item.vector.reshape(-1), value=0.1, solver="lanczos")
        extraction = advance(*pickle.loads(pickle.dumps((extraction, pair, rules))))
    assert [item.mask.tobytes() for item in extraction.candidates] == [item.mask.tobytes() for item in whole.candidates]
