"""The reference's log-probabilities in a file: what cannot be read is named with the mend."""

import pytest
import torch

from icto_gym.errors import DataError
from trainers.models.reference import cached_logps, read_logps


@pytest.mark.parametrize("keep", [0, -5])
def test_a_cut_file_is_named_with_the_mend(tmp_path, keep):
    path = tmp_path / "reference.safetensors"
    table = cached_logps(path, 2, 1, [[0], [1]], lambda items: torch.full((len(items), 1), -3.0))
    assert torch.equal(read_logps(path, 2, 1), table)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"reference\.safetensors.*Remove it, and it is computed again"):
        read_logps(path, 2, 1)
