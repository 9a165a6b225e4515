"A user's own data: plain data sets of items, inputs that are no colour images, labels that are missing; from training to scores."
import math

import numpy as np, pandas as pd, pytest, torch
from torch import nn

from its_a_match import benchmark
from its_a_match.affinity import GradientProbe, score_run
from its_a_match.archive import fingerprint, states
from its_a_match.assignment import load_network, open_data
from its_a_match.batches import flip, inject, prepare
from its_a_match.campaign import collect, plan, run
from its_a_match.items import ItemDataset, as_dataset
from its_a_match.memory import MemoryDataset, in_memory
from its_a_match.models import build, get_model
from its_a_match.recipes import get_recipe
from its_a_match.tasks import Task

KIND, SUM, COPY = (Task('kind', kind='classes', channels=3, per_image=True), Task('sum', kind='number'), Task('copy', kind='number', channels=2))
TASKS = KIND, SUM, COPY
SHAPES = dict(vectors=(6,), images=(1, 8, 8))
TABLES = ['IAS', 'RSA', 'CKA', 'LI', 'TA', 'GS', 'GT']
RECIPE = get_recipe('quick', epochs=2, batch=16, flip=False)

class Items(torch.utils.data.Dataset):
    "Random inputs far from 0..1; which of three kinds, known for two of three, its sum and two of its numbers, not known for the last items."
    def __init__(self, shape, n, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.inputs, self.read = 5*torch.randn(n, *shape, generator=draw) - 2, []
    def __len__(self): return len(self.inputs)
    def __getitem__(self, i):
        x = self.inputs[i]
        self.read.append(i)
        labels = dict(kind=None if i % 3 == 1 else int(x.flatten()[0] > 0) + int(x.flatten()[1] > 0), sum=x.sum())
        if i < len(self) - 4: labels['copy'] = x.flatten()[2:4].numpy()
        return x, labels

def splits(shape): return {s: Items(shape, n, i) for i, (s, n) in enumerate(dict(train=48, val=20, test=24).items())}

def encoder(size=1, channels=1):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, round(8*size), 3, 2, 1), nn.ReLU())

def perceptron(size=1, channels=1): return nn.Sequential(nn.Linear(channels, round(16*size)), nn.ReLU(), nn.Linear(round(16*size), 8), nn.Tanh())

def model_for(shape):
    def model(tasks, size=1, injected=None):
        return build(perceptron if len(shape) == 1 else encoder, tasks, size, injected, channels=shape[0], side=shape[1:] or None)
    return model

def refused(call, *parts):
    with pytest.raises(ValueError) as e: call()
    assert '\n' not in str(e.value)
    for p in parts: assert p in str(e.value)


# ---------------------------------------------------------------- items

def item(label, task=KIND, x=torch.zeros(4)): return ItemDataset([(x, label)], [task]).batch([0])

@pytest.mark.parametrize('label', [{}, {'kind': None}, {'kind': math.nan}, {'kind': np.float32('nan')}, {'kind': torch.tensor(torch.nan)}, {'kind': pd.NA}])
def test_a_class_can_be_missing_in_any_way(label):
    _, targets, masks = item(label)
    assert targets['kind'].tolist() == [0] and masks['kind'].tolist() == [False]

@pytest.mark.parametrize('label', [2, 2., np.int16(2), np.float64(2), torch.tensor(2), torch.tensor(2.)])
def test_a_class_can_be_any_whole_number(label):
    _, targets, masks = item({'kind': label})
    assert targets['kind'].tolist() == [2] and targets['kind'].dtype == torch.int64 and masks['kind'].tolist() == [True]

@pytest.mark.parametrize('label, known', [([1, 2], True), ((1., 2.), True), (torch.tensor([1., 2.]), True), (np.array([1, 2]), True),
                                          ([1, math.nan], False), (None, False), (math.nan, False)])
