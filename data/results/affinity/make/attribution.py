"Input attribution similarity on Rooms: image by image, in other ways of asking, and the maps of two views."
from copy import deepcopy
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from its_a_match.affinity.attribution import attribution_map, attribution_similarities
from its_a_match.affinity.core import chosen_views, image_batches
from its_a_match.campaign import load_network
from its_a_match.taskonomy import TaskonomyDataset

KEYS, SOME, FEW, SHOWN = 'SDNKE', 128, 32, (58, 240)  # single-task networks; images for the variants; for those of many passes; views whose maps are kept


class Gradient:
    "The gradient itself, or what `change` makes of it and the images."
    def __init__(self, net, change=lambda g, x: g):
        from captum.attr import Saliency
        self.saliency, self.change = Saliency(net), change
    def attribute(self, inputs, **more): return self.change(self.saliency.attribute(inputs, abs=False, **more), inputs.detach())


class FromGrey(Gradient):
    "Input × Gradient where grey is nothing, instead of black."
    def __init__(self, net): super().__init__(net, lambda g, x: g*(x - .5))


class Sizes(Gradient):
    "How large Input × Gradient is, whatever its sign."
    def __init__(self, net): super().__init__(net, lambda g, x: (g*x).abs())


class Patches(Gradient):
    "Input × Gradient summed over the channels and over patches of 8 × 8 pixels."
    def __init__(self, net): super().__init__(net, lambda g, x: F.avg_pool2d((g*x).sum(1, keepdim=True), 8).repeat_interleave(8, 2).repeat_interleave(8, 3).expand_as(x))


def surely(output): return output.log_softmax(1).max(1).values.flatten(1).sum(1)  # log-probability of the predicted class
def size(output): return output.abs().flatten(1).sum(1)

VARIANTS = { # name: options of `attribution_map`
    'default':                          {},
    'sum of all logits':                dict(of='sum'),
    'logit less mean logit':            dict(of='centred'),
    'log-probability':                  dict(of=dict(S=surely)),
    'absolute outputs':                 dict(of=dict.fromkeys('DNKE', size)),
    'third component of normals':       dict(of=dict(N=lambda output: output[:, 2].flatten(1).sum(1))),
    'gradient alone':                   dict(attribution=Gradient),
    'grey is nothing':                  dict(attribution=FromGrey),
    'IntegratedGradients':              dict(attribution='IntegratedGradients', attribution_options=dict(n_steps=16)),
    'DeepLift':                         dict(attribution='DeepLift'),
    'GuidedBackprop':                   dict(attribution='GuidedBackprop'),
    'patches of 8 × 8':                 dict(attribution=Patches),
    'sizes of the map':                 dict(attribution=Sizes),
    'Saliency':                         dict(attribution='Saliency'),
}


def maps(networks, images, **options):
    "The maps of all networks, {key: (N, 3, H, W)}."
    return {k: torch.cat([attribution_map(net, x, k, **options) for x in images.split(64)]) for k, net in networks.items()}


def untrained(networks, images):
    "The same networks with random weights, each its own; their normalisations have seen the images."
    made = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for k, net in networks.items():
            made[k] = deepcopy(net)
            for m in made[k].modules():
                if hasattr(m, 'reset_parameters'): m.reset_parameters()
            made[k].train()
            with torch.no_grad():
                for _ in range(30): made[k](images)
    return {k: net.eval() for k, net in made.items()}


def compared(found, other):
    "For each two tasks the mean cosine of their maps of the same image, of one's map with the other's of the next image, and of maps of other networks."
    flat, beside = ({k: m.flatten(1).double() for k, m in maps.items()} for maps in (found, other))
    mean = lambda a, b: F.cosine_similarity(a, b).nanmean().item()
    for a, b in combinations(flat, 2):
        yield dict(partner=a, target=b, value=mean(flat[a], flat[b]), other=mean(flat[a], flat[b].roll(1, 0)), untrained=mean(beside[a], beside[b]))


def make(
    run,  # folder of the campaign, with the networks S D N K E
    data, # folder of Rooms
    out,  # folder that the files are written to
):
    "Writes IAS_images.csv, IAS_variants.csv and IAS_maps.npz."
    out, networks = Path(out), {k: load_network(run, k) for k in KEYS}
    test  = TaskonomyDataset(data, 'test', KEYS)
    views = test.views.index
    each  = attribution_similarities(networks, test)
    each.columns = [''.join(c) for c in each.columns]
    each.insert(0, 'building', views.get_level_values('building')[each.index])
    each.to_csv(out/'IAS_images.csv', float_format='%.4g')
    order  = np.random.default_rng(0).permutation(len(chosen_views(len(test))))[:SOME]  # the next image is one of anywhere
    images = torch.cat([*image_batches(test)])[order]
    rows, blank = [], untrained(networks, images[:FEW])
    for name, options in VARIANTS.items():
        some = images[:FEW] if name == 'IntegratedGradients' else images
        rows += [dict(variant=name, images=len(some), **r) for r in compared(maps(networks, some, **options), maps(blank, some[:FEW], **options))]
    pd.DataFrame(rows).to_csv(out/'IAS_variants.csv', index=False, float_format='%.5g')
    shown = test.batch(SHOWN)[0]
    found = torch.stack([m.sum(1) for m in maps(networks, shown).values()])
    top   = found.abs().flatten(2).quantile(.99, dim=2)[..., None, None]
    np.savez_compressed(out/'IAS_maps.npz', keys=np.array(list(KEYS)), images=shown.mul(255).round().byte().numpy(), maps=(found/top).clamp(-1, 1).mul(127).round().to(torch.int8).numpy())
