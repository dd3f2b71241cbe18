"""Batches: every example once per epoch, the same for the same seed, similar lengths together."""

import pytest

from core.errors import UserError
from models.batches import as_encoded, collate, encode, epoch_batches, sorted_batches
from models.random_init import train_tokenizer
from tasks.loading import Split

LENGTHS = [5 + (i * 37) % 41 for i in range(500)]


def padding(batches: list[list[int]]) -> float:
    padded = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches)
    return padded / sum(LENGTHS)


@pytest.mark.parametrize("similar_length", [True, False])
def test_an_epoch_holds_every_example_once_in_its_own_order(similar_length):
    epochs = [epoch_batches(LENGTHS, 32, seed, epoch, similar_length) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for batches in epochs:
        assert sorted(i for batch in batches for i in batch) == list(range(500))
        assert sorted(map(len, batches)) == [500 % 32, *[32] * 15]
    assert epochs[0] == epoch_batches(LENGTHS, 32, 0, 0, similar_length)
    assert epochs[0] != epochs[1]
    assert epochs[0] != epochs[2]


def test_similar_lengths_save_padding():
    assert padding(epoch_batches(LENGTHS, 32, 0, 0, similar_length=False)) > 1.5
    assert padding(epoch_batches(LENGTHS, 32, 0, 0, similar_length=True)) < 1.1
    assert padding(sorted_batches(LENGTHS, 32)) < 1.1


def test_the_longest_batch_is_not_always_the_first():
    firsts = {max(LENGTHS[i] for i in epoch_batches(LENGTHS, 32, 0, epoch, True)[0]) for epoch in range(8)}
    assert len(firsts) > 3


def test_a_text_without_a_token_is_named_as_its_file_does():
    drawn = Split("train", [("the cat",)] * 4, [0] * 4, [0, 1, 3, 2]).select([2, 3])
    tokenizer = train_tokenizer(drawn.texts, 300, 1)
    with pytest.raises(UserError, match="train, idx 2: the text has no token for this backbone's tokenizer"):
        as_encoded(drawn, {"input_ids": [[5], []]}, tokenizer)


def test_collate_pads_to_the_longest_example_and_masks_the_padding():
    texts = [("the cat sat",), ("a",), ("the cat sat on the mat and slept",)]
    tokenizer = train_tokenizer(texts, vocabulary=300, pad_id=1)
    data = encode(Split("train", texts, [0, 1, 0], [0, 1, 2]), tokenizer, max_length=64)
    batch = collate(data, [1, 0])
    assert batch.inputs["input_ids"].shape == (2, data.lengths[0])
    assert batch.tokens == data.lengths[0] + data.lengths[1]
    assert batch.padded_tokens == 2 * data.lengths[0]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [data.lengths[1], data.lengths[0]]
    assert (batch.inputs["input_ids"][0, data.lengths[1] :] == 1).all()
    assert batch.labels.tolist() == [1, 0]


def test_long_examples_are_cut():
    texts = [("word " * 100, "other " * 100)]
    tokenizer = train_tokenizer(texts, vocabulary=300, pad_id=0)
    assert encode(Split("train", texts, [0], [0]), tokenizer, max_length=16).lengths == [16]
