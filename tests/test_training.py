"Training: the same again, after an interruption, with missing labels, without finite losses, in every precision."
import math, warnings
from dataclasses import replace

import numpy as np, pandas as pd, pytest, torch

from its_a_match.batches import MemoryDataset, order
from its_a_match.checkpoints import load
from its_a_match.losses import TaskLosses
from its_a_match.models import get_model
from its_a_match.recipes import get_accelerator, make_optimizer
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import Task, get_tasks
from its_a_match.training import RECIPES, Callback, EqualWeights, Recipe, evaluate, fit, get_recipe

@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

class Plain(torch.nn.Module):
    "A network without BatchNorm; with dropout if `p`."
    tasks = ['S', 'D']
    def __init__(self, p=0., seed=0):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.body, self.S, self.D = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 18, 1), torch.nn.Conv2d(8, 1, 1)
        self.drop = torch.nn.Dropout(p)
    def forward(self, x):
        x = self.drop(self.body(x).tanh())
        return dict(S=self.S(x), D=self.D(x))

def data(n=64, seed=0, lacking=.3, size=8):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3, size, size), np.float32)
    s, mask = (x[:, 0]*3).astype(int) + 1, rng.random((n, 1, size, size)) > lacking*rng.random((n, 1, 1, 1))
    mask[::5] = False
    return MemoryDataset('SD', x, dict(S=s, D=x.mean(1, keepdims=True)), dict(D=mask))

train, valid, test = data(), data(21, 1), data(20, 2)
short = get_recipe('quick', batch=8, epochs=3)
paper = get_recipe('paper', batch=8, epochs=12, patience=4, lr=.05)

def rows(t): return t.history.drop(columns='seconds')
def weights(t): return t.net.state_dict()
def same(a, b):
    pd.testing.assert_frame_equal(rows(a), rows(b), check_exact=True)
    return all(torch.equal(v, weights(b)[k]) for k, v in weights(a).items())

class Stop(Exception): pass

class Cut(Callback):
    "Raises at a hook of a step."
    def __init__(self, step, hook='after_step', error=Stop): self.step, self.error = step, error; setattr(self, hook, self.check)
    def check(self, t):
        if t.step == self.step: raise self.error

class Log(Callback):
    "Remembers which hooks were called, and the losses of each step."
    def __init__(self): self.seen = []
    def state(self): return dict(seen=self.seen)
    def load(self, state): self.seen = state['seen']
for hook in ('before_fit', 'before_epoch', 'before_step', 'after_backward', 'after_step', 'after_epoch', 'after_save', 'after_fit'):
    setattr(Log, hook, lambda self, t, hook=hook: self.seen.append([hook, t.step]))

# the recipes

def test_paper_recipe():
    r = RECIPES['paper']
    assert (r.optimizer, r.lr, r.momentum, r.weight_decay, r.schedule, r.batch, r.share, r.reduce) == ('sgd', .2, .9, 1e-4, 'plateau', 64, .2, 'mean')

def test_plateau_halves_when_the_training_loss_stops_falling():
    "A network that cannot learn: nothing falls, and the rate is halved each time two epochs brought nothing."
    class Fixed(torch.nn.Module):
        tasks = ['D']
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.zeros(1))
        def forward(self, x): return dict(D=x[:, :1]*0 + self.w*0)
    same_view = MemoryDataset('D', np.full((8, 3, 4, 4), .5, np.float32), dict(D=np.arange(128.).reshape(8, 1, 4, 4)))
    t = fit(Fixed(), same_view, same_view, get_recipe('paper', batch=8, epochs=6, share=1, patience=None, flip=False), device='cpu')
    assert t.history.query("split == 'val'").lr.tolist() == [.2, .2, .2, .1, .1, .05]
    assert t.best_epoch == 1

# the same again

@pytest.mark.parametrize('recipe', [short, paper], ids=lambda r: r.name)
def test_same_seed_same_bits(recipe):
    torch.manual_seed(1); a = fit(Plain(.2), train, valid, recipe, test=test, device='cpu')
    torch.manual_seed(2); b = fit(Plain(.2), train, valid, recipe, test=test, device='cpu')
    c = fit(Plain(.2), train, valid, recipe, seed=1, test=test, device='cpu')
    assert same(a, b) and not rows(a).equals(rows(c))

def test_the_callers_random_numbers_stay():
    torch.manual_seed(7); before = torch.get_rng_state()
    fit(Plain(.5), train, valid, short, device='cpu')
    assert torch.equal(torch.get_rng_state(), before)

