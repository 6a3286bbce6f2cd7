# The control plane of hack/cluster: certificates, etcd, the API server and the controllers; sourced, never run.
#
# All of it listens in the network namespace of the cluster only.

# The node's address: pods reach the API server there, and it reaches them.
NODE_ADDRESS=192.0.2.10
NODE=berth-node
SERVICES=10.96.0
PKI="$WORK/pki"
KUBECONFIG="$WORK/admin.kubeconfig"
export KUBECONFIG

# certificate NAME CA SUBJECT [EXTENSION…]: a key and a certificate signed by an authority.
certificate() {
    local name="$1" ca="$2" subject="$3"
    shift 3
    printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature,keyEncipherment "$@" \
        >"$PKI/$name.ext"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$subject" \
        -keyout "$PKI/$name.key" -out "$PKI/$name.csr" 2>/dev/null
    openssl x509 -req -in "$PKI/$name.csr" -CA "$PKI/$ca.crt" -CAkey "$PKI/$ca.key" -CAcreateserial -days 2 \
        -extfile "$PKI/$name.ext" -out "$PKI/$name.crt" 2>/dev/null
}

authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" \
        -addext keyUsage=critical,keyCertSign,digitalSignature -keyout "$PKI/$1.key" -out "$PKI/$1.crt" 2>/dev/null
}

make_certificates() {
    local server=extendedKeyUsage=serverAuth client=extendedKeyUsage=clientAuth
    mkdir -p -m 0700 "$PKI"
    authority cluster-ca
    authority front-proxy-ca
    certificate apiserver cluster-ca /CN=kube-apiserver "$server" \
        "subjectAltName=DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$NODE_ADDRESS,IP:$SERVICES.1"
    certificate kubelet-server cluster-ca "/O=system:nodes/CN=system:node:$NODE" "$server" \
        "subjectAltName=DNS:$NODE,IP:$NODE_ADDRESS"
    certificate admin cluster-ca /O=system:masters/CN=admin "$client"
    certificate apiserver-kubelet cluster-ca /O=system:masters/CN=kube-apiserver-kubelet-client "$client"
    certificate kubelet cluster-ca "/O=system:nodes/CN=system:node:$NODE" "$client"
    certificate controller-manager cluster-ca /CN=system:kube-controller-manager "$client"
    certificate scheduler cluster-ca /CN=system:kube-scheduler "$client"
    certificate proxy cluster-ca /CN=system:kube-proxy "$client"
    certificate front-proxy front-proxy-ca /CN=front-proxy "$client"
    openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/service-accounts.key" 2>/dev/null
    openssl ec -in "$PKI/service-accounts.key" -pubout -out "$PKI/service-accounts.pub" 2>/dev/null
    local user
    for user in admin kubelet controller-manager scheduler proxy; do kubeconfig "$user"; done
}

kubeconfig() {
    cat >"$WORK/$1.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: berth, cluster: {server: "https://$NODE_ADDRESS:6443", certificate-authority: $PKI/cluster-ca.crt}}]
users: [{name: $1, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: berth, context: {cluster: berth, user: $1}}]
current-context: berth
CONFIG
}

start_etcd() {
    # What a power cut would lose is thrown away in any case.
    start etcd "$TOOLS/etcd" --name berth --data-dir "$WORK/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster berth=http://127.0.0.1:2380
    eventually 60 curl -fsS http://127.0.0.1:2379/health
}

start_api_server() {
    start kube-apiserver "$TOOLS/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
        --bind-address 0.0.0.0 --secure-port 6443 --advertise-address "$NODE_ADDRESS" \
        --client-ca-file "$PKI/cluster-ca.crt" \
        --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
        --service-cluster-ip-range "$SERVICES.0/24" \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file "$PKI/service-accounts.pub" \
        --service-account-signing-key-file "$PKI/service-accounts.key" \
        --kubelet-certificate-authority "$PKI/cluster-ca.crt" --kubelet-preferred-address-types InternalIP \
        --kubelet-client-certificate "$PKI/apiserver-kubelet.crt" --kubelet-client-key "$PKI/apiserver-kubelet.key" \
        --requestheader-client-ca-file "$PKI/front-proxy-ca.crt" --requestheader-allowed-names front-proxy \
        --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
        --requestheader-extra-headers-prefix X-Remote-Extra- \
        --proxy-client-cert-file "$PKI/front-proxy.crt" --proxy-client-key-file "$PKI/front-proxy.key"
    eventually 180 kubectl get --raw /readyz
}

start_controllers() {
    start kube-controller-manager "$TOOLS/kube-controller-manager" --leader-elect=false \
        --kubeconfig "$WORK/controller-manager.kubeconfig" --cert-dir "$WORK/controller-manager" \
        --use-service-account-credentials --service-account-private-key-file "$PKI/service-accounts.key" \
        --root-ca-file "$PKI/cluster-ca.crt"
    start kube-scheduler "$TOOLS/kube-scheduler" --leader-elect=false \
        --kubeconfig "$WORK/scheduler.kubeconfig" --cert-dir "$WORK/scheduler"
    eventually 60 kubectl get serviceaccount default
}

# Services' addresses: nftables beside Berth's own table.
start_proxy() {
    cat >"$WORK/proxy.yaml" <<CONFIG
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $NODE
clientConnection: {kubeconfig: $WORK/proxy.kubeconfig}
bindAddress: 0.0.0.0
# Limits of the whole machine stay as they are.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
CONFIG
    start kube-proxy "$TOOLS/kube-proxy" --config "$WORK/proxy.yaml"
    eventually 60 curl -fsS http://127.0.0.1:10256/livez
}

control_plane() {
    # The way to the rest of the world, which ends there.
    ip link add uplink type veth peer name world
    ip link set uplink up
    ip link set world up
    ip addr add "$NODE_ADDRESS/24" dev uplink
    ip route add default via "${NODE_ADDRESS%.*}.1"
    make_certificates
    start_etcd
    start_api_server
    start_controllers
}
