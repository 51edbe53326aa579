#define _GNU_SOURCE
#include "batch.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "line.h"

/* Added to the lock timeout that the driver itself applies. */
enum { GRACE_MS = 2000, JOBS_MAX = HOLDERS_MAX };

static const char *const words[] = {
	[INIT] = "init", [GET_STATE] = "state",   [GET_TID] = "tid",   [LOCK] = "lock",
	[CHECKPOINT] = "checkpoint",              [RESTORE] = "restore", [UNLOCK] = "unlock",
};

/* The processes: those that the caller named, and others that were found. */
struct process {
	int pid;
	bool named;
	bool stuck; /* a call for it hangs: no other is made */
	int state;  /* -1: none, or unknown */
};

static struct process processes[JOBS_MAX];
static size_t count;
static struct job jobs[JOBS_MAX];
static struct cuda cuda;
static bool driver_begun;

static long long deadline_in(long long ms)
{
	return ms > 0 ? now_ms() + ms : 0;
}

int begin_driver(struct cuda *driver, long long deadline_ms, const char **why)
{
	struct job job = {.action = INIT};
	*why = cuda_load(driver);
	if (*why)
		return 127;
	if (!work_one(driver, &job, deadline_ms)) {
		*why = job.unbegun ? "no thread could be started for the driver"
				   : "the driver did not begin in time";
		return 126;
	}
	if (job.error != CUDA_SUCCESS) {
		*why = cuda_words(driver, job.error);
		return 126;
	}
	return 0;
}

/* -- output ------------------------------------------------------------------------------------ */

static void tell_error(struct line *line, const struct job *job)
{
	line_bool(line, "late", job->late);
	if (job->unbegun) {
		char why[128];
		work_why(job, 0, why, sizeof why);
		line_text(line, "text", why);
	} else if (!job->late) {
		line_number(line, "code", job->error);
		line_text(line, "name", cuda_name(&cuda, job->error));
		line_text(line, "text", cuda_words(&cuda, job->error));
	}
	line_bool(line, "gone", !is_alive(job->pid));
}

static bool ended(const struct job *job)
{
	return !job->late && !job->unbegun;
}

static void report_call(const struct job *job, enum action action)
{
	struct line line;
	bool fine = ended(job) && job->error == CUDA_SUCCESS;
	int state = action == GET_STATE ? job->value : job->state;
	line_begin(&line);
	line_text(&line, "step", words[action]);
	line_number(&line, "pid", job->pid);
	line_bool(&line, "ok", fine);
	if (ended(job) && (fine || action != GET_STATE) && state >= 0)
		line_text(&line, "state", state_word(state));
	if (!fine)
		tell_error(&line, job);
	line_number(&line, "ms", ended(job) ? job->took_ms : -1);
	line_end(&line);
}

/* A move that asks is reported as a read of the state, and as a move if it was made. */
static void report_job(const struct job *job)
{
	if (job->asks && ended(job)) {
		struct job read = *job;
		read.took_ms = job->asked_ms;
		if (!job->unmoved)
			read.error = CUDA_SUCCESS;
		report_call(&read, GET_STATE);
	}
	if (!job->unmoved)
		report_call(job, job->action);
}

static void tell_holder(const struct holder *holder)
{
	struct line line;
	line_begin(&line);
	line_text(&line, "step", "scan");
	line_number(&line, "pid", holder->pid);
	line_text(&line, "comm", holder->comm);
	line_text(&line, "device", holder->device);
	line_bool(&line, "thread", holder->driver_thread);
	line_end(&line);
}

static void tell_tcp(const char *remote)
{
	struct line line;
	line_begin(&line);
	line_text(&line, "step", "tcp");
	line_text(&line, "remote", remote);
	line_end(&line);
}

static void tell_head(const char *verb)
{
	struct line line;
	line_begin(&line);
	line_number(&line, "cryo_cuda", BATCH_VERSION);
	line_text(&line, "verb", verb);
	line_end(&line);
}

static void tell_init(const char *why, int version, long long took_ms)
{
	struct line line;
	line_begin(&line);
	line_text(&line, "step", "init");
	line_bool(&line, "ok", !why);
	if (why)
		line_text(&line, "text", why);
	line_number(&line, "cuda", version);
	line_number(&line, "ms", took_ms);
	line_end(&line);
}

static int tell_end(bool complete, int status)
{
	struct line line;
	line_begin(&line);
	line_text(&line, "step", "end");
	line_bool(&line, "ok", complete);
	line_end(&line);
	return status;
}

/* -- the processes ----------------------------------------------------------------------------- */

static struct process *process_of(int pid)
{
	for (size_t at = 0; at < count; at++)
		if (processes[at].pid == pid)
			return &processes[at];
	return NULL;
}

static void add(int pid, bool named)
{
	if (count < JOBS_MAX && !process_of(pid))
		processes[count++] = (struct process){.pid = pid, .named = named, .state = -1};
}

static void note(const struct job *job)
{
	struct process *process = process_of(job->pid);
	if (job->unbegun)
		return; /* no call was made: its state is unchanged */
	if (job->late) {
		process->stuck = true;
		process->state = -1;
	} else if (job->action == GET_STATE || job->unmoved) {
		process->state = job->error == CUDA_SUCCESS ? job->value : -1;
	} else {
		process->state = job->state;
	}
}

