"Losses over valid pixels: against sums written out, with missing labels, NaN, other precisions and several processes."
import math

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st
from torch.nn import functional as F

from its_a_match.losses import TERMS, TaskLosses, only_valid, shares_alike
from its_a_match.tasks import TASKONOMY, Task, get_tasks

SCENE, ANGLE = Task('scene', kind='classes', channels=4, per_image=True), Task('angle', kind='number', channels=2)
ALL = *TASKONOMY, SCENE, ANGLE

def table(tasks=ALL):
    rows = {(t.key, c): (c + .5, 2. + c) for t in tasks if t.kind != 'classes' for c in range(t.channels)}
    return pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(list(rows), names=['task', 'channel']), ['mean', 'std'])

def batch(tasks=ALL, n=3, side=4, seed=0, share=.6):
    "Outputs, targets and masks as a network and a data set give them, of random numbers; what is masked is 0."
    g, outputs, targets, masks = torch.Generator().manual_seed(seed), {}, {}, {}
    for t in tasks:
        pixels = (side, side + 1) if t.pixels else ()
        outputs[t.key] = torch.randn(n, t.channels, *pixels, generator=g)
        masks[t.key]   = torch.rand(n, *[1]*(t.kind != 'classes'), *pixels, generator=g) < share
        labels = torch.randint(t.channels, (n, *pixels), generator=g) if t.kind == 'classes' else torch.randn(n, t.channels, *pixels, generator=g)
        targets[t.key] = labels*masks[t.key]
    return outputs, targets, masks

def by_hand(task, output, target, mask):
    "Sums and counts of every image, number by number."
    sums, counts = [], []
    for o, y, m in zip(output.double(), target, mask):
        s = n = 0
        for at in np.ndindex(*o.shape[1:]):
            if not m[at if task.kind == 'classes' else (0, *at)]: continue
            pixel = o[(slice(None), *at)]
            if task.kind == 'classes': s, n = s + torch.logsumexp(pixel, 0).item() - pixel[y[at]].item(), n + 1
            else:                      s, n = s + (pixel - y[(slice(None), *at)]).abs().sum().item(), n + task.channels
        sums.append(s); counts.append(n)
    return sums, counts

@given(st.integers(0, 10**6), st.sampled_from([0., .3, 1.]))
def test_sums_counts_and_means_are_those_written_out(seed, share):
    outputs, targets, masks = batch(seed=seed, share=share)
    losses = TaskLosses(ALL)
    found, means = losses.per_image(outputs, targets, masks), losses(outputs, targets, masks)
    assert list(found) == list(means) == [t.key for t in ALL]
    for t in ALL:
        sums, counts = by_hand(t, outputs[t.key], targets[t.key], masks[t.key])
        assert found[t.key][1].dtype == torch.int64 and found[t.key][1].tolist() == counts
        assert found[t.key][0].tolist() == pytest.approx(sums, rel=1e-5, abs=1e-5)
        assert means[t.key].shape == () and means[t.key].item() == pytest.approx(sum(sums)/max(sum(counts), 1), rel=1e-5, abs=1e-6)

