#!/usr/bin/env bash
# The formal models of the state plane and of the peers' word (docs/model, docs/decisions/0019, 0046): exhaustive runs must find nothing,
# and every protection that is left out on purpose must be missed. Usage: scripts/model.sh [quick]
# Exits 0 when all of it is as it should be, 1 when not, 3 when it cannot run.
set -euo pipefail
cd "$(dirname "$0")/../docs/model"

MEMORY_MB=2000   # of one run
RUN_S=300        # of one run: a hang, not a long run
DEPTH=20000

for tool in spin gcc; do
  command -v $tool >/dev/null || { echo "model: $tool is missing (scripts/setup.sh installs it)" >&2; exit 3; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# model | what it covers | defines
exhaustive='
view  | view change: crash and eviction, promotion, repair  |
view  | the same with a member that joins                   | -DJOINS=1 -DEPOCHS=4 -DLOG=8 -DWRITES_MAX=1 -DREADS_MAX=0
move  | move, the leader a bystander, an eviction           | -DEPOCHS=2 -DCRASHES=0 -DLEADER=2
move  | move, the leader is the old master, an eviction     | -DEPOCHS=2 -DCRASHES=0 -DLEADER=0 -DWRITES_MAX=1
move  | move, the leader is the replica, an eviction        | -DEPOCHS=2 -DCRASHES=0 -DLEADER=1 -DWRITES_MAX=1
move  | move, crash of the old master                       | -DEPOCHS=2 -DEVICTIONS=0 -DCRASHER=0 -DWRITES_MAX=1
move  | move, crash of the leader                           | -DEPOCHS=2 -DEVICTIONS=0 -DCRASHER=2 -DWRITES_MAX=1
fence | fence raise: crash and eviction                     |
fence | the same, the leader crashes                        | -DCRASHER=2
fence | the same with a member that joins, raiser leads     | -DJOINS=1 -DEPOCHS=4 -DLOG=7 -DLEADER=1 -DWRITES_MAX=1
life  | create and delete: crash and eviction               | -DREADS_MAX=2
life  | the same, the creator leads                         | -DREADS_MAX=2 -DLEADER=0
words | two questions to two peers, a claim in doubt        | -DASKS=2 -DBOOTS=0 -DRESTARTS=0
words | a peer whose process starts again                   | -DASKS=1 -DBOOTS=0 -DRESTARTS=1
words | a peer that is switched off and on                  | -DASKS=1 -DBOOTS=1 -DRESTARTS=0 -DWRITES=1
words | one peer, three questions, all of it twice          | -DN=1 -DASKS=3 -DBOOTS=2 -DRESTARTS=2 -DWRITES=3
'
# model | protection that is left out | defines
mutants='
move  | epoch of operations and copies is not checked       | -DMUTANT_NO_EPOCH_CHECK -DEPOCHS=2 -DCRASHES=0 -DWRITES_MAX=1
view  | promotion does not wait                             | -DMUTANT_PROMOTE_AT_ONCE
move  | promotion before every member has applied VIEW      | -DMUTANT_PROMOTE_UNSEEN -DEPOCHS=2 -DCRASHES=0 -DLEADER=1 -DWRITES_MAX=1
move  | thaw before PLACE is committed                      | -DMUTANT_THAW_EARLY -DEPOCHS=2 -DCRASHES=0 -DWRITES_MAX=1
fence | commit passes VIEW at once                          | -DMUTANT_COMMIT_AT_ONCE
fence | commit up to VIEW at once (old operations)          | -DMUTANT_COMMIT_BELOW_VIEW
fence | the next view forgets whom the last one evicted     | -DMUTANT_HOLD_FORGOTTEN -DCRASHER=2
view  | acknowledged before the replicas have it            | -DMUTANT_ACK_BEFORE_REPLICAS
fence | a raise returns without asking all                  | -DMUTANT_COMMIT_ALONE
fence | a writer does not look at the fence                 | -DMUTANT_NO_FENCE_CHECK
fence | a snapshot without the fences                       | -DMUTANT_NO_FENCES_IN_SNAPSHOT -DJOINS=1 -DEPOCHS=4 -DLOG=7 -DLEADER=1 -DWRITES_MAX=1
move  | a refused proposal is judged again                  | -DMUTANT_JUDGED_AGAIN -DEPOCHS=2 -DCRASHES=0
move  | PLACE before the target has the last version        | -DMUTANT_PLACE_BEFORE_COPY -DEPOCHS=2 -DCRASHES=0 -DWRITES_MAX=1
life  | a created key is readable when it is sequenced      | -DMUTANT_CREATED_AT_RECEIPT -DREADS_MAX=2
life  | a miss is confirmed while a delete is under way     | -DMUTANT_MISS_DURING_DELETE -DREADS_MAX=2
life  | a promoted item is read before it has begun         | -DMUTANT_READ_BEFORE_START -DREADS_MAX=2
words | a promise is not kept                               | -DMUTANT_NO_PROMISE -DASKS=1 -DBOOTS=0 -DRESTARTS=0
words | a claim that comes through late is taken up at once | -DMUTANT_TAKES_UP -DASKS=1 -DBOOTS=0 -DRESTARTS=0
words | who has claimed vouches                             | -DMUTANT_KNOWS_BETTER -DASKS=1 -DBOOTS=0 -DRESTARTS=0
words | what a late claim brought is not remembered         | -DMUTANT_WON_UNNOTICED -DASKS=1 -DBOOTS=0 -DRESTARTS=1 -DWRITES=1
words | a machine that forgot its promise does not wait     | -DMUTANT_FORGETS -DASKS=1 -DBOOTS=1 -DRESTARTS=0 -DWRITES=1
words | a claim by one whom the owner did not note          | -DMUTANT_ADMITS_ALL -DASKS=1 -DBOOTS=0 -DRESTARTS=0
words | somebody is left out before that is proven          | -DMUTANT_LEFT_OUT_AT_ONCE -DASKS=1 -DBOOTS=0 -DRESTARTS=0
words | promises are given back while it stands by them     | -DMUTANT_GIVES_BACK_EARLY -DASKS=1 -DBOOTS=0 -DRESTARTS=0
'
if [ "${1:-}" = quick ]; then
  exhaustive='
view  | view change: crash and eviction, promotion          | -DREPAIRS=0 -DWRITES_MAX=1
move  | move, crash of the old master                       | -DEPOCHS=2 -DEVICTIONS=0 -DCRASHER=0 -DWRITES_MAX=1
fence | fence raise: crash and eviction                     |
life  | create and delete: an eviction                      | -DREADS_MAX=2 -DCRASHES=0 -DEPOCHS=2
words | one peer, three questions, restarts and boots       | -DN=1 -DASKS=3 -DBOOTS=2 -DRESTARTS=2 -DWRITES=3
'
  mutants=$(grep -E 'PROMOTE_AT_ONCE|THAW_EARLY|COMMIT_BELOW|ACK_BEFORE|COMMIT_ALONE|JUDGED|NO_PROMISE|ADMITS_ALL' <<<"$mutants")
elif [ -n "${1:-}" ]; then
  echo "model: unknown argument '$1' (quick, or none)" >&2
  exit 3
fi

# check NUMBER OPTIMIZATION MODEL DEFINES...: "states seconds errors" into $work/NUMBER, or what went wrong
check() {
  local number=$1 optimize=$2 model=$3 dir=$work/run$1
  shift 3
  mkdir "$dir"
  cp ./*.pml "$dir"
  (
    cd "$dir"
    if ! spin -a "$@" "$model.pml" >spin.out 2>&1 || [ -s spin.out ]; then
      echo "error: $(head -1 spin.out)"
    elif ! gcc "$optimize" -w -DSAFETY -DCOLLAPSE -DMEMLIM=$MEMORY_MB -DVECTORSZ=256 -o pan pan.c 2>gcc.out; then
      echo "error: $(head -1 gcc.out)"
    elif ! timeout $RUN_S ./pan -m$DEPTH >pan.out 2>&1; then
      echo "error: $(tail -1 pan.out)"
    elif grep -qE 'max search depth too small|out of memory|vector too' pan.out ||
      { grep -q 'Search not completed' pan.out && ! grep -q 'errors: [1-9]' pan.out; }; then
      echo "error: not exhaustive"
    else
      awk '/states, stored/ {states = $1} /elapsed time/ {seconds = $4} / errors: / {errors = $NF}
           END {print states, seconds, errors}' pan.out
    fi
  ) >"$work/$number"
  rm -rf "$dir"
}

bad=0
count=0
# run TITLE LINES OPTIMIZATION WANTED: all of them, and a table
run() {
  local title=$1 optimize=$3 wanted=$4 first=$((count + 1)) model what defines
  while IFS='|' read -r model what defines; do
    [ -n "${what:-}" ] || continue
    count=$((count + 1))
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    # shellcheck disable=SC2086 # several words
    check $count "$optimize" $model $defines &
  done <<<"$2"
  wait
  printf '%-6s %-52s %10s %8s  %s\n' model "$title" states seconds verdict
  local number=$first states seconds errors verdict
  while IFS='|' read -r model what defines; do
    [ -n "${what:-}" ] || continue
    read -r states seconds errors <"$work/$number" || true
    if [ "$states" = error: ]; then
      verdict="BROKEN: $seconds $errors" states=- seconds=-
      bad=1
    elif [ "$wanted" = none ]; then
      verdict="holds"
      if [ "$errors" != 0 ]; then verdict="VIOLATED" bad=1; fi
    else
      verdict="found"
      if [ "$errors" = 0 ]; then verdict="NOT FOUND" bad=1; fi
    fi
    printf '%-6s %-52s %10s %8s  %s\n' $model "$(sed 's/^ *//; s/ *$//' <<<"$what")" "$states" "$seconds" "$verdict"
    number=$((number + 1))
  done <<<"$2"
}

run 'property: every run of' "$exhaustive" -O1 none
echo
run 'left out on purpose' "$mutants" -O0 some
if [ $bad -ne 0 ]; then
  echo "model: not as it should be (see above)" >&2
  exit 1
fi