@pytest.mark.parametrize('recipe, cuts', [(short, [(3, 'after_step'), (8, 'after_step'), (13, 'after_backward'), (16, 'after_save'), (24, 'after_epoch')]),
                                          (paper, [(1, 'before_step'), (5, 'after_step'), (8, 'after_epoch')])], ids=['quick', 'paper'])
def test_interrupted_anywhere_ends_the_same(tmp_path, recipe, cuts):
    whole, log, keep = Log(), Log(), [] if recipe.patience else [.1, 1]  # a training that may end early has no stages
    a = fit(get_model('small', 'SD', seed=0), data(64, size=16), valid16, recipe, whole, test=valid16, keep=keep, device='cpu')
    for step, hook in cuts:
        with pytest.raises(Stop):
            fit(get_model('small', 'SD', seed=0), data(64, size=16), valid16, recipe, [Log(), Cut(step, hook)], test=valid16, keep=keep, folder=tmp_path, device='cpu')
    b = fit(get_model('small', 'SD', seed=0), data(64, size=16), valid16, recipe, log, test=valid16, keep=keep, folder=tmp_path, device='cpu')
    assert same(a, b)
    within = lambda log: [s for s in log.seen if s[0] not in ('before_fit', 'after_save')]  # these two are not part of an epoch
    assert within(log) == within(whole)
    assert a.missing.equals(b.missing) and a.best_epoch == b.best_epoch
    for f in a.kept: assert all(torch.equal(v, load(b.kept[f])[0][k]) for k, v in a.kept[f].items())

valid16 = data(16, 1, size=16)

def test_keyboard_interrupt_leaves_the_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt): fit(Plain(), train, valid, short, Cut(12, error=KeyboardInterrupt), folder=tmp_path, device='cpu')
    assert load(tmp_path/'checkpoint')[1]['history']['epoch'] == 1
    assert same(fit(Plain(), train, valid, short, folder=tmp_path, device='cpu'), fit(Plain(), train, valid, short, device='cpu'))

def test_a_finished_folder_returns_at_once(tmp_path):
    a = fit(Plain(), train, valid, short, folder=tmp_path, device='cpu')
    log = Cut(0, 'before_fit')
    b = fit(Plain(seed=3), train, valid, short, log, folder=tmp_path, device='cpu')
    assert same(a, b) and b.status == 'done'
    with pytest.raises(ValueError, match='no test losses'): b.losses_on('test')
    c = fit(Plain(seed=4), train, valid, short, log, folder=tmp_path, test=test, device='cpu')
    assert c.losses_on('test').equals(evaluate(c.net, test, c.statistics, batch=8))

@pytest.mark.parametrize('change, says', [(dict(seed=1), 'the seed .* is 0, not 1'), (dict(recipe=replace(short, lr=.1)), "the recipe's lr"), (dict(keep=[.5]), 'the keep'),
                                          (dict(train=data(56)), 'the views'), (dict(callbacks=Log()), 'without the callback Log'), (dict(statistics=data(9, 5).statistics()), 'other statistics')])
def test_a_folder_begun_otherwise_is_refused(tmp_path, change, says):
    arguments = dict(net=Plain(), train=train, valid=valid, recipe=short, folder=tmp_path, device='cpu')
    with pytest.raises(Stop): fit(**arguments, callbacks=Cut(9))
    with pytest.raises(ValueError, match=says): fit(**arguments | change)

def test_a_damaged_checkpoint_is_named(tmp_path):
    fit(Plain(), train, valid, short, folder=tmp_path, device='cpu')
    file = tmp_path/'checkpoint.safetensors'
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match='checkpoint.safetensors'): fit(Plain(), train, valid, short, folder=tmp_path, device='cpu')

# what a step does

def test_against_a_loop_by_hand():
    "Without BatchNorm, mirroring or a schedule: the same weights as a loop of ten lines gives."
    recipe = get_recipe('quick', batch=8, epochs=2, schedule='constant', flip=False, early=0)
    t = fit(Plain(), train, valid, recipe, device='cpu')
    net, losses = Plain().to(memory_format=torch.channels_last), TaskLosses('SD', train.statistics())
    optimizer = make_optimizer(recipe, net.parameters())
    for step in range(16):
        images, targets, masks = train.batch(order(64, 8, 0, step))
        found = losses(net(images), losses.normalise(targets), masks)
        (sum(found.values())/2).backward()
        optimizer.step(); optimizer.zero_grad()
    assert t.best_epoch == 2
    for k, v in net.state_dict().items(): torch.testing.assert_close(weights(t)[k], v, rtol=1e-5, atol=1e-6)