def test_numbers(label, known):
    _, targets, masks = item({'copy': label}, COPY)
    assert targets['copy'].tolist() == [[1, 2] if known else [0, 0]] and targets['copy'].dtype == torch.float32 and masks['copy'].tolist() == [[known]]

def test_a_number_may_stand_alone():
    assert [item({'sum': x}, SUM)[1]['sum'].tolist() for x in (3, 3., [3.], torch.tensor(3.), np.float32(3))] == [[[3.]]]*5

def test_the_count_for_no_label():
    task = Task('kind', kind='classes', channels=3, per_image=True, invalid=0)
    assert [item({'kind': i}, task)[2]['kind'].item() for i in range(3)] == [False, True, True]

def test_labels_of_pixels():
    dense, ids = Task('dense', channels=2), Task('ids', kind='classes', channels=4)
    x, where = torch.rand(2, 5, 4), np.where(np.eye(5, 4) > 0, math.nan, 3.)
    y = torch.where(torch.eye(5, 4) > 0, torch.nan, x)
    _, targets, masks = ItemDataset([(x, dict(dense=y, ids=where))], [dense, ids]).batch([0])
    assert torch.equal(masks['dense'][0, 0], torch.eye(5, 4) == 0) and torch.equal(masks['ids'][0], torch.eye(5, 4) == 0)
    assert torch.equal(targets['dense'][0], torch.nan_to_num(y)) and targets['ids'].unique().tolist() == [0, 3]
    one = ItemDataset([(x, dict(edge=x[0])), (x, {})], [Task('edge')]).batch([0, 1])
    assert torch.equal(one[1]['edge'][0, 0], x[0]) and one[2]['edge'].flatten(1).any(1).tolist() == [True, False]

@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_items_are_the_same_in_memory(shape):
    items = ItemDataset(Items(shape, 40), TASKS)
    held  = in_memory(items)
    for rows in ([3, 39, 3], slice(5, 38), np.array([-1])):
        a, b = items.batch(rows), held.batch(rows)
        assert torch.equal(a[0], b[0]) and all(torch.equal(x[k], y[k]) for x, y in zip(a[1:], b[1:]) for k in x)
    assert items.statistics().equals(held.statistics()) and held.tasks == TASKS
    assert torch.equal(held.batch(slice(None))[0], items.dataset.inputs)

def test_counts_of_images_are_divided_as_in_files():
    grey = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    items = [(x, {'sum': 1.}) for x in grey.numpy()]
    images = ItemDataset(items, [SUM]).batch(range(4))[0]
    assert images.dtype == torch.float32 and torch.equal(images, grey.float()*(1/255)) and torch.equal(in_memory(ItemDataset(items, [SUM])).batch(range(4))[0], images)

@pytest.mark.parametrize('items, parts', [
    ([(torch.zeros(4), {'kind': 3})], ["task 'kind': row 0 holds the class 3, which is not from 0 to 2", 'leave it out']),
    ([(torch.zeros(4), {}), (torch.zeros(4), {'kind': -1})], ["task 'kind': row 1 holds the class -1"]),
    ([(torch.zeros(4), {'kind': .5})], ["task 'kind': row 0 has the class 0.5, which is no whole number"]),
    ([(torch.zeros(4), {'kind': 'seven'})], ["task 'kind': row 0 has the class 'seven', which is no number"]),
    ([(torch.zeros(4), {'kind': [1]})], ["task 'kind': row 0 has a label of the shape (1,), not ()"]),
    ([(torch.zeros(4), {'copy': 1.})], ["task 'copy': row 0 has a label of the shape (), not (2,)"]),
    ([(torch.zeros(4), {'copy': [1., math.inf]})], ["task 'copy': row 0 has an infinity"]),
    ([(torch.zeros(4), {'sum': 'many'})], ["task 'sum': row 0", "'many'"]),
    ([(torch.zeros(4), {}), (torch.zeros(5), {})], ['row 1: its input has the shape (5,), and that of row 0 is (4,)']),
    ([(torch.zeros(4), {}), (torch.tensor([1, 2, math.nan, 4]), {})], ['vectors: row 1 holds nan']),
    ([(torch.zeros(4).long(), {})], ['vectors: their type is torch.int64']),
    ([(torch.zeros(4, 4), {})], ['row 0: its input has the shape (4, 4), neither']), ([(torch.zeros(9, 9, 3), {})], ['row 0', '(9, 9, 3)']),
    ([torch.zeros(4)], ['row 0: it is Tensor, not (input, {key of a task: label})']), ([(torch.zeros(4), 3)], ['row 0: it is (Tensor, int)']),
    ([(torch.zeros(4), {}, {})], ['row 0: it is (Tensor, dict, dict)']), ([], ['empty']), (iter([]), ['length and items'])])
