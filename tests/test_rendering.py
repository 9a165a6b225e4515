"Procedural buildings and their views: geometry against formulas, labels against Mitsuba's own, the same bytes everywhere."
import multiprocessing, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from importlib.util import find_spec
from itertools import islice

import numpy as np, pytest
from hypothesis import given, settings, strategies as st

from its_a_match.assets import CLASSES, MAKERS, ball, bounds, box, disk, furniture, matrix, moved, panel, texture_image, Texture, tube
from its_a_match.buildings import THICK, Building, Room, cameras, look_at, make_building, overlaps, stream
from its_a_match import rendering

seeds = st.integers(0, 1 << 31)

# ---- buildings, without Mitsuba

@given(seeds)
@settings(max_examples=40)
def test_furniture_does_not_overlap(seed):
    "The rectangles around the parts themselves, not those that were booked."
    b = make_building('house', seed)
    floor = {p.thing: p.label for p in b.parts}
    rects = np.array([t[1:5] for t in b.things])
    assert overlaps(rects[:, None], rects).sum() == len(rects)
    tops = {n: bounds([p for p in b.parts if p.thing == n]) for n, label in floor.items() if label in MAKERS}
    standing = [o[:, :2].ravel() for o in tops.values() if o[0, 2] < .05]
    assert len(standing) == len(b.things)
    assert overlaps(np.array(standing)[:, None], np.array(standing)).sum() == len(standing)

@given(seeds)
@settings(max_examples=40)
def test_rooms_are_as_promised(seed):
    b = make_building('house', seed)
    assert 1 <= len(b.rooms) <= 2
    for r in b.rooms: assert 3 <= r.x1 - r.x0 <= 6 and 3 <= r.y1 - r.y0 <= 6 and 2.3 <= r.height <= 3.1
    assert len(b.rooms) == 1 or np.isclose(b.rooms[1].x0 - b.rooms[0].x1, THICK)
    for label, x0, y0, x1, y1, h in b.things:
        r = b.rooms[b.room_at(x0)]
        assert r.x0 <= x0 and x1 <= r.x1 and r.y0 <= y0 and y1 <= r.y1
        if label in ('sofa', 'bed', 'shelf'): assert min(x0 - r.x0, r.x1 - x1, y0 - r.y0, r.y1 - y1) < .03, f'{label} away from the walls'
    lo, hi = bounds(b.parts)
    assert (lo >= [-1e-9, -1e-9, -1e-9]).all() and hi[2] <= max(r.height for r in b.rooms) + 1e-9
    for eye, _ in b.lamps: assert 0 < eye[2] < 2.3

@given(seeds)
@settings(max_examples=20)
def test_things_on_walls_do_not_overlap(seed):
    b = make_building('house', seed)
    hung = {}
    for p in b.parts:
        if p.label in ('door', 'window', 'picture'): hung.setdefault(p.thing, []).append(p)
    cuboids = [bounds(ps) for ps in hung.values()]
    for i, (lo, hi) in enumerate(cuboids):
        for low, high in cuboids[:i]: assert not ((lo < high) & (low < hi)).all()

def test_names_and_seeds_make_buildings():
    mark = lambda b: [(p.shape, p.matrix.tobytes(), p.label, p.texture, p.power) for p in b.parts]
    assert mark(make_building('a', 0)) == mark(make_building('a', 0))
    assert len({str(make_building(n, s).things) for n in 'ab' for s in (0, 1)}) == 4

@given(seeds)
@settings(max_examples=10)
def test_cameras_stand_in_free_space(seed):
    b = make_building('house', seed)
    for c in islice(cameras(b, stream('house', seed, 'views')), 20):
        x, y, z = c.matrix[:3, 3]
        assert .9 <= z <= 1.9 and 45 <= c.fov <= 75
        assert np.allclose(c.matrix[:3, :3].T @ c.matrix[:3, :3], np.eye(3)) and np.isclose(np.linalg.det(c.matrix), 1)
        assert abs(c.matrix[2, 0]) < 1e-12, 'not level'
        for _, x0, y0, x1, y1, h in b.things: assert not (x0 < x < x1 and y0 < y < y1 and h > z)

def test_unknown_furniture_and_textures_are_refused():
    with pytest.raises(ValueError, match="no furniture 'piano'"): furniture('piano', np.random.default_rng(0))
    with pytest.raises(ValueError, match="'plaid' has no pattern"): texture_image(Texture('plaid'))

