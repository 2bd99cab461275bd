"""Fills every `dynamic` field of pyproject.toml from settings.ini, so that each fact stands once."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(root / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
STATUS = {"1": "1 - Planning", "2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}
PYTHONS = [f"3.{minor}" for minor in range(int(cfg["min_python"].split(".")[1]), 14)]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    url=cfg["git_url"] or cfg["paper_url"],
    project_urls={"Paper": cfg["paper_url"]},
    classifiers=[
        f"Development Status :: {STATUS[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Topic :: Scientific/Engineering :: Image Recognition",
        *(f"Programming Language :: Python :: {version}" for version in PYTHONS),
    ],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={name: cfg[f"{name}_requirements"].split() for name in ("dev", "cluster", "sam", "weights", "export")},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    packages=[*find_packages(include=["pointwssis*"]), "pointwssis.stage_notebooks", "pointwssis.workflow"],
    package_dir={"pointwssis.stage_notebooks": "nbs/stages", "pointwssis.workflow": "workflow"},
    package_data={"pointwssis": ["*.mplstyle", "*.html", "*.md"], "pointwssis.bridges.configs": ["*.yaml"], "pointwssis.stage_notebooks": ["*.ipynb"], "pointwssis.workflow": ["Snakefile", "profile/*"]},
    zip_safe=False,
)