def test_items_that_are_none(items, parts): refused(lambda: ItemDataset(items, TASKS).batch(slice(None)), *parts)

def test_tasks_have_to_be_known_and_to_agree():
    held = in_memory(ItemDataset(Items((6,), 20), TASKS))
    assert as_dataset(held) is held and as_dataset(held, TASKS[1:]) is held
    refused(lambda: as_dataset(Items((6,), 20)), 'Items', 'tasks=[Task(...), ...]')
    refused(lambda: as_dataset(held, 'D'), "task 'D': the data has no labels for it")
    refused(lambda: as_dataset(held, Task('sum', kind='number', normalise='none')), "task 'sum': the data has another one of this name")
    refused(lambda: ItemDataset(Items((6,), 20), Task('depth')), "task 'depth': its labels are of pixels, and vectors have none")


# ---------------------------------------------------------------- arrays

def test_any_channels_any_finite_numbers():
    for x in (7*torch.randn(5, 2, 4, 6), 7*torch.randn(5, 9)):
        data = MemoryDataset(SUM, x, dict(sum=torch.rand(5, 1)))
        assert torch.equal(data.batch([4, 0])[0], x[[4, 0]]) and data[2][0].shape == x.shape[1:]

@pytest.mark.parametrize('x, said', [
    (torch.full((2, 3, 4, 4), 1.5), 'images: row 0 holds 1.5, which is not from 0 to 1'), (torch.full((2, 1, 4, 4), math.inf), 'images: row 0 holds inf, which is not a finite'),
    (torch.zeros(2, 4).byte(), 'vectors: their type is torch.uint8, not floating'), (torch.zeros(2, 1, 4, 4).int(), 'images: their type is torch.int32'),
    (torch.zeros(2, 9, 9, 3), 'transpose(0, 3, 1, 2)'), (torch.zeros(2, 4, 4), 'is not (N, C, H, W), nor are they vectors (N, F)'), (torch.zeros(2, 0), 'nothing in the shape')])
def test_inputs_that_are_none(x, said): refused(lambda: MemoryDataset(SUM, x, dict(sum=torch.zeros(2, 1))), said)

@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_labels_become_further_numbers(shape):
    x, targets, masks = in_memory(ItemDataset(Items(shape, 20), TASKS)).batch(range(17, 20))  # 17 and 18 have a kind, all lack a copy
    kind, copy = (inject(x, targets, masks, t) for t in (KIND, COPY))
    assert torch.equal(kind[:, :shape[0]], x) and torch.equal(copy[:, :shape[0]], x) and not copy[:, shape[0]:].any()
    whole = torch.nn.functional.one_hot(targets['kind'], 3)*masks['kind'][:, None]
    assert torch.equal(kind[:, shape[0]:], whole.float().view(3, 3, *[1]*(len(shape) - 1)).expand(-1, -1, *shape[1:])) and masks['kind'].tolist() == [True, True, False]

def test_vectors_are_not_mirrored():
    batch = in_memory(ItemDataset(Items((6,), 4), TASKS)).batch(range(4))
    for call in (lambda: flip(*batch, torch.ones(4).bool(), TASKS), lambda: prepare(batch, TASKS, chosen=torch.zeros(4).bool())): refused(call, 'flip=False')
    assert torch.equal(prepare(batch, TASKS)[0], batch[0])


