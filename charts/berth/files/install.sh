#!/bin/sh
# Puts Berth on a node in place of its container runtime, and takes it off again; run in a pod of the chart's DaemonSet.
#
#   install.sh install     waits for its turn, drains the node and brings it to Berth, or upgrades Berth
#   install.sh uninstall   the way back: every file and unit is again as it was before
#   install.sh stay        nothing, until it is told to end
#
# What it does to the node is in host.sh, and how that survives being interrupted.
SCRIPTS="$(cd "$(dirname "$0")" && pwd)"
. "$SCRIPTS/host.sh"

# ---- what is to be installed ---------------------------------------------------------------------------------------

# wanted: hash of everything that an installation is made of.
wanted() {
    {
        find "$SOURCES" -type f | LC_ALL=C sort | while read -r file; do sha256sum "$file"; done
        for file in "$SCRIPTS/host.sh" "$SCRIPTS/install.sh" "$CONFIG/config.toml" "$SECRET/tls.crt" "$SECRET/tls.key" "$SECRET/token"; do
            [ ! -e "$file" ] || sha256sum "$file"
        done
        for name in $SETTINGS NODE_ADDRESS; do
            case "$name" in HASH | ADOPTED | REMOVE_IMAGES) continue ;; esac
            eval "printf '%s=%s\n' \"\$name\" \"\${$name:-}\""
        done
    } | sha256sum | cut -d' ' -f1
}

# stage FILE PATH MODE: a copy of a file, below new.tmp, at its place.
stage() {
    mkdir -p "$S/new.tmp/files$(dirname "$2")"
    cat "$1" >"$S/new.tmp/files$2"
    chmod "$3" "$S/new.tmp/files$2"
}

# stage_all: everything, in a directory that has its name only when it is whole.
stage_all() {
    [ "$(cat "$S/new/for" 2>/dev/null)" != "$HASH" ] || return 0
    rm -rf "$S/new" "$S/new.tmp"
    mkdir -p "$S/new.tmp"
    for program in berth berth-keeper berth-runtime; do
        stage "$SOURCES/programs/$program" "$BIN_DIR/$program" 755
    done
    for unit in berth berth-keeper; do
        sed "s|/usr/bin/berth|$BIN_DIR/berth|g" "$SOURCES/units/$unit.service" >"$S/unit.tmp"
        stage "$S/unit.tmp" "$UNIT_DIR/$unit.service" 644
        rm -f "$S/unit.tmp"
    done
    case "$NODE_ADDRESS" in *:*) address="[$NODE_ADDRESS]" ;; *) address="$NODE_ADDRESS" ;; esac
    sed "s|@NODE_ADDRESS@|$address|g" "$CONFIG/config.toml" >"$S/config.tmp"
    stage "$S/config.tmp" /etc/berth/config.toml 600
    rm -f "$S/config.tmp"
    for name in tls.crt tls.key token; do
        if [ -e "$SECRET/$name" ]; then stage "$SECRET/$name" "/etc/berth/metrics/$name" 600; fi
    done
    cat "$SOURCES/crictl" >"$S/crictl.tmp"
    chmod 755 "$S/crictl.tmp"
    mv -f "$S/crictl.tmp" "$S/crictl"
    cat "$SCRIPTS/host.sh" >"$S/host.sh.tmp"
    mv -f "$S/host.sh.tmp" "$S/host.sh"
    write "$S/new.tmp/for" "$HASH"
    mv "$S/new.tmp" "$S/new"
}

# forget_dropped: what an earlier version installed and this one does not is again what it was.
forget_dropped() {
    sed -n 's/^\(file\|none\) //p' "$S/backup/list" | while read -r path; do
        case "$path" in "$KUBELET_CONFIG" | "$KUBELET_FLAGS" | "$UNIT_DIR/$SWITCH") continue ;; esac
        [ -e "$S/new/files$path" ] || restore "$path"
    done
}

save_settings() {
    for name in $SETTINGS; do
        eval "value=\"\${$name:-}\""
        case "$value" in *\'*) die "$name has a quote in it: $value" ;; esac
        printf "%s='%s'\n" "$name" "$value"
    done >"$S/settings.tmp"
    mv -f "$S/settings.tmp" "$S/settings"
}

# ---- in a pod ------------------------------------------------------------------------------------------------------

lease() {
    printf '%s\n' "apiVersion: coordination.k8s.io/v1" "kind: Lease" "metadata:" "  name: $LEASE" "  namespace: $NAMESPACE" \
        ${1:+"  resourceVersion: \"$1\""} "spec:" "  holderIdentity: \"$NODE\""
}

