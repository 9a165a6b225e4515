"Tasks whose label is the image: the same bytes every time, what is taken away and where that counts, and joining labels of the same views."
import numpy as np, pytest, torch

from its_a_match.losses import TaskLosses
from its_a_match.memory import MemoryDataset, Part, part_of
from its_a_match.self_supervision import NOISE, self_supervised
from its_a_match.tasks import SELF_SUPERVISED, Task, get_tasks

NAMES = [t.name for t in SELF_SUPERVISED]

def views(n=40, size=12, channels=3, seed=0):
    "Random images with depths, in memory; more than are altered at once."
    rng = np.random.default_rng(seed)
    return MemoryDataset('D', rng.integers(0, 256, (n, channels, size, size + 4)).astype(np.uint8), {'D': rng.uniform(1, 5, (n, 1, size, size + 4)).astype(np.float32)})

def everything(data):
    "Image, label and mask of all views."
    images, targets, masks = data.batch(range(len(data)))
    (key,) = targets
    return images, targets[key], masks[key]

class Lazy(torch.utils.data.Dataset):
    "The same views, not in memory."
    def __init__(self, data): self.data, self.tasks = data, data.tasks
    def __len__(self): return len(self.data)
    def batch(self, indices): return self.data.batch(indices)

@pytest.mark.parametrize('name', NAMES)
def test_the_same_every_time_and_whatever_holds_the_views(name):
    data = views()
    made = self_supervised(data, name)
    assert [t.name for t in made.tasks] == [name] and len(made) == 40
    for other in (self_supervised(data, get_tasks(name)[0]), self_supervised(Lazy(data), name)):
        for a, b in zip(everything(made), everything(other)): assert torch.equal(a, b)

def test_noise():
    data = views()
    (clean, *_), (noisy, label, mask), (other, same, _) = everything(data), *(everything(self_supervised(data, 'denoising', s)) for s in (0, 1))
    assert torch.equal(label, clean) and torch.equal(same, label) and mask.all()
    inside = (clean > .35) & (clean < .65)
    for x in (noisy, other):
        assert 0 <= x.min() and x.max() <= 1
        assert (x - clean)[inside].std().item() == pytest.approx(NOISE, rel=.05) and abs((x - clean)[inside].mean().item()) < .005
    assert abs(np.corrcoef((noisy - clean)[inside], (other - clean)[inside])[0, 1]) < .05
    part = everything(self_supervised(data.some(range(5)), 'denoising'))
    assert torch.equal(part[0], noisy[:5])  # the noise is that of the view's number, not of the set

def test_only_noise_depends_on_the_seed():
    data = views(6)
    for name in NAMES:
        same = all(torch.equal(a, b) for a, b in zip(everything(self_supervised(data, name, 0)), everything(self_supervised(data, name, 7))))
        assert same == (name != 'denoising')

def test_the_hole():
    data = views(3, 16)
    clean, (given, label, mask) = everything(data)[0], everything(self_supervised(data, 'inpainting'))
    hole = torch.zeros(16, 20, dtype=torch.bool)
    hole[4:12, 5:15] = True
    assert torch.equal(mask, hole.expand(3, 1, 16, 20)) and torch.equal(label, clean*mask)  # a label that does not count is 0
    assert torch.equal(given[..., ~hole], clean[..., ~hole]) and given[..., hole].unique().numel() == 1 and abs(given[..., hole] - .5).max() < .003
    outside = torch.where(mask, 0., 9.) + label
    assert TaskLosses('inpainting')({'inpainting': outside}, {'inpainting': label}, {'inpainting': mask})['inpainting'] == 0

