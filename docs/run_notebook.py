"""Run docs/notebook.ipynb in an empty directory and store its outputs.

python docs/run_notebook.py    then docs/generate.py writes the page
"""

from __future__ import annotations

import os
import tempfile

from generators import notebook

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        notebook.save(notebook.executed(notebook.load()))
