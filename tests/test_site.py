"The documentation site and the report: built, whole, and looked at as a reader sees them, in a browser."
import functools, http.server, re, runpy, shutil, subprocess, sys, threading

import pages, pytest, yaml

@pytest.fixture(scope='module')
def site(root, tmp_path_factory):
    "The folder of the site, built once; a warning or a broken link fails it."
    out  = tmp_path_factory.mktemp('docs')/'site'
    done = subprocess.run([sys.executable, str(root/'.ci/pages.py'), 'docs', str(out)], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode: pytest.fail(done.stdout, pytrace=False)
    return out

@pytest.fixture(scope='module')
def found(site): return {p.name: pages.Anchors(p.read_text(encoding='utf-8')) for p in site.glob('*.html')}

@pytest.fixture(scope='module')
def report(root, tmp_path_factory):
    "The page that a benchmark ends with, of the results on Rooms."
    from its_a_match.report import write_benchmark_report
    run = tmp_path_factory.mktemp('run')
    shutil.copytree(root/'data/results/rooms', run/'results')
    return write_benchmark_report(run)


# --- without a browser

def test_every_notebook_has_a_page_and_a_place_in_the_sidebar(root, found):
    names = {p.name for p in pages.notebooks()}
    def listed(contents):
        for o in contents: yield from listed(o['contents']) if isinstance(o, dict) else [o]
    made  = [pages.short(n).replace('.ipynb', '.html') for n in names]
    assert len({*made}) == len(made), 'pages are named without the number: two notebooks would share one'
    assert {*made} <= found.keys()
    side = [*listed(yaml.safe_load((root/'nbs/sidebar.yml').read_text())['website']['sidebar']['contents'])]
    assert sorted(side) == sorted(names), 'nbs/sidebar.yml lists each notebook once'

def test_every_public_function_is_documented(root, found):
    syms  = runpy.run_path(str(root/'its_a_match/_modidx.py'))['d']['syms']
    shown = {name: link.split('#') for module, names in syms.items() for name, (link, _) in names.items()
             if '.' not in (own := name.removeprefix(module + '.')) and own[0] != '_'}
    assert [name for name, (page, mark) in shown.items() if mark not in found[page].ids] == []

def test_no_method_is_documented_twice(site):
    "@patch documents a method; a cell with `show_doc` is for those that are written within their class."
    heads = {p.name: re.findall(r'<h3[^>]*>([A-Z]\w*\.\w+)<', p.read_text(encoding='utf-8')) for p in site.glob('*.html')}
    assert sum(map(len, heads.values())) > 50
    assert {name: twice for name, hs in heads.items() if (twice := sorted({h for h in hs if hs.count(h) > 1}))} == {}

def test_pages_need_no_other_host(site):
    "No script, style, font or picture is fetched from elsewhere: the site reads the same without a network."
    for p in [*site.rglob('*.html'), *site.rglob('*.css')]:
        assert re.findall(r'<(?:script|img|iframe)[^>]*src="https?:[^"]*|<link[^>]*rel="stylesheet"[^>]*href="https?:[^"]*|url\(["\']?https?:[^)]*|@import[^;]*https?:[^;]*',
                          p.read_text(encoding='utf-8')) == [], p.name

def test_a_lost_link_is_found(tmp_path):
    (tmp_path/'a.html').write_text('<h1 id="top"></h1><a href="b.html">b</a> <a href="a.html#top">top</a> <a href="#end">end</a> <img src="no.png">')
    assert pages.broken(tmp_path) == ['a.html: #end', 'a.html: b.html', 'a.html: no.png']


# --- in a browser

@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    "Chromium without a window, and nobody's profile."
    chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    driver   = shutil.which('chromedriver')
    if not (chromium and driver): pytest.skip(f"pages are looked at in Chromium: no {'program chromedriver' if chromium else 'browser'} here")
    from selenium import webdriver
    options, service = webdriver.ChromeOptions(), webdriver.ChromeService(driver)
    options.binary_location = chromium
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    for o in ('headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'disable-dev-shm-usage', 'no-first-run', 'disable-background-networking',
              'disable-component-update', 'disable-sync', 'hide-scrollbars', 'no-proxy-server', f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f'--{o}')
    with webdriver.Chrome(options, service) as opened:
        opened.set_page_load_timeout(120)
        yield opened

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def address(site):
    "The site as a server gives it to readers."
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()

WIDTHS = {'desktop': 1280, 'phone': 390}

LOOK = '''
const right = e => e.getBoundingClientRect().right, seen = e => e.getClientRects().length && getComputedStyle(e).visibility != 'hidden'
const held = e => { for (let p = e.parentElement; p && p != document.body; p = p.parentElement) if (getComputedStyle(p).overflowX != 'visible') return true }
return {page: document.documentElement.scrollWidth, text: document.body.innerText.length,
        pictures: document.images.length, lost: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.outerHTML.slice(0, 200)),
        drawings: [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 100).length,
        wide: [...document.querySelectorAll('body *')].filter(e => seen(e) && right(e) > arguments[0] + 1 && !held(e)).map(e => e.outerHTML.slice(0, 200)),
        unread: (document.body.innerText.match(/\\\\\\(|\\\\\\[|\\\\frac/g) || []).length}'''

@pytest.fixture
def look(browser):
    "`look(url, width)` opens a page and tells what a reader would see."
    def see(url, width):
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600))
        browser.get_log('browser')  # what was said before
        browser.get(url)
        seen = browser.execute_script(LOOK, width)
        return seen | dict(said=[o['message'] for o in browser.get_log('browser')])
    return see

def check(seen, width, pictures):
    assert seen['said'] == [], 'the console is silent'
    assert seen['page'] <= width and seen['wide'] == [], 'nothing is wider than the page'
    assert seen['lost'] == [] and seen['pictures'] + seen['drawings'] >= pictures, 'the figures are there'
    assert seen['text'] > 500

@pytest.mark.parametrize('width', WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize('page, pictures', [('index', 2), ('selection', 1), ('gradients', 3)])
def test_site_in_a_browser(look, address, page, pictures, width):
    "The first page, pages of the API, one of them with formulas."
    seen = look(f'{address}/{page}.html', width)
    check(seen, width, pictures)
    assert not seen['unread'], 'no TeX is left'

@pytest.mark.parametrize('width', WIDTHS.values(), ids=WIDTHS)
def test_report_in_a_browser(look, report, width):
    "Opened from the disk, as a user does."
    check(look(report.as_uri(), width), width, 3)

def test_every_page_on_a_phone(look, address, found):
    seen = {name: look(f'{address}/{name}', 390) for name in sorted(found)}
    assert {name: s['wide'] or s['lost'] or s['said'] for name, s in seen.items() if s['page'] > 390 or s['lost'] or s['said']} == {}

def test_search_finds_a_function(browser, address):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=1280, height=900, deviceScaleFactor=1, mobile=False))
    browser.get(f'{address}/index.html')
    browser.find_element(By.CSS_SELECTOR, '#quarto-search input').send_keys('select_networks')
    found = WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, '.search-result'))
    assert any('selection.html' in o.get_attribute('href') for o in found)

def test_a_defect_is_seen(look, tmp_path):
    "The look itself: a page with a lost picture, an error and something too wide."
    (tmp_path/'bad.html').write_text('<meta name="viewport" content="width=device-width"><img src="no.png"><div style="width: 700px">wide</div><script>nothing()</script>')
    seen = look((tmp_path/'bad.html').as_uri(), 390)
    assert len(seen['lost']) == 1 and seen['page'] >= 700 and seen['wide'] and any('nothing is not defined' in o for o in seen['said'])