# ---------------------------------------------------------------- networks

def test_colour_images_are_as_before():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=draw).byte()
    data = MemoryDataset('D', images, dict(D=torch.rand(4, 1, 32, 32, generator=draw)))
    x, targets, masks = data.batch(range(4))
    assert torch.equal(x, images*torch.tensor(1/255)) and x.is_contiguous(memory_format=torch.channels_last) and data._images.dtype == torch.uint8
    assert fingerprint(data)['image'] == PINNED
    net = get_model('small', 'D', injected=KIND, seed=0).eval()
    assert list(net.state_dict())[:2] == ['mean', 'std'] and net.mean.shape == (1, 1, 1, 1) and net.channels == 6
    more = torch.cat([x, torch.zeros(4, 3, 32, 32)], 1)
    assert torch.equal(net.encode(more), net.encoder(torch.cat([(x - .5)/.5, more[:, 3:]], 1)))

PINNED = 'a10ff97f2d4c9891'  # of the version before other inputs

def test_a_network_for_vectors_begins_alike_with_a_label():
    a, b = (get_model(model_for((6,)), [SUM], injected=i, seed=0) for i in (None, KIND))
    assert torch.equal(a.encoder[0].weight, b.encoder[0].weight[:, :6]) and b.encoder[0].weight.shape == (16, 9)
    x = torch.randn(3, 6)
    assert torch.equal(a.encode(x), a.encoder(x))  # vectors are taken as they are
    b.encoder[0].weight.data[:, 6:] = 0
    assert torch.allclose(a(x)['sum'], b(torch.cat([x, torch.ones(3, 3)], 1))['sum'])

def test_own_mean_and_deviation():
    net = build(perceptron, [SUM], channels=3, side=None, mean=[1, 2, 3], std=2)
    x = torch.rand(4, 3)
    assert torch.equal(net.encode(x), net.encoder((x - torch.tensor([1., 2, 3]))/2))
    refused(lambda: build(perceptron, [SUM], channels=3, side=None, mean=[1, 2]), 'mean has 2 numbers, not 1 or 3')

def test_a_code_without_pixels():
    flat = lambda size, channels: nn.Sequential(nn.Flatten(), nn.Linear(channels*64, 5))
    net = build(flat, TASKS, channels=1, side=8)
    assert {k: tuple(v.shape) for k, v in net(torch.rand(2, 1, 8, 8)).items()} == dict(kind=(2, 3), sum=(2, 1), copy=(2, 2))
    refused(lambda: build(flat, [Task('depth')], channels=1, side=8), "task 'depth': its labels are of pixels, and the encoder gives a vector of 5 numbers")

def test_pixels_of_one_channel_are_decoded():
    net = build(encoder, [Task('depth'), KIND], channels=1, side=(8, 12))
    assert {k: tuple(v.shape) for k, v in net(torch.rand(2, 1, 8, 12)).items()} == dict(depth=(2, 1, 8, 12), kind=(2, 3))


# ---------------------------------------------------------------- campaigns

@pytest.fixture(scope='module', params=SHAPES)
def campaign(request, tmp_path_factory):
    "A folder of all networks of three tasks, and of labels injected; their data and model."
    shape, out = SHAPES[request.param], tmp_path_factory.mktemp(request.param)
    data, model = splits(shape), model_for(shape)
    run(plan(TASKS, sizes=1, orders=(1, 2), injections=True), data, out, probes={'gradients': GradientProbe}, model=model, recipe=RECIPE, tasks=TASKS, processes=1,
        progress=False, device='cpu')
    return out, data, model, shape

def test_all_networks_are_trained(campaign):
    out, data, model, shape = campaign
    table = collect(out)
    assert (states(out).status == 'done').all() and len(table.loc[('test', 0)]) == 3 + 3 + 6
    solved = table.loc[('test', 0)]
    assert solved.loc['kind+sum', ['kind', 'sum']].notna().all() and np.isnan(solved.loc['kind+sum', 'copy']) and (solved.min() > 0).all()
    assert all(sorted(d.read) == [0, 0, *range(len(d))] for d in data.values())  # each item once, and the first for its shape and its size

