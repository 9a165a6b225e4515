"Labels as pictures: any task and size, colours that never change, missing labels that show, and nothing that leaves the figure."
import shutil

import matplotlib, matplotlib.pyplot as plt, numpy as np, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from its_a_match.gallery import MAPS, STRIPES, class_colours, class_names, colour_label, colour_limits, save_grid, view_grid
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import TASKONOMY, Task, get_tasks

S, D, N, K, E = TASKONOMY
grey = {tuple(c) for c in STRIPES.tolist()}

class Views:
    "A data set of random labels; a view can have a size of its own, and lack labels."
    def __init__(self, tasks, shapes, lacks=()): self.tasks, self.shapes, self.lacks = tasks, shapes, lacks

    def __len__(self): return len(self.shapes)

    def __getitem__(self, i):
        rng, (h, w) = np.random.default_rng(i), self.shapes[i]
        targets, masks = {}, {}
        for t in self.tasks:
            shape = (h, w) if t.pixels else ()
            if t.kind == 'classes': targets[t.key], masks[t.key] = rng.integers(0, t.channels, shape), np.ones(shape, bool)
            else: targets[t.key], masks[t.key] = rng.random((t.channels, *shape)), np.ones((1, *shape) if shape else (), bool)
            if (i, t.key) in self.lacks: masks[t.key] = np.zeros_like(masks[t.key])
        return rng.random((3, h, w)), targets, masks

def texts(fig): return [t.get_text() for ax in fig.axes for t in ax.texts]

def names(fig): return [t.get_text() for legend in fig.legends for t in legend.get_texts()]

def assert_inside(fig):
    "No text or picture leaves the figure, none of the legends lies on a key."
    fig.canvas.draw()
    box, (w, h) = fig.get_tightbbox(), fig.get_size_inches()
    assert box.x0 >= -.01 and box.y0 >= -.01 and box.x1 <= w + .01 and box.y1 <= h + .01, (box, w, h)
    legends = [legend.get_window_extent() for legend in fig.legends]
    parts = [ax.get_tightbbox() for ax in fig.axes] + legends
    for legend in legends: assert not any(legend.overlaps(p) for p in parts if p is not None and p is not legend)

tasks = st.sampled_from([*TASKONOMY, Task('own', kind='classes', channels=300, bits=16), Task('height', unit='cm'), Task('direction', channels=2, vector=True),
                         *(Task(f'dense{c}', channels=c) for c in range(2, 7))])

@given(tasks, st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=60)
def test_any_label(task, h, w, seed):
    rng = np.random.default_rng(seed)
    if task.kind == 'classes': values = rng.integers(0, task.channels, (h, w))
    else: values = rng.standard_normal((h, w) if task.channels == 1 else (h, w, task.channels))
    if task.vector: values /= np.linalg.norm(values, axis=-1, keepdims=True)
    mask = rng.random((h, w)) < .7
    picture = colour_label(values, mask, task)
    assert picture.shape == (h, w, 3) and picture.dtype == np.uint8
    assert set(map(tuple, picture[~mask].tolist())) <= grey
    if task.channels != 3 or task.vector: assert not grey & set(map(tuple, picture[mask].tolist()))

def test_no_colour_of_a_label_is_that_of_none():
    own = [class_colours(256), *(np.round(255*matplotlib.colormaps[m](np.linspace(0, 1, 256))[:, :3]) for m in MAPS.values())]
    assert not grey & {tuple(c) for cs in own for c in cs.astype(int).tolist()}

def test_colours_of_classes_are_for_ever():
    expected = [(0, 114, 178), (86, 180, 233), (230, 159, 0), (204, 121, 167), (0, 158, 115), (240, 228, 66), (213, 94, 0)]
    assert [tuple(c) for c in class_colours(7).tolist()] == expected
    a, b = (colour_label(np.array(ids), None, S) for ids in ([[3, 5]], [[9, 5, 17]]))
    assert np.array_equal(a[0, 1], b[0, 1])

def test_limits_are_shared():
    near, far = (np.full((4, 4), 1.), np.ones((4, 4), bool)), (np.full((4, 4), 9.), np.ones((4, 4), bool))
    limits = colour_limits([near, far], D)
    assert limits == (1, 9)
    a, b = (colour_label(*x, D, limits) for x in (near, far))
    assert a[0, 0].tolist() == [68, 1, 84] and b[0, 0].tolist() == [253, 231, 37]

@pytest.mark.parametrize('views', [1, 12])
@pytest.mark.parametrize('size', [(64, 64), (48, 80), (7, 5), (300, 200)])
def test_one_and_twelve_views_of_any_size(views, size):
    fig = view_grid(Views(get_tasks('SDNKE'), [size]*views), range(views))
    assert len([ax for ax in fig.axes if ax.images]) == 6*views
    assert_inside(fig)

def test_small_images_are_shown_pixel_by_pixel():
    fig = view_grid(Views(get_tasks('D'), [(20, 32)]*2))
    fig.canvas.draw()
    for ax in fig.axes[:4]:
        extent = ax.get_window_extent()
        assert (extent.width, extent.height) == (pytest.approx(128), pytest.approx(80))
        assert (extent.x0 % 1 + .5) % 1 == pytest.approx(.5) and ax.images[0].get_interpolation() == 'nearest'

