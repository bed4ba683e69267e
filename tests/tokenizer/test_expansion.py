import numpy as np
import pytest

from pipelines.tokenizer.expansion import ExpansionTable

TABLE = ExpansionTable([np.array([1, 2]), np.array([3]), np.array([0, 0, 1])], num_visible=4)


@pytest.mark.parametrize(
    ("ids", "expanded", "source"),
    [
        ([], [], []),
        ([0, 3, 2], [0, 3, 2], [0, 1, 2]),
        ([4], [1, 2], [0, 0]),
        ([0, 6, 4, 3, 5], [0, 0, 0, 1, 1, 2, 3, 3], [0, 1, 1, 1, 2, 2, 3, 4]),
    ],
)
def test_scaffolds_become_their_runs_and_say_where_they_were(ids, expanded, source):
    got, places = TABLE.expand_with_source(np.array(ids, dtype=np.int64))
    assert got.tolist() == expanded
    assert places.tolist() == source


def test_random_ids_expand_as_a_loop_does():
    ids = np.random.default_rng(0).integers(0, 7, size=500)
    runs = {4: [1, 2], 5: [3], 6: [0, 0, 1]}
    assert TABLE.expand(ids).tolist() == [part for i in ids.tolist() for part in runs.get(i, [i])]