@pytest.mark.parametrize('part', [box('box', [-1, 0, 1], [2, .5, 3]), ball('ball', [1, 2, 3], .7), disk('rug', [1, 1, 0], 2),
                                  panel('wall', [0, 0, 0], [1, 1, 0], [0, 0, 2]), *tube('lamp', [1, 0, .5], 2, .3)[:1]],
                         ids=lambda p: p.shape)
def test_bounds_hold_the_surface(part):
    "Against points on the turned shape."
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    part = moved([part], matrix(*turn.T, [1, 2, 3]))[0]
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 400), np.linspace(-1, 1, 201))
    ring, s = np.stack([np.cos(u), np.sin(u)], -1), np.sqrt(1 - v**2)[..., None]
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1)
    local = {'cube': corners, 'rectangle': corners * [1, 1, 0], 'sphere': np.concatenate([ring * s, v[..., None]], -1),
             'disk': np.concatenate([ring, 0 * v[..., None]], -1),
             'cylinder': np.concatenate([ring, (v[..., None] + 1) / 2], -1)}[part.shape]
    at = local.reshape(-1, 3) @ part.matrix[:3, :3].T + part.matrix[:3, 3]
    assert np.allclose(bounds([part]), [at.min(0), at.max(0)], atol=2e-3)

# ---- labels

mitsuba = pytest.mark.skipif(find_spec('mitsuba') is None, reason='Mitsuba is not installed')

def lab(*objects):
    b = Building('lab', [Room(-9, -9, 9, 9, 9)])
    for parts in objects: b.add(parts, np.eye(4))
    return b

def seen(building, camera, size):
    with rendering.scalar_mitsuba() as mi: return rendering.trace(mi, building, rendering.label_scene(mi, building), camera, size)

oblique = look_at([0, 0, 1.5], [2, 3, 1], 65)
wall = [panel('wall', [-20, 4, -20], [40, 0, 0], [0, 0, 40])]
floor = [panel('floor', [-20, -20, 0], [40, 0, 0], [0, 40, 0])]

@mitsuba
def test_depth_of_planes_is_along_the_view_axis():
    "Closed form, and constant second differences of 1/depth: a plane's inverse depth is linear in the image."
    s, d, f = seen(lab(wall, floor), oblique, 64), rendering.rays(oblique, 64), -oblique.matrix[:3, 2]
    assert np.allclose(d @ f, 1) and set(np.unique(s['classes'])) == {1, 2}
    w = s['classes'] == 1
    assert np.allclose(s['depth'][w], 4 / d[w][:, 1], rtol=1e-5) and np.allclose(s['depth'][~w], -1.5 / d[~w][:, 2], rtol=1e-5)
    inverse = np.where(w, 1 / s['depth'], np.nan)
    second = np.diff(inverse, 2, axis=1)
    assert np.nanmax(abs(second)) < 1e-5 and np.isfinite(second).any()

@mitsuba
def test_normals_are_right_down_and_towards_the_camera():
    s = seen(lab(wall, floor), oblique, 32)
    right, up, back = oblique.matrix[:3, :3].T
    for k, n in ((1, [0, -1, 0]), (2, [0, 0, 1])):
        assert np.allclose(s['normal'][s['classes'] == k], [n @ right, -(n @ up), n @ back], atol=1e-6)
    straight = seen(lab(wall, floor), look_at([0, 0, 1.5], [0, 4, 1.5], 65), 33)
    counts = rendering.stored(straight)
    assert counts['normal'][0, 0].tolist() == [127, 127, 254] and counts['normal'][-1, 0].tolist() == [127, 0, 127]

@mitsuba
@pytest.mark.parametrize('centre, r', [((.4, 3, 1.2), .5), ((1.5, 2.5, 1.), .3)])
def test_a_sphere_against_its_formula(centre, r):
    c = np.array(centre) - oblique.matrix[:3, 3]
    s, d = seen(lab(wall, floor, [ball('ball', centre, r)]), oblique, 96), rendering.rays(oblique, 96)
    a, b = (d * d).sum(-1), d @ c
    root = b**2 - a * (c @ c - r**2)
    clear = abs(root) > 1e-5
    assert ((s['thing'] == 3) == (root > 0))[clear].all() and (root > 0).sum() > 100
    hit = clear & (root > 0)
    t = ((b - np.sqrt(np.maximum(root, 0))) / a)[hit]
    n = (t[:, None] * d[hit] - c) / r @ oblique.matrix[:3, :3] * [1, -1, 1]
    assert np.allclose(s['depth'][hit], t, atol=1e-4) and np.allclose(s['normal'][hit], n, atol=2e-3)

