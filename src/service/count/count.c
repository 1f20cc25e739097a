/* count.c - the launcher: see count.h. */
#include "service/count/count.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "service/launch/launch.h"
#include "sys/sys.h"

struct counting {
	const struct lh_count_options *options;
	struct lh_count_control *control;
	int file;
	char agent[PATH_MAX];
	sigset_t signals; /* the mask that the program inherits */
};

static uint64_t now_ms(void)
{
	return lh__clock(NULL) / 1000000;
}

/* ---- the memory */

static int open_control(struct counting *counting, struct lh_error *error)
{
	struct lh_count_control *control;

	counting->file = memfd_create("linehome-count", MFD_CLOEXEC);
	if (counting->file < 0 || ftruncate(counting->file, (off_t)LH_COUNT_FILE_BYTES) < 0)
		return lh__fail(error, -errno, "cannot make the counters: %s", lh__errno_name(errno));
	control = mmap(NULL, LH_COUNT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
	               counting->file, 0);
	if (control == MAP_FAILED)
		return lh__fail(error, -errno,
		                "cannot map the counters: %s; is the address space limited (ulimit -v)?",
		                lh__errno_name(errno));
	control->version = LH_COUNT_VERSION;
	control->size = sizeof *control;
	control->lines = counting->options->lines || counting->options->footprint;
	control->footprint = counting->options->footprint;
	snprintf(control->agent, sizeof control->agent, "%s", counting->agent);
	counting->control = control;
	return 0;
}

static int set_environment(const struct counting *counting, struct lh_error *error)
{
	char path[64];
	int result = lh__launch_preload(counting->agent, error);

	snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), counting->file);
	if (result == 0 && setenv(LH_COUNT_ENVIRONMENT, path, 1) < 0)
		result = lh__fail(error, -ENOMEM, "no memory for the program's environment");
	return result;
}

/* ---- processes that have ended */

static void fold_process(const struct counting *counting, uint32_t place)
{
	struct lh_count_control *control = counting->control;
	struct lh_count_process *process = lh__count_process(control, place);
	int64_t live = -1;

	while ((live = lh__count_next_live(control, place, (uint32_t)(live + 1))) >= 0) {
		struct lh_count_thread *thread = lh__count_live(control, (uint32_t)live);

		lh__count_fold(process, thread);
		thread->state = LH_COUNT_NO_THREAD;
		madvise(thread, LH_COUNT_LIVE_BYTES, MADV_REMOVE);
		__atomic_fetch_and(&control->taken[live / 64], ~(1ull << live % 64), __ATOMIC_RELEASE);
	}
	if (control->footprint)
		lh__count_footprint(counting->file, place, &process->footprint);
	process->state = LH_COUNT_FOLDED;
	madvise(process->block, sizeof process->block & ~(size_t)4095, MADV_REMOVE);
}

static uint32_t processes(const struct lh_count_control *control)
{
	uint32_t n = __atomic_load_n(&control->processes, __ATOMIC_ACQUIRE);

	return n < LH_COUNT_PROCESSES ? n : LH_COUNT_PROCESSES;
}

static void fold_ended(const struct counting *counting, bool all)
{
	struct lh_count_control *control = counting->control;

	for (uint32_t i = 0; i < processes(control); i++) {
		const struct lh_count_process *process = lh__count_process(control, i);

		if (process->state == LH_COUNT_REPLACED ||
		    (process->state == LH_COUNT_RUNS &&
		     (all || (kill(process->pid, 0) < 0 && errno == ESRCH))))
			fold_process(counting, i);
	}
}

static void tick(void *context)
{
	const struct counting *counting = context;

	fold_ended(counting, false);
}

/* ---- the run */

static int count_program(struct counting *counting, char *const *argv, struct lh_count_report *report,
                         const sigset_t *signals, struct lh_error *error)
{
	uint64_t began = now_ms();
	pid_t child;
	int result = set_environment(counting, error);

	if (result == 0)
		result = lh__launch_start(argv, &counting->signals, &child, error);
	if (result < 0)
		return result;
	report->status = lh__launch_wait(child, signals, tick, counting);
	report->milliseconds = now_ms() - began;
	fold_ended(counting, true);
	return lh__count_report(counting->control, report, error);
}

int lh__count(const struct lh_count_options *options, char *const *argv, struct lh_count_report *report,
              struct lh_error *error)
{
	struct counting counting = { .options = options, .file = -1 };
	int result = lh__launch_check(argv[0], error);
	sigset_t signals;

	*report = (struct lh_count_report){ .status = 0 };
	if (result == 0)
		result = lh__launch_agent(options->agent, "liblinehome-count.so", LH_COUNT_AGENT_PATH,
		                          counting.agent, error);
	if (result < 0)
		return result;
	lh__launch_signals(&signals, &counting.signals);
	result = open_control(&counting, error);
	if (result == 0)
		result = count_program(&counting, argv, report, &signals, error);
	if (counting.control)
		munmap(counting.control, LH_COUNT_BYTES);
	if (counting.file >= 0)
		close(counting.file);
	pthread_sigmask(SIG_SETMASK, &counting.signals, NULL);
	return result;
}

void lh__count_free(struct lh_count_report *report)
{
	free(report->processes.at);
	free(report->threads.at);
	free(report->modules.at);
	free(report->uncounted.at);
}
