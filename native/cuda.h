/* The part of libcuda.so.1 that checkpoints a process, loaded at run time.
 *
 * Signatures: cuda.h of CUDA 12.8 (driver 570) and 13.0 (the pairs of a restore, driver 580).
 */
#ifndef CRYO_CUDA_H
#define CRYO_CUDA_H

#include <stdint.h>

enum { CUDA_SUCCESS = 0, CUDA_NOT_READY = 600, CUDA_ILLEGAL_STATE = 401 };
enum state { RUNNING, LOCKED, CHECKPOINTED, FAILED, STATES };

struct lock_args {
	unsigned timeout_ms; /* 0: none */
	unsigned reserved0;
	uint64_t reserved1[7];
};

struct uuid {
	unsigned char bytes[16];
};

struct gpu_pair {
	struct uuid from;
	struct uuid to;
};

struct restore_args {
	struct gpu_pair *pairs;
	unsigned count;
	char reserved[64 - sizeof(struct gpu_pair *) - sizeof(unsigned)];
};

/* The other moves take 64 reserved bytes. */
struct empty_args {
	uint64_t reserved[8];
};

struct cuda {
	int (*init)(unsigned flags);
	int (*version)(int *version);
	int (*error_name)(int error, const char **name);
	int (*error_string)(int error, const char **text);
	int (*lock)(int pid, struct lock_args *args);
	int (*checkpoint)(int pid, struct empty_args *args);
	int (*restore)(int pid, struct restore_args *args);
	int (*unlock)(int pid, struct empty_args *args);
	int (*state)(int pid, int *state);
	int (*restore_tid)(int pid, int *tid);
};

/* Load all functions; return NULL, or why the driver cannot be used. */
const char *cuda_load(struct cuda *cuda);

/* The driver's text for an error, never NULL. */
const char *cuda_words(const struct cuda *cuda, int error);
const char *cuda_name(const struct cuda *cuda, int error);

/* The name of a state, "unknown" for any other number. */
const char *state_word(int state);

#endif
