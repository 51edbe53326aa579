/* Calls of the driver, side by side, each in a thread of its own, with one deadline for them all.
 *
 * A call of the driver that hangs cannot be broken off: its thread is left alone, its job stays
 * `late`, and the program ends without it. So a job must live as long as the program. A call for
 * which no thread could be started has not been made: its job is `unbegun`.
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

	bool late;   /* it had not ended at the deadline; what follows says nothing then */
	int unbegun; /* why no thread could be started for it, an errno; what follows says nothing */
	int error;
	int value; /* of GET_STATE and GET_TID */
	int state; /* after a move, read back; -1 where it cannot be read */
	long long took_ms;
};

/* Do the jobs; `report`, unless NULL, is called for each as it ends, in this thread, then for the late ones.
 * `deadline_ms` is a time of now_ms(), 0 for none. Return how many are late or unbegun. */
size_t work(const struct cuda *cuda, struct job *jobs[], size_t count, long long deadline_ms,
	    void (*report)(const struct job *job));

/* One job. Return whether it was begun and ended in time. */
bool work_one(const struct cuda *cuda, struct job *job, long long deadline_ms);

/* Write into `words` why a job with the deadline `limit_ms` did not end. */
void work_why(const struct job *job, long long limit_ms, char *words, size_t size);

#endif