def test_missing_labels_are_counted(campaign):
    out, *_ = campaign
    rows = pd.read_csv(out/'networks'/'kind+copy'/'seed-0'/'missing.csv').set_index('task')
    assert rows.images.tolist() == [2*48]*2 and rows.without.to_dict() == dict(kind=2*16, copy=2*4)  # in two epochs

def test_losses_are_those_of_known_labels(campaign):
    out, data, model, shape = campaign
    net, test = load_network(out, 'kind', model=model), data['test']
    known = [i for i in range(24) if i % 3 != 1]
    with torch.no_grad(): logits = net(test.inputs[known])['kind']
    want = torch.nn.functional.cross_entropy(logits, torch.tensor([test[i][1]['kind'] for i in known]))
    assert collect(out).loc[('test', 0, 'kind'), 'kind'] == pytest.approx(want.item(), rel=1e-4)

def test_every_score_that_asks_for_no_tree(campaign):
    out, data, model, shape = campaign
    scored = score_run(out, data=data, model=model, device='cpu')
    assert list(scored.lacking) == ['TD'] and scored.lacking['TD'].startswith("TD: task 'kind': it is not in the tree")
    for name in TABLES:
        table = scored[name]
        assert list(table) == ['kind', 'sum', 'copy'] and table.notna().to_numpy().sum() == 6, name
    tree = pd.DataFrame([('top', 'kind', 1.), ('top', 'sum', 1.), ('top', 'copy', 2.)], columns=['from', 'to', 'length'])
    assert score_run(out, 'TD', data=data, model=model, options={'TD': dict(tree=tree)})['TD'].loc['kind', 'copy'] == -3

def test_the_same_call_goes_on(campaign, tmp_path):
    out, data, model, shape = campaign
    how  = dict(probes={'gradients': GradientProbe}, model=model, recipe=RECIPE, tasks=TASKS, processes=1, progress=False, device='cpu')
    path = out/'networks'/'sum'/'seed-0'/'network.json'
    before, made = path.read_bytes(), path.stat().st_mtime_ns
    table = run(plan(TASKS, sizes=1, orders=1), data, out, **how)
    assert path.stat().st_mtime_ns == made and path.read_bytes() == before
    again = run(plan(TASKS, sizes=1, orders=1), data, tmp_path/'again', **how)
    pd.testing.assert_frame_equal(again, table.loc[again.index], rtol=1e-5)
    refused(lambda: run(plan(TASKS, sizes=1, orders=1), {s: Items(shape, len(d), 9) for s, d in data.items()}, out, **how), 'this folder was made otherwise', 'data.')
    refused(lambda: score_run(out, 'RSA', data={'test': Items(shape, 24, 9)}, model=model)['RSA'], 'tested on other data')

def test_data_in_memory_and_items_are_one(campaign):
    out, data, model, shape = campaign
    held = open_data({s: Items(shape, len(d), i) for i, (s, d) in enumerate(data.items())}, tasks=TASKS)
    assert all(isinstance(d, MemoryDataset) for d in held.values())
    lazy = open_data(data, memory=False, tasks=TASKS)
    assert all(isinstance(d, ItemDataset) for d in lazy.values()) and all(fingerprint(lazy[s]) == fingerprint(held[s]) for s in held)
    assert len(run(plan(TASKS, sizes=1, orders=1), held, out, model=model, recipe=RECIPE, processes=1, progress=False)) > 0


# ---------------------------------------------------------------- what cannot be

@pytest.fixture
def start(tmp_path):
    "Begins a campaign on vectors, or what is given."
    def begin(data=None, tasks=TASKS, model=model_for((6,)), recipe=RECIPE, **how):
        return run(plan(TASKS, sizes=1, orders=1), data or splits((6,)), tmp_path/'out', model=model, recipe=recipe, tasks=tasks, processes=1, progress=False, **how)
    yield begin
    assert not (tmp_path/'out'/'networks').exists()  # nothing was trained before it was refused

