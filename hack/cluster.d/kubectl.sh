# Checks of hack/cluster: the streams and views of kubectl; sourced, never run.

check_exec() {
    settled
    kubectl wait --for=condition=Ready pod/tool --timeout=60s
    local status=0
    kubectl exec tool -c tool -- sh -c 'echo out; echo err >&2; exit 7' >"$WORK/out" 2>"$WORK/err" || status=$?
    same "exit code" 7 "$status"
    same "output" out "$(cat "$WORK/out")"
    contains "errors" err "$(cat "$WORK/err")"
    # A megabyte each way arrives whole, and the end of input is seen.
    head -c 1048576 /dev/urandom >"$WORK/blob"
    same "a megabyte there and back" "$(sha256sum <"$WORK/blob")" "$(kubectl exec -i tool -c tool -- cat <"$WORK/blob" | sha256sum)"
    # It has none until kubelet was told, which is after the start.
    contains "size of the terminal" "31 97" \
        "$(terminal 'kubectl exec -it tool -c tool -- sh -c "sleep 1; stty size"')"
    # By a deployment's name, and in the other container.
    contains "a pod of the deployment" web- "$(kubectl exec deploy/web -- hostname)"
    same "the pod's name" tool "$(kubectl exec tool -c server -- hostname)"
}

# terminal COMMAND: its output on a terminal of 31 rows and 97 columns.
# Its input stays open meanwhile: `script` takes the end of it for the user's.
terminal() { script -qec "stty rows 31 cols 97; $1" /dev/null < <(sleep 10) | tr -d '\r'; }

check_attach() {
    kubectl wait --for=condition=Ready pod/echo --timeout=60s
    same "what the process heard" "heard one heard two over" \
        "$( (echo one; echo two) | timeout 30 kubectl attach -i echo 2>/dev/null | xargs)"
    contains "its log" "heard two" "$(kubectl logs echo)"
    # A pod made for one terminal: run, answer, leave.
    contains "kubectl run" "hello from run" "$(echo 'echo hello from $0; exit' |
        timeout 60 kubectl run once -i --rm --restart=Never --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 -- sh -c 'exec sh' 2>&1 |
        sed 's/hello from sh/hello from run/')"
}

check_logs() {
    kubectl run talker --restart=Never --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 -- \
        sh -c 'i=1; while [ $i -le 100 ]; do echo "line $i"; [ $((i % 10)) != 0 ] || sleep 0.3; i=$((i+1)); done'
    kubectl wait --for=jsonpath='{.status.containerStatuses[0].started}'=true pod/talker --timeout=60s || true
    # It ends by itself when the container does, with everything in order.
    same "followed" "$(seq -f 'line %g' 100 | sha256sum)" "$(timeout 60 kubectl logs -f talker | sha256sum)"
    same "the last lines" "line 99 line 100" "$(kubectl logs talker --tail=2 | xargs)"
    contains "a time stamp" "T" "$(kubectl logs talker --timestamps --tail=1 | cut -d' ' -f1)"
    same "bytes" 7 "$(kubectl logs talker --limit-bytes=7 | wc -c)"
    kubectl delete pod talker --timeout=60s
    # The log of the container before.
    kubectl run again --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 -- \
        sh -c 'echo "I am $(cat /proc/sys/kernel/random/uuid)"; sleep 2; exit 1'
    eventually 60 restarted again
    local before
    before="$(kubectl logs again --previous)"
    contains "the log before" "I am" "$before"
    [ "$before" != "$(kubectl logs again)" ]
    kubectl delete pod again --timeout=60s
}

restarted() { [ "$(field "pod/$1" '{.status.containerStatuses[0].restartCount}')" -ge 1 ]; }

