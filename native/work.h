/* Concurrent calls of the driver, each in its own thread, with one deadline for all of them.
 *
 * A call of the driver that hangs cannot be interrupted: its thread is left running, its job stays
 * `late`, and the program exits without it. So a job must live as long as the program. If no thread
 * could be started for a call, it was not made: its job is `unbegun`.
 */
#ifndef CRYO_WORK_H
#define CRYO_WORK_H

#include <stdbool.h>
#include <stddef.h>

#include "cuda.h"

enum action { INIT, GET_STATE, GET_TID, LOCK, CHECKPOINT, RESTORE, UNLOCK };

struct device_map {
	struct gpu_pair *pairs;
	unsigned count;
};

struct job {
	enum action action;
	int pid;
	unsigned lock_ms; /* how long the driver may try to lock; 0: no limit */
	const struct device_map *map;
	/* Of a move: read the state first, and make the move only from the state `from`. */
	bool asks;
	int from;

	bool late;   /* it had not ended at the deadline; the fields below are then invalid */
	int unbegun; /* the errno of starting a thread for it; the fields below are then invalid */
	int error;
	int value; /* of GET_STATE and GET_TID, and of a move that asks */
	bool unmoved; /* a move that asks was not made: `error` and `value` are those of the read */
	int state; /* read after a move; -1 if it cannot be read */
	long long began_ms; /* a time of now_ms() */
	long long asked_ms; /* of the read before a move */
	long long took_ms;  /* of the rest */
};

/* Run the jobs; `report`, unless NULL, is called in this thread for each as it ends, then for late ones.
 * `deadline_ms` is a time of now_ms(), 0 for none. Return how many are late or unbegun. */
size_t work(const struct cuda *cuda, struct job *jobs[], size_t count, long long deadline_ms,
	    void (*report)(const struct job *job));

/* Run one job. Return whether it was started and ended in time. */
bool work_one(const struct cuda *cuda, struct job *job, long long deadline_ms);

/* Write into `words` why a job with the deadline `limit_ms` did not end. */
void work_why(const struct job *job, long long limit_ms, char *words, size_t size);

#endif
