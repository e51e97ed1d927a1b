"""docker/kubernetes/appview/: what the AppView's pods are told, what they may reach, and that their processes serve so.

No cluster is needed: Kubernetes' schemas, the rules of the policies read as Kubernetes reads them, and the processes
started with exactly the environment of the manifests (`just reference`).
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml
from psycopg2.extensions import parse_dsn

from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.check import node_url
from appview_pipeline_tests.conformance.reference.packages import MANIFEST
from appview_pipeline_tests.conformance.reference.reader import Reader, free_ports, started
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import run_sql
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create
from appview_pipeline_tests.support.manifests import assert_fits_kubernetes
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.tables import fresh_database, replayed_frames, rows
from appview_pipeline_tests.support.waiting import wait_for

KUBERNETES = CHECKOUT / "docker" / "kubernetes"
MANIFESTS = sorted((KUBERNETES / "appview").glob("*.yaml"))
NAME = "app.kubernetes.io/name"
API, DATAPLANE, BSYNC, PREPARE = "appview-api", "appview-dataplane", "appview-bsync", "appview-prepare"
SECRETS = {
    "BSKY_BSYNC_API_KEY": "the key of bsync",
    "BSKY_SERVICE_SIGNING_KEY": "11" * 32,
    "BSKY_ADMIN_PASSWORDS": "admin",  # what `Reader` shows
    "PGPASSWORD": "of the owner",
}
"""What the operator writes in place of CHANGE-ME."""


@cache
def everything() -> tuple[dict[str, Any], ...]:
    return tuple(one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8")))


def documents(*kinds: str) -> Iterator[dict[str, Any]]:
    return (document for document in everything() if document["kind"] in kinds)


def pods() -> dict[str, Any]:
    """The specification of each pod, by the name of its Deployment or Job."""
    return {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]
        for document in documents("Deployment", "Job")
    }


def container_of(name: str) -> Any:
    (container,) = pods()[name]["containers"]
    return container


def environment_of(name: str) -> dict[str, str]:
    """The variables of a container: those of its ConfigMaps and Secrets, and then its own."""
    given = {
        (document["kind"], document["metadata"]["name"]): document["data" if "data" in document else "stringData"]
        for document in documents("ConfigMap", "Secret")
    }
    kinds = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
    variables: dict[str, str] = {}
    for source in container_of(name).get("envFrom", ()):
        ((kind, reference),) = source.items()
        variables |= given[kinds[kind], reference["name"]]
    variables |= {item["name"]: item["value"] for item in container_of(name)["env"]}
    assert all(isinstance(value, str) for value in variables.values())
    return variables


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_kubernetes_schemas(path: Path) -> None:
    assert_fits_kubernetes(path)


def test_every_variable_is_one_that_the_program_or_psql_reads() -> None:
    document = (CHECKOUT / "docs" / "serve.md").read_text(encoding="utf-8")
    table = document[document.index("## Environment") :].partition("### What works")[0]
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", table))  # test_serve.py compares these with the programs
    for name in (API, DATAPLANE, BSYNC):
        assert environment_of(name).keys() <= documented, name
    script = (MANIFEST / "prepare.sh").read_text(encoding="utf-8")
    assert {name for name in environment_of(PREPARE) if name not in script} == set()


def test_the_api_has_no_way_to_postgresql_and_each_pod_only_its_secrets() -> None:
    secrets = {document["metadata"]["name"]: set(document["stringData"]) for document in documents("Secret")}
    values = [value for document in documents("Secret") for value in document["stringData"].values()]
    assert set(values) == {"CHANGE-ME", "postgres.example.internal", "appview"}
    had = {}
    for name, pod in pods().items():
        sources = {next(iter(source.values()))["name"] for source in container_of(name)["envFrom"]}
        files = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        had[name] = (sources | files) & secrets.keys()
    assert had == {
        API: {"appview-bsync-key", "appview-keys"},
        DATAPLANE: {"appview-server-password"},
        BSYNC: {"appview-server-password", "appview-bsync-key"},
        PREPARE: {"appview-server-password", "appview-owner"},
    }
    assert not {"DATABASE_URL", "BSYNC_DB_POSTGRES_URL", "PGPASSWORD_FILE"} & environment_of(API).keys()


def test_pods_are_not_roots_and_write_to_their_volumes_only() -> None:
    (user,) = re.findall(r"^USER (\d+):\1$", (MANIFEST / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for name, pod in pods().items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == security["runAsGroup"] == int(user), name
        assert security["fsGroup"] == int(user), "or it cannot read the password's file, whose mode is 0440"
        assert not pod["automountServiceAccountToken"]
        container = container_of(name)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["memory"]
        mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
        for volume in pod["volumes"]:
            assert mounted[volume["name"]].get("readOnly") or volume["emptyDir"]["sizeLimit"]
    api = environment_of(API)
    (cache,) = (mount for mount in container_of(API)["volumeMounts"] if mount["name"] == "images")
    (volume,) = (volume for volume in pods()[API]["volumes"] if volume["name"] == "images")
    assert cache["mountPath"] == api["BSKY_BLOB_CACHE_LOC"]
    # Between two looks more comes than is kept, and a volume that is too large ends its pod.
    assert volume["emptyDir"]["sizeLimit"] == "2Gi" and int(api["SERVE_IMAGE_CACHE_MB"]) <= 1_024


def test_bsync_runs_once_and_the_others_are_never_all_away() -> None:
    deployments = {document["metadata"]["name"]: document["spec"] for document in documents("Deployment")}
    assert set(deployments) == {API, DATAPLANE, BSYNC}
    parts = {name: environment_of(name)["SERVE_PARTS"] for name in deployments}
    assert parts == {API: "appview", DATAPLANE: "dataplane", BSYNC: "bsync,subscription"}
    assert deployments[BSYNC]["replicas"] == 1 and deployments[BSYNC]["strategy"] == {"type": "Recreate"}
    for name in (API, DATAPLANE):
        assert deployments[name]["replicas"] > 1
        assert deployments[name]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert container_of(name)["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
        # The program ends within 10 s after that.
        assert pods()[name]["terminationGracePeriodSeconds"] >= 5 + 10
    budgets = {document["spec"]["selector"]["matchLabels"][NAME] for document in documents("PodDisruptionBudget")}
    assert budgets == {API, DATAPLANE}


def test_probes_and_services_ask_the_ports_on_which_the_program_listens() -> None:
    program = (MANIFEST / "environment.mjs").read_text(encoding="utf-8")
    ports = {name: int(port) for name, port in re.findall(r"number\(env, '(\w+_PORT)', (\d+)", program)}
    expected = {
        API: ("SERVE_HOST", ports["BSKY_PORT"]),
        DATAPLANE: ("SERVE_DATAPLANE_HOST", ports["SERVE_DATAPLANE_PORT"]),
        BSYNC: ("SERVE_BSYNC_HOST", ports["BSYNC_PORT"]),
    }
    services = {document["metadata"]["name"]: document["spec"] for document in documents("Service")}
    assert set(services) == set(expected)
    for name, (host, port) in expected.items():
        container = container_of(name)
        named = {item["name"]: item["containerPort"] for item in container["ports"]}
        assert named == {"http": port, "health": ports["SERVE_HEALTH_PORT"]}
        variables = environment_of(name)
        assert {value for value in variables if variables[value] == "0.0.0.0"} == {host, "SERVE_HEALTH_HOST"}
        assert services[name]["selector"] == {NAME: name}
        assert services[name]["ports"] == [{"name": "http", "port": port, "targetPort": "http"}]
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"path": path, "port": "health"}
    # The program gives each part 5 s to answer.
    assert all(container_of(name)["readinessProbe"]["timeoutSeconds"] > 5 for name in expected)
    assert environment_of(API)["BSKY_DATAPLANE_URLS"] == f"http://{DATAPLANE}:{ports['SERVE_DATAPLANE_PORT']}"
    assert environment_of(API)["BSKY_BSYNC_URL"] == f"http://{BSYNC}:{ports['BSYNC_PORT']}"
    (ingress,) = documents("Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": API, "port": {"name": "http"}}
    assert environment_of(API)["BSKY_PUBLIC_URL"] == f"https://{rule['host']}"
    assert environment_of(API)["BSKY_SERVER_DID"] == f"did:web:{rule['host']}"


def chooses(selector: Mapping[str, Any], name: str) -> bool:
    """Whether a selector of pods chooses the pod of this name."""
    labels = {NAME: name, "app.kubernetes.io/part-of": "appview-serving"}
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels[expression["key"]] not in expression["values"]:
            return False
    return True


def is_let(direction: str, name: str, peer: str | None, port: int) -> bool:
    """Whether some policy lets a pod's traffic in or out: from or to a pod of the namespace, or (None) elsewhere."""
    side, who = ("from", "ingress") if direction == "Ingress" else ("to", "egress")
    for document in documents("NetworkPolicy"):
        spec = document["spec"]
        if direction not in spec["policyTypes"] or not chooses(spec["podSelector"], name):
            continue
        for rule in spec.get(who, ()):
            peers = rule.get(side)
            if peers is not None and not any(
                peer is not None and chooses(one["podSelector"], peer) for one in peers if "podSelector" in one
            ):
                continue
            if "ports" not in rule or port in {item["port"] for item in rule["ports"]}:
                return True
    return False