check_port_forward() {
    settled
    local forwarder n
    kubectl port-forward pod/tool 18081:8080 >"$WORK/forward" 2>&1 &
    forwarder=$!
    eventually 20 grep -q 'Forwarding from 127' "$WORK/forward"
    for n in 1 2 3; do same "answer $n" tool "$(get http://127.0.0.1:18081/hostname)"; done
    # Many at once over the one connection.
    for n in $(seq 20); do get "http://127.0.0.1:18081/echo?msg=$n" >"$WORK/forward-$n" & done
    wait $(jobs -p | grep -vx "$forwarder")
    for n in $(seq 20); do same "answer at once" "$n" "$(cat "$WORK/forward-$n")"; done
    # Nobody listens there; the next one works all the same.
    kill "$forwarder"
    kubectl port-forward service/web 18082:80 >"$WORK/forward" 2>&1 &
    forwarder=$!
    eventually 20 grep -q 'Forwarding from 127' "$WORK/forward"
    contains "a pod of the service" web- "$(get http://127.0.0.1:18082/hostname)"
    kill "$forwarder"
}

check_cp() {
    local tree="$WORK/tree"
    rm -rf "$tree" "$tree-back"
    mkdir -p "$tree/below"
    head -c 3000000 /dev/urandom >"$tree/blob"
    echo text >"$tree/below/file"
    chmod 0750 "$tree/below/file"
    kubectl cp "$tree" tool:/tmp/tree -c tool
    same "mode in the pod" 750 "$(kubectl exec tool -c tool -- stat -c %a /tmp/tree/below/file)"
    kubectl cp tool:/tmp/tree "$tree-back" -c tool
    diff -r "$tree" "$tree-back"
}

check_debug() {
    kubectl debug tool --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 --target=server --container=looker -- sleep 100000
    eventually 60 running_ephemeral looker
    # It sees the processes of its target, and its files through them.
    contains "processes that it sees" netexec "$(kubectl exec tool -c looker -- ps)"
    contains "files of its target" agnhost "$(kubectl exec tool -c looker -- ls /proc/1/root/)"
    same "answer in the pod's network" tool "$(kubectl exec tool -c looker -- wget -qO- http://127.0.0.1:8080/hostname)"
    is pod/tool '{.status.containerStatuses[*].restartCount}' "0 0"
    # A copy of the pod with another command.
    kubectl debug tool --copy-to=copy --container=tool -- sleep 100000
    kubectl wait --for=condition=Ready pod/copy --timeout=60s
    kubectl delete pod copy --timeout=60s
    # The node itself.
    kubectl debug "node/$NODE" --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 --profile=sysadmin -- sh -c 'cat /host/etc/berth/config.toml'
    local pod
    pod="$(kubectl get pods -o name | grep node-debugger)"
    kubectl wait --for=jsonpath='{.status.phase}'=Succeeded "$pod" --timeout=60s
    contains "a file of the node" certs.d "$(kubectl logs "$pod")"
    kubectl delete "$pod" --timeout=60s
}

running_ephemeral() {
    [ -n "$(field pod/tool "{.status.ephemeralContainerStatuses[?(@.name==\"$1\")].state.running.startedAt}")" ]
}

check_top() {
    kubectl -n kube-system rollout status deployment/metrics-server --timeout=90s
    kubectl wait --for=condition=Available apiservice/v1beta1.metrics.k8s.io --timeout=90s
    eventually 90 kubectl top node "$NODE" --no-headers
    # Work that can be seen: half a CPU, by its limit.
    local worker
    kubectl exec tool -c tool -- timeout 90 sh -c 'while :; do :; done' &
    worker=$!
    eventually 90 busy
    contains "containers" "server tool" "$(kubectl top pod tool --containers --no-headers | awk '{print $2}' | sort | xargs)"
    kubectl top pod --sum=true
    kill "$worker" 2>/dev/null || true
}

busy() {
    local line cpu memory
    line="$(kubectl top pod tool --containers --no-headers | grep -w 'tool *tool')"
    cpu="$(awk '{print $3}' <<<"$line")"
    memory="$(awk '{print $4}' <<<"$line")"
    echo "tool uses $cpu and $memory"
    [ "${cpu%m}" -gt 300 ] && [ "${cpu%m}" -lt 650 ] && [ "${memory%Mi}" -ge 0 ]
}
