# hack/cluster --chart: a Helm chart against a real API server; sourced, never run.
#
# The chart's DaemonSet would change the node it runs on, so it is installed for nodes that are not there. What its
# scripts do to a node is not tried here.

NAMESPACE=berth-system
NOWHERE=(--set-string 'nodeSelector.example\.com/nowhere=true')

# rendered ARGUMENT…: the chart's objects, its hooks among them.
rendered() {
    helm template berth "$CHART" --namespace "$NAMESPACE" \
        --kube-version "$(kubectl version -o json | jq -r .serverVersion.gitVersion)" "$@"
}

# Every object is one that the API server takes as it is, unknown fields being errors.
check_chart() {
    helm lint "$CHART"
    kubectl create namespace "$NAMESPACE"
    rendered >"$WORK/chart.yaml"
    kubectl apply --server-side --dry-run=server --validate=strict -f "$WORK/chart.yaml"
    rendered --set drain.enabled=false --set metrics.enabled=false >"$WORK/chart-less.yaml"
    kubectl apply --server-side --dry-run=server --validate=strict -f "$WORK/chart-less.yaml"
}

check_chart_install() {
    helm install berth "$CHART" --namespace "$NAMESPACE" "${NOWHERE[@]}" --wait --timeout 60s
    local class account name
    same "pods that it wants" 0 "$(kubectl -n "$NAMESPACE" get daemonsets -o 'jsonpath={.items[*].status.desiredNumberScheduled}')"
    account="$(kubectl -n "$NAMESPACE" get daemonsets -o 'jsonpath={.items[0].spec.template.spec.serviceAccountName}')"
    for name in 'get nodes' 'patch nodes' 'create pods --subresource eviction'; do
        same "whether it may $name" yes "$(kubectl auth can-i $name --as "system:serviceaccount:$NAMESPACE:$account" -A)"
    done
    same "whether it may read secrets" no "$(kubectl auth can-i get secrets --as "system:serviceaccount:$NAMESPACE:$account" -A || true)"
    # Pods of its RuntimeClasses run.
    for class in $(kubectl get runtimeclasses -o 'jsonpath={.items[*].metadata.name}'); do
        kubectl run "of-$class" --image=registry.k8s.io/e2e-test-images/busybox:1.29-2 --restart=Never \
            --overrides="{\"spec\":{\"runtimeClassName\":\"$class\"}}" -- echo "ran as $class"
        kubectl wait --for=jsonpath='{.status.phase}'=Succeeded "pod/of-$class" --timeout=60s
        contains "log" "ran as $class" "$(kubectl logs "of-$class")"
        kubectl delete pod "of-$class" --timeout=60s
    done
    [ -n "${class:-}" ]
}

check_chart_upgrade() {
    helm upgrade berth "$CHART" --namespace "$NAMESPACE" "${NOWHERE[@]}" --set waitSeconds=61 --wait --timeout 60s
    same "revisions" "1 2" "$(helm history berth --namespace "$NAMESPACE" -o json | jq -r '.[].revision' | xargs)"
}

# Without its hook, which undoes what was never done to this node.
check_chart_uninstall() {
    helm uninstall berth --namespace "$NAMESPACE" --no-hooks --wait --timeout 60s
    same "what is left" "" "$(kubectl get runtimeclasses,clusterroles,clusterrolebindings \
        -l app.kubernetes.io/instance=berth -o name)"
    same "what is left in the namespace" "" "$(kubectl -n "$NAMESPACE" get all,configmaps,serviceaccounts,roles,rolebindings \
        -l app.kubernetes.io/instance=berth -o name)"
}
