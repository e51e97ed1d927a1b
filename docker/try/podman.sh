# shellcheck shell=bash
# Sourced by stand-ins.sh, and read by session.py: podman's settings, for a machine without systemd and without the right
# to raise limits.
CONTAINERS_CONF=${TMPDIR:-/tmp}/appview-try-containers.conf
export CONTAINERS_CONF
cat >"$CONTAINERS_CONF" <<EOF
[containers]
# Podman would raise them to 1,048,576, which not every machine allows. The two numbers are the same: through its
# socket, podman 4.3 takes another first one.
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
log_driver = "k8s-file"
[engine]
runtime = "$(command -v crun >/dev/null && echo crun || echo runc)"
cgroup_manager = "$([ -d /run/systemd/system ] && echo systemd || echo cgroupfs)"
events_logger = "file"
EOF
