#!/bin/sh
# Stands for the programs that the chart's scripts call, by the name it is called with. A node and its cluster are
# files below $STUB: units/NAME.{enabled,active}, cluster/…, log. $HOST is the node's file system.
#
# Everything that has an effect is counted in $STUB/count; before effect number $DIE_AT it kills its process group,
# as a power cut would. A line of $STUB/fail that equals a command makes it fail.
set -eu

name="${0##*/}"
units="$STUB/units"
cluster="$STUB/cluster"
stubs="${PATH%%:*}"
# Its own programs are real ones.
PATH="${PATH#*:}"

effect() {
    count=$(($(cat "$STUB/count" 2>/dev/null || echo 0) + 1))
    echo "$count" >"$STUB/count"
    [ "$count" != "${DIE_AT:-0}" ] || kill -KILL 0
    echo "$name $*" >>"$STUB/log"
    ! grep -qxF "$name $*" "$STUB/fail" 2>/dev/null || exit 1
}

# kubelet runs if the runtime does that it was pointed at.
kubelet_runtime() {
    flags="$HOST/var/lib/kubelet/kubeadm-flags.env"
    endpoint="$(sed -n 's/.*--container-runtime-endpoint[= ]\([^ "]*\).*/\1/p' "$flags" 2>/dev/null || true)"
    [ -n "$endpoint" ] ||
        endpoint="$(sed -n 's/^containerRuntimeEndpoint: *//p' "$HOST/var/lib/kubelet/config.yaml" | tr -d '"')"
    case "$endpoint" in
    unix:///run/berth/*) echo berth.service ;;
    unix:///run/containerd/*) echo containerd.service ;;
    *) echo none ;;
    esac
}

active() {
    [ -e "$units/$1.active" ] || return 1
    [ "$1" != kubelet.service ] || [ -e "$units/$(kubelet_runtime).active" ]
}

start() {
    case "$1" in
    berth-switch.service)
        grep -q 'ExecStart=/bin/sh /var/lib/berth-install/host.sh switch' "$HOST/etc/systemd/system/$1"
        # With the host's own shell and programs, not with the pod's.
        PATH="$stubs:/usr/sbin:/usr/bin:/sbin:/bin" /bin/sh "$HOST/var/lib/berth-install/host.sh" switch \
            >>"$STUB/switch.log" 2>&1 || true
        ;;
    berth*)
        [ -e "$HOST/etc/systemd/system/$1" ]
        [ -x "$HOST$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$HOST/etc/systemd/system/$1")" ]
        touch "$units/$1.active"
        ;;
    *) touch "$units/$1.active" ;;
    esac
}

systemctl() {
    verb="$1"
    shift
    now=
    case "${1:-}" in --now) now=yes; shift ;; --quiet | --no-block) shift ;; esac
    case "$verb" in
    is-active) active "$1" ;;
    is-enabled) if [ -e "$units/$1.enabled" ]; then echo enabled; else echo disabled; return 1; fi ;;
    cat) [ -e "$units/$1.there" ] ;;
    daemon-reload) ;;
    enable) for unit in "$@"; do touch "$units/$unit.enabled"; done ;;
    disable)
        for unit in "$@"; do
            rm -f "$units/$unit.enabled"
            [ -z "$now" ] || rm -f "$units/$unit.active"
        done
        ;;
    start) start "$1" ;;
    stop) rm -f "$units/$1.active" ;;
    reload) active "$1" ;;
    restart) start "$1" ;;
    *) echo "systemctl $verb is not known" >&2; return 1 ;;
    esac
}

kubectl() {
    [ "$1" != -n ] || shift 2
    case "$1 ${2:-} ${3:-}" in
    "create -f -")
        [ ! -e "$cluster/lease" ] || { echo "leases already exists" >&2; return 1; }
        cat >"$cluster/lease"
        ;;
    "replace -f -")
        cat >"$cluster/lease.new"
        grep -qF "resourceVersion: \"7\"" "$cluster/lease.new"
        mv "$cluster/lease.new" "$cluster/lease"
        ;;
    "get lease "*)
        holder="$(sed -n 's/^  holderIdentity: "\(.*\)"/\1/p' "$cluster/lease" 2>/dev/null || true)"
        case "$*" in
        *resourceVersion*) [ -n "$holder" ] && printf '7 %s' "$holder" ;;
        *) printf '%s' "$holder" ;;
        esac
        ;;
    "delete lease "*) rm "$cluster/lease" ;;
    "get node "*)
        case "$*" in
        *unschedulable*) [ ! -e "$cluster/$3.cordoned" ] || printf true ;;
        *annotations.berth\\.local/cordoned*) [ ! -e "$cluster/$3.annotated" ] || printf true ;;
        *--ignore-not-found*) [ ! -e "$cluster/$3.node" ] || printf 'node/%s' "$3" ;;
        *) return 1 ;;
        esac
        ;;
    "annotate --overwrite node") touch "$cluster/$4.annotated" ;;
    "annotate node "*) rm -f "$cluster/$3.annotated" ;;
    "cordon "*) touch "$cluster/$2.cordoned" ;;
    "drain "*) touch "$cluster/$2.cordoned" ;;
    "uncordon "*) rm -f "$cluster/$2.cordoned" ;;
    *) echo "kubectl $* is not known" >&2; return 1 ;;
    esac
}

case "$name" in
nsenter)
    [ "$1 $2 $3 $4 $5 $6 $7 $8" = "-t 1 -m -u -i -n -p --" ]
    shift 8
    program="$1"
    shift
    case "$program" in /*) program="$HOST$program" ;; *) program="$stubs/$program" ;; esac
    PATH="$stubs:$PATH"
    exec "$program" "$@"
    ;;
systemctl)
    case "$1" in is-* | cat) ;; *) effect "$@" ;; esac
    systemctl "$@"
    ;;
kubectl)
    case "$*" in *get*) ;; *) effect "$@" ;; esac
    kubectl "$@"
    ;;
crictl) effect "$@" ;;
# Time passes at once, but nobody spins.
sleep) exec sleep 0.01 ;;
mv | cp | rm | rmdir)
    effect "$@"
    exec "$name" "$@"
    ;;
*)
    echo "$name is not known" >&2
    exit 1
    ;;
esac