@mitsuba
def test_thin_legs_have_the_class_of_their_centres():
    "A leg of 1.2 cm is seen at a pixel if, and only if, its centre's ray passes through it."
    x0, half, depth = -.737, .006, 3.
    camera = look_at([0, 0, 1], [0, 5, 1], 60)
    for size in (24, 64, 256):
        s = seen(lab([box('table', [x0 - half, depth, -9], [x0 + half, depth + .012, 9])], wall), camera, size)
        x = rendering.rays(camera, size)[..., :1] * [depth, depth + .012]   # where the ray enters and leaves the leg's slab
        assert np.array_equal(s['classes'] == CLASSES.index('table'), (x.max(-1) > x0 - half) & (x.min(-1) < x0 + half))

@mitsuba
@pytest.mark.parametrize('name', ['a', 'b'])
def test_labels_agree_with_the_aov_integrator(name):
    "Mitsuba's own position, normal and shape number, from its slower pass; numbers count from 1."
    b = make_building(name, 3)
    with rendering.scalar_mitsuba() as mi:
        scene = rendering.label_scene(mi, b)
        camera = rendering.choose_cameras(mi, b, scene, stream(name, 3, 'views'), 1)[0]
        s = rendering.trace(mi, b, scene, camera, 48)
        aov = mi.load_dict({'type': 'aov', 'aovs': 'p:position,n:sh_normal,i:shape_index'})
        found = np.array(aov.render(scene, rendering.sensor(mi, camera, 48), spp=1)).astype(float)
        order = {shape.id(): i + 1 for i, shape in enumerate(scene.shapes())}
    p, n, number = found[..., :3], found[..., 3:6], found[..., 6]
    right, up, back, eye = camera.matrix[:3].T
    mine = np.array([0] + [order[f'part{i}'] for i in range(len(b.parts))])[s['part']]
    hit = s['part'] > 0
    assert hit.mean() > .999 and np.array_equal(mine[hit], number[hit])
    assert np.allclose((eye - p) @ back, s['depth'], atol=1e-3)
    n *= np.where((n * (p - eye)).sum(-1, keepdims=True) > 0, -1, 1)
    same = np.isclose(np.stack([n @ right, -(n @ up), n @ back], -1), s['normal'], atol=5e-3).all(-1)
    assert same[hit].mean() > .999   # an edge of a cuboid belongs to two faces
    assert (s['classes'][hit] == [CLASSES.index(b.parts[k - 1].label) for k in s['part'][hit]]).all()

@mitsuba
def test_no_ray_escapes_and_all_classes_are_seen():
    shares, views = np.zeros(len(CLASSES)), 0
    for i in range(10):
        b = make_building(f'b{i}', 0)
        with rendering.scalar_mitsuba() as mi:
            scene = rendering.label_scene(mi, b)
            for c in rendering.choose_cameras(mi, b, scene, stream(b.name, 0, 'views'), 12):
                s = rendering.trace(mi, b, scene, c, 32)
                assert rendering.worth_seeing(s)
                ray = rendering.rays(c, 32) @ c.matrix[:3, :3] * [1, -1, 1]
                assert (s['normal'] * ray).sum(-1)[s['part'] > 0].max() < 1e-6, 'a normal faces away'
                shares, views = shares + np.bincount(s['classes'].ravel(), minlength=len(CLASSES)), views + 1
    shares /= shares.sum()
    assert shares[0] < 1e-3 and shares[1:].min() > .003, dict(zip(CLASSES, shares.round(4)))

# ---- which views, images, bytes

def labels(near=0, depth=2., furniture=25, classes=4):
    "100 pixels with that many near ones, a depth, furniture and kinds of things."
    ids = np.full(100, 1)
    ids[:furniture] = CLASSES.index('table')
    ids[50:50 + classes - 2] = np.arange(2, classes)
    d = np.full(100, depth)
    d[:near] = .4
    return dict(depth=d.reshape(10, 10), classes=ids.reshape(10, 10))

@pytest.mark.parametrize('change, good', [({}, True), (dict(near=8), True), (dict(near=9), False), (dict(depth=1.21), True),
                                          (dict(depth=1.19), False), (dict(furniture=12), True), (dict(furniture=11), False), (dict(classes=3), False)])
def test_rules_for_views(change, good): assert rendering.worth_seeing(labels(**change)) is good

