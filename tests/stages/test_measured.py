from mmrec.stages.measured import cutoffs, main_cutoff


def test_the_main_cutoff_is_that_of_papers_or_the_largest() -> None:
    assert cutoffs(["ndcg@7", "recall@50", "recall@5", "recall_pooled@9"]) == [5, 50]
    assert main_cutoff(["recall@50", "recall@20", "recall@5"]) == 20
    assert main_cutoff(["recall@10", "recall@5"]) == 10
