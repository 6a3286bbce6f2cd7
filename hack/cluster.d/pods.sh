# Checks of hack/cluster: pods that need an API server; sourced, never run.

inside_projected() { kubectl exec projected -- "$@"; }

check_projected() {
    kubectl wait --for=condition=Ready pod/projected --timeout=60s
    same "secret" "open sesame" "$(inside_projected cat /all/secret/password)"
    same "configMap" green "$(inside_projected cat /all/settings/color)"
    same "sub path" green "$(inside_projected cat /one/color)"
    same "labels" 'app="projected"' "$(inside_projected cat /all/pod/labels)"
    same "annotation" "from the annotation" "$(inside_projected cat /all/pod/note)"
    same "limit" 67108864 "$(inside_projected cat /all/pod/limit)"
    same "environment" "green/open sesame/67108864/$(field pod/projected '{.status.podIP}')" \
        "$(inside_projected sh -c 'echo "$COLOR/$PASSWORD/$LIMIT/$ADDRESS"')"
    # The group of the volume may read what others may not.
    same "modes" "440 2000" "$(inside_projected stat -Lc '%a %g' /all/settings/color)"
    if inside_projected sh -c ': >/all/new'; then echo "the volume is writable" && return 1; fi
    token
    kubectl patch configmap settings -p '{"data":{"color":"blue"}}'
    kubectl annotate --overwrite pod/projected note=changed
    eventually 120 changed
}

changed() {
    same "configMap after its change" blue "$(inside_projected cat /all/settings/color)"
    same "annotation after its change" changed "$(inside_projected cat /all/pod/note)"
    # What a path of its own was mounted from stays as it was.
    same "sub path after the change" green "$(inside_projected cat /one/color)"
}

# token: the pod's own credentials work, and only for what they are for.
token() {
    local place=/var/run/secrets/kubernetes.io/serviceaccount api="https://$NODE_ADDRESS:6443"
    inside_projected cat "$place/ca.crt" >"$WORK/pod-ca.crt"
    same "namespace" default "$(inside_projected cat "$place/namespace")"
    local own
    own="Authorization: Bearer $(inside_projected cat "$place/token")"
    contains "pods that it may list" projected \
        "$(curl -fsS --cacert "$WORK/pod-ca.crt" -H "$own" "$api/api/v1/namespaces/default/pods" | jq -r '.items[].metadata.name')"
    same "answer for secrets" 403 "$(curl -sS -o /dev/null -w '%{http_code}' --cacert "$WORK/pod-ca.crt" -H "$own" \
        "$api/api/v1/namespaces/default/secrets")"
    same "whom the other token is for" berth-check "$(inside_projected cat /all/token | cut -d. -f2 | tr '_-' '/+' |
        sed -e 's/$/===/' | base64 -di 2>/dev/null | jq -r '.aud[0]')"
}

check_pull_secrets() {
    kubectl apply -f - <<POD
apiVersion: v1
kind: Pod
metadata: {name: locked}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: $PRIVATE/berth/agnhost:1, args: [pause], imagePullPolicy: Always}]
POD
    eventually 60 refused
    kubectl delete pod locked --timeout=60s
    kubectl create secret docker-registry wrong --docker-server="$PRIVATE" --docker-username=puller --docker-password=loud
    kubectl create secret docker-registry right --docker-server="$PRIVATE" --docker-username=puller --docker-password=hush
    pulling wrong
    eventually 60 refused
    kubectl delete pod locked --timeout=60s
    pulling right
    kubectl wait --for=condition=Ready pod/locked --timeout=60s
    kubectl delete pod/locked secret/wrong secret/right --timeout=60s
}

pulling() {
    kubectl apply -f - <<POD
apiVersion: v1
kind: Pod
metadata: {name: locked}
spec:
  terminationGracePeriodSeconds: 1
  imagePullSecrets: [{name: $1}]
  containers: [{name: main, image: $PRIVATE/berth/agnhost:1, args: [pause], imagePullPolicy: Always}]
POD
}

# refused: the pod waits for its image, and its events say why.
refused() {
    contains "what the pod waits for" Pull "$(field pod/locked '{.status.containerStatuses[0].state.waiting.reason}')"
    kubectl events --for pod/locked | grep -iE 'unauthorized|authentication|401|denied'
}

# limits POD CONTAINER: CPU quota and memory limit as its own cgroup has them.
limits() {
    kubectl exec "$1" -c "$2" -- sh -c 'cd /sys/fs/cgroup; if [ -e cpu.max ]; then cat cpu.max memory.max | xargs
        else echo "$(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us) $(cat memory/memory.limit_in_bytes)"; fi'
}

check_resize() {
    kubectl wait --for=condition=Ready pod/tool --timeout=60s
    local id
    id="$(field pod/tool '{.status.containerStatuses[?(@.name=="tool")].containerID}')"
    same "limits at first" "50000 100000 67108864" "$(limits tool tool)"
    kubectl patch pod tool --subresource resize --patch \
        '{"spec":{"containers":[{"name":"tool","resources":{"requests":{"cpu":"20m"},"limits":{"cpu":"800m","memory":"96Mi"}}}]}}'
    eventually 60 resized "80000 100000 100663296"
    is pod/tool '{.status.containerStatuses[?(@.name=="tool")].resources.limits.memory}' 96Mi
    is pod/tool '{.status.containerStatuses[?(@.name=="tool")].resources.limits.cpu}' 800m
    # And down again.
    kubectl patch pod tool --subresource resize --patch \
        '{"spec":{"containers":[{"name":"tool","resources":{"limits":{"cpu":"500m","memory":"64Mi"}}}]}}'
    eventually 60 resized "50000 100000 67108864"
    is pod/tool '{.status.containerStatuses[?(@.name=="tool")].resources.limits.memory}' 64Mi
    is pod/tool '{.status.containerStatuses[?(@.name=="tool")].containerID}' "$id"
    is pod/tool '{.status.containerStatuses[?(@.name=="tool")].restartCount}' 0
}

resized() { same "limits after resizing" "$1" "$(limits tool tool)"; }