def test_images_of_several_sizes():
    fig = view_grid(Views(get_tasks('SD'), [(64, 64), (40, 80), (64, 64)]))
    assert '40 × 80 pixels or\n64 × 64 pixels' in texts(fig)
    assert_inside(fig)
    assert 'of several sizes' in texts(view_grid(Views(get_tasks('SD'), [(64, 64), (40, 80), (64, 32)])))

def test_all_kinds_of_tasks():
    own = [Task('a', kind='classes', channels=40), Task('b', channels=2), Task('c', channels=3), Task('d', channels=7), Task('e', kind='number', channels=2, unit='m'),
           Task('f', kind='classes', channels=3, per_image=True), Task('g', kind='classes', channels=4)]
    fig = view_grid(Views(own, [(32, 48)]*2, {(0, 'd'), (1, 'f')}), names=dict(f=dict(enumerate(['sunny', 'rainy', 'snowy']))))
    assert texts(fig).count('no label') == 2
    assert {'class 39', 'class 3', 'no label'} <= set(names(fig)) and [x.get_title().get_text() for x in fig.legends] == ['a', 'g', '']
    assert {'sunny', 'rainy', 'snowy'} & set(texts(fig))
    assert any('red, green, blue' in t for t in texts(fig))
    assert_inside(fig)

def test_only_classes_or_only_one_column():
    for which in ('S', 'D', 'N'): assert_inside(view_grid(Views(get_tasks(which), [(64, 64)]), names=dict(S={i: f'a class of a long name {i}' for i in range(18)})))

def test_the_legend_speaks_of_missing_labels_only_where_some_are():
    assert 'no label' not in names(view_grid(Views(get_tasks('SD'), [(16, 16)])))
    assert names(view_grid(Views(get_tasks('D'), [(16, 16)], {(0, 'D')}))) == ['no label']

def test_rooms(tiny_rooms):
    dataset = TaskonomyDataset(tiny_rooms, 'train')
    fig = view_grid(dataset)
    assert {'wall', 'floor', 'ceiling'} <= set(names(fig)) <= {*class_names(tiny_rooms).values(), 'no label'}
    assert [ax.get_title() for ax in fig.axes[:6]] == ['Image', 'SemSeg', 'Depth', 'Normals', 'Keypoints', 'Edges']
    assert_inside(fig)
    assert not plt.get_fignums()
    rgb = dataset[0][0].numpy()
    assert np.array_equal(fig.axes[0].images[0].get_array(), np.round(255*np.moveaxis(rgb, 0, -1)))

def test_files(tiny_rooms, tmp_path):
    a, b = (save_grid(tiny_rooms, tmp_path/f'new/{n}.png', 'val', views=3) for n in 'ab')
    assert a == tmp_path/'new/a.png' and a.read_bytes() == b.read_bytes()
    assert save_grid(tiny_rooms, tmp_path/'c.png', views=3, seed=1).read_bytes() != a.read_bytes()
    assert Image.open(save_grid(tiny_rooms, tmp_path/'d.png', tasks='D', views=1)).size < Image.open(a).size
    assert save_grid(tiny_rooms, tmp_path/'e.pdf', views=10**6, tasks=['normal']).stat().st_size > 1000

def test_only_the_labels_that_there_are(tiny_rooms, tmp_path):
    for task in ('rgb', 'depth_zbuffer'): shutil.copytree(tiny_rooms/task, tmp_path/task)
    assert Image.open(save_grid(tmp_path, tmp_path/'a.png', views=1)).size[0] == 2*(30 + 2*(128 + 5))

@pytest.mark.parametrize('wrong, says', [(dict(out='a.txt'), 'a.txt: pictures are saved as'), (dict(out='a'), 'a: pictures are saved as'), (dict(views=0), '0 views cannot be shown'),
                                         (dict(split='nowhere'), 'nowhere'), (dict(tasks='x'), "task 'x'"), (dict(root='nowhere'), 'nowhere')])
def test_what_cannot_be(tiny_rooms, tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says): save_grid(**dict(root=tiny_rooms, out=tmp_path/'a.png') | wrong)
    assert not any(tmp_path.iterdir())

def test_views_that_there_are_not():
    views = Views(get_tasks('D'), [(8, 8)]*3)
    for i in (3, -1):
        with pytest.raises(ValueError, match=f'view {i}: the data set has the views 0 to 2'): view_grid(views, [0, i])
    with pytest.raises(ValueError, match='there is no view to show'): view_grid(views, [])

def test_names_of_classes(tmp_path):
    (tmp_path/'classes.csv').write_text('id,name,colour\n0,none,x\n2,NA,y\n')
    assert class_names(tmp_path) == {0: 'none', 2: 'NA'}
    (tmp_path/'classes_own.csv').write_text('id,name\n1,mine\n')
    assert class_names(tmp_path, 'own') == {1: 'mine'} and class_names(tmp_path, 'other', first=False) == {}
    for text in ('', 'id;name\n1;a', 'id,name\nx,a', 'id,name\n1.5,a'):
        (tmp_path/'classes.csv').write_text(text)
        with pytest.raises(ValueError, match='classes.csv: it is not a table with the columns id and name'): class_names(tmp_path)
