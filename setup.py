"""What a wheel holds besides the package: what a checkout needs to run a study, as qtl_utils/project/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
SHIPPED = ("notebooks", "report", "studies", "workflow", "docs", "results/reference")
SHIPPED += ("ARCHITECTURE.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml", "requirements.lock")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".snakemake", "figures", "*.png", "*.svg")


class WithProject(build_py):
    """An installed package has no checkout around it: `paths.PROJECT` finds its files inside."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        project = Path(self.build_lib, "qtl_utils", "project")
        shutil.rmtree(project, ignore_errors=True)  # of an earlier build
        project.mkdir(parents=True)
        for name in SHIPPED:
            source = HERE / name
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, project / name, ignore=LEFT_OUT)
            elif source.is_file():
                shutil.copy2(source, project / name)


setup(cmdclass={"build_py": WithProject})
