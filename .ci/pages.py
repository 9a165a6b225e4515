"What is made from the notebooks: their outputs, README.md and the documentation site (`make notebooks`, `make docs`)."
import argparse, base64, html, io, os, re, shutil, subprocess, sys, tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat, yaml
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from PIL import Image
from traitlets.config import Config

root = Path(__file__).resolve().parents[1]
nbs  = root/'nbs'

def notebooks(): return sorted(nbs.glob('[!._]*.ipynb'))

def directives(cell):
    "The `#|` lines on top of a code cell, as a dict, and the code below them."
    top   = re.match(r'(\s*#\|.*\n?)*', cell.source).group()
    lines = [re.split(r'[:\s]+', o.strip()[2:].strip(), maxsplit=1) for o in top.splitlines() if o.strip()]
    return {k: ''.join(v) for k, *v in lines}, cell.source[len(top):]

def execute(path):
    "The notebook at `path` as a fresh kernel runs it; cells marked `#| eval: false` keep their outputs. Raises what a cell raises."
    nb = nbformat.read(path, 4)
    asleep = {i: c for i, c in enumerate(nb.cells) if c.cell_type == 'code' and directives(c)[0].get('eval') == 'false'}
    for i, c in asleep.items(): nb.cells[i] = nbformat.v4.new_code_cell('', id=c.id)
    env = {k: v for k, v in os.environ.items() if k != 'MPLBACKEND'}  # the kernel's own shows pictures in the notebook
    env.update(IN_TEST='1', PYDEVD_DISABLE_FILE_VALIDATION='1')       # IN_TEST: nbdev_export() does nothing
    NotebookClient(nb, timeout=900, kernel_name='python3', extra_arguments=['--log-level=ERROR'],
                   resources={'metadata': {'path': str(path.parent)}}).execute(env=env)
    for i, c in asleep.items(): nb.cells[i] = c
    return nb

def packed(picture):
    "The type and bytes of a picture, small: charts, nearly all of few colours, as PNG with a palette, photographs and maps as JPEG."
    colours = sorted((n for n, _ in picture.getcolors(1 << 24)), reverse=True)
    small, chart = io.BytesIO(), sum(colours[:64]) > .9*sum(colours)
    if chart: picture.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, 'png', optimize=True)
    else:     picture.save(small, 'jpeg', quality=75, subsampling=0, optimize=True)
    return 'png' if chart else 'jpeg', small.getvalue()

def slim(nb):
    "The notebook with smaller pictures."
    for o in (o for c in nb.cells if c.cell_type == 'code' for o in c.outputs if 'image/png' in o.get('data', {})):
        kind, data = packed(Image.open(io.BytesIO(base64.b64decode(o.data.pop('image/png')))).convert('RGB'))
        o.data[f'image/{kind}'] = base64.b64encode(data).decode()
    return nb

def run(paths=None):
    "Re-executes notebooks in place."
    for p in paths or notebooks():
        print(p.name, flush=True)
        nbformat.write(slim(execute(p)), p)

def relinked(text):
    "Markdown whose links lead from the root, as they did from nbs/; code stays."
    parts = re.split(r'(```.*?```|`[^`]*`)', text, flags=re.S)
    parts[::2] = [re.sub(r'(\]\()(?!\w+:|#|/)', r'\1nbs/', p).replace('](nbs/../', '](') for p in parts[::2]]
    return ''.join(parts)