@mitsuba
def test_a_building_with_nothing_to_see_is_named():
    b = make_building('bare', 0)
    b.parts = [p for p in b.parts if p.label in ('wall', 'floor', 'ceiling')]
    with rendering.scalar_mitsuba() as mi, pytest.raises(ValueError, match='building bare: only 0 of 40 cameras see enough, 2 are needed'):
        rendering.choose_cameras(mi, b, rendering.label_scene(mi, b), stream('bare', 0, 'views'), 2, tries=20)

@mitsuba
def test_windows_have_a_class_but_no_depth_and_no_normal():
    views = [v for name in 'cde' for v in rendering.render_building(name, 0, 3, 48, 4)]
    window = np.array([v['segment_semantic'] for v in views]) == CLASSES.index('window')
    none = np.array([v['depth_zbuffer'] for v in views]) == 65535
    assert window.any() and np.array_equal(none, window | (np.array([v['segment_semantic'] for v in views]) == 0))
    normal = np.array([v['normal'] for v in views])
    assert (normal[none] == 128).all()
    assert abs(np.linalg.norm((normal[~none] - 127.) / 127, axis=-1) - 1).max() < .01

def test_exposure_keeps_order_and_hue():
    light = np.random.default_rng(0).random((16, 16, 3)) * 3
    image = rendering.tone_map(light)
    assert image.dtype == np.uint8 and np.array_equal(image, rendering.tone_map(light * 64))
    assert 60 < image.mean() < 200 and rendering.tone_map(np.zeros((4, 4, 3))).max() == 0
    strongest = np.take_along_axis(image, light.argmax(-1, keepdims=True), -1)[..., 0]
    assert np.array_equal(strongest, image.max(-1)) and (np.sort(image.ravel()) == image.ravel()[light.ravel().argsort()]).all()

@mitsuba
@pytest.mark.parametrize('spp', [0, 1, 30])
def test_rays_a_pixel_must_be_a_square(spp):
    with pytest.raises(ValueError, match=f'^{spp} rays a pixel'): rendering.render_building('a', 0, 1, 16, spp)

def digest(job):
    views = rendering.render_building(*job)
    return [{k: (v.dtype.str, v.shape, sha256(v.tobytes()).hexdigest()) for k, v in view.items()} for view in views]

@mitsuba
def test_same_bytes_in_other_processes():
    "In this process, in two at a time that were started afresh, and whatever was rendered before."
    jobs = [('a', 0, 2, 32, 9), ('b', 0, 2, 32, 9), ('a', 1, 2, 32, 9)]
    here = [digest(j) for j in jobs]
    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool: there = list(pool.map(digest, jobs[::-1]))[::-1]
    assert here == there and here[0] != here[2]
    kinds = {k: v[:2] for k, v in here[0][0].items()}
    assert kinds == dict(rgb=('|u1', (32, 32, 3)), depth_zbuffer=('<u2', (32, 32)), normal=('|u1', (32, 32, 3)), segment_semantic=('|u1', (32, 32)))

@mitsuba
def test_more_views_and_other_sizes_change_no_view():
    few, many = rendering.render_building('a', 0, 2, 32, 4), rendering.render_building('a', 0, 4, 32, 4)
    for a, b in zip(few, many): assert all(np.array_equal(a[k], b[k]) for k in a)
    large = rendering.render_building('a', 0, 1, 96, 4)[0]   # centres of 32 pixels are centres of every third of 96
    for k in ('depth_zbuffer', 'segment_semantic', 'normal'):
        same = large[k][1::3, 1::3] == few[0][k]
        assert same.mean() > .995

@mitsuba
def test_a_caller_keeps_variant_and_threads():
    code = ("import mitsuba, drjit; mitsuba.set_variant('scalar_spectral'); drjit.set_thread_count(2)\n"
            "from its_a_match.rendering import scalar_mitsuba\n"
            "with scalar_mitsuba() as mi: assert mi.variant() == 'scalar_rgb' and drjit.thread_count() == 1\n"
            "assert (mitsuba.variant(), drjit.thread_count()) == ('scalar_spectral', 2)")
    subprocess.run([sys.executable, '-c', code], check=True)

def test_without_mitsuba_one_sentence_says_what_to_install():
    code = ("import sys; sys.modules['mitsuba'] = None\n"
            "from its_a_match import buildings, rendering\n"
            "buildings.make_building('a', 0)\n"
            "try: rendering.render_building('a', 0, 1)\n"
            "except ImportError as e: print(e)")
    said = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    assert said == "rendering needs Mitsuba 3: pip install 'its_a_match[render]'\n"
