"""Run by test_distributed.py in two processes: trains five steps and writes what each rank saw to a folder."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch._dynamo.backends.debugging import aot_eager

from ssd_graph.compilers.backend import DEVICES
from ssd_graph.config import RECIPES
from ssd_graph.data.coco import load_split
from ssd_graph.graph.step import TrainStep
from ssd_graph.training.distributed import joined_world
from ssd_graph.training.validate import Validator
from tests.graph.test_step import CONFIG, DEFAULTS, make_batch, new_state

NUM_STEPS = 5
RECIPE = replace(RECIPES["mlperf-256"], weight_decay=0.0)


def main():
    with joined_world(DEVICES["cpu"]) as (world, _):
        train(world)


def train(world):
    graphs = []

    def backend(module, example_inputs):
        graphs.append(module)
        return aot_eager(module, example_inputs)

    step = TrainStep(CONFIG, RECIPE, world_size=world.size)
    compiled = torch.compile(step.__call__, backend=backend, fullgraph=True, dynamic=False)
    state = new_state(step)
    validator = Validator(load_split(Path(sys.argv[2]), "val"), CONFIG, batch_size=2, world=world)
    rows = validator.detect(state)
    histories, first_statistics = [], None
    for s in range(NUM_STEPS):
        compiled(state, make_batch(10 * s + world.rank), DEFAULTS, torch.tensor(0.002))
        histories.append((state.parameters.clone(), state.momentum.clone()))
        first_statistics = first_statistics if s else state.bn_statistics.clone()
    collectives = [n for g in graphs for n in g.graph.nodes if "all_reduce" in str(n.target)]
    result = {
        "parameters": torch.stack([h[0] for h in histories]),
        "first_gradient": histories[0][1],  # momentum begins at zero and there is no weight decay
        "first_statistics": first_statistics,
        "num_graphs": len(graphs),
        "num_collectives": len(collectives),
        "mean_of_ranks": torch.tensor(float(world.rank)),
        "detections": [torch.from_numpy(column) for column in rows],
        "gathered": world.gather(world.rank * 10),
    }
    world.mean_(result["mean_of_ranks"])
    torch.save(result, Path(sys.argv[1]) / f"rank{world.rank}.pt")
    dist.barrier()


if __name__ == "__main__":
    main()
