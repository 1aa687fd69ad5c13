import numpy as np
from scipy import sparse

from mmrec.recsys import listed
from mmrec.recsys.listed import rank_listed
from mmrec.recsys.ranking import rank_exact


def test_equals_ranking_everything_else_away(monkeypatch) -> None:
    monkeypatch.setattr(listed, "_CELLS", 30)  # six pairs at a time
    generator = np.random.default_rng(0)
    users, items = (generator.integers(-2, 3, (n, 5)).astype("f4") for n in (20, 50))
    allowed = sparse.random(20, 50, 0.3, format="csr", random_state=generator) > 0
    exclude = sparse.random(20, 50, 0.3, format="csr", random_state=generator) > 0
    for taken in (None, exclude):
        away = sparse.csr_matrix(
            ~allowed.toarray() | (np.zeros((20, 50), bool) if taken is None else taken.toarray())
        )
        expected = rank_exact(users, items, 8, away)
        for queries in (users, sparse.csr_matrix(users)):
            found = rank_listed(queries, items, 8, allowed, taken)
            assert (found.items == expected.items).all() and (found.scores == expected.scores).all()


def test_users_without_candidates_have_empty_lists() -> None:
    found = rank_listed(
        np.ones((2, 1), "f4"), np.ones((3, 1), "f4"), 2, sparse.csr_matrix((2, 3), dtype=bool)
    )
    assert (found.items == -1).all()
