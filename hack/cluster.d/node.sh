# The node of hack/cluster: a registry, Berth and kubelet; sourced, never run.
#
# Directories that have a well-known place lie there, on the disk of $WORK, and go with the mount namespace.

# Parent of all pods' cgroups.
CGROUP_ROOT=/berth-cluster
# Where the registry that wants a password is.
PRIVATE=127.0.0.1:5001

# hierarchies: directories in which a cgroup can be made.
hierarchies() {
    local top=/sys/fs/cgroup dir
    if [ -e "$top/cgroup.procs" ]; then
        printf '%s\n' "$top"
        return 0
    fi
    for dir in "$top"/*; do
        # Combined controllers also have a link for each.
        if [ -e "$dir/cgroup.procs" ] && [ ! -L "$dir" ]; then printf '%s\n' "$dir"; fi
    done
}

make_cgroups() {
    local hierarchy file
    for hierarchy in $(hierarchies); do
        mkdir -p "$hierarchy$CGROUP_ROOT"
        for file in cpuset.cpus cpuset.mems; do
            # A new cpuset is empty, and nothing can run in it.
            if [ -e "$hierarchy/$file" ]; then cat "$hierarchy/$file" >"$hierarchy$CGROUP_ROOT/$file"; fi
        done
    done
}

# remove_cgroups: from outside, when all processes have ended; fails if some are left.
remove_cgroups() {
    local hierarchy tries left=1
    for tries in $(seq 50); do
        left=
        for hierarchy in $(hierarchies); do
            [ -d "$hierarchy$CGROUP_ROOT" ] || continue
            find "$hierarchy$CGROUP_ROOT" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ ! -d "$hierarchy$CGROUP_ROOT" ] || left="$left $hierarchy$CGROUP_ROOT"
        done
        [ -n "$left" ] || return 0
        sleep 0.2
    done
    warn "cgroups are left:$left"
    return 1
}

start_registries() {
    local hosts="$WORK/images/certs.d"
    start images "$IMAGES" "$WORK/images" \
        "berth/agnhost:1=$TOOLS/agnhost" "berth/agnhost:2=$TOOLS/agnhost" \
        "berth/metrics-server:1=$TOOLS/metrics-server"
    eventually 120 grep -q '^registry at' "$WORK/logs/images.log"
    # The same images again, for those who know the password.
    htpasswd -nbB puller hush >"$WORK/images/htpasswd" 2>/dev/null
    cat >"$WORK/images/private.yml" <<CONFIG
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $WORK/images/storage}}
auth: {htpasswd: {realm: berth, path: $WORK/images/htpasswd}}
http: {addr: "$PRIVATE"}
CONFIG
    start private-registry docker-registry serve "$WORK/images/private.yml"
    mkdir -p "$hosts/$PRIVATE"
    printf 'server = "http://%s"\n' "$PRIVATE" >"$hosts/$PRIVATE/hosts.toml"
}

start_keeper() {
    start berth-keeper "$BERTH_BIN_DIR/berth-keeper" --socket /run/berth/keeper.sock --state /run/berth/keeper
    eventually 20 test -S /run/berth/keeper.sock
}

start_berth() {
    start berth "$BERTH_BIN_DIR/berth" daemon --log-level "${BERTH_LOG_LEVEL:-info}"
    eventually 60 crictl info
}

start_kubelet() {
    start kubelet "$ROOT/hack/shield" "$WORK/sysctls" "$TOOLS/kubelet" --config "$WORK/kubelet.json" \
        --kubeconfig "$WORK/kubelet.kubeconfig" --hostname-override "$NODE" --node-ip "$NODE_ADDRESS" --v 2
    eventually 60 curl -fsS http://127.0.0.1:10248/healthz
}

configure_node() {
    printf '[keeper]\nstart = false\n[registry]\nconfig_path = "%s"\n' "$WORK/images/certs.d" >/etc/berth/config.toml
    printf 'runtime-endpoint: unix:///run/berth/cri.sock\nimage-endpoint: unix:///run/berth/cri.sock\n' >"$WORK/crictl.yaml"
    export CRI_CONFIG_FILE="$WORK/crictl.yaml"
    cat >"$WORK/kubelet.json" <<CONFIG
{
  "apiVersion": "kubelet.config.k8s.io/v1beta1",
  "kind": "KubeletConfiguration",
  "containerRuntimeEndpoint": "unix:///run/berth/cri.sock",
  "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true},
    "x509": {"clientCAFile": "$PKI/cluster-ca.crt"}},
  "authorization": {"mode": "Webhook"},
  "tlsCertFile": "$PKI/kubelet-server.crt", "tlsPrivateKeyFile": "$PKI/kubelet-server.key",
  "failCgroupV1": false, "failSwapOn": false,
  "cgroupDriver": "cgroupfs", "cgroupRoot": "$CGROUP_ROOT", "enforceNodeAllocatable": [],
  "syncFrequency": "5s", "nodeStatusUpdateFrequency": "4s",
  "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"},
  "imageGCHighThresholdPercent": 100,
  "featureGates": {"PodAndContainerStatsFromCRI": true, "EventedPLEG": true}
}
CONFIG
}

node() {
    local dir
    for dir in /var/lib/berth /var/lib/kubelet /var/log/pods /var/log/containers; do
        mkdir -p "$dir" "$WORK/disk$dir"
        mount --bind "$WORK/disk$dir" "$dir"
    done
    chmod 0711 /run/berth
    make_cgroups
    start_registries
    configure_node
    start_keeper
    start_berth
    start_kubelet
    eventually 60 kubectl get node "$NODE"
    kubectl wait --for=condition=Ready "node/$NODE" --timeout=60s
}