def test_epochs_passes_and_stages():
    recipe = get_recipe('quick', batch=8, epochs=5, share=.5, early=.25)
    t = fit(Plain(), train, valid, recipe, keep=[.1, 1/3, 1], device='cpu')
    assert t.per_pass == 8 and t.per_epoch == 4 and t.steps == 20 == t.step
    assert t.history.query("split == 'val'")['pass'].tolist() == [x for e in range(1, 6) for x in [e/2]*2]
    assert t.history.query("split == 'early'").step.tolist() == [2, 2]
    assert [*t.kept] == [.1, 1/3, 1] and t.marks == {.1: 2, 1/3: 7, 1: 20}
    assert [*t.history.columns] == ['epoch', 'step', 'pass', 'split', 'task', 'loss', 'lr', 'seconds']

def test_a_loss_below_zero_is_refused_by_a_geometric_mean():
    "As a log-likelihood may be: its task would silently learn nothing. The mean takes it."
    below = lambda output, target: (output - target)**2 - 9
    with pytest.raises(ValueError, match="task 'D': its loss went below zero, where a geometric mean"):
        fit(Plain(), data(), data(16, 1), Recipe(epochs=1, batch=16, reduce='geometric'), terms=dict(D=below), device='cpu')
    assert fit(Plain(), data(), data(16, 1), Recipe(epochs=1, batch=16), terms=dict(D=below), device='cpu').status == 'done'

def test_the_lowest_validation_loss_is_kept():
    t = fit(Plain(), train, valid, get_recipe(paper, lr=1.5, epochs=15, patience=3), device='cpu')
    mean = t.history.query("split == 'val'").groupby('epoch').loss.mean()
    assert t.best_epoch == mean.idxmin() and t.epoch == min(15, t.best_epoch + 3)
    assert mean.idxmin() < t.epoch, 'the example should get worse at its end'
    np.testing.assert_allclose(evaluate(t.net, valid, t.statistics, batch=8), t.losses_on('val'), rtol=1e-12)

def test_mean_and_sum():
    "With SGD the sum over two tasks is the mean at twice the rate."
    sgd = get_recipe('quick', optimizer='sgd', schedule='constant', lr=.02, weight_decay=0, batch=8, epochs=2)
    a, b = (fit(Plain(), train, valid, r, device='cpu') for r in (sgd, replace(sgd, reduce='sum', lr=.01)))
    np.testing.assert_allclose(rows(a).loss, rows(b).loss, rtol=1e-4)

def test_hooks_come_in_order():
    log = Log()
    fit(Plain(), train, valid, get_recipe(short, epochs=2, share=.25), log, device='cpu')
    step = lambda i: [['before_step', i], ['after_backward', i], ['after_step', i + 1]]
    epoch = lambda i: [['before_epoch', i], *step(i), *step(i + 1), ['after_epoch', i + 2], ['after_save', i + 2]]
    assert log.seen == [['before_fit', 0], *epoch(0), *epoch(2), ['after_fit', 4]]

def test_aside_leaves_no_trace():
    class Meddle(Callback):
        def meddle(self, t):
            with t.aside():
                t.net.eval()
                torch.rand(3)
                sum(t.forward(t.images, t.targets, t.masks).values()).backward()
                for p in t.net.parameters(): p.data.add_(1)
        before_step = after_backward = after_step = meddle
    net = lambda: get_model('small', 'SD', seed=0)
    assert same(fit(net(), data(32, size=16), valid16, short, Meddle(), device='cpu'), fit(net(), data(32, size=16), valid16, short, device='cpu'))

# labels that are not there

def test_batches_without_labels_are_passed_over():
    "Views 0 to 31 have no label at all; momentum and weight decay must not move the weights meanwhile."
    few = data(8)
    nothing = MemoryDataset('D', np.random.default_rng(0).random((64, 3, 8, 8), np.float32), dict(D=np.ones((64, 1, 8, 8), np.float32)), dict(D=np.zeros((64, 1, 8, 8), bool)))
    class Before(Callback):
        steps = 0
        def after_step(self, t): self.steps += 1
    count, net = Before(), Plain()
    net.tasks = ['D']
    t = fit(net, nothing, few, get_recipe(short, epochs=2), count, statistics=few.statistics(), device='cpu')
    assert count.steps == 0 and t.step == 16
    assert all(torch.equal(v, Plain().state_dict()[k]) for k, v in net.state_dict().items())
    assert t.missing.loc['D'].tolist() == [128, 128, 128*64]
    assert 'train' not in set(t.history.split) and t.status == 'done'
    net.tasks = ['D']
    t = fit(net, nothing, few, get_recipe(paper, epochs=2), statistics=few.statistics(), device='cpu')  # whose rate follows the training loss
    assert t.epoch == 2 and t.status == 'done'

