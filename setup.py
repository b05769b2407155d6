"""The packages of gen3d; all else about it is in pyproject.toml, which can find packages but not add one to those it finds.

The settings to start from lie in configs/ and are installed as gen3d/configs.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["gen3d", "gen3d.*"]), "gen3d.configs"],
    package_dir={"gen3d.configs": "configs"},
)
