#define _GNU_SOURCE
#include "old.h"

#include "cuda.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>

static const char *const places[] = {
	"libcuda.so.1",
	/* Its paths in a container in which ldconfig was not run. */
	"/usr/lib/x86_64-linux-gnu/libcuda.so.1",
	"/usr/lib/aarch64-linux-gnu/libcuda.so.1",
	"/usr/lib64/libcuda.so.1",
	"/usr/local/nvidia/lib64/libcuda.so.1",
	"/usr/lib/libcuda.so.1",
};

static void *open_library(const char **why)
{
	*why = NULL;
	for (size_t at = 0; at < sizeof places / sizeof *places; at++) {
		void *library = dlopen(places[at], RTLD_NOW | RTLD_LOCAL);
		if (library)
			return library;
		/* Report the first failure: there the loader searched its configured path. */
		const char *text = dlerror();
		if (!*why) {
			static char first[256];
			snprintf(first, sizeof first, "%s", text ? text : "libcuda.so.1 cannot be loaded");
			*why = first;
		}
	}
	return NULL;
}

struct symbol {
	const char *name;
	size_t offset;
};

static const struct symbol symbols[] = {
	{"cuInit", offsetof(struct cuda, init)},
	{"cuDriverGetVersion", offsetof(struct cuda, version)},
	{"cuGetErrorName", offsetof(struct cuda, error_name)},
	{"cuGetErrorString", offsetof(struct cuda, error_string)},
	{"cuCheckpointProcessLock", offsetof(struct cuda, lock)},
	{"cuCheckpointProcessCheckpoint", offsetof(struct cuda, checkpoint)},
	{"cuCheckpointProcessRestore", offsetof(struct cuda, restore)},
	{"cuCheckpointProcessUnlock", offsetof(struct cuda, unlock)},
	{"cuCheckpointProcessGetState", offsetof(struct cuda, state)},
	{"cuCheckpointProcessGetRestoreThreadId", offsetof(struct cuda, restore_tid)},
};

const char *cuda_load(struct cuda *cuda)
{
	const char *why;
	void *library = open_library(&why);
	if (!library)
		return why;
	for (size_t at = 0; at < sizeof symbols / sizeof *symbols; at++) {
		void *found = dlsym(library, symbols[at].name);
		if (!found)
			return "libcuda.so.1 has no cuCheckpointProcess functions: driver 570 or newer has";
		*(void **)((char *)cuda + symbols[at].offset) = found;
	}
	return NULL;
}

const char *cuda_words(const struct cuda *cuda, int error)
{
	const char *text = NULL;
	if (cuda->error_string(error, &text) != CUDA_SUCCESS || !text)
		return "unrecognized error code";
	return text;
}

const char *cuda_name(const struct cuda *cuda, int error)
{
	const char *name = NULL;
	if (cuda->error_name(error, &name) != CUDA_SUCCESS || !name)
		return "CUDA_ERROR_UNKNOWN";
	return name;
}

const char *state_word(int state)
{
	static const char *const words[STATES] = {"running", "locked", "checkpointed", "failed"};
	return state >= 0 && state < STATES ? words[state] : "unknown";
}
