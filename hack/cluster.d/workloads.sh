# Checks of hack/cluster: what controllers make of pods; sourced, never run.

# volume NAME: a disk of the node, for whoever claims it.
volume() {
    mkdir -p "$WORK/volumes/$1"
    # Which group may write is kubelet's business only for volumes that it mounts itself.
    chmod 0777 "$WORK/volumes/$1"
    kubectl apply -f - <<VOLUME
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: disk
  local: {path: $WORK/volumes/$1}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE]}]}]}
VOLUME
}

# prepare_checks: what several checks use.
prepare_checks() {
    say "starting the workloads"
    volume disk-0 >/dev/null
    volume disk-1 >/dev/null
    kubectl apply -f "$HERE/workloads.yaml" -f "$HERE/pods.yaml" >/dev/null
    kubectl apply -f "$HERE/metrics.yaml" >/dev/null
}

# web_addresses: of the ready pods, one a line, in order.
web_addresses() {
    kubectl get endpointslices -l kubernetes.io/service-name=web \
        -o 'jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{"\n"}{end}' | sort
}

pods_of() { kubectl get pods -l "app=$1" -o 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}'; }

check_deployment() {
    kubectl rollout status deployment/web --timeout=120s
    is deployment/web '{.status.readyReplicas}' 2
    local runtime
    runtime="$(field "node/$NODE" '{.status.nodeInfo.containerRuntimeVersion}')"
    contains "the node's runtime" berth:// "$runtime"
}

# asking: gets the service's page over and over; each failure is a line.
asking() {
    local address
    address="$(field service/web '{.spec.clusterIP}')"
    while :; do
        get "http://$address/hostname" >/dev/null || echo failed
        echo asked >&3
        sleep 0.05
    done
}

check_rolling_update() {
    settled
    local old asker pod
    old="$(pods_of web)"
    asking >"$WORK/failures" 2>/dev/null 3>"$WORK/asked" &
    asker=$!
    kubectl set image deployment/web web=registry.k8s.io/berth/agnhost:2
    kubectl rollout status deployment/web --timeout=120s
    sleep 1
    kill "$asker"
    for pod in $old; do kubectl wait --for=delete "pod/$pod" --timeout=60s; done
    same "images of the pods" "registry.k8s.io/berth/agnhost:2 registry.k8s.io/berth/agnhost:2" \
        "$(kubectl get pods -l app=web -o 'jsonpath={.items[*].status.containerStatuses[*].image}')"
    echo "asked $(wc -l <"$WORK/asked") times, failed $(wc -l <"$WORK/failures") times"
    [ "$(wc -l <"$WORK/asked")" -gt 20 ]
    same "failures during the update" 0 "$(wc -l <"$WORK/failures")"
}

check_rollback() {
    kubectl rollout undo deployment/web
    kubectl rollout status deployment/web --timeout=120s
    is deployment/web '{.spec.template.spec.containers[0].image}' registry.k8s.io/berth/agnhost:1
    kubectl scale deployment/web --replicas=3
    kubectl rollout status deployment/web --timeout=60s
    kubectl scale deployment/web --replicas=2
    eventually 60 is deployment/web '{.status.replicas}' 2
}

check_service() {
    settled
    local addresses address from
    addresses="$(web_addresses)"
    same "endpoints" "$(kubectl get pods -l app=web -o json |
        jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .status.podIP' | sort)" "$addresses"
    same "number of endpoints" 2 "$(wc -l <<<"$addresses")"
    from="$(pods_of db | sed -n 1p)"
    for address in $addresses; do
        # From the node and from another pod.
        contains "pod at $address" web- "$(get "http://$address:8080/hostname")"
        contains "pod at $address, from $from" web- "$(kubectl exec "$from" -- wget -qO- "http://$address:8080/hostname")"
    done
}

check_cluster_ip() {
    settled
    local address from asked
    address="$(field service/web '{.spec.clusterIP}')"
    from="$(pods_of db | sed -n 1p)"
    eventually 20 get "http://$address/hostname"
    asked="$(for _ in $(seq 30); do get "http://$address/hostname" && echo; done | sort -u)"
    same "pods behind the service" 2 "$(wc -l <<<"$asked")"
    contains "service, from $from" web- "$(kubectl exec "$from" -- wget -qO- "http://$address/hostname")"
    # A pod that asks its own service may get itself.
    from="$(pods_of web | sed -n 1p)"
    asked="$(kubectl exec "$from" -- sh -c "for _ in \$(seq 20); do wget -qT2 -O- http://$address/hostname; echo; done" | sort -u)"
    same "pods behind the service, from one of them" 2 "$(wc -l <<<"$asked")"
}