def readme(out=root):
    "Makes README.md from nbs/index.ipynb, its pictures in nbs/images/."
    nb = nbformat.read(nbs/'index.ipynb', 4)
    nb.metadata['language_info'] = {'name': 'python'}
    marks = {c.id: directives(c)[0] if c.cell_type == 'code' else {} for c in nb.cells}
    nb.cells = [c for c in nb.cells if 'hide' not in marks[c.id] and marks[c.id].get('include') != 'false']
    for c in nb.cells:
        if c.cell_type == 'code':
            c.source = '' if marks[c.id].get('echo') == 'false' else directives(c)[1]
            if marks[c.id].get('output') == 'false': c.outputs = []
        else: c.source = relinked(c.source)
    names = Config({'ExtractOutputPreprocessor': {'output_filename_template': 'nbs/images/readme_{cell_index}_{index}{extension}'}})
    text, extra = MarkdownExporter(config=names).from_notebook_node(nb)
    text = re.sub(r'<style scoped>.*?</style>\n?', '', text, flags=re.S)  # pandas' own style: shown as text on GitHub
    text = re.sub(r'```python\s*```', '', text)                           # a cell whose code is not shown
    for i, c in enumerate(nb.cells):
        if alt := marks[c.id].get('fig-alt'): text = re.sub(fr'!\[\w+\](?=\(nbs/images/readme_{i}_)', f'![{alt}]', text)
    text = re.sub(r'[ \t]+$', '', text, flags=re.M)
    (out/'README.md').write_text(re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', encoding='utf-8')
    (out/'nbs/images').mkdir(parents=True, exist_ok=True)
    for old in (out/'nbs/images').glob('readme_*'): old.unlink()
    for name, data in extra['outputs'].items(): (out/name).write_bytes(data)

class Anchors(HTMLParser):
    "Collects the ids and the links of an HTML page."
    def __init__(self, text): super().__init__(); self.ids, self.links = set(), set(); self.feed(text)
    def handle_starttag(self, tag, attrs):
        for k, v in attrs:
            if k in ('id', 'name') and v: self.ids.add(v)
            if k in ('href', 'src') and v: self.links.add(v)

def broken(site):
    "The links within a built site that lead nowhere, as 'page: link'."
    pages = {p.resolve(): Anchors(p.read_text(encoding='utf-8')) for p in site.rglob('*.html')}
    def lost(page, link):
        if re.match(r'\w+:|//', link): return False
        path, mark = urldefrag(link)
        file = (page.parent/unquote(path)).resolve() if path else page
        return not file.exists() or bool(mark) and file in pages and unquote(mark) not in pages[file].ids
    return [f'{p.name}: {o}' for p, a in sorted(pages.items()) for o in sorted(a.links) if lost(p, o)]

def process():
    "nbdev's own part of the site: adds each function's documentation to the notebooks, in `_proc` of the current folder."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml(); proc_nbs(force=True)

def short(name):
    "The name that nbdev gives to a notebook's page: without number or capitals."
    return re.sub(r'^\d+[a-zA-Z0-9]*_', '', name).lower()

def unlinked(text):
    "Takes away nbdev's links that lead nowhere: to private functions, which have no entry, and within code, where none can be."
    text = re.sub(r'\[(`_\w+`)\]\([^)]*\)', r'\1', text)
    return re.sub(r'^```python\n.*?^```', lambda m: re.sub(r'\[(`[\w.]+`)\]\([^)]*\)', r'\1', m[0]), text, flags=re.M | re.S)

def rename(proc):
    """Renames the notebooks in `proc` to the names of their pages, which smalldocs does not do, makes links to them local,
    and takes away what it does not read: widths, which are in styles.css as well, and how formulas are drawn, which `alone` does."""
    web = yaml.safe_load((proc/'nbdev.yml').read_text())['website']
    for p in sorted(proc.glob('*.ipynb')):
        nb = nbformat.read(p, 4)
        nb.cells[0].source = re.sub(r'output-file: .*\n', '', nb.cells[0].source)
        shown = [o.data for c in nb.cells for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})]
        prose = [c for c in nb.cells if c.cell_type == 'markdown']
        for text, key in [(o, 'text/markdown') for o in shown] + [(c, 'source') for c in prose]:
            local = unlinked(text[key]).replace(f"]({web['site-url']}/", '](')
            local = local.replace('](../', f"]({web['repo-url']}/blob/{web['repo-branch']}/")  # a file that has no page
            text[key] = re.sub(r'\]\(([\w-]+\.ipynb)', lambda m: f']({short(m[1])}', local)
        p.unlink()
        nbformat.write(nb, proc/short(p.name))
    for name, change in {'sidebar.yml': (r'[\w-]+\.ipynb', lambda m: short(m[0])), '_quarto.yml': (r'\n *(html-math-method|code-overflow|grid):.*', '')}.items():
        (proc/name).write_text(re.sub(*change, (proc/name).read_text()))

def formula(found):
    "A formula in MathML, which browsers draw by themselves, of one in TeX."
    from latex2mathml.converter import convert
    made = convert(html.unescape(found[2]).strip(), display='block' if found[1] == 'display' else 'inline')
    return found[0][:found[0].index('>') + 1] + made.replace('&#x029F5;', '&#x2216;') + '</span>'

def alone(site):
    "Makes the pages need nothing from other hosts: formulas are drawn without a program, text in a font that the reader has."
    for p in site.rglob('*.html'):
        text = re.sub(r'<(script|link)[^>]*//cdn\.jsdelivr\.net/npm/katex[^>]*>(</script>)?', '', p.read_text(encoding='utf-8'))
        p.write_text(re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', formula, text, flags=re.S), encoding='utf-8')
    for p in site.rglob('*.css'): p.write_text(re.sub(r'@import url\(https?:[^)]*\);?', '', p.read_text(encoding='utf-8')), encoding='utf-8')

def docs(out=root/'_docs'):
    "Builds the documentation site with smalldocs, as `nbdev_docs` does with Quarto; fails on any warning or broken link."
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copy(root/'settings.ini', tmp); shutil.copytree(nbs, f'{tmp}/nbs', ignore=shutil.ignore_patterns('.*', 'out'))
        python = lambda *args: subprocess.run([sys.executable, *args], cwd=tmp).returncode and sys.exit('the site was not built')
        python(__file__, 'process')
        rename(Path(tmp, '_proc'))
        python('-m', 'smalldocs.cli', 'render', '--strict', '--quiet', '_proc')
        alone(Path(tmp, '_proc/_docs'))
        if lost := broken(Path(tmp, '_proc/_docs')): sys.exit('broken links:\n' + '\n'.join(lost))
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(f'{tmp}/_proc/_docs', out)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('verb', choices=['run', 'readme', 'docs', 'process'])
    parser.add_argument('paths', nargs='*', type=Path, help='run: these notebooks; readme, docs: the folder to write to')
    args = parser.parse_args()
    globals()[args.verb](*([args.paths] if args.verb == 'run' else args.paths[:1]))
