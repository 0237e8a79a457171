import torch

from autoseg.train.agreement import class_counts, region_counts


def test_counts_of_each_class_leave_out_what_is_not_annotated() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]])
    predicted = torch.tensor([[0, 1, 1, 1, 2, 0, 1, 2]])
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    assert class_counts(logits, labels).tolist() == [[1, 2, 1], [1, 1, 0], [1, 0, 1]]


def test_counts_of_a_single_class_that_is_absent() -> None:
    logits = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert class_counts(logits, torch.zeros((1, 2), dtype=torch.int64)).tolist() == [[2, 0], [0, 0], [0, 0]]


def test_counts_of_regions_leave_out_what_is_not_annotated() -> None:
    """Classes 1 and 2 are the first region, class 2 the second; 3 is not annotated."""
    labels = torch.tensor([[0, 1, 2, 2, 3]])
    logits = torch.tensor([[[1.0, 1, 1, -1, 1], [-1.0, 1, 1, -1, 1]]])
    assert region_counts(logits, labels, ((1, 2), (2,))).tolist() == [[0, 2, 1], [0, 1, 1], [0, 1, 1]]
