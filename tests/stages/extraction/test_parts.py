import pytest

from mmrec.stages.extraction.parts import Part, ranges


def test_parts_share_out_the_shards_and_none_is_in_two() -> None:
    shards = [shard for number in range(3) for shard in Part.parse(f"{number}/3").shards(8)]
    assert sorted(shards) == list(range(8))
    assert list(Part.parse("2/3").shards(8)) == [2, 5]
    assert not Part.parse("9/10").shards(8)  # an array of more jobs than there are shards


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3/3", "parts count from 0, so those of 3 are 0/3 to 2/3"),
        ("0/0", "at least one part"),
        *((text, "expected i/n") for text in ("", "1", "-1/3", "1/3/4", "a/b", "1.0/2", "/")),
    ],
)
def test_what_is_no_part_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Part.parse(text)


def test_numbers_are_written_as_a_slurm_array_takes_them() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8" and ranges([]) == ""