static bool is_wanted(const struct process *process, enum action action, int from, bool asks)
{
	if (process->stuck)
		return false;
	if (action == GET_STATE)
		return process->state < 0;
	return process->named && (asks ? process->state < 0 : process->state == from);
}

/* Whether a job reached its state: the driver may return success and have done nothing. */
static bool worked(const struct job *job)
{
	static const int after[] = {
		[LOCK] = LOCKED, [CHECKPOINT] = CHECKPOINTED, [RESTORE] = LOCKED, [UNLOCK] = RUNNING};
	if (!ended(job))
		return false;
	if (job->error != CUDA_SUCCESS)
		return !is_alive(job->pid);
	return job->unmoved || job->action < LOCK || job->state == after[job->action];
}

static bool each(const struct options *options, enum action action, int from, bool asks,
		 long long limit_ms)
{
	static struct job *chosen[JOBS_MAX];
	size_t number = 0;
	bool fine = true;
	for (size_t at = 0; at < count; at++) {
		if (!is_wanted(&processes[at], action, from, asks))
			continue;
		jobs[number] = (struct job){
			.action = action,
			.pid = processes[at].pid,
			.lock_ms = (unsigned)options->lock_ms,
			.map = options->has_map ? &options->map : NULL,
			.asks = asks,
			.from = from,
		};
		chosen[number] = &jobs[number];
		number++;
	}
	work(&cuda, chosen, number, deadline_in(limit_ms), report_job);
	for (size_t at = 0; at < number; at++) {
		note(&jobs[at]);
		fine = worked(&jobs[at]) && fine;
	}
	return fine;
}

/* Do one action on every process in the right state; return whether all succeeded. A process that
 * exited meanwhile is not a failure. */
static bool all(const struct options *options, enum action action, int from, long long limit_ms)
{
	return each(options, action, from, false, limit_ms);
}

/* The same on every process whose state is unknown: read it, and do the action if it is right. */
static bool all_asked(const struct options *options, enum action action, int from, long long limit_ms)
{
	return each(options, action, from, true, limit_ms);
}

static bool begin(const struct options *options, int *status)
{
	const char *why;
	int version = 0;
	long long began = now_ms();
	if (driver_begun)
		return true;
	*status = begin_driver(&cuda, deadline_in(options->detect_ms), &why);
	if (*status == 0)
		cuda.version(&version);
	driver_begun = *status == 0;
	tell_init(why, version, now_ms() - began);
	return driver_begun;
}

static bool is_named(int pid)
{
	const struct process *process = process_of(pid);
	return process && process->named;
}

/* Scan for the processes that hold a device, without those that the caller named; return whether the
 * scan was complete. */
static bool look(void)
{
	struct scan found;
	scan(&found, is_named);
	for (size_t at = 0; at < found.count; at++) {
		tell_holder(&found.holders[at]);
		add(found.holders[at].pid, false);
	}
	free(found.holders);
	return !found.too_many;
}

/* Whether a process that was not named has CUDA state. */
static bool others(void)
{
	for (size_t at = 0; at < count; at++)
		if (!processes[at].named && processes[at].state >= 0)
			return true;
	return false;
}

/* -- the verbs --------------------------------------------------------------------------------- */

static bool find(const struct options *options, int *status)
{
	bool whole = look();
	scan_tcp(tell_tcp);
	/* Most containers have no CUDA process and need not wait for the driver. */
	if (count && begin(options, status))
		all(options, GET_STATE, -1, options->detect_ms);
	return whole;
}

static bool find_again(const struct options *options)
{
	bool whole = look();
	all(options, GET_STATE, -1, options->detect_ms);
	return whole;
}

/* Whether each named process is in a state from which it can be checkpointed. */
static bool can_freeze(void)
{
	for (size_t at = 0; at < count; at++)
		if (processes[at].named && processes[at].state > CHECKPOINTED)
			return false;
	return true;
}

static bool freeze(const struct options *options)
{
	long long lock_ms = options->lock_ms > 0 ? options->lock_ms + GRACE_MS : 0;
	if (!all(options, GET_STATE, -1, options->detect_ms) || !can_freeze() ||
	    !all(options, LOCK, RUNNING, lock_ms))
		return true;
	if (!find_again(options))
		return false;
	if (others() || !all(options, CHECKPOINT, LOCKED, options->step_ms))
		return true;
	return find_again(options);
}

/* A process that fails to restore must not stop the others. */
static void thaw(const struct options *options)
{
	long long limit_ms = options->step_ms > 0 ? options->step_ms + options->detect_ms : 0;
	all_asked(options, RESTORE, CHECKPOINTED, limit_ms);
	all(options, UNLOCK, LOCKED, options->step_ms);
}

static const char *verb_word(enum verb verb)
{
	return verb == FIND ? "find" : verb == STATES_OF ? "states" : verb == FREEZE ? "freeze" : "thaw";
}

int batch(struct options *options)
{
	int status = 0;
	bool whole = true;
	if (options->lock_ms < 0)
		options->lock_ms = 0;
	for (size_t at = 0; at < options->count; at++)
		add(options->pids[at], true);
	tell_head(verb_word(options->verb));
	if (options->verb == FIND)
		whole = find(options, &status);
	else if (begin(options, &status)) {
		if (options->verb == STATES_OF)
			all(options, GET_STATE, -1, options->detect_ms);
		else if (options->verb == FREEZE)
			whole = freeze(options);
		else
			thaw(options);
	}
	return tell_end(whole && status == 0, status);
}
