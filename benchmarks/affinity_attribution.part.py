# To be merged into benchmarks/affinity.py: `attribution_rows(quick)` yields (what, variant, seconds), one for each variant and turn, in turns A B, B A, …
# The first variant of a `what` is what the others are divided by; reach of 'IAS, five networks …': 1.15. Own imports of this part:
import time

import torch
from training import wait  # benchmarks/training.py

from its_a_match.affinity.attribution import input_attribution_similarity
from its_a_match.affinity.core import image_batches
from its_a_match.measuring import evaluating
from its_a_match.models import get_model
from its_a_match.tasks import Task, get_tasks

PASSES, IAS = 'forward and backward passes alone', 'input attribution similarity'


def passes(networks, images, device):
    "What IAS cannot avoid: each network's output for each image, and the gradient of the output's sum with respect to the image."
    for x in image_batches(images, device=device):
        for net in networks.values():
            with evaluating(net), torch.enable_grad():
                given = x.detach().requires_grad_()
                (output,) = net(given).values()
                torch.autograd.grad(output, given, torch.ones_like(output))


def single_task(model, tasks, size, device):
    "A single-task network for each task, whose normalisation has seen some images."
    nets = {t.key: get_model(model, [t], seed=i).to(device) for i, t in enumerate(tasks)}
    with torch.no_grad():
        for net in nets.values(): net(torch.rand(16, 3, size, size, device=device))
    return nets


def attribution_rows(quick):
    "IAS of five networks against the passes alone; and of more and more tasks."
    cuda, repeat = torch.cuda.is_available(), 2 if quick else 7
    def turn(ways, device):
        for way in ways.values(): way(0)  # does not count
        for r in range(repeat):
            for name in list(ways)[::1 if r % 2 == 0 else -1]:
                wait(device)
                start = time.perf_counter()
                ways[name](1)
                wait(device)
                yield name, time.perf_counter() - start
    cases = [('cpu', 'wide', 64), ('cpu', 'small', 64)] + [('cuda', 'wide', 64), ('cuda', 'xception17', 128)]*cuda
    for device, model, size in cases:
        nets, images = single_task(model, get_tasks('SDNKE'), size, device), torch.rand(256 if quick else 2048, 3, size, size)
        some = [images[:128], images]
        ways = {PASSES: lambda full: passes(nets, some[full], device), IAS: lambda full: input_attribution_similarity(nets, some[full])}
        for name, seconds in turn(ways, device): yield f'IAS, five networks, {model}, {len(images):,} images of {size}², {device}', name, seconds
    tasks = [Task(f'task{i}') for i in range(20)]
    nets, images = single_task('wide', tasks, 64, 'cpu'), torch.rand(64 if quick else 128, 3, 64, 64)
    few  = {T: {t.key: nets[t.key] for t in tasks[:T]} for T in (2, 5, 10, 20)}
    ways = {f'{T} tasks': lambda full, T=T: input_attribution_similarity(few[T], images, tasks=tasks) for T in few}
    for name, seconds in turn(ways, 'cpu'): yield f'IAS, more tasks, wide, {len(images):,} images of 64², cpu', name, seconds
