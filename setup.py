"""Metadata of longplay, and what Apache Beam ships to its workers (`--setup_file=./setup.py`)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

REQUIREMENTS = [
    "apache-beam==2.72.0",
    # tfx-bsl imports dill, which Beam no longer brings along.
    "dill>=0.4",
    "google-crc32c>=1.5",
    "jinja2>=3.1",
    "numpy>=1.26,<2",
    # The release that tfx-bsl and TFDV are built against.
    "pyarrow>=10,<11",
    "pydantic>=2.7,<3",
    "pyyaml>=6",
    "rich>=13",
    "tensorflow==2.16.2",
    "tensorflow-data-validation==1.16.1",
    "tensorflow-metadata==1.16.1",
    "tensorflow-recommenders==0.7.7",
    "tensorflow-serving-api==2.16.1",
    "tf-agents==0.18.0",
    "tf-keras==2.16.0",
    "tfx-bsl==1.16.1",
    "typer>=0.12",
]

EXTRAS = {
    "kubeflow": ["kfp==2.13.0", "kfp-kubernetes==1.5.0"],
    # The embedded server, and clients of a running one over gRPC and REST.
    "serving": ["aiohttp>=3.9", "grpcio>=1.62", "orjson>=3.9", "requests>=2.31"],
    "dev": [
        "build>=1.2",
        "hypothesis>=6.100",
        "mypy>=1.10",
        "pytest>=8",
        "pytest-xdist>=3.5",
        "psutil>=5.9",
        "ruff>=0.5",
        "types-PyYAML",
        # Drives the page in a browser.
        "websockets>=12",
    ],
}

setup(
    name="longplay",
    version="0.1.0",
    description="From interaction logs to a recommendation policy that maximises long-term reward, in production",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["schemas", "schemas.*", "models", "models.*", "components", "components.*", "pipeline", "pipeline.*"]),
    package_data={"schemas": ["*.pbtxt"], "components": ["server/*.html"], "pipeline": ["configs/*.yaml", "templates/*"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["longplay=pipeline.cli:main"]},
    classifiers=["Programming Language :: Python :: 3.11", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
