"""Any number of ranks writes shards, any number reads them, and no number changes on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from forked import side_by_side
from safetensors.torch import load_file, save_file
from torch import Tensor

from penstock.hooks.problems import ProblemError
from penstock.train import shards
from penstock.train.shards import Part

RANK = """
import json, sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from penstock.train import shards

folder, rank, ranks, earlier = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))  # 5 rows and 1: no even cut
model.register_buffer("seen", torch.tensor(7))
model.register_buffer("none", torch.zeros(0, 4))
fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
optimizer = torch.optim.AdamW(model.parameters())
if earlier:
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for tensor in state.values():
            tensor.fill_(-1)
    shards.read_into(Path(earlier), state)
for _ in range(2):
    for parameter in model.parameters():
        parameter.grad = parameter.detach() * 2
    optimizer.step()
state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
for name, parameter in model.named_parameters():
    state[f"optimizer.{name}.exp_avg"] = optimizer.state[parameter]["exp_avg"]
digests = shards.write(folder, "all", rank, shards.parts_of(state, rank))
whole = {name: getattr(tensor, "full_tensor", lambda: tensor)().tolist() for name, tensor in state.items()}
print(json.dumps([digests, whole]))
dist.barrier()
dist.destroy_process_group()
"""


Told = tuple[dict[str, str], dict[str, object]]  # the digests of all files, and the tensors as lists of numbers


def written(jobs: Mapping[Path, tuple[int, Path | None]]) -> list[Told]:
    """What ranks say that they hold after they trained a model and wrote it to a folder: for each folder how many ranks
    do so, and which folder's shards they continue from."""
    calls = [
        [str(folder), str(rank), str(ranks), str(earlier or "")]
        for folder, (ranks, earlier) in jobs.items()
        for rank in range(ranks)
    ]
    for folder in jobs:
        folder.mkdir()
    said = iter([json.loads(text) for text in side_by_side(RANK, calls, modules=["torch._dynamo"])])
    groups = [[next(said) for _ in range(ranks)] for ranks, _ in jobs.values()]
    return [({name: each for files, _ in group for name, each in files.items()}, group[0][1]) for group in groups]


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Told]]:
    """The same training by 1, 2 and 3 ranks."""
    root = tmp_path_factory.mktemp("ranks")
    jobs = {root / str(ranks): (ranks, None) for ranks in (1, 2, 3)}
    return {ranks: (folder, told) for (folder, (ranks, _)), told in zip(jobs.items(), written(jobs), strict=True)}


def as_lists(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_one_process_reads_what_any_number_of_ranks_wrote(ranks, by_ranks):
    folder, (digests, held) = by_ranks[ranks]
    assert as_lists(shards.read(folder)) == held
    assert {f"model.{name}" for name in shards.read(folder, "model.")} == {
        name for name in held if name.startswith("model.")
    }
    files = sorted((folder / "shards").iterdir())
    assert digests == {f"shards/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert len(files) == ranks


def test_each_number_is_written_once(by_ranks):
    stored = {
        ranks: sum(tensor.numel() for name in digests for tensor in load_file(folder / name).values())
        for ranks, (folder, (digests, _)) in by_ranks.items()
    }
    assert stored == dict.fromkeys((1, 2, 3), 2 * (3 * 5 + 5 + 5 + 1) + 1)


def test_ranks_continue_from_what_another_number_of_ranks_wrote(by_ranks, tmp_path):
    assert by_ranks[1][1][1] == by_ranks[2][1][1] == by_ranks[3][1][1]
    jobs = {tmp_path / f"{a}-then-{b}": (b, by_ranks[a][0]) for a, b in ((2, 2), (1, 2), (3, 1))}
    stayed, grew, shrank = [held for _, held in written(jobs)]
    assert stayed == grew == shrank != by_ranks[2][1][1]


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Two ranks' shards of a matrix and of a number."""
    whole_62 = torch.arange(12.0).view(6, 2)
    first = {"model.w": Part(whole_62[:4], (0, 0)), "step": Part(torch.tensor(3), ())}
    shards.write(tmp_path, "all", 0, first)
    shards.write(tmp_path, "all", 1, {"model.w": Part(whole_62[4:], (4, 0))})
    return tmp_path


def test_a_process_without_ranks_fills_tensors_that_are_whole(halves):
    own_62, step = torch.zeros(6, 2), torch.tensor(0)
    shards.read_into(halves, {"model.w": own_62, "step": step})
    assert (own_62.tolist(), step.item()) == (torch.arange(12.0).view(6, 2).tolist(), 3)
    assert shards.present(halves)
    assert not shards.present(halves / "shards")
    assert {name: tuple(each.shape) for name, each in shards.described(halves, "model.").items()} == {"w": (6, 2)}


def test_all_tensors_that_do_not_fit_are_named_and_none_is_changed(halves):
    own = {"model.w": torch.zeros(5, 2), "model.v": torch.zeros(1), "step": torch.tensor(0)}
    with pytest.raises(ProblemError) as error:
        shards.read_into(halves, own)
    said = str(error.value)
    assert "tensor 'model.w' is float32 [6, 2], but the model expects float32 [5, 2]" in said
    assert "tensor 'model.v' is missing" in said
    assert own["step"].item() == 0


def test_a_tensor_that_lacks_a_part_is_not_read_as_if_it_were_whole(halves):
    save_file({"other": torch.zeros(1)}, halves / "shards" / "all-00000.safetensors")
    with pytest.raises(ProblemError, match=r"the shards cannot be read \(the parts of 'model.w' do not make a whole\)"):
        shards.read(halves)


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:4], lambda data: b"\xff" + data[1:]])
def test_damaged_bytes_are_a_problem_and_no_traceback(halves, damage):
    path = halves / "shards" / "all-00001.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ProblemError, match="the shards cannot be read"):
        shards.read(halves)
