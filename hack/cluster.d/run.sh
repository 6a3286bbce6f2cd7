# Processes, waiting and checks of hack/cluster; sourced, never run.

# start NAME COMMAND…: in the background, with its log in $WORK/logs.
start() {
    local name="$1"
    shift
    printf -- '--- %s\n' "$*" >>"$WORK/logs/$name.log"
    "$@" >>"$WORK/logs/$name.log" 2>&1 </dev/null &
    printf '%s\n' "$!" >"$WORK/pids/$name"
    # Killing it is no news.
    disown "$!"
}

# running NAME: true while its process is there, a zombie too: its other threads may still be at it.
running() { [ -d "/proc/$(cat "$WORK/pids/$1")" ]; }

# end NAME SIGNAL: sends it and waits until the process is gone.
end() {
    kill -s "$2" "$(cat "$WORK/pids/$1")"
    local tries
    for tries in $(seq 300); do
        running "$1" || return 0
        sleep 0.1
    done
    echo "$1 does not end"
    return 1
}

# eventually SECONDS COMMAND…: tries until it succeeds; what it said last is told if it does not.
eventually() {
    local deadline=$((SECONDS + $1)) output name
    shift
    while ! output="$("$@" 2>&1)"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            printf 'not in time: %s\n%s\n' "$*" "$output" >&2
            [ -n "${IN_CHECK:-}" ] || for name in "$WORK"/pids/*; do
                running "${name##*/}" || { echo "${name##*/} has ended:" && tail -n 20 "$WORK/logs/${name##*/}.log"; } >&2
            done
            return 1
        fi
        sleep 0.3
    done
}

# same WHAT EXPECTED ACTUAL
same() {
    [ "$2" = "$3" ] || { printf '%s: expected <%s>, is <%s>\n' "$1" "$2" "$3" && return 1; }
}

# contains WHAT PART ACTUAL
contains() {
    case "$3" in *"$2"*) ;; *) printf '%s: no <%s> in <%s>\n' "$1" "$2" "$3" && return 1 ;; esac
}

# field RESOURCE JSONPATH
field() { kubectl get "$1" -o "jsonpath=$2"; }

# is RESOURCE JSONPATH VALUE: for `eventually`.
is() { same "$1 $2" "$3" "$(field "$1" "$2")"; }

# get URL: what a server says.
get() { curl -fsS --max-time 5 "$1"; }

PASSED=0
FAILED=()

# check NAME: runs the function of that name, prints one line and keeps count.
check() {
    local name="$1" log="$WORK/logs/check-$1.log" begin status=0 took
    begin="$(date +%s%N)"
    # Not as a condition: in one, the shell would not stop at the first failure.
    set +e
    (
        set -e
        IN_CHECK=1
        "check_$name"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    took="$((($(date +%s%N) - begin) / 1000000))"
    if [ "$status" = 0 ]; then
        PASSED=$((PASSED + 1))
        printf 'ok      %6d.%d s  %s\n' "$((took / 1000))" "$((took / 100 % 10))" "$name"
    else
        FAILED+=("$name")
        printf 'FAILED  %6d.%d s  %s\n' "$((took / 1000))" "$((took / 100 % 10))" "$name"
        tail -n 20 "$log" | sed 's/^/        /'
    fi
}

# summary: what became of the checks; fails if one did.
summary() {
    [ "$MODE" != shell ] || return 0
    printf '%d of %d checks passed\n' "$PASSED" "$((PASSED + ${#FAILED[@]}))"
    [ ${#FAILED[@]} = 0 ] || printf 'failed: %s\n' "${FAILED[*]}"
    [ ${#FAILED[@]} = 0 ]
}