def test_the_policies_let_through_what_is_needed_and_nothing_else() -> None:
    ports = (2584, 2585, 2586, 2587, 3000, 4000, 5432)
    names = (API, DATAPLANE, BSYNC, PREPARE)
    between = {
        (one, other, port)
        for one, other, port in itertools.product(names, names, ports)
        if is_let("Egress", one, other, port) and is_let("Ingress", other, one, port)
    }
    assert between == {(API, DATAPLANE, 2586), (API, BSYNC, 2585), (BSYNC, DATAPLANE, 2586)}
    assert {(name, port) for name in names for port in ports if is_let("Ingress", name, None, port)} == {(API, 2584)}
    # To addresses outside of the namespace, besides the public ones below: PostgreSQL's port.
    assert {(name, port) for name in names for port in ports if is_let("Egress", name, None, port)} == {
        (DATAPLANE, 5432), (BSYNC, 5432), (PREPARE, 5432),
    }  # fmt: skip
    public: dict[str, list[Any]] = {}
    for document in documents("NetworkPolicy"):
        for rule in document["spec"].get("egress", ()):
            for one in rule.get("to", ()):
                if "ipBlock" in one:
                    public.setdefault(document["metadata"]["name"], []).append(one["ipBlock"])
    assert set(public) == {API, DATAPLANE} and public[API] == public[DATAPLANE]
    assert {block["cidr"] for block in public[API]} == {"0.0.0.0/0", "::/0"}
    private = {address for block in public[API] for address in block["except"]}
    assert private >= {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"}
    (closed,) = (one for one in documents("NetworkPolicy") if one["metadata"]["name"] == "appview-nothing-else")
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_pipelines_policy_refuses_other_namespaces() -> None:
    (policy,) = yaml.safe_load_all((KUBERNETES / "network-policy.yaml").read_text(encoding="utf-8"))
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {}}]}], "pods of its own namespace only"