class Without(Items):
    "All items lack a label, or it is always the same."
    def __init__(self, key, n=20, value=None): super().__init__((6,), n); self.key, self.value = key, value
    def __getitem__(self, i):
        x, labels = super().__getitem__(i)
        return x, {k: v for k, v in labels.items() if k != self.key} | ({} if self.value is None else {self.key: self.value})

def test_campaigns_that_cannot_be(start):
    good = splits((6,))
    refused(lambda: start(tasks=None), "split 'train': Items", 'tasks=[Task(...), ...]')
    refused(lambda: start(dict(train=good['train'])), "the data has no split 'val'")
    refused(lambda: start(good | dict(val=Without('kind'))), "split 'val': task 'kind': none of the 20 items has a label for it; the labels of the first are 'sum', 'copy'")
    refused(lambda: start(recipe=get_recipe('quick', batch=16)), "recipe 'quick': it mirrors images, and the inputs are vectors of 6 numbers; take flip=False")
    refused(lambda: start(size=64), 'size and leave_out are for a folder')
    refused(lambda: start(tasks=TASKS[:2]), "task 'copy' of the plan: the data has no labels for it")
    refused(lambda: start(model='wide'), "model 'wide': it takes inputs of 3 channels, and the data has 6")

def test_labels_that_are_all_the_same_leave_the_folder_free(tmp_path):
    data, how = splits((6,)) | dict(train=Without('sum', 48, 2.)), dict(model=model_for((6,)), recipe=RECIPE, processes=1, progress=False)
    networks  = plan(TASKS[:2], sizes=1, orders=1)
    refused(lambda: run(networks, data, tmp_path, tasks=TASKS[:2], **how), "task 'sum': labels of mean 2 and standard deviation 0", "normalise='none'")
    assert run(networks, data, tmp_path, tasks=(KIND, Task('sum', kind='number', normalise='none')), **how).loc[('test', 0)].shape == (2, 3)

def test_terms_are_for_the_networks_that_have_the_task(tmp_path):
    how = dict(model=model_for((6,)), recipe=RECIPE, tasks=TASKS, processes=1, progress=False)
    refused(lambda: run(plan(TASKS, sizes=1, orders=1), splits((6,)), tmp_path, terms=dict(summ='l2'), **how), "task 'summ': it has a term")
    table = run(plan(TASKS, sizes=1, orders=1), splits((6,)), tmp_path, terms=dict(sum='l2'), **how)
    assert len(table.loc[('test', 0)]) == 3

def test_options_that_are_lists_are_kept(tmp_path):
    from its_a_match.assignment import EncoderModel
    how = dict(model=EncoderModel(perceptron, (6,)), recipe=RECIPE, tasks=TASKS, processes=1, progress=False, options=dict(mean=[1, 2, 3, 4, 5, 6.], std=2))
    run(plan(TASKS, sizes=1, orders=1), splits((6,)), tmp_path, **how)
    assert load_network(tmp_path, 'sum', model=how['model']).mean.flatten().tolist() == [1, 2, 3, 4, 5, 6]

@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_one_call(shape, tmp_path):
    "From items to a recommendation, and from there on."
    made = perceptron if len(shape) == 1 else encoder
    how  = dict(tasks=TASKS[:2], encoder=made, recipe=RECIPE, seeds=[0], scores='RSA', processes=1, device='cpu', report=False, progress=False, say=lambda sentence: None)
    results = benchmark(splits(shape), tmp_path, **how)
    assert results.keys == ['kind', 'sum'] and list(results.recommend().budget) and results.setup['data']['shape'] == list(shape)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('network.json')}
    assert len(before) == 3 and str(benchmark(splits(shape), tmp_path, **how)) == str(results)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('network.json')}