# lock: one node at a time. A node that fails keeps the lease, so that what broke it does not reach the next one.
lock() {
    told=
    while :; do
        if problem="$(lease | kubectl create -f - 2>&1)"; then return 0; fi
        found="$(kubectl -n "$NAMESPACE" get lease "$LEASE" -o 'jsonpath={.metadata.resourceVersion} {.spec.holderIdentity}' 2>/dev/null)" || found=
        holder="${found#* }"
        [ "$holder" != "$NODE" ] || return 0
        if [ -n "$holder" ] && gone="$(kubectl get node "$holder" --ignore-not-found -o name)" && [ -z "$gone" ]; then
            # Replacing this very version fails if another node was faster.
            if lease "${found%% *}" | kubectl replace -f -; then return 0; fi
        fi
        [ "$told" = "$holder" ] || say "waiting for ${holder:-the API server: $problem}"
        told="$holder"
        sleep "${PAUSE_SECONDS:-5}"
    done
}

unlock() {
    holder="$(kubectl -n "$NAMESPACE" get lease "$LEASE" --ignore-not-found -o 'jsonpath={.spec.holderIdentity}')" || return 1
    [ "$holder" != "$NODE" ] || kubectl -n "$NAMESPACE" delete lease "$LEASE" --wait=false
}

# drain: remembers at the node whether it was cordoned by us.
drain() {
    [ "$DRAIN" = true ] || return 0
    if [ "$(kubectl get node "$NODE" -o 'jsonpath={.spec.unschedulable}')" != true ]; then
        kubectl annotate --overwrite node "$NODE" "$CORDONED=true"
        kubectl cordon "$NODE"
    fi
    # shellcheck disable=SC2086 # these are words
    kubectl drain "$NODE" --ignore-daemonsets --delete-emptydir-data --timeout "$DRAIN_TIMEOUT" $DRAIN_OPTIONS || {
        uncordon
        die "node $NODE could not be drained; nothing was changed"
    }
}

uncordon() {
    found="$(kubectl get node "$NODE" -o "jsonpath={.metadata.annotations.$(printf '%s' "$CORDONED" | sed 's/\./\\./g')}")" || return 1
    [ -n "$found" ] || return 0
    kubectl uncordon "$NODE" && kubectl annotate node "$NODE" "$CORDONED-"
}

# finish: gives the node and the turn back, however long the API server is away (it may run on this very node).
finish() {
    wait_for 600 uncordon || die "node $NODE cannot be uncordoned"
    wait_for 600 unlock || die "lease $LEASE cannot be given back"
}

# check_host: what can be known to go wrong before anything is changed.
check_host() {
    on_host systemctl cat "$KUBELET_UNIT" >/dev/null 2>&1 || die "this node has no $KUBELET_UNIT: set kubelet.unit"
    [ -f "$HOST$KUBELET_CONFIG" ] || die "this node has no $KUBELET_CONFIG: set kubelet.config"
    [ ! -L "$HOST$KUBELET_CONFIG" ] || die "$KUBELET_CONFIG is a link: set kubelet.config to the file itself"
    grep -q '^kind: *KubeletConfiguration' "$HOST$KUBELET_CONFIG" || die "$KUBELET_CONFIG is not a KubeletConfiguration in YAML"
}

# check_config: with the staged program, which reads files of the secret where they are still staged.
check_config() {
    sed "s|/etc/berth/metrics/|$PLACE/new/files/etc/berth/metrics/|g" "$S/new/files/etc/berth/config.toml" >"$S/check.toml"
    on_host "$PLACE/new/files$BIN_DIR/berth" config check --config "$PLACE/check.toml" || die "the configuration is refused; nothing was changed"
    rm -f "$S/check.toml"
}

back_up_all() {
    mkdir -p "$S/backup/files"
    for path in $(files_in "$S/new/files") "$KUBELET_CONFIG" "$KUBELET_FLAGS"; do back_up "$path"; done
    for unit in "$RUNTIME_UNIT" berth-keeper.service berth.service; do back_up_unit "$unit"; done
}

# await_switch: the pod usually ends while it waits.
await_switch() {
    say "handed over to $SWITCH on the host"
    while :; do
        now="$(phase)"
        case " switching restoring backing-out " in *" $now "*) sleep 1 ;; *) return 0 ;; esac
    done
}

