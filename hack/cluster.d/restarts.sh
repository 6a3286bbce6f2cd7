# Checks of hack/cluster: kubelet and Berth end without warning, and no workload notices; sourced, never run.

# lives: what must stay the same over a restart: every container that runs, with its number of restarts and
# its process.
lives() {
    kubectl get pods -A -o json | jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .metadata.name as $pod |
        (.status.containerStatuses[], .status.ephemeralContainerStatuses[]?) | select(.state.running) |
        "\($pod) \(.name) \(.containerID) \(.restartCount)"' | sort
    crictl ps -q | sort | while read -r id; do echo "$id $(crictl inspect "$id" | jq .info.pid)"; done
}

# beats: how often the process of the pod `tool` has worked so far.
beats() { kubectl exec tool -c tool -- wc -l /tmp/beats | cut -d' ' -f1; }

# survives COMMAND…: nothing that runs is changed by it, and what runs goes on meanwhile.
survives() {
    local before counted address
    before="$(lives)"
    counted="$(beats)"
    address="$(web_addresses | sed -n 1p)"
    "$@"
    contains "a pod's answer at once" web- "$(get "http://$address:8080/hostname")"
    kubectl wait --for=condition=Ready "node/$NODE" --timeout=60s
    # A new pod gets a start, and old ones an exec: the node is whole again.
    kubectl run after --restart=Never --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 -- true
    kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/after --timeout=60s
    kubectl delete pod after --timeout=60s
    [ "$(beats)" -gt "$counted" ]
    same "containers and their processes" "$before" "$(lives)"
}

settled() {
    kubectl rollout status deployment/web --timeout=60s
    kubectl rollout status statefulset/db --timeout=60s
    kubectl rollout status daemonset/agent --timeout=60s
    kubectl wait --for=condition=Ready pod/tool --timeout=60s
    eventually 60 nothing_ends
}

nothing_ends() { [ -z "$(kubectl get pods -o json | jq -r '.items[] | select(.metadata.deletionTimestamp) | .metadata.name')" ]; }

kill_kubelet() { end kubelet KILL; }
kill_berth() { end berth KILL; }

again_kubelet() {
    kill_kubelet
    start_kubelet
}

again_berth() {
    kill_berth
    start_berth
}

again_both() {
    kill_kubelet
    kill_berth
    start_berth
    start_kubelet
}

again_keeper() {
    end berth-keeper KILL
    start_keeper
    eventually 60 crictl info
}

check_restart_kubelet() {
    settled
    survives again_kubelet
}

check_restart_berth() {
    settled
    survives again_berth
    # What a container writes still goes to its log.
    get "http://$(field pod/tool '{.status.podIP}'):8080/echo?msg=after-the-restart"
    contains "log" after-the-restart "$(kubectl logs tool -c server --tail=5)"
}

check_restart_both() {
    settled
    survives again_both
}

# What the daemon holds of every container goes to the next keeper.
check_restart_keeper() {
    settled
    survives again_keeper
    contains "what an exec says" said "$(kubectl exec tool -c tool -- echo said)"
}

# In the middle of a rolling update, which goes on to its end; what it does not touch stays.
check_restart_in_rollout() {
    settled
    local before
    before="$(lives | grep '^\(db\|agent\|tool\)')"
    kubectl rollout restart deployment/web
    eventually 30 new_pod
    again_berth
    kubectl rollout status deployment/web --timeout=120s
    kubectl rollout restart deployment/web
    eventually 30 new_pod
    again_both
    kubectl rollout status deployment/web --timeout=120s
    eventually 60 nothing_ends
    same "number of endpoints" 2 "$(web_addresses | wc -l)"
    same "containers that the update does not touch" "$before" "$(lives | grep '^\(db\|agent\|tool\)')"
}

# new_pod: true while one of the update's pods is not ready yet, or ends.
new_pod() { [ "$(kubectl get pods -l app=web --no-headers | wc -l)" -gt 2 ]; }

# What the node is for, undone: its pods go elsewhere, which is nowhere here, and come back.
check_drain() {
    kubectl drain "$NODE" --ignore-daemonsets --delete-emptydir-data --force --timeout=120s
    eventually 30 only_the_agent
    kubectl uncordon "$NODE"
    settled_after_drain
}

only_the_agent() { same "pods that stay" agent "$(crictl ps -o json | jq -r '.containers[].metadata.name' | sort -u | xargs)"; }

settled_after_drain() {
    kubectl rollout status deployment/web --timeout=90s
    kubectl rollout status statefulset/db --timeout=90s
}

# Everything that was made is deleted, and nothing of it is left on the node.
check_delete_everything() {
    kubectl delete -f "$HERE/metrics.yaml" --timeout=90s --wait
    kubectl delete -f "$HERE/workloads.yaml" -f "$HERE/pods.yaml" --ignore-not-found --timeout=90s --wait
    kubectl delete pods --all --timeout=60s
    kubectl delete pvc --all --timeout=30s
    eventually 60 node_is_empty
}

node_is_empty() {
    same "pods of the runtime" "" "$(crictl pods -q)"
    same "containers of the runtime" "" "$(crictl ps -aq)"
    same "volumes of pods" "" "$(ls /var/lib/kubelet/pods)"
    same "logs of pods" "" "$(ls /var/log/pods)"
    same "mounts of pods" "" "$(grep -o ' /var/lib/kubelet/pods[^ ]*' /proc/self/mounts)"
    same "links of pods" "" "$(ip -o link show type veth | grep -v -e uplink -e world)"
}
