"Packages its_a_match from `settings.ini`; the published tables and the study notebooks travel inside."
import runpy
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

# Folders of the repo that the installed package reads, as sub-packages without code: name -> folder, files.
carried = {'its_a_match.data.published': ('data/published', ['*.csv', '*.md']),
           'its_a_match.data.results.rooms': ('data/results/rooms', ['*.csv', '*.json', '*.md']),
           'its_a_match.data.results.quick': ('data/results/quick', ['*.csv', '*.json', '*.md']),
           'its_a_match.data.results.transfer': ('data/results/transfer', ['*.csv', '*.json', '*.jpg', '*.npz', '*.md']),
           'its_a_match.data.results.which-tasks': ('data/results/which-tasks', ['*.csv', '*.json', '*.jpg', '*.md']),
           'its_a_match.nbs': ('nbs', ['43_benchmark_report.ipynb', '8*.ipynb'])}

extras = {name: cfg[f'{name}_requirements'].split() for name in ('render', 'ray', 'balancing', 'docs', 'dev')}
extras['dev'] += sum((extras[name] for name in ('render', 'ray', 'balancing', 'docs')), [])

class BuildWithStubs(build_py):
    "Builds the modules, and stubs of those that type checkers do not understand by themselves."
    def run(self):
        super().run()
        if not self.editable_mode: runpy.run_path(str(here/'.ci/stubs.py'))['write_stubs'](Path(self.build_lib, cfg['lib_path']))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    license_expression='Apache-2.0', keywords=cfg['keywords'].split(), python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]) + list(carried),
    package_dir={name: folder for name, (folder, _) in carried.items()},
    package_data={name: files for name, (_, files) in carried.items()} | {cfg['lib_path']: ['py.typed']},
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    cmdclass=dict(build_py=BuildWithStubs), zip_safe=False)
