# shellcheck shell=bash
# Sourced by the scripts beside it: podman's settings, for a machine that has neither systemd nor the right to raise
# limits. The storage is podman's own.
CONTAINERS_CONF=$(mktemp)
export CONTAINERS_CONF
cat >"$CONTAINERS_CONF" <<EOF
[containers]
# Podman would raise them to 1,048,576, which not every machine allows.
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
log_driver = "k8s-file"
[engine]
runtime = "$(command -v crun >/dev/null && echo crun || echo runc)"
cgroup_manager = "$([ -d /run/systemd/system ] && echo systemd || echo cgroupfs)"
events_logger = "file"
EOF
