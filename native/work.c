#define _GNU_SOURCE
#include "old.h"

#include "work.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

struct errand {
	const struct cuda *cuda;
	struct job job;
	size_t number;
	int bell;
};

static int lock_process(const struct cuda *cuda, const struct job *job)
{
	struct lock_args args = {.timeout_ms = job->lock_ms};
	return cuda->lock(job->pid, &args);
}

static int restore_process(const struct cuda *cuda, const struct job *job)
{
	struct restore_args args = {0};
	if (job->map) {
		args.pairs = job->map->pairs;
		args.count = job->map->count;
	}
	return cuda->restore(job->pid, &args);
}

static int call(const struct cuda *cuda, struct job *job)
{
	struct empty_args none = {{0}};
	switch (job->action) {
	case INIT:
		return cuda->init(0);
	case GET_STATE:
		return cuda->state(job->pid, &job->value);
	case GET_TID:
		return cuda->restore_tid(job->pid, &job->value);
	case LOCK:
		return lock_process(cuda, job);
	case CHECKPOINT:
		return cuda->checkpoint(job->pid, &none);
	case RESTORE:
		return restore_process(cuda, job);
	case UNLOCK:
		return cuda->unlock(job->pid, &none);
	}
	return -1;
}

/* Read the state after a move, whatever it returned: a failed one may have taken effect. */
static void read_back(const struct cuda *cuda, struct job *job)
{
	job->state = -1;
	if (job->action >= LOCK && cuda->state(job->pid, &job->state) != CUDA_SUCCESS)
		job->state = -1;
}

/* Whether a move is to be made, by the state before it. */
static bool is_due(const struct cuda *cuda, struct job *job)
{
	if (!job->asks)
		return true;
	job->error = cuda->state(job->pid, &job->value);
	job->unmoved = job->error != CUDA_SUCCESS || job->value != job->from;
	job->asked_ms = now_ms() - job->began_ms;
	return !job->unmoved;
}

static void *run(void *argument)
{
	struct errand *errand = argument;
	struct job *job = &errand->job;
	job->began_ms = now_ms();
	if (is_due(errand->cuda, job)) {
		job->error = call(errand->cuda, job);
		read_back(errand->cuda, job);
	}
	job->took_ms = now_ms() - job->began_ms - job->asked_ms;
	/* A number is small enough for an atomic write, and the reader outlives this thread. */
	ssize_t sent = write(errand->bell, &errand->number, sizeof errand->number);
	(void)sent;
	return NULL;
}

/* Return 0, or the errno of starting a thread for the job. */
static int begin(const struct cuda *cuda, struct job *job, size_t number, int bell,
		 struct errand **errand)
{
	pthread_t thread;
	*errand = calloc(1, sizeof **errand);
	if (!*errand)
		return ENOMEM;
	**errand = (struct errand){.cuda = cuda, .job = *job, .number = number, .bell = bell};
	return pthread_create(&thread, NULL, run, *errand);
}

/* Wait for one errand to end; return its number, or `count` after the deadline. */
static size_t next_done(int bell, long long deadline_ms, size_t count)
{
	struct pollfd ready = {.fd = bell, .events = POLLIN};
	size_t number;
	int found;
	do
		found = poll(&ready, 1, left_ms(deadline_ms));
	while (found < 0 && errno == EINTR);
	if (found <= 0 || read(bell, &number, sizeof number) != sizeof number)
		return count;
	return number;
}

static size_t start_all(const struct cuda *cuda, struct job *jobs[], size_t count, int bell,
			struct errand *errands[])
{
	size_t begun = 0;
	for (size_t at = 0; at < count; at++) {
		jobs[at]->unbegun = begin(cuda, jobs[at], at, bell, &errands[at]);
		jobs[at]->late = !jobs[at]->unbegun;
		begun += jobs[at]->late;
	}
	return begun;
}

static size_t report_undone(struct job *jobs[], size_t count, void (*report)(const struct job *job))
{
	size_t undone = 0;
	for (size_t at = 0; at < count; at++) {
		if (!jobs[at]->late && !jobs[at]->unbegun)
			continue;
		undone++;
		if (report)
			report(jobs[at]);
	}
	return undone;
}

size_t work(const struct cuda *cuda, struct job *jobs[], size_t count, long long deadline_ms,
	    void (*report)(const struct job *job))
{
	int bell[2];
	struct errand **errands = calloc(count ? count : 1, sizeof *errands);
	if (!errands || pipe(bell) != 0)
		abort();
	size_t open = start_all(cuda, jobs, count, bell[1], errands);
	while (open) {
		size_t number = next_done(bell[0], deadline_ms, count);
		if (number >= count)
			break;
		*jobs[number] = errands[number]->job;
		jobs[number]->late = false;
		open--;
		if (report)
			report(jobs[number]);
	}
	/* The pipe and the errands are not freed: a late thread may still write to them. */
	return report_undone(jobs, count, report);
}

bool work_one(const struct cuda *cuda, struct job *job, long long deadline_ms)
{
	return work(cuda, &job, 1, deadline_ms, NULL) == 0;
}

void work_why(const struct job *job, long long limit_ms, char *words, size_t size)
{
	if (job->unbegun)
		snprintf(words, size, "no thread for it: %s", strerror(job->unbegun));
	else
		snprintf(words, size, "it did not end in %lld ms", limit_ms);
}