def test_the_mean_is_not_that_over_all_pixels_nor_that_of_the_images():
    output, target = torch.tensor([[[[1.]], [[1.]]], [[[9.]], [[3.]]]]).view(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    mask = torch.tensor([True, True, False, True]).view(2, 1, 1, 2)
    assert TaskLosses('D')({'D': output}, {'D': target}, {'D': mask})['D'].item() == pytest.approx(5/3)

@pytest.mark.parametrize('junk', [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize('task,term', [('D', 'l1'), ('D', 'l2'), ('N', 'l1'), ('S', 'cross-entropy'), ('D', lambda o, y: (o/y - 1)**2)])
def test_what_has_no_label_has_no_effect_whatever_it_holds(task, term, junk):
    t = next(t for t in TASKONOMY if t.key == task)
    outputs, targets, masks = batch([t])
    losses, mask = TaskLosses(task, terms={task: term}), masks[task]
    def run(output, target):
        output = output.clone().requires_grad_()
        loss = losses({task: output}, {task: target}, masks)[task]
        loss.backward()
        return loss.item(), output.grad
    wide  = mask[:, None] if t.kind == 'classes' else mask
    clean = run(outputs[task], targets[task])
    ids   = t.kind == 'classes'
    spoiled = run(torch.where(wide, outputs[task], junk), torch.where(mask, targets[task], 255 if ids else junk))
    assert math.isfinite(clean[0]) and spoiled[0] == pytest.approx(clean[0], rel=1e-6)
    assert torch.allclose(spoiled[1], clean[1]) and not clean[1][~wide.expand_as(clean[1])].any()

@pytest.mark.parametrize('share', [0., 1.])
def test_none_left_gives_zero_without_gradient_and_all_left_the_plain_loss(share):
    outputs, targets, masks = batch(share=share)
    outputs = {k: (o if share else o*math.nan).requires_grad_() for k, o in outputs.items()}
    losses = TaskLosses(ALL)(outputs, targets, masks)
    sum(losses.values()).backward()
    for t in ALL:
        plain = F.cross_entropy if t.kind == 'classes' else F.l1_loss
        assert losses[t.key].item() == pytest.approx(plain(outputs[t.key], targets[t.key]).item() if share else 0, rel=1e-5)
        assert outputs[t.key].grad.isfinite().all() and bool(outputs[t.key].grad.any()) == bool(share)

def test_a_task_without_labels_leaves_the_others_as_they_are():
    outputs, targets, masks = batch()
    losses = TaskLosses(ALL)
    before, none = losses(outputs, targets, masks), {**masks, 'N': torch.zeros_like(masks['N'])}
    after = losses(outputs, targets, none)
    assert after.pop('N') == 0 and before.pop('N') > 0 and after == before
    assert losses.missing(none)['N'].tolist() == [3, 3*4*5]
    assert losses.missing(none)['D'].tolist() == [0, (~masks['D']).sum()]
    assert losses.missing({**masks, 'scene': torch.tensor([True, False, False])})['scene'].tolist() == [2, 2]

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_summed_in_thirty_two(dtype):
    outputs, targets, masks = batch([*TASKONOMY], n=2, side=160)
    half = {k: o.to(dtype) for k, o in outputs.items()}
    found, same = (TaskLosses(TASKONOMY)(o, targets, masks) for o in (half, {k: o.float() for k, o in half.items()}))
    assert all(v.dtype == torch.float32 for v in found.values()) and found == same
    with torch.autocast('cpu', dtype): assert TaskLosses(TASKONOMY)(half, targets, masks) == same

def test_double_stays_double():
    outputs, targets, masks = batch()
    found = TaskLosses(ALL)({k: o.double() for k, o in outputs.items()}, targets, masks)
    assert all(v.dtype == torch.float64 for v in found.values())

def test_the_memory_format_changes_nothing():
    outputs, targets, masks = batch(TASKONOMY, side=8)
    last = {k: o.contiguous(memory_format=torch.channels_last) for k, o in outputs.items()}
    a, b = (TaskLosses(TASKONOMY)(o, targets, masks) for o in (outputs, last))
    assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()}, rel=1e-6)

def test_processes_that_divide_by_the_mean_count_give_the_gradient_of_the_whole_batch():
    outputs, targets, masks = batch(n=4)
    masks['D'][2:], masks['scene'][:] = False, torch.tensor([True, False, False, False])
    losses, cut = TaskLosses(ALL), lambda d, part: {k: v[part] for k, v in d.items()}
    parts = [slice(0, 1), slice(1, 4)]
    whole = {k: o.clone().requires_grad_() for k, o in outputs.items()}
    sum(losses(whole, targets, masks).values()).backward()
    counts = []
    for p in parts: losses(cut(outputs, p), cut(targets, p), cut(masks, p), lambda n: counts.append(n) or n)
    assert all(n.shape == (len(ALL),) and n.dtype == torch.float32 for n in counts)
    mean = sum(counts)/2
    mine = {k: o.clone().requires_grad_() for k, o in outputs.items()}
    for p in parts: (sum(losses(cut(mine, p), cut(targets, p), cut(masks, p), lambda n: mean).values())/2).backward()
    for k in whole: assert torch.allclose(whole[k].grad, mine[k].grad, atol=1e-7), k

def test_gradients_of_several_losses_at_once():
    outputs, targets, masks = batch()
    shared = torch.ones(3, requires_grad=True)
    losses = TaskLosses(ALL)({k: o*shared.view(-1, *[1]*(o.ndim - 1)) for k, o in outputs.items()}, targets, masks)
    stacked = torch.stack(list(losses.values()))
    together, = torch.autograd.grad(stacked, shared, torch.eye(len(ALL)), is_grads_batched=True, retain_graph=True)
    for loss, row in zip(losses.values(), together): assert torch.allclose(torch.autograd.grad(loss, shared, retain_graph=True)[0], row)

def test_normalised_labels_have_mean_0_and_deviation_1_and_come_back():
    x = torch.randn(50, 3, 4, 4)*torch.tensor([1., 5., .1]).view(3, 1, 1) + torch.tensor([0., 7., -2.]).view(3, 1, 1)
    frame = pd.DataFrame({'mean': x.mean((0, 2, 3)), 'std': x.std((0, 2, 3), correction=0), 'labelled': 1.}, pd.MultiIndex.from_product([['N'], range(3)], names=['task', 'channel']))
    ids, before = torch.ones(50, 4, 4).long(), x.clone()
    losses = TaskLosses('SN', frame)
    scaled = losses.normalise({'N': x, 'S': ids})
    assert torch.equal(x, before) and scaled['S'] is ids
    assert torch.allclose(scaled['N'].mean((0, 2, 3)), torch.zeros(3), atol=1e-5) and torch.allclose(scaled['N'].std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    assert torch.allclose(losses.denormalise(scaled)['N'], x, atol=1e-5)
    last = x.contiguous(memory_format=torch.channels_last)
    for square in (last, last[:, :, :, :3], last[..., :1]):
        again = losses.normalise({'N': square})['N']
        assert torch.equal(again, scaled['N'][..., :square.shape[3]]) and torch.allclose(losses.denormalise({'N': again})['N'], square, atol=1e-5)
    assert losses.normalise({'N': last})['N'].is_contiguous(memory_format=torch.channels_last)

def test_numbers_of_an_image_are_normalised_and_tasks_that_ask_for_none_are_not():
    raw = Task('raw', channels=1, normalise='none')
    losses = TaskLosses([ANGLE, raw], table([ANGLE]))
    scaled = losses.normalise({'angle': torch.tensor([[.5, 4.5]]), 'raw': torch.full((1, 1, 2, 2), 7.), 'other': 'as it is'})
    assert scaled['angle'].tolist() == [[0, 1]] and scaled['raw'].unique().item() == 7 and scaled['other'] == 'as it is'

def test_without_statistics_labels_are_taken_as_they_are():
    x = torch.randn(2, 1, 3, 3)
    assert TaskLosses('D').normalise({'D': x})['D'] is x

@pytest.mark.parametrize('change,said', [
    (lambda f: f.drop('K', level=0), "task 'K': the statistics do not have it"),
    (lambda f: f.drop(('N', 2)), "task 'N': the statistics have 2 channels, and it has 3"),
    (lambda f: f.assign(std=f['std'].where(f.index.get_level_values(0) != 'E', 0)), "task 'E': labels of mean 0.5 and standard deviation 0 in channel 0"),
    (lambda f: f.assign(mean=math.nan), "task 'D': labels of mean nan")])
def test_statistics_that_do_not_serve_are_refused(change, said):
    with pytest.raises(ValueError, match=said): TaskLosses(ALL, change(table()))

@pytest.mark.parametrize('terms,said', [
    ({'S': 'l1'}, "task 'S': the term 'l1' is not one for classes: cross-entropy or metric, or a function"), ({'D': 'cross-entropy'}, "task 'D': the term 'cross-entropy'"),
    ({'D': 'huber'}, "task 'D': the term 'huber' is not one for dense: l1 or l2, or a function"), ({'X': 'l1'}, "task 'X': it has a term but is none of S, D")])
def test_terms_that_do_not_serve_are_refused(terms, said):
    with pytest.raises(ValueError, match=said): TaskLosses('SD', terms=terms)

def test_a_term_of_another_shape_is_refused():
    outputs, targets, masks = batch(TASKONOMY)
    with pytest.raises(ValueError, match="task 'D': its term gives .* numbers"): TaskLosses('D', terms={'D': F.l1_loss})(outputs, targets, masks)

def test_an_index_error_in_a_term_of_ones_own_is_not_taken_for_a_class():
    outputs, targets, masks = batch(TASKONOMY)
    with pytest.raises(IndexError): TaskLosses('D', terms={'D': lambda o, y: o[99]})(outputs, targets, masks)

@pytest.mark.parametrize('label', [18, 255, -1, -100])
def test_a_label_that_is_no_class_is_named(label):
    outputs, targets, masks = batch(TASKONOMY[:1])
    targets['S'][0, 0, 0], masks['S'][0, 0, 0] = label, True
    with pytest.raises(ValueError, match=f"task 'S': a label is not a class from 0 to 17 .*{label}"): TaskLosses('S')(outputs, targets, masks)

@pytest.mark.parametrize('which,change,said', [
    (0, None, "task 'D': there is no output for it"), (1, None, "task 'D': there is no label for it"), (2, None, "task 'D': there is no mask for it"),
    (0, lambda x: x[:, :, :2], "task 'D': the output is"), (0, lambda x: x.expand(-1, 2, -1, -1), "task 'D': the output is"), (2, lambda x: x[:, 0], "task 'D': the mask is")])
def test_what_is_missing_or_does_not_fit_is_named(which, change, said):
    given = batch(TASKONOMY)
    held = given[which].pop('D')
    if change: given[which]['D'] = change(held)
    with pytest.raises(ValueError, match=said): TaskLosses('SD')(*given)

def test_outputs_may_be_more_than_the_tasks():
    assert list(TaskLosses('DE')(*batch())) == ['D', 'E']

def test_every_named_term_is_safe_and_adds_up():
    for name, term in TERMS.items():
        t = TASKONOMY[0] if name in ('cross-entropy', 'metric') else TASKONOMY[2]
        outputs, targets, masks = batch([t])
        args = outputs[t.key], targets[t.key], masks[t.key]
        assert term(*args, 'sum').item() == pytest.approx(term(*args, 'none').sum().item(), rel=1e-5)

# pieces

PIECES, = get_tasks('segment_unsup2d')

def pieces(n=3, side=17, seed=0, channels=5):
    "Vectors of random directions, ids of a few pieces, and where they are known."
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 4, (n, side, side), generator=g)
    return torch.randn(n, channels, side, side, generator=g), ids, torch.rand(n, side, side, generator=g) < .7

def compared(known):
    "The pixels that each known pixel of an image is compared with: {pixel: pixels}."
    (h, w), found = known.shape, {}
    for r, c in np.argwhere(known.numpy()):
        others = [(r + s*i, c + s*(1 - i)) for s in {1, max(2, w//8)} for i in (0, 1)]
        found[r, c] = [q for q in others if q[0] < h and q[1] < w and known[q]]
    return found

@pytest.mark.parametrize('side', [3, 8, 17, 24])
def test_pairs_of_pieces_written_out(side):
    x, ids, known = pieces(side=side)
    alike, terms = shares_alike(ids, known), TERMS['metric'](x, ids, known, 'none')
    for v, i, k, a, t in zip(x.double(), ids, known, alike, terms):
        pairs = compared(k)
        for p in np.ndindex(side, side):
            others = pairs.get(p, [])
            assert math.isnan(a[p]) if not others else a[p].item() == pytest.approx(np.mean([(i[p] == i[q]).item() for q in others]))
            same = [2/(1 + math.exp((v[:, p[0], p[1]] - v[:, q[0], q[1]]).square().sum().item() + .01)) for q in others]
            wanted = np.mean([-math.log(s if i[p] == i[q] else 1 - s) for s, q in zip(same, others)]) if others else 0
            assert t[p].item() == pytest.approx(wanted, rel=1e-4, abs=1e-6)

def test_points_that_coincide_have_a_finite_loss_and_gradient():
    _, ids, known = pieces()
    x = torch.ones(3, 5, 17, 17, requires_grad=True)
    loss = TERMS['metric'](x, ids, known, 'sum')
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()
    far = (1e4*torch.randn(x.shape)).requires_grad_()
    TERMS['metric'](far, ids, known, 'sum').backward()
    assert far.grad.isfinite().all()

@pytest.mark.parametrize('junk', [math.nan, math.inf, 1e30])
def test_pieces_that_are_not_known_have_no_effect(junk):
    x, ids, known = pieces()
    def run(x, ids):
        x = x.clone().requires_grad_()
        loss = TERMS['metric'](x, ids, known, 'sum')
        loss.backward()
        return loss, x.grad
    clean, spoiled = run(x, ids), run(torch.where(known[:, None], x, junk), torch.where(known, ids, -1))
    for a, b in zip(clean, spoiled): assert torch.allclose(a, b)
    assert not clean[1].movedim(1, -1)[~known].any()
    assert TERMS['metric'](x*math.nan, ids, known & False, 'sum') == 0 and shares_alike(ids, known & False).isnan().all()

def test_images_of_pieces_add_up_to_the_batch():
    x, ids, known = pieces(channels=PIECES.channels)
    known[1] = False
    given, losses = [{PIECES.key: v} for v in (x, ids, known)], TaskLosses([PIECES])
    sums, counts = losses.per_image(*given)[PIECES.key]
    assert counts.tolist() == known.sum((1, 2)).tolist() and sums[1] == 0
    assert losses(*given)[PIECES.key].item() == pytest.approx((sums.sum()/counts.sum()).item(), rel=1e-5)
    alone = losses.per_image(*({k: v[2:] for k, v in d.items()} for d in given))[PIECES.key]
    assert alone[0].item() == pytest.approx(sums[2].item(), rel=1e-5) and TaskLosses('S', terms={'S': 'metric'})

def test_only_valid_keeps_what_is_valid():
    x, mask = torch.tensor([1., 2., 3.]), torch.tensor([True, False, True])
    assert only_valid(mask, x).tolist() == [1, 0, 3]
    assert only_valid(mask, x*torch.tensor([1, math.nan, 1])).tolist() == [1, 0, 3]
    assert only_valid(mask | True, x) is x

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda_gives_the_same():
    given, losses = batch(), TaskLosses(ALL, table())
    there = [{k: v.cuda() for k, v in d.items()} for d in given]
    a = losses(given[0], losses.normalise(given[1]), given[2])
    b = losses(there[0], losses.normalise(there[1]), there[2])
    assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()}, rel=1e-5)
