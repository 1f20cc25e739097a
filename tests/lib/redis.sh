# redis.sh - a redis-server on a Unix socket in a folder of its own: nothing listens on the network.
# The one who sources it has a list $children, whose members it ends by number.
keys=$programs/keys
redis=$(command -v redis-server)

redis_start() { # redis_start FOLDER COMMAND...: COMMAND stands before redis-server and may be empty; sets $redis_pid
	local folder=$1
	shift
	mkdir -p "$folder"
	"$@" "$redis" --port 0 --unixsocket "$folder/socket" --dir "$folder" --dbfilename dump.rdb --save '' \
		--appendonly no --daemonize no --logfile "$folder/log" --activedefrag no >"$folder/out" 2>"$folder/err" </dev/null &
	redis_pid=$!
	children+=("$redis_pid")
	for _ in $(seq 200); do
		[ "$(redis-cli -s "$folder/socket" ping 2>/dev/null)" = PONG ] && return
		kill -0 $redis_pid 2>/dev/null || break
		sleep 0.1
	done
	echo "# redis-server did not start: $(tail -n 3 "$folder/err" "$folder/log" 2>/dev/null)" >&2
	return 1
}

redis_stop() { # redis_stop FOLDER PID: the status of what was started
	redis-cli -s "$1/socket" shutdown nosave >/dev/null 2>&1
	wait "$2"
}

redis_peak_kib() { # of the server itself, launched without anything before it
	sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$1/status"
}
redis_anonymous_kib() { sed -n 's/^RssAnon:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$1/status"; }
