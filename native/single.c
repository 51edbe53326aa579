#define _GNU_SOURCE
#include "single.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

/* NVIDIA's toggle has no deadline: runsc would wait for it without end. These are ours, the
 * defaults of timeouts.lock and timeouts.freeze (shim/config.py; a test compares them). */
enum { TOGGLE_LOCK_MS = 30 * 1000, TOGGLE_STEP_MS = 120 * 1000, GRACE_MS = 5000 };

static const char *const verbs[] = {
	[GET_STATE] = "get state", [GET_TID] = "get restore thread",
	[LOCK] = "lock",           [CHECKPOINT] = "checkpoint",
	[RESTORE] = "restore",     [UNLOCK] = "unlock",
};

static const int after[] = {
	[LOCK] = LOCKED, [CHECKPOINT] = CHECKPOINTED, [RESTORE] = LOCKED, [UNLOCK] = RUNNING};

struct toggle {
	const struct cuda *cuda;
	int pid;
	unsigned lock_ms;
	long long step_ms;
	const struct device_map *map;
	char why[160]; /* why the last step failed */
	int state;     /* the state after it, -1 if unknown */
};

static void say(const char *what, int pid, const char *why)
{
	dprintf(STDERR_FILENO, "%s process ID %d: \"%s\"\n", what, pid, why);
}

static long long deadline_in(long long ms)
{
	return ms > 0 ? now_ms() + ms : 0;
}

/* Do one step of a toggle, and check the state that it led to. */
static bool step(struct toggle *toggle, enum action action, long long limit_ms)
{
	struct job job = {.action = action, .pid = toggle->pid, .lock_ms = toggle->lock_ms,
			  .map = toggle->map};
	bool ended = work_one(toggle->cuda, &job, deadline_in(limit_ms));
	if (!job.unbegun) /* else it is unchanged */
		toggle->state = ended ? job.state : -1;
	if (!ended) {
		char why[128];
		work_why(&job, limit_ms, why, sizeof why);
		snprintf(toggle->why, sizeof toggle->why, "%s: %s", verbs[action], why);
	} else if (job.error != CUDA_SUCCESS) {
		snprintf(toggle->why, sizeof toggle->why, "%s",
			 cuda_words(toggle->cuda, job.error));
	} else if (job.state != after[action]) {
		snprintf(toggle->why, sizeof toggle->why, "it is %s after %s, not %s",
			 state_word(job.state), verbs[action], state_word(after[action]));
	} else {
		return true;
	}
	return false;
}

/* Lock and checkpoint a process; unlock it again if the checkpoint fails. */
static bool suspend(struct toggle *toggle)
{
	char why[sizeof toggle->why];
	if (!step(toggle, LOCK, toggle->lock_ms ? toggle->lock_ms + GRACE_MS : 0))
		return false;
	if (step(toggle, CHECKPOINT, toggle->step_ms))
		return true;
	memcpy(why, toggle->why, sizeof why);
	if (toggle->state == LOCKED)
		step(toggle, UNLOCK, toggle->step_ms);
	memcpy(toggle->why, why, sizeof why);
	return false;
}

static bool resume(struct toggle *toggle)
{
	return step(toggle, RESTORE, toggle->step_ms) && step(toggle, UNLOCK, toggle->step_ms);
}

/* A toggle inverts the state; intermediate and failed states are left unchanged. */
static bool invert(struct toggle *toggle, long long detect_ms)
{
	struct job look = {.action = GET_STATE, .pid = toggle->pid};
	int error = CUDA_ILLEGAL_STATE;
	if (!work_one(toggle->cuda, &look, deadline_in(detect_ms))) {
		work_why(&look, detect_ms, toggle->why, sizeof toggle->why);
		return false;
	}
	if (look.error == CUDA_SUCCESS && look.value == RUNNING)
		return suspend(toggle);
	if (look.error == CUDA_SUCCESS && look.value == CHECKPOINTED)
		return resume(toggle);
	if (look.error != CUDA_SUCCESS)
		error = look.error;
	snprintf(toggle->why, sizeof toggle->why, "%s", cuda_words(toggle->cuda, error));
	return false;
}

static long long or_default(long long given, long long usual)
{
	return given >= 0 ? given : usual;
}

static int toggle_one(const struct cuda *cuda, const struct options *options)
{
	struct toggle toggle = {
		.cuda = cuda,
		.pid = options->pid,
		.lock_ms = (unsigned)or_default(options->lock_ms, TOGGLE_LOCK_MS),
		.step_ms = or_default(options->step_ms, TOGGLE_STEP_MS),
		.map = options->has_map ? &options->map : NULL,
	};
	if (invert(&toggle, or_default(options->detect_ms, TOGGLE_LOCK_MS)))
		return 0;
	say("Error toggling CUDA in", options->pid, toggle.why);
	return 1;
}

static int refuse(const struct options *options, const char *why)
{
	char what[64];
	snprintf(what, sizeof what, "Could not %s on", verbs[options->action]);
	say(what, options->pid, why);
	return 1;
}

static int one(const struct cuda *cuda, const struct options *options)
{
	struct job job = {
		.action = options->action,
		.pid = options->pid,
		.lock_ms = (unsigned)or_default(options->lock_ms, 0),
		.map = options->has_map ? &options->map : NULL,
	};
	if (!work_one(cuda, &job, deadline_in(or_default(options->step_ms, 0)))) {
		char why[128];
		work_why(&job, options->step_ms, why, sizeof why);
		return refuse(options, why);
	}
	if (job.error != CUDA_SUCCESS)
		return refuse(options, cuda_words(cuda, job.error));
	if (options->action == GET_STATE)
		dprintf(STDOUT_FILENO, "%s\n", state_word(job.value));
	if (options->action == GET_TID)
		dprintf(STDOUT_FILENO, "%d\n", job.value);
	return 0;
}

int single(const struct cuda *cuda, const struct options *options)
{
	return options->verb == TOGGLE ? toggle_one(cuda, options) : one(cuda, options);
}
