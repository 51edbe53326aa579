/* The command line: cuda-checkpoint's own, and ours for many processes at once. */
#ifndef CRYO_OPTIONS_H
#define CRYO_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "scan.h"
#include "work.h"

enum verb { NOTHING, HELP, TOGGLE, ONE, FIND, STATES_OF, FREEZE, THAW };

struct options {
	enum verb verb;
	enum action action; /* of ONE */
	int pid;
	int pids[PIDS_MAX];
	size_t count;
	/* In milliseconds; 0 is no limit. Options not given have the verb's own default. */
	long long lock_ms;
	long long step_ms;
	long long detect_ms;
	struct device_map map;
	bool has_map;
};

/* Parse the command line; false if it is wrong, after printing why to standard error. */
bool options_read(int count, char **words, struct options *options);

void usage(int file);

#endif
