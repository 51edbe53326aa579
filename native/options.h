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
	/* In milliseconds; 0 is no limit. What was not given has the verb's own default. */
	long long lock_ms;
	long long step_ms;
	long long detect_ms;
	struct device_map map;
	bool has_map;
};

/* Read the command line; false when it is wrong, which then has been said on standard error. */
bool options_read(int count, char **words, struct options *options);

void usage(int file);

#endif
