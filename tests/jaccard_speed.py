"""Time the Jaccard of two sets against copying them: `python tests/jaccard_speed.py`.

A set has a byte for every weight of a shape's matrices, in as many matrices of equal size; one in
ten is a member. A copy reads and writes each byte once, which is what the memory can do. Both are
done in turn and with one thread; on a CPU seconds are those of the processor, which other work
disturbs least.
"""

import argparse
import time
from unittest.mock import patch

import torch

from mmlib.masks import ParameterMask, jaccard
from mmlib.study.benchmark import SHAPES, interleaved, paired_ratio, stored_bytes


def drawn(shape, device):
    """A random set."""
    matrices = 7 * SHAPES[shape][2]
    size = stored_bytes(shape)["weights"] // matrices
    draws = {str(n): torch.rand(size, device=device) for n in range(matrices)}
    return ParameterMask({name: draw < 0.1 for name, draw in draws.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["170M", "0.5B"], help=", ".join(SHAPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device, clock = torch.device(options.device), time.perf_counter
    torch.set_num_threads(1)
    for shape in options.shapes:
        one, other = drawn(shape, device), drawn(shape, device)
        works = {
            "jaccard": lambda a=one, b=other: jaccard(a, b),
            "copy": lambda a=one, b=other: [m.clone() for s in (a, b) for _, m in s.items()],
        }
        with patch.object(
            time, "perf_counter", time.process_time if device.type == "cpu" else clock
        ):
            times = interleaved(works, device, repeats=options.repeats)
        ratio = paired_ratio(times, "jaccard", "copy")
        speed = 4 * one.n_scored / times[times.work == "copy"].seconds.median() / 1e9
        told = (
            f"{shape}: {one.n_scored / 1e6:.0f} million weights, Jaccard {ratio['value']:.2f} times"
        )
        told += f" a copy ({ratio['low']:.2f} to {ratio['high']:.2f}), which is {speed:.1f} GB/s"
        print(told, flush=True)


if __name__ == "__main__":
    main()
