# Bash completion of linehome. Options and choices stand here as --help shows them; tests/lint.sh compares the two.
# shellcheck shell=bash

_linehome_options() {
	case $1 in
	run) echo '--store --local --engine --prefetch --policy --stats --progress --timeout --key-file --help --version' ;;
	serve) echo '--listen --size --key-file --grace --stats --help --version' ;;
	pool) echo 'create info check recover decide log --help --version' ;;
	'pool create') echo '--size --reach --log-size --layout --address --key-file --help --version' ;;
	'pool info' | 'pool check' | 'pool recover') echo '--json --key-file --help --version' ;;
	'pool decide') echo '--ask --commit --drop --forget --json --key-file --help --version' ;;
	'pool log') echo '--content --json --key-file --help --version' ;;
	cover) echo 'merge --pid --output --format --granularity --include-libraries --filter --source --from --until --exclude --record --fail-under --drcov-version --engine --no-look-ahead --collect-only -p -o --help --version' ;;
	'cover merge') echo '--record --output --format --include-libraries --filter --source --fail-under --drcov-version -o --help --version' ;;
	patch) echo 'apply list revert --pid --wait --name --bytes --at --keep --audit --json -p --help --version' ;;
	trace) echo '--pid --calls --interval --windows --duration --include-libraries --wait --format --output -p -o --help --version' ;;
	atomic) echo '--begin --end --log --syscalls --on-undo --pool --help --version' ;;
	count) echo '--by --lines --footprint --json --output -o --help --version' ;;
	migrate) echo '--source --destination --uffd --to --accept --from-snapshot --to-snapshot --key-file --mode --bandwidth --downtime-limit --parallel --policy --recorded --record --stats --help --version' ;;
	incoming) echo '--uffd --memory --help --version' ;;
	serve-uffd) echo '--socket --memory --policy --recorded --record --once --stats --help --version' ;;
	*) echo 'run serve pool atomic cover patch trace count migrate incoming serve-uffd --help --version' ;;
	esac
}

# Where the program stands that a command runs, or nothing where none has begun: its words complete as its own.
_linehome_program() {
	local at=2
	[[ ${COMP_WORDS[1]:-} == @(run|atomic|cover|trace|count|incoming) && ${COMP_WORDS[2]:-} != merge ]] || return
	while [ "$at" -lt "$COMP_CWORD" ]; do
		case ${COMP_WORDS[at]} in
		--) echo $((at + 1)) && return ;;
		--progress | --include-libraries | --libraries | --lines | --footprint) ;;
		-*) at=$((at + 1)) ;;
		*) echo "$at" && return ;;
		esac
		at=$((at + 1))
	done
}

_linehome() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]:-} program
	program=$(_linehome_program)
	if [ -n "$program" ] && declare -F _command_offset >/dev/null; then
		_command_offset "$program"
		return
	fi
	[ "$COMP_CWORD" -gt 1 ] || command=
	[ "$command ${COMP_WORDS[2]:-}" != 'cover merge' ] || [ "$COMP_CWORD" -le 2 ] || command='cover merge'
	[ "$command" != pool ] || [ "$COMP_CWORD" -le 2 ] || command="pool ${COMP_WORDS[2]}"
	case $before in
	--engine)
		[ "$command" = run ] && mapfile -t COMPREPLY < <(compgen -W 'thread inline' -- "$word")
		[ "$command" = run ] || mapfile -t COMPREPLY < <(compgen -W 'auto inside outside' -- "$word")
		;;
	--format)
		[ "$command" = trace ] && mapfile -t COMPREPLY < <(compgen -W 'table json html' -- "$word")
		[ "$command" = trace ] || mapfile -t COMPREPLY < <(compgen -W 'summary lcov cobertura drcov json html' -- "$word")
		;;
	--by) mapfile -t COMPREPLY < <(compgen -W 'all module thread process' -- "$word") ;;
	--log) mapfile -t COMPREPLY < <(compgen -W 'redo undo' -- "$word") ;;
	--syscalls) mapfile -t COMPREPLY < <(compgen -W 'allow warn abort' -- "$word") ;;
	--on-undo) mapfile -t COMPREPLY < <(compgen -W 'continue exit' -- "$word") ;;
	--pool) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	--granularity) mapfile -t COMPREPLY < <(compgen -W 'block line' -- "$word") ;;
	--drcov-version) mapfile -t COMPREPLY < <(compgen -W '2 3' -- "$word") ;;
	--pid | -p) mapfile -t COMPREPLY < <(compgen -W "$(ps -e -o pid= 2>/dev/null)" -- "$word") ;;
	--prefetch) mapfile -t COMPREPLY < <(compgen -W 'none next' -- "$word") ;;
	--policy)
		[ "$command" = migrate ] && mapfile -t COMPREPLY < <(compgen -W 'linear around recorded ptline none' -- "$word")
		[ "$command" = serve-uffd ] && mapfile -t COMPREPLY < <(compgen -W 'linear around recorded none' -- "$word")
		[ "$command" = run ] && mapfile -t COMPREPLY < <(compgen -W 'reuse s3fifo second fifo' -- "$word")
		;;
	--mode) mapfile -t COMPREPLY < <(compgen -W 'precopy-then-postcopy postcopy' -- "$word") ;;
	--stats | --key-file | --output | --record | --recorded | --source | --destination | --uffd | --socket | --memory | --from-snapshot | --to-snapshot | --audit | --json | -o) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	apply) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	--store) mapfile -t COMPREPLY < <(compgen -W 'mem: unix: tcp://' -- "$word") ;;
	--listen | --to | --accept) mapfile -t COMPREPLY < <(compgen -W 'unix: tcp://' -- "$word") ;;
	--local | --size | --reach | --log-size | --layout | --address | --timeout | --grace | --filter | --from | --until | --exclude | --fail-under | --wait | --name | --bytes | --at | --calls | --interval | --windows | --duration | --begin | --end | --bandwidth | --downtime-limit | --parallel) COMPREPLY=() ;;
	*)
		mapfile -t COMPREPLY < <(compgen -W "$(_linehome_options "$command")" -- "$word")
		if [[ $command == @(run|atomic|cover|trace|count|incoming) && $word != -* ]]; then
			mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -c -- "$word")
		elif [[ $command == @(pool |cover m)* && $word != -* ]]; then
			mapfile -t COMPREPLY < <(compgen -f -- "$word")
		fi
		;;
	esac
}
complete -F _linehome linehome