def test_missing_labels_are_counted():
    t = fit(Plain(), train, valid, get_recipe(short, epochs=2), device='cpu')
    lacking = sum(int((~train.batch([i])[2]['D']).sum()) for i in range(64))
    assert t.missing.loc['D', ['images', 'without', 'pixels']].tolist() == [128, 2*13, 2*lacking]
    assert t.missing.loc['S'].tolist() == [128, 0, 0]

def test_a_task_without_labels_in_validation_is_named():
    none = MemoryDataset('SD', np.zeros((4, 3, 8, 8), np.float32), dict(S=np.zeros((4, 8, 8), int), D=np.zeros((4, 1, 8, 8), np.float32)))
    with pytest.raises(ValueError, match="task 'S': none of the validation views"): fit(Plain(), train, none, short, device='cpu')

# losses that are not finite

class Poison(Callback):
    "Makes a weight NaN at a step."
    def __init__(self, step): self.step = step
    def after_step(self, t):
        if t.step == self.step: t.net.D.weight.data.fill_(math.nan)

def test_diverged_after_a_good_epoch(tmp_path):
    t = fit(Plain(), train, valid, short, Poison(11), folder=tmp_path, test=test, device='cpu')
    assert t.status == 'diverged' and t.best_epoch == 1 and 'loss of D was not finite in epoch 2' in t.reason
    assert t.losses_on('val').isna().all() and t.losses_on('test').isna().all() and np.isfinite(t.history.loss).all()
    good = fit(Plain(), train, valid, short, device='cpu')
    assert t.history.query("split == 'val'").loss.tolist() == good.history.query("split == 'val' and epoch == 1").loss.tolist()
    np.testing.assert_allclose(evaluate(t.net, valid, t.statistics, batch=8), good.losses_on('val', 1), rtol=1e-12)
    again = fit(Plain(), train, valid, short, Cut(0, 'before_fit'), folder=tmp_path, device='cpu')
    assert again.status == 'diverged' and again.reason == t.reason and same(t, again)

@pytest.mark.parametrize('step', [1, 8])
def test_diverged_at_once(step):
    t = fit(Plain(), train, valid, short, Poison(step), device='cpu')
    assert t.status == 'diverged' and t.best_epoch == 0 and 'val' not in set(t.history.split)
    assert all(torch.equal(v, Plain().state_dict()[k]) for k, v in weights(t).items())

# precision and devices

def test_two_precisions_in_one_process():
    found = {p: fit(Plain(), train, valid, get_recipe(short, precision=p), device='cpu') for p in ('fp32', 'bf16')}
    again = fit(Plain(), train, valid, short, device='cpu')
    assert same(again, found['fp32']) and not rows(found['bf16']).equals(rows(again))
    np.testing.assert_allclose(found['bf16'].losses_on('val'), again.losses_on('val'), rtol=.1)
    assert all(p.dtype == torch.float32 for p in found['bf16'].net.parameters())

def test_bf16_resumes_exactly(tmp_path):
    r = get_recipe(short, precision='bf16')
    with pytest.raises(Stop): fit(Plain(), train, valid, r, Cut(13), folder=tmp_path, device='cpu')
    assert same(fit(Plain(), train, valid, r, folder=tmp_path, device='cpu'), fit(Plain(), train, valid, r, device='cpu'))

def test_fp16_needs_a_gpu():
    with pytest.raises(ValueError, match='fp16 needs a GPU'): fit(Plain(), train, valid, get_recipe(short, precision='fp16'), device='cpu')

def test_the_network_stays_what_it_was():
    net = Plain()
    forward, names = type(net).forward, [n for n, _ in net.named_parameters()]
    t = fit(net, train, valid, get_recipe(short, precision='bf16', epochs=1), device='cpu')
    assert t.net is net and 'forward' not in vars(net) and [n for n, _ in net.named_parameters()] == names and type(net).forward is forward

def test_compile_wraps_what_is_trained_and_not_the_network(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, 'compile', lambda m: seen.append(m) or m)
    t = fit(Plain(), train, valid, get_recipe(short, compile=True), device='cpu')
    assert [m.net for m in seen] == [t.net] and same(t, fit(Plain(), train, valid, short, device='cpu'))