def test_colours_are_taken_away():
    data = views()
    clean, (given, label, mask) = everything(data)[0], everything(self_supervised(data, 'colorization'))
    assert label.shape == (40, 2, 12, 16) and mask.all()
    assert torch.equal(given[:, 0], given[:, 1]) and torch.equal(given[:, 0], given[:, 2])
    from skimage.color import lab2rgb
    again = lab2rgb(np.concatenate([100*given[:, :1].numpy(), label.numpy()], 1), channel_axis=1)
    assert abs(again - clean.numpy()).max() < .02  # nothing but the rounding to counts is lost
    grey = MemoryDataset('D', np.full((2, 3, 4, 4), 90, np.uint8), {'D': np.ones((2, 1, 4, 4), np.float32)})
    assert abs(everything(self_supervised(grey, 'colorization'))[1]).max() < .01

def test_autoencoding_gives_the_image_back():
    given, label, mask = everything(self_supervised(views(), 'autoencoding'))
    assert torch.equal(given, label) and mask.all()

@pytest.mark.parametrize('task', ['depth_zbuffer', 'D', 'jigsaw', Task('mine'), get_tasks('reshading')[0]])
def test_other_tasks_are_refused(task):
    with pytest.raises(ValueError, match='its label is not the image; choose autoencoding, denoising, inpainting, colorization'): self_supervised(views(2), task)

@pytest.mark.parametrize('name', NAMES)
def test_images_without_colours_are_refused(name):
    with pytest.raises(ValueError, match=rf'task {name!r}: it takes colour images \(B, 3, H, W\), and the data has \(2, 1, 12, 16\)'): self_supervised(views(2, channels=1), name)

# joining and parts

def test_labels_of_the_same_views_are_joined():
    data = views()
    images = everything(data)[0]
    both = data.also(self_supervised(data, 'colorization'))
    assert [t.key for t in both.tasks] == ['D', 'colorization'] and [t.key for t in data.tasks] == ['D']
    x, targets, masks = both.batch([3, 39])
    assert torch.equal(x, images[[3, 39]]) and list(targets) == list(masks) == ['D', 'colorization']
    assert torch.equal(targets['D'], data.batch([3, 39])[1]['D'])
    assert torch.equal(targets['colorization'], everything(self_supervised(data, 'colorization'))[1][[3, 39]])
    assert [t.key for t in self_supervised(data, 'inpainting').also(data).tasks] == ['D', 'inpainting']  # Taskonomy's come first
    assert set(both.statistics().index) == {('D', 0), ('colorization', 0), ('colorization', 1)}
    assert [t.key for t in both.some([1, 2]).only('colorization').tasks] == ['colorization']

def test_what_cannot_be_joined():
    data = views()
    extra = self_supervised(data, 'autoencoding')
    with pytest.raises(ValueError, match=r'39 views of \(12, 16\) cannot be those of 40 views of \(12, 16\)'): data.also(self_supervised(views(39), 'autoencoding'))
    with pytest.raises(ValueError, match=r'40 views of \(8, 12\) cannot be those of 40 views'): data.also(self_supervised(views(40, 8), 'autoencoding'))
    with pytest.raises(ValueError, match="task 'D': both data sets have labels of it"): data.also(views())
    for a, b in ((data.some(range(40)[::-1]), extra), (data, extra.some(range(40)[::-1])), (data.some(range(9)), extra.some(range(9)))):
        with pytest.raises(ValueError, match='labels are joined of whole data sets, not of parts that `some` made'): a.also(b)

def test_a_part_is_the_same_in_memory_and_not():
    data, rows = views(), [5, 38, 7, 0]
    held, lazy = part_of(data, rows), part_of(Lazy(data), rows)
    assert isinstance(held, MemoryDataset) and isinstance(lazy, Part) and len(held) == len(lazy) == 4 and lazy.tasks == held.tasks == data.tasks
    for at in ([0, 1, 2, 3], [2, 2], slice(1, 3), np.array([3])):
        for a, b, c in zip(held.batch(at), lazy.batch(at), data.batch(np.array(rows)[at])):
            for x, y, z in ([(a, b, c)] if torch.is_tensor(a) else [(a['D'], b['D'], c['D'])]): assert torch.equal(x, y) and torch.equal(x, z)
    assert held.statistics().equals(lazy.statistics()) and not lazy.statistics().equals(data.statistics())
    with pytest.raises(IndexError): lazy.batch([4])