# check_failed: the node takes pods again, with what it had before; the lease stays here.
check_failed() {
    if [ ! -e "$S/failed" ] || [ "$(cut -d' ' -f1 "$S/failed")" != "$HASH" ]; then return 0; fi
    wait_for 600 uncordon || say "node $NODE cannot be uncordoned"
    die "this version failed on node $NODE at: $(cut -d' ' -f2- "$S/failed"). It is not tried again: change the release, or remove $PLACE/failed on the node"
}

# upgrade: containers live on, so the node is not drained.
upgrade() {
    [ "$(. "$S/settings" && printf '%s' "$CGROUP_DRIVER")" = "$CGROUP_DRIVER" ] ||
        die "the cgroup driver cannot be changed under running pods: uninstall first"
    if [ "$(cat "$S/last/for" 2>/dev/null)" != "$HASH" ]; then
        rm -rf "$S/last" "$S/last.tmp"
        mkdir -p "$S/last.tmp/files"
        files_in "$S/new/files" | while read -r path; do
            there "$HOST$path" || continue
            mkdir -p "$S/last.tmp/files$(dirname "$path")"
            cp -p "$HOST$path" "$S/last.tmp/files$path"
        done
        write "$S/last.tmp/for" "$HASH"
        mv "$S/last.tmp" "$S/last"
    fi
    put "$S/new/files"
    forget_dropped
    if restart_berth; then
        save_settings
        write "$S/phase" installed
        return 0
    fi
    write "$S/failed" "$HASH restarting Berth (journalctl -u berth)"
    put "$S/last/files"
    restart_berth || true
    check_failed
}

install() {
    mkdir -p "$S"
    check_host
    HASH="$(wanted)"
    # What it has been cut off from.
    if [ "$(phase)" = installed ] && [ -e "$HOST$UNIT_DIR/$SWITCH" ]; then end_switch; fi
    if [ "$(phase)" = installed ] && [ "$(. "$S/settings" && printf '%s' "$HASH")" = "$HASH" ]; then
        wait_for "$WAIT_SECONDS" serves || die "Berth is installed and does not serve: see journalctl -u berth on node $NODE"
        finish
        say "Berth serves on node $NODE"
        return 0
    fi
    check_failed
    lock
    case "$(phase)" in
    "")
        # Nothing of ours is in force: what was noted is of an attempt that ended early.
        rm -rf "$S/backup" "$S/edited" "$S/settings" "$S/last"
        ;;
    switching | restoring | backing-out)
        resume
        die "node $NODE was between two runtimes; now trying again"
        ;;
    esac
    stage_all
    check_config
    back_up_all
    if [ "$(phase)" = installed ]; then
        upgrade
    elif [ "$(runtime_of_kubelet)" = "$ENDPOINT" ]; then
        # Somebody installed Berth by hand: its files are replaced, and come back.
        ADOPTED=yes
        (HASH='' && save_settings)
        write "$S/phase" installed
        upgrade
    else
        drain
        save_settings
        begin_switch switching
        await_switch
        check_failed
        [ "$(phase)" = installed ] || die "trying again"
    fi
    rm -f "$S/failed"
    finish
    say "Berth serves on node $NODE"
}

# resume: goes on with what was cut off on the host.
resume() {
    on_host systemctl start --no-block "$SWITCH"
    await_switch
}

uninstall() {
    case "$(phase)" in switching | backing-out) resume ;; esac
    if [ -z "$(phase)" ]; then
        rm -rf "$S"
        finish
        say "nothing of Berth is left on node $NODE"
        return 0
    fi
    lock
    asked="$REMOVE_IMAGES"
    . "$S/settings"
    REMOVE_IMAGES="$asked"
    save_settings
    if [ "$ADOPTED" = yes ]; then
        restore_all
        restart_berth || say "Berth as it was before does not serve"
        rm -rf "$S"
    else
        [ "$(phase)" = restoring ] || drain
        begin_switch restoring
        await_switch
    fi
    finish
    say "node $NODE is as it was before"
}

# From the environment of the pod; what the way back needs is read from the settings.
ADOPTED="${ADOPTED:-no}"
SOURCES="${SOURCES:-/berth}"
CONFIG="${CONFIG:-/config}"
SECRET="${SECRET:-/secret}"
CORDONED="${CORDONED:-berth.local/cordoned}"
case "${1:-}" in
install | uninstall) "$1" ;;
stay)
    trap 'exit 0' TERM INT
    while :; do
        sleep 3600 &
        wait $! || true
    done
    ;;
*) die "usage: install.sh install|uninstall|stay" ;;
esac