def test_a_given_accelerator():
    a = get_accelerator('bf16', 'cpu')
    assert fit(Plain(), train, valid, get_recipe(short, precision='bf16', epochs=1), accelerator=a).status == 'done'
    with pytest.raises(ValueError, match="trains in fp32, and the accelerator's precision is 'bf16'"): fit(Plain(), train, valid, short, accelerator=a)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('held', ['cpu', 'cuda'])
def test_on_a_gpu(precision, held, tmp_path):
    r = get_recipe(short, precision=precision)
    with pytest.raises(Stop): fit(Plain(), train.to(held), valid, r, Cut(13), folder=tmp_path, device='cuda')
    t, cpu = fit(Plain(), train.to(held), valid, r, folder=tmp_path, device='cuda'), fit(Plain(), train, valid, short, device='cpu')
    assert t.status == 'done' and t.device.type == 'cuda' and t.missing.equals(cpu.missing)
    np.testing.assert_allclose(t.losses_on('val'), cpu.losses_on('val'), rtol=.1)

# callbacks, balancing, data

def test_a_balancing_decides_the_gradient():
    class First(EqualWeights):
        name = 'first'
        def backward(self, t): t.accelerator.backward(t.losses['S'] + 0*t.losses['D'])
    net = Plain()
    t = fit(net, train, valid, get_recipe(short, weight_decay=0), balancing=First(), device='cpu')
    assert torch.equal(weights(t)['D.weight'], Plain().state_dict()['D.weight'])
    assert not torch.equal(weights(t)['S.weight'], Plain().state_dict()['S.weight'])

def test_injected_label():
    net = lambda: get_model('small', 'S', injected='D', seed=0)
    a = fit(net(), data(32, size=16), valid16, short, device='cpu')
    assert a.keys == ['S'] and a.status == 'done'
    np.testing.assert_allclose(evaluate(a.net, valid16, a.statistics, batch=8).S, a.losses_on('val').S)

def test_from_files(tiny_rooms, tmp_path):
    "Views that are read from files while training give what they give from memory."
    from its_a_match.batches import in_memory
    files = {s: TaskonomyDataset(tiny_rooms, s, tasks='SDN', size=16) for s in ('train', 'val')}
    memory = {s: in_memory(d) for s, d in files.items()}
    r = get_recipe(short, epochs=1)
    found = [fit(get_model('small', 'SN', seed=0), d['train'], d['val'], r, device='cpu', statistics=files['train'].statistics()) for d in (files, memory)]
    assert same(*found) and found[0].keys == ['S', 'N']

@pytest.mark.parametrize('arguments, says', [(dict(seed=-1), 'the seed is -1'), (dict(keep=[1.5]), 'the stage 1.5'), (dict(keep=[.5], recipe=paper), 'may end early'), (dict(recipe='fast'), "recipe 'fast'"),
                                             (dict(recipe=Recipe(batch=65)), 'a batch of 65'), (dict(net=get_model('small', 'N', seed=0)), "task 'N': the network needs")])
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says): fit(**dict(net=Plain(), train=train, valid=valid, recipe=short, device='cpu') | arguments)

def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fit(Plain(), train, valid, short, test=test, device='cpu')


def test_a_network_that_names_its_tasks_in_another_order():
    "Losses are those of their tasks, in the order of the columns."
    flow, depth = Task('flow'), *get_tasks('D')
    class Plain(torch.nn.Module):
        tasks = 'flow', 'D'
        def __init__(self): super().__init__(); self.conv = torch.nn.Conv2d(3, 2, 1)
        def forward(self, x): out = self.conv(x); return {'flow': out[:, :1], 'D': out[:, 1:]}
    images = torch.rand(8, 3, 8, 8)
    ds = MemoryDataset([flow, depth], images, {'flow': images[:, :1].clone(), 'D': (torch.rand(8, 1, 8, 8) > .9).float()})
    t = fit(Plain(), ds, ds, get_recipe('quick', epochs=1, batch=4), device='cpu')
    assert t.keys == ['D', 'flow']
    images, targets, masks = ds.batch(range(8))
    with torch.no_grad(): outputs = t.net(images)
    for k in ('D', 'flow'):
        mean, std = t.statistics.loc[(k, 0), ['mean', 'std']]
        loss = float((outputs[k] - (targets[k] - mean)/std).abs().mean())
        assert t.losses_on('val')[k] == pytest.approx(loss, rel=1e-4) and evaluate(t.net, ds, t.statistics)[k] == pytest.approx(loss, rel=1e-4)