def as_role(url: str, role: str) -> str:
    address = node_url(url)
    assert "://postgres@" in address
    return address.replace("://postgres@", f"://{role}@")


def status(port: int, path: str) -> int:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.mark.slow
def test_the_processes_serve_with_the_environment_of_the_manifests(
    server: EmbeddedPostgres, template_database: str, packages: Path, tmp_path: Path
) -> None:
    """The job and the three Deployments as processes. Only addresses, ports and folders are others, and the secrets are
    filled in. The job runs as a role that is no superuser, twice."""
    if shutil.which("psql") is None:
        pytest.skip("needs psql")
    (tmp_path / "password").write_text("of appview_server")
    (tmp_path / "images").mkdir()
    parent = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    with ExitStack() as stack:
        database = stack.enter_context(fresh_database(server, template_database))
        name = str(rows(database.url, "SELECT current_database()")[0][0])
        run_sql(server, "CREATE ROLE appview_owner LOGIN CREATEROLE CREATEDB")
        stack.callback(remove, server, database.url)
        rows(database.url, _GIVE_AWAY)
        ann, bob = (Person(stream, who) for stream in [Stream()] for who in ("ann", "bob"))
        profiles = [
            create("app.bsky.actor.profile/self", {"displayName": name, "createdAt": WHEN}) for name in ("Ann", "Bob")
        ]
        replayed_frames(database, tmp_path, [ann.commit(profiles[0]), bob.commit(profiles[1])])

        address = parse_dsn(libpq_url(database.url))
        job = environment_of(PREPARE) | SECRETS_OF_JOB | {
            "PGHOST": str(address["host"]), "PGPORT": str(address.get("port", 5432)),
            "PGUSER": "appview_owner", "PGDATABASE": name,
            "PASSWORD_FILE": str(tmp_path / "password"),
        }  # fmt: skip
        for _ in range(2):
            subprocess.run(["sh", MANIFEST / "prepare.sh"], env=parent | job, check=True, timeout=60)

        bsync_url = as_role(server.url("bsync"), "appview_server")
        moved = {
            "postgresql://appview_server@postgres.example.internal/appview": as_role(database.url, "appview_server"),
            "postgresql://appview_server@postgres.example.internal/bsync": bsync_url,
            "/run/appview/password": str(tmp_path / "password"),
            "/var/cache/appview": str(tmp_path / "images"),
            "0.0.0.0": "127.0.0.1",
        }

        def environment(pod: str) -> dict[str, str]:
            given = {key: SECRETS[key] if value == "CHANGE-ME" else value for key, value in environment_of(pod).items()}
            return free_ports(packages) | {key: moved.get(value, value) for key, value in given.items()}

        port = free_port()
        again = environment(DATAPLANE) | {"SERVE_DATAPLANE_PORT": str(port)}
        moved[f"http://{DATAPLANE}:2586"] = f"http://127.0.0.1:{port}"
        dataplane = ExitStack()
        stack.callback(dataplane.close)
        reading, ports = dataplane.enter_context(started(again, tmp_path / "dataplane.log"))
        assert set(ports) == {"dataplane", "health"}
        keeping, kept = stack.enter_context(started(environment(BSYNC), tmp_path / "bsync.log"))
        assert set(kept) == {"bsync", "health"}
        moved[f"http://{BSYNC}:2585"] = f"http://127.0.0.1:{kept['bsync']}"
        asked, api = stack.enter_context(started(environment(API), tmp_path / "api.log"))
        assert set(api) == {"appview", "health"}
        for one in (ports, kept, api):
            assert (status(one["health"], "/livez"), status(one["health"], "/readyz")) == (200, 200)

        reader = Reader(api["appview"])
        assert reader.get("app.bsky.actor.getProfile", actor=ann.did).body["displayName"] == "Ann"
        assert reader.post("app.bsky.graph.muteActor", ann.did, actor=bob.did).status == 200
        muted = 'SELECT "mutedByDid", "subjectDid" FROM bsky.mute'
        wait_for(lambda: rows(database.url, muted) == [(ann.did, bob.did)])
        # bsync tells the data plane.
        assert reader.post("app.bsky.notification.updateSeen", ann.did, seenAt=WHEN).status == 200
        wait_for(lambda: rows(database.url, "SELECT did FROM bsky.actor_state") == [(ann.did,)])

        # Without a data plane the API gets no requests, and is not started again.
        reading.send_signal(signal.SIGTERM)
        assert reading.wait(60) == 0
        assert (status(api["health"], "/livez"), status(api["health"], "/readyz")) == (200, 503)
        dataplane.enter_context(started(again, tmp_path / "dataplane.log"))
        wait_for(lambda: status(api["health"], "/readyz") == 200)
        mutes = reader.get("app.bsky.graph.getMutes", ann.did).body["mutes"]
        assert [mute["did"] for mute in mutes] == [bob.did]
        for process in (asked, keeping):
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def remove(server: EmbeddedPostgres, url: str) -> None:
    """What the job and `_GIVE_AWAY` have left on the server, whose roles other tests make, too."""
    run_sql(server, "DROP DATABASE IF EXISTS bsync WITH (FORCE)")
    rows(url, "REASSIGN OWNED BY appview_owner TO postgres")
    for role in ("appview_server", "appview_owner"):
        if rows(url, "SELECT FROM pg_roles WHERE rolname = %s", role):
            rows(url, f"DROP OWNED BY {role}")
            run_sql(server, f"DROP ROLE {role}")


SECRETS_OF_JOB = {"PGPASSWORD": SECRETS["PGPASSWORD"]}
_GIVE_AWAY = """
DO $$
DECLARE
    one regclass;
BEGIN
    EXECUTE format('ALTER DATABASE %I OWNER TO appview_owner', current_database());
    ALTER SCHEMA bsky OWNER TO appview_owner;
    FOR one IN
        SELECT oid FROM pg_class WHERE relnamespace = 'bsky'::regnamespace AND relkind IN ('r', 'v', 'm', 'p')
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO appview_owner', one);
    END LOOP;
END
$$
"""
"""As `migrate` leaves schema bsky where that role has run it."""