check_job() {
    kubectl create job good --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 -- sh -c 'echo "done by $(hostname)"'
    kubectl wait --for=condition=Complete job/good --timeout=60s
    contains "log of the job" "done by good-" "$(kubectl logs job/good)"
    kubectl apply -f - <<'JOB'
apiVersion: batch/v1
kind: Job
metadata: {name: parallel}
spec:
  completions: 4
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
        - {name: work, image: "registry.k8s.io/e2e-test-images/busybox:1.29-2", command: [sh, -c, 'echo "index $JOB_COMPLETION_INDEX"']}
---
apiVersion: batch/v1
kind: Job
metadata: {name: bad}
spec:
  backoffLimit: 2
  podFailurePolicy:
    rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]
  template:
    spec:
      restartPolicy: Never
      containers:
        - {name: work, image: "registry.k8s.io/e2e-test-images/busybox:1.29-2", command: [sh, -c, 'exit 42']}
JOB
    kubectl wait --for=condition=Complete job/parallel --timeout=90s
    is job/parallel '{.status.completedIndexes}' 0-3
    # It fails at once for the exit code that it names, and is not tried again.
    kubectl wait --for=condition=Failed job/bad --timeout=60s
    is job/bad '{.status.failed}' 1
    same "exit code" 42 "$(kubectl get pods -l job-name=bad -o 'jsonpath={.items[*].status.containerStatuses[0].state.terminated.exitCode}')"
    kubectl delete job good parallel bad --timeout=60s
}

check_cronjob() {
    kubectl create cronjob tick --schedule='* * * * *' --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 -- echo tick
    kubectl create job --from=cronjob/tick tick-now
    kubectl wait --for=condition=Complete job/tick-now --timeout=60s
    same "log" tick "$(kubectl logs job/tick-now)"
    kubectl delete cronjob/tick --timeout=60s
}

check_daemonset() {
    kubectl rollout status daemonset/agent --timeout=120s
    is daemonset/agent '{.status.numberReady}' 1
    # In the node's network, under the node's name.
    same "its node" "$NODE" "$(get "http://$NODE_ADDRESS:18080/shell?cmd=printenv+NODE" | jq -r .output | tr -d '\n')"
    local old
    old="$(pods_of agent)"
    kubectl delete "pod/$old" --timeout=60s
    kubectl rollout status daemonset/agent --timeout=60s
    [ "$(pods_of agent)" != "$old" ]
}

check_statefulset() {
    kubectl rollout status statefulset/db --timeout=120s
    kubectl wait --for=jsonpath='{.status.phase}'=Bound pvc/data-db-0 pvc/data-db-1 --timeout=10s
    kubectl exec db-0 -- sh -c 'echo kept >/data/file'
    local old
    old="$(field pod/db-0 '{.metadata.uid}')"
    kubectl delete pod db-0 --timeout=60s
    kubectl rollout status statefulset/db --timeout=60s
    [ "$(field pod/db-0 '{.metadata.uid}')" != "$old" ]
    same "its file" kept "$(kubectl exec db-0 -- cat /data/file)"
    same "its starts" "db-0 db-0" "$(kubectl exec db-0 -- cat /data/starts | xargs)"
    same "the other's starts" db-1 "$(kubectl exec db-1 -- cat /data/starts | xargs)"
    same "user and group" "1000 2000" "$(kubectl exec db-0 -- sh -c 'echo $(id -u) $(id -G | tr " " "\n" | grep 2000)')"
    kubectl scale statefulset/db --replicas=1
    kubectl wait --for=delete pod/db-1 --timeout=60s
    kubectl scale statefulset/db --replicas=2
    kubectl rollout status statefulset/db --timeout=60s
    same "starts after scaling" "db-1 db-1" "$(kubectl exec db-1 -- cat /data/starts | xargs)"
}
