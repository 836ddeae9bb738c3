"""Compiles the pipeline for Kubeflow: `python kubeflow/compile_pipeline.py [CONFIG] --out pipeline.yaml`.

The same as `longplay compile`, for those who look for it here.
"""

import sys

from pipeline.cli import app

if __name__ == "__main__":
    app(["compile", *sys.argv[1:]], prog_name="longplay")
